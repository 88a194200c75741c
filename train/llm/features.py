"""The cached features of clips, batch by batch, as a family wants them. No torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.train.features import Missing, find_present
from emo.train.llm.family import Wanted


class Features:
    """Utterance vectors in memory, and records of many rows from the store when a batch asks for them.

    Attributes:
        wanted: What each feature is wanted for, in the order of the family.
        specs: Of the features, in the same order.
        names: Clips that can be read, in the order given.
        skipped: Clips that lack a feature, where the policy leaves them out.
        zeroed: Clips that lack a feature, where the policy puts zeros in its place.
    """

    def __init__(self, store: Store | None, wanted: Sequence[Wanted], names: Sequence[str], missing: Missing) -> None:
        """Look everything up, and load the utterance vectors.

        Raises:
            FeatureMissing: A feature is not in the store, or clips lack one and the policy is `error`.
            UsageError: A feature is not of the level that its place needs.
        """
        self.wanted, self.names = tuple(wanted), tuple(names)
        self.specs: tuple[EncoderSpec, ...] = ()
        self.skipped: tuple[str, ...] = ()
        self.zeroed: tuple[str, ...] = ()
        self._store, self._lock = store, threading.Lock()
        if not wanted:
            return
        if store is None:
            raise FeatureMissing("The recipe names features, and there is no store.", "Run emo extract first.")
        self.specs = tuple(_fitting(store.resolve(each.name), each) for each in wanted)
        present, lacking = find_present(store, self.specs, names, missing)
        if lacking and missing == "skip":
            self.skipped, gone = lacking, set(lacking)
            keep = [i for i, name in enumerate(names) if name not in gone]
            self.names, present = tuple(names[i] for i in keep), present[:, keep]
        elif lacking:
            self.zeroed = lacking
        self._row = {name: i for i, name in enumerate(self.names)}
        self._present = present  # (F, N)
        policy: Missing = "zeros" if self.zeroed else "error"
        self._matrices = {
            spec.key: store.utterances(spec.key, self.names, policy)
            for spec in self.specs
            if spec.level == "utt" and self.names
        }
        self._dtype = {spec.key: np.dtype(np.float16) for spec in self.specs}

    def batch(self, names: Sequence[str]) -> list[np.ndarray]:
        """Return one array per feature: `(B, D)` float32, or records `(B, R, D)`, float16 unless that overflows."""
        rows = np.array([self._row[name] for name in names]) if self.specs else np.zeros(0, int)
        found = []
        for spec, present in zip(self.specs, self._present if self.specs else (), strict=True):
            if spec.level == "utt":
                found.append(self._matrices[spec.key][rows])
                continue
            with self._lock:
                try:
                    with np.errstate(over="raise"):
                        found.append(self._records(spec, names, present[rows]))
                except FloatingPointError:  # a segment that was kept as float32 because it does not fit into float16
                    self._dtype[spec.key] = np.dtype(np.float32)
                    found.append(self._records(spec, names, present[rows]))
        return found

    def statistics(self, names: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """Return mean and standard deviation (D,) over clips of each utterance vector; `None` for other features.

        A column that is the same in all clips has the deviation 1. Clips that lack the feature do not count.
        """
        rows = np.array([self._row[name] for name in names])
        found: list[tuple[np.ndarray, np.ndarray] | None] = []
        for spec, present in zip(self.specs, self._present if self.specs else (), strict=True):
            if spec.level != "utt":
                found.append(None)
                continue
            x = self._matrices[spec.key][rows[present[rows]]].astype(np.float64)  # (N, D)
            deviation = x.std(axis=0)
            found.append((x.mean(axis=0), np.where(deviation > 0, deviation, 1.0)))
        return found

    def _records(self, spec: EncoderSpec, names: Sequence[str], has: np.ndarray) -> np.ndarray:
        assert self._store is not None
        out = np.zeros((len(names), spec.rows or 1, spec.dim), self._dtype[spec.key])
        if has.all():
            self._store.read_into(spec.key, list(names), out)
            return out
        for i in np.flatnonzero(has).tolist():
            self._store.read_into(spec.key, [names[i]], out[i : i + 1])
        return out


def _fitting(spec: EncoderSpec, wanted: Wanted) -> EncoderSpec:
    if spec.level != wanted.level:
        raise UsageError(
            f"Feature {wanted.name} is of level {spec.level}, and as {wanted.role} it must be of level {wanted.level}.",
            "Name another feature, or extract this one with --level.",
        )
    if spec.level != "utt" and not spec.rows:
        raise UsageError(
            f"Feature {wanted.name} has another number of rows in every clip, and as {wanted.role} may not."
        )
    return spec
