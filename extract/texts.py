"""Transcripts as what a feature is made of: which one an encoder reads, and whether it is still the one it has read.

A feature is kept under its clip's media, and a transcript is no part of the media. So a pass keeps the hash of the text
beside every feature that it makes of one (a record), and makes the feature anew when the text has changed. A transcript
of the dataset comes first; where it has none, one that `emo transcribe` wrote is read, and the hash says by whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from emo.featstore.clip import Clip, MediaId
from emo.featstore.errors import UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.text import counted
from emo.featstore.transcripts import HEARD_BY, LANGUAGES, hash_of, kept_hashes, text_of

ASR = "asr"  # kind of the records that hold transcripts
CODES = {"zh": "chinese", "yue": "chinese", "en": "english"}  # a recogniser's languages, as datasets call them


def read_by(store: Store, spec: EncoderSpec, clip_ids: Sequence[str]) -> dict[str, str]:
    """Return which transcript the feature of each clip was made of: `dataset`, or the key of a recogniser's records.

    Clips without the feature are left out.
    """
    kept = kept_hashes(store, spec, list(clip_ids))
    return {clip: hashed.partition(HEARD_BY)[2] or "dataset" for clip, hashed in kept.items()}


class Heard:
    """Transcripts that a recogniser wrote into a store, for clips whose dataset has none.

    Args:
        store: The store; `None` where there is none yet.
        wanted: Name or key of the records; empty for the only ones there are.

    Raises:
        UsageError: The store has several, and none is named.
        FeatureMissing: It has none of this name.
    """

    def __init__(self, store: Store | None, wanted: str = "") -> None:
        specs = [each.spec for each in store.features(records=True) if each.spec.encoder == ASR] if store else []
        if wanted and store is not None:
            specs = [store.resolve(wanted, records=True)]
        elif len(specs) > 1:
            assert store is not None
            words = [sum(bool(value["text"]) for value in store.records(spec).values()) for spec in specs]
            pairs = zip(specs, words, strict=True)
            told = "; ".join(f"{spec.key} ({_made(spec)}; {counted(n, 'clip')} with words)" for spec, n in pairs)
            most = max(range(len(specs)), key=lambda i: (words[i], i))
            hint = f'Write which is read under [extract] in emo.toml, as asr = "{specs[most].key}".'
            raise UsageError(f"The store has transcripts of {len(specs)} kinds: {told}.", hint)
        self.spec = specs[0] if specs else None
        self.used = 0
        self._values: dict[str, Any] = store.records(self.spec) if store and self.spec else {}

    def fill(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """Yield the clips; those without any transcript of their own get the one that was heard."""
        for clip in clips:
            value = None if any(map(str.strip, clip.transcripts.values())) else self._values.get(clip.id)
            if self.spec is None or not value or not value["text"]:
                yield clip
                continue
            self.used += 1
            language = CODES.get(value["language"], value["language"])
            yield replace(clip, transcripts={language: value["text"]}, heard_by=self.spec.key)

    def says(self) -> tuple[str, ...]:
        """Return what must be said of a pass that reads them."""
        if not (self.used and self.spec):
            return ()
        lack = counted(self.used, "clip has", "clips have")
        return (f"{lack} no transcript in the dataset; what {self.spec.key} heard is read.",)


def _made(spec: EncoderSpec) -> str:
    language = spec.recipe["decoding"].get("language")
    return f"language {language} given" if language else "language told clip by clip"


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
    kept = kept_hashes(store, spec, [clip.id for clip in first.values()])
    found = set[MediaId]()
    for media, clip in first.items():
        text, before = text_of(clip.transcripts, spec.recipe[LANGUAGES]), kept.get(clip.id)
        if (before is not None or text) and before != hash_of(clip, spec):
            found.add(media)
    return found
