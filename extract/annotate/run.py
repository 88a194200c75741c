"""A run over many clips: threads that annotate, one that writes; bounded, resumable, interruptible.

Each worker takes a clip and makes all that it lacks, one question after the other; many workers let many questions
wait at once. What they make goes through one bounded queue to the thread that called, which appends it to the spool at
once and commits it to the store with what came meanwhile.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.budget import Budget
from emo.extract.annotate.clip import ClipAnnotator
from emo.extract.annotate.describer import Stopped
from emo.extract.annotate.plan import Plan
from emo.extract.annotate.spool import Spool, recover
from emo.extract.annotate.units import UnitTable
from emo.featstore.clip import Clip, FileId, hash_media
from emo.featstore.errors import FeatureMissing, MediaError
from emo.featstore.sources.chat import Reply
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.storage.writer import Writer

COMMIT_CLIPS, COMMIT_S = 200, 30.0
WAITING = 4  # things that wait to be written, per worker


@dataclass
class Progress:
    """Counters of a run.

    Attributes:
        stopping: Whether a person stopped it.
        total: Clips with a media file.
        done: Clips that were looked at.
        made: Annotations that this run made.
        there: Clips whose annotation was there already.
        copies: Clips with the content of an earlier one.
        failed: Annotations that could not be made, by kind, failures of earlier runs included.
        answers: Answers of describers, by question.
    """

    stopping: bool = False
    total: int = 0
    done: int = 0
    made: int = 0
    there: int = 0
    copies: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    started_s: float = field(default_factory=time.monotonic)

    def sentence(self) -> str:
        """Return how far it is, how fast, and how long the rest takes at that pace."""
        elapsed_s = max(time.monotonic() - self.started_s, 1e-9)
        rate = self.done / elapsed_s
        left = f", about {_time((self.total - self.done) / rate)} left" if self.done else ""
        lost = ", ".join(f"{kind} {count}" for kind, count in self.failed.most_common(4))
        return f"{self.done:,} of {self.total:,} clips, {rate:.1f}/s{left}" + (f"; failed: {lost}" if lost else "")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class _Kept:
    """The steps of one clip, in the store: read by a worker; writing goes through the queue."""

    run: Run
    clip: str
    media: str
    progress: dict[str, bool]

    def kept(self, spec: EncoderSpec, of: str) -> Any:
        value = self.run.value(spec, self.media)
        if value is not None and value.get("of") == of:
            return value
        failure = self.run.failures.get((spec.fingerprint, self.media))
        if value is None and failure is not None and not (failure.retry or self.run.retry_failed):
            raise failure
        return None

    def put(self, spec: EncoderSpec, value: Mapping[str, Any]) -> None:
        self.progress["made"] = spec.fingerprint == self.run.plan.annotation.fingerprint
        self.run.send(("record", spec, self.media, value))

    def put_units(self, spec: EncoderSpec, table: UnitTable) -> None:
        self.run.send(("units", spec, self.media, table))

    def units(self, spec: EncoderSpec) -> NDArray[np.float32]:
        return np.asarray(self.run.store.get(spec, self.run.store.clip_of(self.media) or self.clip).array)

    def fail(self, spec: EncoderSpec, error: MediaError) -> None:
        if spec.fingerprint == self.run.plan.annotation.fingerprint:
            self.progress["failed"] = True
            self.run.count(failed=error.kind)
        if spec is self.run.plan.annotation and self.run.value(spec, self.media) is not None:
            outdated = {"failed": error.kind, "message": error.message}  # made of what has changed: it must not be used
            self.run.send(("record", spec, self.media, outdated))
            return
        before = self.run.failures.get((spec.fingerprint, self.media))
        if before is None or str(before) != str(error):
            self.run.send(("failure", spec, self.media, error))

    def paid(self, model: str, reply: Reply) -> None:
        self.run.budget.pay(model, reply)


class Run:
    """A run over clips.

    Args:
        store: Where everything is kept.
        plan: What an annotation is made of.
        budget: How much may be asked.
        workers: Clips that are annotated at once.
        retry_failed: Try again what failed for good.
        say: Hears how far it is.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        budget: Budget,
        workers: int = 1,
        retry_failed: bool = False,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.store, self.plan, self.budget, self.workers = store, plan, budget, workers
        self.retry_failed, self.say = retry_failed, say
        self.progress = Progress()
        self.recovered = 0
        self.failures: dict[tuple[str, str], MediaError] = {}
        self._spooled = any(each.remote for each in plan.describers.values())
        self._kinds = {spec.fingerprint: kind for kind, spec in plan.answers.items()}
        self._queue: queue.Queue[Any] = queue.Queue(WAITING * workers)
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._error: BaseException | None = None

    def run(self, clips: Sequence[Clip]) -> Progress:
        """Annotate clips that have a media file; whatever ends it, what was made is committed.

        Raises:
            UsageError: Nothing can be asked at all.
            StoreError: The store cannot be written.
        """
        self.recovered = recover(self.store)
        specs = {spec.key: spec.fingerprint for spec in self.plan.specs()}
        for each in self.store.failures():
            if each.feature in specs:
                error = MediaError(each.kind, each.message, retry=each.retry)
                self.failures[specs[each.feature], each.media] = error
        self.progress.total = len(clips)
        spool = Spool(self.store.path) if self._spooled else None
        environment = {kind: describer.id for kind, describer in self.plan.describers.items()}
        try:
            with self.store.writer(COMMIT_CLIPS, COMMIT_S, environment) as writer:
                self._write_all(writer, spool, clips)
        except BaseException:
            self.budget.stop("an error")  # nobody asks on behalf of a run that cannot write
            raise
        finally:
            if spool is not None:
                spool.close()
        if self._error is not None:
            raise self._error
        return self.progress

    def stop(self) -> None:
        """Ask nothing new; what is under way is finished and committed."""
        self.progress.stopping = True
        self.budget.stop("interrupted")

    # ---- the thread that writes ------------------------------------------------------------------------------------

    def _write_all(self, writer: Writer, spool: Spool | None, clips: Sequence[Clip]) -> None:
        work = iter(clips)
        threads = [threading.Thread(target=self._work, args=(work,), daemon=True) for _ in range(self.workers)]
        for thread in threads:
            thread.start()
        left = len(threads)
        number = self.store.index.number
        while left:
            try:
                item = self._queue.get(timeout=1.0)
                left -= item is None
                if item is not None:
                    self._write(writer, spool, item)
            except queue.Empty:
                writer.commit_if_due()
            if spool is not None and self.store.index.number != number:
                spool.clear()  # a commit held all that was in it
                number = self.store.index.number
            self.say(self.progress.sentence())
        writer.commit()
        if spool is not None:
            spool.clear()

    def _write(self, writer: Writer, spool: Spool | None, item: Sequence[Any]) -> None:
        what, *rest = item
        if what == "clip":
            if spool is not None:
                spool.clip(*rest)
            writer.clip(*rest)
            return
        spec, media, value = rest
        if what == "units":
            t0_s, hop_s = value.timing()
            writer.add(spec, media, value.rows, t0_s, hop_s)
            return
        if spool is not None and spec.fingerprint in self._kinds:
            getattr(spool, what)(spec, media, value)
        if what == "record":
            self.progress.answers[self._kinds.get(spec.fingerprint, spec.name)] += 1
            writer.add_record(spec, media, value)
        else:
            writer.fail(spec, media, value)

    # ---- the threads that annotate -----------------------------------------------------------------------------------

    def _work(self, clips: Iterator[Clip]) -> None:
        try:
            while not self.budget.stopped:
                with self._lock:
                    clip = next(clips, None)
                if clip is None:
                    break
                self._annotate(clip)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that called
            self._error = self._error or error
            self.budget.stop("an error")
        finally:
            self._queue.put(None)

    def _annotate(self, clip: Clip) -> None:
        assert clip.media is not None
        try:
            file: FileId = self.store.file_of(clip.media) or hash_media(clip.media)
        except OSError as error:
            sentence = f"{clip.media} cannot be read: {error.strerror or error}."
            self.count(failed="unreadable")
            self.send(("failure", self.plan.annotation, clip.id, MediaError("unreadable", sentence, retry=True)))
            return
        self.send(("clip", clip.id, file, clip.media))
        with self._lock:
            copy = file.media in self._seen
            self._seen.add(file.media)
        if copy:
            self.count(copies=1)
            return
        outcome: dict[str, bool] = {}
        ClipAnnotator(self.plan, clip, file, _Kept(self, clip.id, file.media, outcome)).run()
        self.count(made=outcome.get("made", False), there=not outcome.get("made") and not outcome.get("failed"))

    def count(self, failed: str = "", made: bool = False, there: bool = False, copies: int = 0) -> None:
        """Count what became of a clip."""
        with self._lock:
            progress = self.progress
            if failed:
                progress.failed[failed] += 1
            progress.made += made
            progress.there += there
            progress.copies += copies
            progress.done += bool(made or there or copies or failed)

    def send(self, item: Sequence[Any]) -> None:
        """Hand something to the thread that writes; waits where that is behind."""
        self._queue.put(item)

    def value(self, spec: EncoderSpec, media: str) -> Any:
        """Return the record of a medium, or `None`."""
        clip = self.store.clip_of(media)
        if clip is None or self.store.status(spec, media) != "ok":
            return None
        try:
            return self.store.record(spec, clip)
        except FeatureMissing:
            return None


def with_media(clips: Iterable[Clip], limit: int | None = None) -> list[Clip]:
    """Return the clips that have a media file, the first so many."""
    return [clip for clip in clips if clip.media is not None][:limit]
