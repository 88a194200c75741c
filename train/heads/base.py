"""The contract of a head: what it declares, and what it can be asked to do.

A new head is one file beside this one and one line in `emo.train.recipe`; it must pass `emo.train.testing.HEAD_CHECKS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, field_validator

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.train.features import Missing, Pool, Stream, StreamShape
from emo.train.heads.folds import FoldBy
from emo.train.keys import Keys, Recipe

Metric = Literal["auto", "combined", "f1_weighted", "accuracy"]


class FeatureChoice(Keys):
    """One feature of a recipe: `NAME`, or `{name: NAME, pool: mean}`."""

    name: str = Field(min_length=1)
    """Name in the store. Type: text."""
    pool: Pool = "none"
    """mean averages a clip's rows into one. Type: none | mean."""


def _choice(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


FeatureChoices = tuple[Annotated[FeatureChoice, BeforeValidator(_choice)], ...]
USUAL_FEATURES: Any = Field(default=("HL-UTT", "mae_340_UTT", "maeV_399_UTT"), min_length=1, validate_default=True)


class HeadRecipe(Recipe):
    """Keys that every head has.

    Attributes:
        searchable: Keys whose values `--search` may draw; empty where a head has nothing to search.
    """

    makes: ClassVar[str] = "head"
    searchable: ClassVar[tuple[str, ...]] = ()
    head: str
    """Which head these keys are for. Type: name of a head."""
    features: FeatureChoices = USUAL_FEATURES
    """Feature streams, by their names in the store. Written NAME, or {name: NAME, pool: mean}, as in {name:
    eva_g_448, pool: mean}. A feature with one row per frame is read whole by the heads that read sequences; the
    others ask for pool: mean. Type: list.
    """
    missing: Missing = "error"
    """Clips that lack one of the features. error: stop and list them; skip: leave them out; zeros: put zero rows in
    their place. skip and zeros are recorded in the run with the clips' names. Type: error | skip | zeros.
    """
    train_splits: tuple[str, ...] | None = None
    """Splits to train on, such as [train]. null: every labelled clip but those of splits named test, val, dev,
    eval, held-out or the like; the run says which it took. Type: list of names, or null.
    """
    folds: int = Field(default=5, ge=2)
    """Parts of the cross-validation; each part is held out once. Fewer where there are fewer clips, and the run
    says so. Type: whole number from 2. Default: ... (MERBench).
    """
    stratify: bool = True
    """Spread every emotion evenly over the folds. false: random folds as in MERBench, seeded all the same. Type:
    true | false.
    """
    fold_by: FoldBy = "speaker"
    """speaker: clips of one speaker, dialogue or session, as far as these are known, are all in one fold, so that
    validation says what unknown people would get. random: folds as in MERBench. Type: speaker | random.
    """
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """The whole cross-validation is repeated once per seed, and logits are averaged over all of them. A seed fixes
    folds, initial weights, dropout and the order of clips. Type: list of whole numbers.
    """
    select_by: Metric = "auto"
    """The metric of a fold's validation clips; it decides the best epoch of the heads that have epochs. combined, of
    heads that learn valence: f1_weighted - 0.25 * valence MSE ("emoval"); auto: combined where the head learns valence
    and the clips have one, else f1_weighted. Type: auto | combined | f1_weighted | accuracy. Default: ... (MERBench's
    choice for MER2023).
    """

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ValueError("seeds must be different and not negative")
        return seeds

    @property
    def predicts_valence(self) -> bool:
        """Say whether the head learns valence where clips have one."""
        return False

    @property
    def passes(self) -> int | None:
        """Passes over the training clips, of which validation chooses the best; `None` where there is no choice."""
        return None

    @property
    def remark(self) -> str:
        """Return the sentence that must stand beside every score of such a head; empty for none."""
        return ""

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

    def on_what_is_there(self, held: Sequence[EncoderSpec]) -> Self | None:
        """Return the recipe with the features of a store that have one row per clip, or else the mean of the others."""
        rows = dict.fromkeys(spec.name for spec in held if spec.level == "utt")
        names = rows or dict.fromkeys(spec.name for spec in held)
        choices = tuple(FeatureChoice(name=name, pool="none" if rows else "mean") for name in names)
        return self.model_copy(update={"features": choices}) if choices else None

    def features_flag(self, names: Sequence[str]) -> str:
        """Return the `--set` flag that chooses these features, for a message."""
        return f"--set 'features=[{', '.join(names)}]'"


@dataclass(frozen=True)
class Outputs:
    """Output of a head for clips: raw `logits` (N, C), and `valence` (N,) where it was trained on one; float64."""

    logits: np.ndarray
    valence: np.ndarray | None = None


@dataclass(frozen=True)
class Targets:
    """Truth of annotators: class index `(N,)`, -1 where nothing; valence `(N,)`, NaN where nothing."""

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
class Fold:
    """Data that one of several heads trains on and is chosen by; the arguments of `Head.fit`."""

    train: np.ndarray
    val: np.ndarray
    measure: Measure
    on_epoch: OnEpoch


@dataclass(frozen=True)
class Job:
    """A head that is to be trained and not made yet: of this recipe and seed, on this fold; `make` makes it."""

    recipe: Any
    seed: int
    fold: Fold
    make: Callable[[], Any]


@dataclass(frozen=True)
class Units:
    """Division of many jobs into those that are trained at once.

    Attributes:
        parts: Numbers of the jobs of each unit.
        threads: Whether several units may be trained at a time, by threads of one process.
    """

    parts: tuple[tuple[int, ...], ...]
    threads: bool = False


class Head(ABC):
    """One trainable head. `fit_head` makes one per seed and fold.

    Args:
        recipe: An instance of the class's `Recipe`.
        shapes: Shape of each stream, in recipe order.
        classes: Number of labels C.
        valence: Whether to predict valence too.
        device: Torch device name, for the heads that use one.
        seed: Decides everything that is random.

    Attributes:
        Recipe: Its keys; the default of `head` is the head's name.
        sequences: Whether it reads streams with several rows per clip.
        frames_only: Whether it needs one such stream at least.
        fixed: Whether every seed ends in the same place.
        on_device: Whether it computes on a torch device.
        sample: Recipe keys with which it learns a small set in about a second; the contract test takes them.
    """

    Recipe: ClassVar[type[HeadRecipe]]
    sequences: ClassVar[bool] = False
    frames_only: ClassVar[bool] = False
    fixed: ClassVar[bool] = False
    on_device: ClassVar[bool] = True
    sample: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def __init__(
        self, recipe: Any, shapes: Sequence[StreamShape], classes: int, valence: bool, device: str, seed: int
    ) -> None: ...

    @classmethod
    def name(cls) -> str:
        """Return the name under which recipes ask for the head."""
        return str(cls.Recipe.model_fields["head"].default)

    @classmethod
    def check_shapes(cls, shapes: Sequence[StreamShape]) -> None:
        """Refuse streams that the head cannot read.

        Raises:
            UsageError: It takes one row per clip, and a stream has several; or it needs several, and none has them.
        """
        if not cls.sequences and any(shape.sequence for shape in shapes):
            raise UsageError(
                f"Head {cls.name()} takes one row per clip.", "Pool the sequences: {name: ..., pool: mean}."
            )
        if cls.frames_only and not any(shape.sequence for shape in shapes):
            raise UsageError(
                f"Head {cls.name()} reads frames, and all features have one row per clip.",
                "Name frame features, such as HL-FRA: emo extract --level frame.",
            )

    @classmethod
    def why_not_searched(cls, shapes: Sequence[StreamShape]) -> str | None:
        """Return why settings of the head cannot be searched on these streams; `None` where they can."""
        return None if cls.Recipe.searchable else f"Head {cls.name()} has no epochs to train together."

    @classmethod
    @abstractmethod
    def prepare(cls, streams: Sequence[Stream], device: str) -> Any:
        """Put the inputs of all clips where `fit` and `predict` want them; done once per run."""

    @abstractmethod
    def fit(
        self, data: Any, targets: Targets, train: np.ndarray, val: np.ndarray, measure: Measure, on_epoch: OnEpoch
    ) -> int:
        """Train on the rows `train`, keep the epoch at which `measure` of the rows `val` is best, and return it.

        Raises:
            TrainError: The training diverges.
        """

    @classmethod
    def fit_all(
        cls, heads: Sequence[Head], data: Any, targets: Targets, folds: Sequence[Fold], keep: bool = True
    ) -> list[int]:
        """Train several heads, each on its fold: one by one here, together in a head that can do so faster.

        Args:
            heads: Of this class, over the same streams.
            data: From `prepare`.
            targets: Of all clips.
            folds: One per head.
            keep: Whether the trained heads are wanted. Without, they may stay as they were, and of a head that
                diverges the best epoch is 0 and the last metric NaN.

        Returns:
            The best epoch of each head.

        Raises:
            TrainError: A head diverges that is to be kept.
        """
        best = []
        for head, fold in zip(heads, folds, strict=True):
            try:
                best.append(head.fit(data, targets, fold.train, fold.val, fold.measure, fold.on_epoch))
            except TrainError:
                if keep:
                    raise
                fold.on_epoch(Epoch(0, None, math.nan, False))
                best.append(0)
        return best

    @classmethod
    def units(cls, jobs: Sequence[Job], data: Any) -> Units:
        """Decide which jobs are trained at once, as a function of the jobs alone: each by itself here.

        Args:
            jobs: In the order in which they are to be trained.
            data: From `prepare`.
        """
        return Units(tuple((i,) for i in range(len(jobs))))

    @classmethod
    def fit_unit(
        cls, heads: Sequence[Head], data: Any, targets: Targets, folds: Sequence[Fold], keep: bool = True
    ) -> list[int]:
        """Train the heads of one unit, as `fit_all` does; what they learn does not depend on any other unit."""
        return cls.fit_all(heads, data, targets, folds, keep)

    @abstractmethod
    def predict(self, data: Any, rows: np.ndarray) -> Outputs:
        """Return the outputs for the given rows, in their order."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return everything learned, by name."""

    @abstractmethod
    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state` has returned, strictly.

        Raises:
            ModelError: A name or shape differs; all differences are named.
        """
