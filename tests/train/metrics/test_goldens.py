"""Golden values of every scorer: published matrices, MERTools' own examples, and the reference code's outputs."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Label
from emo.train.answers import Prediction, read_predictions
from emo.train.metrics.labels import combined_metric, read_labels, score, weighted_f1
from emo.train.metrics.openset import read_synonyms, score_sets
from emo.train.metrics.wheel import load_wheels, score_wheels
from emo.train.metrics.words import read_opensets

MEASURES = ("accuracy", "precision_weighted", "f1_weighted", "f1_macro", "uar")
SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "ledger.py"))
LABELS, POSTED = SCRIPT["LABELS"], SCRIPT["MATRICES"]
MATRICES = {  # posted in issues 93, 93 and 69 of Emotion-LLaMA; MER2023-SEMI, 834 clips
    "stage 1 on MERR coarse": (
        POSTED["matrix-merr"],
        (0.8225419664, 0.8318784851, 0.8176724093, 0.6892422202, 0.6736613039),
    ),
    "stage 1 on pseudo labels": (
        POSTED["matrix-pseudo"],
        (0.8932853717, 0.8918073472, 0.8912298847, 0.7947660511, 0.7792331028),
    ),
    "a user's route": (POSTED["matrix-user"], (0.7110311751, 0.7735778710, 0.6367387343, 0.5420430814, 0.5522117569)),
}
DIGITS_10 = 0.5e-10  # half of the last digit that is given
DIGITS_8 = 0.5e-8


def matrix_scores(text: str) -> list[float]:
    truth, said = {}, {}
    for true, row in zip(LABELS, text.split("/"), strict=True):
        for answer, count in zip(LABELS, row.split(), strict=True):
            for i in range(int(count)):
                truth[f"{true} {answer} {i}"], said[f"{true} {answer} {i}"] = Label(true), Prediction(answer)
    found = score(truth, said)
    assert found.n == 834
    return [getattr(found, name) for name in MEASURES]


def sets(shared: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    folder = shared / "data" / "openvocab"
    return read_opensets(folder / "check-openset.csv"), read_opensets(folder / "predict-openset.csv")


def openset(shared: Path) -> list[float]:
    cache = shared / "data" / "openvocab" / "openset-synonym.zip"
    if not cache.exists():
        pytest.skip(f"{cache} is not there: MERTools ships it as MER2024/ov_store/openset-synonym.zip")
    found = score_sets(*sets(shared), read_synonyms(cache))
    assert (found.n, found.empty_truth) == (332, 0)
    return [found.accuracy, found.recall, found.score]


def wheels(shared: Path, tables: str, part: str) -> list[float]:
    path = shared / "data" / "openvocab" / tables
    if not path.exists():
        pytest.skip(f"{path} is not there: MERTools ships it in MER2025/MER2025_Track23")
    found = score_wheels(*sets(shared), load_wheels(path))
    assert (found.forms.n, found.synonyms.n) == (331, 331)
    assert [each.n for each in found.wheels["level1"].values()] == [327, 328, 324, 327, 316]
    if part == "words":
        return [found.forms.f, found.synonyms.f]
    if part == "wheels":
        return [each.f for each in found.wheels["level1"].values()]
    assert (found.f, found.precision, found.recall) == tuple(found.levels["level1"].values())
    return list(found.levels[part].values())


def case6(goldens: Path, name: str) -> tuple[list[float], list[float]]:
    folder = goldens / "case6_attention_head"
    if not folder.is_dir():
        pytest.skip(f"{goldens} has no case6_attention_head")
    classes = len(json.loads((folder / "case.json").read_text())["emo_index"])
    got, want = [], []
    for each in json.loads((folder / "metrics.json").read_text()):
        truth, said = np.array(each["emo_labels"]), np.array(each["emo_preds"])
        f1 = weighted_f1(truth, said, classes)
        values = {
            "weighted_f1": f1,
            "accuracy": float((truth == said).mean()),
            "overall": combined_metric(f1, each["val_mse"]),
        }
        got.append(values[name])
        want.append(each[name])
    return got, want


def case7(goldens: Path) -> tuple[list[float], list[float]]:
    folder = goldens / "case7_published"
    if not folder.is_dir():
        pytest.skip(f"{goldens} has no case7_published")
    case = json.loads((folder / "case.json").read_text())
    found = score(read_labels(next(folder.glob("*.txt"))), read_predictions(folder / "raw_answers.json"))
    names = {
        "Accuracy": "accuracy",
        "Precision": "precision_weighted",
        "Recall": "recall_weighted",
        "F1": "f1_weighted",
    }
    return [getattr(found, names[key]) for key in case["metrics"]], list(case["metrics"].values())


# name -> (what emo gets, what is right, how far they may be apart); what is right may come with what emo gets
GOLDENS: dict[str, tuple[Callable[[Path, Path], Any], Any, float]] = {
    **{
        name: (lambda shared, goldens, text=text: matrix_scores(text), want, DIGITS_10)
        for name, (text, want) in MATRICES.items()
    },
    "MER2024-OV": (
        lambda shared, goldens: openset(shared),
        (0.5817771084337349, 0.4977911646586345, 0.5397841365461847),
        1.2e-16,  # the first is 0.58177710843373494; of the two nearest floats, the order of summing picks one
    ),
    "wheels 2026, words": (
        lambda shared, goldens: wheels(shared, "wheel_mapping.npz", "words"),
        (0.2912038895, 0.3280487459),
        DIGITS_10,
    ),
    "wheels 2026, level 1 each": (
        lambda shared, goldens: wheels(shared, "wheel_mapping.npz", "wheels"),
        (0.5639973406, 0.5772838040, 0.5545092206, 0.5482485928, 0.5290000252),
        DIGITS_10,
    ),
    "wheels 2026, level 1": (
        lambda shared, goldens: wheels(shared, "wheel_mapping.npz", "level1"),
        (0.55460780, 0.56052395, 0.54918725),
        DIGITS_8,
    ),
    "wheels 2026, level 2": (
        lambda shared, goldens: wheels(shared, "wheel_mapping.npz", "level2"),
        (0.42458260, 0.44802633, 0.40476384),
        DIGITS_8,
    ),
    "wheels 2025, words": (
        lambda shared, goldens: wheels(shared, "emotion_wheel", "words"),
        (0.2912038895, 0.3280487459),
        DIGITS_10,
    ),
    "wheels 2025, level 1 each": (
        lambda shared, goldens: wheels(shared, "emotion_wheel", "wheels"),
        (0.5639973406, 0.5751191580, 0.5539711695, 0.5469655914, 0.5284762753),
        DIGITS_10,
    ),
    "wheels 2025, level 1": (
        lambda shared, goldens: wheels(shared, "emotion_wheel", "level1"),
        (0.55370591, 0.55939521, 0.54851559),
        DIGITS_8,
    ),
    "wheels 2025, level 2": (
        lambda shared, goldens: wheels(shared, "emotion_wheel", "level2"),
        (0.42448635, 0.44742076, 0.40504023),
        DIGITS_8,
    ),
    "case 6, weighted F1": (lambda shared, goldens: case6(goldens, "weighted_f1"), None, 1e-9),
    "case 6, accuracy": (lambda shared, goldens: case6(goldens, "accuracy"), None, 1e-9),
    "case 6, combined": (lambda shared, goldens: case6(goldens, "overall"), None, 1e-9),
    "case 7, the published result": (lambda shared, goldens: case7(goldens), None, 1e-9),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(request: pytest.FixtureRequest, name: str) -> None:
    get, want, tolerance = GOLDENS[name]
    shared = request.getfixturevalue("shared") if name.startswith(("MER2024", "wheels")) else Path()
    goldens = request.getfixturevalue("goldens") if name.startswith("case") else Path()
    got = get(shared, goldens)
    if want is None:
        got, want = got
    assert len(got) == len(want) > 0
    for value, right in zip(got, want, strict=True):
        assert abs(value - right) <= tolerance, f"{value!r} instead of {right!r}"
