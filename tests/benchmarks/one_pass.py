"""The one pass against the peers' way: the same clips, the same random weights, one run, alternating.

    python tests/benchmarks/one_pass.py  # true sizes on a GPU (P1), else tiny encoders: overhead is measured (P2)

The peers' way, from their published scripts (MERTools, Emotion-LLaMA): one program per step, one clip at a time,
float32, results in one .npy per clip; the sound is decoded to a wav first, faces are cut out by a program of their own
and read back by each visual model, and the frame is decoded once more. What flatters it here: the models are emo's,
nothing is started anew per clip, and faces are found by CenterFace in place of OpenFace, which is slower. A second
baseline has every program decode for itself, which costs the search for faces once more. Where emo's faces come from
another detector (`--detector`), emo with CenterFace and the peers' search with that detector are timed in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import re
import shutil
import statistics
import struct
import sys
import tempfile
import threading
import time
import wave
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from record import PAGE, alternate, ratios, record, typed

from emo.extract.demo import EMOTIONS, generate_clip
from emo.extract.encoders.base import ClipInputs, Encoder
from emo.extract.encoders.registry import load_encoder
from emo.extract.media.container import open_media
from emo.extract.media.faces import DETECTORS, FaceConfig
from emo.extract.media.follow import FaceTracker
from emo.extract.media.reading import AUDIO_RATE
from emo.extract.session import ExtractArgs, open_session
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace

FEATURES = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")
STEPS = ("wav", "HL-UTT", "faces", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")


@dataclass
class Peers:
    """The peers' way over some clips."""

    clips: Sequence[Path]
    encoders: dict[str, Encoder]  # float32
    work: Path

    def __post_init__(self) -> None:
        self.config = FaceConfig()
        self.detector = self.config.open_detector()
        self.spent_s: dict[str, list[float]] = defaultdict(list)

    def run(self) -> None:
        """All programs, one after the other."""
        shutil.rmtree(self.work, ignore_errors=True)
        for step in STEPS:
            (self.work / step).mkdir(parents=True)
            start = time.perf_counter()
            for path in self.clips:
                {"wav": self.wav, "faces": self.faces}.get(step, lambda path, step=step: self.encode(path, step))(path)
            self.spent_s[step].append((time.perf_counter() - start) / len(self.clips))
            print(f"peers: {step} {self.spent_s[step][-1]:.2f} s per clip", file=sys.stderr, flush=True)

    def wav(self, path: Path) -> None:
        with open_media(path) as clip, wave.open(str(self.work / "wav" / f"{path.stem}.wav"), "wb") as file:
            file.setparams((1, 2, AUDIO_RATE, 0, "NONE", ""))
            file.writeframes((clip.audio() * 32768).astype("<i2").tobytes())

    def faces(self, path: Path) -> None:
        tracker = FaceTracker(self.detector, self.config, path.name)
        with open_media(path) as clip:
            for frame in clip.frames():
                tracker.feed(frame)
        np.save(self.work / "faces" / f"{path.stem}.npy", tracker.finish().choose().crops)

    def search_with(self, detector: str) -> Callable[[], None]:
        """The program that cuts out faces alone, with another detector."""
        config = FaceConfig(detector=detector)
        finder = config.open_detector()

        def run() -> None:
            (self.work / "faces").mkdir(parents=True, exist_ok=True)
            for path in self.clips:
                tracker = FaceTracker(finder, config, path.name)
                with open_media(path) as clip:
                    for frame in clip.frames():
                        tracker.feed(frame)
                np.save(self.work / "faces" / f"{path.stem}.{detector}.npy", tracker.finish().choose().crops)

        return run

    def encode(self, path: Path, step: str) -> None:
        encoder = self.encoders[step]
        inputs: dict[str, np.ndarray] = {}
        if encoder.needs == "audio":
            with wave.open(str(self.work / "wav" / f"{path.stem}.wav"), "rb") as file:
                inputs["audio"] = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        elif encoder.needs == "faces":
            inputs["faces"] = np.load(self.work / "faces" / f"{path.stem}.npy")
        else:
            with open_media(path) as clip:
                inputs["frame"] = next(iter(clip.frames())).rgb
        (output,) = encoder.encode([encoder.prepare(ClipInputs(**inputs))], encoder.levels[:1])
        np.save(self.work / step / f"{path.stem}.npy", next(iter(output.values())).array)


class Ours:
    """`emo extract` over some clips; models are loaded once, before anything is timed."""

    def __init__(
        self, folder: Path, profile: str, encoders: dict[str, Encoder], workers: int | None, detector: str
    ) -> None:
        self.folder, self.profile, self.encoders, self.workers = folder, profile, encoders, workers
        self.detector = detector
        self.shares: list[dict[str, float]] = []
        self.clips, self.opened, self.most_gib = 0, Counter[str](), 0.0

    def run(self) -> None:
        shutil.rmtree(self.folder / f"{self.detector}.emo", ignore_errors=True)
        toml = f'[store]\npath = "{self.detector}.emo"\n[data.bench]\nroot = "data"\nkind = "folder"\n'
        (self.folder / "emo.toml").write_text(toml + f'[extract]\nfaces_detector = "{self.detector}"\n')
        device = str(self.encoders["HL-UTT"].device)
        request = ExtractArgs(
            profile=self.profile, device=device, workers=self.workers, trace=self.folder / "trace.json"
        )
        session = open_session(load_workspace(self.folder), request)
        for encoder in session.job.devices[0]:
            encoder._model = self.encoders[encoder.name]._model
        start = time.perf_counter()
        with Memory() as memory:
            outcome = session.run()
        wall_s = time.perf_counter() - start
        self.most_gib = max(self.most_gib, memory.most_gib)
        assert not outcome.failures, outcome.failures[:3]
        self.clips = outcome.progress.done
        print(f"emo, {self.detector}: {self.clips} clips in {wall_s:.1f} s", file=sys.stderr, flush=True)
        self.shares.append(shares(self.folder / "trace.json", wall_s, self.opened))


def shares(trace: Path, wall_s: float, count: Counter[str]) -> dict[str, float]:
    """How long each row of a timeline was busy, as a share of the wall time; decoding rows together."""
    busy, rows = Counter[str](), dict[int, str]()
    for event in json.loads(trace.read_text()):
        if event["name"] == "thread_name":
            rows[event["tid"]] = event["args"]["name"]
        elif event["ph"] == "X":
            count[event["name"]] += 1
            row = rows[event["tid"]]
            if row.startswith("decode"):
                row = event["name"] if event["name"] in ("decode", "faces", "frames") else ""
            busy[row] += event["dur"]
    return {row: total / 1e6 / wall_s for row, total in busy.items() if row}


def make_clips(source: Path | None, folder: Path, copies: int, count: int) -> list[Path]:
    """Clips of a folder (or generated ones), `copies` times: equal but for their names and a few bytes at the end."""
    folder.mkdir(parents=True)
    if source is None:
        source = folder.parent / "generated"
        source.mkdir()
        for number in range(count):
            generate_clip(source / f"{number:03}.mp4", EMOTIONS[number % len(EMOTIONS)], number, 1.0 + number % 3)
    made, paths = [], sorted(source.glob("*.mp4"))
    for number in range(copies):
        for path in paths[:: max(1, len(paths) // count)][:count]:
            free = struct.pack(">I4sQ", 16, b"free", number)  # a box that says nothing, so that contents differ
            made.append(folder / f"{path.stem}_{number}.mp4")
            made[-1].write_bytes(path.read_bytes() + free)
    return made


def load(profile: str, device: str, dtype: str) -> tuple[dict[str, Encoder], dict[str, Encoder]]:
    """Encoders by name, in float32 and in another type, with the same weights."""
    made = {name: load_encoder(name, profile, None, device) for name in FEATURES}
    made["HL-UTT"].load()  # imports transformers, which must not happen in several threads at once
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda encoder: encoder.load(), made.values()))
    if dtype == "float32":
        return made, made
    twins = {name: load_encoder(name, profile, None, device, dtype) for name in FEATURES}
    for name, twin in twins.items():
        twin.use(copy.deepcopy(made[name]._model))
    return made, twins


class Memory:
    """Memory of a process and its children while something runs: proportional set sizes, in GiB.

    Args:
        root: The process; this one by default.
    """

    def __init__(self, root: int | None = None) -> None:
        self.root = root or os.getpid()
        self.most_gib, self._over = 0.0, threading.Event()
        self.seen: list[tuple[float, float]] = []  # seconds, GiB
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.seen.append((time.perf_counter(), tree_gib(self.root)))
            self.most_gib = max(self.most_gib, self.seen[-1][1])


def tree_gib(root: int) -> float:
    """Memory of a process and all below it, shared pages counted once."""
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(each.name)] = int((each / "stat").read_text().rsplit(")", 1)[1].split()[1])
    tree, total = {root}, 0
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    for process in tree:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 2**20


def cosines(peers: Peers, store: Path) -> dict[str, float]:
    """Least cosine between a row of ours and the same row in float32, by feature."""
    found = {}
    opened = open_store(store)
    for name in FEATURES:
        least = 1.0
        for path in peers.clips:
            a = np.load(peers.work / name / f"{path.stem}.npy").astype(np.float64)
            b = opened.get(name, path.stem).array.astype(np.float64)
            a, b = (a.mean(0, keepdims=True), b) if len(a) != len(b) else (a, b)
            least = min(least, float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()))
        found[name] = least
    return found


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", choices=("tiny", "random"), default="random" if cuda else "tiny")
    parser.add_argument("--detector", choices=tuple(DETECTORS), default="centerface", help="who finds emo's faces")
    parser.add_argument("--clips", type=Path, help="folder of mp4 files; generated ones by default")
    parser.add_argument("--count", type=int, default=12, help="clips of it for the peers' way")
    parser.add_argument("--copies", type=int, default=40 if cuda else 4, help="ours gets so many copies of each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--trace", type=Path, help="keep the timeline of the last round")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    device, dtype = ("cuda:0", "float16") if cuda else ("cpu", "float32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = make_clips(given.clips, folder / "data", given.copies, given.count)
        seconds = 0.0
        for path in clips:
            with open_media(path) as clip:
                seconds += clip.info.duration_s
        start = time.perf_counter()
        full, own = load(given.profile, device, dtype)
        print(f"loaded in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        peers = Peers(clips[: len(clips) // given.copies], full, folder / "peers")
        before = Ours(folder, given.profile, own, given.workers, "centerface")
        ours, ways = before, {"peers": peers.run, "emo": before.run}
        if given.detector != before.detector:
            ours = Ours(folder, given.profile, own, given.workers, given.detector)
            ways |= {"before": before.run, "emo": ours.run, "search": peers.search_with(given.detector)}
        processor: dict[str, list[float]] = {way: [] for way in ways}
        ways = {way: clocked(run, processor[way]) for way, run in ways.items()}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(given.rounds):
            for way, spent in alternate(ways, 1, warm=i == 0).items():
                times[way] += [each * (given.copies if way in ("peers", "search") else 1) for each in spent]
            near = cosines(peers, folder / f"{before.detector}.emo")
            report(
                given, times, processor, peers, ours, near, seconds / len(clips), cuda
            )  # at once: what is cut off loses nothing
        if given.trace:
            shutil.copy(folder / "trace.json", given.trace)


def detector_rows(times: dict[str, list[float]], share: float) -> list[tuple[str, str, str]]:
    """The same run with emo's other detector, and the peers' way with emo's new one."""
    if "before" not in times:
        return []
    middle, least, most = ratios(times, "before", "emo")
    rows = [("emo with centerface", f"{middle:.1f} ({least:.1f} to {most:.1f})", "")]
    peers, search = ratios(times, "peers", "emo")[0], ratios(times, "search", "emo")[0]
    same = peers * (1 - share) + search
    rows.append(("the peers' way, faces cut out once, found as emo finds them", f"{same:.1f}", ""))
    rows.append(("the same, every program decoding for itself", f"{same + search:.1f}", "faces twice"))
    return rows


def clocked(run: Callable[[], None], spent_s: list[float]) -> Callable[[], None]:
    """The same, noting the processor time of this process at each call."""

    def timed() -> None:
        start = time.process_time()
        run()
        spent_s.append(time.process_time() - start)

    return timed


def in_processor_time(processor: dict[str, list[float]], copies: int, share: float) -> str:
    """How the ways compare in processor time, of which other programs take nothing; the first round is left out."""
    spent = {way: statistics.median(each[1:]) for way, each in processor.items()}
    once = copies * spent["peers"] / spent["emo"]
    says = (
        f"In processor time the peers' way takes {once:.1f} times emo's, and {once * (1 + share):.1f} where every "
        "program decodes for itself; emo spreads it over all cores, the peers' way uses one"
    )
    if "before" in spent:
        says += f". emo with centerface takes {spent['before'] / spent['emo']:.1f} times as much"
    load, cores = os.getloadavg()[2], len(os.sched_getaffinity(0))
    return f"{says}. Load average while it ran: {load:.0f} on {cores} cores."


def report(
    given: argparse.Namespace,
    times: dict[str, list[float]],
    processor: dict[str, list[float]],
    peers: Peers,
    ours: Ours,
    near: dict[str, float],
    clip_s: float,
    cuda: bool,
) -> None:
    middle, least, most = ratios(times, "peers", "emo")
    spent = {step: statistics.median(each) for step, each in peers.spent_s.items()}
    total = sum(spent.values())
    alone = middle * (1 + spent["faces"] / total)
    goal = 10 if cuda or "before" in times else 3
    names = {"wav": "sound to wav", "faces": "faces found and cut out"}
    rows = [
        ("emo: one pass, batches across clips", "1.0", ""),
        ("the peers' way, faces cut out once", f"{middle:.1f} ({least:.1f} to {most:.1f})", "100 %"),
        *(
            (f"— {names.get(step, step)}", f"{middle * each / total:.2f}", f"{each / total:.0%}")
            for step, each in spent.items()
        ),
        ("the peers' way, every program decoding for itself", f"{alone:.1f}", "faces twice"),
        *detector_rows(times, spent["faces"] / total),
    ]
    mean = {row: statistics.median(each.get(row, 0.0) for each in ours.shares) for row in ours.shares[-1]}
    busy = ", ".join(f"{row} {share:.2f}" for row, share in sorted(mean.items(), key=lambda each: -each[1]))
    workers = given.workers or len(os.sched_getaffinity(0))
    kind = "real ones" if given.clips else "generated"
    words = [
        f"{ours.clips} clips of {clip_s:.1f} s on average ({kind}, in {given.copies} copies of different content), "
        f"{len(peers.clips)} of them for the peers' way, whose time per clip does not depend on their number. "
        + ("True sizes, random weights; " if given.profile == "random" else "Tiny networks: overhead is measured; ")
        + ("float16 autocast against float32. " if cuda else "float32 on both sides. ")
        + f"{len(times['emo'])} rounds after one that is not counted, in turn; medians of each round's ratio. Loading "
        "models is not counted, starting workers is.",
        f"emo's faces by {ours.detector}, the peers' by centerface. Goal {goal}x against programs that decode for "
        f"themselves: {'reached' if alone >= goal else 'missed'}.",
        in_processor_time(processor, given.copies, spent["faces"] / total),
        f"Busy, in shares of the wall time: {busy}. `decode` is the sum of {workers} workers, waiting for faces "
        "included; `frames` and `faces` are parts of it.",
        f"Files opened per clip: {ours.opened['open'] / max(1, ours.opened['decode']):.2f}.",
        "Least cosine of a row of emo's, with centerface, with the same row of the peers' way: "
        + ", ".join(f"{name} {value:.5f}" for name, value in near.items())
        + ".",
    ]
    slow = f"finding and following faces is {mean['faces'] / mean['decode']:.0%} of the workers' time"
    words.append(f"What limits it now: the workers; {slow}.")
    if cuda:
        clips_s = ours.clips / statistics.median(times["emo"])
        device = next(share for row, share in mean.items() if row.startswith("device"))
        words[1] += (
            f" {clips_s:.1f} clips/s, {clips_s * clip_s:.0f} x real time. Stretch, GPU busy 85 % of the wall time: "
            f"{'reached' if device >= 0.85 else 'missed'} ({device:.0%}; the time between events before and after each "
            f"batch). Most host memory of the pass with its workers (P7): {ours.most_gib:.1f} GiB, which includes the "
            "benchmark's own."
        )
    title = "P1 The pass on a GPU" if cuda else "P2 The pass on a CPU"
    if "before" in times:
        title += f", faces by {ours.detector}"
    record(title, typed(), [("way", "time, emo = 1", "share"), *rows], words, given.page)
    for row in (*rows, *words):
        print(row, flush=True)


if __name__ == "__main__":
    main()
