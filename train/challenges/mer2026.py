"""MER2026: MER-Cross, MER-FG and MER-Prefer."""

from __future__ import annotations

from emo.train.challenges.base import Challenge, Form, OneOf, Track, Words
from emo.train.challenges.mer2023 import EMOTION

LIST = "track1_track2_candidate.csv"
_ZIP = Form("zip", "answer.zip", "answer.csv")
_UPLOAD = "The organisers' pages do not state what is uploaded; participants' repositories upload answer.zip with"

MER2026 = Challenge(
    name="mer2026",
    about="MER 2026, at ACM Multimedia: the listener's emotion, open vocabulary, preferred descriptions.",
    datasets=("MER2026",),
    tracks=(
        Track(
            name="cross",
            also=("track1", "mer-cross"),
            about="Emotion of the listener in each clip.",
            columns=(EMOTION,),
            forms=(Form("csv", "submission.csv"), _ZIP),
            source="MERTools, MER2026_Track1: submission.py and evaluation.py.",
            doubts=(f"{_UPLOAD} this csv in it as answer.csv: --out answer.zip.",),
            clips=LIST,
            split="test-candidates",
            rows=20_000,
        ),
        Track(
            name="fg",
            also=("track2", "mer-fg", "ov", "openset"),
            about="Any number of words for each clip.",
            columns=(Words("openset"),),
            forms=(Form("npz", "submission-openset.npz", must="*-openset.npz"), Form("csv", "answer.csv"), _ZIP),
            source="MERTools, MER2026_Track2: evaluation.py, which reads *-openset.npz.",
            doubts=(f"{_UPLOAD} answer.csv (name, openset) in it: --out answer.zip.",),
            clips=LIST,
            split="test-candidates",
            rows=20_000,
        ),
        Track(
            name="prefer",
            also=("track3", "mer-prefer", "preference"),
            about="Which of two descriptions of a clip people prefer.",
            columns=(OneOf("preference", labels=("a1", "a2")),),
            forms=(Form("csv", "answer.csv"), _ZIP),
            source="The organisers' training lists (track3_emoprefer*.csv: name, a1, a2, preference), whose columns "
            "are taken; a1 and a2 are the two classes that MER2026_Track3 scores.",
            doubts=(f"{_UPLOAD} answer.csv of these columns in it: --out answer.zip.",),
            clips="track3_candidate.csv",
            split="test-prefer",
            rows=10_000,
            carried=("a1", "a2"),
        ),
    ),
    left_out=dict.fromkeys(
        ("ps", "track4", "mer-ps"), "it is about physiological signals, on data and with a baseline of its own."
    ),
)
