"""Processes that decode clips, for machines with more cores than one interpreter can feed.

Every worker is forked from one server process that has imported what decoding needs, so that it starts in milliseconds
and shares that memory. A worker that dies (a decoder that crashes) costs the clips it was busy with, not the pass.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError

TRIM_EVERY = 100  # clips
PRELOADED = ["emo.extract.run.decode", "emo.extract.run.workers"]
Result_co = TypeVar("Result_co", covariant=True)


class Decodes(Protocol[Result_co]):
    """Something that decodes a clip; it can be pickled."""

    def decode(self, clip: Clip, path: Path, names: Sequence[str]) -> Result_co:
        """Open and decode a clip once, for so many names."""
        ...

    def crashed(self, names: Sequence[str], failure: MediaError) -> Result_co:
        """Return the result of a clip that made its process die twice."""
        ...


_decoder: Decodes[Any] | None = None  # of this worker process
_decoded = 0


class DecodePool(Generic[Result_co]):
    """Decodes clips in other processes, or in the caller's thread where `processes` is 0; a context manager.

    The processes start with the first clip: a pass that has nothing to decode starts none.

    Args:
        decoder: What to do; sent to every process once.
        processes: How many.
    """

    def __init__(self, decoder: Decodes[Result_co], processes: int) -> None:
        self._decoder, self._processes = decoder, processes
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def decode(self, clip: Clip, path: Path, names: Sequence[str]) -> Result_co:
        """Let the decoder decode a clip; may be called from several threads at once.

        When a process dies, all clips under way are lost with it. Each is tried again alone, in a process of its own;
        when that dies too, the clip is its fault.
        """
        if not self._processes:
            return self._decoder.decode(clip, path, names)
        with self._lock:
            pool = self._pool = self._pool or self._start(self._processes)
        with contextlib.suppress(BrokenProcessPool):
            return pool.submit(_decode, clip, path, names).result()
        with self._lock:
            if self._pool is pool:
                pool.shutdown(wait=False)
                self._pool = self._start(self._processes)
            with contextlib.suppress(BrokenProcessPool), self._start(1) as alone:
                return alone.submit(_decode, clip, path, names).result()
        return self._decoder.crashed(names, crash_of(path.name))

    def _start(self, processes: int) -> ProcessPoolExecutor:
        prepare_processes()
        context = multiprocessing.get_context("forkserver")
        return ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(self._decoder,))


def crash_of(name: str) -> MediaError:
    """Return the failure of a clip at which two processes died, the last one with nothing else to do."""
    sentence = f"{name} made the process that worked on it die twice."
    return MediaError("crash", sentence, "Look for lack of memory (dmesg), or re-encode the clip.", retry=True)


def processes_work() -> bool:
    """Say whether this system can fork from a server (Windows cannot: there threads do all the work)."""
    return "forkserver" in multiprocessing.get_all_start_methods()


def prepare_processes() -> None:
    """Start the process from which workers are forked; it takes seconds of imports, while the caller goes on."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


def _begin(decoder: Decodes[Any]) -> None:
    """First thing in a worker: Ctrl-C is for the main process, which lets the clips under way finish."""
    global _decoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _decoder = decoder


def trim() -> None:
    """Give memory back that malloc keeps: clips of many sizes leave holes, which add up over a long pass (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _decode(clip: Clip, path: Path, names: Sequence[str]) -> Any:
    global _decoded
    assert _decoder is not None
    _decoded += 1
    if _decoded % TRIM_EVERY == 0:
        trim()
    return _decoder.decode(clip, path, names)
