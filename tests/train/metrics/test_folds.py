"""Fold protocols: the mean of folds is not the score of all clips; how answers outside DFEW's seven count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.featstore.labels import DFEW_LABELS
from emo.train.answers import Prediction
from emo.train.metrics.folds import folds_page, read_folds, score_folds, write_folds

FOLDS = {  # 1: one of two right; 2: four of four right
    "1": {"1": Label("happy"), "2": Label("sad")},
    "2": {str(i): Label("happy") for i in range(3, 7)},
}
SAID = {"00001": Prediction("happy"), "2": Prediction("happy"), **{str(i): Prediction("happy") for i in range(3, 7)}}


def dfew(root: Path) -> Path:
    folder = root / "EmoLabel_DataSplit" / "test(single-labeled)"
    folder.mkdir(parents=True)
    for fold in range(1, 6):
        rows = "".join(f"{7 * fold + i},{i + 1}\n" for i in range(7))
        (folder / f"set_{fold}.csv").write_text(f"video_name,label\n{rows}")
    return folder


def test_the_mean_of_folds_is_not_the_score_of_all_clips() -> None:
    found = score_folds("dfew", FOLDS, SAID, DFEW_LABELS)
    assert [each.war for each in found.folds.values()] == [0.5, 1.0]
    assert (found.mean["war"], found.mean["uar"]) == (0.75, 0.75)
    assert found.spread == pytest.approx({"war": 0.5**1.5, "uar": 0.5**1.5, "f1_weighted": found.spread["f1_weighted"]})
    assert found.pooled.war == pytest.approx(5 / 6)
    assert found.pooled.uar == pytest.approx((1 + 0) / 2)


def test_one_fold_alone() -> None:
    found = score_folds("dfew", FOLDS, SAID, DFEW_LABELS, fold="1")
    assert (list(found.folds), found.spread, found.pooled.n) == (["1"], None, 2)
    page = folds_page(found, "DFEW")
    assert page.verdict == "UAR 0.5000, WAR 0.5000 (fold 1, 2 clips); dfew, policy official."
    with pytest.raises(UsageError, match="no fold '6'"):
        score_folds("dfew", FOLDS, SAID, DFEW_LABELS, fold="6")


@pytest.mark.parametrize(
    ("policy", "right"),
    [
        ("strict", []),
        ("to-neutral", ["neutral"]),
        ("official", ["neutral"]),
        ("nearest", ["fear", "disgust", "surprise"]),
    ],
)
def test_answers_outside_the_seven_follow_the_policy(policy: str, right: list[str]) -> None:
    """worried, contempt and doubt, asked of clips that are neutral, fear, disgust and surprise."""
    truth = {word: Label(word) for word in ("neutral", "fear", "disgust", "surprise")}
    answers = dict(zip(truth, ("worried", "worried", "contempt", "doubt"), strict=True))
    found = score_folds("dfew", {"1": truth}, {n: Prediction(a) for n, a in answers.items()}, DFEW_LABELS, policy)
    hits = [label for label, row in found.pooled.per_class.items() if row["support"] and row["recall"] == 1]
    assert sorted(hits) == sorted(right)
    assert f"policy {policy}" in folds_page(found, "DFEW").verdict


def test_likelihood_chooses_among_the_seven_whatever_the_model_knows() -> None:
    chances = {"worried": 0.6, "fear": 0.3, "sad": 0.1}
    said = {"1": Prediction("worried", probabilities=chances)}
    found = score_folds("dfew", {"1": {"1": Label("fear")}}, said, DFEW_LABELS, "likelihood")
    assert found.pooled.accuracy == 1.0
    assert "No answer is happy or sad" in " ".join(map(str, folds_page(found, "DFEW").parts))


def test_dfew_is_found_from_its_root_its_folder_or_one_file(tmp_path: Path) -> None:
    folder = dfew(tmp_path)
    folds, labels = read_folds("dfew", tmp_path)
    assert labels == DFEW_LABELS
    assert {fold: len(truth) for fold, truth in folds.items()} == dict.fromkeys("12345", 7)
    assert [label.emotion for label in folds["1"].values()] == list(DFEW_LABELS)
    assert read_folds("dfew", folder)[0] == folds
    assert read_folds("dfew", folder / "set_2.csv")[0] == {"2": folds["2"]}
    (folder / "set_2.csv").write_text("video_name,label\n1,8\n")
    with pytest.raises(UsageError, match=r"set_2.csv line 2: label '8' is not one of DFEW's 1 to 7"):
        read_folds("dfew", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no set_1\.csv"):
        read_folds("dfew", tmp_path / "empty")


def test_iemocap_is_scored_by_session(shared: Path) -> None:
    folds, labels = read_folds("iemocap", shared / "data/iemocap/label_4way.npz")
    assert labels == ("happy", "sad", "neutral", "angry")
    assert [len(truth) for truth in folds.values()] == [1085, 1023, 1151, 1031, 1241]


def test_missing_folds_and_clips_are_named() -> None:
    with pytest.raises(UsageError, match="Fold 2 has no prediction at all; folds 1 have some"):
        score_folds("dfew", FOLDS, {"1": Prediction("sad"), "2": Prediction("sad")}, DFEW_LABELS, allow_missing=True)
    with pytest.raises(UsageError, match="have no prediction: 2"):
        score_folds("dfew", FOLDS, {name: each for name, each in SAID.items() if name != "2"}, DFEW_LABELS)
    with pytest.raises(UsageError, match="labels name 1, 2, 3 and 3 more; the predictions name a"):
        score_folds("dfew", FOLDS, {"a": Prediction("sad")}, DFEW_LABELS)
    with pytest.raises(UsageError, match="name a clip twice"):
        score_folds("dfew", FOLDS, {**SAID, "1": Prediction("sad")}, DFEW_LABELS)
    with pytest.raises(UsageError, match="Unknown protocol 'loso'"):
        read_folds("loso", Path("x"))


def test_the_report_holds_every_fold_and_the_pictures_of_all(tmp_path: Path) -> None:
    files = write_folds(score_folds("dfew", FOLDS, SAID, DFEW_LABELS), tmp_path, "DFEW")
    forms = {f"{name}.{suffix}" for name in ("confusion", "classes") for suffix in ("png", "svg", "pdf")}
    assert {each.name for each in files} == {"metrics.json", "report.md", "report.html", *forms}
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert (set(numbers["folds"]), numbers["mean"]["war"], numbers["n"]) == ({"1", "2"}, 0.75, 6)
    assert "| mean of folds |  | 0.7500 |" in (tmp_path / "report.md").read_text()
