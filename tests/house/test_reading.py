"""Files that others wrote, or that may be damaged by now, come in by one door, which ends in a sentence."""

from __future__ import annotations

import ast

from sources import Module, modules

DOOR = "featstore/reading.py"
# Readers of a text that raise whatever they like; whoever else calls them has to know it, and soon forgets.
CALLS = {("json", "load"), ("json", "loads"), ("json", "JSONDecoder"), ("tomllib", "load"), ("tomllib", "loads")}
OWN = {  # texts that come with the program
    "featstore/install.py": "pyproject.toml of a checkout",
    "featstore/workspace.py": "the emo.toml that it writes itself",
}


def calls(module: Module) -> set[tuple[str, str]]:
    names = (node for node in ast.walk(module.tree) if isinstance(node, ast.Attribute))
    found = {(node.value.id, node.attr) for node in names if isinstance(node.value, ast.Name)}
    taken = (node for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom))
    return (found | {(str(node.module), each.name) for node in taken for each in node.names}) & CALLS


def test_json_and_toml_are_parsed_in_the_reading_door_alone() -> None:
    found = {module.where for module in modules().values() if calls(module)}
    assert found == {DOOR, *OWN}


def test_the_check_sees_such_calls() -> None:
    for text in ("json.loads(x)", "map(json.loads, x)", "from json import load", "tomllib.load(f)"):
        assert calls(Module("x", __import__("pathlib").Path("x"), text)), text
