"""Size and time of many files, asked for by several processes: the same answers as one by one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from emo.featstore import looking as module
from emo.featstore.address import Url
from emo.featstore.looking import GONE, looking


def looked(files: list[Path | Url]) -> list[list[int]]:
    with looking(files) as (texts, answer):
        found = answer()
    assert texts == list(map(str, files))
    assert found.dtype == np.int64
    return [list(map(int, each)) for each in found]


@pytest.fixture
def files(tmp_path: Path) -> list[Path | Url]:
    odd = [
        tmp_path / f"{i}-{name}.mp4" for i, name in enumerate(["面", "a b", "new\nline", os.fsdecode(b"\xff\xfe")] * 5)
    ]
    for i, path in enumerate(odd):
        path.write_bytes(b"x" * i)
        os.utime(path, ns=(0, 1_700_000_000_123_456_789 + i))
    return [*odd, tmp_path / "gone.mp4", tmp_path / "0-面.mp4" / "below a file.mp4"]


@pytest.fixture
def expected(files: list[Path | Url]) -> list[list[int]]:
    return [[i, 1_700_000_000_123_456_789 + i] for i in range(20)] + [[GONE, GONE]] * 2


def test_processes_say_what_one_by_one_says(
    files: list[Path | Url], expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looked(files) == expected
    monkeypatch.setattr(module, "MANY", 1)
    monkeypatch.setattr(module, "_here", None)  # nothing is asked for in this process
    assert looked(files) == expected
    assert looked(files[:1]) == expected[:1]


@pytest.mark.parametrize(
    "python",
    [
        "",
        "/nowhere/python",
        "/bin/false",
        "#!/bin/sh\nprintf 1234567",
        "#!/bin/sh\nprintf 12345678123456781234567812345678",
    ],
    ids=["unknown", "gone", "fails", "odd answer", "short answer"],
)
def test_where_no_process_answers_rightly_this_one_looks(
    files: list[Path | Url], expected: list[list[int]], python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if python.startswith("#!"):
        (tmp_path / "python").write_text(python + "\n")
        (tmp_path / "python").chmod(0o755)
        python = str(tmp_path / "python")
    monkeypatch.setattr(module, "MANY", 1)
    monkeypatch.setattr(sys, "executable", python)
    assert looked(files) == expected


def test_of_a_url_is_known_what_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 1)
    listed, other = Url("s3://bucket/a.mp4"), Url("s3://bucket/b.mp4")
    listed.seen = (7, 8, "tag")
    assert looked([listed, other]) == [[7, 8], [GONE, GONE]]


def test_nothing_is_asked_of_no_file() -> None:
    assert looked([]) == []
