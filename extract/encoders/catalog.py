"""The field's names of encoders: `catalog.yaml`, read without torch, because the store resolves names too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from emo.featstore.errors import UsageError

RECIPES = {
    "merbench": "",
    "modern": "-modern",
    "frame": "-frame",
    "affectgpt": "",
    "videollama2": "",
    "videollama2-stretch": "-stretch",
    "stats": "-stats",
}  # recipe -> what it adds to the name of a model
SET = "@"  # before the name of a set of encoders


@dataclass(frozen=True)
class Entry:
    """One model of the catalog.

    Attributes:
        stem: The field's name of the model, such as `clip-vit-large-patch14`.
        place: `module:Class` of its family, or of the encoder itself where `encoder` names one.
        family: Name of the family.
        unit: What `gflop` counts: a second of sound, a face, a token.
        hub: Hugging Face id.
        ask: How to get it where no hub has it whole.
        type: `model_type` of its config.json.
        width: Columns of the feature.
        sizes: What of its config.json differs from the defaults of its type.
        licence: As its authors state it.
        languages: That it was trained on; of text models also which transcript it reads, best first.
        gflop: Approximate floating-point operations per unit, in 1e9.
        recipes: Which recipes it has.
        keys: Recipe keys of its own, by recipe.
        encoder: Name of the feature, where emo had it before the catalog.
        checked: Day on which id and licence were held against the hub's public page; empty where they never were.
        lacks: Why there is no such recipe, by its name.
    """

    stem: str
    place: str
    family: str
    unit: str
    licence: str
    gflop: float
    width: int
    hub: str = ""
    ask: str = ""
    type: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ("merbench", "modern")
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    encoder: str = ""
    checked: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict)

    def stem_of(self, recipe: str) -> str:
        """Stem of the names of the features that a recipe makes."""
        return self.stem + RECIPES[recipe]

    @property
    def names(self) -> list[str]:
        """Names of its utterance features."""
        return [self.encoder] if self.encoder else [f"{self.stem_of(recipe)}-UTT" for recipe in self.recipes]


@dataclass(frozen=True)
class Member:
    """One feature of the catalog: a model and a recipe; what the registry keeps as its place."""

    entry: Entry
    recipe: str


@dataclass(frozen=True)
class Catalog:
    """Contents of `catalog.yaml`.

    Attributes:
        entries: Models by stem.
        sets: Names of features by name of the set, without `@`.
        absent: Names of the field that emo does not have, with the reason.
    """

    entries: Mapping[str, Entry]
    sets: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, str]

    def lines(self) -> dict[str, Member | str]:
        """A line of the registry per feature that stands in the catalog alone."""
        found: dict[str, Member | str] = {}
        for each in self.entries.values():
            if not each.encoder:
                found |= {f"{each.stem_of(recipe)}-UTT": Member(each, recipe) for recipe in each.recipes}
            elif each.place:
                found[each.encoder] = each.place
        return found

    def models(self) -> dict[str, str]:
        """Models by the names of the features that are made with them, of features that stand in the catalog alone."""
        return {name: entry.stem for entry in self.entries.values() if not entry.encoder for name in entry.names}

    def spread(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names with every `@set` replaced by its members, each name once.

        Raises:
            UsageError: There is no such set.
        """
        return tuple(dict.fromkeys(each for name in names for each in self._spread(name)))

    def _spread(self, name: str) -> Iterator[str]:
        if not name.startswith(SET):
            yield name
        elif name[1:] in self.sets:
            yield from self.sets[name[1:]]
        else:
            there = " and ".join(SET + each for each in self.sets)
            raise UsageError(f"There is no set of encoders {name!r}.", f"There are {there}.")

    def absence(self, name: str) -> str:
        """Why a name of the field is not here; empty where the catalog says nothing of it."""
        stem = name.removesuffix("-UTT").removesuffix("-FRA")
        return next((why for each, why in self.absent.items() if each.lower() == stem.lower()), "")


@cache
def catalog() -> Catalog:
    """The catalog that comes with emo."""
    import yaml

    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    table = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    families = table["families"]
    tuples = {each.name for each in fields(Entry) if str(each.type).startswith("tuple")}
    entries = {}
    for stem, row in table["models"].items():
        values = {**families[row["family"]], **row}
        values = {key: tuple(value) if key in tuples else value for key, value in values.items()}
        entries[stem] = Entry(stem=stem, **values)
    sets = {name: tuple(names) for name, names in table["sets"].items()}
    return Catalog(entries, sets, table["absent"])
