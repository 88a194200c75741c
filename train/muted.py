"""A store in which some features tell nothing of a clip: what would a run say without the sound?

Features with one row per clip have the mean over all clips of the store in its place, which is what a model that knows
nothing of a clip would expect: zeros can lie far from anything that a run was trained on. Other features have zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.train.features import Missing


class Muted:
    """A store as one question reads it, with some modalities silent.

    Args:
        store: The store.
        features: Of a run, as its run.json has them.
        modalities: What is not there: `audio`, `face`, `frame`, `text`.
    """

    def __init__(self, store: Store, features: Sequence[dict[str, Any]], modalities: Collection[str]) -> None:
        self.path, self._store = store.path, store
        specs = [store.resolve(feature["key"]) for feature in features]
        self._off = {spec.key: spec for spec in specs if spec.modality in modalities}
        self._means: dict[str, np.ndarray] = {}

    def refresh(self) -> None:
        """See what was extracted since."""
        self._store.refresh()

    def resolve(self, name: str, records: bool = False) -> EncoderSpec:
        """Return the feature, or the kind of records, that a name means."""
        return self._store.resolve(name, records=records)

    def records(self, spec: EncoderSpec) -> dict[str, Any]:
        """Return the records of the store by clip."""
        return self._store.records(spec)

    def clip_row(self, clip_id: str) -> tuple[str, str | None, int, int] | None:
        """Return what the store knows of a clip."""
        return self._store.clip_row(clip_id)

    def failures(self) -> Sequence[Any]:
        """Return the failures of the store."""
        return self._store.failures()

    def checksums(self, feature: str | EncoderSpec, clip_ids: Sequence[str]) -> np.ndarray:
        """Return the checksums of the store."""
        return self._store.checksums(feature, clip_ids)

    def has(self, feature: str, clip_ids: Sequence[str]) -> np.ndarray:
        """Return which clips have the feature, bool (N,): one that is off stands for all."""
        return np.ones(len(clip_ids), bool) if feature in self._off else self._store.has(feature, clip_ids)

    def get(self, feature: str, clip_id: str) -> Any:
        """Return the feature of a clip, with nothing in it where it is off."""
        if feature not in self._off:
            return self._store.get(feature, clip_id)
        if self._store.has(feature, [clip_id])[0]:
            found = self._store.get(feature, clip_id)
            return replace(found, array=np.zeros_like(found.array))
        spec = self._off[feature]
        return _Nothing(np.zeros((spec.rows or 1, spec.dim), np.float32))

    def utterances(self, feature: str, clip_ids: Sequence[str], missing: Missing = "error") -> np.ndarray:
        """Return one row per clip `(N, D)`."""
        if feature in self._off:
            return np.repeat(self._mean(feature)[None], len(clip_ids), axis=0)
        return self._store.utterances(feature, clip_ids, missing)

    def read_into(self, feature: str, clip_ids: Sequence[str], out: np.ndarray) -> None:
        """Fill a buffer `(N, T, D)`."""
        if feature in self._off:
            out[:] = self._mean(feature) if self._off[feature].level == "utt" else 0
        else:
            self._store.read_into(feature, clip_ids, out)

    def _mean(self, feature: str) -> np.ndarray:
        if feature not in self._means:
            rows = self._store.utterances(feature, self._store.clips(), "skip")  # (N, D)
            dim = self._off[feature].dim
            self._means[feature] = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(dim)
        return self._means[feature].astype(np.float32)


class _Nothing:
    """A feature of a clip that has none."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
