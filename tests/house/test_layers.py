"""The layers are law: imports go down only, siblings never meet, the ground floor knows no torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"featstore": {"featstore"}, "extract": {"extract", "featstore"}, "train": {"train", "featstore"}}
GROUND_FLOOR = {"numpy", "zarr", "google_crc32c"}
FOREIGN = {"h5py", "pyarrow", "safetensors"}  # formats of other tools: in featstore/interop only, inside functions only
INDEX = {"faiss"}  # likewise, in featstore/search.py
BANNED_BARE = {"featstore", "extract", "train", "cli"}
STANDARD = __import__("sys").stdlib_module_names


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path, inside_functions: bool = True) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it or only where that happens on importing it."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = set() if inside_functions else {each for function in functions for each in ast.walk(function)}
    for node in ast.walk(tree):
        if node in inner:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} uses a relative import; write `from emo...`"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room: str) -> None:
    files = sources(room)
    assert files, f"no sources in {room}"
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            assert parts[0] not in BANNED_BARE, f"{path} imports {name}: write emo.{name}"
            if parts[0] == "emo" and len(parts) > 1:
                assert parts[1] in ROOMS[room] | {"__version__"}, f"{path} imports {name}: {room} may not know it"


def test_ground_floor_imports_only_numpy_zarr_and_the_standard_library() -> None:
    for path in sources("featstore"):
        lazily = FOREIGN if path.parent.name == "interop" else INDEX if path.name == "search.py" else set()
        for name in imported(path):
            top = name.split(".")[0]
            assert top in GROUND_FLOOR | lazily | {"emo"} or top in STANDARD, f"{path} imports {name}"
        eager = {name.split(".")[0] for name in imported(path, inside_functions=False)}
        assert not eager & (FOREIGN | INDEX), f"{path} imports {eager & (FOREIGN | INDEX)} before anybody asked for it"


def test_no_file_is_long_and_there_is_no_utils() -> None:
    for path in [ROOT / "cli.py", *(p for room in ROOMS for p in sources(room))]:
        assert path.name != "utils.py", f"{path}: name the file after what it holds"
        lines = len(path.read_text().splitlines())
        assert lines <= 620, f"{path} has {lines} lines; split it along its meaning"


def test_the_checker_sees_imports_inside_functions(tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text("def f():\n    import torch.nn\n    from emo.train.metrics import labels\n")
    assert imported(source) == {"torch.nn", "emo.train.metrics.labels"}
    assert imported(source, inside_functions=False) == set()
