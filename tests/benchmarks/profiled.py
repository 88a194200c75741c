"""Where the time of a step or of answers goes, kernel by kernel, and which levers there are (`--profile`)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from emotion_llama import wait
from torch.profiler import ProfilerActivity, profile

SHOWN = 15
LONGEST = 60  # letters of a kernel's name, which may be a template of hundreds
PRODUCTS, ATTENTION, OPTIMIZER = "matrix products", "attention", "optimizer and gradient norm"
NORM, EMBEDDING, COPY, OTHER = "norms", "embeddings", "copies and conversions", "all else, element by element"
# The first that fits a name: operators of a CPU (aten::), kernels of a GPU.
KINDS = (
    (ATTENTION, r"attention|flash|fmha"),
    (OPTIMIZER, r"adam|foreach|multi_tensor|optimizer|get_total_norm|linalg_vector_norm|lpnorm"),
    (PRODUCTS, r"gemm|cutlass|nvjet|xmma|aten::(mm|bmm|addmm|linear|matmul)\b|mkldnn"),
    (NORM, r"rms_?norm|layer_?norm"),
    (EMBEDDING, r"embedding|index_?select|index_copy|indexSelect"),
    (COPY, r"copy|memcpy|memset|aten::(to|_to_copy|clone|contiguous|fill_|zero_|cat)\b|CatArray|fill"),
)


@dataclass(frozen=True)
class Profile:
    """What was seen.

    Attributes:
        table: Kind, name, share of all kernel or operator time, calls; the largest first.
        kinds: Share of each kind.
        busy: Kernel time over wall time; `None` on a CPU.
    """

    table: list[tuple[str, ...]]
    kinds: dict[str, float]
    busy: float | None

    def words(self, what: str) -> list[str]:
        """Sentences below the table; `what` says what ran."""
        kinds = ", ".join(
            f"{kind} {share:.1%}" for kind, share in sorted(self.kinds.items(), key=lambda each: -each[1])
        )
        busy = (
            ""
            if self.busy is None
            else f" Kernels ran for {self.busy:.0%} of the wall time, the profiler's own included."
        )
        unit = "operators, each without those that it calls" if self.busy is None else "kernels"
        return [f"{what}, by torch's profiler: the {len(self.table) - 1} longest {unit}. By kind: {kinds}.{busy}"]


@dataclass(frozen=True)
class Lever:
    """Something that could make it faster.

    Attributes:
        name: Of the lever.
        state: Whether emo has it, and where.
        measured: What was measured of it in this run; empty where nothing was.
    """

    name: str
    state: str
    measured: str = ""


def profiled(run: Callable[[], object], device: str) -> Profile:
    """Run once under the profiler; what is to be warm is warm already."""
    cuda = device.startswith("cuda")
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        run()
        wait(device)
    wall = time.perf_counter() - start
    spent: dict[str, tuple[float, int]] = {}
    for each in seen.key_averages():
        if cuda and each.device_type != torch.autograd.DeviceType.CUDA:
            continue
        took = each.self_device_time_total if cuda else each.self_cpu_time_total
        name = _short(each.key)
        before = spent.get(name, (0.0, 0))
        spent[name] = before[0] + took, before[1] + each.count
    total = sum(took for took, _ in spent.values())
    kinds: dict[str, float] = {}
    for name, (took, _) in spent.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + took / total
    largest = sorted(spent, key=lambda name: -spent[name][0])[:SHOWN]
    rows = [(kind_of(name), f"`{name}`", f"{spent[name][0] / total:.1%}", f"{spent[name][1]:,}") for name in largest]
    head = ("kind", "kernel" if cuda else "operator", "share of the time", "calls")
    return Profile([head, *rows], kinds, total / 1e6 / wall if cuda else None)


def kind_of(name: str) -> str:
    """The kind of a kernel or operator, by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), OTHER)


def lever_table(levers: Sequence[Lever]) -> list[tuple[str, ...]]:
    """Rows of the section on levers."""
    head = ("lever", "in emo", "measured in this run")
    return [head, *((each.name, each.state, each.measured or "not measured on its own") for each in levers)]


def _short(name: str) -> str:
    name = name.replace("|", "/").replace("`", "'")
    name = re.sub(r"\(anonymous namespace\)::", "", name).removeprefix("void ")
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
