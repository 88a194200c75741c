"""Pages about imports and exports, as `emo store import` and `emo store export` show them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.lookup import clips_of
from emo.featstore.datasets.tables import read_csv, rows_by_name
from emo.featstore.errors import EmoError
from emo.featstore.interop import find_layout, layout_names
from emo.featstore.interop.base import FirstFrame
from emo.featstore.interop.exporter import ExportReport, export_features
from emo.featstore.interop.importer import ImportedFeature, ImportReport, import_features
from emo.featstore.page import Arg, Flag, Page, Table
from emo.featstore.storage.store import Store, open_store
from emo.featstore.text import counted, some_of
from emo.featstore.workspace import Workspace

SHOWN = 5  # examples named; the JSON has all


def import_page(report: ImportReport) -> Page:
    """Page of an import: what was taken, what is remarkable about it, and what was not taken."""
    columns = ("there", "here", "new", "present", "rejected", "shapes", "dtypes")
    rows = [
        [each.name, each.feature or "-", each.new, each.present, each.failed, _shapes(each), _counts(each.dtypes)]
        for each in report.features
    ]
    parts: list[Table | str] = [Table(f"{report.path}: {report.layout}", columns, rows, columns[2:5])]
    for each in report.features:
        parts += _remarks(each)
    kinds: dict[str, list[str]] = {}
    for each_ in report.rejected:
        kinds.setdefault(each_.kind, []).append(f"{each_.where}/{each_.name}: {each_.sentence}")
    for kind, sentences in kinds.items():
        parts += [f"not taken, {kind} ({len(sentences):,}):", *(f"  {text}" for text in _some(sentences))]
    parts += report.notes
    new, bad = sum(each.new for each in report.features), len(report.rejected)
    have = counted(report.clips, "clip has", "clips have")
    verdict = f"{counted(new, 'record')} imported into {report.store}; {have} features of {report.origin}"
    return Page(report, parts, f"{verdict}; {bad:,} not taken" if bad else verdict, exit_code=3 if bad else 0)


def _remarks(part: ImportedFeature) -> Iterable[str]:
    if part.dtypes.get("float64"):
        yield f"{part.name}: float64 is kept as float32."
    for what, found in (("all zero", part.zeros), ("constant", part.constant)):
        if found:
            clips = some_of(found, SHOWN)
            rows = counted(sum(found.values()), "row")
            are = "are" if sum(found.values()) > 1 else "is"
            yield f"{part.name}: {rows} of {counted(len(found), 'clip')} {are} {what}: {clips}."
    if part.duplicates:
        groups = some_of([" = ".join(each) for each in part.duplicates], SHOWN)
        yield f"{part.name}: {sum(map(len, part.duplicates)):,} clips share their record with another: {groups}."


def _shapes(part: ImportedFeature) -> str:
    return _counts(part.shapes) + (f"; T up to {part.longest:,}" if part.longest > 1 else "")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} x {what}" for what, n in counts.items()) or "-"


def _some(texts: Sequence[str]) -> list[str]:
    return [*texts[:SHOWN], *([f"and {len(texts) - SHOWN:,} more"] if len(texts) > SHOWN else [])]


def export_page(report: ExportReport) -> Page:
    """Page of an export: what was written, and what was not."""
    columns = ("feature", "there", "clips", "lacking", "dtype")
    rows = [[each.feature, each.name, each.clips, each.lacking, each.dtype] for each in report.features]
    parts: list[Table | str] = [
        Table(f"{report.path}: {report.layout}", columns, rows, columns[2:4]),
        *(f"not exported: {why}" for why in report.left_out.values()),
        *report.notes,
    ]
    return Page(
        report, parts, f"{counted(len(rows), 'feature')} of {counted(report.clips, 'clip')} exported to {report.path}"
    )


# ---- commands -------------------------------------------------------------------------------------------------------


def import_command(
    workspace: Workspace,
    say: Callable[[str], None],
    path: Annotated[Path, Arg("File or folder with features of another tool, or a .jsonl of records.")],
    layout: Annotated[
        str | None, Flag(f"How it is laid out: {', '.join(layout_names())}. Default: looked for.")
    ] = None,
    feature: Annotated[list[str] | None, Flag("THEIRS or THEIRS=OURS; may be repeated. Default: all.")] = None,
    clips: Annotated[Path | None, Flag("csv with name and clip: their names of clips, and yours.")] = None,
    origin: Annotated[str | None, Flag("Where the features come from. Default: the path.")] = None,
    declared: Annotated[str | None, Flag("How they were made, in your words. Default: unknown.")] = None,
) -> Page:
    """Import features of another tool; they never pass for ones that emo extracted.

    Raises:
        EmoError: As `import_features`.
    """
    names = {theirs: ours or theirs for theirs, _, ours in (each.partition("=") for each in feature or ())}
    ids = None
    if clips is not None:
        ids = {name: row.fields["clip"] for name, row in rows_by_name(clips, read_csv(clips, ["name", "clip"])).items()}
    store = open_store(workspace.store_path, create=True)
    report = import_features(store, path, layout, names or None, ids, origin, declared, say)
    return import_page(replace(report, notes=[*report.notes, *_strangers(workspace, store, report)]))


def _strangers(workspace: Workspace, store: Store, report: ImportReport) -> Iterable[str]:
    """Say which of the imported clips no dataset lists, where datasets can be read: names are often spelt otherwise."""
    listed: Collection[str] = ()
    with suppress(EmoError):
        listed = clips_of(workspace).keys()
    ids, keys = store.clips(), [each.feature for each in report.features if each.new + each.present]
    records = find_layout(report.layout).records
    there = np.any([store.has(store.resolve(key, records), ids) for key in keys if key], axis=0)
    mine = [ids[i] for i in np.flatnonzero(there).tolist()]
    if listed and (strange := [id_ for id_ in mine if id_ not in listed]):
        are = counted(len(strange), "clip is", "clips are")
        yield (
            f"{are} in no dataset of emo.toml, of {len(mine):,} with these features: {some_of(strange, SHOWN)}. Where "
            "they are spelt otherwise there, --clips FILE gives them your names."
        )


def export_command(
    workspace: Workspace,
    first_frame: FirstFrame,
    path: Annotated[Path, Arg("File or folder to make.")],
    layout: Annotated[str, Flag(f"One of {', '.join(layout_names())}.")],
    feature: Annotated[list[str] | None, Flag("OURS or OURS=THEIRS; may be repeated. Default: all that fit.")] = None,
    dataset: Annotated[str | None, Flag("Only clips of this dataset, with its labels and transcripts.")] = None,
    split: Annotated[str | None, Flag("Only this split of it.")] = None,
    dtype: Annotated[str | None, Flag("float16, float32 or float64. Default: as stored.")] = None,
) -> Page:
    """Export features as another tool's own loader reads them.

    Raises:
        EmoError: As `export_features`.
    """
    store = open_store(workspace.store_path)
    names = {ours: theirs or None for ours, _, theirs in (each.partition("=") for each in feature or ())}
    chosen: list[Clip] | None = None
    if dataset is not None or split is not None:
        table = workspace.table(dataset)
        source = open_dataset(table.name, table)
        wanted = source.find_split(split) if split is not None else None
        stored = set(store.clips())
        chosen = [each for each in source.clips() if each.id in stored and wanted in (None, each.split)]
    return export_page(export_features(store, path, layout, names or None, chosen, dtype, first_frame))
