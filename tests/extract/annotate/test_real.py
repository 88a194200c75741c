"""The 16 real clips through the offline describer: killed, resumed, exported, checked. Their tables are made up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from emo.extract.annotate.check import check_page
from emo.extract.annotate.pages import export_page, run_page
from emo.featstore.annotations import annotations_of
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace

TOML = """
[store]
path = "s.emo"
[data.mine]
root = "."
clips = "{clips}"
transcripts = "{texts}"
kind = "folder"
aus = "openface"
[extract]
profile = "tiny"
"""


def test_sixteen_real_clips_killed_and_resumed(shared: Path, tmp_path: Path, openface: Callable[..., str]) -> None:
    data = shared / "data/mer2023"
    clips = sorted((data / "clips").glob("*.mp4"))
    (tmp_path / "openface").mkdir()
    labels = ("happy", "angry", "sad", "surprise")
    for i, clip in enumerate(clips):
        with av.open(str(clip)) as container:
            frames = container.streams.video[0].frames
        (tmp_path / f"openface/{clip.stem}.csv").write_text(openface(labels[i % 4], frames, frames // 2))
    (tmp_path / "emo.toml").write_text(
        TOML.format(clips=data / "clips", texts=data / "transcription-engchi-polish.csv")
    )
    command = [sys.executable, "-m", "emo.cli", "annotate", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "s.emo/emo.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.wait()
    value = run_page(load_workspace(tmp_path), lambda sentence: None).value
    assert (value["made"] + value["there"], value["failed"]) == (16, {})
    store = open_store(tmp_path / "s.emo")
    assert store.verify() == []
    found = annotations_of(store)
    assert all(int(each["peak_index"]) == each["frames"] // 2 for each in found.values())
    assert sum(bool(each["text"]) for each in found.values()) >= 12  # of the 13 clips that have transcripts
    for form, name in (("merr", "fine.json"), ("coarse", "coarse.json")):
        assert export_page(store, form, tmp_path / name).value["kept"] == 16
        checked: dict[str, Any] = check_page(tmp_path / name).value
        assert (checked["faults"], checked["warnings"], checked["good"]) == ({}, {}, 16)
    fine = json.loads((tmp_path / "fine.json").read_text())
    assert {each["pseu_emotion"] for each in fine.values()} == set(labels)
