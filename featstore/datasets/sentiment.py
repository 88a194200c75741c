"""CMU-MOSI, CMU-MOSEI, SIMS and SIMS v2: a valence for each clip, and no emotion word."""

from __future__ import annotations

from dataclasses import replace

from emo.featstore.clip import Label
from emo.featstore.datasets.base import Card, Dataset
from emo.featstore.datasets.lists import Listed
from emo.featstore.datasets.merbench import LABELS_FROM, TRANSCRIPTS, MerBench
from emo.featstore.workspace import DataTable


def _card(name: str, scale: str, media: str, counts: tuple[int, int, int], transcripts: str = TRANSCRIPTS) -> Card:
    return Card(
        name=name,
        about=f"Clips with a valence from {scale}, and no emotion word.",
        how_to_get=f"From its authors; {LABELS_FROM}",
        tree=f"label.npz                         train, val, test\n{transcripts}\n{media:34}<name>.mp4, <name>.wav",
        licence="Not recorded here: ask its authors",
        counts=dict(zip(("train", "val", "test"), counts, strict=True)),
    )


_OWN = "transcription*.csv                your own: MERTools ships none"
CARDS = {
    "CMU-MOSI": _card("CMU-MOSI", "-3 to 3", "subvideo/ or subaudio/", (1284, 229, 686)),
    "CMU-MOSEI": _card("CMU-MOSEI", "-3 to 3", "subvideo/ or subaudio/", (16326, 1871, 4659), _OWN),
    "SIMS": _card("SIMS", "-1 to 1", "video/ or audio/", (1368, 456, 457)),
    "SIMSv2": _card("SIMSv2", "-1 to 1", "video/ or audio/", (2722, 647, 1034)),
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open one of the four sets as its table says."""
    return Sentiment(table, card)


class Sentiment(MerBench):
    """Reader of a set whose npz holds a valence, and 0 in place of an emotion; a clip is named `<video>_<number>`."""

    def meaning(self, name: str, row: Listed) -> Listed:
        label = None if row.label is None else Label(None, row.label.valence)
        video, _, number = name.rpartition("_")
        return replace(row, label=label, written="", dialogue=video if video and number.isdecimal() else None)
