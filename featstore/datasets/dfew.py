"""DFEW: the single-labelled clips in five published folds. The tree is that of its public users."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from emo.featstore.address import Address
from emo.featstore.clip import Label
from emo.featstore.datasets.base import Card, Dataset, LabelledFolder
from emo.featstore.datasets.lists import NAME, Listed, add_rows, two_labels
from emo.featstore.datasets.media import MediaTree
from emo.featstore.datasets.tables import read_table, rows_by_name
from emo.featstore.errors import UsageError
from emo.featstore.labels import DFEW_LABELS
from emo.featstore.text import counted, quoted
from emo.featstore.workspace import DataTable

FOLDS = 5

CARDS = {
    "DFEW": Card(
        name="DFEW",
        about="Clips with seven emotions, the single-labelled part; fold k is test list k. Hold one fold out by "
        "train_splits: [fold2, fold3, fold4, fold5].",
        how_to_get="Its authors give the password by e-mail.",
        tree="EmoLabel_DataSplit/train(single-labeled)/set_1.csv ... set_5.csv   video_name,label (1..7)\n"
        "EmoLabel_DataSplit/test(single-labeled)/set_1.csv ... set_5.csv\n"
        "Clip/original/part_*/                                              <number>.mp4",
        licence="Not recorded here: ask its authors",
        labels=DFEW_LABELS,
    )
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open DFEW as its table says."""
    return Dfew(table, card)


class Dfew(LabelledFolder):
    """Reader of DFEW. A clip is named by its number with five digits, as its frame folders are.

    With all five test lists a clip's split is the fold that tests on it, `fold1` to `fold5`. With fewer, clips of test
    list k are in `test<k>` and the others in `train`, so that nothing that is there to be tested on is trained on.
    """

    folders = ("Clip/original", "Clip", "clips", "video")

    def scan(self, folder: Path) -> MediaTree:
        tree = super().scan(folder)
        files: dict[str, Address] = {}
        double = [id_ for id_, path in tree.files.items() if files.setdefault(_name(id_), path) != path]
        if double:
            are = "is a number" if len(double) == 1 else "are numbers"
            raise UsageError(f"{quoted(double)} in {folder} {are} that another file has too.", "Remove one of them.")
        return replace(tree, files=files, aliases={})

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        folder = self.table.labels or self.table.root / "EmoLabel_DataSplit"
        if not folder.is_dir():
            return {}, [f"{self.table.root} has no EmoLabel_DataSplit: no clip is listed."]
        sets = range(1, FOLDS + 1)
        tests = {k: path for k in sets if (path := folder / "test(single-labeled)" / f"set_{k}.csv").is_file()}
        trains = {k: path for k in sets if (path := folder / "train(single-labeled)" / f"set_{k}.csv").is_file()}
        prefix = "fold" if len(tests) == FOLDS else "test"
        rows: dict[str, Listed] = {}
        differ: list[str] = []
        problems = []
        for k, path in tests.items():
            tested = _read_set(path, f"{prefix}{k}")
            twice = [name for name in tested if name in rows]
            if twice:
                also = "is" if len(twice) == 1 else "are"
                problems.append(
                    f"{counted(len(twice), 'clip')} of {path} {also} in an earlier test list too: {quoted(twice)}."
                )
            differ += add_rows(rows, tested)
            if k in trains and (both := [name for name in _read_set(trains[k], "") if name in tested]):
                are = counted(len(both), "clip is", "clips are")
                problems.append(f"{are} in test list {k} and in train list {k}: {quoted(both)}.")
        for path in trains.values():
            for name, row in _read_set(path, "train").items():
                if rows.setdefault(name, row).label != row.label:
                    differ.append(name)
        problems += two_labels(differ, folder)
        if prefix == "test":
            have = ", ".join(map(str, tests)) or "none"
            problems.append(f"Of the five test lists {have} are there: their clips are test<k>, the others train.")
        return rows, problems


def _name(number: str) -> str:
    """`00001` for `1`; another name stays."""
    return f"{int(number):05d}" if re.fullmatch(r"\d{1,5}", number) else number


def _read_set(path: Path, split: str) -> dict[str, Listed]:
    found = {}
    for name, row in rows_by_name(path, read_table(path, [NAME, "label"])).items():
        label = row.fields["label"]
        if label not in map(str, range(1, len(DFEW_LABELS) + 1)):
            raise UsageError(f"{path} line {row.line}: label {label!r} is not a number from 1 to {len(DFEW_LABELS)}.")
        found[_name(name)] = Listed(split, Label(DFEW_LABELS[int(label) - 1]))
    return found
