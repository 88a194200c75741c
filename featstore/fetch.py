"""Media files at hand: a file of this machine as it is, one in a bucket as a temporary copy, read once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from emo.featstore.address import Address, Url
from emo.featstore.clip import FileId, hash_media
from emo.featstore.errors import MediaError, StoreError
from emo.featstore.storage.medium import Medium
from emo.featstore.storage.mediums import open_medium

PIECE_BYTES = 1 << 23


class AtHand:
    """A media file that is fetched when it is first needed.

    Attributes:
        media: Where it lies.
    """

    def __init__(self, media: Address) -> None:
        self.media = media
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copy: Path | None = None
        self._mtime_ns = 0

    @property
    def path(self) -> Path:
        """A file of this machine with its bytes.

        Raises:
            MediaError: It cannot be fetched; recorded for this clip, trying again can help.
        """
        if not isinstance(self.media, Url):
            return self.media
        if self._copy is None:
            self._copy = self._fetch(self.media)
        return self._copy

    def file_id(self) -> FileId:
        """Hash the file; size and time are those that it has where it lies.

        Raises:
            OSError: It cannot be read.
            MediaError: It cannot be fetched.
        """
        found = hash_media(self.path)
        return found if self._folder is None else found._replace(mtime_ns=self._mtime_ns)

    def close(self) -> None:
        """Remove the copy, if one was made."""
        if self._folder is not None:
            self._folder.cleanup()

    def _fetch(self, url: Url) -> Path:
        self._folder = tempfile.TemporaryDirectory(prefix="emo-media-")
        copy = Path(self._folder.name) / url.name
        try:
            medium, name = _medium(url.parts[0], url.parts[1]), "/".join(url.parts[2:])
            before = medium.modified(name)
            data = medium.map(name, fresh=True)
            with open(copy, "wb") as file:
                for start in range(0, len(data), PIECE_BYTES):
                    file.write(data[start : start + PIECE_BYTES].data)
            if medium.modified(name) != before:
                raise MediaError("changed", f"{url} was changed while it was read.", retry=True)
        except FileNotFoundError as error:
            raise MediaError("unreadable", f"{url} is not there.", "Was it removed meanwhile?", retry=True) from error
        except StoreError as error:
            raise MediaError("unreadable", error.message, error.hint, retry=True) from error
        except OSError as error:
            sentence = f"{url} cannot be fetched: {error.strerror or error} ({self._folder.name})."
            raise MediaError("unreadable", sentence, "Is TMPDIR full?", retry=True) from error
        self._mtime_ns = mtime_ns(before)
        return copy


def mtime_ns(seconds: float) -> int:
    """Return a time of a bucket in whole milliseconds, as nanoseconds: finer ones do not survive as numbers."""
    return round(seconds * 1000) * 1_000_000


@contextmanager
def at_hand(media: Address) -> Iterator[AtHand]:
    """Give a media file for a while; a copy that was made of it is removed afterwards."""
    found = AtHand(media)
    try:
        yield found
    finally:
        found.close()


@lru_cache(maxsize=8)
def _medium(scheme: str, bucket: str) -> Medium:
    return open_medium(Url(f"{scheme}//{bucket}"))
