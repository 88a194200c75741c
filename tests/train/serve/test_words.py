"""What the page says of failures and errors in Chinese keeps up with what the program says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import emo
from emo.train.metrics.labels import too_few

ROOT = Path(emo.__file__).parent
SCRIPTS = ROOT / "train" / "serve" / "static" / "js"
CHINESE = dict(re.findall(r'"([\w.-]+)": "((?:[^"\\]|\\.)*)"', (SCRIPTS / "words.zh.js").read_text(encoding="utf-8")))
KINDS = {
    "MediaError": 0,
    "bad": 0,
    "check_pixels": 2,
}  # calls that name a kind of failure, and where among their arguments


def nodes(folder: Path) -> Iterator[ast.AST]:
    for path in folder.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def test_every_kind_of_failure_has_a_chinese_name() -> None:
    found = set()
    for node in (each for room in ("extract", "featstore") for each in nodes(ROOT / room)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            at = KINDS[node.func.id]
            if len(node.args) > at and isinstance(kind := node.args[at], ast.Constant):
                found.add(str(kind.value))
    assert {"no-face", "unreadable", "no-frame", "wrong-shape"} <= found
    assert sorted(found - {name.removeprefix("kind.") for name in CHINESE}) == []


def spelled(node: ast.JoinedStr) -> str:
    """An f-string with something in each of its places."""
    words = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            words += str(part.value)
        elif isinstance(part, ast.FormattedValue):
            value = ast.unparse(part.value)
            key, number = value.endswith(".key"), value.startswith("counted(")
            words += "'x'" if part.conversion == ord("r") else "x@1" if key else "7 clips" if number else "7"
    return words


def test_every_sentence_that_the_page_translates_is_one_of_the_program() -> None:
    said = [str(too_few(1)), str(too_few(7))]
    for node in (each for room in ("train", "featstore") for each in nodes(ROOT / room)):
        if isinstance(node, ast.JoinedStr):
            said.append(spelled(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            said.append(node.value)
    forms = re.findall(
        r'^  \["([\w-]+)", /(.*)/s?\],$', (SCRIPTS / "served.js").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(forms) > 40
    for key, form in forms:
        matching = re.compile(form.replace("(?<", "(?P<"), re.DOTALL)
        assert any(matching.match(each) for each in said), f"nothing says {form} any more"
        places = set(re.findall(r"\{(\w+)\}", CHINESE[f"served.{key}"]))
        assert places <= set(matching.groupindex), key
