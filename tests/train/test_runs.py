"""Run folders: names are unique, writes are whole, and only finished runs count."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import write_json
from emo.train.runs import latest_run, load_run, new_run


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
