"""Identity of a training: everything that decides what is learned, so that a resumed run is the same one."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from emo.featstore.files import digest
from emo.featstore.install import versions
from emo.train.llm.family import Family
from emo.train.llm.recipe import TuneRecipe

# They change nothing of what is learned: a run may be resumed with others.
FREE: dict[str, Any] = dict.fromkeys(("parallel", "recompute", "tensorboard", "log_every", "checkpoint"), True)
FREE["validation"] = {"fold_by"}  # who is held out is in the digest of the data
# Modules of emo.train.llm that decide what is learned; all modules of the family's own folder do too.
DECIDING = ("build", "data", "features", "model", "optim", "prompt", "setup", "tokenizer", "tune")
LIBRARIES = ("torch", "transformers", "peft")


def identity(recipe: TuneRecipe, family: Family, **more: Any) -> dict[str, Any]:
    """Return the identity of a training as plain JSON.

    Args:
        recipe: Its settings.
        family: Whose code counts.
        more: Store, features and their checksums, data, language model.
    """
    return {
        "recipe": recipe.model_dump(mode="json", exclude=FREE),
        **more,
        "version": versions(*LIBRARIES) | {"torch": torch.__version__},
        "code": code_of(type(family).__module__),
    }


def as_of_then(then: Mapping[str, Any], recipe: TuneRecipe) -> dict[str, Any]:
    """Return an earlier identity, with recipe keys that did not exist then at their defaults, which they had."""
    try:
        earlier = type(recipe).model_validate(then.get("recipe", {}))
    except ValidationError:  # a key of then that is none any more; it stands in the table of differences as it was
        return dict(then)
    return {**then, "recipe": earlier.model_dump(mode="json", exclude=FREE)}


@cache
def code_of(family_module: str) -> dict[str, str]:
    """Return a hash per module that decides what is learned; comments, docstrings and layout do not count."""
    here = Path(__file__).parent
    folder = Path(str(import_module(family_module).__file__)).parent
    paths = {name: here / f"{name}.py" for name in DECIDING}
    paths |= {f"{folder.name}/{path.stem}": path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}
    return {name: code_hash(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def code_hash(text: str) -> str:
    """Return a short hash of what a module does."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if first is not None and _is_text(first):
            body[0] = ast.copy_location(ast.Pass(), first)
        if isinstance(node, ast.ClassDef):  # the texts of recipe keys
            node.body = [each for each in node.body if not _is_text(each)]
    return digest(ast.unparse(tree).encode())[:12]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
