"""Transcripts as what a feature is made of: which one an encoder reads, and whether it is still the one it has read.

A feature is kept under its clip's media, and a transcript is no part of the media. So a pass keeps the hash of the text
beside every feature that it makes of one (a record), and makes the feature anew when the text has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from emo.featstore.clip import Clip, MediaId
from emo.featstore.errors import FeatureMissing
from emo.featstore.files import digest
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store

LANGUAGES = "languages"  # key of a recipe: what an encoder of transcripts reads, best first


def text_of(transcripts: Mapping[str, str], languages: Sequence[str]) -> str:
    """The first transcript of these languages that says something; empty where there is none."""
    return next((text for each in languages if (text := transcripts.get(each, "").strip())), "")


def hash_spec(spec: EncoderSpec) -> EncoderSpec:
    """Return the recipe of the records that hold the hashes of the texts a feature was made of."""
    return record_spec(f"{spec.name}.text", "text-hash", "none", inputs={"of": spec.fingerprint}, profile=spec.profile)


def hash_text(text: str) -> str:
    """Return the hash of a text, as a record holds it."""
    return digest(text.encode())


def _hash_spec_1(spec: EncoderSpec) -> EncoderSpec:
    """Return the spec of the same hashes in a store of schema 1: a feature of 8 numbers, 16 bits each."""
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


def _kept(store: Store, spec: EncoderSpec, clip_ids: list[str]) -> dict[str, str]:
    """Return the hashes of the texts that the feature of each clip was made of."""
    kept: dict[str, str] = {}
    with suppress(FeatureMissing):
        rows = store.utterances(_hash_spec_1(spec), clip_ids, missing="zeros")
        kept = {each: row.astype("<u2").tobytes().hex() for each, row in zip(clip_ids, rows, strict=True) if row.any()}
    with suppress(FeatureMissing):
        kept |= store.records(hash_spec(spec), clip_ids)
    return kept


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
    kept = _kept(store, spec, [clip.id for clip in first.values()])
    found = set[MediaId]()
    for media, clip in first.items():
        text, before = text_of(clip.transcripts, spec.recipe[LANGUAGES]), kept.get(clip.id)
        if (before is not None or text) and before != hash_text(text):
            found.add(media)
    return found
