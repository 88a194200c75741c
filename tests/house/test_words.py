"""Docstrings are sentences that say what a thing is or does; they do not begin with What, Where, Who or Of."""

from __future__ import annotations

import ast
import re

import pytest
from sources import modules

RIDDLES = re.compile(r"(What|Where|Who|Of)\b")
PLURAL = re.compile(
    r"(?<!of )(?<!than )\{[^{}]+\} (?:\w+ )?(?:clips|features|records|transcripts|predictions) (?:are|have|lack|hold)\b"
)


def texts(tree: ast.AST) -> list[str]:
    """Every docstring, those of attributes too."""
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return [each.value for each in statements if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def plurals(source: str) -> list[str]:
    """Return numbers in messages whose noun and verb are plural even where the number is 1; see `text.counted`."""
    return [each.group() for each in PLURAL.finditer(source)]


def test_one_clip_is_not_called_clips() -> None:
    said = {each.where: found for each in modules().values() if (found := plurals(each.text))}
    assert said == {}


@pytest.mark.parametrize(
    ("source", "wrong"), [('f"{n:,} clips are"', 1), ('f"{a} of {n} clips have"', 0), ('"2 clips are"', 0)]
)
def test_the_test_sees_a_plural(source: str, wrong: int) -> None:
    assert len(plurals(source)) == wrong


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    said = [(each.where, text) for each in modules().values() for text in texts(each.tree)]
    assert len(said) > 1000
    assert [(where, text) for where, text in said if RIDDLES.match(text)] == []


def test_the_test_sees_one() -> None:
    assert [text for text in texts(ast.parse('x = 1\n"""Where it is."""\n')) if RIDDLES.match(text)]
