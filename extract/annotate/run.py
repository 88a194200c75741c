"""A run over many clips: threads that annotate or ask, one that writes; bounded, resumable, interruptible.

Each worker takes a clip and makes all that it lacks, one question after the other. Where an endpoint answers, so many
questions wait at once as `workers` says, and some threads more than that have their next clip decoded meanwhile, in
other processes. What they make goes through one bounded queue to the thread that called, which appends it to the spool
at once and commits it to the store with what came meanwhile.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.budget import Budget
from emo.extract.annotate.clip import ClipAnnotator
from emo.extract.annotate.describer import Describer, Stopped
from emo.extract.annotate.shown import Shown, ShownDecoder
from emo.extract.annotate.spool import Spool, recover
from emo.extract.annotate.units import UnitTable
from emo.extract.annotate.work import Keep, OneClip, Work
from emo.extract.media.reading import as_failure
from emo.extract.run.workers import TRIM_EVERY, DecodePool, trim
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import MediaError
from emo.featstore.fetch import at_hand
from emo.featstore.page import span_text
from emo.featstore.sources.chat import Reply
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.storage.writer import Writer

COMMIT_CLIPS, COMMIT_S = 1000, 30.0
WAITING = 64  # things that wait to be written, per worker: about eight clips
AHEAD = 4  # of so many questions that may wait, one more clip is taken in hand
TOGETHER_S = 0.005  # in which what comes is written together
SAY_S = 0.2  # between two looks at the progress


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
        refused: Why the budget that several runs share lets no more be asked.
    """

    stopping: bool = False
    total: int = 0
    done: int = 0
    made: int = 0
    there: int = 0
    copies: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    refused: str = ""
    started_s: float = field(default_factory=time.monotonic)

    def sentence(self) -> str:
        """Return how far it is, how fast, and how long the rest takes at that pace."""
        elapsed_s = max(time.monotonic() - self.started_s, 1e-9)
        rate = self.done / elapsed_s
        left = f", about {span_text((self.total - self.done) / rate)} left" if self.done else ""
        lost = ", ".join(f"{kind} {count}" for kind, count in self.failed.most_common(4))
        return f"{self.done:,} of {self.total:,} clips, {rate:.1f}/s{left}" + (f"; failed: {lost}" if lost else "")


@dataclass(frozen=True)
class _Kept:
    """The steps of one clip, in the store: read by a worker; writing goes through the queue."""

    run: Run
    clip: Clip
    media: str
    values: Mapping[str, Any]  # of its steps that were there when it was taken in hand, by fingerprint
    progress: dict[str, bool]
    tried: dict[str, str] = field(default_factory=dict)  # what each step is being made of, by fingerprint

    def kept(self, spec: EncoderSpec, of: str) -> Any:
        value = self.values.get(spec.fingerprint)
        self.tried[spec.fingerprint] = of
        if value is not None and value.get("of") == of:
            return value
        if value is not None and value.get("tried") == of and not self.run.retry_failed:
            raise MediaError(value["failed"], value["message"])
        failure = self.run.failures.get((spec.fingerprint, self.media))
        if value is None and failure is not None and not (failure.retry or self.run.retry_failed):
            raise failure
        return None

    def put(self, spec: EncoderSpec, value: Mapping[str, Any]) -> None:
        self.progress["made"] = spec.fingerprint == self.run.plan.goal.fingerprint
        self.run.send(("record", spec, self.media, value))

    def put_units(self, spec: EncoderSpec, table: UnitTable) -> None:
        self.run.send(("units", spec, self.media, table))

    def units(self, spec: EncoderSpec) -> NDArray[np.float32]:
        return np.asarray(self.run.store.array_of(spec, self.media))

    def fail(self, spec: EncoderSpec, error: MediaError) -> None:
        if spec.fingerprint == self.run.plan.goal.fingerprint:
            self.progress["failed"] = True
            self.run.count(failed=error.kind)
        if spec is self.run.plan.goal and spec.fingerprint in self.values:
            outdated = {"failed": error.kind, "message": error.message}  # made of what has changed: it must not be used
            if not error.retry:
                outdated["tried"] = self.tried.get(spec.fingerprint, "")
            self.run.send(("record", spec, self.media, outdated))
            return
        before = self.run.failures.get((spec.fingerprint, self.media))
        if before is None or str(before) != str(error):
            self.run.send(("failure", spec, self.media, error))

    def turn(self, describer: Describer) -> AbstractContextManager[Any]:
        return self.run.turns if describer.remote else nullcontext()

    def paid(self, model: str, reply: Reply) -> None:
        self.run.budget.pay(model, reply)

    def show(self, names: Sequence[str]) -> Shown:
        assert self.clip.media is not None
        return self.run.decoding.decode(self.clip, self.clip.media, names)


class _Order:
    """Says of which clips the content was seen before, in the order of the clips, whichever is read first."""

    def __init__(self) -> None:
        self._drawn = self._passed = 0
        self._seen: set[str | None] = {None}
        self._moved = threading.Condition()

    def draw(self) -> int:
        self._drawn += 1  # by who holds the lock of the clips
        return self._drawn

    def first(self, number: int, media: str | None) -> bool:
        """Wait until all clips before this one are known; must be called once for each number that was drawn."""
        with self._moved:
            self._moved.wait_for(lambda: self._passed == number - 1)
            self._passed = number
            first = media not in self._seen
            self._seen.add(media)
            self._moved.notify_all()
        return first


class Run:
    """A run over clips.

    Args:
        store: Where everything is kept.
        plan: Which records are made, and who is asked.
        budget: How much may be asked.
        workers: Questions that may wait for answers at once; without an endpoint, clips that are annotated at once.
        retry_failed: Try again what failed for good.
        say: Hears how far it is.
        one: Makes the work on one clip.
        processes: How many decode; 0 lets the annotating threads do it.
    """

    def __init__(
        self,
        store: Store,
        plan: Work,
        budget: Budget,
        workers: int = 1,
        retry_failed: bool = False,
        say: Callable[[str], None] = lambda sentence: None,
        one: Callable[[Any, Clip, FileId, Keep], OneClip] = ClipAnnotator,
        processes: int = 0,
    ) -> None:
        self.store, self.plan, self.budget, self.workers = store, plan, budget, workers
        self.retry_failed, self.say, self._one = retry_failed, say, one
        self.progress = Progress()
        self._specs = plan.specs()
        self.recovered = 0
        self.failures: dict[tuple[str, str], MediaError] = {}
        self._spooled = any(each.remote for each in plan.describers.values())
        self.turns = threading.BoundedSemaphore(workers)
        self._threads = workers + (max(1, workers // AHEAD) if processes else 0)
        self.decoding = DecodePool(ShownDecoder(plan.reading), processes)
        self._kinds = {spec.fingerprint: kind for kind, spec in plan.answers.items()}
        self._queue: queue.Queue[Any] = queue.Queue(WAITING * self._threads)
        self._lock = threading.Lock()
        self._order = _Order()
        self._error: BaseException | None = None

    def run(self, clips: Iterable[Clip]) -> Progress:
        """Annotate clips that have a media file; whatever ends it, what was made is committed.

        Args:
            clips: They may come as it goes.

        Raises:
            UsageError: Nothing can be asked at all.
            StoreError: The store cannot be written.
        """
        self.recovered = recover(self.store)
        specs = {spec.key: spec.fingerprint for spec in self._specs}
        for each in self.store.failures():
            if each.feature in specs:
                error = MediaError(each.kind, each.message, retry=each.retry)
                self.failures[specs[each.feature], each.media] = error
        self.progress.total = len(clips) if isinstance(clips, Sized) else 0
        spool = Spool(self.store.path) if self._spooled else None
        environment = {kind: describer.id for kind, describer in self.plan.describers.items()}
        try:
            with self.decoding, self.store.writer(COMMIT_CLIPS, COMMIT_S, environment) as writer:
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

    def _write_all(self, writer: Writer, spool: Spool | None, clips: Iterable[Clip]) -> None:
        work = iter(clips)
        threads = [threading.Thread(target=self._work, args=(work,), daemon=True) for _ in range(self._threads)]
        for thread in threads:
            thread.start()
        left = len(threads)
        number, said_s = self.store.index.number, 0.0
        while left:
            items = self._waiting()
            for item in items:
                left -= item is None
                if item is not None:
                    self._write(writer, spool, item)
                if spool is not None and self.store.index.number != number:
                    spool.clear()  # a commit held all that was in it
                    number = self.store.index.number
            if spool is not None:
                spool.flush()
            if not items:
                writer.commit_if_due()
            if time.monotonic() - said_s >= SAY_S:
                said_s = time.monotonic()
                self.say(self.progress.sentence() + self.budget.told())
        writer.commit()
        if spool is not None:
            spool.clear()

    def _waiting(self) -> list[Any]:
        """Return what waits to be written, after a moment in which more may come: they are taken over together."""
        try:
            first = self._queue.get(timeout=1.0)
        except queue.Empty:
            return []
        time.sleep(TOGETHER_S)
        return [first, *(self._queue.get_nowait() for _ in range(self._queue.qsize()))]

    def _write(self, writer: Writer, spool: Spool | None, item: Sequence[Any]) -> None:
        what, *rest = item
        if what == "clip":
            if writer.clip(*rest) and spool is not None:
                spool.clip(*rest)
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
                    number = self._order.draw() if clip is not None else 0
                if clip is None:
                    break
                self._annotate(clip, number)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that called
            self._error = self._error or error
            self.budget.stop("an error")
        finally:
            self._queue.put(None)

    def _annotate(self, clip: Clip, number: int) -> None:
        file = None
        try:
            file = self._file(clip)
        finally:
            first = self._order.first(number, file.media if file is not None else None)
        if file is None:
            return
        self.send(("clip", clip.id, file, clip.media))
        if not first:
            self.count(copies=1)
            return
        outcome: dict[str, bool] = {}
        values = self.store.values_of(self._specs, file.media)
        self._one(self.plan, clip, file, _Kept(self, clip, file.media, values, outcome)).run()
        self.count(made=outcome.get("made", False), there=not outcome.get("made") and not outcome.get("failed"))

    def _file(self, clip: Clip) -> FileId | None:
        assert clip.media is not None
        try:
            with at_hand(clip.media) as media:
                return self.store.files_of([(clip.id, clip.media)])[0] or media.file_id()
        except (OSError, MediaError) as error:
            self.count(failed="unreadable")
            self.send(("failure", self.plan.goal, clip.id, as_failure(error, clip.media)))
            return None

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
            due = progress.done % TRIM_EVERY == 0
        if due:
            trim()

    def send(self, item: Sequence[Any]) -> None:
        """Hand something to the thread that writes; waits where that is behind."""
        self._queue.put(item)


def with_media(clips: Iterable[Clip], limit: int | None = None) -> list[Clip]:
    """Return the clips that have a media file, the first so many."""
    return [clip for clip in clips if clip.media is not None][:limit]
