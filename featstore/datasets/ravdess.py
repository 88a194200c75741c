"""RAVDESS: acted speech whose file names are the labels."""

from __future__ import annotations

import re

from emo.featstore.clip import Label
from emo.featstore.datasets.base import Card, Dataset, LabelledFolder
from emo.featstore.datasets.lists import Listed
from emo.featstore.text import quoted
from emo.featstore.workspace import DataTable

LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # 01..08 of name field 3
ACTORS = 24
_NAME = re.compile(r"\d\d-\d\d-(\d\d)-\d\d-\d\d-\d\d-(\d\d)")

CARDS = {
    "RAVDESS": Card(
        name="RAVDESS",
        about="Sentences spoken by 24 actors with eight emotions; each actor is a split and a speaker. Hold actors out "
        "by train_splits: [actor01, ...].",
        how_to_get="Its authors publish it; the speech files suffice.",
        tree="**/03-01-05-01-02-01-12.wav   or .flac, .mp4; field 3 is the emotion, field 7 the actor",
        licence="CC BY-NC-SA 4.0",
        labels=LABELS,
        counts={f"actor{number:02d}": 60 for number in range(1, ACTORS + 1)},
    )
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open RAVDESS as its table says."""
    return Ravdess(table, card)


class Ravdess(LabelledFolder):
    """Reader of RAVDESS: only files that are there are listed."""

    folders = ()

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        listed: dict[str, Listed] = {}
        strange = []
        for id_ in self._media.files:
            found = _NAME.fullmatch(id_)
            if found and 1 <= int(found[1]) <= len(LABELS) and 1 <= int(found[2]) <= ACTORS:
                actor = f"actor{found[2]}"
                listed[id_] = Listed(actor, Label(LABELS[int(found[1]) - 1]), actor)
            else:
                strange.append(id_)
        problems = [f"{quoted(strange)} has no emotion 01 to 08 and actor 01 to 24 in its name."] if strange else []
        return listed, problems
