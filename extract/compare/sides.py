"""Two sides of a comparison: where their features are, and what is measured between them, clip by clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emo.featstore.address import Url, address
from emo.featstore.errors import UsageError
from emo.featstore.interop.there import open_foreign
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.maintain import BESIDE
from emo.featstore.storage.store import Store, open_store

MOSTLY = 5  # times smaller: then a change explains most of a difference


class Side(Protocol):
    """Features of clips by name, wherever they come from."""

    where: str

    def names(self) -> Sequence[str]:
        """Clips that have the feature."""

    def get(self, name: str) -> NDArray[Any]:
        """One clip's feature, (T, D), of whatever number type it has."""


class StoreSide:
    """One feature of a store."""

    def __init__(self, store: Store, spec: EncoderSpec) -> None:
        self.store, self.spec, self.where = store, spec, f"{store.path} {spec.key}"

    def names(self) -> Sequence[str]:
        clips = self.store.clips()
        return [clip for clip, has in zip(clips, self.store.has(self.spec, clips), strict=True) if has]

    def get(self, name: str) -> NDArray[Any]:
        return self.store.get(self.spec, name).array


class NpyFolder:
    """A folder of .npy files, one per clip, each (D,) or (T, D). Pickled objects are refused."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)

    def names(self) -> Sequence[str]:
        return sorted(path.stem for path in self.folder.glob("*.npy"))

    def get(self, name: str) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UsageError(f"{path} is no plain array of numbers: {error}") from error
        array = array[0] if array.ndim == 3 and len(array) == 1 else np.atleast_2d(array)
        if array.dtype.kind not in "fiu" or array.ndim != 2 or not array.size:
            raise UsageError(f"{path} holds {array.dtype} of shape {array.shape}, not numbers (D,) or (T, D).")
        return array


def open_side(side: str | Path | Side, feature: str | None, other: str | Path | Side, files: ExitStack) -> Side:
    """A store, a folder of .npy files or what `emo store import` reads, by its path; a side made elsewhere as it is.

    Args:
        side: What to open.
        feature: Name of the feature in a store; `None` where it has only one, or where `other` is a folder of its name.
        other: The other side.
        files: Closes what stays open.

    Raises:
        UsageError: It is none of these, or it is not clear which feature is meant.
        StoreError: The feature is not there, or its name means several.
    """
    if not isinstance(side, (str, Path)):
        return side
    path = address(side)
    if isinstance(path, Url) or (path / "emo.json").exists():
        store = open_store(path)
        if feature is None:
            known = [each.spec for each in store.features() if each.spec.encoder not in BESIDE]
            mine = {spec.name for spec in known}
            there = [Path(other).name, Path(other).stem] if isinstance(other, (str, Path)) else []
            folder = next((each for each in there if each in mine), None)
            if len(known) != 1 and folder is None:
                have = ", ".join(spec.key for spec in known) or "no feature at all"
                raise UsageError(f"{path} holds {have}.", "Say which one is meant: --feature NAME.")
            feature = known[0].key if len(known) == 1 or folder is None else folder
        return StoreSide(store, store.resolve(feature))
    if path.is_dir() and any(path.glob("*.npy")):
        return NpyFolder(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist.")
    return open_foreign(path, files, feature)


@dataclass(frozen=True)
class ClipRow:
    """How one clip compares. Where the numbers of rows differ, the means over rows are compared.

    Attributes:
        error: Length of the difference over that of the longer vector, 0 to 2; `None` where a value is not finite.
        cosine: `None` also where one side is all zero.
        scale: Length of B over length of A, likewise.
        offset: Mean of B less mean of A.
        rows: Of A and of B.
        nan: Share of values that are not finite.
        zero: Whether all values are zero.
    """

    clip: str
    error: float | None
    cosine: float | None
    scale: float | None
    offset: float | None
    rows: tuple[int, int]
    nan: tuple[float, float]
    zero: tuple[bool, bool]

    def agrees(self, tolerance: float) -> bool:
        """Same number of rows, and values within the tolerance."""
        return self.rows[0] == self.rows[1] and self.error is not None and self.error <= tolerance

    @property
    def broken(self) -> bool:
        """Values that are not finite, or zeros on one side only: nothing that a recipe explains."""
        return any(self.nan) or self.zero[0] != self.zero[1]


def measure(name: str, x: NDArray[Any], y: NDArray[Any]) -> ClipRow:
    """Compare one clip: x of A with y of B.

    Raises:
        UsageError: They are of different widths.
    """
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"A has {x.shape[1]} columns and B has {y.shape[1]} ({name}): these are two features.")
    x, y = x.astype(np.float64), y.astype(np.float64)
    rows = (len(x), len(y))
    nan = (float(1 - np.isfinite(x).mean()), float(1 - np.isfinite(y).mean()))
    zero = (not x.any(), not y.any())
    if any(nan):
        return ClipRow(name, None, None, None, None, rows, nan, zero)
    if rows[0] != rows[1]:
        x, y = x.mean(0), y.mean(0)
    a, b = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    cosine, scale = (float((x * y).sum()) / (a * b), b / a) if a and b else (None, None)
    return ClipRow(name, error_of(x, y), cosine, scale, float(y.mean() - x.mean()), rows, nan, zero)


def error_of(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Length of the difference over that of the longer one; infinite where the shapes differ or a value is."""
    if x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.inf
    longer = max(np.linalg.norm(x), np.linalg.norm(y))
    return float(np.linalg.norm(x - y) / longer) if longer else 0.0


@dataclass(frozen=True)
class Hypothesis:
    """One possible cause, tested.

    Attributes:
        cause: A name in `emo.extract.compare.variants.CAUSES`.
        change: Which side does what, in words.
        evidence: `re-run` or `numbers`.
        clips: Clips it was tested on.
        agrees: Of them, those that agree within the tolerance once the change is made.
        before: Median error without the change; `None` where the shapes differ.
        after: Largest error with it, likewise.
        share: Largest ratio of error after to error before; of what agreed before, 0 if it still does, else `None`.
    """

    cause: str
    change: str
    evidence: str
    clips: int
    agrees: int
    before: float | None = None
    after: float | None = None
    share: float | None = None

    @property
    def explains(self) -> bool:
        """Say whether every clip agrees, and not only because it nearly did before."""
        return self.agrees == self.clips and (self.share is None or self.explains_most)

    @property
    def explains_most(self) -> bool:
        """Say whether most of every difference is gone."""
        return self.share is not None and self.share <= 1 / MOSTLY


def hypothesis(
    cause: str, change: str, evidence: str, before: Sequence[float], after: Sequence[float], tolerance: float
) -> Hypothesis:
    """A hypothesis from the errors of each clip before and after the change."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    agrees = [each <= tolerance for each in after]
    shares = [
        (0.0 if fine else math.inf) if old <= tolerance or math.isinf(old) else new / old
        for old, new, fine in zip(before, after, agrees, strict=True)
    ]
    numbers = (finite(float(np.median(before))), finite(max(after)), finite(max(shares)))
    return Hypothesis(cause, change, evidence, len(after), sum(agrees), *numbers)
