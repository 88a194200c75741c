"""MELD: utterances of dialogues, seven emotions."""

from __future__ import annotations

import re
from dataclasses import replace

from emo.featstore.datasets.base import Card, Dataset
from emo.featstore.datasets.cells import cell_text
from emo.featstore.datasets.lists import Listed
from emo.featstore.datasets.merbench import LABELS_FROM, TRANSCRIPTS, MerBench
from emo.featstore.datasets.tables import read_csv
from emo.featstore.workspace import DataTable

# split in a clip's name -> file of the authors that tells its speakers
SPEAKER_FILES = {"train": "train_sent_emo.csv", "val": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}

CARDS = {
    "MELD": Card(
        name="MELD",
        about="Utterances of dialogues, with seven emotions.",
        how_to_get=f"From its authors; {LABELS_FROM}",
        tree=f"label.npz                         train, val, test\n{TRANSCRIPTS}\n"
        "<split>_sent_emo.csv               who speaks: train, dev, test (optional)\n"
        "subvideo/ or subaudio/            <split>_dia<n>_utt<n>.mp4, .wav",
        licence="Not recorded here: ask its authors",
        labels=("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise"),
        counts={"train": 9989, "val": 1109, "test": 2610},
    )
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open MELD as its table says."""
    return Meld(table, card)


class Meld(MerBench):
    """Reader of MELD: the dialogue stands in a clip's name, its speaker in the authors' own csv files."""

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        rows, problems = super().read_listed()
        speakers = self._speakers()
        found = {}
        for name, row in rows.items():
            dialogue = re.fullmatch(r"(.*dia\d+)_utt\d+", name)
            found[name] = replace(row, speaker=speakers.get(name), dialogue=dialogue[1] if dialogue else None)
        return found, problems

    def _speakers(self) -> dict[str, str | None]:
        speakers = {}
        for split, file in SPEAKER_FILES.items():
            if (path := self.find_file(file)) is not None:
                for row in read_csv(path, ["speaker", "dialogue_id", "utterance_id"]):
                    clip = f"{split}_dia{row.fields['dialogue_id']}_utt{row.fields['utterance_id']}"
                    speakers[clip] = cell_text(row.fields["speaker"])
        return speakers
