"""Sets of words: how files are read, and what accuracy and recall of a set are."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emo.featstore.errors import UsageError
from emo.train.metrics.openset import Synonyms, read_synonyms, score_sets, sets_page
from emo.train.metrics.words import read_opensets, split_words


def test_words_are_split_as_in_all_of_mers_scorers() -> None:
    assert split_words("['Sad', 'left out']") == ["sad", "left out"]
    assert split_words('["sad" , "calm"]') == split_words("sad,calm") == ["sad", "calm"]
    assert split_words("['don't care']") == ["don", "t care"]  # an apostrophe splits
    assert split_words("[[sad]]") == ["[sad]"]  # one bracket at each end
    assert split_words("[]") == split_words("") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "name,openset\na.mp4,\"['sad', 'calm']\"\nb.mp4,[]\n"),
        ("p.csv", 'name,prediction\na,"sad,calm"\nb,\n'),
        ("p.jsonl", '{"name": "a", "answer": "sad, calm"}\n{"name": "b", "answer": ""}\n'),
    ],
)
def test_every_form_reads_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_opensets(tmp_path / name) == {"a": ["sad", "calm"], "b": []}


def test_an_npz_of_mer2025_is_read_and_one_with_pickles_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", filenames=np.array(["a", "b"]), fileitems=np.array(["['sad', 'calm']", "[]"]))
    assert read_opensets(tmp_path / "good.npz") == {"a": ["sad", "calm"], "b": []}
    np.savez(tmp_path / "bad.npz", filenames=np.array([print], dtype=object), fileitems=np.array(["x"]))
    with pytest.raises(UsageError, match="no npz of the text arrays"):
        read_opensets(tmp_path / "bad.npz")


def test_accuracy_is_over_the_answers_and_recall_over_the_truth() -> None:
    found = score_sets({"a": ["sad", "hurt", "tired"], "b": ["happy"]}, {"a": ["sad", "calm"], "b": []})
    assert found.accuracy == pytest.approx((1 / 2 + 0) / 2)
    assert found.recall == pytest.approx((1 / 3 + 0) / 2)
    assert found.score == pytest.approx((found.accuracy + found.recall) / 2)
    assert (found.n, found.empty_answers, found.words_true, found.words_answered) == (2, 1, 2.0, 1.0)


def test_words_of_one_group_count_as_one_word() -> None:
    truth, said = {"a": ["glad", "joyful"]}, {"a": ["happy", "sad"]}
    assert score_sets(truth, said).recall == 0
    joined = score_sets(truth, said, Synonyms("by hand", {}, [["glad", "happy", "joyful"]]))
    assert (joined.accuracy, joined.recall) == (0.5, 1.0)
    only_b = Synonyms("by hand", {"b": [["glad", "happy"]]}, [])
    assert score_sets(truth, said, only_b).recall == 0  # another clip's groups do not count


def test_every_form_of_synonyms_reads_the_same(tmp_path: Path) -> None:
    groups = [["glad", "happy"], ["sad", "left out"]]
    (tmp_path / "all.json").write_text(json.dumps(groups))
    (tmp_path / "all.txt").write_text("Glad, happy\n\nsad, left out\n")
    for name in ("all.json", "all.txt"):
        assert read_synonyms(tmp_path / name).of_all == groups, name
    (tmp_path / "clips.json").write_text(json.dumps({"a": groups, "b": "[['glad', 'happy'], ['sad', 'left out']]"}))
    buffer = io.BytesIO()
    np.save(buffer, np.array("[['glad', 'happy'], ['sad', 'left out']]"))
    with zipfile.ZipFile(tmp_path / "cache.zip", "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"openset-synonym/{name}.npy", buffer.getvalue())
    for name in ("clips.json", "cache.zip"):
        assert read_synonyms(tmp_path / name).of_clip == {"a": groups, "b": groups}, name


def test_the_wheel_tables_can_group(shared: Path) -> None:
    found = read_synonyms(shared / "data/openvocab/wheel_mapping.npz").standing_for("any clip")
    assert found["abandoned"] == found["abandonment"] == found["abandons"]
    assert found["happy"] != found["sad"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("s.json", '{"a": 3}', "holds no synonym groups"),
        ("s.json", "[[", "holds no synonym groups"),
        ("s.zip", "no zip", "no cache of synonyms"),
        ("s.txt", "", "is empty"),
    ],
)
def test_what_is_no_synonym_file_is_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        read_synonyms(tmp_path / name)


def test_what_was_left_out_is_told() -> None:
    truth = {"a": ["sad"], "b": [], "c": ["calm"]}
    found = score_sets(truth, {"a": ["sad"], "x": ["sad"]}, allow_missing=True)
    assert (found.n, found.empty_truth, found.missing, found.extra) == (1, 1, 1, 1)
    text = " ".join(str(part) for part in sets_page(found, "OV").parts)
    for sentence in (
        "No synonyms were given",
        "1 clip has no word in the truth",
        "1 labelled clip has no prediction and is in no number",
    ):
        assert sentence in text
    with pytest.raises(UsageError, match="have no prediction: c"):
        score_sets(truth, {"a": ["sad"]})
    with pytest.raises(UsageError, match="labels name a, c; the predictions name x"):
        score_sets(truth, {"x": ["sad"]}, allow_missing=True)
    with pytest.raises(UsageError, match="holds no words"):
        score_sets({"a": []}, {"a": ["sad"]})
