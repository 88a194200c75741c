"""Many heads of one shape trained together: their weights are stacked, and each step is one step of all of them.

Every head sees the clips, dropout masks and optimizer that `GradientHead.fit` would give it alone; only the sums
inside a matrix product may come in another order. On a GPU a step is one CUDA graph, and nothing waits for the host
within an epoch. On a CPU weights are updated block by block (`update.py`), and the cores take stacks in turn: what a
head learns does not depend on how many cores there are.
"""

from __future__ import annotations

import copy
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emo.train.heads.base import Epoch, Fold, Job, Outputs, Targets, Units
from emo.train.heads.layers import Linear, Uses
from emo.train.heads.noise import BLOCK, draw_noise, drops_of, epoch_order, give_noise
from emo.train.heads.objective import check_finite, head_loss, measured, one_thread, scaling_of
from emo.train.heads.update import Adam

ARRAYS = 4  # weights, gradients and Adam's two moments
CPU_BYTES = 320 * 2**20  # of these arrays in one stack: heads share what the calls of a step cost
CPU_STACKS = 4  # of any group, so that several cores have work
GPU_SHARE = 0.4  # of the free memory
EVAL_VALUES = 2**26  # inputs in one forward pass of an evaluation
EAGER = 3  # steps before a step is captured as a CUDA graph

Event = tuple[int, Epoch]  # which head of a stack, and how its epoch went


def train_together(
    heads: Sequence[Any],
    data: Sequence[Tensor],
    targets: Targets,
    folds: Sequence[Fold],
    keep: bool,
    stacks: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """`Head.fit_all` of heads that are stackable.

    Args:
        heads: They may differ in seed, widths, dropout, learning rate, weight decay and clipping.
        data: `(N, D)` of each stream, on the heads' device.
        targets: Of all clips.
        folds: One per head.
        keep: As in `Head.fit_all`.
        stacks: Numbers of the heads of each stack; default: as `plan_stacks` finds best.
    """
    best = [0] * len(heads)
    cores, device = torch.get_num_threads(), heads[0].device
    if stacks is None:
        kinds = [_kind(_sizes(head), head.recipe, head.seed, fold) for head, fold in zip(heads, folds, strict=True)]
        stacks = plan_stacks(kinds, device)

    def start(k: int) -> Iterator[Event]:
        return Stack([heads[i] for i in stacks[k]], data, targets, [folds[i] for i in stacks[k]], keep).events()

    with one_thread(), closing(_in_order(len(stacks), start, 1 if device.type == "cuda" else cores)) as events:
        for k, (place, epoch) in events:
            i = stacks[k][place]
            if epoch.best:
                best[i] = epoch.epoch
            if not math.isfinite(epoch.metric):
                best[i] = 0
            folds[i].on_epoch(epoch)
    return best


class Kind(NamedTuple):
    """Properties of a head that decide with which others it is stacked.

    Attributes:
        alike: Equal for heads that fit one stack: shapes, steps, batch size, epochs.
        size: Bytes of its weights.
        seed: Of the head.
        pace: See `_pace`.
    """

    alike: Any
    size: int
    seed: int
    pace: tuple[float, float, float]


def _sizes(head: Any) -> tuple[Any, int]:
    """Shapes of a head's weights, and their bytes."""
    weights = list(head.net.parameters())
    return tuple(tuple(p.shape) for p in weights), sum(p.numel() * p.element_size() for p in weights)


def _kind(sizes: tuple[Any, int], recipe: Any, seed: int, fold: Fold) -> Kind:
    shapes, size = sizes
    steps = -(-len(fold.train) // recipe.batch_size)
    return Kind((shapes, steps, recipe.batch_size, recipe.epochs), size, seed, _pace(recipe))


SHAPELESS = {"lr", "weight_decay", "grad_clip", "dropout", "seeds", "search"}  # keys on which no weight's shape depends


def plan_units(jobs: Sequence[Job]) -> Units:
    """`Head.units` of heads that are stackable: one head of each shape is made, and thrown away."""
    sizes: dict[str, tuple[Any, int]] = {}
    device = torch.device("cpu")
    kinds: list[Kind] = []
    for job in jobs:
        shape = job.recipe.model_dump_json(exclude=SHAPELESS)
        if shape not in sizes:
            head = job.make()
            sizes[shape], device = _sizes(head), head.device
        kinds.append(_kind(sizes[shape], job.recipe, job.seed, job.fold))
    return Units(tuple(map(tuple, plan_stacks(kinds, device))), threads=device.type == "cpu")


def plan_stacks(kinds: Sequence[Kind], device: torch.device) -> list[list[int]]:
    """Decide which heads are stacked: those of the same shapes and number of steps, as many as there is room for."""
    alike: dict[Any, list[int]] = {}
    for i, kind in enumerate(kinds):
        alike.setdefault(kind.alike, []).append(i)
    if device.type == "cuda":
        room = GPU_SHARE * torch.cuda.mem_get_info(device)[0] / 2  # the best weights, activations
        least = 1
    else:
        room, least = CPU_BYTES, min(CPU_STACKS, len(kinds))
    stacks = []
    for group in alike.values():
        count = max(1, int(room // (ARRAYS * kinds[group[0]].size)))
        count = -(-len(group) // max(least, -(-len(group) // count)))  # heads of a stack; all stacks are alike
        stacks += [sorted(each, key=lambda i: kinds[i].pace) for each in _by_seed(group, kinds, count)]
    return stacks


def _by_seed(group: Sequence[int], kinds: Sequence[Kind], count: int) -> list[list[int]]:
    """Heads in parts of `count` at most; those of one seed, who share clips and random numbers, are kept together."""
    seeds: dict[int, list[int]] = {}
    for i in group:
        seeds.setdefault(kinds[i].seed, []).append(i)
    parts: list[list[int]] = []
    for same in seeds.values():
        size = -(-len(same) // -(-len(same) // count))
        for at in range(0, len(same), size):
            part = same[at : at + size]
            if parts and len(parts[-1]) + len(part) <= count:
                parts[-1] += part
            else:
                parts.append(part)
    return parts


def _pace(recipe: Any) -> tuple[float, float, float]:
    """Learning rate, weight decay and largest gradient value: heads that agree in them take one optimizer step."""
    return recipe.lr, recipe.weight_decay, math.inf if recipe.grad_clip is None else recipe.grad_clip


def _in_order(count: int, start: Callable[[int], Iterable[Event]], workers: int) -> Iterator[tuple[int, Event]]:
    """Events of `count` stacks, one stack after the other, while `workers` of them are trained at a time."""
    if workers == 1 or count == 1:
        for k in range(count):
            for event in start(k):
                yield k, event
        return
    told: list[queue.SimpleQueue[Event | None]] = [queue.SimpleQueue() for _ in range(count)]
    stop = threading.Event()

    def run(k: int) -> None:
        try:
            for event in () if stop.is_set() else start(k):
                told[k].put(event)
                if stop.is_set():
                    break
        finally:
            told[k].put(None)

    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(run, k) for k in range(count)]
        try:
            for k, job in enumerate(jobs):
                while (event := told[k].get()) is not None:
                    yield k, event
                job.result()
        finally:
            stop.set()


class Stack:
    """Heads of one shape, and the state of their training. M heads, of which U differ in seed or clips.

    Args:
        heads, data, targets, folds, keep: As in `train_together`; the heads have the same shapes and number of steps.
    """

    def __init__(
        self, heads: Sequence[Any], data: Sequence[Tensor], targets: Targets, folds: Sequence[Fold], keep: bool
    ) -> None:
        self.heads, self.data, self.folds, self.keep = heads, data, folds, keep
        self.device, recipe = heads[0].device, heads[0].recipe
        self.epochs, self.size = recipe.epochs, recipe.batch_size
        self.steps = -(-len(folds[0].train) // self.size)
        self.emotion = torch.from_numpy(targets.emotion).to(self.device)
        self.valence = torch.from_numpy(targets.valence.astype(np.float32)).to(self.device)

        kinds: dict[Any, int] = {}
        of = [
            kinds.setdefault((head.seed, fold.train.tobytes(), fold.val.tobytes()), len(kinds))
            for head, fold in zip(heads, folds, strict=True)
        ]
        first = [of.index(u) for u in range(len(kinds))]
        self.of = torch.tensor(of, device=self.device)  # (M,)
        self.seeds = [heads[m].seed for m in first]
        self.trains, self.vals = [folds[m].train for m in first], [folds[m].val for m in first]
        self.scaling = self._scaling() if recipe.standardise else None
        self.noise_type = torch.int16 if self.device.type == "cuda" else torch.float32  # as masks are made of it

        self.net = self._stacked()
        self.params = [p.detach() for p in self.net.parameters()]  # each (M, ...)
        self.best = [p.clone() for p in self.params] if keep else []
        self.optimizer = Adam(self.params, [_pace(head.recipe) for head in heads], self._uses())
        self.drops = drops_of(self.net)

        count, rows = len(kinds), min(BLOCK, self.steps) * self.size
        width = sum(drop.width for drop in self.drops)
        self.lane = torch.arange(self.size, device=self.device)
        self.clock = torch.zeros((), dtype=torch.int64, device=self.device)  # steps of this epoch
        self.rows = torch.zeros(count, self.steps * self.size, dtype=torch.int64, device=self.device)
        real = np.zeros((count, self.steps * self.size), dtype=bool)
        for u, train in enumerate(self.trains):
            real[u, : len(train)] = True
        self.real = torch.from_numpy(real).to(self.device)
        self.noise = torch.zeros(count, rows, width, dtype=torch.int16, device=self.device)
        self.total = torch.zeros(len(heads), device=self.device)
        self.taken, self.graph = 0, None

    def events(self) -> Iterator[Event]:
        """Train; how each epoch of each head went. Of a head that diverges the metric is NaN, and no more follows."""
        count = len(self.heads)
        best, alive, gone = np.full(count, -math.inf), np.ones(count, dtype=bool), np.zeros(count, dtype=bool)

        def judge(epoch: int, losses: np.ndarray, outs: list[Outputs]) -> Iterator[Event]:
            metrics = np.array([measured(fold.measure, out) for fold, out in zip(self.folds, outs, strict=True)])
            alive[:] &= np.isfinite(losses) & np.isfinite(metrics)
            better = alive & (metrics > best)
            best[better] = metrics[better]
            if self.keep:
                for m, (loss, metric) in enumerate(zip(losses.tolist(), metrics.tolist(), strict=True)):
                    check_finite(epoch, loss, metric, partial(self._lone, m))
                at = torch.from_numpy(np.flatnonzero(better)).to(self.device)
                for kept, now in zip(self.best, self.params, strict=True):
                    kept[at] = now[at]
            for m in np.flatnonzero(~gone):
                gone[m] = not alive[m]
                metric = float(metrics[m]) if alive[m] else math.nan
                yield int(m), Epoch(epoch, float(losses[m]), metric, bool(better[m]))

        waiting: Iterator[Event] = iter(())
        for epoch in range(1, self.epochs + 1):
            self._train(epoch)
            yield from waiting  # while a GPU is busy with the next epoch
            losses = self.total.cpu().numpy() / [len(fold.train) for fold in self.folds]
            waiting = judge(epoch, losses, self._outputs())
            if self.keep:  # the weights are still those of this epoch
                yield from waiting
        yield from waiting
        if self.keep:
            self._give_back()

    def _lone(self, m: int) -> str:
        """Try a head's first weights, which it has till it is given its best, on one clip; see `lone_hint`."""

        def streams(_: np.ndarray, at: Tensor) -> list[Tensor]:
            return [(x - mean) / std for x, (mean, std) in zip([each[at] for each in self.data], scaling, strict=True)]

        u = int(self.of[m])
        plain: list[tuple[Any, Any]] = [(0.0, 1.0)] * len(self.data)
        scaling = plain if self.scaling is None else [(mean[u], std[u]) for mean, std in self.scaling]
        hint: str = self.heads[m].lone_clip(streams, self.trains[u], self.emotion, self.valence)
        return hint

    def _train(self, epoch: int) -> None:
        """One epoch of all heads."""
        rows = np.empty(tuple(self.rows.shape), dtype=np.int64)
        for u, (seed, train) in enumerate(zip(self.seeds, self.trains, strict=True)):
            order = epoch_order(train, seed, epoch)
            rows[u, : len(order)], rows[u, len(order) :] = order, order[-1]  # the rest is not real
        self.rows.copy_(torch.from_numpy(rows))
        self.total.zero_()
        self.clock.zero_()
        self.net.train()
        for step in range(self.steps):
            if step % BLOCK == 0:
                drawn = min(BLOCK, self.steps - step) * self.size
                for u, seed in enumerate(self.seeds):
                    width = self.noise.shape[2]
                    self.noise[u, :drawn] = draw_noise(seed, epoch, step // BLOCK, drawn, width, self.device)
            self._advance()

    def _advance(self) -> None:
        """The next step: on a GPU the first ones eagerly on a side stream, then one graph again and again."""
        if self.device.type != "cuda":
            self._step()
            return
        if self.graph is None and self.taken < EAGER:
            side = torch.cuda.Stream(self.device)
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                self._step()
            torch.cuda.current_stream(self.device).wait_stream(side)
            self.taken += 1
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
        self.graph.replay()

    def _step(self) -> None:
        """One optimizer step of every head; touches nothing but tensors on the device."""
        at = self.clock * self.size + self.lane  # (B,)
        rows = self.rows.index_select(1, at)  # (U, B)
        real = self._each(self.real.index_select(1, at))
        noise = self.noise.index_select(1, at % (BLOCK * self.size))
        give_noise(self.drops, self._each(noise.to(self.noise_type)))
        out = self.net(self._streams(rows))
        loss = head_loss(out, self._each(self.emotion[rows]), self._each(self.valence[rows]), real)  # (M,)
        gradients = torch.autograd.grad(loss.sum(), list(self.net.parameters()), allow_unused=True)
        with torch.no_grad():
            self.optimizer.step(gradients)
            self.total += loss * real.sum(dim=1)
            self.clock += 1

    @torch.no_grad()
    def _outputs(self) -> list[Outputs]:
        """Return what every head says of its validation clips."""
        self.net.eval()
        length = max(map(len, self.vals))
        rows = torch.from_numpy(np.stack([np.resize(val, length) for val in self.vals])).to(self.device)  # (U, V)
        some = max(1, EVAL_VALUES // (len(self.heads) * sum(tensor.shape[1] for tensor in self.data)))
        outs = [self.net(self._streams(part)) for part in rows.split(some, dim=1)]
        logits = torch.cat([out.logits for out in outs], dim=1).double().cpu().numpy()  # (M, V, C)
        valence = None
        if outs[0].valence is not None:
            valence = torch.cat([out.valence for out in outs], dim=1).squeeze(2).double().cpu().numpy()  # (M, V)
        lengths = [len(fold.val) for fold in self.folds]
        return [Outputs(logits[m, :n], None if valence is None else valence[m, :n]) for m, n in enumerate(lengths)]

    def _streams(self, rows: Tensor) -> list[Tensor]:
        """Inputs of every head `(M, B, D)`, from rows `(U, B)`."""
        streams = [F.embedding(rows, tensor) for tensor in self.data]  # twice as fast as an index on a CPU
        if self.scaling is not None:
            streams = [(x - mean) / std for x, (mean, std) in zip(streams, self.scaling, strict=True)]
        return [self._each(x) for x in streams]

    def _each(self, x: Tensor) -> Tensor:
        """`(U, ...)` as `(M, ...)`."""
        if len(self.seeds) == 1:
            return x.expand(len(self.heads), *x.shape[1:])
        return x.index_select(0, self.of)

    def _scaling(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and deviation of every stream over each kind's training clips, `(U, 1, D)`."""
        pairs = [[scaling_of(tensor, None, train) for train in self.trains] for tensor in self.data]
        return [
            (torch.stack([mean for mean, _ in each])[:, None], torch.stack([std for _, std in each])[:, None])
            for each in pairs
        ]

    def _stacked(self) -> Any:
        """One network that holds weights and buffers of all heads, matrices as `(M, in, out)`, and their dropout."""
        net = copy.deepcopy(self.heads[0].net)
        states = [dict(head.net.named_parameters()) for head in self.heads]
        for name, parameter in net.named_parameters():
            each = torch.stack([state[name].data for state in states])
            # Gradients of matrices come in this order, and the fused optimizer wants all strides alike.
            parameter.data = each.mT.clone(memory_format=torch.contiguous_format) if each.dim() == 3 else each
        for name, buffer in net.named_buffers():
            buffer.data = torch.stack([dict(head.net.named_buffers())[name] for head in self.heads])
        for place, drop in enumerate(drops_of(net)):
            each = [drops_of(head.net)[place] for head in self.heads]
            shape = {"device": self.device, "dtype": self.noise_type}
            drop.threshold = torch.tensor([d.threshold for d in each], **shape)[:, None, None]
            drop.scale = torch.tensor([d.scale for d in each], device=self.device)[:, None, None]
        return net

    def _uses(self) -> dict[int, Uses]:
        """Uses of the matrices whose gradients are computed block by block: on a CPU those of linear layers."""
        if self.device.type != "cpu":
            return {}
        numbers = {id(p): i for i, p in enumerate(self.net.parameters())}
        uses: dict[int, Uses] = {}
        for layer in self.net.modules():
            if isinstance(layer, Linear):
                layer.uses = uses.setdefault(numbers[id(layer.weight)], [])
        return uses

    def _give_back(self) -> None:
        """Every head gets the weights of its best epoch."""
        for m, head in enumerate(self.heads):
            for parameter, kept in zip(head.net.parameters(), self.best, strict=True):
                parameter.data.copy_(kept[m].mT if parameter.dim() == 2 else kept[m])
            if self.scaling is not None:
                u = int(self.of[m])
                head.scaling = [(mean[u, 0].clone(), std[u, 0].clone()) for mean, std in self.scaling]
