"""Real labels, real features, no weights that must be asked for: what emo's heads make of them, beside simple tools.

    pip install -e '.[egemaps,text]'
    python tests/benchmarks/real_rows.py --data ../shared/data

RAVDESS by eGeMAPS: five folds by actor, each a run that never sees the actors held out. MER2023 by sentence vectors of
its English transcripts: trained on train_corpus. Whatever is chosen is chosen on held-out parts of the training clips;
held-out actors and test splits are scored once.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import PAGE, record, typed
from threadpoolctl import threadpool_limits

from emo.cli import app
from emo.featstore.storage.store import open_store

TITLE = "Real data: simple features and fusion heads"
TESTS = ("test1", "test2", "test3")
# Measured once with simple tools on the same data, apart from emo.
SIMPLE_SVM = 0.480  # eGeMAPS and an RBF SVM, 5 folds by actor
SIMPLE_TEXT = (0.412, 0.383, 0.348)  # all-MiniLM-L6-v2 and logistic regression, test1 to test3
PENALTIES = (1, 0.1, 0.01, 0.001)  # `c` of the logistic head
EGEMAPS, MINILM = "eGeMAPS_UTT", "all-MiniLM-L6-v2-UTT"
Rows = list[dict[str, Any]]
Flags = Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ravdess_speech_16k and mer2023")
    parser.add_argument("--work", type=Path, help="workspace to keep, and to go on in; default: a temporary one")
    parser.add_argument(
        "--search", type=int, default=50, help="settings that the attention head tries; 0: its defaults"
    )
    parser.add_argument("--folds", type=int, default=5, help="parts of RAVDESS's actors, each held out once")
    parser.add_argument("--epochs", type=int, default=100, help="of the attention head")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    # Products this small are slower on several threads, which wait for each other.
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, user_api="blas"):
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        measure(work, given)


def extract_both(work: Path, data: Path) -> dict[str, Path]:
    """Make a workspace with eGeMAPS of RAVDESS and MiniLM of MER2023, and return where both lie."""
    places = {"RAVDESS": data / "ravdess_speech_16k", "MER2023-SEMI": data / "mer2023"}
    tables = "".join(f"[data.{name}]\nroot = {json.dumps(str(place.resolve()))}\n" for name, place in places.items())
    (work / "emo.toml").write_text(f'[store]\npath = "features.emo"\n{tables}', encoding="utf-8")
    emo("extract", "--dataset", "RAVDESS", "--encoders", "egemaps", cwd=work)
    emo("extract", "--dataset", "MER2023-SEMI", "--encoders", "minilm", cwd=work)
    return places


def measure(work: Path, given: argparse.Namespace) -> None:
    extract_both(work, given.data)

    search = ["--search", str(given.search)] if given.search else []
    attention = ["--head", "attention", "--set", "standardise=true", "--set", f"epochs={given.epochs}", *search]
    logistic = [["--head", "logistic", "--set", f"c={c}"] for c in PENALTIES]
    heads: dict[str, list[list[str]]] = {"logistic": logistic, "attention": [attention]}
    names = {"logistic": f"logistic regression, best of {len(PENALTIES)} penalties"}
    names["attention"] = "attention, standardised inputs"
    names["attention"] += f", best of {given.search} settings" if search else ""

    speech = {head: by_actor(work, head, choices, given.folds) for head, choices in heads.items()}
    svm = score(work, "svm", svm_rows(work, speech["logistic"]))
    rows = [
        (
            f"RAVDESS, {given.folds} folds by actor",
            "eGeMAPS",
            "RBF SVM",
            "simple baseline, other folds",
            f"{SIMPLE_SVM:.3f}",
        ),
        ("the same", "eGeMAPS", "RBF SVM", "scikit-learn, these folds", f"{svm['f1_weighted']:.4f}"),
    ]
    found = {head: score(work, head, each) for head, each in speech.items()}
    rows += [("the same", "eGeMAPS", names[head], "emo", f"{each['f1_weighted']:.4f}") for head, each in found.items()]
    simple = " / ".join(f"{each:.3f}" for each in SIMPLE_TEXT)
    rows.append(("MER2023, test1 / 2 / 3", "MiniLM, English", "logistic regression", "simple baseline", simple))
    for head, choices in heads.items():
        run = transcripts(work, head, choices)
        tests = [json_of(work, run, "metrics.json")["splits"][test] for test in TESTS]
        cell = " / ".join(f"{each['f1_weighted']:.4f}" for each in tests)
        rows.append(("the same", "MiniLM, English", names[head], "emo", cell))

    actors, counts, silent = found["attention"], [each["n"] for each in tests], len(json_of(work, run)["zeroed"])
    words = [
        f"RAVDESS is acted speech, heard only: eight emotions, {actors['n']:,} clips, one prediction for each from the "
        f"fold that held its actor out, scored together. Attention has accuracy {actors['accuracy']:.4f} and UAR "
        f"{actors['uar']:.4f}. MER2023 is text only: nothing is seen or heard; {', '.join(map(str, counts))} clips, of "
        f"which those without a transcript ({silent} of all splits) count as zeros and are scored like the others.",
        "Everything is chosen by held-out parts of the training clips, where speakers are known by speaker; the "
        "actors held out and the test splits are scored once.",
        "What limits it now: 88 numbers per clip, in which an actor's voice weighs more than the emotion, and "
        "sentences of which most do not say how they are felt.",
    ]
    head = ("data", "features", "head", "source", "weighted F1")
    record(TITLE, typed(), [head, *rows], words, given.page)
    for row in (head, *rows):
        print("  ".join(row))


def emo(*words: str, cwd: Path) -> dict[str, Any]:
    """What a command, as it would be typed, says in JSON; it runs in this process, which has imported all it needs."""
    said = io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(said):
        code = app([*words, "--json"], standalone_mode=False)
    if code:
        sys.exit(code)
    return json.loads(said.getvalue())


def train(work: Path, run: str, dataset: str, feature: str, choices: Sequence[Flags], *flags: str) -> str:
    """`emo train --cached` for each choice of flags, but for runs that are finished; the run best in validation."""
    scores: dict[str, float] = {}
    for number, choice in enumerate(choices):
        name = f"{run}-{number}"
        folder = work / "runs" / name
        if not (folder / "run.json").exists() or json_of(work, name)["status"] != "finished":
            shutil.rmtree(folder, ignore_errors=True)
            words = ["--dataset", dataset, "--run", name, "--set", f"features=[{feature}]", *choice, *flags]
            emo("train", "--cached", "--quiet", *words, cwd=work)
        scores[name] = json_of(work, name, "metrics.json")["validation"]["f1_weighted"]
    return max(scores, key=scores.__getitem__)


def json_of(work: Path, run: str, name: str = "run.json") -> dict[str, Any]:
    return json.loads((work / "runs" / run / name).read_text(encoding="utf-8"))


def by_actor(
    work: Path, head: str, choices: Sequence[Flags], folds: int, feature: str = EGEMAPS, prefix: str = "actors"
) -> Rows:
    """Rows of `predictions.jsonl` of every clip, from the run that did not see its actor; `fold` is added."""
    store = open_store(work / "features.emo")
    splits = sorted({f"actor{clip[-2:]}" for clip in store.clips() if clip.count("-") == 6})
    rows: Rows = []
    for fold in range(folds):
        seen = [actor for i, actor in enumerate(splits) if i % folds != fold]
        only = f"train_splits=[{', '.join(seen)}]"
        run = train(work, f"{prefix}-{head}-{fold}", "RAVDESS", feature, choices, "--set", only)
        text = (work / "runs" / run / "predictions.jsonl").read_text(encoding="utf-8")
        rows += [row | {"fold": fold} for row in map(json.loads, text.splitlines()) if row["split"] not in seen]
    return rows


def transcripts(work: Path, head: str, choices: Sequence[Flags]) -> str:
    """The run on train_corpus."""
    return train(work, f"text-{head}", "MER2023-SEMI", MINILM, choices, "--set", "missing=zeros")


def svm_rows(work: Path, rows: Rows) -> Rows:
    """What scikit-learn's SVM with its defaults says, fold by fold as in `rows`."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x = open_store(work / "features.emo").utterances(EGEMAPS, [row["name"] for row in rows])
    y, folds = np.array([row["truth"] for row in rows]), np.array([row["fold"] for row in rows])
    answers = y.copy()
    for fold in np.unique(folds):
        mine = folds == fold
        answers[mine] = make_pipeline(StandardScaler(), SVC()).fit(x[~mine], y[~mine]).predict(x[mine])
    return [row | {"answer": str(answer)} for row, answer in zip(rows, answers, strict=True)]


def score(work: Path, name: str, rows: Rows) -> dict[str, Any]:
    """`emo score` of the answers, all folds together."""
    for what, key in (("truth", "truth"), ("answers", "answer")):
        with open(work / f"{name}-{what}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("name", "label"), *((row["name"], row[key]) for row in rows)])
    words = ["--predictions", f"{name}-answers.csv", "--answers", "strict", "--require-all"]
    return emo("score", f"{name}-truth.csv", *words, cwd=work)


if __name__ == "__main__":
    main()
