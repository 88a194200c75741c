"""Negated words are no answers; what the rule still gets wrong is listed and counted."""

from __future__ import annotations

import pytest

from emo.featstore.labels import MER2023_LABELS
from emo.train.metrics.labels import parse_nearest

READ = {  # answers of the kind that language models give -> what a person reads in them
    "The person is happy, not sad.": "happy",
    "He is sad rather than angry.": "sad",
    "She looks angry and not at all neutral.": "angry",
    "Neutral; I see no sign of being worried.": "neutral",
    "worried, not surprised": "worried",
    "surprise, and not happy": "surprise",
    "not happy": None,
    "Not happy but sad": "sad",
    "The emotion is not happy, but sad.": "sad",
    "He isn't angry, he is sad.": "sad",
    "She doesn’t look angry. She looks sad.": "sad",
    "neither happy nor sad": None,
    "He is angry without being sad": "angry",
    "angry instead of sad": "angry",
    "Instead of anger he shows sadness": "sad",
    "no anger, fear or sadness": None,
    "He is calm, with no anger, fear, or sadness.": "neutral",
    "No signs of anger and fear, she is happy": "happy",
    "She is not only happy but also surprised": "surprise",
    "He is not just sad": "sad",
    "No doubt he is angry": "angry",
    "without a doubt happy": "happy",
    "He does not smile and looks sad": "sad",
    "He is not happy and looks sad": "sad",
    "cannot hide her sadness": "sad",
    "more sad than angry": "sad",
    "I do not think that he is angry": None,
    "Anger is not present, sadness is": "sad",
    "Happiness is absent; he is worried": "worried",
    "far from happy": None,
    "sad, unlike the happy friend beside him": "sad",
    "No, he is sad": "sad",
    "happy? No, sad.": "sad",
    "It is sadness, never anger": "sad",
    "He lacks happiness and seems worried": "worried",
    "not angry or sad": None,
    "not sad\nhappy": "happy",
    "not so happy": None,
    "anger's what I see": "angry",
}
WRONG = {  # likewise -> (what a person reads, what the rule makes of it)
    "He has never been so happy": ("happy", None),
    "not unhappy": ("happy", None),
    "Without smiling he looks sad": ("sad", None),
    "He is less sad than angry": ("angry", "sad"),
    "That he is sad would be wrong": (None, "sad"),
    "It was sad once and now is over": (None, "sad"),
    "他不高兴": ("sad", None),
}


@pytest.mark.parametrize("answer", READ)
def test_negated_words_are_no_answers(answer: str) -> None:
    assert parse_nearest(answer, MER2023_LABELS) == READ[answer]


def test_what_is_still_wrong_is_known_and_counted() -> None:
    found = {answer: parse_nearest(answer, MER2023_LABELS) for answer in WRONG}
    assert found == {answer: made for answer, (_, made) in WRONG.items()}
    errors = sum(found[answer] != read for answer, (read, _) in WRONG.items())
    assert (errors, len(READ) + len(WRONG)) == (7, 46)  # docs/scores.md says the same
