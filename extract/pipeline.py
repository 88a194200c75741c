"""The one pass: decode pool -> device batches across clips -> one writer.

Each clip is opened and decoded once, whatever the number of encoders. Decoding (a thread pool; PyAV, Pillow and
onnxruntime release the interpreter lock), computing (one thread per device) and writing (one thread) overlap; bounded
queues between them keep memory flat. A clip that fails one encoder keeps the others.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emo.extract.batching import cut
from emo.extract.detect import Detector
from emo.extract.encoders.base import ClipInputs, Encoder, Output, Prepared
from emo.extract.faces import COLUMNS, FaceConfig, FaceTracker, read_openface
from emo.extract.media import Media, open_media
from emo.featstore.clip import Clip, FileId, MediaId, hash_media
from emo.featstore.errors import EmoError, MediaError, ModelError, StoreError
from emo.featstore.spec import EncoderSpec
from emo.featstore.store import Store, Writer

EVEN_S = 0.002  # containers round time stamps to milliseconds


@dataclass(frozen=True)
class PassOptions:
    """How a pass runs.

    Attributes:
        faces: Face settings; `None` takes the crops of each clip's OpenFace folder, and nothing is detected.
        frame: Frame that whole-image encoders see: `first`, `middle`, or an index per clip id.
        workers: Threads that decode.
        commit_every: Clips per commit.
        commit_every_s: Longest time between commits.
    """

    faces: FaceConfig | None = field(default_factory=FaceConfig)
    frame: str | Mapping[str, int] = "first"
    workers: int = 2
    commit_every: int = 200
    commit_every_s: float = 30.0


@dataclass(frozen=True)
class Job:
    """One clip to process. `file` is `None` where it has not been hashed yet."""

    clip: Clip
    path: Path
    file: FileId | None


@dataclass
class Plan:
    """What a pass would do, decided without reading media that the store remembers.

    Attributes:
        total: Clips listed by the dataset.
        absent: Clips whose media file is not there.
        done: Clips that have every wanted feature.
        hopeless: Clips that failed for good.
        jobs: Clips to process, in the dataset's order. Those never hashed may turn out to be copies of others.
        clips: Ids of all clips that were looked at, done or not.
    """

    total: int = 0
    absent: int = 0
    done: int = 0
    hopeless: int = 0
    jobs: list[Job] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)


def plan(
    store: Store | None,
    clips: Iterable[Clip],
    specs: Sequence[EncoderSpec],
    *,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Plan:
    """Decide what is left: wanted - ok - failed for good.

    Args:
        store: The store; `None` where there is none yet.
        clips: Clips of a dataset.
        specs: Features wanted of each clip.
        retry_failed: Try again what failed for good.
        limit: Take the first so many clips that are present.
    """
    result = Plan()
    present: list[Job] = []
    for clip in clips:
        result.total += 1
        if clip.media is None:
            result.absent += 1
        elif limit is None or len(present) < limit:
            present.append(Job(clip, clip.media, None if store is None else store.file_of(clip.media)))
    result.clips = [job.clip.id for job in present]
    known = [(job.clip.id, job.file.media) for job in present if job.file is not None]
    todo, lacking = set[MediaId](), set[MediaId]()
    if store is not None:
        todo.update(*store.work(specs, known, retry_failed=retry_failed).values())
        lacking.update(*store.work(specs, known, retry_failed=True).values())
    for job in present:
        if job.file is None or job.file.media in todo:
            result.jobs.append(job)
        elif job.file.media in lacking:
            result.hopeless += 1
        else:
            result.done += 1
    return result


@dataclass
class Progress:
    """Counters of a running pass; read by whoever draws, written by the pass."""

    total: int = 0
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


@dataclass
class _Ready:
    """One clip after decoding: what each encoder gets, and what failed already."""

    clip: Clip
    path: Path
    file: FileId | None  # None: the file could not even be hashed
    duration_s: float = 0.0
    prepared: dict[str, Prepared] = field(default_factory=dict)
    failed: dict[str, MediaError] = field(default_factory=dict)
    faces: NDArray[np.float32] | None = None
    pending: int = 0


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
        self._detector = detector
        self._seen: set[MediaId] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        # One waiting room per stage; their sizes bound what is in memory at once.
        self._ready: queue.Queue[_Ready | None] = queue.Queue(maxsize=options.workers + 2)
        self._outputs: queue.Queue[tuple[_Ready, str, Output | MediaError] | _Ready | None] = queue.Queue(maxsize=256)

    def stop(self) -> None:
        """Take no new clips; finish and commit those under way."""
        self.progress.stopping = True
        self._stop.set()

    def run(self, store: Store, jobs: Sequence[Job], environment: dict[str, str] | None = None) -> Progress:
        """Process the jobs and commit their features. A pass runs once.

        Raises:
            StoreError: The store cannot be written; everything committed before is intact.
            ModelError: A device failed in a way that is not one clip's fault.
        """
        self.store = store
        self.progress.total, self.progress.started_s = len(jobs), time.monotonic()
        writer = store.writer(
            commit_every=self.options.commit_every,
            commit_every_s=self.options.commit_every_s,
            environment=environment or {},
        )
        threads = [threading.Thread(target=self._write, args=(writer,), name="emo-writer", daemon=True)]
        threads += [
            threading.Thread(target=self._compute, args=(encoders,), name=f"emo-device-{i}", daemon=True)
            for i, encoders in enumerate(self.devices)
        ]
        for thread in threads:
            thread.start()
        try:
            self._decode_all(jobs)
        except BaseException:
            self._stop.set()
            raise
        finally:
            for _ in self.devices:
                _put(self._ready, None, self._dead)
            for thread in threads[1:]:
                thread.join()
            _put(self._outputs, None, self._dead)
            threads[0].join()
        if self._error is not None:
            raise self._error
        return self.progress

    def _dead(self) -> bool:
        return self._error is not None

    # ---- decode pool ------------------------------------------------------------------------------------------------

    def _decode_all(self, jobs: Sequence[Job]) -> None:
        waiting: set[Future[None]] = set()
        with ThreadPoolExecutor(self.options.workers, thread_name_prefix="emo-decode") as pool:
            for job in jobs:
                while len(waiting) >= 2 * self.options.workers and not self._stop.is_set():
                    finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                    for each in finished:
                        each.result()
                if self._stop.is_set() or self._dead():
                    break
                waiting.add(pool.submit(self._decode, job))
            for each in waiting:
                each.result()

    def _decode(self, job: Job) -> None:
        _put(self._ready, self._prepare(job), self._dead)

    def _prepare(self, job: Job) -> _Ready:
        """Decode one clip and prepare every wanted encoder's input. Only the store's errors leave this function."""
        ready = _Ready(job.clip, job.path, job.file)
        wanted = list(self.specs)
        try:
            if ready.file is None:
                ready.file = hash_media(job.path)
            self._check_id(job, ready)
            wanted = self._wanted(job.clip, ready.file.media)
            if wanted:
                self._decode_once(job, ready, [self.encoders[name] for name in wanted])
        except StoreError:
            raise
        except OSError as error:
            sentence = f"{job.path} cannot be read: {error.strerror or error}."
            failure = MediaError("unreadable", sentence, "Check the file and its permissions.", retry=True)
        except Exception as error:  # noqa: BLE001 - one broken clip must not end a pass over 100,000
            failure = _failure(error, job.path)
        else:
            return ready
        ready.prepared.clear()
        ready.failed = dict.fromkeys(wanted, failure)
        return ready

    def _check_id(self, job: Job, ready: _Ready) -> None:
        """Refuse a clip whose id names other content at another place; the clip keeps what it has in the store."""
        before = self.store.clip_row(job.clip.id)
        if before is None or ready.file is None or before[0] == ready.file.media:
            return
        if before[1] is not None and before[1] != os.path.abspath(job.path):
            ready.file = None
            sentence = f"Clip id {job.clip.id} already names {before[1]} in this store, not {job.path}."
            raise MediaError(
                "id-taken", sentence, "Use one store per dataset, or another path under [store].", retry=True
            )

    def _wanted(self, clip: Clip, media: MediaId) -> list[str]:
        """Encoders that this content still lacks; none where a clip with the same content is under way."""
        with self._lock:
            if media in self._seen:
                return []
            self._seen.add(media)
        left = self.store.work(self.specs.values(), [(clip.id, media)], retry_failed=self.retry_failed)
        return [name for name, spec in self.specs.items() if left[spec.key]]

    def _decode_once(self, job: Job, ready: _Ready, encoders: Sequence[Encoder]) -> None:
        """Open and decode the clip once. What touches only one kind of input fails only the encoders that need it."""
        needs = {encoder.needs for encoder in encoders}
        found: dict[str, Any] = {}
        errors: dict[str, MediaError] = {}

        def attempt(kind: str, read: Callable[[], dict[str, Any]]) -> None:
            try:
                found.update(read())
            except Exception as error:  # noqa: BLE001 - recorded for the encoders that need this kind of input
                errors[kind] = _failure(error, job.path)

        with open_media(job.path) as media:
            ready.duration_s = media.info.duration_s
            if "frame" in needs:
                attempt("frame", lambda: {"index": self._frame_index(media, job.clip.id)})
            if "faces" in needs and self.options.faces is None:
                attempt("faces", lambda: {"faces": _openface_crops(job.clip)})
            if "index" in found or ("faces" in needs and self.options.faces is not None):
                self._watch(
                    media, job, ready, found, errors, follow="faces" in needs and self.options.faces is not None
                )
            if "audio" in needs:
                attempt("audio", lambda: {"audio": media.audio(), "audio_t0_s": media.info.audio_start_s})
        found.pop("index", None)
        inputs = ClipInputs(**found)
        for encoder in encoders:
            try:
                if encoder.needs in errors:
                    raise errors[encoder.needs]
                ready.prepared[encoder.name] = encoder.prepare(inputs)
            except Exception as error:  # noqa: BLE001 - one encoder's fault is not the others'
                ready.failed[encoder.name] = _failure(error, job.path)

    def _watch(
        self,
        media: Media,
        job: Job,
        ready: _Ready,
        found: dict[str, Any],
        errors: dict[str, MediaError],
        *,
        follow: bool,
    ) -> None:
        """Run through the frames once, following faces and picking the frame for whole-image encoders."""
        tracker = FaceTracker(self._detector, self.options.faces, job.path.name) if follow and self._detector else None
        index, last = found.get("index", -1), None
        try:
            for frame in media.frames():
                if last is None or frame.index <= index:
                    last = frame
                if tracker is not None:
                    try:
                        tracker.feed(frame)
                    except Exception as error:  # noqa: BLE001 - the whole-image encoders can go on
                        errors["faces"], tracker = _failure(error, job.path), None
                if tracker is None and frame.index >= index:
                    break
            if tracker is not None:
                tracks = tracker.finish()
                ready.faces = tracks.table()
        except Exception as error:  # noqa: BLE001 - nobody gets numbers from half a clip
            for kind in ("faces", "frame"):
                errors.setdefault(kind, _failure(error, job.path))
            return
        if index >= 0 and last is not None:
            if last.index < index and self.options.frame != "middle":
                sentence = (
                    f"{job.path.name} has {last.index + 1} frames, so there is no frame {index} as the table says."
                )
                errors["frame"] = MediaError("no-frame-index", sentence, "Correct the frame table.")
            found.update(frame=last.rgb, frame_time_s=last.time_s)
        if tracker is not None:
            try:
                track = tracks.choose()
            except MediaError as error:
                errors["faces"] = error
            else:
                found.update(faces=track.crops, t0_s=float(track.time_s[0]), hop_s=_even_hop_s(track.time_s))

    def _frame_index(self, media: Media, clip_id: str) -> int:
        choice = self.options.frame
        if choice == "first":
            return 0
        if choice == "middle":
            return media.info.n_frames // 2  # as the container counts; where it promised more, the last one stands in
        if clip_id not in choice:
            raise MediaError(
                "no-frame-index", f"The frame table has no entry for clip {clip_id}.", "Add it to the table."
            )
        return choice[clip_id]

    # ---- device workers ---------------------------------------------------------------------------------------------

    def _compute(self, encoders: Sequence[Encoder]) -> None:
        rooms: dict[str, list[_Ready]] = {encoder.name: [] for encoder in encoders}
        flushed_s = time.monotonic()
        try:
            finished = False
            while not finished:
                try:
                    ready = self._ready.get(timeout=1.0)
                    finished = ready is None
                except queue.Empty:
                    ready = None
                if ready is not None:
                    self._announce(ready)
                    for name in ready.prepared:
                        rooms[name].append(ready)
                # Who waits for company must not wait longer than a commit may take: a kill would cost that work.
                due = finished or time.monotonic() - flushed_s >= self.options.commit_every_s
                for encoder in encoders:
                    room = rooms[encoder.name]
                    batches = cut([each.prepared[encoder.name].cost for each in room], encoder.max_cost)
                    # The last batch may still fill up, so it waits for more, unless it has waited long enough.
                    waits = [] if due or len(room) >= self.options.commit_every else batches[-1:]
                    for batch in batches[: len(batches) - len(waits)]:
                        self._encode(encoder, [room[i] for i in batch])
                    rooms[encoder.name] = [room[i] for batch in waits for i in batch]
                if due:
                    flushed_s = time.monotonic()
        except BaseException as error:  # noqa: BLE001 - handed to run(), which raises it
            self._fail(error)

    def _announce(self, ready: _Ready) -> None:
        """Tell the writer of a clip, before any of its features."""
        ready.pending = len(ready.prepared) + len(ready.failed)
        self._emit(ready)
        for name, error in ready.failed.items():
            self._emit((ready, name, error))

    def _encode(self, encoder: Encoder, batch: list[_Ready]) -> None:
        """Encode a batch; when it does not fit or fails, halve it until the culprit stands alone."""
        level = self.levels[encoder.name]
        failure = None
        try:
            outputs = encoder.encode([ready.prepared[encoder.name] for ready in batch], [level])
        except EmoError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded for the clip once it is alone
            failure = f"{type(error).__name__}: {error}"
        # Here, outside of the handler, the tensors of the failed attempt are free again.
        if failure is None:
            for ready, output in zip(batch, outputs, strict=True):
                del ready.prepared[encoder.name]
                result: Output | MediaError = output[level]
                if not np.isfinite(output[level].array).all():
                    sentence = f"{encoder.name} gives values that are not finite for {ready.path.name}."
                    result = MediaError("not-finite", sentence, "Try --dtype float32.", retry=True)
                self._emit((ready, encoder.name, result))
            return
        memory = "out of memory" in failure.lower()
        if "CUDA error" in failure and not memory:
            raise ModelError(
                f"The device of {encoder.name} failed: {failure}.", "What is committed is safe; run again."
            )
        if memory and encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) > 1:
            middle = len(batch) // 2
            self._encode(encoder, batch[:middle])
            self._encode(encoder, batch[middle:])
            return
        del batch[0].prepared[encoder.name]
        sentence = f"{encoder.name} failed on {batch[0].path.name}: {failure}."
        self._emit(
            (batch[0], encoder.name, MediaError("out-of-memory" if memory else "internal", sentence, retry=True))
        )

    def _emit(self, item: tuple[_Ready, str, Output | MediaError] | _Ready) -> None:
        _put(self._outputs, item, self._dead)

    # ---- writer -----------------------------------------------------------------------------------------------------

    def _write(self, writer: Writer) -> None:
        try:
            config = self.options.faces
            table = None if config is None or self._detector is None else faces_spec(config.recipe())
            with writer:
                while True:
                    try:
                        item = self._outputs.get(timeout=1.0)
                    except queue.Empty:
                        writer.commit_if_due()
                        continue
                    if item is None:
                        break
                    if isinstance(item, _Ready):
                        self._write_clip(writer, item, table)
                    else:
                        self._write_feature(writer, *item)
        except BaseException as error:  # noqa: BLE001 - handed to run(), which raises it
            self._fail(error)

    def _write_clip(self, writer: Writer, ready: _Ready, table: EncoderSpec | None) -> None:
        if ready.file is not None:
            writer.clip(ready.clip.id, ready.file, ready.path)
            rows, media = ready.faces, ready.file.media
            if table and rows is not None and len(rows) and self.store.status(table, media) != "ok":
                writer.add(table, media, rows)
            ready.faces = None
        self._finished(ready)

    def _write_feature(self, writer: Writer, ready: _Ready, name: str, result: Output | MediaError) -> None:
        spec = self.specs[name]
        if isinstance(result, MediaError):
            writer.fail(spec, ready.clip.id if ready.file is None else ready.file.media, result)
            self.failures.append((ready.clip.id, spec, result))
            self.progress.failed[result.kind] += 1
        elif ready.file is not None:
            writer.add(spec, ready.file.media, result.array, result.t0_s, result.hop_s)
            self.progress.stored += 1
        ready.pending -= 1
        self._finished(ready)

    def _finished(self, ready: _Ready) -> None:
        if ready.pending == 0:
            self.progress.done += 1
            self.progress.media_s += ready.duration_s

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
            _put(self._ready, None, lambda: True)
        _put(self._outputs, None, lambda: True)


def _put(target: queue.Queue, item: object, dead: Callable[[], bool]) -> None:
    """Put, but never wait for a reader that has died."""
    while True:
        try:
            target.put(item, timeout=0.2)
            return
        except queue.Full:
            if dead():
                return


def _failure(error: Exception, path: Path) -> MediaError:
    """A failure as it is recorded; what is not a `MediaError` is a fault of emo, and trying again may help."""
    if isinstance(error, MediaError):
        return error
    return MediaError("internal", f"{path.name}: {type(error).__name__}: {error}.", retry=True)


def _even_hop_s(time_s: NDArray[np.float64]) -> float | None:
    """Seconds between rows, or `None` where they are not evenly spaced (variable frame rate, a face out of sight)."""
    steps = np.diff(time_s)
    if not len(steps) or np.abs(steps - steps.mean()).max() > EVEN_S:
        return None
    return float(steps.mean())


def _openface_crops(clip: Clip) -> NDArray[np.uint8]:
    if clip.faces is None:
        raise MediaError("no-face", f"There is no OpenFace output for {clip.id}.", "Run OpenFace on it.", retry=True)
    return read_openface(clip.faces)
