"""What a head is: a recipe and four methods. A new head is one file here and one line in `HEADS`."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from emo.featstore.errors import UsageError
from emo.featstore.text import did_you_mean, nearest
from emo.train.features import Missing, Pool, Stream

HEADS = {
    "attention": "emo.train.heads.attention:Attention",
    "attention-mer2023": "emo.train.heads.attention:AttentionMer2023",
    "logistic": "emo.train.heads.logistic:Logistic",
    "knn": "emo.train.heads.knn:Knn",
}
TUNE = "emo.train.llm.recipe:TuneRecipe"  # recipes with `kind: tune`
TUNE_RECIPES = ("emotion-llama-stage1", "emotion-llama-stage2", "emotion-llama-pseudo", "mer2023-text-only", "tiny")
Metric = Literal["auto", "combined", "f1_weighted", "accuracy"]


class FeatureChoice(BaseModel):
    """One feature of a recipe: `NAME`, or `{name: NAME, pool: mean}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1)
    pool: Pool = "none"


def _choice(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class HeadRecipe(BaseModel):
    """Keys that every head has; the commented files in `recipes/` say what each means."""

    model_config = ConfigDict(extra="forbid", frozen=True)
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

    def to_yaml(self) -> str:
        """The recipe with every default resolved."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


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


def head_class(name: str) -> type[Head]:
    """The head registered under `name`.

    Raises:
        UsageError: There is none.
    """
    if name not in HEADS:
        hint = f"{did_you_mean(name, HEADS)} Heads: {', '.join(HEADS)}."
        raise UsageError(f"There is no head {name!r}.", hint.strip())
    found: type[Head] = _import(HEADS[name])
    return found


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a recipe: the name of a shipped one, or a YAML file.

    Args:
        source: `attention`, `emotion-llama-stage1`, or a path that ends in .yaml or .yml.
        overrides: `key=value` pairs whose values are YAML, applied above the file; `table.key=value` sets a key of a
            table.

    Returns:
        A `HeadRecipe`, or a `TuneRecipe` where the recipe says `kind: tune`.

    Raises:
        UsageError: All that is wrong with it, at once, each key with its nearest known one.
    """
    name = str(source)
    if name.endswith((".yaml", ".yml")):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"Cannot read recipe {name}: {error.strerror}.") from error
    else:
        shipped = resources.files("emo.train") / "recipes" / f"{name}.yaml"
        known = (*HEADS, *TUNE_RECIPES)
        if name not in known or not shipped.is_file():
            raise UsageError(f"There is no recipe {name!r}.", f"Recipes: {', '.join(known)}; or give a .yaml file.")
        text = shipped.read_text(encoding="utf-8")
    table = _yaml(text, name)
    if not isinstance(table, dict):
        raise UsageError(f"Recipe {name} is not a table of key: value.")
    for pair in overrides:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r} is not key=value.")
        *tables, last = key.split(".")
        inner = table
        for each in tables:
            # What is no table is replaced; validation then names what is wrong.
            inner[each] = dict(inner[each]) if isinstance(inner.get(each), dict) else {}
            inner = inner[each]
        inner[last] = _yaml(value, f"--set {key}")
    return make_recipe(table, f"Recipe {name}")


def make_recipe(table: dict[str, Any], where: str = "The recipe") -> Any:
    """Validate a table of recipe keys. `kind: tune`, or else `head`, decides which further keys there are.

    Raises:
        UsageError: All problems at once.
    """
    if table.get("kind") == "tune":
        recipe = _import(TUNE)
    elif "kind" in table:
        raise UsageError(f"{where} is of kind {table['kind']!r}.", "Write kind: tune, or head: NAME without a kind.")
    elif "head" not in table:
        raise UsageError(f"{where} names no head.", f"Add head: {' | '.join(HEADS)}; or kind: tune.")
    else:
        recipe = head_class(table["head"]).Recipe
    try:
        return recipe.model_validate(table)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            key = ".".join(str(part) for part in each["loc"])
            if each["type"] == "extra_forbidden":
                near = nearest(str(each["loc"][-1]), _keys(recipe, each["loc"][:-1]))
                problems.append(f"unknown key {key}" + (f" (did you mean {near}?)" if near else ""))
            else:
                said = each["msg"].removeprefix("Value error, ")
                problems.append(f"{key}: {said}" if key else said)
        raise UsageError(f"{where} is wrong: {'; '.join(problems)}.") from error


def _keys(recipe: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Names of the keys of the table at `loc` of a recipe."""
    model: Any = recipe
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)


def _import(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {error}.") from error
