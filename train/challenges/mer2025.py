"""MER2025: MER-SEMI, MER-FG and MER-DES."""

from __future__ import annotations

from emo.train.challenges.base import Challenge, Form, Text, Track, Words
from emo.train.challenges.mer2023 import EMOTION

LIST = "track_all_candidates.csv"

MER2025 = Challenge(
    name="mer2025",
    about="MER 2025, at ACM Multimedia: emotions, open vocabulary, descriptions.",
    datasets=("MER2025",),
    tracks=(
        Track(
            name="semi",
            also=("track1", "mer-semi"),
            about="Emotion of each clip.",
            columns=(EMOTION,),
            forms=(
                Form("csv", "submission.csv", must="submission.csv"),
                Form("zip", "submission.zip", "submission.csv"),
            ),
            # submission.py writes it, evaluation.py reads it and asks for 20,000 names
            source="MERTools, MER2025_Track1: README.md, submission.py and evaluation.py.",
            clips=LIST,
            split="test-candidates",
            rows=20_000,
        ),
        Track(
            name="fg",
            also=("track2", "mer-fg", "ov", "openset"),
            about="Any number of words for each clip.",
            columns=(Words("openset"),),
            forms=(Form("npz", "submission-openset.npz", must="*-openset.npz"),),
            # README.md: only *-openset.npz is accepted; evaluation.py reads it and asks for 20,000 names
            source="MERTools, MER2025_Track23: README.md and evaluation.py.",
            clips=LIST,
            split="test-candidates",
            rows=20_000,
        ),
        Track(
            name="des",
            also=("track3", "mer-des", "reason"),
            about="A description of each clip's emotion with its evidence.",
            columns=(Text("reason"),),
            forms=(Form("csv", "submission.csv"),),
            source="The organisers' training lists (track3_train_*.csv: name, reason), whose columns are taken.",
            doubts=("No public source states what this track is handed in as.",),
            clips=LIST,
            split="test-candidates",
            rows=20_000,
        ),
    ),
    left_out=dict.fromkeys(
        ("pr", "track4", "mer-pr"), "it scores personality, on data and with a baseline of its own (MER25_personality)."
    ),
)
