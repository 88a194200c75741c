"""Pages about the store and about datasets, as `emo store` and `emo data` show them.

Datasets are imported by the pages that need them: looking at a store does not wait for their readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from emo.featstore.errors import UsageError
from emo.featstore.page import Arg, Flag, Page, Table, throttle
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.featstore.text import counted, size_text
from emo.featstore.workspace import Workspace

READ_MOST = 2000  # clips whose faces the card of a store reads; more are sampled evenly

# ---- the store ------------------------------------------------------------------------------------------------------


def store_card(store: Store) -> Page:
    """Show the card of the store: features, recipes in words, counts, failures."""
    found = store.info()
    columns = ("feature", "profile", "ok", "failed", "rows", "size")
    rows = [
        [each["feature"], each["profile"], each["ok"], each["failed"], each["rows"], size_text(each["size_bytes"])]
        for each in found["features"]
    ]
    failures = ", ".join(f"{number:,} {kind}" for kind, number in found["failures"].items()) or "none"
    title = f"{found['path']}: {counted(found['clips'], 'clip')}; failures: {failures}"
    columns_beside = ("record", "kind", "ok", "failed", "size")
    beside = [
        [each["record"], each["kind"], each["ok"], each["failed"], size_text(each["size_bytes"])]
        for each in found["records"]
    ]
    tables = [Table(title, columns, rows, columns[2:])]
    tables += [Table("Records", columns_beside, beside, columns_beside[2:])] if beside else []
    words = {each["profile"]: each["meaning"] for each in found["features"]}
    lines = [*shared_content(store), *(f"{profile}: {text}" for profile, text in words.items())]
    found["faces"] = {}
    for spec in _face_tables(store):
        clips = store.clips()
        clips = clips[:: max(1, -(-len(clips) // READ_MOST))]
        kept = _kept_frames(store, spec, clips)
        if kept:
            share = float(np.mean([each.share for each in kept]))
            found["faces"][spec.key] = {"clips": len(kept), "kept_share": share}
            whose = f"of the frames with a face show the person that was taken (mean of {counted(len(kept), 'clip')})"
            lines.append(f"{spec.key}: {share:.1%} {whose}; worst first: emo store ls --faces")
    return Page(found, [*tables, *lines])


def shared_content(store: Store) -> list[str]:
    """Say, once for all features of which it is true, why there are fewer of them than clips that have them."""
    media = store.index.clip_media[: store.index.clip_count]
    said: dict[str, None] = {}
    for each in store.features():
        have = np.sort(media[store.has(each.spec)])
        different = min(len(have), 1 + int(np.count_nonzero(np.diff(have))))  # np.unique would load numpy.ma
        if copies := len(have) - different:
            who = "clip has" if copies == 1 else "clips have"
            whole = f"{counted(different, 'feature')} of {counted(len(have), 'clip')}"
            said[f"{whole}: {copies:,} {who} the same content as another"] = None
    return list(said)


@dataclass(frozen=True)
class KeptFrames:
    """How many of the frames of a clip that show a face show the person whose features the store has."""

    clip: str
    kept: int
    seen: int
    people: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.kept / self.seen


def _face_tables(store: Store) -> list[EncoderSpec]:
    return [each.spec for each in store.features() if each.spec.encoder == "faces" and each.ok]


def _kept_frames(store: Store, spec: EncoderSpec, clips: Sequence[str]) -> list[KeptFrames]:
    frame, track, chosen = (spec.recipe["columns"].index(name) for name in ("frame", "track", "chosen"))
    found = []
    for clip in np.array(clips)[store.has(spec, clips)].tolist():
        table = store.get(spec, clip).array
        frames, tracks = (len(np.unique(table[:, column])) for column in (frame, track))
        found.append(KeptFrames(clip, int(table[:, chosen].sum()), frames, tracks))
    return found


def _worst_faces(store: Store) -> Page:
    """Clips of which frames with a face were left out, most of them first."""
    value, parts = [], []
    for spec in _face_tables(store):
        kept = _kept_frames(store, spec, store.clips())
        worst = sorted((each for each in kept if each.share < 1), key=lambda each: (each.share, each.clip))
        rows = [[each.clip, each.kept, each.seen, each.people, f"{each.share:.1%}"] for each in worst]
        columns = ("clip", "kept frames", "frames with a face", "people", "share")
        title = f"{spec.key}: frames with a face were left out in {len(worst):,} of {len(kept):,} clips"
        parts.append(Table(title, columns, rows, columns[1:]) if rows else title)
        value += [{"feature": spec.key, **vars(each), "share": each.share} for each in worst]
    return Page(value, parts or ["The store has no tables of faces."])


def store_list(
    store: Store,
    feature: Annotated[str | None, Arg("Only clips that have this feature or record.")] = None,
    faces: Annotated[bool, Flag("Clips of which frames with a face were left out, the worst first.")] = False,
) -> Page:
    """List clips, and which features and records they have."""
    if faces and feature:
        raise UsageError("--faces lists clips by their faces and takes no feature.", "Run: emo store ls --faces")
    if faces:
        return _worst_faces(store)
    beside = store.features(records=True)
    if feature:
        specs = [_spec_of(store, feature)]
    else:
        specs = [each.spec for each in (*store.features(), *beside)]
    keys, clips = [spec.key for spec in specs], store.clips()
    has = {spec.key: store.has(spec, clips) for spec in specs}
    failed = {(each.feature, each.clip): each.kind for each in store.failures()}
    rows = [
        [clip, *("yes" if has[key][i] else failed.get((key, clip), "-") for key in keys)]
        for i, clip in enumerate(clips)
    ]
    if feature:
        rows = [row for row in rows if row[1] == "yes"]
    kept = {each.key for each in beside}
    value = []
    for clip, *marks in rows:
        there = [key for key, mark in zip(keys, marks, strict=True) if mark == "yes"]
        value.append(
            {
                "clip": clip,
                "features": [key for key in there if key not in kept],
                "records": [key for key in there if key in kept],
            }
        )
    names = [key.partition("@")[0] for key in keys]
    columns = ["clip", *(names if len(set(names)) == len(names) else keys)]
    return Page(value, [Table(counted(len(rows), "clip"), columns, rows)])


def store_health(
    store: Store, repair: Annotated[bool, Flag("Forget what is damaged, so that it is made again.")] = False
) -> Page:
    """Re-read every byte and compare it with its checksum."""
    problems = store.repair() if repair else store.verify()
    lines = [f"{each.where}: {each.what} {each.hint}" for each in problems]
    if repair and problems:
        lines.append("The store has forgotten what is damaged; extract again to make it anew.")
    lines = lines or [f"{store.path} is clean: every record is as it was committed"]
    return Page({"clean": not problems, "problems": problems}, lines, exit_code=4 if problems and not repair else 0)


def store_cleaned(
    store: Store, force: Annotated[bool, Flag("Also where nearly all would go and nothing says why.")] = False
) -> Page:
    """Remove what no commit names: remains of killed runs, replaced segments."""
    report = store.gc(force)
    gone = (report.segments, "segment"), (report.journals, "journal file"), (report.leftovers, "left-over")
    what = ", ".join(counted(*each) for each in gone)
    return Page(report, [f"removed {what}: {size_text(report.size_bytes)}"])


def store_dropped(
    store: Store, feature: Annotated[str, Arg("A feature or record, such as HL-UTT@9f2c1ab4: emo store info.")]
) -> Page:
    """Forget a feature, its failures too, by one commit; `emo store gc` frees the space."""
    spec = _spec_of(store, feature)
    count = store.drop(spec)
    what = f"dropped {spec.key} ({counted(count, 'clip')}); `emo store gc` frees the space"
    return Page({"feature": spec.key, "clips": count}, [what])


def _spec_of(store: Store, name: str) -> EncoderSpec:
    """Return the feature that a name means, or the kind of records."""
    beside = name.partition("@")[0] in [each.spec.name for each in store.features(records=True)]
    return store.resolve(name, beside)


def store_compacted(store: Store) -> Page:
    """Merge many small segments into few large ones."""
    report = store.compact()
    return Page(report, [f"merged {report.merged} segments into {report.written}; `emo store gc` frees the space"])


def store_copied(
    source: Annotated[str, Arg("The store: a path or a URL.")],
    target: Annotated[str, Arg("Its copy, likewise; one that is there is brought up to date.")],
    say: Callable[[str], None],
) -> Page:
    """Copy a store to another disk or bucket, checked; run again, it goes on."""
    report = open_store(source).copy_to(target, throttle(say))
    new = f"{counted(report.commits, 'commit')}, {counted(report.segments, 'segment')}"
    what = f"{new}, {size_text(report.size_bytes)}"
    return Page(report, [f"{report.target} is as {report.source} is; copied: {what}"])


# ---- datasets -------------------------------------------------------------------------------------------------------


def known_datasets() -> Page:
    """List the datasets that emo can read: what they are, how to get them, their terms."""
    from emo.featstore.datasets import card, dataset_names

    cards, broken = [], []
    for name in dataset_names():
        try:
            cards.append(card(name))
        except UsageError as error:  # of somebody else's package
            broken.append(str(error))
    return Page(cards, [*(each.text() for each in cards), *broken])


def data_check(
    workspace: Workspace, dataset: Annotated[str | None, Arg("A [data.NAME] table; default: all of them.")] = None
) -> Page:
    """Say how many clips are listed, present, labelled, and what is wrong."""
    from emo.featstore.datasets import open_dataset

    tables = [workspace.table(dataset)] if dataset or len(workspace.data) < 2 else list(workspace.data.values())
    checks = [open_dataset(table.name, table).check() for table in tables]
    parts: list[Table | str] = []
    for check in checks:
        rows = [*check.counts().items(), ("size on disk", size_text(check.size_bytes))]
        parts.append(Table(check.name, ("clips", "number"), rows, ("number",)))
        splits = [
            [s.name or "(no split)", s.listed, s.present, "" if s.published is None else s.published]
            for s in check.splits
        ]
        columns = ("split", "listed", "present", "published")
        parts += [Table("Splits", columns, splits, columns[1:])] if splits else []
        parts += [f"problem: {text}" for text in check.problems]
    return Page(checks, parts)
