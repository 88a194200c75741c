"""Prediction files: what is accepted, and what is refused with its line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from emo.featstore import reading
from emo.featstore.errors import UsageError
from emo.train.answers import (
    FEW,
    Prediction,
    held_out_by,
    own_predictions,
    prediction_rows,
    read_answers,
    read_predictions,
)
from emo.train.pages import answers_csv


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


def test_what_predict_writes_comes_along_and_a_clip_without_an_answer_stays_without(tmp_path: Path) -> None:
    answers = [
        {"name": "a", "answer": "Sad", "valence": -0.5, "probabilities": {"Sad": 0.75, "happy": 0.25}},
        {"name": "b", "answer": None, "why": "no HL-UTT"},
        {"name": "c", "answer": ""},
    ]
    (tmp_path / "p.csv").write_text(answers_csv(answers))
    found = read_answers(tmp_path / "p.csv")
    assert found.said == {"a": Prediction("Sad", -0.5, {"Sad": 0.75, "happy": 0.25}), "c": Prediction("")}
    assert found.told[1] == "1 row has no answer in p.csv, with the reason beside it: left out."
    (tmp_path / "p.csv").write_text("name,answer,p_sad,p_happy\na,sad,much,0.5\n")
    with pytest.raises(UsageError, match="line 2: probability of sad 'much' is not a number"):
        read_answers(tmp_path / "p.csv")


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


def test_rows_of_a_run_keep_all_that_they_hold_and_are_parsed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"name": "a", "answer": "sad", "asked": "1f", "probabilities": {"Sad": 1.0}}
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(row) + "\n\n")
    read = []
    real = reading.parse_json
    monkeypatch.setattr(reading, "parse_json", lambda text, *more, **how: read.append(text) or real(text, *more, **how))
    assert prediction_rows(path) == {"a": row}
    assert len(read) == 1
    for odd in ('["a"]', '{"names": "a", "answer": "x"}', '{"name": "a", "prediction": "x"}'):
        path.write_text(json.dumps(row) + "\n" + odd)
        with pytest.raises(UsageError, match=r"predictions\.jsonl line 2"):
            prediction_rows(path)
    path.write_text(json.dumps(row | {"probabilities": {"sad": "much"}}))
    with pytest.raises(UsageError, match="'much' is not a number"):
        prediction_rows(path)


def test_an_absent_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_predictions(tmp_path / "p.csv")


# ---- which column is read --------------------------------------------------------------------------------------------

NAMES = ("prediction", "pred", "predict", "answer", "response", "output", "predicted_label")


@pytest.mark.parametrize("truth", ["label", "emotion", "discrete"])
@pytest.mark.parametrize("column", NAMES)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_truth_beside_the_answer_is_never_read(tmp_path: Path, suffix: str, column: str, truth: str) -> None:
    path = tmp_path / f"p{suffix}"
    rows = [{"name": name, truth: "happy", column: "sad", "valence": 1.0} for name in "ab"]
    if suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in (rows[0], *(row.values() for row in rows))) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_answers(path)
    assert found.said == {name: Prediction("sad") for name in "ab"}  # the valence may be the truth's as well
    assert found.told == (
        f"Answers were read from column {column} of {path.name}; not read, because it may hold the truth: {truth}, "
        "valence.",
    )


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("name,label,guess", "a,happy,sad"),
        ("name,pred,answer", "a,happy,sad"),
        ("name,label,emotion", "a,happy,sad"),
        ("name,emotion,model_7", "a,happy,sad"),
    ],
)
def test_two_candidates_are_refused_until_one_is_named(tmp_path: Path, header: str, row: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\n{row}\n")
    last = header.split(",")[-1]
    with pytest.raises(UsageError, match=f"one of them may be the truth. Name the column: --column {last}"):
        read_answers(path)
    found = read_answers(path, last.upper())
    assert (found.said["a"].answer, f"column {last} " in found.told[0]) == ("sad", True)
    with pytest.raises(UsageError, match="does not have one column nothing"):
        read_answers(path, "nothing")


def test_a_runs_own_file_keeps_its_valence_beside_the_truth(tmp_path: Path) -> None:
    row = {"name": "a", "answer": "sad", "valence": 0.5, "truth": "happy", "truth_valence": 2.0, "folds": [1]}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    assert read_predictions(tmp_path / "p.jsonl") == {"a": Prediction("sad", 0.5)}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.jsonl", '{"name": "a", "answer": "x", "valence": %s}' % ("9" * 5000), "4,300 digits"),
        ("p.jsonl", '{"name": "a", "answer": "x", "valence": %s}' % ("9" * 400), "valence of too many digits"),
        ("p.jsonl", '{"name": "a", "answer": "x", "valence": NaN}', "valence nan is not a number"),
        ("p.jsonl", '{"name": "a", "answer": %s}' % ("9" * 4000), "answer of too many digits is not text"),
        ("p.jsonl", "[" * 100_000, "line 1 is nested too deeply"),
        ("p.json", '{"a": ' * 100_000, "nested too deeply"),
        ("p.csv", "name,prediction,valence\na,x," + "9" * 5000, "valence '999"),
        ("p.csv", 'name,prediction\na,"%s"\n' % ("x" * 200_000), "larger than field limit"),
        ("p.csv", ",,\n,,\n", "no column prediction"),
        ("p.csv", "name,prediction,prediction\na,x,y\n", "several columns prediction"),
    ],
)
def test_what_no_reader_expects_is_one_sentence(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        read_predictions(tmp_path / name)
    assert len(str(caught.value)) < 500


def test_half_a_character_becomes_one_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"name": "\\ud800a", "answer": "sad \\udfff"}')
    assert read_predictions(tmp_path / "p.jsonl") == {"\ufffda": Prediction("sad \ufffd")}


@pytest.mark.parametrize("count", [FEW, 30_000])
def test_few_and_many_clips_are_picked_out_of_a_runs_own_answers(tmp_path: Path, count: int) -> None:
    rows = [{"name": f"clip {i}", "answer": "sad", "folds": [i % 5]} for i in range(count + 2)]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [row["name"] for row in rows[:count]]
    started = time.process_time()
    assert list(own_predictions(tmp_path / "predictions.jsonl", names)) == names
    assert held_out_by(tmp_path / "predictions.jsonl", names) == {f"clip {i}": [i % 5] for i in range(count)}
    assert time.process_time() - started < 5  # and not as the square of their number
