"""Records of what is trained: a file per unit, which is whole or absent. A cell's folder says whose models these are.

```
CELL/identity.json            what decides what the models learn
CELL/search/<digest>.json     the models of a unit: settings, seed, fold, best epoch, metric; seconds that they took
CELL/runs/<digest>.safetensors  the same, and what each says of every clip that it did not train on
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import digest, write_atomic, write_json
from emo.featstore.reading import parse_own, read_bytes
from emo.train.heads.base import Outputs

PARTS = ("val", "others")  # the rows that chose a model's epoch, and those that no model trains on


@dataclass(frozen=True)
class Record:
    """One trained model.

    Attributes:
        key: Settings drawn, seed and fold.
        best_epoch: `None` where its training was not finite.
        metric: Likewise.
        answers: By part, of the models of the runs that were finite.
    """

    key: list[int | None]
    best_epoch: int | None
    metric: float | None
    answers: Mapping[str, Outputs] = field(default_factory=dict)


@dataclass
class Ledger:
    """The records of one cell.

    Attributes:
        folder: Of the cell.
    """

    folder: Path
    _counted: dict[Path, tuple[int, float]] = field(default_factory=dict)  # models and seconds of each file, once

    @property
    def models(self) -> int:
        """Recorded models, of the phases that were read or written."""
        return sum(models for models, _ in self._counted.values())

    @property
    def seconds(self) -> float:
        """Seconds that they have taken."""
        return sum(seconds for _, seconds in self._counted.values())

    def begin(self, identity: Mapping[str, Any], where: str) -> None:
        """Write down what decides what the models learn, or compare it with what was written.

        Raises:
            UsageError: As `check`.
        """
        self.check(identity, where)
        path = self.folder / "identity.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, identity)

    def check(self, identity: Mapping[str, Any], where: str) -> None:
        """Compare what decides what the models learn with what was written, if anything was.

        Raises:
            UsageError: The cell was begun under other conditions; their names are given.
            TrainError: What was written is damaged.
        """
        path = self.folder / "identity.json"
        if not path.exists():
            return
        try:
            before = parse_own(read_bytes(path), str(path))
        except UsageError as error:
            hint = f"Remove {self.folder}; its models are trained again."
            raise TrainError(f"{path} is damaged: {error.message}", hint) from error
        now = parse_own(json.dumps(identity), str(path))
        if differ := [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]:
            raise UsageError(
                f"{where} was begun under other conditions: {', '.join(differ)} changed.",
                f"Give the bench another name (--name), or remove {self.folder}.",
            )

    def read(self, phase: str) -> dict[str, Record]:
        """Return the records of a phase by the model's key as JSON; they count from then on, each once.

        Raises:
            TrainError: A record is damaged.
        """
        found: dict[str, Record] = {}
        for path in sorted((self.folder / phase).glob("[!.]*")):
            try:
                table, arrays = _read(path)
                records = [_record(row, i, arrays) for i, row in enumerate(table["models"])]
                seconds = float(table["seconds"])
            except (OSError, ValueError, KeyError, TypeError, SafetensorError, UsageError) as error:
                what = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
                raise TrainError(f"{path} is damaged: {what}.", "Remove it; its models are trained again.") from error
            found |= {json.dumps(record.key): record for record in records}
            self._counted[path] = (len(records), seconds)
        return found

    def write(self, phase: str, records: Sequence[Record], seconds: float, keep: bool) -> None:
        """Keep the models of a unit."""
        rows = [{"key": each.key, "best_epoch": each.best_epoch, "metric": each.metric} for each in records]
        table = json.dumps({"models": rows, "seconds": round(seconds, 4)})
        name = digest(json.dumps([each.key for each in records]).encode())
        path = self.folder / phase / f"{name}.{'safetensors' if keep else 'json'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not keep:
            write_json(path, {"record": table, "digest": _digest(table, {})})
        else:
            arrays = {}
            for i, each in enumerate(records):
                for part, out in each.answers.items():
                    arrays[f"{i}.{part}.logits"] = np.ascontiguousarray(out.logits)
                    if out.valence is not None:
                        arrays[f"{i}.{part}.valence"] = np.ascontiguousarray(out.valence)
            notes = {"record": table, "digest": _digest(table, arrays)}
            write_atomic(path, save(arrays, notes))
        self._counted[path] = (len(records), seconds)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {}
    if path.suffix == ".json":
        notes = parse_own(read_bytes(path), str(path))
    else:
        with safe_open(path, "numpy") as file:
            notes = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if notes["digest"] != _digest(notes["record"], arrays):
        raise ValueError("it is not what was written")
    return parse_own(notes["record"], str(path)), arrays


def _digest(table: str, arrays: Mapping[str, np.ndarray]) -> str:
    parts = [table.encode(), *(name.encode() + arrays[name].tobytes() for name in sorted(arrays))]
    return digest(b"".join(parts))


def _record(row: Mapping[str, Any], i: int, arrays: Mapping[str, np.ndarray]) -> Record:
    answers = {
        part: Outputs(arrays[f"{i}.{part}.logits"], arrays.get(f"{i}.{part}.valence"))
        for part in PARTS
        if f"{i}.{part}.logits" in arrays
    }
    return Record(row["key"], row["best_epoch"], row["metric"], answers)
