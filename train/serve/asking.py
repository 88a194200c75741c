"""Answer a question of the page: look into the file, extract what the run lacks, ask it; on the thread of the line."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emo.featstore.clip import Clip
from emo.featstore.datasets.lookup import file_clip
from emo.featstore.errors import EmoError, UsageError
from emo.featstore.page import page_json
from emo.train.answers import Prediction
from emo.train.serve.desk import LOOKS, Desk, NotFound
from emo.train.serve.line import Ticket

MODALITIES = ("audio", "face", "frame", "text")
ZEROS = (
    "What is switched off is replaced by the mean over the clips of the store (frames and tokens by zeros); without "
    "text nothing is said. All folds of a head answer here, those that were trained on this clip too."
)


@dataclass(frozen=True)
class Question:
    """One question, and the run that is asked.

    Attributes:
        clip: A clip of the workspace; `None` for a file that was sent.
        file: That file, in a folder of its own, which is removed afterwards.
        run, task, answers, transcript: As of `emo predict`.
    """

    clip: Clip | None = None
    file: Path | None = None
    run: str | None = None
    task: str = "emotion"
    answers: str = "official"
    transcript: str | None = None


def answer(desk: Desk, asked: Question, ticket: Ticket) -> bytes:
    """Return what `emo predict --json` prints about the clip.

    Raises:
        EmoError: As `emo predict`; the file is no clip, or beyond the limits; it was cancelled.
    """
    try:
        predictor = desk.predictor(asked.run)
        predictor.check(asked.answers, asked.task, asked.transcript)
        clip = asked.clip
        if asked.file is not None:
            clip = file_clip(asked.file)
            ticket.tell({"stage": "look", "text": asked.file.name})
            look = desk.hands.look(asked.file, desk.limits.seconds, desk.limits.pixels, ticket.cancelled)
            desk.remember(desk.looks, clip.id, look, LOOKS)
        assert clip is not None
        if asked.transcript is not None:
            clip = replace(clip, transcripts={"text": asked.transcript})
        needs = predictor.needs([clip])
        curves = asked.file is not None and ((store := desk.store) is None or desk.hands.curves(store, clip.id) is None)
        if needs is not None:
            what = (needs.clips, needs.encoders, needs.keys, needs.profile)
            desk.hands.extract(*what, ticket.tell, ticket.cancelled)
        elif curves:
            try:
                desk.hands.extract([clip], (), (), None, ticket.tell, ticket.cancelled)
            except EmoError:
                if ticket.cancelled.is_set():
                    raise
        ticket.tell({"stage": "answer", "text": predictor.run.name})
        keep = asked.transcript is None
        found = predictor.predict([clip], asked.answers, asked.task, keep, lambda _, text: _heard(ticket, text))
        return page_json(predictor.page([clip], found, asked.task)).encode()
    finally:
        if asked.file is not None:
            shutil.rmtree(asked.file.parent, ignore_errors=True)


def answer_without(desk: Desk, asked: Question, off: Collection[str]) -> bytes:
    """Return the answers with all there is and without some of it, as JSON: `all`, `without`, `note`."""
    predictor = desk.predictor(asked.run)
    assert asked.clip is not None
    clip = asked.clip if asked.transcript is None else replace(asked.clip, transcripts={"text": asked.transcript})
    policy = asked.answers if asked.task != "emotion" else predictor.evidence[-1]
    found = {
        "all": predictor.without(clip, (), policy, asked.task),
        "without": predictor.without(clip, off, policy, asked.task),
    }
    shown = {name: _plain(each) for name, each in found.items()}
    value = {"run": predictor.run.name, "clip": clip.id, "off": sorted(off), "answers": policy, **shown, "note": ZEROS}
    return json.dumps(value, ensure_ascii=False).encode()


def extract_units(desk: Desk, clip: Clip, ticket: Ticket) -> bytes:
    """Extract the face mesh of a clip, so that its action units can be drawn."""
    path = desk.media(clip.id)
    found = desk.hands.extract([replace(clip, media=path)], (), (), None, ticket.tell, ticket.cancelled)
    return json.dumps({"failures": [each["message"] for each in found["failures"]]}).encode()


def look(desk: Desk, clip: Clip) -> dict[str, Any] | None:
    """Return what the file of a clip is and its waveform; `None` where there is no file and none was looked at."""
    if (known := desk.looks.get(clip.id)) is not None:
        return known
    try:
        path = desk.media(clip.id)
    except NotFound:
        return None
    found = desk.hands.look(path, 3600.0, 40_000_000, threading.Event())
    desk.remember(desk.looks, clip.id, found, LOOKS)
    return found


def _heard(ticket: Ticket, text: str) -> None:
    """Keep an answer as far as it has come; a question that was taken back ends here."""
    if ticket.cancelled.is_set():
        raise UsageError("This question was cancelled.")
    ticket.text = text


def _plain(said: Prediction | None) -> dict[str, Any] | None:
    if said is None:
        return None
    return {"answer": said.answer, "valence": said.valence, "probabilities": said.probabilities}
