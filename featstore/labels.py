"""Emotion words of datasets that more than one part of emo knows; the place in a tuple is the number of the class."""

from __future__ import annotations

# MERBench toolkit/globals.py:2
MER2023_LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
# DFEW's annotation files, labels 1 to 7
DFEW_LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
# Emotion-LLaMA, minigpt4/datasets/datasets/first_face.py:78: its MERR annotations
MERR_LABELS = (*MER2023_LABELS, "fear", "contempt", "doubt")
