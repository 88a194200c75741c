"""Contract of a head: a recipe and four methods. A new head is one file here and one line in `emo.train.recipe`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, field_validator

from emo.train.features import Missing, Pool, Stream
from emo.train.keys import Keys, Recipe

Metric = Literal["auto", "combined", "f1_weighted", "accuracy"]


class FeatureChoice(Keys):
    """One feature of a recipe: `NAME`, or `{name: NAME, pool: mean}`."""

    name: str = Field(min_length=1)
    pool: Pool = "none"


def _choice(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class HeadRecipe(Recipe):
    """Keys that every head has; the commented files in `recipes/` say what each means."""

    makes: ClassVar[str] = "head"
    head: str
    features: tuple[Annotated[FeatureChoice, BeforeValidator(_choice)], ...] = Field(
        default=("HL-UTT", "mae_340_UTT", "maeV_399_UTT"), min_length=1, validate_default=True
    )
    missing: Missing = "error"
    train_splits: tuple[str, ...] | None = None
    folds: int = Field(default=5, ge=2)
    stratify: bool = True
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    select_by: Metric = "auto"

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ValueError("seeds must be different and not negative")
        return seeds

    @property
    def predicts_valence(self) -> bool:
        """Whether the head learns valence where clips have one."""
        return False

    @property
    def title(self) -> str:
        """First part of a run's name where the user gives none."""
        return self.head

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features that are read, in the order of the recipe."""
        return tuple(feature.name for feature in self.features)

    def with_features(self, names: Mapping[str, str]) -> Self:
        """Return the recipe with features renamed: old name -> new name."""
        new = tuple(each.model_copy(update={"name": names.get(each.name, each.name)}) for each in self.features)
        return self.model_copy(update={"features": new})

    def features_flag(self, names: Sequence[str]) -> str:
        """Return the `--set` flag that chooses these features, for a message."""
        return f"--set 'features=[{', '.join(names)}]'"


@dataclass(frozen=True)
class Outputs:
    """What a head says of clips: raw `logits` (N, C), and `valence` (N,) where it was trained on one; float64."""

    logits: np.ndarray
    valence: np.ndarray | None = None


@dataclass(frozen=True)
class Targets:
    """What annotators said: class index `(N,)`, -1 where nothing; valence `(N,)`, NaN where nothing."""

    emotion: np.ndarray
    valence: np.ndarray


@dataclass(frozen=True)
class Epoch:
    """One pass over a fold's training clips, as measured afterwards on its validation clips."""

    epoch: int
    loss: float | None
    metric: float
    best: bool


Measure = Callable[[Outputs], float]
OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True)
class Part:
    """What one of several heads trains on and is chosen by; the arguments of `Head.fit`."""

    train: np.ndarray
    val: np.ndarray
    measure: Measure
    on_epoch: OnEpoch


class Head(ABC):
    """One trainable head. `fit_head` makes one per seed and fold.

    Args:
        recipe: An instance of the class's `Recipe`.
        dims: `(D, is a sequence)` of each stream, in recipe order.
        classes: Number of labels C.
        valence: Whether to predict valence too.
        device: Torch device name, for the heads that use one.
    """

    Recipe: ClassVar[type[HeadRecipe]]

    @abstractmethod
    def __init__(
        self, recipe: Any, dims: Sequence[tuple[int, bool]], classes: int, valence: bool, device: str, seed: int
    ) -> None: ...

    @classmethod
    @abstractmethod
    def prepare(cls, streams: Sequence[Stream], device: str) -> Any:
        """Put the inputs of all clips where `fit` and `predict` want them; done once per run."""

    @abstractmethod
    def fit(
        self, data: Any, targets: Targets, train: np.ndarray, val: np.ndarray, measure: Measure, on_epoch: OnEpoch
    ) -> int:
        """Train on the rows `train`, keep the epoch at which `measure` of the rows `val` is best, and return it."""

    @classmethod
    def why_not_together(cls, dims: Sequence[tuple[int, bool]]) -> str | None:
        """Why heads over these streams cannot be trained together; `None` where they can."""
        return f"Head {cls.Recipe.model_fields['head'].default} has no epochs to train together."

    @classmethod
    def fit_all(
        cls, heads: Sequence[Head], data: Any, targets: Targets, parts: Sequence[Part], keep: bool = True
    ) -> list[int]:
        """Train several heads, each on its part: what `fit` does one by one, and together where that is faster.

        Args:
            heads: Of this class, over the same streams.
            data: From `prepare`.
            targets: Of all clips.
            parts: One per head.
            keep: Whether the trained heads are wanted. Without, they may stay as they were, and of a head that
                diverges the best epoch is 0.

        Returns:
            The best epoch of each head.

        Raises:
            TrainError: A head diverges that is to be kept.
        """
        return [
            head.fit(data, targets, part.train, part.val, part.measure, part.on_epoch)
            for head, part in zip(heads, parts, strict=True)
        ]

    @abstractmethod
    def predict(self, data: Any, rows: np.ndarray) -> Outputs:
        """Outputs for the given rows, in their order."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""

    @abstractmethod
    def load(self, state: dict[str, np.ndarray]) -> None:
        """Inverse of `state`, strict.

        Raises:
            ModelError: A name or shape differs; all differences are named.
        """
