"""The models of a cell: first those of the search, then those of the runs. Who trains on what, under which seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo.featstore.datasets.cells import split_name
from emo.featstore.errors import UsageError
from emo.train.bench.recipe import Protocol
from emo.train.heads.material import Material, Plan, make_plan, plan_notes, resolve_metric
from emo.train.heads.outcome import member_seed
from emo.train.heads.search import Draw, draw


@dataclass(frozen=True)
class Member:
    """One model to train.

    Attributes:
        recipe: Its settings.
        seed: Of the cross-validation that it belongs to.
        fold: Which of its folds is held out.
        train: Rows that it learns.
        val: Rows that choose its epoch.
        drawn: Which settings of the search these are; `None` where there was none.
    """

    recipe: Any
    seed: int
    fold: int
    train: np.ndarray
    val: np.ndarray
    drawn: int | None = None

    @property
    def head_seed(self) -> int:
        """The seed of its weights, order and dropout."""
        return member_seed(self.seed, self.fold)

    @property
    def key(self) -> list[int | None]:
        """Name in records."""
        return [self.drawn, self.seed, self.fold]


@dataclass(frozen=True)
class Phase:
    """Models of one kind: those of the search, of which numbers are kept, or those of the runs, which also answer.

    Attributes:
        name: `search` or `runs`.
        plan: Metric, folds and notes.
        members: In the order in which they are trained.
        keep: Whether their answers are wanted.
    """

    name: str
    plan: Plan
    members: tuple[Member, ...]
    keep: bool


def plan_search(material: Material, recipe: Any, protocol: Protocol) -> tuple[list[Draw], Phase]:
    """Draw the settings of a cell, and say which models try them."""
    draws = draw(recipe, protocol.search or 0)
    plan = make_any_plan(material, recipe.model_copy(update={"seeds": _seeds(draws)}), protocol)
    members = [
        Member(each.recipe, seed, fold, train, val, i)
        for i, each in enumerate(draws)
        for seed, fold, train, val in plan.folds
        if seed == each.seed
    ]
    return draws, Phase("search", plan, tuple(members), keep=False)


def plan_runs(
    material: Material, recipe: Any, protocol: Protocol, draws: Sequence[Draw], drawn: int | None = None
) -> Phase:
    """Say which models the chosen settings train, under seeds that the search has not seen.

    Args:
        material: Clips and features.
        recipe: The chosen settings.
        protocol: How many runs there are.
        draws: Settings that the search has tried.
        drawn: Which of them are chosen.
    """
    first = _seeds(draws)[-1] + 1 if draws else protocol.seed
    recipe = recipe.model_copy(update={"seeds": tuple(range(first, first + protocol.repeats))})
    plan = make_any_plan(material, recipe, protocol)
    members = [Member(plan.recipe, seed, fold, train, val, drawn) for seed, fold, train, val in plan.folds]
    return Phase("runs", plan, tuple(members), keep=True)


def _seeds(draws: Sequence[Draw]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(each.seed for each in draws))


def make_any_plan(material: Material, recipe: Any, protocol: Protocol) -> Plan:
    """Return the folds of every seed, or, where the protocol names splits for it, one hold-out for all of them.

    Raises:
        UsageError: A split to choose by has no labelled clips, or is trained on.
    """
    if not protocol.val_splits:
        return make_plan(material, recipe)
    wanted = {split_name(split) for split in protocol.val_splits}
    val = np.array(
        [
            i
            for i in material.others
            if split_name(material.clips[i].split) in wanted and material.targets.emotion[i] >= 0
        ],
        dtype=np.int64,
    )
    if not len(val):
        raise UsageError(
            f"val_splits: {', '.join(protocol.val_splits)} has no labelled clips apart from training.",
            f"Splits: {', '.join(sorted({clip.split or '(none)' for clip in material.clips}))}.",
        )
    valence = material.targets.valence
    learns = recipe.predicts_valence and bool(np.isfinite(valence[material.train]).any())
    everywhere = learns and bool(np.isfinite(valence[val]).any())
    folds = tuple((seed, 0, material.train, val) for seed in recipe.seeds)
    what = f"Epochs and settings were chosen by {', '.join(protocol.val_splits)} ({len(val)} clips)."
    return Plan(resolve_metric(recipe, everywhere), folds, learns, tuple(plan_notes(material, recipe, folds)), what)
