"""Importing many small .npy files, against reading them once: the same files, alternating, medians, ratio.

python tests/benchmarks/import_npy.py
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import PAGE, alternate, ratios, record, typed

from emo.featstore.interop.importer import import_features
from emo.featstore.storage.store import Store

TITLE = "Import of small .npy files"
DIM = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = work / "features" / "HL-UTT"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(given.files):
            np.save(folder / f"sample_{i:08d}.npy", rng.standard_normal(DIM, np.float32))
        paths = sorted(str(each) for each in folder.iterdir())

        def load() -> None:
            for path in paths:
                np.load(path)

        def read_bytes() -> None:
            for path in paths:
                with open(path, "rb", buffering=0) as file:
                    file.read()

        def take() -> None:
            shutil.rmtree(work / "a.emo", ignore_errors=True)
            report = import_features(Store.create(work / "a.emo"), folder.parent)
            assert report.clips == given.files, report.rejected[:3]

        def resume() -> None:
            assert import_features(Store.open(work / "a.emo"), folder.parent).features[0].present == given.files

        ways: dict[str, Callable[[], None]] = {
            "np.load of every file": load,
            "open and read every file": read_bytes,
            "emo: import into a new store, checked, synced to the disk": take,
            "emo: the same import again, nothing left to do": resume,
        }
        times = alternate(ways, given.rounds)
    rows = []
    for way in ways:
        middle, least, most = ratios(times, way, "np.load of every file")
        rows.append((way, f"{middle:.2f}", f"{least:.2f} to {most:.2f}"))
    words = [
        f"{given.files:,} files of {DIM} float32, warm page cache, {given.rounds} rounds after one that is not "
        "counted, the ways in turn; medians of each round's ratio. Goal: importing at most 1.5 times "
        "reading once."
    ]
    record(TITLE, typed(), [("way", "ratio to np.load", "range of the ratio"), *rows], words, given.page)
    for row in rows:
        print("  ".join(row))


if __name__ == "__main__":
    main()
