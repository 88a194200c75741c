"""Processes killed (SIGKILL) at random instants and at every step of a commit, again and again.

What was reported as committed is there, what is visible is what an uninterrupted run gives, and going on completes it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bucket_writing import BucketWriting
from damage import watched
from small_runs import TINY, make_workspace

SHORT = {"extract": 10, "annotate": 3, "bench": 3, "checkpoint": 2, "bucket": 3}
LONG = {"extract": 1000, "annotate": 100, "bench": 100, "checkpoint": 100, "bucket": 150}
WRITERS = 8  # extractions at once into one store
TOLERANCE = 1e-5  # of a feature against itself in other company, relative to its largest value
HALF = 2e-3  # likewise, of what is kept in half precision
Ack = Callable[[str], None]


class Extraction:
    """A shard per writer of one pass over 16 drawn clips, in commits of one clip."""

    writers = WRITERS

    def __init__(self, root: Path) -> None:
        from emo.extract.demo import EMOTIONS, generate_clip

        self.root, self.rounds = root, 0
        (root / "data").mkdir()
        for i in range(16):
            generate_clip(root / "data" / f"c{i:02d}.mp4", EMOTIONS[i % 6], i, 0.3 + 0.03 * i, size=(96, 72))
        self.truth: dict[Any, Any] = {}
        self.begin()
        self.seen: set[Any] = set()
        for k in range(WRITERS):
            self.work(k, lambda name: None)
        self.truth = self._rows(set())
        assert len(self.truth) == 16 * 3, sorted(self.truth)
        self.begin()

    def begin(self) -> None:
        """An empty store."""
        self.rounds += 1
        self.store = self.root / f"{self.rounds}.emo"
        text = f'[store]\npath = "{self.store.name}"\n[data.folder]\nroot = "data"\n[extract]\nprofile = "tiny"\n'
        (self.root / "emo.toml").write_text(text + 'encoders = ["HL-UTT", "HL-MERBench-UTT", "eva_g_448"]\n')
        self.seen = set()

    def work(self, k: int, ack: Ack) -> None:
        """What is left of a shard."""
        from emo.extract.run.plan import Shard
        from emo.extract.session import ExtractArgs, open_session
        from emo.featstore.workspace import load_workspace

        tell_commits(ack)
        args = ExtractArgs(shard=Shard(k + 1, WRITERS), workers=1, commit_every=1)
        outcome = open_session(load_workspace(self.root), args).run()
        assert outcome.exit_code == 0, outcome.to_json()

    def check(self, acked: set[str], killed: int) -> Iterator[str]:
        """What is wrong: commits lost, commits that nobody made, rows that are not what they should be."""
        from emo.featstore.storage import journal
        from emo.featstore.storage.store import Store, has_store

        if not has_store(self.store):
            yield from ["the store is gone"] if acked else []
            return
        store = Store.open(self.store)
        found = {journal.name_of(number) for number in journal.numbers(store.medium)}
        yield from (f"{name} is lost" for name in acked - found)
        if len(found - acked) > killed:
            yield f"{sorted(found - acked)} by {killed} that were killed"
        yield from map(str, store.verify())
        rows = self._rows(self.seen)
        for which, row in rows.items():
            if (
                which not in self.truth
                or np.abs(row - self.truth[which]).max() > (TOLERANCE + HALF) * np.abs(row).max()
            ):
                yield f"other numbers of {which}"
        self.seen |= rows.keys()

    def whole(self) -> bool:
        """Whether everything is there, and nothing else after `gc`."""
        from emo.featstore.storage.store import Store

        store = Store.open(self.store)
        store.gc()
        return self._rows(set()).keys() == self.truth.keys() and not os.listdir(self.store / "writers")

    def _rows(self, known: set[Any]) -> dict[Any, Any]:
        from emo.featstore.storage.store import Store

        store = Store.open(self.store)
        clips = store.clips()
        return {
            (info.spec.name, clip): store.get(info.spec, clip).array.astype(np.float32)
            for info in store.features()
            for clip in np.array(clips)[store.has(info.spec, clips)].tolist()
            if (info.spec.name, clip) not in known
        }


def tell_commits(ack: Ack) -> None:
    """In a child: report each commit of a store once it is published."""
    from emo.featstore.storage import journal

    publish = journal.publish

    def told(medium: Any, header: Any, *rest: Any, **named: Any) -> bool:
        done = publish(medium, header, *rest, **named)
        if done:
            ack(journal.name_of(header["number"]))
        return done

    journal.publish = told


class Annotation:
    """One run of `emo annotate run` over five clips, in commits of one clip."""

    writers = 1

    def __init__(self, root: Path) -> None:
        from emo.extract.demo import generate_clip

        self.root, self.rounds = root, 0
        conftest = _load(Path(__file__).parents[1] / "extract/annotate/conftest.py")
        (root / "data/clips").mkdir(parents=True)
        (root / "openface").mkdir()
        lines = ["name,label,english"]
        for i in range(5):
            generate_clip(root / f"data/clips/c{i}.mp4", "happy", i, 0.4, size=(96, 72))
            (root / f"openface/c{i}.csv").write_text(conftest._openface("happy", 10, 2 + i))
            lines.append(f"c{i},happy,I said number {i}.")
        (root / "data/labels.csv").write_text("\n".join(lines) + "\n")
        self.toml = conftest.TOML
        self.begin()
        self.work(0, lambda name: None)
        self.truth = self._values()
        assert len(self.truth) == 5
        self.begin()

    def begin(self) -> None:
        self.rounds += 1
        self.store = self.root / f"{self.rounds}.emo"
        (self.root / "emo.toml").write_text(self.toml.replace("s.emo", self.store.name))

    def work(self, k: int, ack: Ack) -> None:
        from emo.extract.annotate import pages, run
        from emo.featstore.workspace import load_workspace

        tell_commits(ack)
        run.COMMIT_CLIPS = 1
        page = pages.run_page(load_workspace(self.root), lambda sentence: None, concurrency=1)
        assert page.exit_code == 0, page.value

    def check(self, acked: set[str], killed: int) -> Iterator[str]:
        from emo.featstore.storage.store import Store, has_store

        if not has_store(self.store):
            yield from ["the store is gone"] if acked else []
            return
        yield from (f"{name} is lost" for name in acked if not (self.store / name).exists())
        yield from map(str, Store.open(self.store).verify())
        for clip, value in self._values().items():
            if value != self.truth[clip]:
                yield f"another annotation of {clip}"

    def whole(self) -> bool:
        return self._values() == self.truth

    def _values(self) -> Any:
        from emo.featstore.annotations import annotations_of
        from emo.featstore.errors import EmoError
        from emo.featstore.storage.store import Store

        with suppress(EmoError):  # of none so far
            return annotations_of(Store.open(self.store))
        return {}


class Benching:
    """A bench of two heads: a file per unit that is trained, a leaderboard at the end."""

    writers = 1

    def __init__(self, root: Path) -> None:
        self.workspace, _ = make_workspace(root)
        rows = ["name,label,split"]
        labels = ("neutral", "angry", "happy")
        rows += [f"c{i:02d},{labels[i % 3]},{'train' if i < 18 else 'test'}" for i in range(24)]
        (root / "data/labels.csv").write_text("\n".join(rows) + "\n")
        self.file, self.rounds = root / "toy.yaml", 0
        self.file.write_text(
            "title: Toy\nfeatures: [HL-UTT, [HL-UTT, mae_340_UTT]]\nheads: [attention, knn, logistic]\n"
            "set: {epochs: 2}\nprotocol: {folds: 2, search: 3, repeats: 2, train_splits: [train]}\n"
        )
        self.begin()
        self.work(0, lambda name: None)
        self.truth = self._files()
        self.begin()

    def begin(self) -> None:
        self.rounds += 1
        self.folder = self.workspace.root / "benches" / str(self.rounds)

    def work(self, k: int, ack: Ack) -> None:
        from emo.train.bench import ledger
        from emo.train.bench.pages import bench_page

        write = ledger.Ledger.write

        def told(each: Any, phase: str, records: Any, *rest: Any) -> None:
            write(each, phase, records, *rest)
            known = sorted(path.name for path in (each.folder / phase).glob("[!.]*"))
            ack(f"{each.folder.name}/{phase}/{len(known)}")

        ledger.Ledger.write = told  # type: ignore[method-assign]
        bench_page(self.workspace, lambda sentence: None, str(self.file), name=self.folder.name)

    def check(self, acked: set[str], killed: int) -> Iterator[str]:
        for name in acked:
            cell, phase, count = name.split("/")
            if len(list((self.folder / "cells" / cell / phase).glob("[!.]*"))) < int(count):
                yield f"records of {cell}/{phase} are lost"

    def whole(self) -> bool:
        return self._files() == self.truth

    def _files(self) -> dict[str, bytes]:
        wanted = ("predictions.jsonl", "metrics.json", "leaderboard.csv")
        found = {path.relative_to(self.folder): path for name in wanted for path in self.folder.rglob(name)}
        return {str(name): path.read_bytes() for name, path in sorted(found.items())}


class Checkpointing:
    """A tuning of eight steps with a checkpoint after each, of which the last two are kept."""

    writers = 1

    def __init__(self, root: Path) -> None:
        self.workspace, self.clips = make_workspace(root)
        self.rounds = 0
        self.begin()
        self.work(0, lambda name: None)
        self.truth = self._learned()
        self.begin()

    def begin(self) -> None:
        self.rounds += 1
        self.run = self.workspace.root / "runs" / str(self.rounds)

    def work(self, k: int, ack: Ack) -> None:
        from emo.featstore.storage.store import open_store
        from emo.train.llm import resume
        from emo.train.llm.tune import tune
        from emo.train.recipe import load_recipe

        before = resume.reached

        def told(step: str) -> None:
            if step == "renamed":
                ack(str(resume.checkpoints(self.run)[-1].step))
            before(step)

        resume.reached = told
        recipe = load_recipe("tiny", (*TINY, "steps_per_epoch=8", "checkpoint.keep=2"))
        known = (self.run / "run.json").exists()
        tune(open_store(self.workspace.store_path), self.clips[:18], recipe, self.run, "cpu", resume=known)

    def check(self, acked: set[str], killed: int) -> Iterator[str]:
        from emo.train.llm.resume import checkpoints

        newest = max((each.step for each in checkpoints(self.run)), default=0)
        if acked and newest < max(map(int, acked)):
            yield f"the newest checkpoint is {newest}, of {max(map(int, acked))} that were written"

    def whole(self) -> bool:
        return self._learned() == self.truth

    def _learned(self) -> dict[str, bytes]:
        found = sorted(self.run.glob("*.safetensors")) or sorted(self.run.rglob("*.safetensors"))
        return {str(path.relative_to(self.run)): path.read_bytes() for path in found}


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("annotate_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bucket(root: Path) -> BucketWriting:
    """Four writers into a bucket."""
    lab = _load(Path(__file__).parents[1] / "featstore/conftest.py").Lab()
    return BucketWriting(root, lab, tell_commits)


KINDS: dict[str, Any] = {"extract": Extraction, "annotate": Annotation, "bench": Benching, "checkpoint": Checkpointing}
KINDS["bucket"] = bucket


def begin_writer(trial: Any, k: int, step: tuple[str, int] | None) -> tuple[int, int]:
    """Start a writer in a child process, which kills itself at a step where one is given; its id, and its reports."""
    from emo.featstore.storage import durable

    end, pipe = os.pipe()
    process = os.fork()
    if process:
        os.close(pipe)
        return process, end
    code, seen = 1, 0

    def reached(now: str) -> None:
        nonlocal seen
        seen += step is not None and now == step[0]
        if step is not None and seen == step[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    durable.reached = reached
    if isinstance(trial, Checkpointing):
        from emo.train.llm import resume

        resume.reached = reached
    try:
        trial.work(k, lambda name: os.write(pipe, f"{name}\n".encode()))
        code = 0
    finally:
        if code:
            import traceback

            traceback.print_exc()
        os._exit(code)


def steps_of(kind: str) -> list[str]:
    """The steps at which a writer of a kind can be killed."""
    from emo.featstore.storage.durable import STEPS

    if kind == "checkpoint":
        return ["weights-written", "optimizer-written", "synced", "renamed"]
    if kind == "bucket":  # a commit is one request there
        return [each for each in STEPS if each == "journal-linked" or not each.startswith(("gc-", "journal-"))]
    return [each for each in STEPS if not each.startswith(("gc-", "store-"))] if kind != "bench" else []


def round_of(trial: Any, kind: str, dice: random.Random, span_s: float | None) -> tuple[set[str], list[str]]:
    """Let all writers begin, and kill each at a step, or within a span; what was reported, and who was killed where."""
    steps = steps_of(kind)
    at = [
        (dice.choice(steps), dice.randrange(1, 4)) if steps and dice.random() < 0.5 else None
        for _ in range(trial.writers)
    ]
    begun_s = time.monotonic()
    writers = [begin_writer(trial, k, step if span_s else None) for k, step in enumerate(at)]
    instants = sorted((dice.uniform(0, span_s), k) for k in range(len(writers))) if span_s else []
    for wait_s, k in instants:
        if at[k] is None:
            time.sleep(max(0.0, begun_s + wait_s - time.monotonic()))
            os.kill(writers[k][0], signal.SIGKILL)  # one that has ended is still to be waited for
    acked, how = set[str](), []
    for k, (process, end) in enumerate(writers):
        with os.fdopen(end) as lines:
            acked |= {line.strip() for line in lines if line.endswith("\n")}
        status = os.waitpid(process, 0)[1]
        assert status in (0, signal.SIGKILL), f"a writer failed by itself: {status}"
        how += [f"killed at {at[k] or 'some instant'}"] if status else []
    return acked, how


def child(kind: str, root: Path, kills: int) -> None:
    """Kill until so many were killed, and say of each how it ended."""
    if kind != "bucket":  # which needs no torch
        import torch

        torch.set_num_threads(1)
    trial = KINDS[kind](root)
    dice, total, wholes = random.Random(kind), 0, 0
    begun_s = time.monotonic()
    round_of(trial, kind, dice, None)
    span_s = 1.2 * (time.monotonic() - begun_s)
    trial.begin()
    acked, here, rounds = set[str](), 0, 0
    while total < kills or not wholes:
        new, how = round_of(trial, kind, dice, None if total >= kills or rounds > 8 else span_s)
        acked, here, rounds = acked | new, here + len(how), rounds + 1
        wrong = list(trial.check(acked, here))
        if not how:
            wholes += 1
            wrong += [] if trial.whole() else ["gone on, it is not what an uninterrupted run gives"]
            trial.begin()
            acked, here, rounds = set(), 0, 0
        for each in how or ["nobody, and whole at last"]:
            print(f"{each}: {wrong[0] if wrong else 'same'}", flush=True)
            total += bool(how)


@pytest.mark.timeout(12 * 3600)
@pytest.mark.parametrize("kind", SHORT)
def test_killed_again_and_again_nothing_is_lost_and_nothing_is_wrong(kind: str, hard: bool, tmp_path: Path) -> None:
    if kind == "bucket":
        pytest.importorskip("obstore", reason="stores in a bucket need the extra `cloud`")
        pytest.importorskip("moto", reason="the S3 of this test is moto's")
    kills = (LONG if hard else SHORT)[kind]
    done = watched([sys.executable, __file__, kind, str(tmp_path), str(kills)])
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"after {lines[-1:]}: {done.stderr[-20_000:]}"  # one text: a tuple would be cut
    ends = [line.split(": ", 1) for line in lines]
    assert [line for line in lines if not line.endswith(": same")] == []
    assert len([how for how, _ in ends if how.startswith("killed")]) >= kills
    print(f"{kind}: {Counter(how for how, _ in ends).most_common()}")


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
