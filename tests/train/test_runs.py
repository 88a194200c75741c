"""Run folders: names are unique, writes are whole, and only finished runs count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import write_json
from emo.train.runs import check, latest_run, load_run, new_run, seal


def test_default_names_are_unique_and_carry_head_and_time(tmp_path: Path) -> None:
    names = [new_run(tmp_path, prefix="attention").name for _ in range(4)]
    assert len(set(names)) == 4
    assert all(name.startswith("attention-20") for name in names)


def test_a_given_name_is_used_once(tmp_path: Path) -> None:
    assert new_run(tmp_path, "mine") == tmp_path / "runs" / "mine"
    with pytest.raises(UsageError, match="'mine' exists"):
        new_run(tmp_path, "mine")
    for name in ("../out", "a/b", "", ".."):
        with pytest.raises(UsageError, match="plain folder name"):
            new_run(tmp_path, name)


def test_the_newest_finished_run_is_found(tmp_path: Path) -> None:
    for name, status, at in [("a", "finished", "2026-01-02"), ("b", "finished", "2026-01-01"), ("c", "running", "")]:
        write_json(new_run(tmp_path, name) / "run.json", {"status": status, "finished_at": at})
    new_run(tmp_path, "empty")
    assert latest_run(tmp_path).name == "a"
    assert not load_run(tmp_path / "runs" / "c").finished


def test_without_a_finished_run_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no finished run \(0 unfinished\).*emo train"):
        latest_run(tmp_path)
    write_json(new_run(tmp_path, "c") / "run.json", {"status": "running"})
    with pytest.raises(UsageError, match="1 unfinished"):
        latest_run(tmp_path)


def test_no_run_and_a_damaged_run_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folder"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"status"')
    with pytest.raises(TrainError, match="damaged"):
        load_run(tmp_path)


# ---- digests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.bin").write_bytes(b"c")
    seal(tmp_path)
    return tmp_path


def test_a_sealed_folder_is_what_was_written(sealed: Path) -> None:
    assert check(sealed) is None
    assert set(json.loads((sealed / "digests.json").read_text())) == {"a.bin", "b.bin"}


def test_one_flipped_bit_is_seen_where_the_file_is_read(sealed: Path) -> None:
    data = bytearray((sealed / "a.bin").read_bytes())
    data[7] ^= 1
    (sealed / "a.bin").write_bytes(data)
    assert check(sealed, "b.bin") is None
    for names in ((), ("a.bin",)):
        with pytest.raises(TrainError, match=r"a\.bin is not what was written"):
            check(sealed, *names)


def test_a_file_that_is_gone_or_was_put_there_is_seen(sealed: Path) -> None:
    (sealed / "b.bin").unlink()
    (sealed / "strange.bin").write_bytes(b"x")
    with pytest.raises(TrainError, match=r"b\.bin, strange\.bin are not what was written"):
        check(sealed, "a.bin", "b.bin", "strange.bin")


def test_a_file_sealed_anew_leaves_the_others_as_they_were(sealed: Path) -> None:
    (sealed / "a.bin").write_bytes(b"damaged")
    (sealed / "b.bin").write_bytes(b"written anew")
    seal(sealed, "b.bin")
    assert check(sealed, "b.bin") is None
    with pytest.raises(TrainError, match=r"a\.bin"):
        check(sealed)


def test_a_folder_of_an_earlier_version_is_read_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    assert "no digests" in (check(tmp_path, "a.bin") or "")


@pytest.mark.parametrize("text", ["{", "[]", '{"a.bin": 7}'])
def test_damaged_digests_are_said(sealed: Path, text: str) -> None:
    (sealed / "digests.json").write_text(text)
    with pytest.raises(TrainError, match=r"digests\.json"):
        check(sealed)
