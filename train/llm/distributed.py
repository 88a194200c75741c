"""The processes that train together and share a model, the thread that reads ahead, and the signal that stops them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import distributed

from emo.featstore.errors import EmoError, TrainError
from emo.train.device import resolve_device
from emo.train.llm.model import TunedModel

T = TypeVar("T")


def own_device(name: str) -> str:
    """Name of the device that this process computes on: with torchrun every process has a GPU of its own.

    Raises:
        UsageError: There is no such device.
    """
    device = resolve_device(name)
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
    return device


@dataclass(frozen=True)
class World:
    """The processes that train together, as torchrun has started them; alone without it.

    As a context it is left at its end: all at once, or alone and at once where there was an error.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> World:
        """Meet the other processes, where the environment says that there are any; or find oneself among them already.

        Raises:
            UsageError: There is no such device.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not distributed.is_initialized():
            own = torch.device(own_device(device))
            if own.type == "cuda":
                torch.cuda.set_device(own)  # through which NCCL sends what is no tensor
            distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave(together=kind is None)

    def share(self, make: Callable[[], T]) -> T:
        """Return what `make` gives in the first process, for all of them; the others do not call it.

        Args:
            make: Its result is pickled.

        Raises:
            EmoError: As `make` has raised it, in every process.
            TrainError: Anything else that it has raised; in the first process that itself.
        """
        if self.size == 1:
            return make()
        said: list[Any] = [None, None]  # the result, or the error and what it holds
        error: Exception | None = None
        if self.rank == 0:
            try:
                said[0] = make()
            except Exception as raised:  # noqa: BLE001 - raised again below, when the others know
                error = raised
                told = raised if isinstance(raised, EmoError) else TrainError(f"The first process failed: {raised!r}.")
                said[1] = type(told), vars(told)
        distributed.broadcast_object_list(said)
        if self.rank and said[1] is not None:
            error = _again(*said[1])
        if error is not None:
            raise error
        return said[0]

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
        """Say whether it is so in one of the processes."""
        return mine if self.size == 1 else any(row["said"] for row in self.gather([{"said": mine}]))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self, together: bool = True) -> None:
        """Part from the others, once.

        Args:
            together: Wait for all. After an error do not: what the others wait for then fails at once, for it will
                never come.
        """
        if self.size == 1 or not distributed.is_initialized():
            return
        if together:
            distributed.barrier()
        elif distributed.get_backend() == "nccl":
            return  # destroying could itself wait for the others, and torchrun ends them when this process ends
        if distributed.get_backend() == "gloo":
            # Its threads drop the last tensors a moment later and need the interpreter for that. After `shard` they
            # outlive the group, because torch's caches hold it, and would abort a process that ends at once.
            time.sleep(0.1)
        distributed.destroy_process_group()


def _again(kind: type[EmoError], held: dict[str, Any]) -> EmoError:
    """An error of another process; not unpickled as such, for its `__init__` may ask for more than a message."""
    error = kind.__new__(kind)
    EmoError.__init__(error, held["message"], held["hint"])
    vars(error).update(held)
    return error


def shard(model: TunedModel, device: str) -> None:
    """Give every process its part of the frozen decoder layers, and bring the model to this process's device.

    The model goes to the device layer by layer, and only this process's part of each stays there: at no time does the
    device hold the whole. Adapters, projections, embeddings, last norm and output layer stay whole in every process,
    so that the optimizer, checkpoints and the sum of gradients need not know of any of this.

    From now on every pass through the model is a collective, and all processes must make the same number of them: the
    same number of batches, the same clips to answer. `agree` sees to it that answers grow alike in all of them.

    Args:
        model: Fresh from `build`, on the CPU, the same in every process.
        device: This process's own.
    """
    from torch.distributed.device_mesh import init_device_mesh  # these take long to import
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    kind = torch.device(device).type
    mesh = init_device_mesh(kind, (distributed.get_world_size(),))
    decoder = model.llm.model
    # The root is the part that all passes enter by; `embeddings` and `lm_head` are called outside of it.
    whole = {each for each in model.parameters() if each.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    whole |= {each for each in model.parameters() if not isinstance(each, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    for each in chain(whole, model.buffers()):
        each.data = each.data.to(device)
    model.agree = _first_process


def _first_process(ids: torch.Tensor) -> torch.Tensor:
    """Ids that the first process has chosen: a bit of difference in a logit must not send the others another way."""
    distributed.broadcast(ids, 0)
    return ids


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
