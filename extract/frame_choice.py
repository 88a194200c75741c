"""Frames that records choose, as what a feature is made of: whether it is still the one that it has seen.

The recipe of such a feature names the records (`frame = "peak"`), and no frame. So a pass keeps the index of the frame
beside every feature that it makes of one (a record), and makes the feature anew when the records choose another frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from emo.featstore.clip import Clip, MediaId
from emo.featstore.errors import FeatureMissing
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import beside_spec
from emo.featstore.storage.store import Store

BY_RECORDS = "peak:"  # in a recipe, before the fingerprint of the records


def chosen_by(spec: EncoderSpec) -> str:
    """Return the fingerprint of the records that choose the frame of a feature; empty where none do."""
    media = spec.recipe.get("media")
    frame = str(media.get("frame", "")) if isinstance(media, dict) else ""
    return frame.removeprefix(BY_RECORDS) if frame.startswith(BY_RECORDS) else ""


def index_spec(spec: EncoderSpec) -> EncoderSpec:
    """Return the recipe of the records that hold the index of the frame that a feature was made of."""
    return beside_spec(spec, "frame", "frame-index")


def moved(store: Store, spec: EncoderSpec, clips: Iterable[tuple[Clip, MediaId]]) -> set[MediaId]:
    """Media whose feature was made of another frame than the records choose now; of older features nobody knows.

    Args:
        store: Where the feature, the indices and the records are.
        spec: A feature whose frame records choose.
        clips: Clips that have the feature.
    """
    media = {clip.id: each for clip, each in clips}
    choosing = next(
        (each.spec for each in store.features(records=True) if each.spec.fingerprint == chosen_by(spec)), None
    )
    kept = {}
    with suppress(FeatureMissing):
        kept = store.records(index_spec(spec), list(media))
    if choosing is None or not kept:
        return set()
    now = store.records(choosing, list(kept))
    return {media[clip] for clip, index in kept.items() if clip in now and now[clip]["index"] != index}
