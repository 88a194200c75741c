"""One feature of another tool, read where it lies: for whoever compares and does not import."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from emo.featstore.errors import MediaError, UsageError
from emo.featstore.interop.base import Source
from emo.featstore.interop.importer import find_in, matrix, read_place
from emo.featstore.spec import RECORD_LEVEL
from emo.featstore.storage.index import Array


class Foreign:
    """A feature in any layout that can be imported, clip by clip.

    Attributes:
        where: The path and the name of the feature there.
        feature: What an import would call it here.
    """

    def __init__(self, path: Path, source: Source) -> None:
        self.where, self.feature, self._source = f"{path} {source.name}", source.feature, source
        count = Counter(name for name, _ in source.places)
        self._places = {name: place for name, place in source.places if count[name] == 1}

    def names(self) -> list[str]:
        """Clips that have it; none that is there twice."""
        return list(self._places)

    def get(self, name: str) -> Array:
        """One clip's feature, `(T, D)`.

        Raises:
            UsageError: It cannot be read.
        """
        try:
            return matrix(read_place(self._source, self._places[name]))[0]
        except MediaError as error:
            raise UsageError(f"{name} of {self.where}: {error.message}", error.hint) from error


def open_foreign(path: Path, files: ExitStack, feature: str | None = None) -> Foreign:
    """Open a feature of another tool's file or folder.

    Args:
        path: Of any layout that `emo store import` reads.
        files: Closes what stays open, once nothing is read any more.
        feature: Its name there, or the one that an import gives it; may be `None` where there is only one.

    Raises:
        UsageError: There is nothing that emo can read, no such feature, or several.
    """
    _, found = find_in(path, None, files)
    sources = [each for each in found.sources if each.level != RECORD_LEVEL]
    name = (feature or "").partition("@")[0]
    named = [each for each in sources if name in (each.name, each.feature)]
    chosen = named if named or len(sources) != 1 else sources
    if len(chosen) != 1:
        have = ", ".join(each.name for each in sources) or "no feature"
        what = (
            f"{len(chosen)} called {name}" if named else f"none called {name}" if name else "no say of which is meant"
        )
        raise UsageError(f"{path} holds {have}; there is {what}.", "Say which one is meant: --feature NAME.")
    return Foreign(path, chosen[0])
