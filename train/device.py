"""Which device a run computes on."""

from __future__ import annotations

from emo.featstore.errors import UsageError


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
