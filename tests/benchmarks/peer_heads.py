"""MERBench's own training script beside `emo train`: whole processes, on the same features, folds and epochs.

    git clone https://github.com/zeroQiaoba/MERTools
    python tests/benchmarks/peer_heads.py --mertools MERTools

Features are random ones with a centre per emotion, of MER2023's sizes; emo exports them in MERTools' layout, and its
folds are given to both. `merbench_cpu.py` says what is put in place around MERBench's files, which stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from growth import spec
from merbench_cpu import merbench
from record import PAGE, alternate, ratios, record, typed

from emo.featstore.labels import MER2023_LABELS
from emo.featstore.storage.store import open_store

TITLE = "P5 Heads: MERBench's own script"
RUNNER = Path(__file__).resolve().with_name("merbench_cpu.py")
FEATURES = ("A-UTT", "T-UTT", "V-UTT")
FOLDS = 5  # MERBench's, which its dataset class fixes
SETTINGS = {"hidden_dim": 128, "dropout": 0.3, "grad_clip": -1.0, "lr": 0.001}  # of its ranges; emo's defaults
EMO, PEER, ONE, BARE = "emo train", "MERBench", "MERBench, one thread", "MERBench, one thread, test sets of one batch"


class Failed(Exception):
    """A process ended with an error; says with which."""


class Bench:
    """A workspace with features, labels and folds, and the ways to train one head per fold on them."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work
        self.said: dict[str, str] = {}  # what the last process of each way has printed
        self.sizes = {"train_corpus": given.clips} | dict(zip(("test1", "test2", "test3"), given.tests, strict=True))
        self._features()
        self.emo("store", "export", "features", "--layout", "mertools")
        (work / "hyper.yaml").write_text(yaml.safe_dump({"attention": SETTINGS}), encoding="utf-8")

    def _features(self) -> None:
        """A store of three features of every clip, labels of all, and the same labels with small test sets."""
        rng = np.random.default_rng(0)
        names = [f"{split}_{i:05d}" for split, count in self.sizes.items() for i in range(count)]
        emotion = rng.integers(len(MER2023_LABELS), size=len(names))
        specs = [spec(name, "utt", 1, self.given.dim) for name in FEATURES]
        centres = rng.normal(size=(len(specs), len(MER2023_LABELS), self.given.dim)).astype(np.float32) * 0.1
        with open_store(self.work / "features.emo", create=True).writer() as writer:
            for i, name in enumerate(names):
                writer.clip(name, f"{i:032x}")
                for each, centre in zip(specs, centres, strict=True):
                    noise = rng.standard_normal((1, self.given.dim), np.float32)
                    writer.add(each, f"{i:032x}", centre[emotion[i]] + noise)
        rows: dict[str, dict[str, Any]] = {split: {} for split in self.sizes}
        for name, index in zip(names, emotion.tolist(), strict=True):
            rows[name.rpartition("_")[0]][name] = {"emo": MER2023_LABELS[index], "val": float(index - 2.5)}
        (self.work / "data").mkdir()
        few = {split: part if split == "train_corpus" else dict([*part.items()][:32]) for split, part in rows.items()}
        for path, parts in (("data/label-6way.npz", rows), ("few.npz", few)):
            corpora = {
                f"{split.removesuffix('_corpus')}_corpus": np.array(part, object) for split, part in parts.items()
            }
            np.savez(self.work / path, **corpora)  # type: ignore[arg-type]
        table = '[store]\npath = "features.emo"\n[data.MER2023]\nroot = "data"\n'
        (self.work / "emo.toml").write_text(table, encoding="utf-8")

    # ---- the ways ----------------------------------------------------------------------------------------------------

    def emo(self, *words: str, way: str = "", **env: str) -> str:
        return self._process(way, [sys.executable, "-m", "emo.cli", *words], env)

    def train(self, run: str, epochs: int) -> None:
        """`emo train` in MERBench's way: random folds, its settings, and epochs chosen by its metric."""
        sets = [f"features=[{','.join(FEATURES)}]", "fold_by=random", "stratify=false", f"folds={FOLDS}"]
        sets += [f"hidden={SETTINGS['hidden_dim']}", *(f"{key}={SETTINGS[key]}" for key in ("dropout", "lr"))]
        words = [word for pair in (*sets, f"epochs={epochs}") for word in ("--set", pair)]
        self.emo("train", "--head", "attention", "--cached", "--device", "cpu", "--run", run, *words, way=EMO)

    def peer(self, way: str, labels: str, epochs: int, **env: str) -> None:
        checkout, places = str(self.given.mertools.resolve()), [labels, "features", "folds.json"]
        words = ["--model=attention", "--feat_type=utt", "--dataset=MER2023", "--hyper_path=hyper.yaml"]
        words += [f"--{kind}_feature={name}" for kind, name in zip(("audio", "text", "video"), FEATURES, strict=True)]
        command = [sys.executable, str(RUNNER), checkout, *places, *words, f"--epochs={epochs}"]
        self._process(way, command, {"PYTHONPYCACHEPREFIX": str(self.work / "pyc"), **env})

    def _process(self, way: str, command: list[str], env: dict[str, str]) -> str:
        around = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True, env=around | env)
        if done.returncode:
            raise Failed((done.stderr.strip() or done.stdout.strip()).rsplit("\n", 1)[-1])
        self.said[way] = done.stdout
        return done.stdout

    # ---- what both are given, and say --------------------------------------------------------------------------------

    def rows_of(self, run: str) -> list[dict[str, Any]]:
        text = (self.work / "runs" / run / "predictions.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def hand_over_folds(self, run: str) -> None:
        """Write the folds of a run of emo's as row numbers of the training clips."""
        fold = {row["name"]: row["folds"][0] for row in self.rows_of(run) if row["folds"]}
        of = np.array([fold[f"train_corpus_{i:05d}"] for i in range(self.given.clips)])
        parts = [[np.flatnonzero(of != k).tolist(), np.flatnonzero(of == k).tolist()] for k in range(FOLDS)]
        (self.work / "folds.json").write_text(json.dumps(parts), encoding="utf-8")

    def found(self, way: str, run: str) -> str:
        """Weighted F1 on the clips held out, as each way reports it."""
        if way == EMO:
            metrics = json.loads((self.work / "runs" / run / "metrics.json").read_text(encoding="utf-8"))
            return f"{metrics['validation']['f1_weighted']:.4f}"
        match = re.search(r"/cv_\S*f1:([\d.]+\d)", self.said[way])
        return match[1] if match else "not said"


def measure(bench: Bench, given: argparse.Namespace) -> tuple[list[tuple[str, ...]], list[str]]:
    """The table, and sentences of what was seen."""
    bench.train("first", 1)
    bench.hand_over_folds("first")
    full, few = "data/label-6way.npz", "few.npz"
    made: dict[str, Callable[[], None]] = {}
    runs = iter(range(given.rounds))
    made[EMO] = lambda: bench.train(f"r{next(runs)}", given.epochs)
    made[PEER] = lambda: bench.peer(PEER, full, given.epochs)
    made[ONE] = lambda: bench.peer(ONE, full, given.epochs, OMP_NUM_THREADS="1")
    made[BARE] = lambda: bench.peer(BARE, few, given.epochs, OMP_NUM_THREADS="1")
    bench.peer(PEER, full, 1)  # modules compiled, files in the page cache; or it cannot run, and that is said
    times: dict[str, list[float]] = {way: [] for way in made}
    for i in range(given.rounds):
        for way, seconds in alternate(made, 1, warm=0).items():
            times[way] += seconds
        each = "; ".join(f"{way} {ratios(times, way, EMO)[0]:.2f}" for way in made)
        print(f"round {i + 1}, medians so far, emo = 1: {each}", flush=True)
    rows = [("whole process", "time, emo = 1", *(f"round {i + 1}" for i in range(given.rounds)), "weighted F1")]
    for way, seconds in times.items():
        cells = [f"{own / base:.2f}" for own, base in zip(seconds, times[EMO], strict=True)]
        rows.append((way, f"{ratios(times, way, EMO)[0]:.2f}", *cells, bench.found(way, f"r{given.rounds - 1}")))
    best = min(ratios(times, way, EMO)[0] for way in (PEER, ONE))
    return rows, [
        f"MERBench's main-release.py as its authors publish it, takes {best:.1f} times as long as `emo train`, the "
        "better of its numbers of threads counted."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mertools", type=Path, required=True, help="your checkout of zeroQiaoba/MERTools")
    parser.add_argument("--clips", type=int, default=3373, help="training clips")
    parser.add_argument("--tests", type=int, nargs=3, default=(411, 412, 834), help="clips of the three test sets")
    parser.add_argument("--dim", type=int, default=1024, help="columns of each of the three features")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    merbench(given.mertools)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given, Path(folder))
        try:
            rows, words = measure(bench, given)
        except Failed as error:
            rows, words = [("whole process", "time, emo = 1"), (PEER, "does not run here")], [f"It ends so: {error}"]
    words += [
        f"One `attention` head per fold ({FOLDS} folds, those of emo given to both), {given.epochs} epochs, batch 32, "
        f"Adam, hidden {SETTINGS['hidden_dim']}, dropout {SETTINGS['dropout']}, lr {SETTINGS['lr']}; {given.clips:,} "
        f"training clips and test sets of {', '.join(map(str, given.tests))}, three features of {given.dim} columns: "
        "random numbers with a centre per emotion, written by `emo store export --layout mertools`. Processes from "
        "start to end, in turn; imports, reading, training, answers and files written are all in it. MERBench answers "
        "its test sets after every epoch, emo once at the end: the last row has test sets of 32 clips. Weighted F1 is "
        "of the clips held out, at each fold's best epoch, as each program says it (emo of all clips together, "
        "MERBench the mean over folds); both draw weights, dropout and order for themselves.",
        "MERBench's files run unchanged. Where no GPU is, its `.cuda()` is made to do nothing; the paths in its "
        "config.py and its unseeded folds are replaced, and packages that it imports and does not use here are empty "
        "where they are not installed (tests/benchmarks/merbench_cpu.py): both spare it time.",
    ]
    record(TITLE, typed(), rows, words, given.page)
    for row in rows:
        print("  ".join(row))
    print(*words, sep="\n")


if __name__ == "__main__":
    main()
