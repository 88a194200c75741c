"""How many models a bench trains, and about how long that takes: from recorded times, or from a few timed steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from emo.featstore.page import Page, Table, span_text
from emo.featstore.text import counted
from emo.train.bench.cell import cell_folder
from emo.train.bench.ledger import Ledger
from emo.train.bench.plan import Member, Phase, plan_runs, plan_search
from emo.train.bench.recipe import Cell
from emo.train.bench.run import Materials, single_threads
from emo.train.bench.setup import Setup, identity, searched
from emo.train.bench.work import Shop
from emo.train.device import resolve_device

STEPS = 2  # of a training that are timed
UNITS = 4  # of a cell that are timed, evenly spread over its settings
PATIENCE_S = 5.0  # of timing one cell: after that, the units that were timed must do
SLOW_S = 1.0  # of two steps: such a unit is not trained twice for what is slow only once
COLUMNS = ("features", "head", "models", "done", "about", "from")


def estimate_page(setup: Setup, device: str, say: Callable[[str], None] = lambda text: None) -> Page:
    """Count the models that are left, and estimate their time; no file of the bench is written.

    Args:
        setup: The bench.
        device: auto, cpu or cuda.
        say: Hears which cell is timed, as that may take a while.

    Raises:
        UsageError: A cell was begun under other conditions.
    """
    device, materials = resolve_device(device), Materials(setup)
    rows, value = [], []
    with single_threads() as threads:
        for cell, models in zip(setup.cells, setup.models, strict=True):
            ledger = Ledger(cell_folder(setup, cell))
            ledger.check(identity(setup, cell, device), f"Cell {cell.title} of bench {setup.name}")
            done = len(ledger.read("search")) + len(ledger.read("runs"))
            if done:
                seconds, basis = ledger.seconds / ledger.models * max(0, models - done), "recorded times"
            else:
                place = f"cell {len(rows) + 1} of {len(setup.cells)}"
                say(f"timing a few steps of {cell.title}: {place}, {models:,} models")
                seconds, basis = _timed(setup, cell, materials, device)
            told = {"features": cell.features, "head": cell.head, "models": models, "done": done}
            rows.append((*told.values(), span_text(seconds), basis))
            value.append(told | {"seconds": round(seconds, 1), "from": basis})
    parts: list[Table | str] = [Table(f"Bench {setup.name}", COLUMNS, rows, COLUMNS[2:5])]
    parts += [f"Left out: {cell.title}: {why}." for cell, why in setup.left_out]
    left = sum(each["models"] - each["done"] for each in value)
    total = sum(each["seconds"] for each in value)
    parts.append(
        f"Times are estimates, of one thread: a few units of each cell, timed over {STEPS} steps, or what models took "
        f"before. The whole is divided by {counted(threads, 'thread')}."
    )
    verdict = f"{left:,} of {sum(setup.models):,} models to train, about {span_text(total / threads)} (an estimate)."
    whole = {"models": sum(setup.models), "left": left, "seconds": round(total / threads, 1), "threads": threads}
    return Page(whole | {"cells": value}, parts, verdict)


def _timed(setup: Setup, cell: Cell, materials: Materials, device: str) -> tuple[float, str]:
    """Seconds that one thread would take for a cell, and from what."""
    shop = Shop.open(materials.of(cell), cell.recipe.head, device, Ledger(cell_folder(setup, cell)))
    protocol, material = setup.bench.protocol, shop.material
    if not searched(setup.bench, cell.recipe):
        return phase_s(shop, plan_runs(material, cell.recipe, protocol, []))
    draws, phase = plan_search(material, cell.recipe, protocol)
    runs = len(plan_runs(material, cell.recipe, protocol, draws).members)
    # Which settings will be chosen is not known: a model of the runs costs what one of the search does.
    seconds, basis = phase_s(shop, phase)
    return seconds * (1 + runs / len(phase.members)), basis


def phase_s(shop: Shop, phase: Phase, clock: Callable[[], float] = perf_counter) -> tuple[float, str]:
    """Estimate the seconds of a phase from a few of its units, as many as patience allows; and say from how many."""
    parts, start = shop.units(phase).parts, clock()
    count = min(UNITS, len(parts))
    each: list[float] = []
    for i in sorted(range(count), key=lambda i: abs(2 * i + 1 - count)):  # the middle first
        unit = parts[(2 * i + 1) * len(parts) // (2 * count)]  # from the middle of each part
        each.append(unit_s(shop, phase, unit, clock=clock) / len(unit))
        if clock() - start > PATIENCE_S:
            break
    basis = "timed steps" if len(each) == count else f"timed steps, {len(each)} of {count} units"
    return sum(each) / len(each) * len(phase.members), basis


def unit_s(
    shop: Shop, phase: Phase, unit: Sequence[int], warm: bool = True, clock: Callable[[], float] = perf_counter
) -> float:
    """Estimate the seconds of a unit: of its making, and of a few steps multiplied to its epochs and clips.

    Of a head without epochs the whole training is timed.

    Args:
        shop: Workshop of the cell.
        phase: The models.
        unit: Numbers of those that make the unit.
        warm: Train once before the clock counts, for what is slow only once.
        clock: Seconds that count.
    """
    members = [phase.members[i] for i in unit]
    recipe: Any = members[0].recipe
    if recipe.passes is None:
        return _fit_s(shop, phase, members, clock)
    clips = len(members[0].train)
    some = min(clips, STEPS * recipe.batch_size)

    def few(epochs: int) -> list[Member]:
        return [
            replace(
                each,
                recipe=each.recipe.model_copy(update={"epochs": epochs}),
                train=each.train[:some],
                val=each.val[: max(1, len(each.val) * some // clips)],
            )
            for each in members
        ]

    one = _fit_s(shop, phase, few(1), clock) if warm else 0.0
    if one < SLOW_S:
        one = _fit_s(shop, phase, few(1), clock)
    more = 2 if one < SLOW_S else 1  # epochs
    epoch = max(_fit_s(shop, phase, few(1 + more), clock) - one, 0.1 * one) / more
    return max(one - epoch, 0.0) + epoch * clips / some * recipe.passes


def _fit_s(shop: Shop, phase: Phase, members: Sequence[Member], clock: Callable[[], float]) -> float:
    start = clock()
    shop.fit(replace(phase, keep=False), members)
    return clock() - start
