"""One fixture for all golden cases: `golden`, parametrised with the name of the case's folder.

The tests run on any folder of golden cases (`--goldens DIR`), so they take every name, size and tolerance from the case
itself. A part that a case does not hold is skipped and says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module names its case folders in GOLDEN_CASES; others of the same case (`case5d_…`) run as well."""
    names = list(getattr(metafunc.module, "GOLDEN_CASES", ()))
    if not names or "golden" not in metafunc.fixturenames:
        return
    for kind in sorted({name.partition("_")[0] for name in names}):
        found = metafunc.config.getoption("--goldens").glob(f"{kind}_*/case.json")
        names += sorted({file.parent.name for file in found} - set(names))
    metafunc.parametrize("golden", names, indirect=True)


@dataclass(frozen=True)
class Golden:
    """A golden case: its folder, what case.json says, and every tensor of io.safetensors."""

    folder: Path
    info: dict[str, Any]
    io: dict[str, NDArray[Any]]

    @property
    def weights(self) -> str:
        return str(self.folder / "weights.safetensors")

    def items(self, *tensors: str) -> list[str]:
        """Names (clips, images, sounds) that have one of these tensors: `clipA` for `clipA.UTT`."""
        return sorted({key[: -len(t) - 1] for t in tensors for key in self.io if key.endswith(f".{t}")})

    def parts(self, start: str) -> list[tuple[str, str]]:
        """Pairs of a name and a tensor of it that starts so: `("clipB", "clipB.pixel_u8_224")`; skips if none."""
        split = [(key, *key.rpartition(".")[::2]) for key in sorted(self.io)]
        pairs = [(owner, key) for key, owner, tensor in split if owner and tensor.startswith(start)]
        return pairs or pytest.skip(f"{self.folder.name} has no tensor {start}")

    def faces(self) -> dict[str, NDArray[np.uint8]]:
        """Face crops by clip. They are stored as BGR; encoders take RGB."""
        clips = self.items("faces_bgr_u8")
        assert clips
        return {clip: np.ascontiguousarray(self.io[f"{clip}.faces_bgr_u8"][..., ::-1]) for clip in clips}

    def close(self, got: Any, name: str, tolerance: float, want: NDArray[Any] | None = None) -> None:
        """Assert that `got` equals the tensor `name` within an absolute tolerance (0: exactly)."""
        want = self.io[name] if want is None else want
        got = np.asarray(got)
        assert got.shape == want.shape, f"{name}: shape {got.shape} instead of {want.shape}"
        worst = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0))
        assert worst <= tolerance, f"{name}: off by {worst:.2e}, tolerance {tolerance:.0e}"

    def close_all(self, got: Mapping[str, Any], tolerance: float | Mapping[str, float]) -> None:
        """Compare those tensors that the case holds; it must hold one of them at least."""
        held = [name for name in got if name in self.io]
        assert held, f"{self.folder.name} has none of {', '.join(got)}"
        for name in held:
            bound = tolerance[name.rpartition(".")[2]] if isinstance(tolerance, Mapping) else tolerance
            self.close(got[name], name, bound)

    @staticmethod
    def number(name: str, word: str) -> int | None:
        """7 of `big.out_stride7` for the word `stride`, or `None`."""
        found = re.search(rf"_{word}(\d+)$", name.rpartition(".")[2])
        return int(found[1]) if found else None

    @staticmethod
    def count(key: str) -> int:
        """Number of frames that a key of an index table stands for: `17`, or `clipA (n=17)`."""
        found = re.search(r"n\s*=\s*(\d+)", key) or re.search(r"(\d+)\D*$", key)
        assert found, f"no number of frames in {key!r}"
        return int(found[1])


@pytest.fixture
def golden(request: pytest.FixtureRequest, goldens: Path) -> Golden:
    """The case of that name."""
    folder = goldens.resolve() / request.param
    if not (folder / "case.json").is_file():
        pytest.skip(f"{goldens} has no folder {request.param}")
    io = folder / "io.safetensors"
    info = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return Golden(folder, info, load_file(io) if io.is_file() else {})
