"""The processes that train together, the thread that reads ahead, and the signal that stops them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True)
class World:
    """The processes that train together, as torchrun has started them; alone without it."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> World:
        """Meet the other processes, where the environment says that there are any."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum tensors over all processes, in place."""
        if self.size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            distributed.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All processes' rows, on all of them."""
        if self.size == 1:
            return rows
        parts: list[list[dict[str, Any]]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def any(self, mine: bool) -> bool:
        """Whether it is so in one of the processes."""
        return mine if self.size == 1 else any(row["said"] for row in self.gather([{"said": mine}]))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Part from the others, all at once."""
        if self.size > 1:
            distributed.barrier()
            distributed.destroy_process_group()


@contextmanager
def ahead(load: Callable[[int], Any], first: int, end: int) -> Iterator[Iterator[tuple[int, Any]]]:
    """Steps from `first` to `end` with what `load` gives for each; a thread prepares the next one meanwhile."""
    with ThreadPoolExecutor(1, "emo-batches") as pool:

        def steps() -> Iterator[tuple[int, Any]]:
            coming: Future[Any] | None = pool.submit(load, first) if first < end else None
            for step in range(first, end):
                assert coming is not None
                window = coming.result()
                coming = pool.submit(load, step + 1) if step + 1 < end else None
                yield step, window

        yield steps()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C finish the step and save; the second one ends at once. Tells whether there was one."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def on_signal(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
