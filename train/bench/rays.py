"""Cells of a bench on a Ray cluster: a cell is a task. What is trained lies in the cells' folders, as without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from emo.featstore.cluster import Crew, Place, telling
from emo.featstore.errors import TrainError
from emo.featstore.workspace import Workspace
from emo.train.bench.cell import cell_folder
from emo.train.bench.recipe import Bench
from emo.train.bench.run import run_bench
from emo.train.bench.setup import Setup, open_bench
from emo.train.device import resolve_device

Say = Callable[[str], None]


@dataclass
class Progress:
    """Counters of a worker."""

    done: int = 0


class Cells:
    """Work of one worker: trains the cells that it is dealt, by the names of their folders.

    Args:
        workspace: At the same path on all machines.
        bench: Its keys.
        name: Of the bench.
        place: Where it is.
    """

    def __init__(self, workspace: Workspace, bench: Bench, name: str, place: Place) -> None:
        self.progress, self._device, self._stopping = Progress(), place.device, False
        self._setup = open_bench(workspace, bench, name, lambda sentence: None)

    def stop(self) -> None:
        """Begin no other cell."""
        self._stopping = True

    def run(self, items: Iterator[str]) -> None:
        """Train cell after cell; one that cannot be trained is found out, and named, by whoever puts all together."""
        self.progress = Progress()
        setup = self._setup
        for folder in items:
            if self._stopping:
                break
            here = next(i for i, cell in enumerate(setup.cells) if cell.folder == folder)
            one = replace(setup, cells=(setup.cells[here],), models=(setup.models[here],))
            run_bench(one, self._device, lambda sentence: None)
            self.progress.done += 1


def train_cells(workspace: Workspace, setup: Setup, address: str, device: str, say: Say) -> None:
    """Have the workers of a cluster train the cells that are not finished.

    Args:
        workspace: Of the bench.
        setup: The bench.
        address: Of the cluster, see `Crew`.
        device: What this machine has: the workers must have the like, because cells name the kind of their device.
        say: Hears how far it is.

    Raises:
        UsageError: There is no such cluster; a cell was begun under other conditions.
        TrainError: A cell made two workers die.
    """

    def left(folders: Sequence[str]) -> list[bool]:
        return [not (setup.folder / "cells" / folder / "metrics.json").exists() for folder in folders]

    named = [cell_folder(setup, cell).name for cell in setup.cells]
    todo = [folder for folder, missing in zip(named, left(named), strict=True) if missing]
    if not todo:
        return
    kind = resolve_device(device).partition(":")[0]
    make = partial(Cells, workspace, setup.bench, setup.name)
    crew = Crew(address, make, left, device=kind, size=1, say=say)
    with telling(lambda: f"{crew.done + sum(each.done for each in crew.live()):,} of {len(todo):,} cells", say):
        _, killers = crew.run(todo)
    if killers:
        raise TrainError(f"Cells that made two workers die: {', '.join(killers)}.", "Run the bench without --ray.")
