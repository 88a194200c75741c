"""MER2024: SEMI, NOISE and open vocabulary (OV), beside their common training list.

The names of the lists are those of MERTools (MER2024/ov_store, toolkit/preprocess/mer2024.py) and of public users of
the released truth (reference-semi.csv, reference-noise.csv: name, discrete).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emo.featstore.datasets.base import Card, Dataset, ListFolder
from emo.featstore.datasets.cells import split_name
from emo.featstore.datasets.lists import Listed, listed_file
from emo.featstore.labels import MER2023_LABELS
from emo.featstore.text import counted
from emo.featstore.workspace import DataTable

CARDS = {
    "MER2024": Card(
        name="MER2024",
        about="Chinese clips: six emotions (test-semi, test-noise) and open-vocabulary labels "
        "(test-ov, whose clips may also be in the training list).",
        how_to_get="Sign the MER2024 end-user licence agreement and ask the challenge organisers; the open-vocabulary "
        "truth is also in the MERTools repository (MER2024/ov_store).",
        tree="label-disdim.csv              name,discrete,valence: train; or label-6way.npz\n"
        "reference-semi.csv            name,discrete: test-semi (optional)\n"
        "reference-noise.csv           name,discrete: test-noise (optional)\n"
        "check-openset.csv             name,openset: test-ov (optional)\n"
        "transcription-merge.csv       or another *transcription*.csv\n"
        "video*/ or clips/             <name>.mp4, <name>.avi",
        licence="MER2024 EULA: academic research only, no redistribution",
        labels=MER2023_LABELS,
        counts={"train": 5030, "test-ov": 332},
    )
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open MER2024 as its table says."""
    return Mer2024(table, card)


class Mer2024(ListFolder):
    """Reader of the lists of MER2024."""

    lists = (
        ("reference-semi.csv", "test-semi"),
        ("reference-noise.csv", "test-noise"),
        ("label-disdim.csv", "train"),
        ("label-6way.npz", "train"),
        ("check-openset.csv", "test-ov"),
        ("final-openset-english.csv", "test-ov"),
    )
    folders = ("clips", "video")  # else the root, where the challenge's video-labeled/ and video-unlabeled*/ are
    transcript_files = ("transcription-merge.csv", "*transcription*.csv")
    pool = "unlabelled"

    def read_list(self, path: Path, split: str) -> tuple[dict[str, Listed], list[str]]:
        if path.suffix.lower() != ".npz":
            return super().read_list(path, split)
        rows, differ = listed_file(path, split, MER2023_LABELS, split_name)
        have = counted(len(differ), "clip has", "clips have")
        problems = [f"{have} two different labels in {path}."] if differ else []
        test = {name: row for name, row in rows.items() if row.split == "test1"}
        if test and {row.label.emotion for row in test.values() if row.label} == {"neutral"}:
            # MERTools writes "neutral" where the challenge gives no truth
            rows |= {name: replace(row, label=None, split="test-candidates") for name, row in test.items()}
            problems.append(f"test1 of {path} calls all its {len(test):,} clips neutral, which is no truth: not read.")
        return rows, problems
