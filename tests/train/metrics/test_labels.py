"""Scores equal scikit-learn's, and nothing that could not be used is hidden in them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.featstore.labels import MER2023_LABELS
from emo.train.metrics.compare import compare
from emo.train.metrics.labels import Prediction, parse_nearest, parse_official, read_labels, score
from emo.train.metrics.report import remarks, verdict

WORDS = list(MER2023_LABELS)


def truth_of(*words: str) -> dict[str, Label]:
    return {f"c{i}": Label(word) for i, word in enumerate(words)}


def said(*answers: str) -> dict[str, Prediction]:
    return {f"c{i}": Prediction(answer) for i, answer in enumerate(answers)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("policy", ["official", "strict"])
def test_numbers_equal_scikit_learn(seed: int, policy: str) -> None:
    rng = np.random.default_rng(seed)
    # one class without truth, one without answers, and some answers that are no label
    y = rng.choice(WORDS[:5], size=60).tolist()
    p = rng.choice([*WORDS[1:], "happy.", ""], size=60).tolist()
    result = score(truth_of(*y), said(*p), policy)

    parsed = [word if word in WORDS else ("neutral" if policy == "official" else "unparsed") for word in p]
    labels = sorted({*y, *parsed} - {"unparsed"})
    precision, recall, f1, support = sk.precision_recall_fscore_support(y, parsed, labels=labels, zero_division=0)
    weighted = sk.precision_recall_fscore_support(y, parsed, labels=labels, average="weighted", zero_division=0)
    known = support > 0
    assert result.labels == tuple(labels)
    assert result.accuracy == result.war == pytest.approx(sk.accuracy_score(y, parsed), abs=1e-12)
    assert (result.precision_weighted, result.recall_weighted, result.f1_weighted) == pytest.approx(
        weighted[:3], abs=1e-12
    )
    assert result.f1_macro == pytest.approx(f1.mean(), abs=1e-12)
    assert result.uar == pytest.approx(recall[known].mean(), abs=1e-12)
    for i, label in enumerate(labels):
        row = result.per_class[label]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (precision[i], recall[i], f1[i]), abs=1e-12
        )
        assert row["support"] == support[i]
    assert result.confusion == sk.confusion_matrix(y, parsed, labels=labels).tolist()
    assert result.unparsed == sum(word not in WORDS for word in p)


@pytest.mark.parametrize(("answer", "f1"), [("sad", 1.0), ("happy", 0.0)])
def test_a_class_of_one_clip_has_an_f1(answer: str, f1: float) -> None:
    """Support 1 is support: three clips right, and one clip of its class right or wrong."""
    result = score(truth_of("happy", "happy", "happy", "sad"), said("happy", "happy", "happy", answer), "strict")
    assert result.per_class["sad"]["f1"] == f1
    assert result.per_class["sad"]["support"] == 1
    assert result.per_class["sad"]["recall"] == f1
    happy = 1.0 if answer == "sad" else 2 * 3 / (3 + 4)
    assert result.f1_weighted == pytest.approx((3 * happy + f1) / 4, abs=1e-12)
    assert result.uar == (1 + f1) / 2
    alone = score(truth_of("sad"), said("sad"), "strict")
    assert (alone.f1_weighted, alone.f1_macro, alone.uar, alone.per_class["sad"]["f1"]) == (1.0, 1.0, 1.0, 1.0)


def test_official_takes_the_last_word_exactly() -> None:
    for answer, label in {
        "sad": "sad",
        "the emotion is sad": "sad",
        "sad ": None,
        "Sad": None,
        "sad.": None,
        "sad or happy": "happy",
        "is\nsad": None,
        "": None,
    }.items():
        assert parse_official(answer, WORDS) == label, answer


def test_nearest_maps_near_words_whatever_case_and_punctuation() -> None:
    for answer, label in {
        "Sad.": "sad",
        "I see anger!": "angry",
        "FEAR": "worried",
        "he is surprised, clearly": "surprise",
        "first happy, then sadness": "sad",
        "no idea": None,
        "": None,
    }.items():
        assert parse_nearest(answer, WORDS) == label, answer


def test_nearest_uses_the_words_of_the_label_set_at_hand() -> None:
    meld = ["anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise"]
    words = ("happy", "angry", "disgust", "Fear", "disgusted", "scared")
    assert [parse_nearest(word, meld) for word in words] == ["joy", "anger", "disgust", "fear", "disgust", "fear"]
    dfew = ["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"]
    assert [parse_nearest(word, dfew) for word in ("worried", "contempt", "doubt")] == ["fear", "disgust", "surprise"]
    assert [parse_nearest(word, WORDS) for word in ("fear", "contempt", "doubt")] == ["worried", "angry", "worried"]


def test_official_calls_unparsed_answers_neutral_and_says_how_many() -> None:
    result = score(truth_of("neutral", "happy"), said("dunno", "happy"), "official")
    assert (result.accuracy, result.unparsed, result.unparsed_examples) == (1.0, 1, {"c0": "dunno"})


def test_to_neutral_is_official_by_the_name_that_says_what_it_does() -> None:
    truth, answers = truth_of("neutral", "happy", "sad"), said("dunno", "happy", "worried")
    official, other = (score(truth, answers, policy).to_json() for policy in ("official", "to-neutral"))
    assert official | {"policy": ""} == other | {"policy": ""}


def test_strict_counts_unparsed_answers_as_wrong_and_in_no_column() -> None:
    result = score(truth_of("neutral", "happy"), said("dunno", "happy"), "strict")
    assert (result.accuracy, result.unparsed) == (0.5, 1)
    assert result.confusion == [[1, 0], [0, 0]]
    assert result.per_class["neutral"]["unparsed"] == 1


def test_likelihood_takes_the_most_probable_label() -> None:
    answers = {"c0": Prediction("sad", probabilities={"sad": 0.3, "angry": 0.7})}
    assert score(truth_of("angry"), answers, "likelihood").accuracy == 1.0
    with pytest.raises(UsageError, match="c0 carries none"):
        score(truth_of("angry"), said("sad"), "likelihood")
    with pytest.raises(UsageError, match="probability of cross"):
        score(truth_of("angry"), {"c0": Prediction("", probabilities={"cross": 1.0})}, "likelihood")


@pytest.mark.parametrize("policy", ["official", "strict", "likelihood"])
def test_a_list_without_a_class_of_the_model_does_not_turn_its_answers_into_neutral(policy: str) -> None:
    """calm is a class of the model; the list has no clip of it, and its clip is neutral."""
    chances = {"calm": 0.6, "neutral": 0.3, "fearful": 0.1}
    answers = {"c0": Prediction("calm", probabilities=chances)}
    answers |= {"c1": Prediction("fearful", probabilities={"calm": 0.2, "neutral": 0.2, "fearful": 0.6})}
    found = score(truth_of("neutral", "fearful"), answers, policy)
    assert (found.accuracy, found.unparsed, found.labels) == (0.5, 0, ("calm", "fearful", "neutral"))
    assert found.confusion == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert score(truth_of("neutral", "fearful"), said("calm", "fearful")).unparsed == 1  # free text: nobody says


def test_probabilities_of_another_label_set_are_refused() -> None:
    answers = {"c0": Prediction("joy", probabilities={"joy": 0.6, "sad": 0.4})}
    with pytest.raises(UsageError, match="probability of joy"):
        score(truth_of("happy"), answers, "likelihood")


def test_a_missing_prediction_is_an_error_unless_asked_for() -> None:
    truth = truth_of("sad", "happy", "sad")
    with pytest.raises(UsageError, match=r"1 of 3 labelled clips have no prediction: c2\."):
        score(truth, said("sad", "sad"))
    result = score(truth, said("sad", "sad"), allow_missing=True)
    assert (result.n, result.missing, result.missing_names, result.accuracy) == (2, 1, ["c2"], 0.5)
    with pytest.raises(UsageError, match="None of the 3"):
        score(truth, {"other": Prediction("sad")}, allow_missing=True)


def test_labels_and_predictions_of_other_clips_show_three_of_each() -> None:
    answers = {f"x{i}": Prediction("sad") for i in range(5)}
    with pytest.raises(UsageError) as caught:
        score(truth_of(*["sad"] * 4), answers)
    assert caught.value.message == (
        "None of the 4 labelled clips has a prediction: the labels name c0, c1, c2 and 1 more; the predictions name "
        "x0, x1, x2 and 2 more."
    )
    with pytest.raises(UsageError, match="there are no predictions"):
        score(truth_of("sad"), {})


def test_predictions_for_other_clips_are_ignored_and_counted() -> None:
    result = score(truth_of("sad"), said("sad", "happy", "angry"))
    assert (result.n, result.extra, result.labels) == (1, 2, ("sad",))


def test_clips_without_an_emotion_are_not_scored() -> None:
    truth = truth_of("sad") | {"c1": Label(None, 2.0)}
    assert score(truth, said("sad", "sad")).n == 1
    with pytest.raises(UsageError, match="no emotion label"):
        score({"c1": Label(None, 2.0)}, said("sad"))


def test_labels_outside_the_label_set_are_named() -> None:
    with pytest.raises(UsageError, match="outside the label set: joy"):
        score({"c0": Label("joy")}, said("sad"), labels=WORDS)
    with pytest.raises(UsageError, match="'lenient'"):
        score(truth_of("sad"), said("sad"), "lenient")


def test_valence_error_is_over_the_clips_that_have_one() -> None:
    truth = {"c0": Label("sad", -2.0), "c1": Label("happy", None), "c2": Label("sad", 1.0)}
    answers = {"c0": Prediction("sad", -1.0), "c1": Prediction("happy", 4.0), "c2": Prediction("sad", 1.5)}
    result = score(truth, answers)
    assert (result.n_valence, result.mse) == (2, pytest.approx((1.0 + 0.25) / 2))
    assert result.combined == pytest.approx(result.f1_weighted - 0.25 * result.mse)
    with pytest.raises(UsageError, match="1 of 2 predictions lack a valence: c2"):
        score(truth, answers | {"c2": Prediction("sad")})
    assert score(truth, said("sad", "happy", "sad")).combined is None


def test_a_prediction_without_a_valence_may_be_left_out_of_the_error_and_is_said() -> None:
    truth = {"c0": Label("sad", -2.0), "c1": Label("happy", None), "c2": Label("sad", 1.0)}
    answers = {"c0": Prediction("sad", -1.0), "c1": Prediction("happy", 4.0), "c2": Prediction("sad")}
    with pytest.raises(UsageError) as caught:
        score(truth, answers)
    assert "leave out --require-all" in caught.value.hint
    result = score(truth, answers, allow_missing=True)
    assert (result.n, result.mse, result.n_valence, result.missing_valence) == (3, 1.0, 1, 1)
    assert "combined 0.7500 (valence of 1 of 2 clips)" in verdict(result)
    assert "1 prediction lacks a valence and is not in the MSE." in remarks(result)
    assert compare(truth, answers, answers).accuracy == (1.0, 1.0)


def test_the_json_has_every_promised_key() -> None:
    table = json.loads(json.dumps(score(truth_of("sad", "happy"), said("sad", "sad")).to_json(), allow_nan=False))
    promised = "n accuracy precision_weighted recall_weighted f1_weighted f1_macro uar war per_class labels confusion"
    assert {*promised.split(), "unparsed", "missing", "policy", "mse", "combined"} <= set(table)
    assert (table["n"], table["labels"], table["confusion"]) == (2, ["happy", "sad"], [[0, 1], [0, 1]])


def test_scoring_loads_neither_torch_nor_scikit_learn() -> None:
    heavy = "{'torch', 'sklearn', 'matplotlib'}"
    code = f"import sys, emo.train.metrics.labels, emo.train.metrics.report; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("split", "counts", "valences"),
    [  # neutral, angry, happy, sad, worried, surprise
        ("train", (871, 822, 689, 383, 462, 146), 3373),
        ("test1", (88, 105, 93, 50, 57, 18), 411),
        ("test2", (123, 98, 87, 40, 52, 12), 412),
        ("test3", (166, 183, 169, 257, 45, 14), 0),
    ],
)
def test_real_mer2023_labels(shared: Path, split: str, counts: tuple[int, ...], valences: int) -> None:
    truth = read_labels(shared / f"data/mer2023/label-6way.npz#{split}")
    found = Counter(label.emotion for label in truth.values())
    assert tuple(found[word] for word in WORDS) == counts
    assert sum(label.valence is not None for label in truth.values()) == valences
    perfect = {name: Prediction(str(label.emotion)) for name, label in truth.items()}
    assert score(truth, perfect, "strict").f1_weighted == 1.0


def test_the_real_test3_list_says_the_same_as_the_npz(shared: Path) -> None:
    folder = shared / "data/mer2023"
    assert read_labels(folder / "relative_test3_NCEV.txt") == read_labels(folder / "label-6way.npz", "test3")
