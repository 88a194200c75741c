"""Validation during a training: what the model answers about the clips that choose the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emo.featstore.clip import Label
from emo.train.answers import Prediction
from emo.train.llm.data import Example
from emo.train.llm.distributed import World
from emo.train.llm.features import Features
from emo.train.llm.model import TunedModel
from emo.train.llm.predict import predict
from emo.train.llm.recipe import TuneRecipe
from emo.train.metrics.labels import Score, score


@dataclass
class Validation:
    """The validation clips, and what has been measured on them so far.

    Attributes:
        examples: Clips with a label; may be none.
        recipe: Names the metric and the way of answering.
        best: `{"step", "value"}` of the best validation so far.
        history: All validations so far.
    """

    examples: Sequence[Example]
    recipe: TuneRecipe
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def measure(
        self, step: int, model: TunedModel, features: Features, world: World, sharded: bool
    ) -> tuple[list[dict[str, Any]], bool, float]:
        """Return the answers at a step, whether it is the best so far, and the value that says so."""
        # Every process must make all passes of a sharded model; the first one's answers are then everybody's.
        mine = self.examples if sharded else self.examples[world.rank :: world.size]
        rows = predict(model, features, mine, self.recipe, self.recipe.validation.answers)
        rows = world.gather([] if sharded and world.rank else rows)
        rows.sort(key=lambda row: row["name"])
        metric = self.recipe.validation.metric
        value = float(getattr(self.score(rows), metric))
        best = self.best is None or value > self.best["value"]
        self.history.append({"step": step, metric: value})
        if best:
            self.best = {"step": step, "value": value}
        return rows, best, value

    def score(self, rows: Sequence[Mapping[str, Any]]) -> Score:
        """Return the score of answers to the validation clips."""
        truth = {example.name: Label(example.label) for example in self.examples}
        said = {row["name"]: Prediction(row["answer"], None, row.get("probabilities")) for row in rows}
        return score(truth, said, self.recipe.validation.answers, self.recipe.scored)
