"""Benches: their keys, the benches that come with emo, and the recipe of every cell."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from emo.featstore.errors import UsageError
from emo.featstore.text import did_you_mean, nearest
from emo.train.features import Missing
from emo.train.heads.base import FeatureChoices, HeadRecipe
from emo.train.heads.folds import FoldBy
from emo.train.heads.search import RUNS
from emo.train.keys import Keys
from emo.train.recipe import FILES, HEADS, head_class, make_recipe, read_file, read_keys, recipe_source, validated

VALIDATION = "validation"


class FeatureSet(Keys):
    """The features of one row of the table: `NAME`, `[NAME, NAME]`, or a table of these keys."""

    name: str = ""
    """Name on the leaderboard. Type: text. Default: the names of its features, joined by +."""
    features: FeatureChoices = Field(min_length=1)
    """Features as in a recipe. Type: list."""
    frames: FeatureChoices | None = None
    """Features of the heads that need frames; without them these heads are left out for this set, with a word.
    Type: list, or null.
    """

    @property
    def title(self) -> str:
        """Name on the leaderboard."""
        names = dict.fromkeys(feature.name for feature in self.features)
        return self.name or " + ".join(names)


class HeadChoice(Keys):
    """The head of one column of the table: `NAME`, or a table of these keys."""

    head: str
    """Head of the column. Type: name of a head."""
    name: str = ""
    """Name on the leaderboard, where a head comes several times. Type: text. Default: the head's name."""
    set: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Keys of its recipe that are not its defaults. Type: table."""

    @property
    def title(self) -> str:
        """Name on the leaderboard."""
        return self.name or self.head


class Protocol(Keys):
    """Protocol of all cells: who trains on what, how often, and what is drawn."""

    folds: int = Field(default=5, ge=2)
    """Parts of the cross-validation over the training clips. Type: whole number from 2. Default: ... (MERBench)."""
    fold_by: FoldBy = "speaker"
    """speaker: clips of one speaker, dialogue or session are in one fold. random: as in MERBench. Type: speaker |
    random.
    """
    stratify: bool = True
    """Spread every emotion evenly over the folds. Type: true | false."""
    train_splits: tuple[str, ...] | None = None
    """Splits to train on. null: all that are not held out by their name. Type: list of names, or null."""
    val_splits: tuple[str, ...] | None = None
    """Splits that choose epochs and settings, in place of folds; then one model is trained per setting and run, as
    MERBench does on MELD or MOSI. Type: list of names, or null for folds.
    """
    search: int | None = Field(default=50, ge=1)
    """Settings to draw per cell from the head's own search; null: the settings of the recipe. Heads with nothing to
    search take theirs. Type: whole number, or null. Default: ... (MERBench).
    """
    repeats: int = Field(default=RUNS, ge=1)
    """Runs of the chosen settings, each under a seed that the search has not seen; their mean and spread are what
    the leaderboard shows. Type: whole number. Default: ... (MERBench).
    """
    seed: int = Field(default=0, ge=0)
    """The first seed: of folds, weights, order and dropout. Type: whole number."""


def _set_of(value: Any) -> Any:
    if isinstance(value, str):
        return {"features": [value]}
    return {"features": value} if isinstance(value, list) else value


def _head_of(value: Any) -> Any:
    return {"head": value} if isinstance(value, str) else value


class Bench(Keys):
    """Keys of a bench."""

    title: str = ""
    """Heading of the report. Type: text. Default: the bench's name."""
    dataset: str | None = None
    """A [data.NAME] table of emo.toml; null where there is just one. Type: text, or null."""
    features: tuple[Annotated[FeatureSet, BeforeValidator(_set_of)], ...] = Field(min_length=1)
    """Feature sets, one row of the table each. Type: list."""
    heads: tuple[Annotated[HeadChoice, BeforeValidator(_head_of)], ...] = Field(min_length=1)
    """Heads, one column of the table each. Type: list."""
    protocol: Protocol = Protocol()
    """Protocol of all cells. Type: table."""
    set: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Recipe keys of all heads that have them, such as epochs or standardise. Type: table."""
    missing: Missing = "error"
    """Clips that lack a feature of a set. error: stop and list them; skip: leave them out; zeros: zero rows. Type:
    error | skip | zeros.
    """
    absent: Literal["error", "skip"] = "error"
    """Sets of which the store has not all features. error: refuse the bench; skip: leave them out and name them.
    Type: error | skip.
    """
    rank_by: str = VALIDATION
    """The clips that rank: validation, or a split that nothing is trained on or chosen by. Type: text."""
    metric: Literal["f1_weighted", "accuracy"] = "f1_weighted"
    """The number that ranks. Type: f1_weighted | accuracy."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for what, names in (("features", [each.title for each in self.features]), ("heads", _titles(self.heads))):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what}: {', '.join(twice)} comes several times; give each a name of its own")
        if self.protocol.val_splits and not self.protocol.train_splits:
            raise ValueError("protocol: val_splits needs train_splits")
        known = {key for choice in self.heads for key in head_class(choice.head).Recipe.model_fields}
        if unknown := sorted(set(self.set) - known):
            near = nearest(unknown[0], known)
            meant = f" (did you mean {near}?)" if near else ""
            raise ValueError(f"set: no head here has {', '.join(unknown)}{meant}")
        return self

    def to_yaml(self) -> str:
        """Return the bench with every default resolved."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _titles(heads: Sequence[HeadChoice]) -> list[str]:
    return [each.title for each in heads]


OWN = ("head", "features", "seeds", "missing", "folds", "fold_by", "stratify", "train_splits")  # keys that a bench sets


@dataclass(frozen=True)
class Cell:
    """One head on one feature set.

    Attributes:
        features: Title of the set.
        head: Title of the head.
        recipe: Its recipe; the features are those that this head reads.
    """

    features: str
    head: str
    recipe: HeadRecipe

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{_plain(self.features)}--{_plain(self.head)}"

    @property
    def title(self) -> str:
        """Name in sentences."""
        return f"{self.head} on {self.features}"


def cells_of(bench: Bench, name: str) -> list[Cell]:
    """Return all cells, set by set.

    Raises:
        UsageError: Keys of a head are wrong, or two cells would have one folder.
    """
    cells = [_cell(bench, name, each, choice) for each in bench.features for choice in bench.heads]
    folders = [cell.folder.casefold() for cell in cells]
    if twice := [cell.title for cell, folder in zip(cells, folders, strict=True) if folders.count(folder) > 1]:
        raise UsageError(f"Bench {name}: {' and '.join(twice[:2])} have names that are too alike.", "Name them anew.")
    return cells


def _cell(bench: Bench, name: str, each: FeatureSet, choice: HeadChoice) -> Cell:
    where, kind = f"Bench {name}, head {choice.title}", head_class(choice.head)
    if own := sorted(set(OWN) & ({*choice.set, *bench.set})):
        raise UsageError(f"{where}: {', '.join(own)} cannot be set for a head.", "The bench has keys for that.")
    protocol, features = bench.protocol, each.frames if each.frames and kind.frames_only else each.features
    table = read_keys(recipe_source(choice.head), where)
    table |= {key: value for key, value in bench.set.items() if key in kind.Recipe.model_fields} | choice.set
    table |= {"head": choice.head, "features": [feature.model_dump() for feature in features]}
    table |= {"seeds": [protocol.seed], "missing": bench.missing, "folds": protocol.folds}
    table |= {"fold_by": protocol.fold_by, "stratify": protocol.stratify, "train_splits": protocol.train_splits}
    recipe = make_recipe(table, where)
    if ranges := getattr(recipe, "search", None):  # a key that is given for a head is not drawn
        left = {key: values for key, values in ranges.items() if key not in choice.set}
        recipe = recipe.model_copy(update={"search": left})
    return Cell(each.title, choice.title, recipe)


def _plain(title: str) -> str:
    """A title as part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "_", title.replace(" + ", "+")).strip("._")[:80] or "set"


# ---- by name ---------------------------------------------------------------------------------------------------------


def shipped_benches() -> tuple[str, ...]:
    """Return the names of the benches that come with emo."""
    folder = resources.files("emo.train.bench") / "benches"
    return tuple(sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml")))


def load_bench(source: str, overrides: Sequence[str] = ()) -> Bench:
    """Read a bench: the name of a shipped one, or a YAML file.

    Args:
        source: `unimodal`, or a path that ends in .yaml or .yml.
        overrides: `key=value` pairs above the file, such as `protocol.search=6`.

    Raises:
        UsageError: All that is wrong with it, at once.
    """
    where = f"Bench {source}"
    table = read_keys(_source(source), where, overrides)
    if strays := [key for key in table if key not in Bench.model_fields and any(key in keys for keys in _of_heads())]:
        hint = f"Those of all heads stand under `set`: --set set.{strays[0]}={table[strays[0]]}"
        raise UsageError(
            f"{where}: {', '.join(strays)} {'is a key' if len(strays) == 1 else 'are keys'} of heads.", hint
        )
    return validated(Bench, table, where)


def _of_heads() -> Iterator[Collection[str]]:
    return (head_class(name).Recipe.model_fields for name in HEADS)


def _source(name: str) -> str:
    if name.endswith(FILES):
        return read_file(Path(name), "bench")
    if name not in shipped_benches():
        hint = f"Benches: {', '.join(shipped_benches())}; or give a .yaml file. {did_you_mean(name, shipped_benches())}"
        raise UsageError(f"There is no bench {name!r}.", hint.strip())
    return (resources.files("emo.train.bench") / "benches" / f"{name}.yaml").read_text(encoding="utf-8")
