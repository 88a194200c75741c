"""Which transcript a feature was made of: the rule that chooses it, its hash, and features of another text.

A feature is kept under its clip's media, or under the clip's name where there is none, and a transcript is part of
neither. So the hash of the text is kept beside it. Extraction makes a feature anew whose text has changed; training and
answers from the store alone ask `of_other_texts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from emo.featstore.clip import Clip
from emo.featstore.errors import FeatureMissing
from emo.featstore.files import digest
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import beside_spec

LANGUAGES = "languages"  # key of a recipe: what an encoder of transcripts reads, best first
HEARD_BY = " heard by "  # in the hash of a text that no dataset gave


class Kept(Protocol):
    """Interface that is needed of a store."""

    def has(self, feature: EncoderSpec, clip_ids: Sequence[str]) -> Any: ...
    def utterances(self, feature: EncoderSpec, clip_ids: Sequence[str], missing: Any = ...) -> Any: ...
    def records(self, record: EncoderSpec, clip_ids: Sequence[str] | None = ...) -> Mapping[str, Any]: ...
    def clip_row(self, clip_id: str) -> tuple[str, str | None, int, int] | None: ...


def text_of(transcripts: Mapping[str, str], languages: Sequence[str]) -> str:
    """Return the first transcript of these languages that says something; empty where there is none."""
    return next((text for each in languages if (text := transcripts.get(each, "").strip())), "")


def hash_spec(spec: EncoderSpec) -> EncoderSpec:
    """Return the recipe of the records that hold the hashes of the texts a feature was made of."""
    return beside_spec(spec, "text", "text-hash")


def hash_text(text: str) -> str:
    """Return the hash of a text, as a record holds it."""
    return digest(text.encode())


def hash_of(clip: Clip, spec: EncoderSpec) -> str:
    """Return the hash of the text that a feature reads of a clip, and who wrote it where that was a recogniser."""
    hashed = hash_text(text_of(clip.transcripts, spec.recipe[LANGUAGES]))
    return f"{hashed}{HEARD_BY}{clip.heard_by}" if clip.heard_by else hashed


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


def kept_hashes(store: Kept, spec: EncoderSpec, clip_ids: Sequence[str]) -> dict[str, str]:
    """Return the hashes of the texts that the feature of each clip was made of."""
    kept: dict[str, str] = {}
    with suppress(FeatureMissing):
        rows = store.utterances(_hash_spec_1(spec), clip_ids, missing="zeros")
        kept = {each: row.astype("<u2").tobytes().hex() for each, row in zip(clip_ids, rows, strict=True) if row.any()}
    with suppress(FeatureMissing):
        kept |= store.records(hash_spec(spec), clip_ids)
    return kept


def of_other_texts(store: Kept, spec: EncoderSpec, clips: Iterable[Clip]) -> list[str]:
    """Return the clips whose feature was made of another transcript than their dataset gives them now.

    Of clips with the same media, the feature is of the transcript of one of them, which is enough. What a recogniser
    heard is the text of a clip without any transcript. Of features without a hash, as imported ones, nobody knows.

    Args:
        store: Where feature and hashes are.
        spec: The feature; of one that reads no transcript, no clip is returned.
        clips: As their dataset has them.
    """
    clips = list(clips)
    if LANGUAGES not in spec.recipe or not clips:
        return []
    there = store.has(spec, [clip.id for clip in clips])
    clips = [clip for clip, yes in zip(clips, there, strict=True) if yes]
    kept = kept_hashes(store, spec, [clip.id for clip in clips])
    told = [clip for clip in clips if clip.id in kept]
    same = [_is_of(kept[clip.id], clip, spec) for clip in told]
    media = [(store.clip_row(clip.id) or (clip.id,))[0] for clip in told]
    served = {each for each, yes in zip(media, same, strict=True) if yes}
    return [clip.id for clip, each in zip(told, media, strict=True) if each not in served]


def _is_of(kept: str, clip: Clip, spec: EncoderSpec) -> bool:
    """Say whether a hash is that of a clip's transcript, as its dataset has it."""
    if HEARD_BY in kept and not clip.heard_by:
        return not any(map(str.strip, clip.transcripts.values()))
    return kept == hash_of(clip, spec)
