"""Cleaning of an answer before a model is trained on it."""

from __future__ import annotations

import re


def process_answer(text: str, max_words: int = 200, prompt: str = "") -> str:
    """Bring an answer into the form the model was trained on (`BlipCaptionProcessor` of Emotion-LLaMA).

    Lower case; each of `. ! " ( ) * # : ; ~` becomes a space; runs of white space become one space; trailing newlines
    and outer spaces go; the first `max_words` words stay. Commas, apostrophes, `?` and `-` survive.

    Args:
        text: The answer as annotated.
        max_words: Words to keep, counted between single spaces.
        prompt: Put in front, as it is; not counted.
    """
    text = re.sub(r"([.!\"()*#:;~])", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return prompt + " ".join(text.split(" ")[:max_words])
