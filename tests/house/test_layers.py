"""The layers are law: imports go down only, siblings never meet, the ground floor knows no torch, nothing goes round.

A list of exceptions names what still breaks a rule. It can only shrink: an exception that is none any more fails too.
"""

from __future__ import annotations

import ast

import pytest
from sources import ROOT, Module, circles, functions, graph, imported, modules

LAYERS = {"featstore": {"featstore"}, "extract": {"extract", "featstore"}, "train": {"train", "featstore"}}
GROUND_FLOOR = {"numpy", "zarr", "google_crc32c"}
FOREIGN = {"h5py", "pyarrow", "safetensors"}  # formats of other tools: in featstore/interop only, inside functions only
INDEX = {"faiss"}  # likewise, in featstore/search.py
CLOUD = {"obstore", "boto3", "botocore"}  # in featstore/storage/bucket.py, which is imported where a URL is named
CLUSTER = {"ray"}  # likewise, in featstore/cluster.py
SCREEN = {"rich"}  # in featstore/screen.py
HUB = {"huggingface_hub"}  # likewise, in featstore/sources: the hub's own cache layout and access rules
BANNED_BARE = {"featstore", "extract", "train", "cli"}
STANDARD = __import__("sys").stdlib_module_names

LONGEST_FILE = 600
LONGEST_FUNCTION = 60
THE_LOOP = ("train/llm/tune.py:tune", 100)  # one step of training is read in one place, top to bottom

# What still breaks a rule: take out what is mended, add nothing.
CIRCLES: set[tuple[str, ...]] = set()
LONG_FUNCTIONS: set[str] = set()
ANOTHER_CLASS: set[str] = set()


@pytest.mark.parametrize("room", LAYERS)
def test_imports_go_down_only(room: str) -> None:
    assert modules(room), f"no sources in {room}"
    for module in modules(room).values():
        for name in imported(module.tree, strings=True):
            parts = name.split(".")
            assert parts[0] not in BANNED_BARE, f"{module.where} imports {name}: write emo.{name}"
            if parts[0] == "emo" and len(parts) > 1:
                assert parts[1] in LAYERS[room] | {"__version__"}, f"{module.where} imports {name}: {room} may not"


def test_ground_floor_imports_only_numpy_zarr_and_the_standard_library() -> None:
    for module in modules("featstore").values():
        where = module.path
        lazily = {"search.py": INDEX, "bucket.py": CLOUD, "cluster.py": CLUSTER, "screen.py": SCREEN}.get(
            where.name, set()
        )
        lazily = {"interop": FOREIGN, "sources": HUB}.get(where.parent.name, lazily)
        for name in imported(module.tree):
            top = name.split(".")[0]
            assert top in GROUND_FLOOR | lazily | {"emo"} or top in STANDARD, f"{module.where} imports {name}"
        eager = {name.split(".")[0] for name in imported(module.tree, inside_functions=False)}
        assert "emo.featstore.storage.bucket" not in {
            name.rpartition(".")[0] for name in imported(module.tree, inside_functions=False)
        }, f"{module.where} imports the bucket before it is asked to"
        early = eager & (FOREIGN | INDEX | HUB | CLUSTER)
        assert not early, f"{module.where} imports {early} before it is asked to"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions and names in strings count: they only hide a circle."""
    assert set(circles(graph(modules()))) == CIRCLES


def test_no_file_is_long_and_there_is_no_utils() -> None:
    for module in modules().values():
        assert module.path.name != "utils.py", f"{module.where}: name the file after what it holds"
        lines = len(module.text.splitlines())
        assert lines <= LONGEST_FILE, f"{module.where} has {lines} lines; split it along its meaning"


def test_no_function_is_long_but_the_one_loop() -> None:
    lengths = {name: lines for module in modules().values() for name, lines in functions(module).items()}
    loop, most = THE_LOOP
    assert LONGEST_FUNCTION < lengths.pop(loop) <= most, "an exception that is none"
    assert {name for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == LONG_FUNCTIONS


def test_nothing_of_other_libraries_is_changed() -> None:
    """No attribute of something imported is assigned to, and nothing gets another class."""
    reclassed: set[str] = set()
    for module in modules().values():
        nodes = list(ast.walk(module.tree))
        foreign = {
            (each.asname or each.name).split(".")[0]
            for node in nodes
            if isinstance(node, ast.Import)
            for each in node.names
        }
        foreign |= {
            each.asname or each.name for node in nodes if isinstance(node, ast.ImportFrom) for each in node.names
        }
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                owner = ast.unparse(node.value).partition(".")[0]
                assert owner not in foreign, f"{module.where}:{node.lineno} changes {ast.unparse(node)}"
                reclassed |= {module.where} if node.attr == "__class__" else set()
    assert reclassed == ANOTHER_CLASS


# ---- the checkers themselves ----------------------------------------------------------------------------------------


def test_the_checker_sees_imports_inside_functions() -> None:
    tree = ast.parse("def f():\n    import torch.nn\n    from emo.train.metrics import labels\n")
    assert imported(tree) == {"torch.nn", "emo.train.metrics.labels"}
    assert imported(tree, inside_functions=False) == set()


def test_the_checker_sees_a_circle_through_a_string() -> None:
    texts = {"a": "from emo.train.b import x", "b": "HOMES = {'a': 'emo.train.a:Z'}", "c": "import emo.train.a"}
    known = {f"emo.train.{name}": Module(f"emo.train.{name}", ROOT / name, text) for name, text in texts.items()}
    assert circles(graph(known)) == [("emo.train.a", "emo.train.b")]


def test_the_checker_counts_methods_by_their_class() -> None:
    text = "class A:\n    def f(self):\n        pass\n\nclass B:\n    @property\n    def f(self): pass\n"
    assert functions(Module("emo.m", ROOT / "m.py", text)) == {"m.py:A.f": 2, "m.py:B.f": 1}
