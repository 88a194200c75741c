"""Import features that others extracted: whatever is wrong with a file is named, and the rest goes on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.errors import EmoError, MediaError, StoreError, UsageError
from emo.featstore.interop import find_layout, usable_layouts
from emo.featstore.interop.base import FLOATS, Found, Layout, Record, Rejected, Source, bad, checked
from emo.featstore.interop.trial import survives
from emo.featstore.spec import RECORD_LEVEL, EncoderSpec
from emo.featstore.storage.index import NO_MEDIA, Array
from emo.featstore.storage.records import encode
from emo.featstore.storage.store import Store
from emo.featstore.storage.writer import Writer, storable
from emo.featstore.text import counted

SAMPLE = 32  # records that are looked at to learn the width of a feature
COMMIT_CLIPS = 20_000
SAY_EVERY = 500
Say = Callable[[str], None]


@dataclass
class ImportedFeature:
    """Result of the import of one feature.

    Attributes:
        name: Its name there.
        feature: Its key in the store; empty where no record was usable.
        new: Clips that were read and stored now.
        present: Clips that the store had of this very import; a sample of them was compared.
        failed: Clips whose record was not taken.
        shapes: Records read, by shape; T stands for more than one row.
        longest: Most rows of a record.
        dtypes: Records read, by the dtype they had.
        zeros: Rows that are all zero, by clip.
        constant: Rows whose values are all the same but not zero, by clip.
        duplicates: Clips with the same record, to the bit and not zero; those that were present count too.
    """

    name: str
    feature: str = ""
    new: int = 0
    present: int = 0
    failed: int = 0
    shapes: dict[str, int] = field(default_factory=dict)
    longest: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    zeros: dict[str, int] = field(default_factory=dict)
    constant: dict[str, int] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    Attributes:
        path: Where it was read.
        layout: Of what kind it is.
        origin: What the features remember as their origin.
        store: The store.
        clips: Clips that have at least one of the features now.
        features: One by one.
        rejected: Records and files that were not taken, and why.
        notes: What else must be said.
    """

    path: str
    layout: str
    origin: str
    store: str
    clips: int
    features: list[ImportedFeature]
    rejected: list[Rejected]
    notes: list[str]


def import_features(
    store: Store,
    path: str | Path,
    layout: str | Layout | None = None,
    names: Mapping[str, str] | None = None,
    clips: Mapping[str, str] | None = None,
    origin: str | None = None,
    declared: str | None = None,
    say: Say = lambda sentence: None,
) -> ImportReport:
    """Imports features. Run again, it goes on where it stopped: what the store has of this import is not read again.

    An imported feature has the profile `imported` and its own fingerprint, of origin, layout, name there and declared
    recipe. It is kept under the media that its clip id means in the store, or under the id alone where there is none.
    Files that were exchanged under the same name are noticed in a sample, and said; the store keeps what it has.

    Args:
        store: Where to.
        path: File or folder.
        layout: A name of `layout_names()`, or the layout itself; looked for if `None`.
        names: Features to import, by their name there, and what to call them here; all if `None`.
        clips: Clip ids by their name there; a name that is not in it is the id.
        origin: Where the features come from, as they will remember it; the absolute path if `None`. Imports of the same
            origin, layout, name and declaration are one feature, wherever the files lie.
        declared: How the features were made, in the user's words.
        say: Told of progress.

    Raises:
        UsageError: No such layout, nothing to import, or a name that is not there.
        StoreError: The store cannot be written.
        StoreCorrupt: A record of an earlier import is damaged there.
    """
    path = Path(path)
    origin = origin or os.path.abspath(path)
    with ExitStack() as files:
        kind, found = find_in(path, layout, files)
        sources = _chosen(path, kind, found, names)
        take = _Take(store, kind.name, origin, clips or {}, declared, say)
        with store.writer(commit_every=COMMIT_CLIPS) as writer:
            for source, name in sources:
                take.source(writer, source, name)
    for part, spec in take.done:
        part.duplicates = _duplicates(store, spec)
    ids = store.clips()
    have = [store.has(spec, ids) for _, spec in take.done]
    return ImportReport(
        path=str(path),
        layout=kind.name,
        origin=origin,
        store=str(store.path),
        clips=int(np.any(have, axis=0).sum()) if have else 0,
        features=take.parts,
        rejected=[*found.rejected, *take.rejected],
        notes=[*found.notes, *take.notes],
    )


def find_in(path: Path, layout: str | Layout | None, files: ExitStack) -> tuple[Layout, Found]:
    """Return the layout of a file or folder, and what is in it; files that stay open are closed by the stack.

    Raises:
        UsageError: There is nothing, or nothing that emo can read.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist.")
    layouts, broken = ([find_layout(layout)], []) if layout is not None else usable_layouts()
    finds = [(each, found) for each in layouts if (found := _looked(each, path, files)) is not None]
    if finds:  # Emotion-LLaMA's folders can be some of MERTools' folders: what finds most has seen all
        most, found = max(finds, key=lambda each: len(each[1].sources))
        if most is not finds[0][0]:
            first = finds[0][0].name
            note = f"Part of it has the layout {first}: --layout {first} reads that part under its own names."
            found = replace(found, notes=[*found.notes, note])
        return most, replace(found, notes=[*found.notes, *broken]) if broken else found
    if path.is_dir() and not any(path.iterdir()):
        raise UsageError(f"{path} is an empty folder.")
    looked = "; ".join(each.looks_for for each in layouts)
    raise UsageError(f"There are no features in {path} that emo can read: looked for {looked}.", " ".join(broken))


def _looked(layout: Layout, path: Path, files: ExitStack) -> Found | None:
    """Return what a layout finds; whatever the library under it says of a damaged file ends here."""
    try:
        if layout.fragile(path):
            survives(path, layout.name)
        return layout.find(path, files)
    except EmoError:
        raise
    except Exception as error:
        raise UsageError(f"{path} cannot be read as {layout.name}: {_first_line(error)}.", "Copy it again.") from error


def read_place(source: Source, place: Any) -> Any:
    """Return one record; whatever the library under its layout says of a damaged file ends here."""
    try:
        return source.read(place)
    except EmoError:
        raise
    except Exception as error:
        raise bad("unreadable", f"It cannot be read: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    lines = str(error).split("\n")
    return lines[0][:200].strip(" .") or type(error).__name__


def _chosen(path: Path, layout: Layout, found: Found, names: Mapping[str, str] | None) -> list[tuple[Source, str]]:
    """The sources to import, each with its name here."""
    there = [source.name for source in found.sources]
    unknown = [name for name in names or {} if name not in there]
    if unknown:
        raise UsageError(f"{path} has no {', '.join(unknown)}.", f"It has {', '.join(there)}.")
    chosen = [
        (source, source.feature if names is None else names[source.name] or source.feature)
        for source in found.sources
        if names is None or source.name in names
    ]
    for source, name in chosen:
        if not name or "@" in name or "/" in name:
            raise UsageError(
                f"{name!r} cannot be the name of a feature.", f"Give {source.name} another: {source.name}=NAME."
            )
    if not found.rejected and not any(source.places for source, _ in chosen):
        said = " ".join(found.notes)
        raise UsageError(f"{path} has the layout {layout.name}, but no features in it. {said}".strip())
    return chosen


class _Take:
    """Takes one source after the other."""

    def __init__(
        self, store: Store, layout: str, origin: str, clips: Mapping[str, str], declared: str | None, say: Say
    ) -> None:
        self.store, self.layout, self.origin = store, layout, origin
        self.clips, self.declared, self.say = clips, declared, say
        self.parts: list[ImportedFeature] = []
        self.done: list[tuple[ImportedFeature, EncoderSpec]] = []
        self.rejected: list[Rejected] = []
        self.notes: list[str] = []

    def source(self, writer: Writer, source: Source, name: str) -> None:
        """Reads what the store lacks of a source."""
        part = ImportedFeature(source.name)
        self.parts.append(part)
        places = self._places(source, part)
        spec = self._known(source, name) or self._spec(source, name, places)
        if spec is None:
            for clip, place in places.items():
                try:
                    matrix(read_place(source, place))
                except MediaError as error:
                    self._reject(part, clip, error)
            return
        part.feature = spec.key
        self.done.append((part, spec))
        ids = list(places)
        has = self.store.has(spec, ids).tolist() if spec.fingerprint in self.store.index.tables else [False] * len(ids)
        part.present = sum(has)
        taken: dict[str, str] = {}  # clip by media, where that is known
        shared: list[str] = []
        for i, (clip, place) in enumerate(places.items()):
            if i % SAY_EVERY == 0:
                self.say(f"{source.name}: {i:,} of {len(places):,}")
            if has[i]:
                continue
            try:
                record = read_place(source, place)
                if spec.level == RECORD_LEVEL:
                    _check_value(spec, record, part, clip)
                else:
                    rows = _checked_rows(spec, record, part, clip)
            except MediaError as error:
                self._reject(part, clip, error)
                writer.fail(spec, clip, error)
                continue
            media = writer.name_clip(clip)
            if not media.startswith(NO_MEDIA) and taken.setdefault(media, clip) != clip:
                shared.append(f"{clip} = {taken[media]}")
                continue
            if spec.level == RECORD_LEVEL:
                writer.add_record(spec, media, record)
            else:
                writer.add(spec, media, rows, record.t0_s, record.hop_s)
            part.new += 1
        self._hold_against(source, spec, [each for each, there in zip(places.items(), has, strict=True) if there])
        if shared:
            pairs = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
            are = counted(len(shared), "clip is", "clips are")
            text = f"{source.name}: {are} the same media as another, whose record serves both"
            self.notes.append(f"{text}: {pairs}.")

    def _hold_against(self, source: Source, spec: EncoderSpec, present: list[tuple[str, Any]]) -> None:
        """Compare a sample of what an earlier import has taken with what the files hold now."""
        if spec.level == RECORD_LEVEL:
            return
        sample = present[:: max(1, -(-len(present) // SAMPLE))]
        other = [clip for clip, place in sample if not self._as_stored(source, spec, clip, place)]
        if other:
            self.notes.append(
                f"{source.name}: {len(other)} of {len(sample)} records that were looked at are not what an earlier "
                f"import took from here, such as {other[0]}; the store keeps that. To take the new ones: `emo store "
                f"drop {spec.key}`, and import again; or give them another --origin."
            )

    def _as_stored(self, source: Source, spec: EncoderSpec, clip: str, place: Any) -> bool:
        there = self.store.get(spec, clip).array  # where the store is damaged, that is said
        try:
            rows, _ = matrix(read_place(source, place))
            return np.array_equal(storable(spec, rows, clip), there)
        except (MediaError, StoreError):
            return False

    def _places(self, source: Source, part: ImportedFeature) -> dict[str, Any]:
        """One place per clip; a clip that is there twice is not taken."""
        places: dict[str, Any] = {}
        twice: Counter[str] = Counter()
        for name, place in source.places:
            clip = self.clips.get(name, name)
            if clip in places:
                twice[clip] += 1
            places[clip] = place
        for clip, more in twice.items():
            del places[clip]
            self._reject(part, clip, bad("duplicate-name", f"It is there {more + 1} times, and emo does not choose."))
        return places

    def _recipe(self, source: Source) -> dict[str, Any]:
        return {
            "imported_from": self.origin,
            "layout": self.layout,
            "name": source.name,
            "declared": self.declared or source.declared or "unknown",
            "stored_dtype": "source",
        }

    def _known(self, source: Source, name: str) -> EncoderSpec | None:
        """The feature of an earlier import of the same."""
        specs = (table.spec for table in self.store.index.tables.values())
        recipe = self._recipe(source)
        same = (spec for spec in specs if (spec.profile, spec.name, dict(spec.recipe)) == ("imported", name, recipe))
        return next(same, None)

    def _spec(self, source: Source, name: str, places: Mapping[str, Any]) -> EncoderSpec | None:
        """The feature that most of a sample are: width, and one row or several; `None` where no record is usable."""
        origin: dict[str, Any] = {"profile": "imported", "weights": "unknown", "recipe": self._recipe(source)}
        if source.level == RECORD_LEVEL:
            return EncoderSpec(name, source.encoder, source.modality, RECORD_LEVEL, 1, None, **origin)
        seen: list[tuple[int, bool]] = []
        order = list(places.values())
        for place in [*order[:: max(1, len(order) // SAMPLE)], *order]:
            if len(seen) >= min(SAMPLE, len(order)):
                break
            try:
                rows, _ = matrix(read_place(source, place))
            except MediaError:
                continue
            seen.append((rows.shape[1], len(rows) == 1))
        if not seen:
            return None
        dim = Counter(width for width, _ in seen).most_common(1)[0][0]
        single = [one for width, one in seen if width == dim]
        level = source.level or ("utt" if 2 * sum(single) > len(single) else "frame")
        rows_each = 1 if level == "utt" else source.rows
        return EncoderSpec(name, source.encoder, source.modality, level, dim, rows_each, **origin)

    def _reject(self, part: ImportedFeature, clip: str, error: MediaError) -> None:
        part.failed += 1
        self.rejected.append(Rejected(part.name, clip, error.kind, error.message))


def matrix(record: Record) -> tuple[Array, bool]:
    """Return the record as `(T, D)`, and whether it came as `(D,)`.

    Raises:
        MediaError: It is neither.
    """
    array = checked(record.array)
    while array.ndim > 2 and len(array) == 1:
        array = array[0]
    rows = array[None] if array.ndim == 1 else array
    if rows.ndim != 2:
        raise bad("wrong-shape", f"Its shape {record.array.shape} is neither (D,) nor (T, D).")
    if not rows.size:
        raise bad("empty", f"Its shape is {record.array.shape}: there is nothing in it.")
    return rows, array.ndim == 1


def _check_value(spec: EncoderSpec, value: Any, part: ImportedFeature, clip: str) -> None:
    """Check that a record can be kept, and count it.

    Raises:
        MediaError: It holds a number that is not finite, half a character, or too much.
    """
    try:
        encode(spec, clip, value)
    except StoreError as error:
        raise bad("no-json", error.message) from error
    part.dtypes["json"] = part.dtypes.get("json", 0) + 1


def _checked_rows(spec: EncoderSpec, record: Record, part: ImportedFeature, clip: str) -> Array:
    """The rows in the dtype in which they are kept; what is remarkable about them is noted.

    Raises:
        MediaError: They are not of this feature, or not finite.
    """
    source, flat = matrix(record)
    count, dim = source.shape
    shape = f"({dim},)" if flat else f"({'T' if count > 1 else 1}, {dim})"
    for counts, what in ((part.dtypes, FLOATS[source.dtype]), (part.shapes, shape)):
        counts[what] = counts.get(what, 0) + 1
    if dim != spec.dim:
        raise bad("wrong-width", f"It has {dim} columns where {spec.key} has {spec.dim}.")
    if spec.rows is not None and count != spec.rows:
        wanted = "an utterance has one" if spec.level == "utt" else f"{spec.key} has {spec.rows}"
        raise bad("wrong-shape", f"It has {count} rows where {wanted}.")
    rows = source
    if source.dtype != np.float32 and (spec.level == "utt" or source.dtype != np.float16):
        with np.errstate(over="ignore"):
            rows = source.astype(np.float32)
    low, high = rows.min(axis=1), rows.max(axis=1)  # NaN and infinity show in them
    if not np.isfinite((low, high)).all():
        nan, infinite = int(np.isnan(source).sum()), int(np.isinf(source).sum())
        counted = [
            f"{n} of its {source.size} values {what}" for n, what in ((nan, "are NaN"), (infinite, "are infinite")) if n
        ]
        raise bad("not-finite", f"{' and '.join(counted) or 'Some values are beyond float32'}.")
    part.longest = max(part.longest, count)
    same = low == high
    if same.any():
        zero = same & (low == 0)
        if zero.any():
            part.zeros[clip] = int(zero.sum())
        if zero.sum() < same.sum():
            part.constant[clip] = int(same.sum() - zero.sum())
    return rows


def _duplicates(store: Store, spec: EncoderSpec) -> list[list[str]]:
    """Clips whose records are the same to the bit, zeros aside: found by checksum, confirmed by reading."""
    if spec.fingerprint not in store.index.tables or spec.level == RECORD_LEVEL:
        return []
    index, table = store.index, store.index.tables[spec.fingerprint]
    records = table.records[table.live()]
    _, group, counts = np.unique(records[["rows", "crc"]], return_inverse=True, return_counts=True)
    suspect = records[counts[group] > 1]
    clips = {int(index.clip_media[row]): clip for clip, row in index.clips.items()} if len(suspect) else {}
    found: dict[bytes, list[str]] = {}
    for media in suspect["media"].tolist():
        clip = clips.get(media) or index.media_names[media].removeprefix(NO_MEDIA)
        array = store.get(spec, clip).array
        if array.any():
            found.setdefault(array.tobytes(), []).append(clip)
    return [sorted(same) for same in found.values() if len(same) > 1]
