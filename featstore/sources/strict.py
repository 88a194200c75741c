"""Fit the tensors of a file to those of a model by names and shapes: none is missing, none is left over in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
Reasons = Sequence[tuple[str, str]]  # (regular expression on the whole name, reason)


@dataclass(frozen=True)
class Fit:
    """How a file fits a model.

    Attributes:
        missing: Tensors of the model that the file lacks.
        unexpected: Tensors of the file that the model does not have, and that nothing excuses.
        shapes: Shape in the file and in the model, of each tensor where they differ.
        ignored: Tensors of the file that are rightly left over, with the reason.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    ignored: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Say whether every tensor has its place."""
        return not (self.missing or self.unexpected or self.shapes)

    def problems(self, missing: str, unexpected: str, shape: str) -> list[str]:
        """One phrase per tensor: `x is missing`; `shape` takes the one in the file and the one in the model."""
        phrases = [f"{name} {missing}" for name in self.missing]
        phrases += [f"{name} {unexpected}" for name in self.unexpected]
        return phrases + [f"{name} {shape.format(*both)}" for name, both in self.shapes.items()]


def fit_names(expected: Shapes, found: Shapes, ignore: Reasons = ()) -> Fit:
    """Compare the tensors that a model has with those of a file, renamed to the model's spelling.

    Args:
        expected: Shape by name, of every tensor of the model.
        found: Likewise, of the file.
        ignore: What the file may hold besides, each with a reason.
    """
    over = [name for name in found if name not in expected]
    reasons = {name: next((why for pattern, why in ignore if re.fullmatch(pattern, name)), None) for name in over}
    both = {name: (tuple(found[name]), tuple(shape)) for name, shape in expected.items() if name in found}
    return Fit(
        tuple(name for name in expected if name not in found),
        tuple(name for name in over if reasons[name] is None),
        {name: (a, b) for name, (a, b) in both.items() if a != b},
        {name: why for name, why in reasons.items() if why is not None},
    )
