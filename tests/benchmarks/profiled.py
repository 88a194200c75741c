"""Where the time of a step or of answers goes, kernel by kernel, and which levers there are (`--profile`)."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from emotion_llama import wait
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from emo.train.llm.model import TunedModel

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
# Parts of a step, forward and backward, which are marked while it is profiled
MARK = "part: "
ADAPTERS, FROZEN, ROTARY, NORMS, RESIDUAL, FORWARD, LOOKUP, STEP = (
    "adapters",
    "frozen products of attention",
    "attention and rotary positions",
    "norms of layers",
    "residual sums",
    "feed-forward",
    "embeddings of ids",
    "optimizer",
)


@dataclass(frozen=True)
class Profile:
    """What was seen.

    Attributes:
        table: Kind, name, share of all kernel or operator time, calls; the largest first.
        kinds: Share of each kind.
        busy: Kernel time over wall time; `None` on a CPU.
        inside: Time within kernels or operators over wall time.
        parts: Share of each marked part and kind of operator.
    """

    table: list[tuple[str, ...]]
    kinds: dict[str, float]
    busy: float | None
    inside: float = 1.0
    parts: dict[tuple[str, str], float] = field(default_factory=dict)

    def share(self, *parts: str, but: Sequence[str] = ()) -> float:
        """Share of these parts, some kinds of operators left out."""
        return sum(each for (part, kind), each in self.parts.items() if part in parts and kind not in but)

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


def at_most(share: float, of: str) -> str:
    """The gain where a share of something would be gone."""
    return f"at most {1 / (1 - share):.2f}x: {share:.1%} of {of}"


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
        if each.key.startswith(MARK) or (cuda and each.device_type != torch.autograd.DeviceType.CUDA):
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
    inside = sum(took for name, (took, _) in spent.items() if cuda or name.startswith("aten::")) / 1e6 / wall
    return Profile([head, *rows], kinds, inside if cuda else None, inside, _parts(seen.events(), cuda))


@contextlib.contextmanager
def marked(model: TunedModel) -> Iterator[None]:
    """Mark the parts of a step, for `profiled`."""
    begun: list[record_function] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: begun.append(record_function(MARK + name).__enter__())

    def leave(*_: object) -> None:
        begun.pop().__exit__(None, None, None)

    parts: list[tuple[nn.Module, str]] = [(model.embeddings, LOOKUP), (model.llm.model.rotary_emb, ROTARY)]
    for layer in model.llm.model.layers:
        parts += [(layer, RESIDUAL), (layer.mlp, FORWARD), (layer.self_attn, ROTARY)]
        for module in layer.modules():
            if isinstance(module, LoraLayer):
                parts.append((module, ADAPTERS))
            elif isinstance(module, nn.RMSNorm):
                parts.append((module, NORMS))
        parts += [(getattr(each, "base_layer", each), FROZEN) for each in layer.self_attn.children()]
    hooks = []
    for module, name in parts:
        hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def kind_of(name: str) -> str:
    """The kind of a kernel or operator, by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), OTHER)


def lever_table(levers: Sequence[Lever]) -> list[tuple[str, ...]]:
    """Rows of the section on levers."""
    head = ("lever", "in emo", "measured in this run")
    return [head, *((each.name, each.state, each.measured or "not measured on its own") for each in levers)]


def operators(run: Callable[[], Tensor]) -> int:
    """Operators of a forward and backward pass that make new tensors, without products and attention."""
    seen = _Names()
    with seen:
        run().sum().backward()
    return sum(kind_of(name) not in (PRODUCTS, ATTENTION) for name in seen.names)


class _Names(TorchDispatchMode):
    """Names of the operators that are called, without those that make no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not call.is_view and not re.search(r"unsafe_view|empty|detach", str(call)):
            self.names.append(str(call).replace(".", "::", 1))
        return call(*args, **(kwargs or {}))


def fused_kernels(codes: Sequence[str]) -> list[list[str]]:
    """Names of the kernels in each of some programs that torch.compile has written."""
    return [sorted(set(re.findall(r"\b(?:cpp|triton_[a-z]+)_fused_\w+", code))) for code in codes]


def _parts(events: Sequence[Any], cuda: bool) -> dict[tuple[str, str], float]:
    """Share of each part and kind. What runs backward belongs to the part of the operator that it is the gradient of,
    by the number which autograd gives both."""
    forward: dict[tuple[int, int], str] = {}
    spent: dict[tuple[str, str], float] = {}

    def part(event: Any) -> str:
        while event is not None:
            if event.name.startswith(MARK):
                return event.name.removeprefix(MARK)
            if event.name.startswith("Optimizer."):
                return STEP
            if event.name.startswith("autograd::engine::evaluate_function"):
                return forward.get((event.fwd_thread, event.sequence_nr), "")
            event = event.cpu_parent
        return ""

    for event in sorted(events, key=lambda each: each.time_range.start):
        if event.device_type != torch.autograd.DeviceType.CPU or event.name.startswith(MARK):
            continue
        kind = kind_of(event.name)
        where = STEP if kind == OPTIMIZER else part(event)
        if event.sequence_nr >= 0 and not event.name.startswith("autograd::"):
            forward[event.thread, event.sequence_nr] = where  # the last one before the number changes makes the node
        took = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[where, kind] = spent.get((where, kind), 0.0) + took
    total = sum(spent.values())
    return {each: took / total for each, took in spent.items()}


def _short(name: str) -> str:
    name = name.replace("|", "/").replace("`", "'")
    name = re.sub(r"\(anonymous namespace\)::", "", name).removeprefix("void ")
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
