"""A Ray cluster from 1 to 8 workers whose encoder sleeps, and what 10 million clips on 64 GPUs would ask of a store.

python tests/benchmarks/ray_growth.py [--rows 1000000] [--work DIR]

The first part runs the coordinator, the workers and the store as `emo extract --ray` does; only the networks are
replaced by a pause as long as one H200 needs for a clip. The second part lets 8 processes commit rows as fast as they
can, and reckons from there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from growth import clip_id, media_id, spec
from record import PAGE, record

from emo.featstore.cluster import Crew, Place
from emo.featstore.storage import journal
from emo.featstore.storage.store import Store

PAUSE_S = 0.1  # of a clip: one H200 makes 9.9 a second with decoding, see "the pass" in docs/benchmarks.md
COMMIT = 200
CLIPS, GPUS, DIM = 10_000_000, 64, 1024
PUT_USD, LIST_USD, GET_USD = 5e-6, 5e-6, 4e-7  # per request, S3 standard, us-east-1, as published in 2025


@dataclass(frozen=True)
class Sizes:
    """How large all of it is.

    Attributes:
        workers: Sizes of the clusters, the largest one last.
        clips: Of each worker.
        unpaused: Clips that the largest cluster makes without a pause.
        writers: Processes that commit rows as fast as they can.
        rows: Of all of them.
    """

    workers: tuple[int, ...]
    clips: int
    unpaused: int
    writers: int
    rows: int


def sleeper(path: Path, pause_s: float) -> Any:
    """Work that pauses for each clip and stores a vector of it; a function's own class, so that Ray takes it along."""

    class Sleeper:
        def __init__(self, place: Place) -> None:
            self.progress = SimpleNamespace(done=0)

        def stop(self) -> None:
            return None

        def run(self, items: Iterator[int]) -> tuple[float, float]:
            import time

            import numpy as np

            from emo.featstore.spec import EncoderSpec
            from emo.featstore.storage.store import Store

            of = EncoderSpec("F-UTT", "bench", "frame", "utt", 1024, 1, "random", "seed:0")
            vector, begun = np.ones((1, 1024), np.float32), 0.0
            with Store.open(path).writer(commit_every=20) as writer:
                for i in items:
                    begun = begun or time.time()
                    time.sleep(pause_s)
                    writer.clip(f"c{i}", f"{i:032x}")
                    writer.add(of, f"{i:032x}", vector)
                    self.progress.done += 1
            return begun, time.time()

    return lambda place: Sleeper(place)


def crew_run(work: Path, workers: int, clips: int, pause_s: float) -> tuple[float, float, float]:
    """Seconds from the first clip to the last commit, seconds in all, and processor seconds of the coordinator."""
    import ray

    path = work / f"{workers}-{pause_s}.emo"
    Store.create(path)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init(num_cpus=workers, num_gpus=workers, object_store_memory=80 << 20, **quiet)
    crew = Crew("local", sleeper(path, pause_s), lambda items: [True] * len(items), device="cuda")
    begun_s, own_s = time.perf_counter(), time.process_time()
    spans, _ = crew.run(range(clips))
    all_s, own_s = time.perf_counter() - begun_s, time.process_time() - own_s
    ray.shutdown()
    assert len(Store.open(path).clips()) == clips
    return max(end for _, end in spans) - min(begin for begin, _ in spans if begin), all_s, own_s


def write_rows(path: str, first: int, count: int) -> None:
    """One writer of many: commits rows as fast as it can; says what that took."""
    tries, real = 0, journal.publish

    def counted(*given: Any) -> bool:
        nonlocal tries
        tries += 1
        return real(*given)

    journal.publish = counted
    of, vector = spec("F-UTT", "utt", 1, 64), np.ones((1, 64), np.float32)
    begun_s, own_s = time.perf_counter(), time.process_time()
    with Store.open(path).writer(commit_every=COMMIT) as writer:
        for i in range(first, first + count):
            writer.clip(clip_id(i), media_id(i))
            writer.add(of, media_id(i), vector)
    took = {"tries": tries, "seconds": time.perf_counter() - begun_s, "own_s": time.process_time() - own_s}
    print(json.dumps(took))


def race(work: Path, writers: int, rows: int) -> dict[str, float]:
    """Rows from several writers at once into one store, and what is there afterwards."""
    path, each = work / "race.emo", rows // writers
    Store.create(path)
    command = [sys.executable, __file__, "--writer", str(path)]
    begun_s = time.perf_counter()
    children = [
        subprocess.Popen([*command, str(k * each), str(each)], stdout=subprocess.PIPE, text=True)
        for k in range(writers)
    ]
    said = [json.loads(child.communicate()[0]) for child in children]
    seconds = time.perf_counter() - begun_s
    names = [entry for entry in os.scandir(path / "journal") if entry.name[0] == "0"]
    size = sum(entry.stat().st_size for entry in names)
    snapshot = path / "snapshot"
    for file in snapshot.iterdir() if snapshot.is_dir() else ():
        file.unlink()
    begun_s, own_s = time.perf_counter(), time.process_time()
    store = Store.open(path)
    assert len(store.clips()) == writers * each
    replay_s = time.process_time() - own_s
    assert store.verify() == []
    found = {"rows": writers * each, "seconds": seconds, "commits": len(names), "journal": size, "replay_s": replay_s}
    return found | {"tries": sum(one["tries"] for one in said), "own_s": sum(one["own_s"] for one in said)}


def growth_section(work: Path, sizes: Sizes, page: Path) -> float:
    """Write the section of the cluster; returns the coordinator's processor seconds per clip."""
    rows = [("workers", "clips", "seconds", "efficiency", "with start", "coordinator, share of a core")]
    ideal_s, most = sizes.clips * PAUSE_S, sizes.workers[-1]
    for workers in sizes.workers:
        span_s, all_s, own_s = crew_run(work, workers, workers * sizes.clips, PAUSE_S)
        rows.append(
            (
                str(workers),
                str(workers * sizes.clips),
                f"{span_s:.1f}",
                f"{ideal_s / span_s:.0%}",
                f"{all_s:.1f} s",
                f"{own_s / all_s:.1%}",
            )
        )
    count = sizes.unpaused
    span_s, _, own_s = crew_run(work, most, count, 0.0)
    words = [
        f"A worker's encoder is a pause of {PAUSE_S:g} s a clip ({sizes.clips} clips per worker); dealing, workers, "
        "commits (every 20 clips) and store are the real ones. Efficiency is the pause of a worker's share over the "
        "time from the first clip to the last commit. Start is that of Ray's processes and of Python.",
        f"Without a pause {most} workers made {count / span_s:,.0f} clips a second on this machine's "
        f"{os.cpu_count()} cores, which they and the coordinator share; it needed {1e6 * own_s / count:.0f} µs of "
        f"a core per clip. Alone on a core it would deal {count / own_s:,.0f} clips a second: that is where it ends.",
    ]
    record(f"A Ray cluster of 1 to {most} workers", "make bench-ray", rows, words, page=page)
    return own_s / count


def paper_section(work: Path, sizes: Sizes, deal_s: float, page: Path) -> None:
    """Write the section of 10 million clips on 64 GPUs."""
    found = race(work, sizes.writers, sizes.rows)
    per_row, commits = found["journal"] / found["rows"], CLIPS // COMMIT
    hours = CLIPS * PAUSE_S / GPUS / 3600
    rate, most = commits / hours / 3600, found["commits"] / found["seconds"]
    table: list[Sequence[str]] = [("what", f"measured: {sizes.writers} writers", "reckoned: 10 million clips, 64 GPUs")]
    size = f"{found['journal'] / 2**20:,.0f} MiB"
    table += [
        ("clips, one feature each", f"{found['rows']:,}", f"{CLIPS:,}"),
        ("time", f"{found['seconds']:,.0f} s, as fast as they can", f"{hours:.1f} h at {1 / PAUSE_S:g} clips/s a GPU"),
        ("commits", f"{found['commits']:,}", f"{commits:,}"),
        ("commits a second", f"{most:.1f}", f"{rate:.1f}"),
        ("tries per commit", f"{found['tries'] / found['commits']:.2f}", "fewer: the rate per writer is lower"),
        (
            "processor time of a writer per clip",
            f"{1e6 * found['own_s'] / found['rows']:.0f} µs",
            "the same, and the replay",
        ),
        ("journal", f"{size}, {per_row:.0f} bytes a clip", f"{CLIPS * per_row / 2**30:.1f} GiB"),
        ("replay of all of it", f"{found['replay_s']:.1f} s", f"{found['replay_s'] * CLIPS / found['rows']:.0f} s"),
        ("names in the journal, pages of 1,000", f"{-(-found['commits'] // 1000)}", f"{commits // 1000}"),
        ("coordinator, share of a core", "", f"{deal_s * GPUS / PAUSE_S:.0%}"),
        ("requests to a bucket", "", f"{2 * commits:,} puts, {commits * GPUS:,} gets of commits by the others"),
        ("price of those requests", "", f"${2 * commits * PUT_USD + commits * GPUS * GET_USD:,.2f}"),
    ]
    words = [
        f"A commit holds {COMMIT} clips. Reckoned are {GPUS} writers, each of which reads the commits of all others "
        "once: that, and not the race for a number, grows with the square. A compaction now and then, whose base file "
        "stands for all before it, bounds replay and listing. "
        f"Prices: ${1000 * PUT_USD:g} per 1,000 puts and lists, ${1000 * GET_USD:g} per 1,000 gets. Not counted: "
        "storage, and traffic out of the region."
    ]
    record("10 million clips on 64 GPUs, on paper", "make bench-ray", table, words, page=page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=lambda text: tuple(map(int, text.split(","))), default=(1, 2, 4, 8))
    parser.add_argument("--clips", type=int, default=100, help="of each worker")
    parser.add_argument("--unpaused", type=int, default=20_000, help="clips without a pause")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--writer", nargs=3)
    given = parser.parse_args()
    if given.writer:
        write_rows(given.writer[0], int(given.writer[1]), int(given.writer[2]))
        return
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        sizes = Sizes(given.workers, given.clips, given.unpaused, given.writers, given.rows)
        deal_s = growth_section(Path(folder), sizes, given.page)
        paper_section(Path(folder), sizes, deal_s, given.page)


if __name__ == "__main__":
    main()
