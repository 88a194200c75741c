"""Heads that are trained by gradient descent: their keys, and the one loop that trains them.

Trained as MERBench does, except that everything is seeded and batches are shuffled.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from emo.featstore.errors import ModelError
from emo.featstore.sources.strict import fit_names
from emo.train.features import Stream, StreamShape
from emo.train.heads.base import Epoch, Fold, Head, HeadRecipe, Job, Measure, OnEpoch, Outputs, Targets, Units
from emo.train.heads.noise import BLOCK, draw_noise, drops_of, epoch_order, give_noise, seeded
from emo.train.heads.objective import (
    MANY,
    check_finite,
    has_lone_batch,
    head_loss,
    lone_hint,
    measured,
    one_thread,
    scaling_of,
)

EVAL_ROWS = 2048
SEARCHABLE = ("hidden", "layers", "dropout", "lr", "weight_decay", "grad_clip")
Share = Annotated[float, Field(ge=0, lt=1)]


class GradientRecipe(HeadRecipe):
    """Keys of the heads that are trained by gradient descent. Defaults: MERBench/main-release.py, model-tune.yaml."""

    searchable: ClassVar[tuple[str, ...]] = SEARCHABLE
    epochs: int = Field(default=100, ge=1)
    """Passes over a fold's training clips; all are run and the best is kept. Type: whole number. Default: ...
    (MERBench).
    """
    batch_size: int = Field(default=32, ge=1)
    """Clips per step. Type: whole number. Default: ... (MERBench)."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of Adam, constant. Type: number. Default: ... (MERBench draws from 0.001 and 0.0001)."""
    weight_decay: float = Field(default=1e-5, ge=0)
    """L2 term of Adam. Type: number. Default: ... (MERBench)."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Clip every gradient value to this size. Type: number, or null for none. Default: ... (MERBench)."""
    dropout: Share = 0.3
    """Share of values that training drops. Type: number from 0 to 1. Default: ... (MERBench)."""
    valence: Literal["auto", "off"] = "auto"
    """Learn valence too, from the clips that have one; a clip without it adds nothing to that part of the loss.
    Type: auto | off.
    """
    standardise: bool = False
    """Bring every column of the inputs to mean 0 and deviation 1 over a fold's training clips; helps where features
    differ in scale. Type: true | false. Default: ... (as in the reference).
    """
    search: dict[str, tuple[Any, ...]] = {}  # noqa: RUF012 - pydantic copies it
    """Grid that emo train --search N draws from: values of hidden or layers, dropout, lr, weight_decay, grad_clip, and
    of numbers that only this head has (a key that cannot be drawn is refused with the list of those that can). No
    settings are drawn twice before all have been; the next pass takes the next seed. Type: table of key: list of
    values. Default: the reference's (model-tune.yaml of MERBench, run_release.sh of MER2023).
    """

    @property
    def predicts_valence(self) -> bool:
        return self.valence == "auto"

    @property
    def passes(self) -> int | None:
        return self.epochs

    @model_validator(mode="after")
    def _search(self) -> Self:
        able = [name for name in self.searchable if name in type(self).model_fields]
        for name, values in self.search.items():
            if name not in able:
                raise ValueError(f"search: {name} cannot be searched, but {', '.join(able)} can")
            if not values:
                raise ValueError(f"search.{name}: no values")
            read = []
            for value in values:
                try:
                    read.append(getattr(type(self).model_validate({name: value, "search": {}}), name))
                except ValidationError as error:
                    raise ValueError(f"search.{name}: {value!r}: {error.errors()[0]['msg']}") from None
            self.search[name] = tuple(read)  # YAML reads 1e-3 as a text
        return self


def load_strict(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load every tensor and leave none over.

    Raises:
        ModelError: With all differences.
    """
    own, found = ({key: tuple(tensor.shape) for key, tensor in each.items()} for each in (net.state_dict(), state))
    wrong = fit_names(own, found).problems("is missing", "is left over", "is {}, expected {}")
    if wrong:
        raise ModelError(f"The weights do not fit the head: {'; '.join(wrong)}.")
    net.load_state_dict(dict(state))


class GradientHead(Head):
    """A network that gives `Fused`, and the loop that trains it.

    A head of this kind implements `build`. Its dropout is best made of `Drop`, whose masks depend on the seed alone;
    whatever else is random while it trains is a function of the seed as well. Terms of its own loss go into
    `Fused.inner`. A head that wants sequences padded or aligned overrides `prepare`, `inputs` or `batch`.

    Attributes:
        stackable: Whether its layers hold one model or many (`layers.py`) and its dropout is in `Drop`, so that many
            heads over single rows can be trained as one. What differs between heads of one shape, such as weights of
            loss terms, is then in buffers.
    """

    Recipe: ClassVar[type[HeadRecipe]] = GradientRecipe
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 15}
    stackable: ClassVar[bool] = False

    def __init__(
        self, recipe: Any, shapes: Sequence[StreamShape], classes: int, valence: bool, device: str, seed: int
    ) -> None:
        self.check_shapes(shapes)
        self.recipe, self.device, self.seed, self.classes = recipe, torch.device(device), seed, classes
        self.scaling = [(torch.zeros(s.dim), torch.ones(s.dim)) for s in shapes] if recipe.standardise else None
        with seeded(seed, self.device):
            self.net = self.build(shapes, classes, valence).to(self.device)

    @abstractmethod
    def build(self, shapes: Sequence[StreamShape], classes: int, valence: bool) -> nn.Module:
        """Make the network: streams as `batch` gives them in, `Fused` out."""

    @classmethod
    def prepare(cls, streams: Sequence[Stream], device: str) -> list[tuple[Tensor, np.ndarray | None]]:
        return [(torch.from_numpy(np.ascontiguousarray(s.rows)).to(device), s.offsets) for s in streams]

    def inputs(self, data: Any) -> Sequence[tuple[Tensor, np.ndarray | None]]:
        """Return rows and offsets of every stream, as `batch` reads them."""
        return data  # type: ignore[no-any-return]

    def batch(self, data: Any, rows: np.ndarray, at: Tensor) -> list[Tensor | PackedSequence]:
        """Return the streams of the clips `rows`, also given as `at` on the device: `(B, D)` each, or packed."""
        streams: list[Tensor | PackedSequence] = []
        for i, (tensor, offsets) in enumerate(self.inputs(data)):
            parts = [tensor[at]] if offsets is None else [tensor[offsets[k] : offsets[k + 1]] for k in rows]
            if self.scaling is not None:
                mean, std = self.scaling[i]
                parts = [(part - mean) / std for part in parts]
            streams.append(parts[0] if offsets is None else pack_sequence(parts, enforce_sorted=False))
        return streams

    def eval_rows(self) -> int:
        """Return how many clips are answered at once."""
        return EVAL_ROWS

    @one_thread()
    def fit(
        self, data: Any, targets: Targets, train: np.ndarray, val: np.ndarray, measure: Measure, on_epoch: OnEpoch
    ) -> int:
        recipe = self.recipe
        emotion = torch.from_numpy(targets.emotion).to(self.device)
        valence = torch.from_numpy(targets.valence.astype(np.float32)).to(self.device)
        if self.scaling is not None:
            self.scaling = [scaling_of(tensor, offsets, train) for tensor, offsets in self.inputs(data)]
        optimizer = torch.optim.Adam(self.net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        drops, size = drops_of(self.net), recipe.batch_size
        width, steps = sum(drop.width for drop in drops), -(-len(train) // size)
        best, best_metric, best_state = 0, -math.inf, self.net.state_dict()
        first = copy.deepcopy(best_state) if has_lone_batch(len(train), size) else None

        def lone() -> str:
            return "" if first is None else self._lone(first, data, train, emotion, valence)

        for epoch in range(1, recipe.epochs + 1):
            order = epoch_order(train, self.seed, epoch)
            total = torch.zeros((), device=self.device)
            self.net.train()
            with seeded(self.seed, self.device, epoch):
                for step in range(steps):
                    if step % BLOCK == 0:
                        drawn = min(BLOCK, steps - step) * size
                        noise = draw_noise(self.seed, epoch, step // BLOCK, drawn, width, self.device)
                    rows = order[step * size : (step + 1) * size]
                    at = torch.from_numpy(rows).to(self.device)
                    give_noise(drops, noise[step % BLOCK * size :][: len(rows)])
                    loss = head_loss(self.net(self.batch(data, rows, at)), emotion[at], valence[at])
                    optimizer.zero_grad()
                    loss.backward()
                    if recipe.grad_clip is not None:
                        nn.utils.clip_grad_value_(self.net.parameters(), recipe.grad_clip)
                    optimizer.step()
                    total += loss.detach() * len(rows)
            mean_loss = total.item() / len(order)
            metric = measured(measure, self.predict(data, val))
            check_finite(epoch, mean_loss, metric, lone)
            if better := metric > best_metric:
                best, best_metric = epoch, metric
                best_state = {key: tensor.clone() for key, tensor in self.net.state_dict().items()}
            on_epoch(Epoch(epoch, mean_loss, metric, better))
        self.net.load_state_dict(best_state)
        return best

    def _lone(self, first: Mapping[str, Tensor], data: Any, train: np.ndarray, emotion: Tensor, valence: Tensor) -> str:
        """Try the first weights on one clip and on many; see `lone_hint`."""
        self.net.load_state_dict(first)

        def streams(rows: np.ndarray, at: Tensor) -> list[Any]:
            return self.batch(data, rows, at)

        return self.lone_clip(streams, train, emotion, valence)

    def lone_clip(
        self,
        streams: Callable[[np.ndarray, Tensor], Sequence[Any]],
        train: np.ndarray,
        emotion: Tensor,
        valence: Tensor,
    ) -> str:
        """`lone_hint` of the network with the weights that it has.

        Args:
            streams: Gives the network's inputs of clips, by their rows, also given on the device.
            train: Rows of the training clips.
            emotion: Of all clips, `(N,)`.
            valence: Likewise.
        """
        drops = drops_of(self.net)
        noise = draw_noise(self.seed, 1, 0, MANY, sum(drop.width for drop in drops), self.device)
        self.net.train()

        def loss(count: int) -> Tensor:
            rows = train[:count]
            at = torch.from_numpy(rows).to(self.device)
            give_noise(drops, noise[:count])
            return head_loss(self.net(streams(rows, at)), emotion[at], valence[at])

        with seeded(self.seed, self.device, 1), torch.enable_grad():
            return lone_hint(len(train), self.recipe.batch_size, self.net, loss)

    @classmethod
    def _stacks(cls, data: Any) -> bool:
        """Whether heads over these streams are trained as one."""
        return cls.stackable and not any(offsets is not None for _, offsets in data)

    @classmethod
    def fit_all(
        cls, heads: Sequence[Head], data: Any, targets: Targets, folds: Sequence[Fold], keep: bool = True
    ) -> list[int]:
        if not cls._stacks(data):
            return super().fit_all(heads, data, targets, folds, keep)
        from emo.train.heads.stack import train_together

        return train_together(heads, [tensor for tensor, _ in data], targets, folds, keep)

    @classmethod
    def units(cls, jobs: Sequence[Job], data: Any) -> Units:
        if not cls._stacks(data):
            return super().units(jobs, data)
        from emo.train.heads.stack import plan_units

        return plan_units(jobs)

    @classmethod
    def fit_unit(
        cls, heads: Sequence[Head], data: Any, targets: Targets, folds: Sequence[Fold], keep: bool = True
    ) -> list[int]:
        if not cls._stacks(data):
            return super().fit_unit(heads, data, targets, folds, keep)
        from emo.train.heads.stack import train_together

        return train_together(heads, [tensor for tensor, _ in data], targets, folds, keep, [[*range(len(heads))]])

    @one_thread()
    @torch.no_grad()
    def predict(self, data: Any, rows: np.ndarray) -> Outputs:
        self.net.eval()
        logits, valence = [np.zeros((0, self.classes))], []
        with seeded(self.seed, self.device):
            for start in range(0, len(rows), self.eval_rows()):
                some = rows[start : start + self.eval_rows()]
                out = self.net(self.batch(data, some, torch.from_numpy(some).to(self.device)))
                logits.append(out.logits.double().cpu().numpy())
                if out.valence is not None:
                    valence.append(out.valence.squeeze(1).double().cpu().numpy())
        return Outputs(np.concatenate(logits), np.concatenate(valence) if valence else None)

    def state(self) -> dict[str, np.ndarray]:
        return {key: tensor.cpu().numpy() for key, tensor in self._modules().state_dict().items()}

    def load(self, state: dict[str, np.ndarray]) -> None:
        modules = self._modules()
        load_strict(modules, {key: torch.from_numpy(array) for key, array in state.items()})
        if self.scaling is not None:
            self.scaling = [(each.mean.to(self.device), each.std.to(self.device)) for each in modules.scaling]

    def _modules(self) -> Any:
        """The network, with the scaling of its inputs where there is one, as one module to save or load."""
        return self.net if self.scaling is None else _Scaled(self.net, self.scaling)


class _Scaled(nn.Module):
    """Names the tensors of a head whose inputs are standardised."""

    def __init__(self, net: nn.Module, scaling: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.net = net
        self.scaling = nn.ModuleList(nn.Module() for _ in scaling)
        for module, (mean, std) in zip(self.scaling, scaling, strict=True):
            module.register_buffer("mean", mean.clone())
            module.register_buffer("std", std.clone())
