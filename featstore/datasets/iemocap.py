"""IEMOCAP: dialogues in five sessions, with MERBench's choice of four or of six emotions."""

from __future__ import annotations

import re
from dataclasses import replace

from emo.featstore.datasets.base import Card, Dataset
from emo.featstore.datasets.lists import Listed
from emo.featstore.datasets.merbench import LABELS_FROM, TRANSCRIPTS, MerBench
from emo.featstore.workspace import DataTable

# Session, and the speaker's letter, of `Ses01F_impro01_M000`.
_NAME = re.compile(r"((Ses0([1-5]))[FM]_\w+)_([FM])\d+")


def _card(name: str, labels: tuple[str, ...], sessions: tuple[int, ...], classes: tuple[int, ...], about: str) -> Card:
    return Card(
        name=name,
        about=f"Dialogues in five sessions, {about}. Hold a session out by "
        "train_splits: [session1, session2, session3, session4].",
        how_to_get=f"Ask its authors; {LABELS_FROM}",
        tree=f"label_{name[-4:]}.npz                    whole_corpus\n{TRANSCRIPTS}\n"
        "subvideo-tgt/ or subaudio/        <name>.mp4, <name>.wav",
        licence="Not recorded here: ask its authors",
        labels=labels,
        counts={f"session{number}": count for number, count in enumerate(sessions, start=1)},
        classes={"all": classes},
    )


# Index order of MERBench. It names classes 0 to 3 only: 4 and 5 are known by their counts, and by the four-way file,
# where all clips of class 4 are "happy" (which there includes "excited").
CARDS = {
    "IEMOCAP-4way": _card(
        "IEMOCAP-4way",
        ("happy", "sad", "neutral", "angry"),
        (1085, 1023, 1151, 1031, 1241),
        (1636, 1084, 1708, 1103),
        "four emotions (happy includes excited)",
    ),
    "IEMOCAP-6way": _card(
        "IEMOCAP-6way",
        ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
        (1373, 1356, 1569, 1512, 1623),
        (648, 1084, 1708, 1103, 1041, 1849),
        "six emotions",
    ),
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open the four-way or the six-way labels as the table says."""
    return Iemocap(table, card)


class Iemocap(MerBench):
    """Reader of IEMOCAP: a session is a split, a dialogue is the name without its turn, a speaker is a session
    and a letter (`Ses01F`)."""

    @property
    def label_file(self) -> str:  # type: ignore[override]
        return f"label_{self.card.name[-4:]}.npz"

    def meaning(self, name: str, row: Listed) -> Listed:
        found = _NAME.fullmatch(name)
        if found is None:
            return row
        session = f"session{found[3]}"
        return replace(row, split=session, speaker=found[2] + found[4], dialogue=found[1], session=session)
