"""Base of the sets of MERBench: a label npz by split, one transcript table, folders of cut video and sound."""

from __future__ import annotations

from emo.featstore.datasets.base import LabelledFolder
from emo.featstore.datasets.lists import Listed, listed_file, two_labels

LABELS_FROM = "labels and transcripts are also in the MERTools repository (MERBench/dataset)."
TRANSCRIPTS = "transcription-engchi-polish.csv   name,chinese,english"


class MerBench(LabelledFolder):
    """Reader of a set in the layout of MERBench, whose config.py names the folders."""

    label_file = "label.npz"
    folders = ("subvideo-tgt", "subvideo", "video", "clips", "subaudio", "audio")
    transcript_files = ("transcription*engchi*.csv", "transcription*.csv")

    def meaning(self, name: str, row: Listed) -> Listed:
        """Return the label of a clip from its row."""
        return row

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        path = self.table.labels or self.table.root / self.label_file
        if self.table.labels is None and not path.is_file():
            return {}, [f"{self.table.root} has no {self.label_file}: no clip has a label."]
        rows, differ = listed_file(path, classes=self.card.labels)
        return {name: self.meaning(name, row) for name, row in rows.items()}, two_labels(differ, path)
