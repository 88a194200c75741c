"""One fixture for all golden cases: `golden`, parametrised with the name of the case's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file


@dataclass(frozen=True)
class Golden:
    """A golden case: its folder, what case.json says, and every tensor of io.safetensors."""

    folder: Path
    info: dict[str, Any]
    io: dict[str, NDArray[Any]]

    @property
    def weights(self) -> str:
        return str(self.folder / "weights.safetensors")

    def items(self, tensor: str) -> list[str]:
        """Names (clips, images, sounds) that have this tensor: `clipA` for `clipA.UTT`."""
        return sorted(key[: -len(tensor) - 1] for key in self.io if key.endswith("." + tensor))

    def close(self, got: Any, name: str, tolerance: float, want: NDArray[Any] | None = None) -> None:
        """Assert that `got` equals the tensor `name` within an absolute tolerance (0: exactly)."""
        want = self.io[name] if want is None else want
        got = np.asarray(got)
        assert got.shape == want.shape, f"{name}: shape {got.shape} instead of {want.shape}"
        worst = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max())
        assert worst <= tolerance, f"{name}: off by {worst:.2e}, tolerance {tolerance:.0e}"


@pytest.fixture
def golden(request: pytest.FixtureRequest, goldens: Path) -> Golden:
    """The case named by `@pytest.mark.parametrize("golden", ["case…"], indirect=True)`."""
    folder = goldens / request.param
    if not (folder / "case.json").is_file():
        pytest.skip(f"{goldens} has no folder {request.param}")
    io = folder / "io.safetensors"
    info = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return Golden(folder, info, load_file(io) if io.is_file() else {})
