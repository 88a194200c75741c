"""Annotations that `emo annotate run` has put into a store as records."""

from __future__ import annotations

from typing import Any

from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.storage.store import Store

ANNOTATION = "annotation"  # name of the records


def annotations_of(store: Store, record: str = ANNOTATION) -> dict[str, dict[str, Any]]:
    """Return the annotations of a store by clip; those that are out of date are left out.

    Raises:
        UsageError: There are none.
        StoreError: Several kinds are meant; the message says how they differ.
    """
    try:
        found = store.records(store.resolve(record, records=True))
    except FeatureMissing as error:
        raise UsageError(f"{store.path} has no annotations.", "Run `emo annotate run` first.") from error
    return {clip: value for clip, value in found.items() if "failed" not in value}
