"""The store against other ways of keeping features: reading random batches, writing, and cost as the store grows.

    python tests/benchmarks/store.py
    python tests/benchmarks/store.py --only grow --clips 1000,100000,1000000

Every way is asked for a batch by clip ids, gives the same bytes (checked before anything is timed), and reads from the
page cache. The peers are set up as fast as their documentation says: nothing compressed, one chunk per clip.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import h5py
import lmdb
import numpy as np
import torch
import torch.nn.functional as F
import zarr
from growth import FEATURES, STEPS, clip_id, extend, grown_clips, media_id, spec, touch
from record import PAGE, alternate, ratios, record, typed

from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

HERE = Path(__file__).resolve().parent
Array = np.ndarray
Read = Callable[[Sequence[str]], Array]
MAPPED, COPIED, EMO = "raw np.memmap of one array", "copy from memory to memory, rows known", "emo"
ROWS = "emo, as training has it: names turned into rows once"
NAMES = "names turned into rows, nothing read"
PEERS = f"h5py {h5py.__version__}, lmdb {lmdb.__version__}, zarr {zarr.__version__}"
QUICK = (MAPPED, COPIED, EMO, ROWS, NAMES, "LMDB")


# --- P6: reading -----------------------------------------------------------------------------------------------------


@dataclass
class Kind:
    """What is read: records `(R, D)` of one feature of `clips` clips, in batches of `batch`.

    Attributes:
        ids: Batches that are asked for, as clip ids; drawn once, the same for every way.
        slow: Batches that are timed of a way that opens files or chunks, and needs a hundred times as long.
    """

    spec: EncoderSpec
    clips: int
    batch: int
    batches: int
    slow: int
    data: Array = field(init=False)  # (N, R, D)
    ids: list[list[str]] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        dtype = "f2" if self.spec.level == "tokens" else "f4"
        self.data = np.empty((self.clips, self.spec.rows or 1, self.spec.dim), dtype)
        for each in self.data:
            each[:] = rng.standard_normal(each.shape, np.float32)
        drawn = rng.integers(0, self.clips, (self.batches, self.batch))
        self.ids = [[clip_id(i) for i in batch] for batch in drawn.tolist()]

    @property
    def row_of(self) -> dict[str, int]:
        return {clip_id(i): i for i in range(self.clips)}


def fill(store: Store, kind: Kind) -> None:
    """Writes the records as `emo extract` does: through the writer, committed every 200 clips."""
    with store.writer() as writer:
        for i, each in enumerate(kind.data):
            writer.clip(clip_id(i), media_id(i))
            writer.add(kind.spec, media_id(i), each)


def readers(kind: Kind, work: Path) -> dict[str, Read]:
    """Ways to get a batch `(B, R, D)` from clip ids. Large records go into one buffer that is used again."""
    shape, dtype, row_of = kind.data.shape[1:], kind.data.dtype, kind.row_of
    whole = kind.data.reshape(kind.clips, -1)
    utt = kind.spec.level == "utt"
    out = np.empty((kind.batch, *shape), dtype)

    def each(read: Callable[[str, Array], None]) -> Read:
        """A way that reads record by record."""

        def batch(ids: Sequence[str]) -> Array:
            for i, clip in enumerate(ids):
                read(clip, out[i])
            return out

        return batch

    store = Store.create(work / "a.emo")
    fill(store, kind)
    store = Store.open(store.path)

    def emo(ids: Sequence[str]) -> Array:
        if utt:
            return store.utterances(kind.spec.key, ids)
        store.read_into(kind.spec.key, ids, out)
        return out

    whole.tofile(work / "one.bin")
    mapped = np.memmap(work / "one.bin", dtype, "r", shape=whole.shape)

    def memmap(ids: Sequence[str]) -> Array:
        return mapped[[row_of[clip] for clip in ids]]

    def memmap_record(clip: str, to: Array) -> None:
        to[:] = mapped[row_of[clip]].reshape(shape)

    known = {id(ids): np.array([row_of[clip] for clip in ids]) for ids in kind.ids}

    def memory(ids: Sequence[str]) -> Array:
        if utt:
            return whole.take(known[id(ids)], axis=0)
        for i, row in enumerate(known[id(ids)]):
            out[i] = kind.data[row]
        return out

    matrix = torch.from_numpy(store.utterances(kind.spec.key, list(row_of))) if utt else None  # in this order
    taken = {key: torch.from_numpy(rows) for key, rows in known.items()}

    def training(ids: Sequence[str]) -> Array:
        return F.embedding(taken[id(ids)], matrix).numpy()  # as stack.py takes the rows of a batch

    (work / "npy").mkdir()
    for i, array in enumerate(kind.data):
        np.save(work / "npy" / f"{clip_id(i)}.npy", array)
    folder = str(work / "npy")

    def npy(clip: str, to: Array) -> None:
        to[:] = np.load(f"{folder}/{clip}.npy")

    with h5py.File(work / "a.h5", "w") as file:
        file["features"] = kind.data
    features = h5py.File(work / "a.h5", "r")["features"]

    def hdf5(clip: str, to: Array) -> None:
        features.read_direct(to, np.s_[row_of[clip]])

    database = lmdb.open(str(work / "lmdb"), map_size=2 * kind.data.nbytes + (64 << 20))
    with database.begin(write=True) as change:
        for i, array in enumerate(kind.data):
            change.put(clip_id(i).encode(), array.data)
    look = database.begin(buffers=True)

    def lightning(clip: str, to: Array) -> None:
        to[:] = np.frombuffer(look.get(clip.encode()), dtype).reshape(shape)

    place = {"chunks": (1, *shape), "compressors": None, "dtype": dtype}
    plain = zarr.create_array(work / "plain.zarr", shape=kind.data.shape, **place)
    plain[:] = kind.data

    def chunks(ids: Sequence[str]) -> Array:
        return plain.oindex[[row_of[clip] for clip in ids]]  # several chunks at once, as zarr likes it

    own, arrays = _places(store, kind.spec)

    def own_zarr(clip: str, to: Array) -> None:
        segment, start = own[clip]
        to[:] = arrays[segment][start : start + len(to)]

    return {
        COPIED: memory,
        MAPPED: memmap if utt else each(memmap_record),
        EMO: emo,
        **({ROWS: training} if utt else {}),
        "LMDB": each(lightning),
        "np.load of one file per clip": each(npy),
        "h5py, one dataset": each(hdf5),
        "zarr-python, one chunk per clip": chunks,
        "zarr-python on emo's store": each(own_zarr),
    }


def _places(store: Store, what: EncoderSpec) -> tuple[dict[str, tuple[str, int]], dict[str, zarr.Array]]:
    """Segment and first row of each clip's record, and the segments as zarr opens them."""
    index = store.index
    records = index.tables[what.fingerprint].records
    names = [index.segments[i].name for i in records["segment"]]
    clips = [store.clip_of(index.media_names[i]) or "" for i in records["media"]]
    places = zip(names, records["start"].tolist(), strict=True)
    home = store.path / "features.zarr" / what.key
    return dict(zip(clips, places, strict=True)), {name: zarr.open_array(home / name, mode="r") for name in set(names)}


def looked_up(kind: Kind) -> Read:
    """The rows of a batch, by a dict of all names: what every way by name has to do."""
    row_of = kind.row_of
    return lambda ids: np.fromiter(map(row_of.__getitem__, ids), "i8", len(ids))


def first_reading(kind: Kind, work: Path) -> Callable[[], None]:
    """A store that is opened anew and read once, each record by its first reader: its checksum is computed."""
    out = np.empty((kind.batch, *kind.data.shape[1:]), kind.data.dtype)
    order = [clip_id(i) for i in np.random.default_rng(1).permutation(kind.clips).tolist()]
    batches = [order[i : i + kind.batch] for i in range(0, kind.clips - kind.batch + 1, kind.batch)]

    def read() -> None:
        store = Store.open(work / "a.emo")
        for ids in batches:
            store.read_into(kind.spec.key, ids, out)

    read.batches = len(batches)  # type: ignore[attr-defined]
    return read


def read_section(given: argparse.Namespace, work: Path) -> None:
    kinds = {
        "utterance vectors": Kind(spec("HL-UTT", "utt", 1, given.dim), given.utterances, 64, given.batches, 20),
        "EVA records": Kind(spec("eva_g_448", "tokens", given.tokens, 1408), given.records, 16, 10, 10),
    }
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for title, kind in kinds.items():
        place = work / title
        place.mkdir(parents=True)
        ways = readers(kind, place)
        truth = np.stack([kind.data[kind.row_of[clip]] for clip in kind.ids[0]])
        for way, read in ways.items():
            assert read(kind.ids[0]).tobytes() == truth.tobytes(), f"{way} gives other bytes"
        counts = {way: kind.batches if way in QUICK else min(kind.slow, kind.batches) for way in ways}
        counts[NAMES] = kind.batches
        runs = {way: _all(read, kind.ids[: counts[way]]) for way, read in (ways | {NAMES: looked_up(kind)}).items()}
        if kind.spec.level == "tokens":
            first = first_reading(kind, place)
            runs["emo, first reading of each record (checksum computed)"] = first
            counts["emo, first reading of each record (checksum computed)"] = first.batches  # type: ignore[attr-defined]
        times = alternate(runs, given.rounds)
        per_batch = {way: [each / counts[way] for each in seconds] for way, seconds in times.items()}
        found[title] = {way: ratios(per_batch, MAPPED, way) for way in runs if way != NAMES}
        found[title]["of the copy"] = ratios(per_batch, COPIED, EMO)
        found[title]["names of the copy"] = ratios(per_batch, NAMES, COPIED)
        found[title]["mapping of the copy"] = ratios(per_batch, COPIED, MAPPED)
        found[title]["rows of the copy"] = ratios(per_batch, COPIED, ROWS if ROWS in runs else EMO)
        shutil.rmtree(place)
    header = ["way", *(f"{title}, speed" for title in kinds)]
    ways = dict.fromkeys(way for each in found.values() for way in each if not way.endswith("of the copy"))
    rows = [(way, *(_range(each.get(way)) for each in found.values())) for way in ways]
    utt, eva = kinds.values()
    speeds = [found[title][EMO][0] for title in kinds]
    copies = [found[title]["of the copy"][0] for title in kinds]
    vectors, records = found.values()
    trained, names = vectors["rows of the copy"][0], vectors["names of the copy"][0]
    mapping = records["mapping of the copy"][0]
    words = [
        f"Speed relative to np.memmap (more is faster; in brackets the range over {given.rounds} rounds), warm page "
        f"cache. Utterances: random batches of {utt.batch} of {utt.clips:,} vectors of {given.dim} float32; EVA: "
        f"random batches of {eva.batch} of {eva.clips:,} records of {given.tokens} x 1408 float16, into a buffer that "
        "is used again. Asked for by clip ids, each way turns them into rows by itself (a dict where it brings "
        "nothing); only the copy and the row of training are told the rows. All gave the same bytes. emo is "
        f"`Store.utterances` and `Store.read_into`, by the feature's name. {PEERS}.",
        "emo keeps the utterance vectors of a feature in memory, read whole and checked at the first call, and "
        "computes the checksum of a token record when a process first reads it; after that the page cache is trusted "
        "as memory is. Training asks for the vectors of all its clips once, and takes the rows of a batch by number "
        "(heads with torch, as here; language models with numpy); token records it reads by name.",
        f"Goal, at least 0.8 of np.memmap: {_met(min(speeds) >= 0.8)} ({speeds[0]:.2f} and {speeds[1]:.2f}). Goal, 0.8 "
        f"of the copy for utterances and 0.95 for EVA: utterances {_met(copies[0] >= 0.8)} ({copies[0]:.2f} of its "
        f"speed), EVA {_met(copies[1] >= 0.95)} ({copies[1]:.2f}); utterances as training has them "
        f"{_met(trained >= 0.8)} ({trained:.2f}).",
        f"What limits it now: turning {utt.batch} names into rows by a dict, and nothing else, takes {names:.2f} of "
        f"the time of the copy, so that no way by name has more than {1 / (1 + names):.2f} of its speed; for EVA, "
        f"memory bandwidth of one core, and the mapping of a file, with which np.memmap itself has {mapping:.2f} of "
        "the copy's speed.",
    ]
    record("P6 Reading random batches from the store", typed(), [header, *rows], words, given.page)
    _print([header, *rows], words)


def _all(read: Read, batches: Sequence[Sequence[str]]) -> Callable[[], None]:
    def run() -> None:
        for ids in batches:
            read(ids)

    return run


# --- P6: writing -----------------------------------------------------------------------------------------------------


def writers(kind: Kind, work: Path) -> dict[str, Callable[[], None]]:
    """Ways to write all records to the disk, each to a place of its own; the last removes what they made."""

    def one_file() -> None:
        with open(work / "one.bin", "wb", buffering=0) as file:
            for each in kind.data:
                file.write(each.data)
            os.fsync(file.fileno())

    def emo() -> None:
        fill(Store.create(work / "a.emo"), kind)

    def npy(sync: bool) -> None:
        (work / "npy").mkdir(exist_ok=True)
        for i, each in enumerate(kind.data):
            with open(work / "npy" / f"{sync:d}-{clip_id(i)}.npy", "wb") as file:
                np.save(file, each)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())

    def hdf5() -> None:
        with h5py.File(work / "a.h5", "w") as file:
            features = file.create_dataset("features", kind.data.shape, kind.data.dtype)
            for i, each in enumerate(kind.data):
                features[i] = each
            file.flush()
        with open(work / "a.h5", "rb") as done:
            os.fsync(done.fileno())

    def lightning() -> None:
        database = lmdb.open(str(work / "lmdb"), map_size=2 * kind.data.nbytes + (64 << 20))
        for first in range(0, kind.clips, 200):
            with database.begin(write=True) as change:
                for i in range(first, min(first + 200, kind.clips)):
                    change.put(clip_id(i).encode(), kind.data[i].data)
        database.close()

    def chunks() -> None:
        shape = {"shape": kind.data.shape, "chunks": (1, *kind.data.shape[1:])}
        array = zarr.create_array(work / "plain.zarr", compressors=None, dtype=kind.data.dtype, **shape)
        for i, each in enumerate(kind.data):
            array[i] = each

    def clean() -> None:
        shutil.rmtree(work)
        work.mkdir()

    work.mkdir(parents=True)
    return {
        "one file, one fsync": one_file,
        "emo, commit and fsync every 200 clips": emo,
        "LMDB, commit and fsync every 200 clips": lightning,
        "h5py, one dataset, one fsync": hdf5,
        "np.save of one file per clip, nothing synced": lambda: npy(False),
        "np.save of one file per clip, fsync of each": lambda: npy(True),
        "zarr-python, one chunk per clip, nothing synced": chunks,
        "": clean,
    }


def write_section(given: argparse.Namespace, work: Path) -> None:
    kinds = {
        "utterance vectors": Kind(spec("HL-UTT", "utt", 1, given.dim), given.write_utterances, 1, 1, 1),
        "EVA records": Kind(spec("eva_g_448", "tokens", given.tokens, 1408), given.write_records, 1, 1, 1),
    }
    found = {}
    for title, kind in kinds.items():
        ways = writers(kind, work / title)
        times = alternate(ways, given.rounds)
        found[title] = {way: ratios(times, way, "one file, one fsync") for way in ways if way}
    header = ["way", *(f"{title}, time" for title in kinds)]
    rows = [(way, *(_range(each[way]) for each in found.values())) for way in ways if way]
    utt, eva = kinds.values()
    words = [
        f"Time relative to writing the same bytes into one file (less is faster; range over {given.rounds} rounds). "
        f"{utt.clips:,} vectors of {given.dim} float32 and {eva.clips:,} records of {given.tokens} x 1408 float16, one "
        "by one, into a new place each time. emo checks shape and values, computes a checksum, and keeps a journal. "
        f"{PEERS}.",
        "What limits it now: for small vectors the interpreter, a few microseconds per record, and per commit the "
        "fsyncs that make it whole or invisible; for EVA records the disk, then the check that all values are finite "
        "and the checksum.",
    ]
    record("P6 Writing features", typed(), [header, *rows], words, given.page)
    _print([header, *rows], words)


# --- P8 and P9: growth -----------------------------------------------------------------------------------------------


def grow_section(given: argparse.Namespace, work: Path) -> None:
    work.mkdir(parents=True)
    (work / "media").mkdir()
    sizes, some = sorted(given.clips), min(given.clips)
    for count in sizes:
        extend(Store.create(work / f"{count}.emo"), touch(grown_clips(work, 0, count)), given.dim_grown)
    steps: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        for step in STEPS:
            for count in sizes:
                command = [sys.executable, str(HERE / "growth.py"), step, str(work), str(count), str(given.dim_grown)]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                steps.setdefault((step, count), []).append(json.loads(said.stdout))
    seconds = {key: median(each["seconds"] for each in found) for key, found in steps.items()}
    memory = {key: median(each["added_mib"] for each in found) for key, found in steps.items()}
    writes = _appended(given, work, sizes, some)

    names = [f"{count:,} clips" for count in sizes]
    per_clip = {step: [seconds[step, count] / count for count in sizes] for step in STEPS}
    rows = [("write", *(f"{each:.2f}" for each in writes), *("" for _ in sizes))]
    for step, costs in per_clip.items():
        peaks = [f"{memory[step, count]:.0f}" for count in sizes]
        rows.append((step, *(f"{cost / costs[0]:.2f}" for cost in costs), *peaks))
    header = ["step", *(f"cost per clip, {name}" for name in names), *(f"MiB, {name}" for name in names)]
    resume = "decide what is left (journal replayed, every media file looked at)"
    goals = {100_000: 2.0, 1_000_000: 10.0}
    decided = [
        f"{count:,} clips in {seconds[resume, count]:.2f} s (goal {goals[count]:.0f} s: "
        f"{_met(seconds[resume, count] < goals[count])})"
        for count in sizes
        if count in goals
    ]
    largest = sizes[-1]
    verify = seconds["emo store verify", largest] / seconds["read of every byte and its CRC-32C", largest]
    worst = {step: costs[-1] / costs[0] for step, costs in per_clip.items()} | {"write": writes[-1]}
    over = [f"{step} ({worst[step]:.2f})" for step in ("write", "load every vector") if worst[step] > 1.1]
    words = [
        f"Cost per clip relative to {names[0]}, and memory that the step adds in a process of its own (a list of the "
        f"clips is there already), medians of {given.rounds} rounds over all sizes in turn. Stores of {FEATURES} "
        f"utterance features of {given.dim_grown} float32, smaller than real ones so that a million clips fit; written "
        f"through `Store.writer`, committed every 200 clips, not compacted. Write: the next {some:,} clips of a store "
        f"that has so many, against the first {some:,} of a new one, alternating.",
        *([f"P8, deciding what is left: {'; '.join(decided)}."] if decided else []),
        f"`emo store verify` of {largest:,} clips took {verify:.2f} times the read of every byte of the store and its "
        "CRC-32C.",
        f"P9, cost per clip of writing and reading within 10 % of that at {names[0]}: "
        + ("met." if not over else f"missed by {', '.join(over)}."),
        "What limits it now: deciding, on one core a system call per media file, and on another the paths of all files "
        "as texts (pathlib makes them one by one) and the names of all clips as Python strings; verifying and loading, "
        "opening the small segments of many commits, which `emo store compact` merges: a matrix that lies in one "
        "segment is mapped, and its checksums are compared in one go.",
    ]
    record("P8, P9 Stores of many clips", typed(), [header, *rows], words, given.page)
    _print([header, *rows], words)


def _appended(given: argparse.Namespace, work: Path, sizes: Sequence[int], some: int) -> list[float]:
    """Cost of writing the next `some` clips of each store, relative to the first ones of a new store."""
    stores = {count: Store.open(work / f"{count}.emo") for count in sizes[1:]}
    times: dict[int, list[float]] = {count: [] for count in sizes}
    for i in range(given.rounds + 1):
        batch = touch(grown_clips(work, sizes[-1] + i * some, some))
        for count in sizes:
            shutil.rmtree(work / "new.emo", ignore_errors=True)
            store = stores.get(count) or Store.create(work / "new.emo")
            seconds = extend(store, batch, given.dim_grown)
            if i:
                times[count].append(seconds)
    return [median(a / b for a, b in zip(times[count], times[sizes[0]], strict=True)) for count in sizes]


# --- the command -----------------------------------------------------------------------------------------------------


def _range(found: tuple[float, float, float] | None) -> str:
    return "" if found is None else f"{found[0]:.3g} ({found[1]:.3g} to {found[2]:.3g})"


def _met(yes: bool) -> str:
    return "met" if yes else "missed"


def _print(table: Sequence[Sequence[str]], words: Sequence[str]) -> None:
    for row in table:
        print("  ".join(row))
    print(*words, sep="\n", end="\n\n")


SECTIONS: Mapping[str, Callable[[argparse.Namespace, Path], None]] = {
    "read": read_section,
    "write": write_section,
    "grow": grow_section,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SECTIONS, help="one section in place of all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dim", type=int, default=1024, help="columns of an utterance vector")
    parser.add_argument("--tokens", type=int, default=1025, help="rows of an EVA record")
    parser.add_argument("--utterances", type=int, default=20_000, help="vectors to read from")
    parser.add_argument("--records", type=int, default=128, help="EVA records to read from")
    parser.add_argument("--batches", type=int, default=1000, help="batches of utterances per round")
    parser.add_argument("--write-utterances", type=int, default=2000)
    parser.add_argument("--write-records", type=int, default=64)
    parser.add_argument("--clips", type=lambda text: [int(each) for each in text.split(",")], default=[1000, 100_000])
    parser.add_argument("--dim-grown", type=int, default=256, help="columns of each feature of the growing stores")
    parser.add_argument("--work", type=Path, help="folder for what is written; default: a temporary one")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the sections into")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as name:
        for section, run in SECTIONS.items():
            if given.only in (None, section):
                run(given, Path(name) / section)


if __name__ == "__main__":
    main()
