"""Run folders: names are unique, writes are whole, and only finished runs count."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import digest, write_json
from emo.featstore.workspace import Workspace
from emo.train import runs
from emo.train.run_pages import verify_page
from emo.train.runs import check, check_listed, latest_run, load_run, new_run, seal, write_sealed


def test_default_names_are_unique_and_carry_head_and_time(tmp_path: Path) -> None:
    names = [new_run(tmp_path, prefix="attention").name for _ in range(4)]
    assert len(set(names)) == 4
    assert all(name.startswith("attention-20") for name in names)


def test_a_given_name_is_used_once(tmp_path: Path) -> None:
    assert new_run(tmp_path, "mine") == tmp_path / "runs" / "mine"
    with pytest.raises(UsageError, match="'mine' exists"):
        new_run(tmp_path, "mine")
    for name in ("../out", "a/b", "", "..", "a\0", "a\n", "\udc80", "\ud800", "x" * 300):
        with pytest.raises(UsageError, match="plain folder name"):
            new_run(tmp_path, name)


def test_the_newest_finished_run_is_found(tmp_path: Path) -> None:
    for name, status, at in [("a", "finished", "2026-01-02"), ("b", "finished", "2026-01-01"), ("c", "running", "")]:
        write_json(new_run(tmp_path, name) / "run.json", {"status": status, "finished_at": at})
    new_run(tmp_path, "empty")
    assert latest_run(tmp_path).name == "a"
    assert not load_run(tmp_path / "runs" / "c").finished


def test_without_a_finished_run_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no finished run\. .*emo train"):
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


class Killed(BaseException):
    """The process ends here."""


def kill_at(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(now: str) -> None:
        if now == step:
            raise Killed

    monkeypatch.setattr(runs, "reached", reached)


@pytest.mark.parametrize("step", ["announced", "written"])
@pytest.mark.parametrize("name", ["b.bin", "new.jsonl"])
def test_killed_while_a_sealed_file_changes_it_is_whole_before_and_after(
    sealed: Path, step: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (sealed / name).read_bytes() if (sealed / name).exists() else None
    with monkeypatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(Killed):
            write_sealed(sealed / name, "written anew")
    after = (sealed / name).read_bytes() if (sealed / name).exists() else None
    assert after == (before if step == "announced" else b"written anew")
    assert check_listed(sealed, name) is None
    assert check(sealed) is None
    write_sealed(sealed / name, "once more")
    assert json.loads((sealed / "digests.json").read_text())[name] == digest(b"once more")
    (sealed / name).write_bytes(b"damaged")
    with pytest.raises(TrainError, match=name):
        check(sealed, name)


def test_a_file_written_anew_leaves_the_others_as_they_were(sealed: Path) -> None:
    (sealed / "a.bin").write_bytes(b"damaged")
    write_sealed(sealed / "b.bin", "written anew")
    assert check(sealed, "b.bin") is None
    with pytest.raises(TrainError, match=r"a\.bin"):
        check(sealed)


def test_a_pipe_in_place_of_a_file_is_seen_and_not_waited_for(sealed: Path) -> None:
    (sealed / "a.bin").unlink()
    os.mkfifo(sealed / "a.bin")
    with pytest.raises(TrainError, match=r"a\.bin is not what was written"):
        check(sealed)


@pytest.mark.parametrize("left", ["nothing", "loop"])
def test_a_run_without_its_first_file_is_damaged_and_not_overlooked(tmp_path: Path, left: str) -> None:
    folder = new_run(tmp_path, "mine")
    write_json(folder / "run.json", {"status": "finished"})
    seal(folder)
    (folder / "run.json").unlink()
    if left == "loop":
        (folder / "run.json").symlink_to("run.json")
    workspace = Workspace(tmp_path, tmp_path / "f.emo")
    for page in (verify_page(workspace), verify_page(workspace, "mine")):
        assert (page.exit_code, page.value[0]["state"]) == (6, "damaged")
        assert "run.json" in page.value[0]["problems"][0]


def test_a_folder_of_an_earlier_version_is_read_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    assert "no digests" in (check(tmp_path, "a.bin") or "")


@pytest.mark.parametrize("text", ["{", "[]", '{"a.bin": 7}'])
def test_damaged_digests_are_said(sealed: Path, text: str) -> None:
    (sealed / "digests.json").write_text(text)
    with pytest.raises(TrainError, match=r"digests\.json"):
        check(sealed)
