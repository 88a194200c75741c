"""MER2023: MER-MULTI, MER-NOISE and MER-SEMI."""

from __future__ import annotations

from emo.featstore.labels import MER2023_LABELS
from emo.train.challenges.base import Challenge, Form, Number, OneOf, Track

EMOTION = OneOf("discrete", labels=MER2023_LABELS)
# MERTools, MER2023/README.md ("submission format") and main-release.py: write_to_csv_pred and
# report_results_on_test1_test2; report_results_on_test3 reads name and discrete only, and takes more clips than it
# scores.
_SOURCE = "MERTools, MER2023: README.md and write_to_csv_pred of main-release.py."
_FILE = "How the file is to be called is not stated."
_BOTH = (EMOTION, Number("valence"))
_CSV = (Form("csv", "submission.csv"),)

MER2023 = Challenge(
    name="mer2023",
    about="MER 2023, at ACM Multimedia: emotion and valence, noise, unlabelled clips.",
    datasets=("MER2023", "MER2023-SEMI"),
    tracks=(
        Track(
            name="multi",
            also=("track1", "mer-multi", "test1"),
            about="Emotion and valence of each clip.",
            columns=_BOTH,
            forms=_CSV,
            source=_SOURCE,
            doubts=(_FILE,),
            split="test1",
            rows=411,
        ),
        Track(
            name="noise",
            also=("track2", "mer-noise", "test2"),
            about="The same of clips to which noise was added.",
            columns=_BOTH,
            forms=_CSV,
            source=_SOURCE,
            doubts=(_FILE,),
            split="test2",
            rows=412,
        ),
        Track(
            name="semi",
            also=("track3", "mer-semi", "test3"),
            about="Emotion of each clip; the valence that the baseline writes too is not scored.",
            columns=(EMOTION, Number("valence", optional=True)),
            forms=_CSV,
            source=_SOURCE,
            doubts=(_FILE, "Which clips are to be in it is not stated: 834 of them were scored."),
            split="test3",
            more=True,
        ),
    ),
)
