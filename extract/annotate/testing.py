"""The contracts of a source of action units and of a describer, to be run by anybody from the installed package."""

from __future__ import annotations

import json

import numpy as np

from emo.extract.annotate.describer import Clues, Describer, Question
from emo.extract.annotate.units import UnitSource, stored_table
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.writer import storable


def check_unit_source(source: UnitSource, clip: Clip, absent: Clip) -> None:
    """Hold a source to its contract.

    Args:
        source: The source.
        clip: A clip that it has action units of.
        absent: A clip that it has none of.

    Raises:
        AssertionError: It does not keep the contract; the message says which part.
    """
    table = source.read(clip)
    assert table.columns[0] == "frame", "the first column is frame"
    assert len(set(table.columns)) == len(table.columns), "columns have different names"
    assert np.isfinite(table.rows).all(), "what is not known is left out, not written as nan"
    frames = table.column("frame")
    assert frames is not None, "there is a column of frames"
    assert frames[0] >= 0, "frames count from 0"
    assert (np.diff(frames) > 0).all(), "frames go up"
    assert any(name.startswith("AU") for name in table.columns), "there are action units"
    spec = source.spec(table.columns)
    assert spec.fingerprint == source.spec(table.columns).fingerprint, "the identity is the same each time"
    assert spec.fingerprint != source.spec(table.columns[:-1]).fingerprint, "the columns are part of the identity"
    kept = stored_table(spec, storable(spec, table.rows, clip.id))
    assert kept.rows.tobytes() == table.rows.tobytes(), "the store keeps every digit"
    assert np.array_equal(source.read(clip).rows, table.rows), "a second reading gives the same numbers"
    assert source.digest(clip) == source.digest(clip), "the hash of the same material is the same"
    for ask in (source.read, source.digest):
        kind = ""
        try:
            ask(absent)
        except MediaError as error:
            kind = error.kind
        assert kind == "no-action-units", "a clip without action units fails as no-action-units, never as zeros"


def check_describer(describer: Describer, kinds: tuple[str, ...] = ("scene", "voice", "caption")) -> None:
    """Hold a describer to its contract: on a grey frame, a tone and a few clues.

    Raises:
        AssertionError: It does not keep the contract; the message says which part.
    """
    assert describer.id.strip(), "it has a name"
    json.dumps(dict(describer.decoding()), allow_nan=False)  # settings are part of a fingerprint
    record_spec("answer", "describer", describer.id, decoding=describer.decoding())
    tone = (0.1 * np.sin(2 * np.pi * 150 * np.arange(16_000) / 16_000)).astype(np.float32)
    frame = np.full((60, 80, 3), 128, np.uint8)
    texts = {"text": "Hello.", "label": "happy", "scene": "A room.", "voice": "It is calm.", "expression": "Big smile"}
    clues = Clues(texts, lambda: frame, lambda: tone)
    for kind in kinds:
        if describer.answers(kind):
            needs = {"scene": "image", "voice": "sound"}.get(kind, "")
            question = Question(kind, "", "Please describe it.", needs, "en", clues)
            first = describer.describe(question)
            assert first.text.strip(), f"{kind} gets an answer"
            assert describer.describe(question).text == first.text, f"{kind} gets the same answer again"
