"""Keys of recipes: the base of every recipe, and of every table in one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from emo.featstore.spec import EncoderSpec


class Keys(BaseModel):
    """A table of recipe keys that knows all of them; the docstring behind a key is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _switches(cls, table: Any) -> Any:
        """Refuse true and false where a number or a word is wanted, which pydantic takes for 1 and 0.

        YAML reads the word off as false; where a key has that word, it is meant.
        """
        if not isinstance(table, Mapping):
            return table
        read = dict(table)
        for name in [name for name, value in table.items() if isinstance(value, bool) and name in cls.model_fields]:
            kind, value = cls.model_fields[name].annotation, table[name]
            if value is False and "off" in get_args(kind):
                read[name] = "off"
            elif get_origin(kind) is not Literal and bool not in (kind, *get_args(kind)) and kind is not Any:
                raise ValueError(f"{name}: {str(value).lower()} is no value of it, and no number")
        return read

    @classmethod
    def text_of(cls, key: str) -> str:
        """Return what a key means: the docstring at it, in this class or the nearest base that has one."""
        fields = (base.model_fields.get(key) for base in cls.__mro__ if issubclass(base, Keys))
        text = next((field.description for field in fields if field and field.description), "")
        return " ".join(text.split())


class Recipe(Keys, ABC):
    """Settings of one training, as a session sees them.

    Attributes:
        makes: Kind of run that is made by it; `session.TRAINERS` and the predictors are found by this name.
    """

    makes: ClassVar[str]

    @property
    @abstractmethod
    def title(self) -> str:
        """First part of a run's name where the user gives none."""

    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features that are read, in the order of the recipe."""

    @abstractmethod
    def with_features(self, names: Mapping[str, str]) -> Self:
        """Return the recipe with features renamed: old name -> new name."""

    @abstractmethod
    def features_flag(self, names: Sequence[str]) -> str:
        """Return the `--set` flags that choose these features, for a message."""

    def on_what_is_there(self, held: Sequence[EncoderSpec]) -> Self | None:
        """Return the recipe with other features, those of a store; `None` where each of its features has its place."""
        return None

    def annotation_files(self) -> tuple[str, ...]:
        """Return the files that the training learns from, as the recipe names them; here none."""
        return ()

    def to_yaml(self) -> str:
        """Return the recipe with every default resolved."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
