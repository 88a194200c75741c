"""MER2025 and MER2026: lists over one pool of clips. Files and their sizes are those of the MERTools read-me files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from emo.featstore.datasets.base import Card, Dataset, ListFolder
from emo.featstore.datasets.lists import NAME, Listed, listed_table
from emo.featstore.datasets.tables import normal_name, read_table
from emo.featstore.labels import MER2023_LABELS
from emo.featstore.text import counted, quoted
from emo.featstore.workspace import DataTable

_LICENCE = "Gated, CC BY-NC 4.0, no redistribution"
_MEDIA = (
    "\nsubtitle_chieng.csv                name,chinese,english"
    "\nvideo/, audio/                     <name>.mp4, <name>.wav"
)

CARDS = {
    "MER2025": Card(
        name="MER2025",
        about="Chinese clips with six emotions (track 1), open-vocabulary labels (track 2) and descriptions (track 3); "
        "132,171 clips in all.",
        how_to_get="Hugging Face, MERChallenge/MER2025; access is given on request.",
        tree="track1_train_disdim.csv            name,discrete,valence: train\n"
        "track2_train_ovmerd.csv            name,openset: ovmerd; track3_train_ovmerd.csv name,reason\n"
        "track2_train_mercaptionplus.csv    name,openset: mercaptionplus; track3_... name,reason\n"
        "track_all_candidates.csv           name: test-candidates, whose truth is not given" + _MEDIA,
        licence=_LICENCE,
        labels=MER2023_LABELS,
        counts={"train": 7369, "ovmerd": 332, "mercaptionplus": 31327, "test-candidates": 20000},
    ),
    "MER2026": Card(
        name="MER2026",
        about="New lists over 132,171 clips: the listener's emotion (track 1), open-vocabulary labels (track 2), "
        "preference between two descriptions (track 3).",
        how_to_get="Hugging Face, MERChallenge/MER2026; access is given on request.",
        tree="track1_train.csv                   name,discrete: train\n"
        "track2_train_human.csv             name,openset: human\n"
        "track2_train_mercaptionplus.csv    name,openset: mercaptionplus\n"
        "track3_emoprefer.csv, ...v2.csv    name,a1,a2,preference: emoprefer, emopreferv2\n"
        "track1_track2_candidate.csv        name: test-candidates, whose truth is not given\n"
        "track3_candidate.csv               name,a1,a2: test-prefer, whose truth is not given" + _MEDIA,
        licence=_LICENCE,
        labels=MER2023_LABELS,
        counts={
            "train": 9395,
            "human": 1532,
            "mercaptionplus": 31327,
            "emoprefer": 574,
            "emopreferv2": 2096,
            "test-candidates": 20000,
            "test-prefer": 10000,
        },
    ),
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open MER2025 or MER2026 as its table says."""
    return Mer2026(table, card) if card.name == "MER2026" else Mer2025(table, card)


class Mer2025(ListFolder):
    """Reader of the lists of MER2025. Test lists come first: a clip that they name is not trained on."""

    lists: tuple[tuple[str, str], ...] = (
        ("track1_test_dis.csv", "test-track1"),
        ("track2_test.csv", "test-track2"),
        ("track_all_candidates.csv", "test-candidates"),
        ("track1_train_disdim.csv", "train"),
        ("track2_train_ovmerd.csv", "ovmerd"),
        ("track3_train_ovmerd.csv", "ovmerd"),
        ("track2_train_mercaptionplus.csv", "mercaptionplus"),
        ("track3_train_mercaptionplus.csv", "mercaptionplus"),
    )
    folders = ("video", "clips")
    transcript_files = ("*subtitle_chieng*.csv",)
    pool = "unlabelled"


class Mer2026(Mer2025):
    """Reader of the lists of MER2026."""

    lists = (
        ("track1_test.csv", "test-track1"),
        ("track2_test.csv", "test-track2"),
        ("track1_track2_candidate.csv", "test-candidates"),
        ("track3_candidate.csv", "test-prefer"),
        ("track1_train.csv", "train"),
        ("track2_train_human.csv", "human"),
        ("track2_train_mercaptionplus.csv", "mercaptionplus"),
        ("track3_emoprefer.csv", "emoprefer"),
        ("track3_emopreferv2.csv", "emopreferv2"),
    )

    def read_list(self, path: Path, split: str) -> tuple[dict[str, Listed], list[str]]:
        """Rows of one file; of a clip with several pairs of descriptions (track 3) the first pair, and who they are."""
        if not path.name.startswith("track3_"):
            return super().read_list(path, split)
        counts = Counter(normal_name(row.fields["name"]) for row in read_table(path, [NAME]))
        several = [name for name, count in counts.items() if count > 1]
        have = counted(len(several), "clip has", "clips have")
        told = f"{have} several rows in {path}, of which annotations hold the first: {quoted(several)}."
        rows = listed_table(path, split, label_needed=False, classes=self.card.labels, first=True)
        return rows, [told] if several else []
