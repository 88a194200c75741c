"""The contract of a foreign layout: find the features in what another tool wrote, and write what its loader reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from emo.featstore.address import Address
from emo.featstore.clip import Clip
from emo.featstore.datasets.tables import normal_name
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.reading import parse_own
from emo.featstore.spec import LEVELS, RECORD_LEVEL, EncoderSpec
from emo.featstore.storage.index import Array
from emo.featstore.storage.store import Store

FLOATS = {np.dtype(name): name for name in ("float16", "float32", "float64")}  # dtype.name is slow
MAX_NAME_BYTES = 240  # 255 on every usual file system, with room for a suffix
_NO_NAME = re.compile(r"[/\\\x00-\x1f]")


FirstFrame: TypeAlias = Callable[[Address, Path], None]


class Record(NamedTuple):
    """One feature of one clip over there: `(D,)` or `(T, D)` floats, and its times where the layout keeps them."""

    array: Array
    t0_s: float = 0.0
    hop_s: float | None = None


@dataclass(frozen=True)
class Source:
    """One feature over there, or one kind of JSON records.

    Attributes:
        name: Its name there; part of its identity here.
        places: Clip ids, each with what `read` takes, in an order that is good to read in. An id may come twice.
        read: Reads one `Record`; where the level is `record`, one JSON value.

            Raises:
                MediaError: It is damaged, or no floats.

        feature: Name of the feature here.
        level: `utt`, `frame`, `tokens` or `record` where the layout says so; else the arrays decide.
        rows: Rows of every record, where fixed.
        modality: As in `EncoderSpec`, where the layout says so.
        encoder: As in `EncoderSpec`, where the layout says so.
        declared: What the file says of the recipe.
    """

    name: str
    places: Sequence[tuple[str, Any]]
    read: Callable[[Any], Any]
    feature: str
    level: str | None = None
    rows: int | None = None
    modality: str = "unknown"
    encoder: str = "unknown"
    declared: str | None = None


@dataclass(frozen=True)
class Rejected:
    """Something that was not taken.

    Attributes:
        where: Name of the feature there, or the file.
        name: The clip or the file in it.
        kind: Short stable name, such as `truncated`.
        sentence: Why.
    """

    where: str
    name: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class Found:
    """Contents of a foreign folder: features, what could not be taken, and what else lies there, one sentence each."""

    sources: Sequence[Source]
    rejected: Sequence[Rejected] = ()
    notes: Sequence[str] = ()


class Outgoing:
    """One feature on its way out.

    Args:
        store: Where it lies.
        spec: The feature.
        name: Its name over there.
        clips: Clips that have it; a layout that leaves some out narrows it to what it writes.
        dtype: Of the arrays; as stored if `None`.
    """

    def __init__(self, store: Store, spec: EncoderSpec, name: str, clips: Sequence[str], dtype: str | None) -> None:
        self.store, self.spec, self.name, self.clips = store, spec, name, clips
        self._dtype = dtype

    def rows(self) -> tuple[Array, str]:
        """Rows of each clip `(N,)`, and the dtype of an array that holds all of them."""
        rows, dtype = self.store.rows_of(self.spec, self.clips)
        return rows, self._dtype or dtype

    @property
    def dtype(self) -> str:
        """The dtype of what is written; `json` where it is a kind of records."""
        return "json" if self.spec.level == RECORD_LEVEL else self.rows()[1]

    def value(self, clip: str) -> Any:
        """The JSON value of a clip, where it is a kind of records."""
        return self.store.record(self.spec, clip)

    def record(self, clip: str) -> Record:
        """The `(T, D)` record of a clip.

        Raises:
            UsageError: It does not fit the dtype asked for.
        """
        feature = self.store.get(self.spec, clip)
        array = feature.array
        if self._dtype:
            with np.errstate(over="ignore"):
                array = array.astype(self._dtype, copy=False)
            if not np.isfinite(array).all():
                raise UsageError(f"{self.spec.key} of {clip} does not fit {self._dtype}.", "Choose float32.")
        return Record(array, feature.t0_s, feature.hop_s)

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        return ((clip, self.record(clip)) for clip in self.clips)


@dataclass(frozen=True)
class Export:
    """Features that are to be written, and how.

    Attributes:
        features: At least one; their names are all different.
        clips: Clips by id, in order, with label, split and transcripts where a dataset told them.
        first_frame: Writes the first frame of a clip into a `.png` file; `None` where nobody decodes clips.

            Raises:
                MediaError: It has none.
    """

    features: Sequence[Outgoing]
    clips: Mapping[str, Clip]
    first_frame: FirstFrame | None = None


@dataclass(frozen=True)
class Layout:
    """A foreign layout.

    Attributes:
        name: As users choose it, and as features that came from it remember it.
        looks_for: What `find` looks for, to end the sentence "looked for ...".
        find: Finds features under a path, reading no records; `None` where it is not this layout. Files that stay open
            are closed by the stack.

            Raises:
                UsageError: It is this layout, but damaged.

        name_there: Name of a feature over there, from its spec and the name asked for, if any.

            Raises:
                UsageError: That tool has no place for it.

        write: Write an export to a path that does not exist yet; returns what must be said of it.

            Raises:
                UsageError: That tool could not read it.

        suffixes: Suffixes of the one file that it is; empty where it is a folder.
        keeps_times: Whether the times of rows survive.
        keeps_dtypes: Whether each record keeps its own dtype; else all of a feature get the widest.
        whole_clips: Whether it takes only clips that have all the features.
        records: Whether it holds JSON records in place of features.
        fragile: Says of a path whether the library that reads it may crash or hang where it is damaged: it is tried in
            another process first.
    """

    name: str
    looks_for: str
    find: Callable[[Path, ExitStack], Found | None]
    name_there: Callable[[EncoderSpec, str | None], str]
    write: Callable[[Path, Export], Sequence[str]]
    suffixes: Sequence[str] = ()
    keeps_times: bool = False
    keeps_dtypes: bool = True
    whole_clips: bool = False
    records: bool = False
    fragile: Callable[[Path], bool] = lambda path: False


def bad(kind: str, sentence: str) -> MediaError:
    """Why a record cannot be taken; it may be put right over there, so it is tried again."""
    return MediaError(kind, sentence, retry=True)


def plain_name(name: str) -> str:
    """A clip id as it is compared, if it can be one on every side.

    Raises:
        MediaError: It is empty, no plain file name, or longer than a file's name can be.
    """
    plain = normal_name(name)
    if plain in ("", ".", "..") or _NO_NAME.search(plain):
        raise bad("bad-name", f"The name {name!r} cannot be a clip id: it is empty or holds a path separator.")
    if len(plain.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise bad("bad-name", f"The name {name[:40]!r}... cannot be a clip id: it is too long for the name of a file.")
    return plain


def sort_places(where: str, found: Sequence[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], list[Rejected]]:
    """Places with plain clip ids, and those whose name cannot be one."""
    places, rejected = [], []
    for name, place in found:
        try:
            places.append((plain_name(name), place))
        except MediaError as error:
            rejected.append(Rejected(where, name, error.kind, error.message))
    return places, rejected


def checked(array: Any) -> Array:
    """An array of floats, in the machine's byte order.

    Raises:
        MediaError: It holds something else.
    """
    if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in FLOATS:
        what = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise bad("wrong-dtype", f"It holds {what}, not float16, float32 or float64.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def to_note(spec: EncoderSpec) -> str:
    """Note of a feature, as JSON, for layouts that have room for one."""
    fields = {"level": spec.level, "rows": spec.rows, "modality": spec.modality}
    return json.dumps({"feature": spec.name, "fingerprint": spec.fingerprint} | fields)


def from_note(text: str | bytes | None) -> dict[str, Any]:
    """Fields of a `Source` from such a note; nothing from anything else."""
    try:
        note = parse_own(text or "", "the note")
        name, fingerprint, level, rows, modality = (
            note[key] for key in ("feature", "fingerprint", "level", "rows", "modality")
        )
    except (UsageError, TypeError, KeyError):
        return {}
    if level not in LEVELS or not isinstance(rows, int | None):
        return {}
    return {
        "feature": str(name),
        "level": level,
        "rows": rows,
        "modality": str(modality),
        "declared": f"exported by emo from {name}@{fingerprint}",
    }


def times(t0_s: Any, hop_s: Any) -> tuple[float, float | None]:
    """Times as a layout keeps them, with NaN for no hop, as a `Record` has them."""
    return float(t0_s), None if hop_s is None or np.isnan(hop_s) else float(hop_s)


def kept_name(spec: EncoderSpec, name: str | None) -> str:
    """The name asked for, or the feature's own: for layouts that have room for everything.

    Raises:
        UsageError: It cannot be a name there.
    """
    try:
        return plain_name(name or spec.name)
    except MediaError as error:
        raise UsageError(f"{spec.key} cannot be called {name!r}: it is empty or holds a path separator.") from error
