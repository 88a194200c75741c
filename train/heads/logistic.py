"""Logistic regression over the concatenated features: the baseline that every head has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from emo.featstore.errors import ModelError
from emo.train.features import Stream, StreamShape
from emo.train.heads.base import Epoch, Head, HeadRecipe, Measure, OnEpoch, Outputs, Targets


class LogisticRecipe(HeadRecipe):
    """Keys of scikit-learn's multinomial logistic regression with an L2 penalty."""

    head: Literal["logistic"] = "logistic"
    c: float = Field(default=1.0, gt=0)
    """Inverse strength of the L2 penalty. Type: number. Default: ... (scikit-learn)."""
    max_iter: int = Field(default=1000, ge=1)
    """Most steps of the solver. Type: whole number."""


class Logistic(Head):
    """Standardised inside the fold, then scikit-learn's `LogisticRegression`. Says nothing of valence.

    Its logits are log-probabilities. A class without a clip in the fold's training part gets that of one clip in n + 1,
    instead of minus infinity, so that a mean over folds stays finite.
    """

    Recipe: ClassVar[type[HeadRecipe]] = LogisticRecipe
    fixed = True
    on_device = False

    def __init__(
        self, recipe: Any, shapes: Sequence[StreamShape], classes: int, valence: bool, device: str, seed: int
    ) -> None:
        self.check_shapes(shapes)
        width = sum(shape.dim for shape in shapes)
        self.recipe = recipe
        self._state = {
            "mean": np.zeros(width),
            "scale": np.ones(width),
            "weight": np.zeros((classes, width)),
            "bias": np.zeros(classes),
            "unseen": np.zeros(classes),  # log-probability of a class without training clips, else 0
        }

    @classmethod
    def prepare(cls, streams: Sequence[Stream], device: str) -> np.ndarray:
        return np.concatenate([stream.rows for stream in streams], axis=1).astype(np.float64)  # (N, sum of D)

    def fit(
        self, data: Any, targets: Targets, train: np.ndarray, val: np.ndarray, measure: Measure, on_epoch: OnEpoch
    ) -> int:
        x, y = data[train], targets.emotion[train]
        state, seen = self._state, np.unique(y)
        state["mean"], deviation = x.mean(axis=0), x.std(axis=0)
        state["scale"] = np.where(deviation > 0, deviation, 1.0)
        state["unseen"][:] = -np.log(len(train) + 1)
        state["unseen"][seen] = 0.0
        if len(seen) > 1:
            from sklearn.linear_model import LogisticRegression
            from threadpoolctl import threadpool_limits

            model = LogisticRegression(C=self.recipe.c, max_iter=self.recipe.max_iter)
            with threadpool_limits(1, user_api="blas"):  # its products are small: more threads wait for each other
                model.fit((x - state["mean"]) / state["scale"], y)
            # Two classes share one row of weights: the second class's logit against 0 for the first.
            rows = slice(1, 2) if len(seen) == 2 else slice(None)
            state["weight"][seen[rows]], state["bias"][seen[rows]] = model.coef_, model.intercept_
        on_epoch(Epoch(1, None, measure(self.predict(data, val)), True))
        return 1

    def predict(self, data: Any, rows: np.ndarray) -> Outputs:
        state = self._state
        seen = state["unseen"] == 0
        logits = ((data[rows] - state["mean"]) / state["scale"]) @ state["weight"].T + state["bias"]  # (N, C)
        logits[:, ~seen] = -np.inf
        logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
        logits[:, ~seen] = state["unseen"][~seen]
        return Outputs(logits)

    def state(self) -> dict[str, np.ndarray]:
        return dict(self._state)

    def load(self, state: dict[str, np.ndarray]) -> None:
        own = {key: array.shape for key, array in self._state.items()}
        given = {key: array.shape for key, array in state.items()}
        if own != given:
            raise ModelError(f"The weights do not fit the head: {given}, expected {own}.")
        self._state = {key: np.array(array) for key, array in state.items()}
