"""The one pass: decode pool -> device lanes, in batches across clips -> one writer.

Each clip is opened and decoded once, whatever the number of encoders. Decoding (a pool of threads or processes),
computing (`extract.lane`, one per device) and writing (one thread) overlap; bounded queues between them keep memory
flat. A clip that fails one encoder keeps the others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from emo.extract.encoders.base import Encoder, Output
from emo.extract.frame_choice import chosen_by, index_spec
from emo.extract.media.detect import CenterFace, Detector
from emo.extract.media.facenet import DetectionServer
from emo.extract.media.faces import COLUMNS, FaceConfig
from emo.extract.media.reading import FrameTable, Reading, as_failure
from emo.extract.run.decode import ClipDecoder, Decoded
from emo.extract.run.lane import Lane, Ready, put
from emo.extract.run.plan import Job, left
from emo.extract.run.trace import Trace
from emo.extract.run.workers import TRIM_EVERY, DecodePool, trim
from emo.featstore.address import absolute
from emo.featstore.clip import Clip, MediaId
from emo.featstore.errors import MediaError, StoreError
from emo.featstore.fetch import at_hand
from emo.featstore.page import span_text
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.storage.writer import Writer
from emo.featstore.text import counted
from emo.featstore.transcripts import LANGUAGES, hash_of, hash_spec, kept_hashes


@dataclass(frozen=True)
class PassOptions:
    """How a pass runs.

    Attributes:
        faces: Face settings; `None` takes the crops of each clip's OpenFace folder, and nothing is detected.
        frame: Frame that whole-image encoders see: `first`, `middle`, or an index per clip.
        reading: How media files are read.
        workers: Threads that decode, or processes.
        processes: Whether they are processes, for more than one interpreter can feed.
        detect_on: Device that finds faces for all of them; `None` leaves it to the workers.
        commit_every: Clips per commit.
        commit_every_s: Longest time between commits.
    """

    faces: FaceConfig | None = field(default_factory=FaceConfig)
    frame: str | FrameTable = "first"
    reading: Reading = field(default_factory=Reading)
    workers: int = 2
    processes: bool = False
    detect_on: torch.device | None = None
    commit_every: int = 200
    commit_every_s: float = 30.0


@dataclass
class Progress:
    """Counters of a running pass; read by whoever draws, written by the pass."""

    total: int = 0
    decoded: int = 0
    done: int = 0
    stored: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    media_s: float = 0.0
    stopping: bool = False
    started_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def clips_per_s(self) -> float:
        return self.done / max(self.elapsed_s, 1e-9)

    @property
    def times_real_time(self) -> float:
        """Seconds of media per second of wall time."""
        return self.media_s / max(self.elapsed_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds to go by the slower of decoding and all that follows; `None` before a clip is through."""
        if not self.done:
            return None
        return max((self.total - n) * self.elapsed_s / n for n in (self.done, max(self.decoded, self.done)))

    def says(self) -> str:
        """How far it is, in one line."""
        words = [f"{self.done:,} of {counted(self.total, 'clip')}"]
        if self.decoded > self.done:
            words[0] += f" ({self.decoded:,} decoded)"
        if self.left_s is not None:
            speed = self.times_real_time
            words += [f"{self.clips_per_s:.1f} clips/s", f"{speed:{'.0f' if speed >= 10 else '.2g'}}x real time"]
            words.append(f"about {span_text(self.left_s)} left")
        failed = ", ".join(f"{kind} {n:,}" for kind, n in list(self.failed.items()))
        return ", ".join(words) + (f"; failed: {failed}" if failed else "")


def faces_spec(recipe: Mapping[str, Any]) -> EncoderSpec:
    """Spec of the table of boxes, landmarks and track choice that a pass keeps beside the features."""
    return EncoderSpec(
        name="faces",
        encoder="faces",
        modality="face",
        level="frame",
        dim=len(COLUMNS),
        rows=None,
        profile="paper",
        weights=str(recipe["detector"]["weights"]),
        recipe={"columns": list(COLUMNS), "faces": recipe, "stored_dtype": "float32"},
    )


class Pass:
    """One run over a plan.

    Args:
        devices: Encoders per device; every device has the same ones, by name.
        levels: Level wanted of each encoder, by encoder name.
        options: How to run.
        retry_failed: Try again what failed for good.
        detector: Finds faces, for all decoding threads; needed where an encoder needs faces and `options.faces` is set.

    Attributes:
        trace: Timeline; none is kept unless one is set before `run`.
    """

    def __init__(
        self,
        devices: Sequence[Sequence[Encoder]],
        levels: Mapping[str, str],
        options: PassOptions,
        *,
        retry_failed: bool = False,
        detector: Detector | None = None,
    ) -> None:
        self.devices = devices
        self.encoders = {encoder.name: encoder for encoder in devices[0]}
        self.specs = {name: encoder.spec(levels[name]) for name, encoder in self.encoders.items()}
        self.levels = levels
        self.options = options
        self.retry_failed = retry_failed
        self.progress = Progress()
        self.failures: list[tuple[str, EncoderSpec, MediaError]] = []  # of this pass, by clip
        self.notes: dict[str, dict[str, str]] = {}  # a sentence per clip, by kind
        self.decoder = ClipDecoder(self.encoders, options.faces, options.frame, detector, options.reading)
        self.trace = Trace()
        self._seen: dict[str, Clip] = {}  # the first clip of each content
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        # One waiting room per stage; their sizes bound what is in memory at once.
        self._ready: queue.Queue[Ready | None] = queue.Queue(maxsize=options.workers + 2)
        self._outputs: queue.Queue[tuple[Ready, str, Output | MediaError] | Ready | None] = queue.Queue(maxsize=64)

    def stop(self) -> None:
        """Take no new clips; finish and commit those under way."""
        self.progress.stopping = True
        self._stop.set()

    def again(self) -> Pass:
        """Return a pass of the same models and settings that has not run."""
        detector = self.decoder.detector
        return Pass(self.devices, self.levels, self.options, retry_failed=self.retry_failed, detector=detector)

    def run(self, store: Store, jobs: Iterable[Job], environment: dict[str, str] | None = None) -> Progress:
        """Process the jobs, which may come as it goes, and commit their features. A pass runs once.

        Raises:
            StoreError: The store cannot be written; everything committed before is intact.
            ModelError: A device failed in a way that is not one clip's fault.
        """
        self.store = store
        self.progress.total = len(jobs) if isinstance(jobs, Sized) else 0
        self.progress.started_s = time.monotonic()
        writer = store.writer(
            commit_every=self.options.commit_every,
            commit_every_s=self.options.commit_every_s,
            environment=environment or {},
        )
        patience = (self.options.commit_every, self.options.commit_every_s)
        hooks = (self._announce, self._emit, self._fail, self._dead)
        lanes = [Lane(each, self.levels, self._ready, *hooks, patience, self.trace) for each in self.devices]
        scribe = threading.Thread(target=self._write, args=(writer,), name="write", daemon=True)
        scribe.start()
        for lane in lanes:
            lane.start()
        try:
            with self._finding_faces():
                self._decode_all(jobs)
        except BaseException:
            self._stop.set()
            raise
        finally:
            for _ in lanes:
                put(self._ready, None, self._dead)
            for lane in lanes:
                lane.join()
            put(self._outputs, None, self._dead)
            scribe.join()
            self.trace.close()
        if self._error is not None:
            raise self._error
        return self.progress

    def _dead(self) -> bool:
        return self._error is not None

    @contextmanager
    def _finding_faces(self) -> Iterator[None]:
        """While it lasts, the workers' detector computes on a device, where one is named for it."""
        detector, device = self.decoder.detector, self.options.detect_on
        if device is None or not isinstance(detector, CenterFace):
            yield
            return
        with DetectionServer(device, detector.min_score, self.trace) as server:
            detector.network = server.remote() if self.options.processes else server
            yield

    # ---- decode pool ------------------------------------------------------------------------------------------------

    def _decode_all(self, jobs: Iterable[Job]) -> None:
        waiting: set[Future[None]] = set()
        workers = self.options.workers
        with (
            DecodePool(self.decoder, workers if self.options.processes else 0) as decoding,
            ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool,
        ):
            for job in jobs:
                while len(waiting) >= 2 * workers and not self._stop.is_set():
                    finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                    for each in finished:
                        each.result()
                if self._stop.is_set() or self._dead():
                    break
                waiting.add(pool.submit(self._decode, job, decoding))
            for each in waiting:
                each.result()

    def _decode(self, job: Job, decoding: DecodePool) -> None:
        start_s = time.monotonic()
        with self.trace.span("decode", clip=job.clip.id):
            ready = self._prepare(job, decoding)
        self._draw(ready, start_s)
        with self._lock:
            self.progress.decoded += 1
        put(self._ready, ready, self._dead)

    def _prepare(self, job: Job, decoding: DecodePool) -> Ready:
        """Decode one clip and prepare every wanted encoder's input. Only the store's errors leave this function."""
        ready = Ready(job.clip, job.path, job.file, Decoded())
        wanted, notes = list(self.specs), dict[str, str]()
        try:
            with at_hand(job.path) as media:
                if ready.file is None:
                    with self.trace.span("hash"):
                        ready.file = media.file_id()
                self._check_id(job, ready)
                wanted = self._wanted(job.clip, ready.file.media, notes)
                if wanted:
                    path = job.path if job.clip.media is None else media.path
                    ready.decoded = decoding.decode(job.clip, path, wanted)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - one broken clip must not end a pass over 100,000
            ready.decoded = Decoded(failed=dict.fromkeys(wanted, as_failure(error, job.path)))
        ready.decoded.notes |= notes
        return ready

    def _draw(self, ready: Ready, start_s: float) -> None:
        """Split the time of a decode by what it went into, one after the other, though frames and faces take turns."""
        row = threading.current_thread().name
        for what, spent_s in ready.decoded.spent_s.items():
            self.trace.add(what, row, start_s, start_s + spent_s)
            start_s += spent_s

    def _check_id(self, job: Job, ready: Ready) -> None:
        """Refuse a clip whose id names other content at another place; the clip keeps what it has in the store."""
        before = self.store.clip_row(job.clip.id)
        if before is None or ready.file is None or before[0] == ready.file.media:
            return
        if before[1] is not None and before[1] != absolute(job.path):
            ready.file = None
            sentence = f"Clip id {job.clip.id} already names {before[1]} in this store, not {job.path}."
            raise MediaError(
                "id-taken", sentence, "Use one store per dataset, or another path under [store].", retry=True
            )

    def _wanted(self, clip: Clip, media: MediaId, notes: dict[str, str]) -> list[str]:
        """Encoders that this content still lacks; none where a clip with the same content is under way.

        A clip that is new to the store and has the content of another one is a copy of it, whose features are those of
        the other clip's transcript and frame; where its own are different, a note says so.
        """
        content = clip.id if clip.media is None else media
        with self._lock:
            first = self._seen.setdefault(content, clip)
        if first is not clip:
            texts = {name: hash_of(first, spec) for name, spec in self.specs.items() if LANGUAGES in spec.recipe}
            self._note_copy(clip, first.id, texts, notes)
            return []
        other, row = self.store.clip_of(media), self.store.clip_row(clip.id)
        if other is None or (row is not None and row[0] == media):
            lacking = left(self.store, self.specs.values(), [(clip, media)], self.retry_failed)
        else:
            lacking = self.store.work(self.specs.values(), [(other, media)], self.retry_failed)
            read = {name: spec for name, spec in self.specs.items() if LANGUAGES in spec.recipe}
            kept = {name: kept_hashes(self.store, spec, [other]) for name, spec in read.items()}
            texts = {name: each[other] for name, each in kept.items() if other in each}
            self._note_copy(clip, other, texts, notes)
        return [name for name, spec in self.specs.items() if lacking[spec.key]]

    def _note_copy(self, clip: Clip, other: str, texts: Mapping[str, str], notes: dict[str, str]) -> None:
        """Note what a copy has otherwise than the clip whose features it shares, of which `texts` holds the hashes."""
        same = f"{clip.id} is the same file as {other}, with another"
        if any(hashed != hash_of(clip, self.specs[name]) for name, hashed in texts.items()):
            notes["copy-other-text"] = f"{same} transcript; that of {other} is read for both."
        table = self.decoder.frame
        seers = any(encoder.needs == "frame" for encoder in self.encoders.values())
        chosen = {table.indices.get(each) for each in (clip.id, other)} if isinstance(table, FrameTable) else set()
        if seers and len(chosen - {None}) > 1:
            notes["copy-other-frame"] = f"{same} frame chosen; that of {other} is seen for both."

    # ---- device lanes -----------------------------------------------------------------------------------------------

    def _announce(self, ready: Ready) -> None:
        """Tell the writer of a clip, before any of its features."""
        ready.pending = len(ready.decoded.prepared) + len(ready.decoded.failed)
        put(self._outputs, ready, self._dead)
        for name, error in ready.decoded.failed.items():
            self._emit(ready, name, error)

    def _emit(self, ready: Ready, name: str, result: Output | MediaError) -> None:
        put(self._outputs, (ready, name, result), self._dead)

    # ---- writer -----------------------------------------------------------------------------------------------------

    def _write(self, writer: Writer) -> None:
        try:
            config = self.options.faces
            table = None if config is None or self.decoder.detector is None else faces_spec(config.recipe())
            with writer:
                while True:
                    try:
                        item = self._outputs.get(timeout=1.0)
                    except queue.Empty:
                        writer.commit_if_due()
                        continue
                    if item is None:
                        break
                    with self.trace.span("write"):
                        if isinstance(item, Ready):
                            self._write_clip(writer, item, table)
                        else:
                            self._write_feature(writer, *item)
        except BaseException as error:  # noqa: BLE001 - handed to run(), which raises it
            self._fail(error)

    def _write_clip(self, writer: Writer, ready: Ready, table: EncoderSpec | None) -> None:
        if ready.clip.media is None:
            writer.name_clip(ready.clip.id)
        elif ready.file is not None:
            writer.clip(ready.clip.id, ready.file, ready.path)
            rows, media = ready.decoded.faces, ready.file.media
            if table and rows is not None and len(rows) and self.store.status(table, media) != "ok":
                writer.add(table, media, rows)
            ready.decoded.faces = None
        for kind, sentence in ready.decoded.notes.items():
            self.notes.setdefault(kind, {})[ready.clip.id] = sentence
        self._finished(ready)

    def _write_feature(self, writer: Writer, ready: Ready, name: str, result: Output | MediaError) -> None:
        spec = self.specs[name]
        if isinstance(result, MediaError):
            writer.fail(spec, ready.clip.id, result)
            self.failures.append((ready.clip.id, spec, result))
            self.progress.failed[result.kind] += 1
        elif ready.file is not None:
            writer.add(spec, ready.file.media, result.array, result.t0_s, result.hop_s)
            if LANGUAGES in spec.recipe:  # after the feature: cut off between the two, a pass makes it again
                writer.add_record(hash_spec(spec), ready.file.media, hash_of(ready.clip, spec))
            if chosen_by(spec) and isinstance(self.decoder.frame, FrameTable):
                writer.add_record(index_spec(spec), ready.file.media, self.decoder.frame.index_of(ready.clip.id))
            self.progress.stored += 1
        ready.pending -= 1
        self._finished(ready)

    def _finished(self, ready: Ready) -> None:
        if ready.pending == 0:
            self.progress.done += 1
            self.progress.media_s += ready.decoded.duration_s
            if self.progress.done % TRIM_EVERY == 0:
                trim()

    def _fail(self, error: BaseException) -> None:
        """Remember the first error and wake everyone who waits on a queue."""
        with self._lock:
            if self._error is None:
                self._error = error
        self._stop.set()
        for waiting in (self._ready, self._outputs):
            while True:
                try:
                    waiting.get_nowait()
                except queue.Empty:
                    break
        for _ in self.devices:
            put(self._ready, None, lambda: True)
        put(self._outputs, None, lambda: True)
