"""MELD: utterances of dialogues, seven emotions."""

from __future__ import annotations

from emo.featstore.datasets.base import Card, Dataset
from emo.featstore.datasets.merbench import LABELS_FROM, TRANSCRIPTS, MerBench
from emo.featstore.workspace import DataTable

CARDS = {
    "MELD": Card(
        name="MELD",
        about="Utterances of dialogues, with seven emotions.",
        how_to_get=f"From its authors; {LABELS_FROM}",
        tree=f"label.npz                         train, val, test\n{TRANSCRIPTS}\n"
        "subvideo/ or subaudio/            <split>_dia<n>_utt<n>.mp4, .wav",
        licence="Not recorded here: ask its authors",
        labels=("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise"),
        counts={"train": 9989, "val": 1109, "test": 2610},
    )
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open MELD as its table says."""
    return MerBench(table, card)
