"""The feature store: what was extracted, for which clips, and how.

    mer2023.emo/
      emo.json                          schema, id and date; written once
      journal/00000001.jsonl ...        the only truth: one immutable file per commit
      features.zarr/                    plain Zarr v3
        HL-UTT@9f2c1ab4/<segment>/      one array (rows, D), one writer, never edited
      snapshot/index.bin                the replayed journal, a cache: large stores only
      writers/<uuid>/                   scratch of the writers that are running

Keyed by (media content, encoder fingerprint). Several processes may read, write, compact and clean up at once.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

from emo.featstore.address import Address, address
from emo.featstore.errors import StoreError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import durable, journal, maintain
from emo.featstore.storage.maintain import CompactReport, GcReport, Problem
from emo.featstore.storage.mediums import open_medium
from emo.featstore.storage.reader import META, Reader
from emo.featstore.storage.replicate import CopyReport, replicate
from emo.featstore.storage.segment import ROOT, group_document
from emo.featstore.storage.writer import Writer


class Store(Reader):
    """A store that can be written to and cared for; all questions and reads are those of `Reader`."""

    @classmethod
    def create(cls, path: str | Address) -> Self:
        """Make an empty store.

        Raises:
            StoreError: Something is there already, or the disk refuses.
        """
        path = address(path)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        meta = {"schema": journal.SCHEMA, "id": uuid.uuid4().hex, "created": created}
        files = {f"{ROOT}/zarr.json": group_document({}), META: json.dumps(meta).encode()}
        with durable.writing(path):
            open_medium(path).create((journal.FOLDER, ROOT, "writers"), files)
        return cls.open(path)

    def writer(
        self, commit_every: int = 200, commit_every_s: float = 30.0, environment: dict[str, Any] | None = None
    ) -> Writer:
        """A writer, to be used in a `with` statement; it commits every so many media or seconds, and at the end.

        Raises:
            StoreError: The store cannot be written.
        """
        return Writer(self, commit_every, commit_every_s, environment)

    def verify(self) -> list[Problem]:
        """Re-reads everything; see `maintain.verify`."""
        return maintain.verify(self)

    def repair(self) -> list[Problem]:
        """Forgets what `verify` finds damaged, so that it can be extracted again; see `maintain.repair`."""
        return maintain.repair(self)

    def gc(self, force: bool = False) -> GcReport:
        """Remove what no commit names; see `maintain.gc`."""
        return maintain.gc(self, force)

    def compact(self) -> CompactReport:
        """Merges small segments; see `maintain.compact`."""
        return maintain.compact(self)

    def copy_to(self, place: str | Address, say: Callable[[str], None] = lambda text: None) -> CopyReport:
        """Copies the store to another path or URL, or brings a copy up to date; see `replicate`."""
        return replicate(self, place, say)

    def drop(self, feature: EncoderSpec) -> int:
        """Forget a feature or a kind of records; see `maintain.drop`."""
        return maintain.drop(self, feature.fingerprint)

    def info(self) -> dict[str, Any]:
        """Contents of a dataset card; see `maintain.info`."""
        return maintain.info(self)


def has_store(path: str | Address) -> bool:
    """Say whether anything is at this path; opening it says whether that is a store."""
    return open_medium(path).exists("")


def open_store(path: str | Address, create: bool = False) -> Store:
    """Open a store; with `create`, make it where there is none.

    Raises:
        StoreError: See `Store.open` and `Store.create`.
    """
    medium = open_medium(path)
    if create and not medium.exists(META):
        try:
            return Store.create(path)
        except StoreError:
            if not medium.exists(META):  # else another process was faster
                raise
    return Store.open(path)
