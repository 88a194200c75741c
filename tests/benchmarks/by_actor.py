"""Does validation say what unseen people give? RAVDESS by eGeMAPS and the logistic head, folds by actor and at random.

    pip install -e '.[egemaps]'
    python tests/benchmarks/by_actor.py --data ../shared/data

Each of five parts of the actors is held out once; on the others the head is trained with its defaults, and validated by
its own five folds. Both scores are the weighted F1 of answers about clips that the answering fold had not seen. An
interval is that of 10,000 resamples of actors, not of clips: the clips of one actor are no independent draws.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from real_rows import EGEMAPS, emo, train
from record import PAGE, record, typed
from threadpoolctl import threadpool_limits

from emo.featstore.storage.store import open_store

TITLE = "Validation beside test, by actor"
RESAMPLES = 10_000
WAYS = {"speaker": "by actor", "random": "at random"}  # `fold_by` of the recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ravdess_speech_16k")
    parser.add_argument("--work", type=Path, help="workspace to keep, and to go on in; default: a temporary one")
    parser.add_argument("--folds", type=int, default=5, help="parts of the actors, each held out once")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, user_api="blas"):
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        measure(work, given)


def measure(work: Path, given: argparse.Namespace) -> None:
    root = json.dumps(str((given.data / "ravdess_speech_16k").resolve()))
    (work / "emo.toml").write_text(f'[store]\npath = "features.emo"\n[data.RAVDESS]\nroot = {root}\n', encoding="utf-8")
    emo("extract", "--dataset", "RAVDESS", "--encoders", "egemaps", cwd=work)
    actors = sorted({clip[-2:] for clip in open_store(work / "features.emo").clips()})
    head = ("the head's own folds", "part", "validation", "held-out actors", "difference", "0 is in its interval")
    rows = []
    for fold_by, way in WAYS.items():
        both = [part(work, fold_by, actors, number, given.folds) for number in range(given.folds)]
        for number, (validation, test) in enumerate(both):
            rows.append((way, f"{number + 1} of {given.folds}", *compared(validation, test)))
        rows.append((way, "all", *compared(*(together(each) for each in zip(*both, strict=True)))))
    words = [
        "Weighted F1 with its 95 % interval, eight emotions, acted speech that is heard only; 88 numbers per clip, "
        "logistic regression with its defaults. Under `all` the tables of all parts are taken together, so that each "
        "actor is validated in all parts but one and tested in one; both are resampled in pairs.",
        f"In {agreeing(rows, 'by actor')} of {given.folds} parts validation by actor agrees with what held-out actors "
        f"give, at random in {agreeing(rows, 'at random')}. A model that validates has heard four fifths of the actors "
        "and answers alone; held-out actors are answered by the mean of five such models: that may be what is left.",
    ]
    record(TITLE, typed(), [head, *rows], words, given.page)
    for row in (head, *rows):
        print("  ".join(row))


def agreeing(rows: Sequence[tuple[str, ...]], way: str) -> int:
    return sum(row[0] == way and row[1] != "all" and row[-1] == "yes" for row in rows)


Tables = dict[str, np.ndarray]  # of each actor: (8, 8) counts of truth by answer


def part(work: Path, fold_by: str, actors: Sequence[str], number: int, folds: int) -> tuple[Tables, Tables]:
    """Tables of the actors that were trained on, each clip answered by the fold that held it out, and of the others."""
    seen = [actor for i, actor in enumerate(actors) if i % folds != number]
    only = ["--set", f"train_splits=[{', '.join(f'actor{each}' for each in seen)}]"]
    choice = ["--head", "logistic", "--set", f"fold_by={fold_by}"]
    run = train(work, f"{fold_by}-{number}", "RAVDESS", EGEMAPS, [choice], *only)
    text = (work / "runs" / run / "predictions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    labels = sorted({row["truth"] for row in rows})
    tables: Tables = {actor: np.zeros((len(labels), len(labels))) for actor in actors}
    for row in rows:
        tables[row["name"][-2:]][labels.index(row["truth"]), labels.index(row["answer"])] += 1
    return {each: tables[each] for each in seen}, {each: tables[each] for each in actors if each not in seen}


def together(parts: Sequence[Tables]) -> Tables:
    """One table of each actor, over all parts that have one."""
    actors = sorted(set().union(*parts))
    return {actor: sum((each[actor] for each in parts if actor in each), start=np.zeros(1)) for actor in actors}


def compared(validation: Tables, test: Tables) -> tuple[str, str, str, str]:
    """Both scores, their difference, each with its interval, and whether 0 is in that of the difference.

    Where both are about the same actors, these are resampled in pairs.
    """
    points = [weighted_f1(sum(each.values(), start=np.zeros(1))) for each in (validation, test)]
    same = validation.keys() == test.keys()
    draws = [resampled(each, 0 if same else seed) for seed, each in enumerate((validation, test))]
    apart = np.quantile(draws[0] - draws[1], (0.025, 0.975))
    cells = [f"{at:.3f} ({low:.3f} to {high:.3f})" for at, (low, high) in zip(points, map(_ends, draws), strict=True)]
    cells.append(f"{points[0] - points[1]:+.3f} ({apart[0]:+.3f} to {apart[1]:+.3f})")
    return cells[0], cells[1], cells[2], "yes" if apart[0] <= 0 <= apart[1] else "no"


def _ends(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def resampled(tables: Tables, seed: int) -> np.ndarray:
    """Weighted F1 of resamples of the actors, (RESAMPLES,)."""
    rng, stacked = np.random.default_rng(seed), np.stack([tables[actor] for actor in sorted(tables)])
    drawn = rng.multinomial(len(stacked), np.full(len(stacked), 1 / len(stacked)), RESAMPLES)  # (RESAMPLES, actors)
    return weighted_f1(np.tensordot(drawn, stacked, 1))


def weighted_f1(table: np.ndarray) -> np.ndarray:
    """F1 of each class, weighted by how many clips are truly of it; the last two axes are truth by answer."""
    hits, truth, said = np.diagonal(table, axis1=-2, axis2=-1), table.sum(-1), table.sum(-2)
    f1 = 2 * hits / np.maximum(truth + said, 1)
    return (f1 * truth).sum(-1) / truth.sum(-1)


if __name__ == "__main__":
    main()
