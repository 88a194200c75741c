"""Labels that people give on the page: records of the store, one per annotator; and how what they do is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from emo.featstore.annotations import annotators, check_name
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.fetch import at_hand
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store
from emo.train.metrics.agree import label_agreement

KIND = "human-label"
MOST_WORDS = 80  # characters of a label
Given = Mapping[str, Mapping[str, str]]  # labels by annotator and clip


def label_spec(annotator: str) -> EncoderSpec:
    """Return the recipe of the labels of one person.

    Raises:
        UsageError: That is no name for one.
    """
    return record_spec(f"label.{check_name(annotator)}", KIND, "none")


class Labels:
    """The labels of a store, kept in memory: an annotator's are read again only where the store has newer ones."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[tuple[int, int], dict[str, str]]] = {}  # by fingerprint: version, label by clip

    def of(self, store: Store | None) -> dict[str, dict[str, str]]:
        """Return the labels by annotator and clip; a label that was taken back is absent."""
        found = {}
        for who, spec in annotators(store, KIND).items():
            assert store is not None
            version, held = store.version(spec), self._held.get(spec.fingerprint)
            if held is None or held[0] != version:
                records = store.records(spec)
                labels = {clip: value["label"] for clip, value in records.items() if value.get("label")}
                held = self._held[spec.fingerprint] = (version, labels)
            found[who] = held[1]
        return found


def labelled(given: Given) -> dict[str, int]:
    """Return how many annotators have labelled each clip."""
    return dict(Counter(clip for each in given.values() for clip in each))


def copies(store: Store, clip_id: str) -> list[str]:
    """Return the clips of the store that have the content of one, itself too: they share labels."""
    index = store.index
    number = index.media_of(clip_id)
    rows = np.flatnonzero(index.clip_media[: index.clip_count] == number) if number >= 0 else np.zeros(0, int)
    return [index.clip_names[row] for row in rows.tolist()]


def once(given: Given, store: Store | None) -> dict[str, dict[str, str]]:
    """Return the labels with one clip of each content: copies of a file share a label, which was given once."""
    found: dict[str, dict[str, str]] = {}
    for who, labels in given.items():
        names = sorted(labels)
        media = store.index.media_of_clips(names).tolist() if store is not None else [-1] * len(names)
        first = {number: name for name, number in zip(reversed(names), reversed(media), strict=True)}
        kept = [name for name, number in zip(names, media, strict=True) if number < 0 or first[number] == name]
        found[who] = {name: labels[name] for name in kept}
    return found


def agreement(given: Given) -> list[dict[str, Any]]:
    """Return Cohen's kappa and the share of equal labels of every two annotators, on the clips that both have."""
    names = sorted(given)
    rows = []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both = [clip for clip in given[one] if clip in given[other]]
            found = label_agreement([(given[one][clip], given[other][clip]) for clip in both])
            rows.append({"first": one, "second": other, **found})
    return rows


def write(store: Store, spec: EncoderSpec, clip: Clip, value: dict[str, Any]) -> dict[str, Any]:
    """Commit one value of one clip; what it replaces is kept in its `history`.

    Raises:
        StoreError: The store cannot be written.
        UsageError: The clip's media cannot be read.
    """
    store.refresh()
    before = store.record(spec, clip.id) if _has(store, spec, clip.id) else None
    history = [*before.get("history", []), {k: v for k, v in before.items() if k != "history"}] if before else []
    new = {**value, "at": now(), "history": history}
    with store.writer(commit_every=1) as writer:
        row = store.clip_row(clip.id)
        if row is None and clip.media is not None:
            try:
                with at_hand(clip.media) as found:
                    file = found.file_id()
            except (OSError, MediaError) as error:
                raise UsageError(f"The media of clip {clip.id} cannot be read: {error}.") from error
            writer.clip(clip.id, file, clip.media)
            media = file.media
        else:
            media = writer.name_clip(clip.id)
        writer.add_record(spec, media, new)
    return new


def now() -> str:
    """Return the time as ISO text in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _has(store: Store, spec: EncoderSpec, clip_id: str) -> bool:
    known = {each.spec.fingerprint for each in store.features(records=True)}
    return spec.fingerprint in known and bool(store.has(spec, [clip_id])[0])


def record_of(store: Store | None, spec: EncoderSpec, clip_id: str) -> dict[str, Any] | None:
    """Return the value of one clip, or `None`."""
    if store is None or not _has(store, spec, clip_id):
        return None
    found: dict[str, Any] = store.record(spec, clip_id)
    return found


def check_label(label: str | None, known: Sequence[str]) -> None:
    """Refuse a label that is none of the set.

    Raises:
        UsageError: It is not.
    """
    if label is not None and label not in known:
        raise UsageError(f"{label[:MOST_WORDS]!r} is not one of the labels.", f"Labels: {', '.join(known)}.")
