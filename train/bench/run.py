"""Run a bench: cell after cell, what is recorded is not trained again; then the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from emo.featstore.errors import EmoError, TrainError
from emo.featstore.files import write_atomic
from emo.featstore.reading import read_jsonl
from emo.train.bench.cell import cell_folder, run_cell
from emo.train.bench.ledger import Ledger
from emo.train.bench.progress import Meter
from emo.train.bench.recipe import Cell
from emo.train.bench.setup import Setup, identity
from emo.train.bench.work import Shop
from emo.train.device import resolve_device
from emo.train.heads.material import Material, load_material

Say = Callable[[str], None]
FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """Results of the cells of a bench.

    Attributes:
        results: What metrics.json of each cell holds, in the order of the bench.
        seconds: What the models of each took to train, added up over threads.
        models: How many they are.
    """

    results: tuple[dict[str, Any], ...]
    seconds: tuple[float, ...]
    models: tuple[int, ...]


def run_bench(setup: Setup, device: str, say: Say) -> Outcome:
    """Train what is missing of every cell.

    A cell that cannot be trained is named with its reason, and the others go on.

    Raises:
        UsageError: A cell was begun under other conditions.
        KeyboardInterrupt: With a sentence on what is kept.
    """
    device = resolve_device(device)
    setup.folder.mkdir(parents=True, exist_ok=True)
    ledgers, damaged, found = {}, dict[str, TrainError](), dict[str, dict[str, Any]]()
    for cell in setup.cells:
        ledgers[cell.folder] = ledger = Ledger(cell_folder(setup, cell))
        try:
            ledger.begin(identity(setup, cell, device), f"Cell {cell.title} of bench {setup.name}")
        except TrainError as error:
            damaged[cell.folder] = error
    write_atomic(setup.folder / "bench.yaml", setup.bench.to_yaml())
    materials = Materials(setup)
    with single_threads() as threads:
        meter = Meter(setup.cells, setup.models, say, threads)
        for cell in setup.cells:
            ledger = ledgers[cell.folder]
            try:
                if cell.folder in damaged:
                    raise damaged[cell.folder]
                found[cell.folder] = _run_one(setup, cell, ledger, materials, meter, device)
            except KeyboardInterrupt:
                kept = f"{meter.finished:,} of {meter.total:,} models are kept"
                raise KeyboardInterrupt(f"interrupted; {kept}, and the same command goes on") from None
            except EmoError as error:
                why = f"{error.message} {error.hint}".strip()
                say(f"{cell.title}: {why}")
                found[cell.folder] = {"features": cell.features, "head": cell.head, "status": FAILED, "why": why}
            meter.close(cell, ledger.models)
    return Outcome(
        tuple(found[cell.folder] for cell in setup.cells),
        tuple(ledgers[cell.folder].seconds for cell in setup.cells),
        tuple(ledgers[cell.folder].models for cell in setup.cells),
    )


def _run_one(
    setup: Setup, cell: Cell, ledger: Ledger, materials: Materials, meter: Meter, device: str
) -> dict[str, Any]:
    material = materials.of(cell)
    shop = Shop.open(material, cell.recipe.head, device, ledger, meter.threads)

    def on_done(count: int) -> None:
        if ledger.models:
            meter.rates[cell.folder] = ledger.seconds / ledger.models
        meter.add(cell, count)

    shop.on_done, shop.on_kept = on_done, partial(meter.keep, cell)
    return run_cell(setup, cell, material, shop)


class Materials:
    """The features of the last set that was asked for: the heads of a set share them."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.key, self.last = setup, "", None

    def of(self, cell: Cell) -> Material:
        """Return what the models of a cell are trained on."""
        key = json.dumps([choice.model_dump() for choice in cell.recipe.features])
        if self.last is None or key != self.key:
            self.last = None  # before the next is read
            self.last = load_material(self.setup.store, self.setup.clips, self.setup.labels, cell.recipe)
            self.key = key
        return self.last


@contextmanager
def single_threads() -> Iterator[int]:
    """One thread per product, and as many units at a time as there were threads."""
    import torch

    from emo.train.heads.objective import one_thread

    threads = torch.get_num_threads()
    with one_thread():
        yield threads


def read_rows(setup: Setup, cell: Cell) -> list[dict[str, Any]]:
    """Return the predictions of a cell, a row per clip."""
    return [row for _, row in read_jsonl(cell_folder(setup, cell) / "predictions.jsonl")]
