"""Attention fusion of any number of feature streams: MERBench's head and MER2023's, by the official definitions.

One vector per stream; their concatenation gives one weight per stream (**not** softmaxed); the weighted sum gives the
emotion logits and the valence. Sources, in MERTools: MERBench/toolkit/models/attention.py and modules/encoder.py;
MER2023/main-release.py:226-290.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from emo.featstore.errors import ModelError, TrainError, UsageError
from emo.train.features import Stream
from emo.train.heads.base import Epoch, Head, HeadRecipe, Measure, OnEpoch, Outputs, Part, Targets
from emo.train.heads.noise import BLOCK, Drop, draw_noise, drops_of, epoch_order, give_noise, seeded

OFFICIAL_STREAMS = ("audio", "text", "video")
EVAL_ROWS = 2048
# Heads that are trained together may differ in these.
SEARCHABLE = ("hidden", "layers", "dropout", "lr", "weight_decay", "grad_clip")


class GradientRecipe(HeadRecipe):
    """Keys of the heads that are trained by gradient descent. Defaults: MERBench/main-release.py, model-tune.yaml."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=32, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    grad_clip: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    valence: Literal["auto", "off"] = "auto"
    standardise: bool = False
    search: dict[str, tuple[Any, ...]] = {}  # noqa: RUF012 - pydantic copies it

    @property
    def predicts_valence(self) -> bool:
        return self.valence == "auto"

    @model_validator(mode="after")
    def _search(self) -> Self:
        able = [name for name in SEARCHABLE if name in type(self).model_fields]
        for name, values in self.search.items():
            if name not in able:
                raise ValueError(f"search: {name} cannot be searched, but {', '.join(able)} can")
            if not values:
                raise ValueError(f"search.{name}: no values")
            for value in values:
                try:
                    type(self).model_validate({name: value, "search": {}})
                except ValidationError as error:
                    raise ValueError(f"search.{name}: {value!r}: {error.errors()[0]['msg']}") from None
        return self


class AttentionRecipe(GradientRecipe):
    """MERBench `attention`."""

    head: Literal["attention"] = "attention"
    hidden: int = Field(default=128, ge=1)
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (64, 128, 256),
        "dropout": (0.2, 0.3, 0.4, 0.5),
        "lr": (0.001, 0.0001),
    }


class AttentionMer2023Recipe(GradientRecipe):
    """MER2023 baseline `attention`."""

    head: Literal["attention-mer2023"] = "attention-mer2023"
    layers: tuple[int, ...] = Field(default=(256, 128), min_length=1)
    search: dict[str, tuple[Any, ...]] = {"lr": (0.001, 0.0001, 0.00001)}  # noqa: RUF012


class Linear(nn.Linear):
    """A linear layer, or as many as are stacked in its weight, then `(M, in, out)`: `(M, B, in) -> (M, B, out)`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return super().forward(x)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class MlpEncoder(nn.Module):
    """Dropout on the input, then three times linear and ReLU: `(B, D) -> (B, hidden)`."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = Drop(dim, dropout)
        self.linear_1 = Linear(dim, hidden)
        self.linear_2 = Linear(hidden, hidden)
        self.linear_3 = Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x)
        for linear in (self.linear_1, self.linear_2, self.linear_3):
            x = F.relu(linear(x))
        return x


class LstmEncoder(nn.Module):
    """Final state of one LSTM layer, dropout, linear without ReLU: `(B, T, D)` or packed sequences `-> (B, hidden)`.

    The reference pads in front with zeros and reads the state at the end; packed sequences hold no padding at all.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.rnn = nn.LSTM(dim, hidden, batch_first=True)
        self.drop = Drop(hidden, dropout)
        self.linear_1 = Linear(hidden, hidden)

    def forward(self, x: Tensor | PackedSequence) -> Tensor:
        _, (state, _) = self.rnn(x)
        out: Tensor = self.linear_1(self.drop(state[-1]))
        return out


def _mlp(dim: int, layers: Sequence[int], dropout: float) -> nn.Sequential:
    """MER2023's MLP: linear, ReLU and dropout per layer."""
    stages: list[nn.Module] = []
    for width in layers:
        stages += [Linear(dim, width), nn.ReLU(), Drop(width, dropout)]
        dim = width
    return nn.Sequential(*stages)


class Fused(NamedTuple):
    """Fused vector `(B, h)`, emotion logits `(B, C)`, valence `(B, 1)` or `None`; of stacked models `(M, B, ...)`."""

    features: Tensor
    logits: Tensor
    valence: Tensor | None


class AttentionFusion(nn.Module):
    """The network of both heads; they differ in their encoders alone. A batch of one clip keeps its batch axis."""

    def __init__(
        self, encoders: Sequence[nn.Module], attention_mlp: nn.Module, width: int, classes: int, valence: bool
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.attention_mlp = attention_mlp
        self.fc_att = Linear(width, len(encoders))
        self.fc_out_1 = Linear(width, classes)
        self.fc_out_2 = Linear(width, 1) if valence else None

    def forward(self, streams: Sequence[Tensor | PackedSequence]) -> Fused:
        hidden = [encoder(x) for encoder, x in zip(self.encoders, streams, strict=True)]  # K x (B, h)
        weights = self.fc_att(self.attention_mlp(torch.cat(hidden, dim=-1)))  # (B, K), no softmax
        fused = (torch.stack(hidden, dim=-2) * weights.unsqueeze(-1)).sum(dim=-2)  # (B, h)
        return Fused(fused, self.fc_out_1(fused), None if self.fc_out_2 is None else self.fc_out_2(fused))


def merbench_attention(
    dims: Sequence[tuple[int, bool]], hidden: int, dropout: float, classes: int, valence: bool
) -> AttentionFusion:
    """MERBench's head. `dims` holds `(D, is a sequence)` per stream: an LSTM encodes sequences, an MLP single rows."""
    encoders = [(LstmEncoder if sequence else MlpEncoder)(dim, hidden, dropout) for dim, sequence in dims]
    attention = MlpEncoder(hidden * len(dims), hidden, dropout)
    return AttentionFusion(encoders, attention, hidden, classes, valence)


def mer2023_attention(
    dims: Sequence[int], layers: Sequence[int], dropout: float, classes: int, valence: bool
) -> AttentionFusion:
    """MER2023's head."""
    encoders = [_mlp(dim, layers, dropout) for dim in dims]
    return AttentionFusion(encoders, _mlp(layers[-1] * len(dims), layers, dropout), layers[-1], classes, valence)


def load_official(net: AttentionFusion, state: Mapping[str, Tensor], streams: Sequence[str] = OFFICIAL_STREAMS) -> None:
    """Load a state dict in the official naming: `audio_encoder.*` (MERBench) or `audio_mlp.*` (MER2023).

    Args:
        net: Head with as many encoders as `streams`.
        state: Official state dict.
        streams: Official name of each encoder, in the order of the head's inputs.

    Raises:
        ModelError: A tensor is missing, left over or of another shape; all are named.
    """
    places = {f"{name}_{kind}.": f"encoders.{i}." for i, name in enumerate(streams) for kind in ("encoder", "mlp")}
    renamed = {}
    for key, tensor in state.items():
        if not tensor.numel():
            continue  # `output_dim2=0`: the official head without valence has an empty fc_out_2
        prefix = next((prefix for prefix in places if key.startswith(prefix)), "")
        renamed[places.get(prefix, "") + key.removeprefix(prefix)] = tensor
    load_strict(net, renamed)


def load_strict(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load every tensor and leave none over.

    Raises:
        ModelError: With all differences.
    """
    own = net.state_dict()
    wrong = [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{key} is left over" for key in state if key not in own]
    wrong += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        raise ModelError(f"The weights do not fit the head: {'; '.join(wrong)}.")
    net.load_state_dict(dict(state))


def head_loss(out: Fused, emotion: Tensor, valence: Tensor, real: Tensor | None = None) -> Tensor:
    """Cross-entropy, mean over the batch, plus squared valence error, mean over the clips that have one; unweighted.

    Shape:
        emotion: `(B,)` class indices. valence: `(B,)`, NaN where absent. real: `(B,)` bool, clips that count; default
        all. Of stacked models each is `(M, B)`, and the loss is `(M,)`.
    """
    if real is None:
        real = torch.ones_like(emotion, dtype=torch.bool)
    each = F.cross_entropy(out.logits.flatten(0, -2), emotion.flatten(), reduction="none").view(emotion.shape)
    loss = (each * real).sum(dim=-1) / real.sum(dim=-1)
    if out.valence is not None:
        known = real & ~valence.isnan()
        error = (out.valence.squeeze(-1) - valence.nan_to_num()) * known
        loss = loss + error.square().sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    return loss


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread: sums come out the same on any number of cores, and networks this small run faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_finite(epoch: int, loss: float, metric: float) -> None:
    """Raises:
    TrainError: The training has diverged.
    """
    if not (math.isfinite(loss) and math.isfinite(metric)):
        raise TrainError(
            f"Training diverged at epoch {epoch}: loss {loss}, validation metric {metric}.",
            "Lower lr, or look for broken features.",
        )


class Attention(Head):
    """MERBench's attention head, trained as MERBench does except that everything is seeded and batches are shuffled."""

    Recipe: ClassVar[type[HeadRecipe]] = AttentionRecipe

    def __init__(
        self, recipe: Any, dims: Sequence[tuple[int, bool]], classes: int, valence: bool, device: str, seed: int
    ) -> None:
        self.recipe, self.device, self.seed = recipe, torch.device(device), seed
        self.scaling = [(torch.zeros(dim), torch.ones(dim)) for dim, _ in dims] if recipe.standardise else None
        with seeded(seed, self.device):
            self.net = self._build(dims, classes, valence).to(self.device)

    def _build(self, dims: Sequence[tuple[int, bool]], classes: int, valence: bool) -> AttentionFusion:
        return merbench_attention(dims, self.recipe.hidden, self.recipe.dropout, classes, valence)

    @classmethod
    def prepare(cls, streams: Sequence[Stream], device: str) -> list[tuple[Tensor, np.ndarray | None]]:
        return [(torch.from_numpy(np.ascontiguousarray(s.rows)).to(device), s.offsets) for s in streams]

    @one_thread()
    def fit(
        self, data: Any, targets: Targets, train: np.ndarray, val: np.ndarray, measure: Measure, on_epoch: OnEpoch
    ) -> int:
        recipe = self.recipe
        emotion = torch.from_numpy(targets.emotion).to(self.device)
        valence = torch.from_numpy(targets.valence.astype(np.float32)).to(self.device)
        if self.scaling is not None:
            self.scaling = [scaling_of(tensor, offsets, train) for tensor, offsets in data]
        optimizer = torch.optim.Adam(self.net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        drops, size = drops_of(self.net), recipe.batch_size
        width, steps = sum(drop.width for drop in drops), -(-len(train) // size)
        best, best_metric, best_state = 0, -math.inf, self.net.state_dict()
        for epoch in range(1, recipe.epochs + 1):
            order = epoch_order(train, self.seed, epoch)
            total = torch.zeros((), device=self.device)
            self.net.train()
            for step in range(steps):
                if step % BLOCK == 0:
                    drawn = min(BLOCK, steps - step) * size
                    noise = draw_noise(self.seed, epoch, step // BLOCK, drawn, width, self.device)
                rows = order[step * size : (step + 1) * size]
                at = torch.from_numpy(rows).to(self.device)
                give_noise(drops, noise[step % BLOCK * size :][: len(rows)])
                loss = head_loss(self.net(_batch(data, rows, at, self.scaling)), emotion[at], valence[at])
                optimizer.zero_grad()
                loss.backward()
                if recipe.grad_clip is not None:
                    nn.utils.clip_grad_value_(self.net.parameters(), recipe.grad_clip)
                optimizer.step()
                total += loss.detach() * len(rows)
            mean_loss = total.item() / len(order)
            metric = measure(self.predict(data, val))
            check_finite(epoch, mean_loss, metric)
            if better := metric > best_metric:
                best, best_metric = epoch, metric
                best_state = {key: tensor.clone() for key, tensor in self.net.state_dict().items()}
            on_epoch(Epoch(epoch, mean_loss, metric, better))
        self.net.load_state_dict(best_state)
        return best

    @classmethod
    def why_not_together(cls, dims: Sequence[tuple[int, bool]]) -> str | None:
        if any(sequence for _, sequence in dims):
            return "Streams with one row per frame are read one clip at a time."
        return None

    @classmethod
    def fit_all(
        cls, heads: Sequence[Head], data: Any, targets: Targets, parts: Sequence[Part], keep: bool = True
    ) -> list[int]:
        if any(offsets is not None for _, offsets in data):
            return super().fit_all(heads, data, targets, parts, keep)
        from emo.train.heads.stack import train_together

        return train_together(heads, [tensor for tensor, _ in data], targets, parts, keep)

    @one_thread()
    @torch.no_grad()
    def predict(self, data: Any, rows: np.ndarray) -> Outputs:
        self.net.eval()
        logits, valence = [], []
        for start in range(0, len(rows), EVAL_ROWS):
            some = rows[start : start + EVAL_ROWS]
            out = self.net(_batch(data, some, torch.from_numpy(some).to(self.device), self.scaling))
            logits.append(out.logits.double().cpu().numpy())
            if out.valence is not None:
                valence.append(out.valence.squeeze(1).double().cpu().numpy())
        if not logits:
            logits = [np.zeros((0, self.net.fc_out_1.out_features))]
            valence = [np.zeros(0)] if self.net.fc_out_2 is not None else []
        return Outputs(np.concatenate(logits), np.concatenate(valence) if valence else None)

    def state(self) -> dict[str, np.ndarray]:
        return {key: tensor.cpu().numpy() for key, tensor in self._modules().state_dict().items()}

    def load(self, state: dict[str, np.ndarray]) -> None:
        modules = self._modules()
        load_strict(modules, {key: torch.from_numpy(array) for key, array in state.items()})
        if self.scaling is not None:
            self.scaling = [(each.mean.to(self.device), each.std.to(self.device)) for each in modules.scaling]

    def _modules(self) -> nn.Module:
        """The network, with the scaling of its inputs where there is one, as one module to save or load."""
        if self.scaling is None:
            return self.net
        return _Scaled(self.net, self.scaling)


class AttentionMer2023(Attention):
    """MER2023's attention head."""

    Recipe: ClassVar[type[HeadRecipe]] = AttentionMer2023Recipe

    def _build(self, dims: Sequence[tuple[int, bool]], classes: int, valence: bool) -> AttentionFusion:
        if any(sequence for _, sequence in dims):
            raise UsageError(
                "Head attention-mer2023 takes one row per clip.", "Pool the sequences: {name: ..., pool: mean}."
            )
        return mer2023_attention([dim for dim, _ in dims], self.recipe.layers, self.recipe.dropout, classes, valence)


class _Scaled(nn.Module):
    """Names the tensors of a head whose inputs are standardised."""

    def __init__(self, net: nn.Module, scaling: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.net = net
        self.scaling = nn.ModuleList(nn.Module() for _ in scaling)
        for module, (mean, std) in zip(self.scaling, scaling, strict=True):
            module.register_buffer("mean", mean.clone())
            module.register_buffer("std", std.clone())


def scaling_of(tensor: Tensor, offsets: np.ndarray | None, clips: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation `(D,)` of a stream over the training clips; a constant column keeps its scale."""
    rows = clips if offsets is None else np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in clips])
    seen = tensor[torch.from_numpy(rows).to(tensor.device)].double()
    std = seen.std(dim=0, unbiased=False)
    return seen.mean(dim=0).float(), torch.where(std > 0, std, 1.0).float()


def _batch(
    data: Any, rows: np.ndarray, at: Tensor, scaling: Sequence[tuple[Tensor, Tensor]] | None
) -> list[Tensor | PackedSequence]:
    """Streams of a batch: `(B, D)` each, or packed sequences."""
    streams: list[Tensor | PackedSequence] = []
    for i, (tensor, offsets) in enumerate(data):
        parts = [tensor[at]] if offsets is None else [tensor[offsets[k] : offsets[k + 1]] for k in rows]
        if scaling is not None:
            mean, std = scaling[i]
            parts = [(part - mean) / std for part in parts]
        streams.append(parts[0] if offsets is None else pack_sequence(parts, enforce_sorted=False))
    return streams
