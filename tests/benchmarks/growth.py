"""Made-up stores of many clips, and single steps over them, each in a process of its own (`store.py` starts them).

python tests/benchmarks/growth.py STEP FOLDER CLIPS DIM
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from emo.extract.run.plan import plan
from emo.featstore.clip import Clip, FileId
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

FEATURES = 4


def spec(name: str, level: str, rows: int, dim: int) -> EncoderSpec:
    """A recipe of random numbers."""
    return EncoderSpec(name, "bench", "frame", level, dim, rows, "random", "seed:0")


def media_id(i: int) -> str:
    return f"{i:032x}"


def clip_id(i: int) -> str:
    return f"sample_{i:08d}"


def grown_specs(dim: int) -> list[EncoderSpec]:
    return [spec(f"F{i}-UTT", "utt", 1, dim) for i in range(FEATURES)]


def grown_clips(work: Path, first: int, count: int) -> Iterator[Clip]:
    """Clips whose media files are there (and empty: a resume looks at their size and time only)."""
    for i in range(first, first + count):
        yield Clip(clip_id(i), work / "media" / f"{clip_id(i)}.mp4")


def touch(clips: Iterable[Clip]) -> list[tuple[Clip, FileId]]:
    """Makes the media files; their ids are made up, as a hash would be."""
    made = []
    for clip in clips:
        assert clip.media is not None
        if not clip.media.exists():  # the stores of all sizes share the first ones
            clip.media.touch()
        stat = clip.media.stat()
        made.append((clip, FileId(media_id(int(clip.id[7:])), stat.st_size, stat.st_mtime_ns)))
    return made


def extend(store: Store, clips: Sequence[tuple[Clip, FileId]], dim: int) -> float:
    """Writes the features of clips through a writer and returns the seconds it took, the last commit included."""
    specs = grown_specs(dim)
    rows = np.random.default_rng(2).standard_normal((64, 1, dim), np.float32)
    store.refresh()
    start = time.perf_counter()
    with store.writer() as writer:
        for i, (clip, file) in enumerate(clips):
            writer.clip(clip.id, file, clip.media)
            for j, each in enumerate(specs):
                writer.add(each, file.media, rows[(i + j) % 64])
    return time.perf_counter() - start


def step_open(path: Path, clips: list[Clip], dim: int) -> float:
    return _seconds(lambda: Store.open(path).index)


def step_resume(path: Path, clips: list[Clip], dim: int) -> float:
    def decide() -> None:
        left = plan(Store.open(path), clips, grown_specs(dim))
        assert (left.done, len(left.jobs)) == (len(clips), 0)

    return _seconds(decide)


def step_info(path: Path, clips: list[Clip], dim: int) -> float:
    return _seconds(lambda: Store.open(path).info())


def step_verify(path: Path, clips: list[Clip], dim: int) -> float:
    def verify() -> None:
        assert Store.open(path).verify() == []

    return _seconds(verify)


def step_plain(path: Path, clips: list[Clip], dim: int) -> float:
    """What `verify` is held against: every data file read whole, and its CRC-32C."""

    def checksum() -> None:
        for folder, _, names in os.walk(path):
            for name in names:
                with open(os.path.join(folder, name), "rb", buffering=0) as file:
                    google_crc32c.value(file.read())

    return _seconds(checksum)


def step_read(path: Path, clips: list[Clip], dim: int) -> float:
    """Every vector of every clip, checked, as training loads them."""
    store, ids = Store.open(path), [clip.id for clip in clips]
    store.refresh()

    def load() -> None:
        for each in grown_specs(dim):
            store.utterances(each, ids)

    return _seconds(load)


STEPS = {
    "open and replay the journal": step_open,
    "decide what is left (journal replayed, every media file looked at)": step_resume,
    "emo store info": step_info,
    "emo store verify": step_verify,
    "read of every byte and its CRC-32C": step_plain,
    "load every vector": step_read,
}


def run_step(step: str, work: Path, count: int, dim: int) -> None:
    """One step, alone in this process; says its seconds, and the memory it needed on top of the list of clips."""
    clips = list(grown_clips(work, 0, count))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _status_mib("VmRSS")
    seconds = STEPS[step](work / f"{count}.emo", clips, dim)
    print(json.dumps({"seconds": seconds, "added_mib": _status_mib("VmHWM") - before}))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _status_mib(field: str) -> float:
    """Memory of this process as Linux has it: `VmRSS` now, `VmHWM` at its peak."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    run_step(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
