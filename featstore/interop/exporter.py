"""Export features in the layout that another tool's loader reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets.lookup import changed_note, is_another
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.files import replacing
from emo.featstore.interop import find_layout
from emo.featstore.interop.base import Export, FirstFrame, Layout, Outgoing, plain_name
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.maintain import BESIDE
from emo.featstore.storage.store import Store
from emo.featstore.text import counted, some_of
from emo.featstore.transcripts import of_other_texts

DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class ExportedFeature:
    """One feature that was written: its key, its name there, its clips, and how many of the clips asked for lack it."""

    feature: str
    name: str
    clips: int
    lacking: int
    dtype: str


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        path: What was written.
        layout: Of what kind it is.
        store: The store.
        clips: Clips that have at least one of the features.
        features: One by one.
        left_out: Features that were not written, and why.
        notes: What else must be said.
    """

    path: str
    layout: str
    store: str
    clips: int
    features: list[ExportedFeature]
    left_out: dict[str, str]
    notes: list[str]


def export_features(
    store: Store,
    path: str | Path,
    layout: str | Layout,
    features: Sequence[str] | Mapping[str, str | None] | None = None,
    clips: Sequence[str] | Sequence[Clip] | None = None,
    dtype: str | None = None,
    first_frame: FirstFrame | None = None,
) -> ExportReport:
    """Exports features. What is at `path` afterwards is whole; interrupted, there is nothing.

    A clip that lacks a feature is absent there too; nothing is filled in.

    Args:
        store: Where they lie.
        path: File or folder to make; an empty folder will do.
        layout: A name of `layout_names()`, or the layout itself.
        features: Names, also with the name to give each there; all that the layout has a place for if `None`. Of
            layout `records`, names of records.
        clips: Ids, or clips of a dataset, whose labels, splits and transcripts are written where the layout has them;
            all of the store if `None`. Those whose names mean other clips in the store are left out, and named.
        dtype: float16, float32 or float64; as stored if `None`.
        first_frame: As in `Export`.

    Raises:
        UsageError: Nothing to write, no such layout, something is there already, or that tool could not read it.
        StoreError: A feature is not in the store, or cannot be read.
    """
    path = Path(path)
    kind, given = _layout(path, layout, dtype), features is not None
    if features is None:
        features = [each.key for each in store.features(kind.records) if each.spec.encoder not in BESIDE]
    asked: Mapping[str, str | None] = features if isinstance(features, Mapping) else dict.fromkeys(features)
    all_of_them = clips if clips is not None else store.clips()
    known = {clip.id: clip for clip in (each if isinstance(each, Clip) else Clip(each) for each in all_of_them)}
    known, notes = _plain(known)
    if others := [clip.id for clip in known.values() if is_another(store, clip)]:
        notes.append(f"Left out: {some_of(others)}: the store knows other clips by these names.")
        for id_ in others:
            del known[id_]
    going, left_out = _chosen(store, kind, asked, list(known), dtype, given)
    if not going:
        none = f"The store has no {'records' if kind.records else 'features'}."
        raise UsageError(f"Nothing was exported. {' '.join([*notes, *left_out.values()]) or none}")
    notes += _out_of_date(store, going, known)
    notes += _written(path, kind, Export(going, known, first_frame))
    return ExportReport(
        path=str(path),
        layout=kind.name,
        store=str(store.path),
        clips=len(set().union(*(each.clips for each in going))),
        features=[
            ExportedFeature(each.spec.key, each.name, len(each.clips), len(known) - len(each.clips), each.dtype)
            for each in going
        ],
        left_out=left_out,
        notes=notes,
    )


def _out_of_date(store: Store, going: Sequence[Outgoing], clips: Mapping[str, Clip]) -> Iterator[str]:
    """Say which clips of a dataset have features of other files or transcripts than it gives them now."""
    names = set().union(*(each.clips for each in going))
    told = [clip for clip in clips.values() if clip.dataset and clip.id in names]
    if changed := changed_note(store, told):
        yield changed
    for each in going:
        if others := of_other_texts(store, each.spec, told):
            have = counted(len(others), "clip has another transcript", "clips have other transcripts")
            yield f"{have} than the one that {each.spec.key} was made of: {some_of(others)}. Run emo extract."


def _chosen(
    store: Store, layout: Layout, asked: Mapping[str, str | None], ids: list[str], dtype: str | None, given: bool
) -> tuple[list[Outgoing], dict[str, str]]:
    """Return the features to write, and why each of the others is left out; `given` says that a user named them."""
    left_out: dict[str, str] = {}
    going: list[Outgoing] = []
    for name, wanted in asked.items():
        spec = store.resolve(name, layout.records)
        try:
            there = layout.name_there(spec, wanted)
        except UsageError as error:
            left_out[spec.key] = str(error)
            continue
        have = [ids[i] for i in np.flatnonzero(store.has(spec, ids)).tolist()]
        if not have:
            left_out[spec.key] = f"None of the clips ({len(ids):,}) has {spec.key}."
            continue
        other = next((each for each in going if each.name == there), None)
        worse = _imported_of(other, spec) if other is not None and not given else None
        if other is not None and worse is not None:
            left_out[worse.key] = (
                f"{worse.key} was imported, and an extracted feature has its name; name it to export it."
            )
            if worse is spec:
                continue
            going.remove(other)
            other = None
        if other is not None:
            text = f"{other.spec.key} and {spec.key} would both be called {there}."
            raise UsageError(text, "Name the features to export, or give one another name.")
        going.append(Outgoing(store, spec, there, have, dtype))
    return going, left_out


def _imported_of(other: Outgoing, spec: EncoderSpec) -> EncoderSpec | None:
    """Return the one of two features that was imported, where the other was extracted."""
    imported = [each for each in (other.spec, spec) if each.profile == "imported"]
    return imported[0] if len(imported) == 1 else None


def _layout(path: Path, layout: str | Layout, dtype: str | None) -> Layout:
    kind = find_layout(layout)
    if dtype is not None and kind.records:
        raise UsageError("Records are JSON values, which have no dtype.", "Leave --dtype out.")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"There is no dtype {dtype!r} for features.", f"Dtypes: {', '.join(DTYPES)}.")
    if kind.suffixes and path.suffix not in kind.suffixes:
        raise UsageError(f"{path.name} is to be a file {' or '.join('*' + each for each in kind.suffixes)}.")
    if path.exists() and not (path.is_dir() and not kind.suffixes and not any(path.iterdir())):
        raise UsageError(f"{path} exists already.", "Choose another path.")
    return kind


def _plain(clips: Mapping[str, Clip]) -> tuple[dict[str, Clip], list[str]]:
    """Clips whose ids can be names of files, so that nothing is written beside the path."""
    plain, notes = {}, []
    for clip in clips.values():
        try:
            plain_name(clip.id)
            clip.id.encode()
            plain[clip.id] = clip
        except UnicodeEncodeError:
            notes.append(f"Left out: The name {clip.id!r} holds half a character, which no file can hold.")
        except MediaError as error:
            notes.append(f"Left out: {error.message}")
    return plain, notes


def _written(path: Path, layout: Layout, export: Export) -> list[str]:
    """Writes beside the path and renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as built:
        return list(layout.write(built, export))
