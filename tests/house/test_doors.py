"""One door per kind of plug-in: only a registry tells one kind of recipe or run from another."""

from __future__ import annotations

import re

import pytest
from sources import imported, modules

BRANCH = re.compile(r"""["']kind["'][^\n]{0,16}[=!]=|\bkind\b *[=!]= *["'](?:tune|head)["']|\bmakes\b *[=!]=""")


def test_nothing_branches_on_the_kind_of_a_recipe_or_run() -> None:
    found = {module.where for module in modules().values() if BRANCH.search(module.text)}
    assert not found, "ask the recipe or the run, or look it up in a registry"


@pytest.mark.parametrize(
    "line",
    [
        'if run.info.get("kind") == "tune":',
        "if run.info['kind'] != 'head':",
        'if recipe.kind == "tune":',
        'if getattr(recipe, "kind", "head") == "tune":',
        'tuning = kind == "tune"',
        "if recipe.makes == TUNE:",
    ],
)
def test_the_check_sees_such_a_branch(line: str) -> None:
    assert BRANCH.search(line)


FAMILY = re.compile(r"emo\.train\.llm\.(emotion_llama|affectgpt|videollama2)\b")
REGISTRY = "train/recipe.py"


def test_nothing_outside_its_folder_knows_a_family_by_name() -> None:
    """The loop, data, distribution, answering and scoring ask the contract; the registry alone names a member."""
    found = set()
    for module in modules().values():
        names = {name for name in imported(module.tree, strings=True) if FAMILY.match(name)}
        own = f"train/llm/{FAMILY.match(next(iter(names)))[1]}/" if names else ""  # type: ignore[index]
        if names and not (module.where.startswith(own) and len({FAMILY.match(name)[1] for name in names}) == 1):  # type: ignore[index]
            found.add(module.where)
    assert found == {REGISTRY}
