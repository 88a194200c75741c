"""Read the sources of the house: files, modules, what they import, their functions."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("featstore", "extract", "train")
STRING_IMPORT = re.compile(r"(emo\.(?:featstore|extract|train|cli|screen)(?:\.\w+)*)(?::\w+)?")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Named = Function | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, its path, its text."""

    name: str
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text)

    @property
    def where(self) -> str:
        """Its path from the top, as messages and lists show it."""
        return str(self.path.relative_to(ROOT))


def modules(*rooms: str) -> dict[str, Module]:
    """All modules of the rooms (default: all three) and the top floor, by dotted name."""
    paths = [path for room in rooms or ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    paths += [] if rooms else [ROOT / "cli.py"]
    found = {}
    for path in paths:
        name = ".".join(("emo", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        found[name] = Module(name, path, path.read_text())
    return found


def built_wheel(folder: Path, isolated: bool = False) -> Path:
    """Build the wheel from a copy of the sources, so that a checkout gets no build folder.

    Args:
        folder: Of copy and wheel.
        isolated: Whether the builder is fetched too; otherwise this environment's is taken.
    """
    source = folder / "source"
    source.mkdir()
    for name in ROOMS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md", "__init__.py", "cli.py"):
        shutil.copy(ROOT / name, source)
    how = () if isolated else ("--no-build-isolation",)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *how, "-w", str(folder), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def imported(tree: ast.Module, inside_functions: bool = True, strings: bool = False) -> set[str]:
    """Absolute names of all that a file imports.

    Args:
        tree: The parsed file.
        inside_functions: Also what functions import when they are called.
        strings: Also texts that name a module of ours, `emo.x.y` or `emo.x.y:Z`, which a registry imports later.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    inner = set() if inside_functions else {each for function in functions for each in ast.walk(function)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in inner:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write `from emo...`"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {match[1] for match in [STRING_IMPORT.fullmatch(node.value)] if match}
    return names


def graph(known: dict[str, Module]) -> dict[str, set[str]]:
    """Which modules of ours each module imports, by statement or by string."""
    found: dict[str, set[str]] = {}
    for name, module in known.items():
        wanted = imported(module.tree, strings=True)
        wanted |= {each.rpartition(".")[0] for each in wanted}  # `from emo.x import y`: y may be a name in emo.x
        found[name] = (wanted & known.keys()) - {name}
    return found


def circles(edges: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules that reach each other, each in alphabetical order."""
    reach = {name: _reached(name, edges) for name in edges}
    groups = {tuple(sorted({name} | {each for each in reach[name] if name in reach[each]})) for name in edges}
    return sorted(group for group in groups if len(group) > 1)


def _reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = edges.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen


def functions(module: Module) -> dict[str, int]:
    """Lines of every function of a module, by `path:Class.name`; decorators are not counted."""
    found: dict[str, int] = {}

    def look(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            name = f"{prefix}.{node.name}" if prefix and isinstance(node, Named) else getattr(node, "name", None)
            if isinstance(node, Function):
                assert node.end_lineno is not None
                found[f"{module.where}:{name}"] = node.end_lineno - node.lineno + 1
            look(node, name if isinstance(node, Named) else prefix)

    look(module.tree, "")
    return found
