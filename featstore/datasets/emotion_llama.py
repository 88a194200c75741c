"""The tree that Emotion-LLaMA trains from, as a dataset: lists, transcripts, and the first frame of each clip."""

from __future__ import annotations

import re
from pathlib import Path

from emo.featstore.datasets.base import Card, Dataset, LabelledFolder
from emo.featstore.datasets.lists import Listed, add_rows, listed_file, two_labels
from emo.featstore.datasets.media import MediaTree, scan_media
from emo.featstore.errors import UsageError
from emo.featstore.workspace import DataTable

FRAMES = "first_frames"  # folders of pictures, with or without the dataset's name behind
LIST_END = "_NCEV"  # of the names of its lists
LIST_ENDS = (LIST_END, "_NCE")  # the latter of lists without a valence
ALL = ("all", "all_label")  # names of lists of all clips, which tell no split
TESTS = {"MER2024-noise": "test-noise", "EMER": "test-emer"}  # lists that are evaluated on, whose names do not say so

CARDS = {
    "emotion-llama": Card(
        name="emotion-llama",
        about="The tree that Emotion-LLaMA trains from: features (`emo store import`), label lists, transcripts, and "
        "the first frame of each clip as a picture, from which EVA tokens are computed.",
        how_to_get="features_of_MER2023-SEMI of the Emotion-LLaMA repository; or `emo store export tree --layout "
        "emotion-llama --dataset NAME`.",
        tree="*_NCEV.txt, *_NCE.txt       name frames emotion [valence]; a list per split, which its file name tells\n"
        "transcription_en_all.csv    name,sentence\n"
        "first_frames*/              <name>.png, .jpg; or clips/ with the clips themselves",
        licence="That of the clips",
    )
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open such a tree as its table says."""
    return EmotionLlama(table, card)


class EmotionLlama(LabelledFolder):
    """Reader of the tree, or of a folder that holds it as `features_of_*`."""

    transcript_files = ("transcription_en*.csv", "transcription*.csv", "features_of_*/transcription_en*.csv")

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        files = [self.table.labels] if self.table.labels is not None else self._lists()
        listed: dict[str, Listed] = {}
        differ: list[str] = []
        for path in files:
            try:
                rows, twice = listed_file(path, split_of(path), rename=str)
            except UsageError:
                if path.stem.endswith(LIST_ENDS) or path == self.table.labels:
                    raise
                continue  # some other text
            if not split_of(path):  # what it holds beside the other lists
                differ += [name for name, row in rows.items() if name in listed and row.label != listed[name].label]
                rows = {name: row for name, row in rows.items() if name not in listed}
            differ += twice + add_rows(listed, rows)
        problems = two_labels(differ, self.table.root)
        return listed, problems if listed else [
            *problems,
            f"{self.table.root} has no *{LIST_END}.txt: no clip has a label.",
        ]

    def _lists(self) -> list[Path]:
        """Return the lists in the order in which they count: of splits, of all clips, then others (pseudo labels)."""
        root = self.table.root
        found = list(root.glob("*.txt")) or list(root.glob("features_of_*/*.txt"))
        return sorted(found, key=lambda path: (not path.stem.endswith(LIST_ENDS), not split_of(path), path))

    def media_folder(self) -> Path:
        root = self.table.root
        pictures = [
            each for pattern in (f"{FRAMES}*", f"features_of_*/{FRAMES}*") for each in sorted(root.glob(pattern))
        ]
        there = super().media_folder()
        return there if there != root else next((each for each in pictures if each.is_dir()), root)

    def scan(self, folder: Path) -> MediaTree:
        return scan_media(folder, pictures=True)


def split_of(path: Path) -> str:
    """Split that the name of a list tells: `test3` of `relative_test3_NCEV.txt`; none of `all_label_NCEV.txt`."""
    split = re.sub(rf"^relative_|({'|'.join(LIST_ENDS)})$", "", path.stem)
    return "" if split in ALL else TESTS.get(split, split)
