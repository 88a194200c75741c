"""The device that networks of this machine compute on."""

from __future__ import annotations

import torch

from emo.featstore.errors import UsageError
from emo.featstore.text import counted


def resolve_device(name: str) -> torch.device:
    """Return a device that is there; `auto` is the first GPU where there is one, else the CPU.

    Raises:
        UsageError: There is no such device.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is not a device.", "Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        seen = counted(torch.cuda.device_count(), "CUDA device")
        raise UsageError(f"There is no device {name}: torch sees {seen}.", "Use auto or cpu.")
    return device
