"""MER2024: MER-SEMI, MER-NOISE and MER-OV."""

from __future__ import annotations

from emo.train.challenges.base import Challenge, Form, Track, Words
from emo.train.challenges.mer2023 import EMOTION

_TRUTH = "The organisers' truth (reference-semi.csv, reference-noise.csv: name, discrete), whose columns are taken."
_UNSTATED = "No public source states what this track is handed in as."
_CSV = (Form("csv", "submission.csv"),)

MER2024 = Challenge(
    name="mer2024",
    about="MER 2024, at IJCAI: unlabelled clips, noise, open vocabulary.",
    datasets=("MER2024",),
    tracks=(
        Track(
            name="semi",
            also=("track1", "mer-semi"),
            about="Emotion of each clip.",
            columns=(EMOTION,),
            forms=_CSV,
            source=_TRUTH,
            doubts=(_UNSTATED,),
            split="test-semi",
        ),
        Track(
            name="noise",
            also=("track2", "mer-noise"),
            about="Emotion of clips to which noise was added.",
            columns=(EMOTION,),
            forms=_CSV,
            source=_TRUTH,
            doubts=(_UNSTATED,),
            split="test-noise",
        ),
        Track(
            name="ov",
            also=("track3", "mer-ov"),
            about="Any number of words for each clip.",
            columns=(Words("openset"),),
            forms=(Form("csv", "predict-openset.csv"),),
            # main_metric of main-ov.py reads pred_csv; ov_store/predict-openset.csv is its example
            source="MERTools, MER2024: main-ov.py and its example predict-openset.csv.",
            doubts=("How the file is to be handed in is not stated; the organisers' scorer reads this csv.",),
            split="test-ov",
        ),
    ),
)
