"""Sources of published lists and annotations: what a message says about one that is missing."""

from __future__ import annotations

from pathlib import Path

EMOTION_LLAMA = "ZebangCheng/Emotion-LLaMA"  # repository on GitHub

# By the beginning of the name. The first by the repository's README, the second by its author in issue 66; of the lists
# for evaluation, whose form issue 2 shows, users asked for a download in issue 108 and got none.
_SOURCES = {
    "MERR_": f"The README of {EMOTION_LLAMA} links it; `emo annotate` makes such files from clips.",
    "MER2023_pseudo_label": f"Issue 66 of {EMOTION_LLAMA} links it.",
    "relative_test3_NCEV": "No download of it is known; label-6way.npz#test3 and the organisers' test3-label.csv name "
    "the same clips.",
}


def where_from(file: str) -> str:
    """Return a sentence that says where a published file comes from; empty where that is not known."""
    name = Path(file).name
    return next((source for begins, source in _SOURCES.items() if name.startswith(begins)), "")
