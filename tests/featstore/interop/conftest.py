"""A store of seven clips as an extraction leaves it: six features, of which not every clip has every one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.storage.store import Store
from emo.featstore.testing import SampleStore


@pytest.fixture
def source(tmp_path: Path) -> SampleStore:
    return SampleStore(tmp_path / "source.emo")


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "target.emo")


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Writes .npy files of a feature folder: `put("HL-UTT", a=array, b=bytes)`; returns the folder above."""

    def write(feature: str, **files: Any) -> Path:
        folder = tmp_path / "features" / feature
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / f"{name}.npy").write_bytes(content)
            else:
                np.save(folder / f"{name}.npy", content)
        return folder.parent

    return write
