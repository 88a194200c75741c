"""Damaged files of features from elsewhere: each is refused in a sentence, or what is not taken is named.

Libraries written in C, C++ and Rust read HDF5, Parquet and safetensors, so a process of its own calls them. The
numbers have no checksum: what is damaged there comes in, as a feature of its own origin, and is counted as `data`.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from damage import LIMIT_S, changed, harm, in_child, try_all

LAYOUTS = ("safetensors", "parquet", "hdf5", "hdf5-packed", "mertools", "records")
SHORT, LONG = 18, 600  # damaged files of each layout
SLOW = {"hdf5": 6, "hdf5-packed": 6}  # a process for each file: so many times fewer


def child(layout: str, folder: Path, trials: int) -> None:
    """Damage an export again and again, and import it."""
    from emo.featstore.interop import find_layout, trial
    from emo.featstore.interop.exporter import export_features
    from emo.featstore.interop.importer import import_features
    from emo.featstore.storage.store import Store
    from emo.featstore.testing import SampleStore

    trial.STALLED_S = LIMIT_S / 2
    source = SampleStore(folder / "source.emo")
    kind = find_layout(layout)
    whole = folder / f"whole{''.join(kind.suffixes[:1])}"
    export_features(source.store, whole, kind, None, source.clips)
    first = Store.create(folder / "first.emo")
    import_features(first, whole, kind)
    truth = content(first)
    path, store = folder / f"damaged{whole.suffix}", folder / "target.emo"

    def damaged(number: int) -> str:
        dice = random.Random(f"{layout} {number}")
        for each in (path, store):
            shutil.rmtree(each, ignore_errors=True)
        path.unlink(missing_ok=True)
        if whole.is_dir():
            shutil.copytree(whole, path)
            return harm(path, dice)
        path.write_bytes(changed(whole.read_bytes(), dice))
        return "changed"

    def once(number: int) -> str:
        target = Store.create(store)
        report = import_features(target, path, kind if number % 2 else None)
        for text in (*report.notes, *(each.sentence for each in report.rejected)):
            text.encode()
        if content(target) == truth:
            return "same"
        return "said" if report.rejected else "data"

    try_all(trials, damaged, once)


def content(store: Any) -> dict[tuple[str, str], Any]:
    """The bytes of all records, by name of the feature and clip."""
    found = {}
    for records in (False, True):
        for spec in [info.spec for info in store.features(records)]:
            for clip in store.clips():
                if store.has(spec, [clip])[0]:
                    value = json.dumps(store.record(spec, clip)) if records else store.get(spec, clip).array.tobytes()
                    found[spec.name, clip] = value
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_features_are_refused_or_what_is_lost_is_said(layout: str, hard: bool, tmp_path: Path) -> None:
    trials = (LONG if hard else SHORT) // SLOW.get(layout, 1)
    ends = in_child(__file__, layout, tmp_path, trials, trials=trials)
    assert ends["refused"] + ends["said"] > trials // 4, ends
    print(f"{layout}: {dict(ends)}")


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
