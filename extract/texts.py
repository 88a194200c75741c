"""Transcripts as what a feature is made of: which one an encoder reads, and whether it is still the one it has read.

A feature is kept under its clip's media, and a transcript is no part of the media. So a pass keeps the hash of the text
beside every feature that it makes of one (a record of 8 numbers), and makes the feature anew when the text has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emo.featstore.clip import Clip, MediaId
from emo.featstore.errors import FeatureMissing
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

LANGUAGES = "languages"  # key of a recipe: what an encoder of transcripts reads, best first


def text_of(transcripts: Mapping[str, str], languages: Sequence[str]) -> str:
    """The first transcript of these languages that says something; empty where there is none."""
    return next((text for each in languages if (text := transcripts.get(each, "").strip())), "")


def hash_spec(spec: EncoderSpec) -> EncoderSpec:
    """Spec of the hashes of the texts that a feature was made of."""
    return EncoderSpec(
        name=f"{spec.name}.text",
        encoder="text-hash",
        modality="text",
        level="utt",
        dim=8,
        rows=1,
        profile=spec.profile,
        weights="none",
        recipe={"of": spec.fingerprint, "hash": "BLAKE2b of the UTF-8 text, 8 numbers of 16 bits"},
    )


def hash_text(text: str) -> NDArray[np.float32]:
    """(1, 8) float32, each a whole number below 65,536."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.frombuffer(digest, "<u2").astype(np.float32)[None]


def changed(store: Store, spec: EncoderSpec, clips: Iterable[tuple[Clip, MediaId]]) -> set[MediaId]:
    """Media whose feature was made of another text than the clip has now, or failed for lack of one that is there now.

    Args:
        store: Where the feature and the hashes are.
        spec: A feature that is made of transcripts.
        clips: Clips that are there or have failed; of several with the same media the first one's text counts.
    """
    first: dict[MediaId, Clip] = {}
    for clip, media in clips:
        first.setdefault(media, clip)
    if not first:
        return set()
    texts = {media: text_of(clip.transcripts, spec.recipe[LANGUAGES]) for media, clip in first.items()}
    ids = [clip.id for clip in first.values()]
    try:
        kept = store.utterances(hash_spec(spec), ids, missing="zeros")
    except FeatureMissing:  # nothing was ever made of a text
        kept = np.zeros((len(ids), 8), np.float32)
    return {
        media
        for (media, text), row in zip(texts.items(), kept, strict=True)
        if (row.any() or text) and not np.array_equal(row, hash_text(text)[0])
    }
