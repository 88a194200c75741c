"""What the hard tests share: they are short as a rule, and long with EMO_HARD=1 in the environment."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def hard() -> bool:
    """Whether the long form is asked for."""
    return os.environ.get("EMO_HARD") == "1"
