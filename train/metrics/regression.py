"""Sentiment as a number: what MMSA reports of MOSI, MOSEI and SIMS (its `metricsTop.py`), by the same rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emo.featstore.page import Table
from emo.train.metrics.labels import weighted_f1

# Ends of SIMS's classes: a value belongs to the first interval (low, high] that holds it.
SIMS_ENDS = {2: (-1.01, 0.0, 1.01), 3: (-1.01, -0.1, 0.1, 1.01), 5: (-1.01, -0.7, -0.1, 0.1, 0.7, 1.01)}
Numbers = dict[str, float | None]


def regression(truth: Sequence[float], said: Sequence[float]) -> Numbers:
    """Return the measures of a set by its range: of SIMS where no true value is beyond 1, else of MOSI and MOSEI.

    Of both: mean absolute error and Pearson's correlation (`None` where one side is constant). Of MOSI and MOSEI
    (-3 to 3): accuracy and weighted F1 of two classes, `non-negative` (0 is positive) and `non-zero` (true zeros are
    left out), and the accuracy of values rounded after clipping to 7, 5 and 3 classes. Of SIMS (-1 to 1): accuracies
    of 2, 3 and 5 intervals, and the weighted F1 of the first.

    Args:
        truth: True values, `(N,)`.
        said: Predicted ones, `(N,)`.
    """
    y, x = np.asarray(truth, np.float64), np.asarray(said, np.float64)
    found: Numbers = {"MAE": float(np.abs(x - y).mean()), "Corr": _correlation(x, y)}
    return found | (_sims(y, x) if np.abs(y).max() <= 1 else _mosi(y, x))


def regression_table(truth: Mapping[str, float], said: Mapping[str, float]) -> Table:
    """Table of `regression` over the clips that both have."""
    names = [name for name in truth if name in said]
    y, x = [truth[name] for name in names], [said[name] for name in names]
    of = "SIMS" if max(map(abs, y)) <= 1 else "MOSI and MOSEI"
    rows = [(name, "undefined" if value is None else value) for name, value in regression(y, x).items()]
    return Table(f"As numbers, by the rules for {of} ({len(names):,} clips)", ("", "value"), rows, ("value",))


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else None


def _mosi(y: np.ndarray, x: np.ndarray) -> Numbers:
    real = y != 0
    found: Numbers = {}
    for name, truth, said in (("non-negative", y >= 0, x >= 0), ("non-zero", y[real] > 0, x[real] > 0)):
        found |= _two(truth, said, name)
    for classes in (7, 5, 3):
        half = (classes - 1) / 2
        same = np.round(np.clip(x, -half, half)) == np.round(np.clip(y, -half, half))
        found[f"Acc-{classes}"] = float(same.mean())
    return found


def _sims(y: np.ndarray, x: np.ndarray) -> Numbers:
    y, x = np.clip(y, -1, 1), np.clip(x, -1, 1)
    found: Numbers = {}
    for classes, ends in SIMS_ENDS.items():
        truth, said = (np.searchsorted(ends, each, side="left") for each in (y, x))
        found[f"Acc-{classes}"] = float((truth == said).mean())
        if classes == 2:
            found["F1-2"] = weighted_f1((truth - 1).astype(int), (said - 1).astype(int), 2)
    return found


def _two(truth: np.ndarray, said: np.ndarray, name: str) -> Numbers:
    if not len(truth):
        return {f"Acc-2, {name}": None, f"F1, {name}": None}
    f1 = weighted_f1(truth.astype(int), said.astype(int), 2)
    return {f"Acc-2, {name}": float((truth == said).mean()), f"F1, {name}": f1}
