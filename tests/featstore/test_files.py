"""Files are whole or absent; an error names the file and leaves nothing beside it."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from emo.featstore.clip import hash_media
from emo.featstore.errors import EmoError, WriteError
from emo.featstore.files import digest, replacing, write_atomic, write_json

ROOT = Path(__file__).resolve().parents[2]


def test_a_write_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, "old")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_names_the_file_and_leaves_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(WriteError) as caught:
        write_json(tmp_path / "run.json", {})
    assert caught.value.message == f"{tmp_path / 'run.json'} cannot be written: No space left on device."
    assert caught.value.hint == "Free some space and run again."
    assert isinstance(caught.value, EmoError)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"gone/a.json cannot be written: No such file or directory\.") as caught:
        write_json(tmp_path / "gone" / "a.json", {})
    assert caught.value.hint == f"Make its folder first: mkdir -p {tmp_path / 'gone'}"


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    with replacing(tmp_path / "model") as built:
        (built / "deep").mkdir(parents=True)
        (built / "deep" / "file").write_text("x")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "deep" / "file").read_text() == "x"

    def fail() -> None:
        with replacing(tmp_path / "other") as built:
            built.mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == ["model"]


def test_one_digest_of_bytes_and_of_files(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    expected = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert digest(data) == hash_media(tmp_path / "file").media == expected


def test_nobody_else_renames_a_temporary_file() -> None:
    """Downloads keep their part, checkpoints and the store have named steps; all else uses `replacing`."""
    own = {"featstore/files.py", "train/llm/resume.py", "featstore/sources/hub.py"}
    for room in ("featstore", "extract", "train"):
        for path in (ROOT / room).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name in own or name.startswith("featstore/storage/"):
                continue
            calls = [
                ast.unparse(each.func) for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)
            ]
            assert not {"os.replace", "os.rename", "os.fsync"} & set(calls), f"{name}: use emo.featstore.files"


def test_half_a_character_becomes_its_escape_which_json_reads_back(tmp_path: Path) -> None:
    value = {"path": "caf\udce9.mp4", "name": "\ud800"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_bytes().decode("utf-8")) == value
