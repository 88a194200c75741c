"""Train the models of a phase, unit by unit, and keep each unit when it is done. What is recorded is not trained again.

Which models make a unit is decided over all models of the phase, recorded or not, so that a bench that was killed and
one that was not train the same models in the same company.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from emo.train.bench.ledger import Ledger, Record
from emo.train.bench.plan import Member, Phase
from emo.train.heads.base import Epoch, Fold, Head, Job, Units
from emo.train.heads.material import Material, make_measure
from emo.train.heads.objective import Diverged
from emo.train.recipe import head_class

_MAKING = threading.Lock()  # initial weights come from torch's one generator


class _Stopped(Exception):
    """A unit is given up because the bench was interrupted."""


@dataclass
class Shop:
    """Workshop of the models of one cell.

    Attributes:
        material: Clips and features.
        kind: Class of the heads.
        data: What `kind` has prepared.
        device: To compute on.
        ledger: Of the cell.
        threads: Units to train at a time, where the head allows several.
        on_done: Called with the number of models that were trained just now.
        on_kept: Called with the number of models that were trained earlier.
    """

    material: Material
    kind: type[Head]
    device: str
    ledger: Ledger
    threads: int = 1
    on_done: Callable[[int], None] = lambda count: None
    on_kept: Callable[[int], None] = lambda count: None
    data: Any = None
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, material: Material, head: str, device: str, ledger: Ledger, threads: int = 1) -> Shop:
        """Prepare the inputs of a head."""
        kind = head_class(head)
        return cls(material, kind, device, ledger, threads, data=kind.prepare(material.inputs.streams, device))

    def units(self, phase: Phase) -> Units:
        """Say which models of a phase are trained at once."""
        return self.kind.units([self._job(each, phase) for each in phase.members], self.data)

    def train(self, phase: Phase) -> list[Record]:
        """Train what of a phase is not recorded yet.

        Returns:
            The record of every member, in their order.

        Raises:
            EmoError: As `Head.fit`, but for trainings that are not finite, which are recorded.
        """
        before = self.ledger.models  # of this run: a cell whose best settings diverged comes here again
        found = self.ledger.read(phase.name)
        self.on_kept(self.ledger.models - before)
        units = self.units(phase)
        todo = [unit for unit in units.parts if any(_key(phase.members[i]) not in found for i in unit)]
        for unit, records in self._each(phase, todo, self.threads if units.threads else 1):
            found |= {_key(phase.members[i]): record for i, record in zip(unit, records, strict=True)}
        return [found[_key(member)] for member in phase.members]

    def _each(self, phase: Phase, units: Sequence[Sequence[int]], threads: int) -> Any:
        if threads == 1 or len(units) < 2:
            for unit in units:
                yield unit, self.train_unit(phase, unit)
            return
        with ThreadPoolExecutor(threads) as pool:
            jobs = {pool.submit(self.train_unit, phase, unit): unit for unit in units}
            try:
                for job in as_completed(jobs):
                    yield jobs[job], job.result()
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def train_unit(self, phase: Phase, unit: Sequence[int]) -> list[Record]:
        """Train some models together, and keep them."""
        members, start = [phase.members[i] for i in unit], perf_counter()
        try:
            records = self.fit(phase, members)
        except Diverged:
            if not phase.keep:
                raise
            records = [self._alone(phase, member) for member in members]  # which of them it is
        self.ledger.write(phase.name, records, perf_counter() - start, phase.keep)
        self.on_done(len(records))
        return records

    def _alone(self, phase: Phase, member: Member) -> Record:
        try:
            return self.fit(phase, [member])[0]
        except Diverged:
            return Record(member.key, None, None)

    def fit(self, phase: Phase, members: Sequence[Member]) -> list[Record]:
        """Train models as one unit; nothing is kept on disk.

        Raises:
            Diverged: Answers are wanted, and the training of one is not finite.
        """
        best: list[Epoch | None] = [None] * len(members)

        def listen(place: int) -> Callable[[Epoch], None]:
            def on_epoch(epoch: Epoch) -> None:
                if self.stop.is_set():
                    raise _Stopped
                if epoch.best or not math.isfinite(epoch.metric):
                    best[place] = epoch if epoch.best else None

            return on_epoch

        jobs = [self._job(member, phase, listen(i)) for i, member in enumerate(members)]
        with _MAKING:
            heads = [job.make() for job in jobs]
        self.kind.fit_unit(heads, self.data, self.material.targets, [job.fold for job in jobs], phase.keep)
        records = []
        for member, head, epoch in zip(members, heads, best, strict=True):
            answers = {}
            if phase.keep:
                with _MAKING:  # some heads draw while they answer
                    parts = {"val": member.val, "others": self.others(member)}
                    answers = {part: head.predict(self.data, rows) for part, rows in parts.items()}
            where, metric = (None, None) if epoch is None else (epoch.epoch, epoch.metric)
            records.append(Record(member.key, where, metric, answers))
        return records

    def others(self, member: Member) -> np.ndarray:
        """Rows that no model of the cell trains on or is chosen by."""
        rows = self.material.others
        return rows[~np.isin(rows, member.val)]

    def _job(self, member: Member, phase: Phase, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> Job:
        classes, shapes = len(self.material.labels), self.material.shapes
        measure = make_measure(phase.plan.recipe.select_by, self.material.targets, member.val, classes)

        def make() -> Head:
            return self.kind(member.recipe, shapes, classes, phase.plan.valence, self.device, member.head_seed)

        return Job(member.recipe, member.head_seed, Fold(member.train, member.val, measure, on_epoch), make)


def _key(member: Member) -> str:
    return json.dumps(member.key)
