"""Code of one sibling that the other needs by name: `extract` and `train` never import each other.

The ground floor knows names alone. Which module a name stands for is said where all is put together, in
`emo/__init__.py`; it is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_homes: dict[str, str] = {}


def share(name: str, module: str) -> None:
    """Say which module a name stands for."""
    _homes[name] = module


def shared(name: str) -> Any:
    """The module that a name stands for.

    Raises:
        LookupError: Nobody said so: `emo` itself was not imported.
    """
    if name not in _homes:
        raise LookupError(f"nothing is shared under the name {name!r}")
    return import_module(_homes[name])
