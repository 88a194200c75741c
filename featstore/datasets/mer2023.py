"""MER2023: the challenge sets MER-MULTI (test1), MER-NOISE (test2), MER-SEMI (test3), their training corpus, and the
unlabelled pool of MER-SEMI."""

from __future__ import annotations

import re
from pathlib import Path

from emo.featstore.datasets.base import Card, Dataset, LabelledFolder
from emo.featstore.datasets.cells import split_name
from emo.featstore.datasets.lists import Listed, add_rows, listed_file, two_labels
from emo.featstore.labels import MER2023_LABELS
from emo.featstore.workspace import DataTable

_CARD = Card(
    name="MER2023",
    about="Chinese film and television clips with one main speaker, six emotions and valence; test1 is MER-MULTI, "
    "test2 MER-NOISE, test3 MER-SEMI; clips that are there and in no list are the unlabelled pool.",
    how_to_get="Sign the MER2023 end-user licence agreement and ask the challenge organisers; labels and transcripts "
    "are also in the MERTools repository (MERBench).",
    tree="label-6way.npz                    or csv with name,discrete,valence\n"
    "transcription-engchi-polish.csv   or another transcription*.csv\n"
    "clips/ or video/                  <name>.mp4, <name>.avi\n"
    "relative_test3_NCEV.txt           list for `emo score` (optional)",
    licence="MER2023 EULA: research only, no redistribution",
    labels=MER2023_LABELS,
    counts={"train_corpus": 3373, "test1": 411, "test2": 412, "test3": 834, "unlabelled": 73148},
    classes={
        "train_corpus": (871, 822, 689, 383, 462, 146),
        "test1": (88, 105, 93, 50, 57, 18),
        "test2": (123, 98, 87, 40, 52, 12),
        "test3": (166, 183, 169, 257, 45, 14),
    },
)
CARDS = dict.fromkeys(("MER2023-SEMI", "MER2023"), _CARD)  # the same files under both names


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open MER2023 as its table says."""
    return Mer2023(table, card)


class Mer2023(LabelledFolder):
    """Reader of MER2023 in the layouts of MERBench (npz) and of the challenge baseline (csv per split)."""

    transcript_files = ("transcription*engchi*.csv", "transcription*.csv")  # the polished two-language file first
    pool = "unlabelled"

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        listed: dict[str, Listed] = {}
        twice: list[str] = []
        files, problems = self._label_files()
        for path in files:
            rows, differ = listed_file(path, _split_of_file(path), MER2023_LABELS, _split)
            twice += differ + add_rows(listed, rows)
        return listed, problems + two_labels(twice, self.table.root)

    def _label_files(self) -> tuple[list[Path], list[str]]:
        root = self.table.root
        if self.table.labels is not None:
            return [self.table.labels], []
        npz = sorted(root.glob("label*.npz"))
        if npz:
            more = [f"{', '.join(p.name for p in npz)} are there; the first is used, `labels` chooses another."]
            return npz[:1], more if len(npz) > 1 else []
        files = sorted(root.glob("*label*.csv"))
        return files, [] if files else [f"{root} has no label-6way.npz and no *label*.csv: no clip has a label."]


def _split(text: str) -> str:
    """`train_corpus`, `test1`, ...: the training split keeps its full name, as the field writes them."""
    plain = split_name(text)
    return "train_corpus" if plain == "train" else plain


def _split_of_file(path: Path) -> str:
    """Split that a file's name tells: `test1-label.csv`, `train-label.csv`, `relative_test3_NCEV.txt`."""
    match = re.search(r"test[123]|train", path.stem.lower())
    return _split(match[0]) if match else ""
