"""The ledger: every published figure once, and no value of emo's that is not in a report."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.errors import UsageError
from emo.train.metrics.ledger import FIGURES, ledger_page, write_ledger

ROOT = Path(__file__).resolve().parents[3]


def report(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(values))
    return folder


def rows(text: str) -> dict[str, list[str]]:
    """Cells by row id."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.endswith("` |")]
    return {cells[-1].strip("`"): cells for cells in lines}


def test_the_figures_that_matter_are_there_with_source_and_metric(tmp_path: Path) -> None:
    found = rows(write_ledger(tmp_path / "l.md", {}))
    assert len(found) == len(FIGURES) == len({figure.id for figure in FIGURES})
    assert {id_ for id_, cells in found.items() if cells[2] == "-"} == {"text-minilm"}  # emo's own
    for id_, value, metric in (
        ("emotion-llama-avt", "0.9036", "F1, weighted"),
        ("reproduction-avt", "0.8999", "F1, weighted"),
        ("hubert", "0.8511", "F1, weighted"),
        ("videomae", "0.6068", "F1, weighted"),
        ("mae", "0.5547", "F1, weighted"),
        ("macbert", "0.4632", "F1, weighted"),
        ("baseline-av", "0.8675", "F1, weighted"),
        ("baseline-test1-combined", "0.5707", "F1 - MSE / 4"),
        ("dfew-emotion-llama-uar", "0.4559", "UAR"),
        ("dfew-emotion-llama-war", "0.5937", "WAR"),
        ("emer-emotion-llama-clue", "7.83", "clue overlap, 1 to 10, judged by gpt-3.5-turbo-16k-0613 (retired)"),
        ("emer-emotion-llama-label", "6.25", "label overlap, 1 to 10, judged by gpt-3.5-turbo-16k-0613 (retired)"),
        ("noise-sztu-cmu", "0.8530", "F1, weighted"),
        ("openset-example-score", "0.5398", "mean of set accuracy and recall"),
    ):
        _, named, published, got, source, _ = found[id_]
        assert (named, published) == (metric, value)
        assert got.startswith("not run: needs ")
        assert source


def test_a_derived_figure_is_what_its_parts_give() -> None:
    by_id = {figure.id: float(figure.value) for figure in FIGURES if figure.value}
    for test in ("test1", "test2"):
        f1, mse = by_id[f"baseline-{test}-f1_weighted"], by_id[f"baseline-{test}-mse"]
        assert by_id[f"baseline-{test}-combined"] == pytest.approx(f1 - mse / 4, abs=1e-9)


def test_a_value_comes_from_its_report_with_what_stands_beside_it(tmp_path: Path) -> None:
    made = report(tmp_path / "r", n=834, f1_weighted=0.123456, notes=["Tiny profile: no accuracy on people."])
    text = write_ledger(tmp_path / "l.md", {"hubert": made, "mae": made / "metrics.json"})
    assert text == (tmp_path / "l.md").read_text()
    assert rows(text)["hubert"][3] == rows(text)["mae"][3] == "0.1235"
    assert "`hubert`: Tiny profile: no accuracy on people." in text
    assert rows(text)["videomae"][3].startswith("not run")


def test_a_judged_value_carries_its_judge(tmp_path: Path) -> None:
    judged = {"mean": 6.5, "spread": None, "judge": "some-model", "prompts": ["emer-clue-zh-1"], "repeats": 1}
    made = report(tmp_path / "r", n=100, clue_overlap=judged)
    text = write_ledger(tmp_path / "l.md", {"emer-valley-clue": made})
    assert rows(text)["emer-valley-clue"][3] == "6.50 by some-model (emer-clue-zh-1; repeats 1, spread unknown)"


@pytest.mark.parametrize(
    ("id_", "values", "says"),
    [
        ("hubert", {"n": 412, "f1_weighted": 0.8}, "over 412 clips where row hubert is over 834"),
        ("hubert", {"n": 834}, "has no f1_weighted, which row hubert is about"),
        ("hubert", {"n": 834, "f1_weighted": "0.85"}, "is no number but '0.85'"),
        ("emer-valley-clue", {"n": 100, "token-overlap-1": 0.4}, "has no clue_overlap.mean"),
        ("resnext", {}, "The ledger has no row 'resnext'"),
    ],
)
def test_what_is_not_that_figure_is_refused(tmp_path: Path, id_: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        write_ledger(tmp_path / "l.md", {id_: report(tmp_path / "r", **values)})
    assert not (tmp_path / "l.md").exists()


def test_an_absent_report_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no f1_weighted"):
        write_ledger(tmp_path / "l.md", {"hubert": tmp_path / "nothing"})


def test_a_folder_of_reports_fills_its_rows_and_says_how(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    own = {"n": 834, "f1_weighted": 0.34567, "how": "`emo score x` (2026-12-01)", "notes": ["Trained on 9 clips."]}
    (tmp_path / "reports" / "text-minilm.json").write_text(json.dumps(own))
    (tmp_path / "reports" / "hubert.json").write_text(json.dumps({"n": 834, "f1_weighted": 0.1}))
    page = ledger_page(
        tmp_path / "l.md", [f"hubert={report(tmp_path / 'r', n=834, f1_weighted=0.2)}"], tmp_path / "reports"
    )
    assert page.value["obtained"] == ["hubert", "text-minilm"]
    text = (tmp_path / "l.md").read_text()
    assert (rows(text)["text-minilm"][3], rows(text)["hubert"][3]) == ("0.3457", "0.2000")  # what is given goes before
    assert "`text-minilm`: Obtained by `emo score x` (2026-12-01). Trained on 9 clips." in text


def test_what_was_published_is_what_the_scorers_find(shared: Path, tmp_path: Path) -> None:
    """The reports of the repository, made anew: a value that no command gives does not stay in the page."""
    script = runpy.run_path(str(ROOT / "tests" / "benchmarks" / "ledger.py"))
    made = (*script["matrices"](tmp_path), *script["wheels"](shared))
    found = {row: script["kept"](row, value, how) for row, value, how in made}
    assert len(found) == 6
    for row, value in found.items():
        kept = json.loads((ROOT / "docs" / "reports" / f"{row}.json").read_text())
        assert {**value, "how": ""} == {**kept, "how": ""}
        figure = next(each for each in FIGURES if each.id == row)
        assert (
            rows(write_ledger(tmp_path / "l.md", {row: ROOT / "docs" / "reports" / f"{row}.json"}))[row][3]
            == figure.value
        )
