"""The device that a run computes on, and how it is said."""

from __future__ import annotations

from emo.featstore.errors import UsageError
from emo.featstore.text import counted


def resolve_device(name: str) -> str:
    """Name of a torch device that is there; `auto` is a GPU where there is one.

    Raises:
        UsageError: There is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is not a device.", "Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"There is no device {name}: torch sees {torch.cuda.device_count()} GPUs.", "Use auto or cpu.")
    return name


def device_words(name: str) -> str:
    """Say what computes: `the CPU, 2 threads (...)`, `cuda:0, NVIDIA H200`. The name is one of `resolve_device`."""
    import torch

    if torch.device(name).type == "cuda":
        return f"{name}, {torch.cuda.get_device_name(name)}"
    return f"the CPU, {counted(torch.get_num_threads(), 'thread')} (OMP_NUM_THREADS sets another number)"
