"""Only the mediums, `durable.py` and the cache talk to a disk about the files of a store."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY = {"medium.py", "durable.py", "bucket.py", "cache.py"}
HARMLESS = {"os.path.abspath", "os.fspath", "os.stat"}  # compute with names, and look at media files
MODULES = ("os.", "shutil.", "fcntl.", "tempfile.", "zarr.", "mmap.", "io.open")
METHODS = {"chmod", "exists", "glob", "is_dir", "is_file", "is_symlink", "iterdir", "lstat", "mkdir", "open", "unlink"}
METHODS |= {"read_bytes", "read_text", "readlink", "rename", "resolve", "rglob", "rmdir", "samefile", "stat", "touch"}
METHODS |= {"symlink_to", "hardlink_to", "write_bytes", "write_text", "memmap", "fromfile", "tofile"}
OTHERS = {"self", "medium", "store", "cls", "Store", "Reader", "type(store)", "open_medium(path)"}


def calls_on_disk(source: str) -> list[str]:
    """Calls in a source that reach a disk: of `os` and its like, `open`, and the methods of `Path`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "open" or (name.startswith(MODULES) and name not in HARMLESS):
            found.append(f"{node.lineno}: {name}")
        elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and name not in HARMLESS:
            owner = ast.unparse(node.func.value)
            if owner not in OTHERS and owner.rpartition(".")[2] not in OTHERS:
                found.append(f"{node.lineno}: {name}")
    return found


def paths_of_a_store(source: str) -> list[str]:
    """Places where a path below a store is made, or a store's path is looked at."""
    found = []
    for node in ast.walk(ast.parse(source)):
        path = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            path = node.left
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            path = node.func.value
        if path is not None and ast.unparse(path).endswith(("store.path", "store_path")):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    "path", [each for each in sorted((ROOT / "featstore" / "storage").glob("*.py")) if each.name not in MAY], ids=str
)
def test_the_store_talks_to_its_medium_only(path: Path) -> None:
    source = path.read_text()
    assert calls_on_disk(source) == []
    assert paths_of_a_store(source) == []


def test_nobody_else_goes_behind_the_store() -> None:
    for room in ("featstore", "extract", "train"):
        for path in (ROOT / room).rglob("*.py"):
            assert paths_of_a_store(path.read_text()) == [], path


def test_the_checker_sees_what_is_forbidden() -> None:
    forbidden = ("os.rename(a, b)", "open(path)", "path.unlink()", "(folder / 'x').read_bytes()", "shutil.rmtree(x)")
    for line in (*forbidden, "np.memmap(path)", "Path(a).exists()", "zarr.open_array(a)"):
        assert len(calls_on_disk(f"def f():\n    {line}\n")) == 1, line
    for line in ("medium.exists(a)", "self.medium.list(a)", "os.stat(media)", "Store.open(path)", "'a'.partition('-')"):
        assert calls_on_disk(line) == [], line
    for line in ("store.path / 'search'", "workspace.store_path.exists()", "self.store.path.unlink()"):
        assert len(paths_of_a_store(line)) == 1, line
