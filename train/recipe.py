"""Recipes by name, and the registry of all that a recipe can train: heads and families of language models.

This is the only place that tells one kind of recipe from another. A new head or family is one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from emo.featstore.errors import UsageError
from emo.featstore.registry import Registry
from emo.featstore.text import did_you_mean, nearest
from emo.train.keys import Keys, Recipe

if TYPE_CHECKING:
    from emo.featstore.sources.hub import Source
    from emo.train.heads.base import Head
    from emo.train.llm.family import Family

K = TypeVar("K", bound=Keys)
HEADS = {
    "attention": "emo.train.heads.attention:Attention",
    "attention-mer2023": "emo.train.heads.attention:AttentionMer2023",
    "attention_topn": "emo.train.heads.attention_topn:AttentionTopn",
    "lf_dnn": "emo.train.heads.lf_dnn:LfDnn",
    "lmf": "emo.train.heads.lmf:Lmf",
    "misa": "emo.train.heads.misa:Misa",
    "mmim": "emo.train.heads.mmim:Mmim",
    "mult": "emo.train.heads.mult:Mult",
    "ef_lstm": "emo.train.heads.ef_lstm:EfLstm",
    "mfn": "emo.train.heads.mfn:Mfn",
    "graph_mfn": "emo.train.heads.graph_mfn:GraphMfn",
    "mfm": "emo.train.heads.mfm:Mfm",
    "mctn": "emo.train.heads.mctn:Mctn",
    "tfn": "emo.train.heads.tfn:Tfn",
    "logistic": "emo.train.heads.logistic:Logistic",
    "knn": "emo.train.heads.knn:Knn",
}
FAMILIES = {
    "emotion-llama": "emo.train.llm.emotion_llama.family:EmotionLlamaFamily",
    "affectgpt": "emo.train.llm.affectgpt.family:AffectGptFamily",
    "videollama2": "emo.train.llm.videollama2.family:VideoLlama2Family",
}
_heads = Registry("head", "emo.heads", HEADS, "emo.train.heads.base:Head")
_families = Registry("published model", "emo.families", FAMILIES, "emo.train.llm.family:Family")
head_names = _heads.names


def head_class(name: str) -> type[Head]:
    """Return the head registered under `name`.

    Raises:
        UsageError: There is none, or an installed package's cannot be loaded.
    """
    found: type[Head] = _heads.find(name)
    return found


def family_named(name: str) -> Family:
    """Return the family of language models registered under `name`.

    Raises:
        UsageError: There is none.
    """
    found: Family = _families.find(name)()
    return found


def family_weights() -> dict[str, Source]:
    """Return where the weights of all families come from, by keys of [weights] in emo.toml."""
    return {key: source for name in _families.names() for key, source in family_named(name).weights.items()}


def annotation_files(name: str | None) -> tuple[str, ...]:
    """Return the files that a recipe learns from, as it names them; none for a head, or for a name that is none.

    Args:
        name: As `load_recipe` takes it; `None` for none.
    """
    try:
        files: tuple[str, ...] = load_recipe(name).annotation_files() if name else ()
    except UsageError:
        return ()  # whoever trains is told
    return files


def shipped_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with emo."""
    folder = resources.files("emo.train") / "recipes"
    return tuple(sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml")))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a recipe: the name of a shipped one, or a YAML file.

    Args:
        source: `attention`, `emotion-llama-stage1`, or a path that ends in .yaml or .yml.
        overrides: `key=value` pairs whose values are YAML, applied above the file; `table.key=value` sets a key of a
            table.

    Returns:
        A `HeadRecipe`; a `TuneRecipe` where the recipe says `kind: tune`, an `AskRecipe` under `kind: ask`.

    Raises:
        UsageError: All that is wrong with it, at once, each key with its nearest known one.
    """
    name = str(source)
    return make_recipe(read_keys(recipe_source(name), f"Recipe {name}", overrides), f"Recipe {name}")


def read_keys(text: str, where: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read YAML text as a table of keys, with `key=value` pairs above it.

    Raises:
        UsageError: It is not YAML, or no table.
    """
    table = _yaml(text, where)
    if not isinstance(table, dict):
        told = "is empty" if table is None else "is not a table of key: value"
        raise UsageError(f"{where} {told}.", "It has a line `key: value` for each key.")
    for pair in overrides:
        _override(table, pair)
    return table


def make_recipe(table: dict[str, Any], where: str = "The recipe") -> Any:
    """Validate a table of recipe keys. Its `kind`, or else `head`, decides which further keys there are.

    Raises:
        UsageError: All problems at once.
    """
    return validated(recipe_class(table, where), table, where)


def validated(keys: type[K], table: Mapping[str, Any], where: str) -> K:
    """Make keys of a table.

    Raises:
        UsageError: All problems at once; `where` says whose keys they are.
    """
    try:
        return keys.model_validate(table)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            key = ".".join(str(part) for part in each["loc"])
            if each["type"] == "extra_forbidden":
                near = nearest(str(each["loc"][-1]), _keys(keys, each["loc"][:-1]))
                near = near and ".".join([*map(str, each["loc"][:-1]), near])
                problems.append(f"unknown key {key}" + (f" (did you mean {near}?)" if near else ""))
            else:
                said = each["msg"].removeprefix("Value error, ").removesuffix(".")
                problems.append(f"{key}: {said}" if key else said)
        told = "; ".join(problems)
        raise UsageError(f"{where} is wrong: {told}{'' if told.endswith('?') else '.'}") from error


# ---- which class a table of keys belongs to --------------------------------------------------------------------------


def recipe_class(table: Mapping[str, Any], where: str) -> type[Recipe]:
    """Return the class of the keys of a recipe: by its kind, or by its head."""
    if "kind" in table:
        if str(table["kind"]) not in KINDS:
            kind = f"{where} is of kind {table['kind']!r}."
            raise UsageError(kind, f"Write kind: {' or '.join(KINDS)}; or head: NAME without a kind.")
        return KINDS[str(table["kind"])](table)
    if "head" not in table:
        raise UsageError(f"{where} names no head.", f"Add head: {' | '.join(head_names())}; or kind: tune.")
    return head_class(table["head"]).Recipe


def _tuned(table: Mapping[str, Any]) -> type[Recipe]:
    return family_named(table.get("family", USUAL_FAMILY)).Recipe


def _asked(table: Mapping[str, Any]) -> type[Recipe]:
    from emo.train.questions import AskRecipe

    return AskRecipe


USUAL_FAMILY = "emotion-llama"  # of recipes that name none, as those of earlier versions
KINDS: dict[str, Callable[[Mapping[str, Any]], type[Recipe]]] = {"tune": _tuned, "ask": _asked}


def _keys(recipe: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return the names of the keys of the table at `loc` of a recipe."""
    model: Any = recipe
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)


# ---- text -> table ---------------------------------------------------------------------------------------------------


def recipe_source(name: str) -> str:
    """Return the YAML text of a shipped recipe, of a file, or of a head that has no file.

    Raises:
        UsageError: There is none of this name, or it cannot be read.
    """
    if name.endswith(FILES):
        return read_file(Path(name), "recipe")
    if name not in shipped_recipes():
        if name in head_names():
            return f"head: {name}\n"  # an installed package's: all its keys have defaults
        known = ", ".join(shipped_recipes())
        hint = f"{did_you_mean(name, shipped_recipes())} Recipes: {known}; or give a .yaml file.".strip()
        raise UsageError(f"There is no recipe {name!r}.", hint)
    return (resources.files("emo.train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


FILES = (".yaml", ".yml")  # what is named so is a file, and not what comes with emo


def read_file(path: Path, what: str) -> str:
    """Return the text of a YAML file; `what` says in messages what it should hold.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Cannot read {what} {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"Cannot read {what} {path}: it is not UTF-8 ({error.reason}).") from error


def _override(table: dict[str, Any], pair: str) -> None:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {pair!r} is not key=value.")
    *tables, last = key.split(".")
    for each in tables:
        # A value that is no table is replaced; validation then names what is wrong.
        table[each] = dict(table[each]) if isinstance(table.get(each), dict) else {}
        table = table[each]
    table[last] = _yaml(value, f"--set {key}")


class _Loader(yaml.SafeLoader):
    """YAML without tags, in which a key that stands twice is an error: the first value would be lost in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Make a table of a node.

        Raises:
            yaml.YAMLError: A key stands twice.
        """
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key.value, str) and seen.setdefault(key.value, line) != line:
                what = f"key {key.value!r} stands on line {seen[key.value]} and again on line {line}"
                raise yaml.constructor.ConstructorError(None, None, what)
        return super().construct_mapping(node, deep)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # YAML's own, impossible dates, endless depth
        said = " ".join(str(error).split())  # YAML's own words are several lines
        raise UsageError(f"{where} is not YAML: {said}.") from error
