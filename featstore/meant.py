"""Which of several recipes of one feature an emo.toml means: the one whose settings are those that it states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from emo.featstore.workspace import FIXED_FRAMES

if TYPE_CHECKING:
    from emo.featstore.spec import EncoderSpec
    from emo.featstore.workspace import ExtractTable

TAILS = {"keep": "last packet whole", "trim": "cut at the edit list"}
"""How a recipe states the end of an mp4's sound, by the setting `sound_tail`."""

SOUND_TAIL, FACE, DETECTOR, EVERY = "keep", "prominent", "centerface", 5  # where emo.toml says nothing


def as_set(table: ExtractTable, specs: Iterable[EncoderSpec]) -> list[EncoderSpec]:
    """Return the recipes whose profile, sound track, end of sound, faces and frame are those of `[extract]`.

    A recipe that states none of them, as an imported one, is told by its profile alone. Weights are not looked at:
    of two recipes that differ in them, both are returned.

    Args:
        table: `[extract]` of an emo.toml, or its defaults.
        specs: Recipes, as a store has them.
    """
    return [spec for spec in specs if spec.profile == table.profile and _fits(table, spec.recipe.get("media", {}))]


def _fits(table: ExtractTable, media: Mapping[str, Any]) -> bool:
    """Compare what a recipe states of its input with the settings."""
    if "tail" in media:
        tail = TAILS.get(table.sound_tail or SOUND_TAIL)
        if (media["tail"], media.get("track")) != (tail, table.audio_track):
            return False
    faces = media.get("faces", {})
    if faces.get("source") == "emo":
        wanted = (table.face or FACE, table.faces_detector or DETECTOR, table.faces_every or EVERY)
        if (faces.get("rule"), faces.get("detector", {}).get("name"), faces.get("every")) != wanted:
            return False
    return "frame" not in media or table.frame not in FIXED_FRAMES or media["frame"] == table.frame
