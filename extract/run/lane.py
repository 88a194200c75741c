"""Work of one device: batches across clips, copied ahead, computed, fetched behind.

Three threads share the work, so that the device always has the next batch before the last one is done: `stage` collates
batches in pinned memory and copies them on a stream of its own, `compute` launches the models, `fetch` waits for the
results and copies them back on a third stream.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emo.extract.encoders.base import Encoder, Output
from emo.extract.run.batching import cut
from emo.extract.run.decode import Decoded
from emo.extract.run.trace import Trace
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import EmoError, MediaError, ModelError

AHEAD = 2  # batches that wait on the device for their turn, and results that wait to be fetched


@dataclass
class Ready:
    """A decoded clip on its way through the pass; `file` is `None` where it could not even be hashed."""

    clip: Clip
    path: Path
    file: FileId | None
    decoded: Decoded
    pending: int = 0


@dataclass
class _Batch:
    """Clips that one encoder takes together, and where they are: staged, then computed."""

    encoder: Encoder
    clips: list[Ready]
    tensors: list[Tensor] | None = None  # on the device; `None` where staging failed
    copied: Any = None  # event
    started: Any = None  # event
    pooled: Mapping[str, Any] | None = None
    done: Any = None  # event


class Lane:
    """One device with its encoders.

    Args:
        encoders: All on one device.
        levels: Level wanted of each encoder, by encoder name.
        source: Decoded clips; `None` ends the lane.
        announce: Told of every clip before any of its outputs.
        emit: Gets each output or failure.
        fail: Told when the lane cannot go on.
        dead: Whether the pass has failed elsewhere.
        patience: Clips, and seconds, after which a batch goes although it is not full.
        trace: Timeline.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        levels: Mapping[str, str],
        source: queue.Queue[Ready | None],
        announce: Callable[[Ready], None],
        emit: Callable[[Ready, str, Output | MediaError], None],
        fail: Callable[[BaseException], None],
        dead: Callable[[], bool],
        patience: tuple[int, float],
        trace: Trace,
    ) -> None:
        self.encoders, self.levels, self.device = encoders, levels, encoders[0].device
        self._source, self._announce, self._emit, self._fail_pass, self._dead = source, announce, emit, fail, dead
        self._patience, self._trace = patience, trace
        self._staged: queue.Queue[_Batch | None] = queue.Queue(AHEAD)
        self._computed: queue.Queue[_Batch | None] = queue.Queue(AHEAD)
        self._streams: dict[str, Any] = {}
        self._base: tuple[float, Any] = (0.0, None)  # a moment on the host's clock and on the device's
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to take clips."""
        if self.device.type == "cuda":
            self._streams = {name: torch.cuda.Stream(self.device) for name in ("stage", "compute", "fetch")}
            if self._trace.on:
                event = torch.cuda.Event(enable_timing=True)
                torch.cuda.synchronize(self.device)
                event.record(torch.cuda.current_stream(self.device))
                event.synchronize()
                self._base = (time.monotonic(), event)
        for name, work, after in (
            ("stage", self._stage_all, self._staged),
            ("compute", self._compute_all, self._computed),
            ("fetch", self._fetch_all, None),
        ):
            thread = threading.Thread(target=self._run, args=(name, work, after), name=f"{name} {self.device}")
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        """Wait until the lane has ended."""
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, work: Callable[[], None], after: queue.Queue[_Batch | None] | None) -> None:
        try:
            with contextlib.ExitStack() as stack:
                if self._streams:
                    stack.enter_context(torch.cuda.device(self.device))
                    stack.enter_context(torch.cuda.stream(self._streams[name]))
                work()
        except BaseException as error:  # noqa: BLE001 - handed to the pass, which raises it
            self._fail_pass(error)
        finally:
            if after is not None:
                put(after, None, self._dead)

    def _batches(self, source: queue.Queue[_Batch | None]) -> Iterator[_Batch]:
        while not self._dead():
            with contextlib.suppress(queue.Empty):
                batch = source.get(timeout=0.5)
                if batch is None:
                    return
                yield batch

    # ---- stage ------------------------------------------------------------------------------------------------------

    def _stage_all(self) -> None:
        rooms: dict[str, list[Ready]] = {encoder.name: [] for encoder in self.encoders}
        most, longest_s = self._patience
        flushed_s, finished = time.monotonic(), False
        while not finished and not self._dead():
            ready = None
            with contextlib.suppress(queue.Empty):
                ready = self._source.get(timeout=1.0)
                finished = ready is None
            if ready is not None:
                self._announce(ready)
                for name in ready.decoded.prepared:
                    rooms[name].append(ready)
            # Who waits for company must not wait longer than a commit may take: a kill would cost that work.
            due = finished or time.monotonic() - flushed_s >= longest_s
            for encoder in self.encoders:
                room = rooms[encoder.name]
                batches = cut([each.decoded.prepared[encoder.name].cost for each in room], encoder.max_cost)
                # The last batch may still fill up, so it waits for more, unless it has waited long enough.
                waits = [] if due or len(room) >= most else batches[-1:]
                for batch in batches[: len(batches) - len(waits)]:
                    put(self._staged, self._stage(encoder, [room[i] for i in batch]), self._dead)
                rooms[encoder.name] = [room[i] for batch in waits for i in batch]
            if due:
                flushed_s = time.monotonic()

    def _stage(self, encoder: Encoder, clips: list[Ready]) -> _Batch:
        batch = _Batch(encoder, clips)
        with self._trace.span(f"stage {encoder.name}", clips=len(clips)):
            try:
                batch.tensors = encoder.stage([ready.decoded.prepared[encoder.name] for ready in clips])
            except EmoError:
                raise
            except Exception:  # noqa: BLE001 - tried again with fewer clips, where it is recorded
                return batch
            if self._streams:
                batch.copied = torch.cuda.Event()
                batch.copied.record()
        return batch

    # ---- compute ----------------------------------------------------------------------------------------------------

    def _compute_all(self) -> None:
        for batch in self._batches(self._staged):
            self._compute(batch)

    def _compute(self, batch: _Batch) -> None:
        """Run a batch; when it does not fit or fails, halve it until the culprit stands alone."""
        encoder, failure = batch.encoder, None
        items = [ready.decoded.prepared[encoder.name] for ready in batch.clips]
        try:
            with self._trace.span(f"launch {encoder.name}", clips=len(items)):
                if batch.tensors is None:
                    batch.tensors = encoder.stage(items)
                if batch.copied is not None:
                    stream = torch.cuda.current_stream()
                    stream.wait_event(batch.copied)
                    for tensor in batch.tensors:
                        tensor.record_stream(stream)
                batch.started = self._event()
                batch.pooled = encoder.pool(encoder.run(batch.tensors, items), [self.levels[encoder.name]])
                batch.done = self._event()
        except EmoError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded for the clip once it is alone
            failure = f"{type(error).__name__}: {error}"
        # Here, outside of the handler, the tensors of the failed attempt are free again.
        batch.tensors = None
        if failure is None:
            put(self._computed, batch, self._dead)
            return
        memory = "out of memory" in failure.lower()
        if "CUDA error" in failure and not memory:
            raise ModelError(
                f"The device of {encoder.name} failed: {failure}.", "What is committed is safe; run again."
            )
        if memory and encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch.clips) > 1:
            middle = len(batch.clips) // 2
            self._compute(_Batch(encoder, batch.clips[:middle]))
            self._compute(_Batch(encoder, batch.clips[middle:]))
            return
        ready = batch.clips[0]
        del ready.decoded.prepared[encoder.name]
        sentence = f"{encoder.name} failed on {ready.path.name}: {failure}."
        kind = "out-of-memory" if memory else "internal"
        self._emit(ready, encoder.name, MediaError(kind, sentence, retry=True))

    def _event(self) -> Any:
        if not self._streams:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=self._trace.on, blocking=True)  # a spinning thread would take a core
        event.record()
        return event

    # ---- fetch ------------------------------------------------------------------------------------------------------

    def _fetch_all(self) -> None:
        for batch in self._batches(self._computed):
            encoder, level = batch.encoder, self.levels[batch.encoder.name]
            items = [ready.decoded.prepared.pop(encoder.name) for ready in batch.clips]
            assert batch.pooled is not None
            with self._trace.span(f"fetch {encoder.name}", clips=len(items)):
                try:
                    if self._streams:
                        batch.done.synchronize()
                    outputs = encoder.fetch(batch.pooled, items)
                except RuntimeError as error:
                    raise ModelError(
                        f"The device of {encoder.name} failed: {error}.", "What is committed is safe; run again."
                    ) from error
            batch.pooled = None
            self._draw(batch, level)
            for ready, output in zip(batch.clips, outputs, strict=True):
                result: Output | MediaError = output[level]
                if not np.isfinite(output[level].array).all():
                    sentence = f"{encoder.name} gives values that are not finite for {ready.path.name}."
                    result = MediaError("not-finite", sentence, "Try --dtype float32.", retry=True)
                self._emit(ready, encoder.name, result)

    def _draw(self, batch: _Batch, level: str) -> None:
        """The time that the device itself was busy with a batch."""
        if not self._trace.on:
            return
        start, end = batch.started, batch.done
        if self._streams:
            at, base = self._base
            start, end = (at + base.elapsed_time(event) / 1000 for event in (start, end))
        words = {"clips": len(batch.clips), "level": level}
        self._trace.add(batch.encoder.name, f"device {self.device}", start, end, **words)


def put(target: queue.Queue[Any], item: object, dead: Callable[[], bool]) -> None:
    """Put, but never wait for a reader that has died."""
    while True:
        try:
            target.put(item, timeout=0.2)
            return
        except queue.Full:
            if dead():
                return
