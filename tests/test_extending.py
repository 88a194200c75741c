"""docs/extending.md, followed literally: an encoder from one file and one line, nothing else changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emo.extract.demo import EMOTIONS, generate_clip
from emo.featstore.storage.store import open_store

Emo = Callable[..., subprocess.CompletedProcess[str]]
PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def block(kind: str) -> str:
    """The one block of code of a kind on the page."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A workspace with six drawn clips, and a folder of installed packages that holds the page's one."""
    root = tmp_path_factory.mktemp("extending")
    packages, work = root / "packages", root / "work"
    (packages / "loudness-1.0.dist-info").mkdir(parents=True)
    (packages / "loudness.py").write_text(block("python"))
    line = block("toml").splitlines()[1].replace('"', "")  # a wheel's entry points are written without quotes
    (packages / "loudness-1.0.dist-info" / "entry_points.txt").write_text(f"[emo.encoders]\n{line}\n")
    (packages / "loudness-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: loudness\nVersion: 1.0\n"
    )
    (work / "data").mkdir(parents=True)
    (work / "emo.toml").write_text('[data.folder]\nroot = "data"\n[extract]\nprofile = "tiny"\n')
    rows = []
    for i in range(12):
        generate_clip(work / "data" / f"clip_{i}.mp4", EMOTIONS[i % 3], seed=i, duration_s=0.4)
        rows.append(f"clip_{i},{EMOTIONS[i % 3]}")
    (work / "data" / "labels.csv").write_text("\n".join(["name,label", *rows]) + "\n")
    return work, {"PYTHONPATH": f"{packages}:{os.environ.get('PYTHONPATH', '')}"}


def test_the_commands_of_the_page_work(space: tuple[Path, dict[str, str]], emo: Emo) -> None:
    work, env = space
    for line in block("sh").splitlines():
        result = emo(*line.split()[1:], cwd=work, env=env)
        assert result.returncode == 0, f"{line}: {result.stderr}"
    store = open_store(work / "features.emo")
    assert {feature.spec.name for feature in store.features()} == {"loudness_UTT", "loudness_FRA"}
    utt, frames = store.get("loudness_UTT", "clip_3"), store.get("loudness_FRA", "clip_3")
    assert utt.array.shape == (1, 2)
    assert frames.hop_s == pytest.approx(0.02)
    assert utt.array[0] == pytest.approx(
        frames.array.astype(np.float64).mean(0), rel=1e-3
    )  # frames are kept in float16
    assert (frames.array[:, 1] >= frames.array[:, 0]).all()


def test_its_names_are_known_everywhere(space: tuple[Path, dict[str, str]], emo: Emo) -> None:
    work, env = space
    doctor = emo("doctor", "--json", cwd=work, env=env)
    assert doctor.returncode == 0, doctor.stdout
    there = emo("extract", "--encoders", "loudness", "--dry-run", "--json", cwd=work, env=env)
    assert json.loads(there.stdout)["listed"] == 12
    wrong = emo("extract", "--encoders", "loudnes", cwd=work, env=env)
    assert wrong.returncode == 2
    assert "loudness" in wrong.stderr
    gone = emo("extract", "--encoders", "loudness", cwd=work)
    assert gone.returncode == 2
    assert "There is no encoder 'loudness'" in gone.stderr
