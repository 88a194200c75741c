"""Prediction files: what is accepted, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.train.answers import Prediction, read_predictions


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "name,prediction\na,sad\nb,so happy\n"),
        ("p.csv", "\ufeffName, Answer\r\na, sad\r\n\r\nb, so happy\r\n"),
        ("p.csv", "name,discrete,valence\na,sad,\nb,so happy,\n"),
        ("p.csv", 'note,name,emotion\n"x, y",a,sad\n,b,so happy\n'),
        ("p.jsonl", '{"name": "a", "answer": "sad"}\n\n{"name": "b", "answer": "so happy"}\n'),
        ("p.json", '{"a": "sad", "b": "so happy"}'),
    ],
)
def test_every_form_reads_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_predictions(tmp_path / name) == {"a": Prediction("sad"), "b": Prediction("so happy")}


def test_numbers_come_along(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("name,discrete,valence\na,sad,-10\n")
    assert read_predictions(tmp_path / "p.csv")["a"].valence == -10.0  # only in a truth does -10 mean "none"
    (tmp_path / "p.jsonl").write_text('{"name": "a", "answer": "x", "valence": 1, "probabilities": {"sad": 0.5}}\n')
    assert read_predictions(tmp_path / "p.jsonl")["a"] == Prediction("x", 1.0, {"sad": 0.5})


def test_the_same_row_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"name": "a", "answer": "sad"}\n' * 2)
    assert read_predictions(tmp_path / "p.jsonl") == {"a": Prediction("sad")}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.csv", "name,guess\na,sad\n", "no column prediction or answer"),
        ("p.csv", "name,prediction,valence\na,sad,high\n", "line 2: valence 'high' is not a number"),
        ("p.csv", "name,prediction\na,sad\na,happy\n", "names a twice, in lines 2 and 3"),
        ("p.csv", "name,prediction\n", "no rows"),
        ("p.jsonl", '{"name": "a", "answer": "sad"}\n{"name": "b"\n', "line 2 is not JSON"),
        ("p.jsonl", '{"answer": "sad"}\n', "line 1 has no name"),
        ("p.jsonl", '{"name": "a", "answer": null}\n', "line 1: the answer None is not text"),
        ("p.jsonl", '{"name": "a", "answer": "x", "probabilities": {"sad": "NaN"}}\n', "probability of sad 'NaN'"),
        (
            "p.jsonl",
            '{"name": "a", "answer": "sad"}\n{"name": "a", "answer": "happy"}\n',
            "line 2 gives clip a another",
        ),
        ("p.json", '{"a": "sad", "a": "happy"}', "gives clip a another answer"),
        ("p.json", '["sad"]', "not a table"),
        ("p.json", '{"a": {"answer": "sad"}}', "is not text"),
        ("p.json", "{}", "holds no predictions"),
        ("p.json", "", "is empty"),
        ("p.txt", "a sad\n", "Predictions cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        read_predictions(tmp_path / name)


def test_an_absent_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_predictions(tmp_path / "p.csv")
