"""The mean of what several heads say of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emo.train.heads.base import Outputs


class LogitMean:
    """Mean of raw logits and valence over the models that spoke about each clip."""

    def __init__(self, n: int, classes: int) -> None:
        self.logits = np.zeros((n, classes))
        self.valence = np.full(n, np.nan)
        self.count = np.zeros(n, dtype=np.int64)

    def add(self, rows: np.ndarray, out: Outputs) -> None:
        """Add one model's outputs for `rows`."""
        self.logits[rows] += out.logits
        if out.valence is not None:
            self.valence[rows] = np.where(self.count[rows] == 0, 0.0, self.valence[rows]) + out.valence
        self.count[rows] += 1

    @classmethod
    def over(cls, means: Sequence[LogitMean]) -> LogitMean:
        """All models of several means together."""
        whole = cls(*means[0].logits.shape)
        whole.logits = np.sum([mean.logits for mean in means], axis=0)
        whole.valence = np.sum([mean.valence for mean in means], axis=0)
        whole.count = np.sum([mean.count for mean in means], axis=0)
        return whole

    def row(self, i: int, labels: Sequence[str]) -> dict[str, Any]:
        """Answer, probabilities and valence (where the models gave one) of clip `i`."""
        logits = self.logits[i] / self.count[i]
        probabilities = np.exp(logits - np.logaddexp.reduce(logits))
        row: dict[str, Any] = {"answer": labels[int(logits.argmax())]}
        if not np.isnan(self.valence[i]):
            row["valence"] = float(self.valence[i] / self.count[i])
        return row | {"probabilities": dict(zip(labels, probabilities.tolist(), strict=True))}
