"""Records: small JSON values beside features, such as transcripts, answers of describers, annotations, text hashes.

A record is keyed like a feature, by the content of the media and the fingerprint of its recipe, and its bytes lie in
segments too, as `uint8 (bytes, 1)`. So all that keeps features keeps records: commits, failures, work lists, checksums,
`verify`, `repair`, `compact` and `gc`; and replaying the journal reads no value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from emo.featstore.errors import StoreCorrupt, StoreError, UsageError
from emo.featstore.reading import parse_own
from emo.featstore.spec import RECORD_LEVEL, EncoderSpec
from emo.featstore.storage.index import Array

MOST_BYTES = 16 << 20  # of one value
_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def record_spec(
    name: str,
    kind: str,
    model: str,
    *,
    prompt: str = "",
    decoding: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    profile: str = "paper",
) -> EncoderSpec:
    """Return the recipe of a record: everything that changes the values, and nothing else.

    Args:
        name: Of the record, such as `whisper-large-v3.transcript`.
        kind: What makes it, such as `asr`, `describer`, `annotation` or `text-hash`.
        model: Content hash of the weights, name and version of a service, or `none`.
        prompt: What the model is asked.
        decoding: Settings of its decoding.
        inputs: What it is made of: fingerprints of features and records, frames chosen, languages.
        profile: As of a feature.
    """
    recipe = {"prompt": prompt, "decoding": dict(decoding or {}), "inputs": dict(inputs or {})}
    return EncoderSpec(name, kind, "record", RECORD_LEVEL, 1, None, profile, model, recipe=recipe)


def beside_spec(spec: EncoderSpec, name: str, kind: str) -> EncoderSpec:
    """Return the recipe of records that say of a feature, clip by clip, what it was made of; see `maintain.BESIDE`."""
    return record_spec(f"{spec.name}.{name}", kind, "none", inputs={"of": spec.fingerprint}, profile=spec.profile)


def encode(spec: EncoderSpec, media: str, value: Any) -> Array:
    """Return the bytes of a value as `(bytes, 1)` uint8.

    Raises:
        StoreError: The spec is no record's, or the value is no JSON, or too large.
    """
    if spec.level != RECORD_LEVEL:
        raise StoreError(f"{spec.key} is a feature, not a record.", "Make its spec with record_spec, or use add.")
    try:
        data = _text(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{spec.key} of {media} is no JSON value: {error}.", "Record a failure instead.") from error
    if len(data) > MOST_BYTES:
        raise StoreError(f"{spec.key} of {media} takes {len(data):,} bytes; a record may take {MOST_BYTES:,}.")
    return np.frombuffer(data, np.uint8)[:, None]


def decode(spec: EncoderSpec, media: str, rows: Array) -> Any:
    """Return the value of the bytes `(bytes, 1)`.

    Raises:
        StoreCorrupt: They are no JSON.
    """
    try:
        return parse_own(rows.tobytes(), f"{spec.key} of {media}")
    except UsageError as error:
        raise StoreCorrupt(error.message) from error
