"""Recipes as commented YAML: the values are those of the file, the comments are the texts at the keys.

`python -m emo.train.recipe_text` writes the comments of the shipped files anew, after a text has changed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter

from emo.train.keys import Keys
from emo.train.recipe import load_recipe, recipe_class, recipe_source, shipped_recipes

WIDTH = 120
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
USUAL = "Default: ..."  # in a text; the default itself is put in its place


def explain(name: str) -> str:
    """Return a recipe as YAML in which every key is followed by a comment that says what it means.

    Args:
        name: Of a shipped recipe or a head, or a YAML file.

    Raises:
        UsageError: There is no such recipe, or it is wrong.
    """
    load_recipe(name)
    text = recipe_source(name)
    keys = recipe_class(yaml.safe_load(text), f"Recipe {name}")
    head, values = _parts(text)
    for key in keys.model_fields:
        if key not in values:
            values[key] = [f"{key}: {_inline(_usual(keys, key))}"]
    blocks = ["\n".join([*lines, *_comment(keys, key)]) for key, lines in values.items()]
    return "\n\n".join([*(["\n".join(head)] if head else []), *blocks]) + "\n"


def _parts(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the comment that begins a recipe, and the lines of each key's value."""
    lines = text.splitlines()
    size = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    values: dict[str, list[str]] = {}
    key = ""
    for line in lines[size:]:
        if line and line[0] not in " #-":
            key = line.partition(":")[0]
        if line.strip() and not line.startswith("#"):
            values.setdefault(key, []).append(line)
    return lines[:size], values


def _comment(keys: type[Keys], key: str) -> Iterator[str]:
    """Yield the comment lines of a key; the keys of a table get a line each."""
    yield from _wrapped(_text(keys, key), "# ")
    if table := table_of(keys.model_fields[key].annotation):
        for each in table.model_fields:
            yield from _wrapped(f"{each}: {_text(table, each)}", "#   ")


def _wrapped(text: str, indent: str) -> list[str]:
    """Return a text as comment lines; where it needs several, its type begins one."""
    more = indent if indent == "# " else f"{indent}  "
    if len(indent + text) <= WIDTH:
        return [indent + text]
    meaning, found, kind = text.partition("Type: ")
    first = textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=more, **WHOLE_WORDS)
    return first + textwrap.wrap(found + kind, WIDTH, initial_indent=more, subsequent_indent=more, **WHOLE_WORDS)


def _text(keys: type[Keys], key: str) -> str:
    """Return the text of a key with its default, which a table's own keys say for it."""
    text = keys.text_of(key)
    field = keys.model_fields[key]
    if field.is_required() or isinstance(field.default, Keys):
        return text
    usual = f"Default: {_inline(_usual(keys, key))}"
    if USUAL in text:
        return text.replace(USUAL, usual)
    return text if "Default: " in text else f"{text} {usual}.".lstrip()


def table_of(annotation: Any) -> type[Keys] | None:
    """Return the class of a table, or of the tables in a list; `None` for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Keys):
        return annotation
    return next((found for each in get_args(annotation) if (found := table_of(each))), None)


def _usual(keys: type[Keys], key: str) -> Any:
    usual = keys.model_fields[key].get_default(call_default_factory=True)
    return TypeAdapter(Any).dump_python(usual, mode="json")


class _Inline(yaml.SafeDumper):
    """YAML in one line, with floats as one writes them."""


_Inline.add_representer(
    float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", format(Decimal(repr(value)), "f"))
)


def _inline(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Inline, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return str(text).removesuffix("\n").removesuffix("\n...")


def main() -> None:
    """Write the shipped recipes anew."""
    folder = Path(str(resources.files("emo.train") / "recipes"))
    for name in shipped_recipes():
        (folder / f"{name}.yaml").write_text(explain(name), encoding="utf-8")


if __name__ == "__main__":
    main()
