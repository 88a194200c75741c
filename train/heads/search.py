"""Random search as MERBench reports it: draw settings, cross-validate all, take the best, run it six times more.

The ranges are the recipe's `search`. Only held-out folds are looked at; test splits are not scored before the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.page import Table
from emo.featstore.text import counted
from emo.train.features import StreamShape
from emo.train.heads.base import HeadRecipe
from emo.train.metrics.compare import deviation
from emo.train.recipe import head_class, head_names

RUNS = 6  # of the chosen settings, averaged in the end: MERBench/README.md
SHOWN = 20  # rows of the leaderboard on the screen; search.json holds all
NUMBERS = ("f1_weighted", "accuracy", "uar", "combined", "mse")  # of a score, averaged over runs
TITLES = {"f1_weighted": "F1, weighted", "accuracy": "accuracy (WAR)", "uar": "UAR", "mse": "valence MSE"}


@dataclass(frozen=True)
class Draw:
    """Settings to try, the recipe that they make, and the seed of folds, weights, order and dropout."""

    settings: dict[str, Any]
    recipe: HeadRecipe
    seed: int


def check_search(recipe: HeadRecipe, shapes: Sequence[StreamShape] = ()) -> None:
    """Refuse a search that cannot be done; the message says what can.

    Raises:
        UsageError: The head, its streams or the recipe allow none.
    """
    if why := head_class(recipe.head).why_not_searched(shapes):
        able = [name for name in head_names() if head_class(name).why_not_searched(()) is None]
        hint = "Pool them: {name: ..., pool: mean}." if shapes else f"Heads that can: {', '.join(able)}."
        raise UsageError(f"A search trains many heads together. {why}", hint)
    if not getattr(recipe, "search", None):
        raise UsageError("The recipe names nothing to search.", "Add search: {lr: [0.001, 0.0001], ...}.")
    if len(recipe.seeds) > 1:
        raise UsageError("A search counts its seeds from the one that the recipe gives.", "Give one: --set seeds=[0].")


def draw(recipe: Any, count: int) -> list[Draw]:
    """Draw settings from `recipe.search`, as a pure function of the recipe's seed.

    No settings come twice before all have come once. When all have, the next pass is another run of them, under the
    next seed; so N settings and M draws give every setting `M // N` or `M // N + 1` seeds.
    """
    names, (first,) = list(recipe.search), recipe.seeds
    sizes = [len(recipe.search[name]) for name in names]
    rng = np.random.default_rng([first, count])
    draws: list[Draw] = []
    while len(draws) < count:
        seed = first + len(draws) // math.prod(sizes)
        some = min(count - len(draws), math.prod(sizes))
        for place in rng.choice(math.prod(sizes), size=some, replace=False):
            at = np.unravel_index(place, sizes)
            settings = {name: recipe.search[name][int(i)] for name, i in zip(names, at, strict=True)}
            own = type(recipe).model_validate(recipe.model_dump() | settings | {"seeds": (seed,)})
            draws.append(Draw(settings, own, seed))
    return draws


def rank(draws: Sequence[Draw], folds: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> list[dict[str, Any]]:
    """The leaderboard: settings by the mean of their held-out folds, best first.

    Args:
        draws: From `draw`.
        folds: Per draw, one row per fold: `fold`, `best_epoch` and `metric`; `None` instead of both where it diverged.
        metric: Name of the number that decides.

    Raises:
        TrainError: All have diverged.
    """
    board: dict[str, dict[str, Any]] = {}
    for each, rows in zip(draws, folds, strict=True):
        row = board.setdefault(str(each.settings), {"settings": each.settings, "draws": []})
        row["draws"].append({"seed": each.seed, "folds": [dict(fold) for fold in rows]})
    for row in board.values():
        values = [fold[metric] for each in row["draws"] for fold in each["folds"]]
        whole = None not in values  # settings under which a fold diverges are no candidate
        row |= {"mean": float(np.mean(values)) if whole else None, "spread": deviation(values) if whole else None}
        row["models"] = len(values)
    ranked = sorted(board.values(), key=lambda row: math.inf if row["mean"] is None else -row["mean"])
    if ranked[0]["mean"] is None:
        raise all_diverged()
    return [{"rank": place, **row} for place, row in enumerate(ranked, 1)]


def all_diverged() -> TrainError:
    """Return the error that ends a search without a candidate."""
    return TrainError(
        "Training diverged under all settings.",
        "Lower the learning rates of search; or, where the last batch of an epoch has one clip (misa is not finite "
        "then), --set batch_size=... of another size.",
    )


def candidates(search: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a leaderboard whose settings may be trained again, best first.

    A caller whose training diverges sets the row's `again`, why it does, and takes the next; see `choose_again`.
    """
    yield from takewhile(lambda row: row["mean"] is not None, search["configurations"])


def choose_again(search: dict[str, Any]) -> list[str]:
    """Put settings that diverged when they were trained again behind all others, and say so.

    Args:
        search: What search.json holds; its leaderboard, and what was chosen, are changed where a row has `again`. The
            settings behind the last such row are the chosen ones.

    Returns:
        Sentences that must stand beside the result.
    """
    board = search["configurations"]
    if not (again := [row["rank"] for row in board if "again" in row]):
        return []
    search["chosen"] = board[max(again)]["settings"]
    rows = [*(row for row in board if "again" not in row), *(row for row in board if "again" in row)]
    rows.sort(key=lambda row: row["mean"] is None)
    told = [
        f"Settings {_settings(row['settings'])} were better, and diverged when trained again."
        for row in rows
        if "again" in row
    ]
    search["configurations"] = [row | {"rank": place} for place, row in enumerate(rows, 1)]
    return told


def best_of_note(count: int) -> str:
    """Return the sentence that must stand beside a validation score of searched settings."""
    return f"The settings are the best of {counted(count, 'draw')} on the same validation clips."


def average(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of the numbers of several runs, of validation clips and of every other split.

    One run has no standard deviation: it is `None` then.

    Args:
        runs: Per seed `{"seed", "validation": numbers, "splits": {split: numbers}}`, from `numbers_of`.
    """

    def over(many: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
        found = {name: [each[name] for each in many] for name in many[0] if all(name in each for each in many)}
        return {name: {"mean": float(np.mean(v)), "std": deviation(v)} for name, v in found.items()}

    return {
        "seeds": [run["seed"] for run in runs],
        "validation": over([run["validation"] for run in runs]),
        "splits": {split: over([run["splits"][split] for run in runs]) for split in runs[0]["splits"]},
    }


def numbers_of(score: Any) -> dict[str, float]:
    """The numbers of a score that are averaged."""
    return {name: getattr(score, name) for name in NUMBERS if getattr(score, name) is not None}


def search_parts(search: Mapping[str, Any]) -> list[Table | str]:
    """The leaderboard as a table, and what was chosen."""
    board, names = search["configurations"], list(search["ranges"])
    metric = search["select_by"]
    columns = ("rank", *names, metric, "spread", "models")
    rows = []
    for row in board[:SHOWN]:
        diverged = row["mean"] is None or "again" in row
        values = ["diverged", ""] if diverged else [row["mean"], "" if row["spread"] is None else row["spread"]]
        rows.append((row["rank"], *(_plain(row["settings"][name]) for name in names), *values, row["models"]))
    more = f" The first {SHOWN} of {len(board)}; search.json holds all." if len(board) > SHOWN else ""
    chosen = _settings(search["chosen"])
    return [
        Table(f"{search['drawn']} draws of {search['possible']} settings", columns, rows, columns),
        f"{metric}: mean over held-out folds at each fold's best epoch; spread: their sample standard deviation, "
        f"by n - 1.{more}",
        f"Chosen: {chosen}. Trained {RUNS} times more, under seeds that the search has not seen.",
    ]


def average_parts(found: Mapping[str, Any]) -> list[Table | str]:
    """Mean and spread of several runs as a table."""
    sets = {"validation": found["validation"], **found["splits"]}
    names = [name for name in NUMBERS if any(name in numbers for numbers in sets.values())]
    rows = [(split, *(spread_text(n.get(name)) for name in names)) for split, n in sets.items()]
    columns = ("", *(TITLES.get(name, name) for name in names))
    return [Table(f"Mean ± standard deviation of {counted(len(found['seeds']), 'run')}", columns, rows, columns[1:])]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())


def _plain(value: Any) -> str:
    """A setting as people write it: a float here is no score of four digits."""
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    return "none" if value is None else f"{value:g}"


def spread_text(number: Mapping[str, Any] | None, factor: int = 1, digits: int = 4) -> str:
    """Mean and standard deviation of a number over runs, times a factor; of a single run the number alone."""
    if number is None:
        return ""
    spread = "" if number["std"] is None else f" ± {factor * number['std']:.{digits}f}"
    return f"{factor * number['mean']:.{digits}f}{spread}"
