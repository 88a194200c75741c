"""Nearest neighbours over the concatenated features: what the features say by themselves, with nothing learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from emo.featstore.errors import ModelError
from emo.featstore.search import nearest_many
from emo.train.features import Stream, StreamShape
from emo.train.heads.base import Epoch, Head, HeadRecipe, Measure, OnEpoch, Outputs, Targets


class KnnRecipe(HeadRecipe):
    """Keys of the k-NN probe."""

    head: Literal["knn"] = "knn"
    k: int = Field(default=20, ge=1)
    """Neighbours that vote. Type: whole number."""
    temperature: float = Field(default=0.07, gt=0)
    """A neighbour's vote weighs exp(cosine / temperature). Type: number. Default: ... (Wu et al. 2018)."""
    standardise: bool = False
    """Bring every column of the inputs to deviation 1 over a fold's training clips; helps where features differ in
    scale, as the cosine then goes by the large ones. Type: true | false.
    """


class Knn(Head):
    """Each neighbour votes for its own class with weight exp(cosine / temperature), as in Wu et al. 2018; faiss.

    Streams are centred on the training clips and brought to unit length one by one, so that none outweighs the others.
    Its logits are log-probabilities; every class has the vote of one neighbour at cosine 0, so none is minus infinity.
    """

    Recipe: ClassVar[type[HeadRecipe]] = KnnRecipe
    fixed = True
    on_device = False
    sample: ClassVar[Mapping[str, Any]] = {"k": 5}

    def __init__(
        self, recipe: Any, shapes: Sequence[StreamShape], classes: int, valence: bool, device: str, seed: int
    ) -> None:
        self.check_shapes(shapes)
        self.recipe, self.classes, self.widths = recipe, classes, [shape.dim for shape in shapes]
        width = sum(self.widths)
        self._state = {
            "mean": np.zeros(width, np.float32),
            "rows": np.zeros((0, width), np.float32),  # of unit length
            "emotion": np.zeros(0, np.int64),
        }
        if recipe.standardise:
            self._state["scale"] = np.ones(width, np.float32)

    @classmethod
    def prepare(cls, streams: Sequence[Stream], device: str) -> np.ndarray:
        return np.concatenate([stream.rows for stream in streams], axis=1).astype(np.float32)  # (N, sum of D)

    def fit(
        self, data: Any, targets: Targets, train: np.ndarray, val: np.ndarray, measure: Measure, on_epoch: OnEpoch
    ) -> int:
        self._state["mean"] = data[train].mean(axis=0)
        if self.recipe.standardise:
            deviation = data[train].std(axis=0, dtype=np.float64)
            self._state["scale"] = np.where(deviation > 0, deviation, 1.0).astype(np.float32)
        self._state["rows"] = self._unit(data[train])
        self._state["emotion"] = targets.emotion[train].astype(np.int64)
        on_epoch(Epoch(1, None, measure(self.predict(data, val)), True))
        return 1

    def predict(self, data: Any, rows: np.ndarray) -> Outputs:
        known, emotion = self._state["rows"], self._state["emotion"]
        votes = np.ones((len(rows), self.classes))
        if len(rows) and len(known):
            cosine, nearest = nearest_many(self._unit(data[rows]), known, self.recipe.k)  # (N, k)
            weight = np.exp(cosine.astype(np.float64) / self.recipe.temperature)
            np.add.at(votes, (np.arange(len(rows))[:, None], emotion[nearest]), weight)
        return Outputs(np.log(votes / votes.sum(axis=1, keepdims=True)))

    def state(self) -> dict[str, np.ndarray]:
        return dict(self._state)

    def load(self, state: dict[str, np.ndarray]) -> None:
        free = ("rows", "emotion")  # as many rows as clips were trained on
        own, given = (
            {key: array.shape[1:] if key in free else array.shape for key, array in each.items()}
            for each in (self._state, state)
        )
        if own != given:
            raise ModelError(f"The weights do not fit the head: {given}, expected {own}.")
        self._state = {key: np.array(array) for key, array in state.items()}

    def _unit(self, data: np.ndarray) -> np.ndarray:
        """Rows `(N, sum of D)` whose cosine is the mean of the streams' cosines."""
        parts = np.split(
            (data - self._state["mean"]) / self._state.get("scale", 1), np.cumsum(self.widths)[:-1], axis=1
        )
        length = np.sqrt(len(parts))
        units = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) / length for part in parts]
        return np.ascontiguousarray(np.concatenate(units, axis=1), dtype=np.float32)
