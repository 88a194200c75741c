"""MER-UniBench as one command: each set by its own metric, absent sets named, no mean that passes for the paper's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.datasets import card, open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.featstore.workspace import load_workspace
from emo.train.metrics.choose import ScoreArgs, scored_page
from emo.train.metrics.registry import metric_class
from emo.train.metrics.suites import SUITES, find_suite
from emo.train.metrics.wheel import EmotionWheel

SUITE = SUITES["mer-unibench"]
WORDS = ("happy", "sad", "angry")
NPZ = {"label.npz", "label-6way.npz", "label_4way.npz"}


def quiet(sentence: str) -> None:
    """Hear nothing."""


def write_truth(root: Path, row: Any) -> dict[str, str]:
    """Write the list of one set with three clips, or four of which one does not count; return right answers."""
    root.mkdir(parents=True)
    file, _, split = row.lists[0].partition("#")
    names = [f"{row.starts or 'c_'}{i}" for i in range(3)]
    if row.metric == "sentiment":
        values = dict(zip(names, (1.5, -1.0, 0.5), strict=True))
        corpus = {name: {"emo": 0, "val": value} for name, value in values.items()}
        answers = {name: str(value / 3) for name, value in values.items()}
    else:
        answers = dict(zip(names, WORDS, strict=True))
        labels = answers | ({"Ses01_x": "happy"} if row.starts else {})
        coded = row.name == "IEMOCAP"  # MERBench's files have numbers
        classes = {word: i for i, word in enumerate(card(row.readers[0]).labels)} if coded else {}
        corpus = {name: {"emo": classes.get(word, word), "val": -10} for name, word in labels.items()}
    if file in NPZ:
        part = {"": "whole_corpus", "test": "test_corpus", "test1": "test1_corpus"}[split]
        np.savez(root / file, **{part: np.array(corpus, object)})
    else:
        column = "openset" if row.metric == "emotion-wheel" else "discrete"
        (root / file).write_text(f"name,{column}\n" + "".join(f"{name},{word}\n" for name, word in answers.items()))
    return answers


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Make a workspace with these sets and a folder of right answers; give the options of the metrics."""

    def make(*sets: str) -> tuple[Path, dict[str, Any]]:
        lines = []
        (tmp_path / "answers").mkdir()
        for row in SUITE.rows:
            if row.name not in sets:
                continue
            answers = write_truth(tmp_path / row.name, row)
            (tmp_path / f"answers/{row.name}.json").write_text(json.dumps(answers))
            kind = 'kind = "folder"\n' if row.name == "OV-MERD+" else ""
            lines.append(f'[data."{row.readers[0]}"]\nroot = "{tmp_path / row.name}"\n{kind}')
        (tmp_path / "emo.toml").write_text("\n".join(lines))
        monkeypatch.chdir(tmp_path)
        return tmp_path / "answers", dict(EmotionWheel.sample(tmp_path).options)

    return make


def score(folder: Path, options: dict[str, Any], **more: Any) -> Page:
    return scored_page(ScoreArgs("@mer-unibench", predictions=folder, options=options, **more), quiet)


def test_all_nine_sets_give_the_papers_mean(bench: Any, tmp_path: Path) -> None:
    folder, options = bench(*(row.name for row in SUITE.rows))
    page = score(folder, options, report=tmp_path / "report")
    assert {each["set"]: each["value"] for each in page.value["sets"]} == {row.name: 1.0 for row in SUITE.rows}
    assert {each["set"]: each["n"] for each in page.value["sets"]} == {row.name: 3 for row in SUITE.rows}
    assert (page.value["mean"], page.value["part"], page.exit_code) == (1.0, None, 0)
    assert page.verdict == "MER-UniBench 1.0000, the mean over its 9 sets."
    assert "IEMOCAP has 3 labelled clips here; the paper counts 1,241." in page.value["notes"]
    assert (tmp_path / "report/report.html").exists()


def test_fewer_sets_give_no_mean_but_one_that_names_them(bench: Any) -> None:
    folder, options = bench("MER2023", "MOSI", "SIMS")
    (folder / "MOSI.json").write_text('{"c_0": "0.2", "c_1": "0.3", "c_2": "0.1"}')
    (folder / "SIMS.json").unlink()
    page = score(folder, options)
    assert (page.value["mean"], page.exit_code) == (None, 3)
    assert page.value["part"]["sets"] == ["MER2023", "MOSI"]
    assert page.verdict.startswith(
        "No MER-UniBench mean: 7 of its 9 sets are not scored. The mean over MER2023, MOSI alone"
    )
    told = "\n".join(str(each) for each in page.parts)
    assert "MELD is not scored: no [data.MELD] in emo.toml" in told
    assert "SIMS is not scored: " in told
    assert "has no SIMS.csv or SIMS.json or SIMS.jsonl" in told


def test_clips_without_an_answer_are_said_beside_the_mean(bench: Any) -> None:
    folder, options = bench(*(row.name for row in SUITE.rows))
    (folder / "MELD.json").write_text('{"c_0": "happy", "c_1": "sad"}')
    page = score(folder, options)
    assert page.verdict == "MER-UniBench 1.0000, the mean over its 9 sets, of which MELD lack answers."
    assert "MELD: 1 clip has no answer and is in no number." in page.value["notes"]


def test_what_does_not_go_with_a_suite_is_refused(bench: Any) -> None:
    folder, options = bench("MER2023")
    with pytest.raises(UsageError, match="no suite '@mer-unibnch'"):
        find_suite("@mer-unibnch")
    with pytest.raises(UsageError, match="--metric is for one list"):
        score(folder, options, metric="sentiment")
    with pytest.raises(UsageError, match="needs --wheels"):
        score(folder, {})
    (folder / "MER2023.json").unlink()
    with pytest.raises(UsageError, match="No set of MER-UniBench can be scored"):
        score(folder, options)


def test_every_row_names_a_metric_that_has_its_numbers() -> None:
    for row in SUITE.rows:
        assert metric_class(row.metric).name == row.metric
    assert len(SUITE.rows) == 9


def test_the_real_lists_are_found_and_counted_as_the_paper_does(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IEMOCAP's Session 5 and MELD's test: as many clips as the paper counts; true answers score 1 on them."""
    data = shared / "data"
    roots = {"MER2023": "mer2023", "MELD": "meld", "IEMOCAP-4way": "iemocap", "CMU-MOSI": "mosi", "SIMS": "sims"}
    lines = [f'[data.{name}]\nroot = "{data / folder}"\n' for name, folder in roots.items()]
    (tmp_path / "emo.toml").write_text("\n".join(lines))
    (tmp_path / "answers").mkdir()
    monkeypatch.chdir(tmp_path)
    for row in SUITE.rows:
        if row.readers[0] in roots:
            table = load_workspace(tmp_path).table(row.readers[0])
            labels = {clip.id: clip.label for clip in open_dataset(table.name, table).clips() if clip.label}
            said = {n: str(e.valence) if row.metric == "sentiment" else e.emotion for n, e in labels.items()}
            (tmp_path / f"answers/{row.name}.json").write_text(json.dumps(said))
    page = score(tmp_path / "answers", {"wheels": data / "openvocab/wheel_mapping.npz"})
    found = {each["set"]: each for each in page.value["sets"]}
    assert {name: each["value"] for name, each in found.items() if each["value"] is not None} == dict.fromkeys(
        ("MER2023", "MELD", "IEMOCAP", "MOSI", "SIMS"), 1.0
    )
    assert {name: found[name]["n"] for name in ("MER2023", "MELD", "IEMOCAP")} == {
        **{"MER2023": 411, "MELD": 2610, "IEMOCAP": 1241}
    }
    assert not any("the paper counts" in note for note in page.value["notes"])
