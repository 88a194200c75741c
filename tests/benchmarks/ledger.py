"""Fills docs/reports and docs/reproduction.md: what emo's scorers make of answers and matrices that others published,
and a text model of emo's own on MER2023.

    python tests/benchmarks/ledger.py --data ../shared

It takes minutes. Rows that need a GPU are filled by `emo data ledger docs/reproduction.md --run ROW=REPORT`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emo.train.metrics.ledger import FIGURES, write_ledger

DOCS = Path(__file__).resolve().parents[2] / "docs"
LABELS = ("angry", "happy", "neutral", "sad", "surprise", "worried")  # rows are the truth
MATRICES = {
    "matrix-stage2": "179 1 2 1 0 0 / 2 152 7 4 3 1 / 10 10 134 6 2 4 / 2 2 1 250 0 2 / 1 0 3 1 6 3 / 4 1 3 2 1 34",
    "matrix-merr": "153 1 2 22 0 5 / 0 147 10 7 4 1 / 4 16 107 24 1 14 / 1 1 0 254 0 1 / 1 0 0 8 3 2 / 3 1 1 18 0 22",
    "matrix-pseudo": "172 1 6 2 0 2 / 0 154 10 3 1 1 / 7 11 135 5 1 7 / 1 4 1 248 0 3 / 1 0 1 3 5 4 / 4 1 3 6 0 31",
    "matrix-user": "168 1 0 13 0 1 / 3 149 0 15 0 2 / 36 29 8 85 0 8 / 1 3 0 253 0 0 / 1 0 0 9 3 1 / 5 2 0 26 0 12",
}
OPENSET = ("check-openset.csv", "predict-openset.csv", "wheel_mapping.npz")
MER2023 = ("label-6way.npz", "transcription-engchi-polish.csv")


def emo(*words: str, cwd: Path) -> Any:
    """What a command prints as JSON; its own message where it fails."""
    said = subprocess.run([sys.executable, "-m", "emo.cli", *words, "--json"], cwd=cwd, stdout=subprocess.PIPE)
    if said.returncode:
        sys.exit(said.returncode)
    return json.loads(said.stdout)


def matrices(work: Path) -> Iterator[tuple[str, Any, str]]:
    """Each posted matrix as a table of labels and one of answers, scored."""
    for row, text in MATRICES.items():
        true, said = ["name,label"], ["name,label"]
        for label, line in zip(LABELS, text.split("/"), strict=True):
            for answer, count in zip(LABELS, line.split(), strict=True):
                true += [f"{label}-{answer}-{i},{label}" for i in range(int(count))]
                said += [f"{label}-{answer}-{i},{answer}" for i in range(int(count))]
        (work / "labels.csv").write_text("\n".join(true) + "\n")
        (work / "answers.csv").write_text("\n".join(said) + "\n")
        words = ("score", "labels.csv", "--predictions", "answers.csv")
        yield row, emo(*words, cwd=work), "`emo score` on answers that make up the matrix"


def wheels(data: Path) -> Iterator[tuple[str, Any, str]]:
    """MERTools' example answers on its wheels."""
    truth, answers, tables = OPENSET
    words = ("score", truth, "--predictions", answers, "--metric", "emotion-wheel", "--wheels", tables)
    found = emo(*words, cwd=data / "data" / "openvocab")
    for row in ("wheel-level1", "wheel-level2"):
        yield row, found, f"`emo {' '.join(words)}`"


def text(data: Path, work: Path) -> Iterator[tuple[str, Any, str]]:
    """A head on sentence vectors of the transcripts, chosen on the training clips alone."""
    (work / "data").mkdir()
    for name in MER2023:
        shutil.copy(data / "data" / "mer2023" / name, work / "data" / name)
    toml = '[store]\npath = "text.emo"\n[data.MER2023-SEMI]\nroot = "data"\n[extract]\nencoders = ["minilm"]\n'
    (work / "emo.toml").write_text(toml)
    emo("extract", cwd=work)
    sets = ("--set", "features=[all-MiniLM-L6-v2-UTT]", "--set", "missing=zeros")  # 217 clips have no words
    train = ("train", "--cached", "--head", "logistic", *sets, "--run", "text")
    emo(*train, cwd=work)
    score = ("score", "label-6way.npz#test3", "--run", "text")
    yield "text-minilm", emo(*score, cwd=work), f"`emo {' '.join(train)}`, `emo {' '.join(score)}`"


def kept(row: str, found: Any, how: str) -> dict[str, Any]:
    """A report of one row: the value, over how many clips, the sentences beside it, and how it was obtained."""
    key = next(figure.key for figure in FIGURES if figure.id == row)
    value = found
    for part in key.split("."):
        value = value[part]
    for part in reversed(key.split(".")):
        value = {part: value}
    notes = [each for each in found["notes"] if not each.startswith("Truth: ")]  # a path of this machine
    return {"n": found["n"], **value, "notes": notes, "how": f"{how} ({datetime.now(UTC):%Y-%m-%d})"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds data/openvocab and data/mer2023")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of reproduction.md and reports")
    given = parser.parse_args()
    reports = given.docs / "reports"
    reports.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in (matrices(Path(folder)), wheels(given.data.resolve()), text(given.data.resolve(), Path(folder))):
            for row, found, how in part:
                kept_ = json.dumps(kept(row, found, how), indent=1, ensure_ascii=False) + "\n"
                (reports / f"{row}.json").write_text(kept_, encoding="utf-8")
    write_ledger(given.docs / "reproduction.md", {file.stem: file for file in sorted(reports.glob("*.json"))})


if __name__ == "__main__":
    main()
