"""A score says how many of its clips the run has seen in training, and whose labels it is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.errors import EmoError, UsageError
from emo.featstore.page import Page
from emo.featstore.workspace import load_workspace
from emo.train.metrics.choose import ScoreArgs, scored_page
from emo.train.metrics.seen import own_datasets, trained_on
from emo.train.runs import Run, load_run

WORDS = ("happy", "sad")


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with two datasets, each of which has its labels.csv."""
    text = '[store]\npath = "s.emo"\n'
    for name, clips in (("first", "abcd"), ("second", "vwxyz")):
        (tmp_path / name).mkdir()
        rows = "".join(f"{clip},{WORDS[i % 2]}\n" for i, clip in enumerate(clips))
        (tmp_path / name / "labels.csv").write_text("name,label\n" + rows)
        text += f'[data.{name}]\nroot = "{name}"\nkind = "folder"\n'
    (tmp_path / "emo.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(space: Path, name: str, answers: str, train: str, validation: str = "", **info: Any) -> Run:
    folder = space / "runs" / name
    folder.mkdir(parents=True)
    value = {"kind": "tune", "status": "finished", "labels": list(WORDS), "notes": [], "finished_at": name, **info}
    (folder / "run.json").write_text(json.dumps(value))
    (folder / "clips.json").write_text(json.dumps({"train": list(train), "validation": list(validation)}))
    rows = [{"name": clip, "answer": "sad"} for clip in answers]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_run(folder)


def scored(run: Run, labels: str = "second/labels.csv", **more: Any) -> Page:
    return scored_page(ScoreArgs(labels, predictions=run.path / "predictions.jsonl", **more), lambda text: None)


def test_the_verdict_says_how_many_clips_were_trained_on(space: Path) -> None:
    page = scored(make_run(space, "r", "vwxyz", "vw", "x"))
    assert page.verdict.endswith("policy official. r has seen 2 of these 5 clips in training.")
    assert "The 2 clips that r was trained on say nothing about new clips." in page.parts
    assert "1 of these clips chose the checkpoint of r." in page.value["notes"]
    assert scored(make_run(space, "q", "vwxyz", "ab")).verdict.endswith("q has seen none of these clips in training.")


def test_a_comparison_and_a_report_say_it_too(space: Path) -> None:
    a, b = make_run(space, "a", "vwxyz", "v"), make_run(space, "b", "vwxy", "vwx")
    page = scored(a, against=str(b.path / "predictions.jsonl"), report=space / "both")
    assert "a has seen 1 of these 4 clips in training. b has seen 3 of these 4 clips in training." in page.verdict
    assert "b has seen 3 of these 4 clips" in (space / "both/report.md").read_text()
    scored(a, report=space / "one")
    assert "a has seen 1 of these 5 clips in training." in (space / "one/report.md").read_text().split("\n\n")[1]


def test_numbers_get_their_dataset_s_words_or_a_word_that_they_have_none(space: Path) -> None:
    said = list[str]()
    (space / "said.csv").write_text("name,answer\n" + "".join(f"{clip},sad\n" for clip in "vwxyz"))
    words = [row.split(",")[1] for row in (space / "second/labels.csv").read_text().splitlines()[1:]]
    (space / "second/truth.csv").write_text("name,label\n" + "".join(f"{c},{i % 2}\n" for i, c in enumerate("vwxyz")))
    args = ScoreArgs("second/truth.csv", predictions=space / "said.csv")
    assert scored_page(args, said.append).value["accuracy"] == words.count("sad") / 5
    assert said == []
    lists = (space / "second/labels.csv").read_text()
    (space / "second/labels.csv").write_text(lists.replace("z,", "other,"))
    assert scored_page(args, said.append).value["accuracy"] == 0
    assert said == [f"{args.labels}: its labels stay numbers: no dataset that it lies in says what z is in words"]
    (space / "second/labels.csv").write_bytes(lists.encode() + b"\xff")
    with pytest.raises(UsageError, match=r"labels\.csv"):
        scored_page(args, said.append)
    (space / "emo.toml").write_text("[stor]\n")
    with pytest.raises(UsageError, match="stor"):
        scored_page(args, said.append)


def test_two_files_of_one_name_are_told_apart(space: Path) -> None:
    a, b = (make_run(space, name, "vwxyz", "v") for name in "ab")
    page = scored(a, against=str(b.path / "predictions.jsonl"))
    assert all(str(run.path / "predictions.jsonl") in page.verdict + str(page.parts) for run in (a, b))


def test_a_report_names_the_file_of_the_truth(space: Path) -> None:
    a, b = make_run(space, "a", "vwxyz", "v"), make_run(space, "b", "vwxy", "vwx")
    scored(a, "second/labels.csv", report=space / "one")
    scored(a, "second/labels.csv", report=space / "both", against=str(b.path / "predictions.jsonl"))
    for report in ("one", "both"):
        for name in ("report.md", "report.html", "metrics.json"):
            text = (space / report / name).read_text().replace("\\", "")
            assert "Truth: second/labels.csv." in text, (report, name)


def test_out_of_fold_answers_are_told_from_those_about_other_clips(space: Path) -> None:
    run = make_run(space, "head", "vwxyz", "vwx", "vwx", kind="head", members=[{}])
    page = scored(run)
    assert "3 of these 5 clips in training, each answered by folds that did not train on it." in page.verdict
    assert any("Two kinds of answers are mixed: 3 out-of-fold answers" in str(part) for part in page.parts)
    (run.path / "clips.json").unlink()  # as runs were before
    rows = [{"name": clip, "answer": "sad", "folds": [0] if clip in "vwx" else None} for clip in "vwxyz"]
    (run.path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert scored(run).verdict == page.verdict


def test_what_nobody_knows_is_said_to_be_unknown(space: Path) -> None:
    imported = make_run(space, "official", "vwxyz", "", imported={"path": "x.pth"})
    assert "How many of these clips official has seen in training is not known." in scored(imported).verdict
    make_run(space, "stage1", "vw", "v")
    second = make_run(space, "stage2", "vwxyz", "y", init_from="stage1")
    assert trained_on(second).clips == {"v", "y"}
    other = make_run(space, "stage3", "vwxyz", "y", init_from="official")
    assert "is not known" in scored(other).verdict
    (space / "p.csv").write_text("name,prediction\n" + "".join(f"{clip},sad\n" for clip in "vwxyz"))
    page = scored_page(ScoreArgs("second/labels.csv", predictions=space / "p.csv"), print)
    assert "Which clips the model of p.csv was trained on is not known." in page.parts


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"train": 3}', "[" * 100_000])
def test_a_damaged_list_of_clips_is_one_sentence(space: Path, text: str) -> None:
    run = make_run(space, "r", "vwxyz", "vw")
    (run.path / "clips.json").write_text(text)
    with pytest.raises(EmoError, match=r"clips\.json"):
        scored(run)


def test_labels_that_the_run_does_not_know_are_counted_or_refused(space: Path) -> None:
    (space / "joy.csv").write_text("name,label\nv,joy\nw,sad\nx,joy\n")
    run = make_run(space, "r", "vwx", "")
    page = scored(run, "joy.csv")
    assert "2 of 3 clips carry a label that r does not know: joy (2)." in page.parts
    (space / "none.csv").write_text("name,label\nv,joy\nw,calm\n")
    with pytest.raises(UsageError, match=r"r knows none of the labels joy, calm\. r knows happy, sad"):
        scored(run, "none.csv")
    assert "does not know" not in str(scored(run, "joy.csv", options={"answers": "nearest"}).parts)  # happy is joy


# ---- whose labels ----------------------------------------------------------------------------------------------------


def test_a_name_that_two_datasets_have_is_refused_until_one_is_named(space: Path) -> None:
    run = make_run(space, "r", "vwxyz", "vw")
    with pytest.raises(UsageError, match=r"is a file of several datasets: first \(.*\) and second \("):
        scored(run, "labels.csv")
    page = scored(run, "labels.csv", dataset="second")
    assert page.value["truth"] == str(space / "second/labels.csv")
    assert f"Truth: {space / 'second/labels.csv'}." in page.parts
    with pytest.raises(UsageError, match="None of the 4 labelled clips"):
        scored(run, "labels.csv", dataset="first")
    with pytest.raises(UsageError, match=r"no \[data\.third\]"):
        scored(run, "labels.csv", dataset="third")


def test_every_command_that_looks_a_list_up_takes_the_name_of_a_dataset(space: Path, emo: Any) -> None:
    make_run(space, "r", "vwxyz", "vw")
    for words in (
        ["predict", "labels.csv", "--run", "r", "--cached"],
        ["data", "leaks", "--list", "labels.csv"],
        ["score", "labels.csv", "--predictions", "runs/r/predictions.jsonl"],
    ):
        doubtful = emo(*words, cwd=space)
        assert doubtful.returncode == 2, words
        assert "is a file of several datasets" in doubtful.stderr
        assert "--dataset NAME" in doubtful.stderr
        assert "is a file of several datasets" not in emo(*words, "--dataset", "second", cwd=space).stderr


def test_the_runs_own_dataset_comes_first(space: Path) -> None:
    workspace = load_workspace(space)
    assert own_datasets(workspace, make_run(space, "r", "vwxyz", "vw")) == ["second"]
    assert own_datasets(workspace, make_run(space, "s", "a", "", dataset="first")) == ["first"]
    assert own_datasets(workspace, make_run(space, "t", "vwxyz", "")) == []
