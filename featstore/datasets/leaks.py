"""Clips that a test set shares with what is trained on: by name, by content of the media, by likeness of a feature."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from emo.featstore.address import Address, address, seen
from emo.featstore.clip import Clip, MediaId
from emo.featstore.datasets import find_labels, open_dataset
from emo.featstore.datasets.cells import held_out
from emo.featstore.datasets.lists import SHOWN, names_of
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.fetch import at_hand
from emo.featstore.page import Flag, Page, Table
from emo.featstore.search import nearest_rows
from emo.featstore.storage.index import NO_MEDIA
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import counted, some_of
from emo.featstore.workspace import Workspace

Array: TypeAlias = npt.NDArray[Any]
# (queries (Q, D), base (B, D)), rows of length 1 -> cosine (Q,) and row in `base` (Q,) of the nearest
Nearest: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
Role: TypeAlias = Literal["train", "held out", "fold", "unlabelled"]

THRESHOLD = 0.99
ROUNDING = 1e-6  # two equal float32 vectors are at 1 but for this

# Known cases: beginnings of the names of the datasets that they concern, and what is known. Sources: Emotion-LLaMA
# issues 44 and 71; the published lists of MER2023, MERR, EMER and MER2024-OV, compared by name; MERTools, iemocap.py.
KNOWN = (
    (
        ("MER2023",),
        "MERR and the pseudo-label lists of Emotion-LLaMA are drawn from the pool of MER2023-SEMI, as test3 is. The "
        "published MERR_fine_grained.json names no labelled clip of MER2023; name your own list to have it checked.",
    ),
    (
        ("MER2023", "MER2024", "EMER"),
        "All 100 clips of EMER v1 and all 332 of EMER v2 and MER2024-OV are clips of MER2023's train_corpus: a model "
        "trained on that has seen them, with their label.",
    ),
    (
        ("MER2023", "MER2024"),
        "MER2024 trains on 5,030 labelled clips, and MER2023 with its tests has 5,030 labelled clips: put both into "
        "one workspace before a model of the one is scored on the other.",
    ),
    (
        ("IEMOCAP",),
        "MERBench chooses the epoch on the session that it reports: its published numbers are not of unseen data.",
    ),
)


@dataclass(frozen=True)
class Group:
    """The clips of one split, or of one annotation file.

    Attributes:
        dataset: Name of the dataset; of a file its name.
        split: Name of the split; empty for a file.
        role: `fold` for the splits of a dataset that has none to test on: each is held out in turn. `unlabelled` for
            clips that nothing can be learned from as they are.
        ids: Clip names.
    """

    dataset: str
    split: str
    role: Role
    ids: tuple[str, ...]

    @property
    def name(self) -> str:
        """`MER2023 test3`; `MER2023 unlabelled, no labels`."""
        return f"{self.dataset} {self.split}".strip() + (", no labels" if self.role == "unlabelled" else "")


@dataclass(frozen=True)
class Overlap:
    """Clips that two groups share.

    Attributes:
        by: How it was found.
        held_out: The group to be tested on, where there is one.
        other: The other.
        leak: Whether the one is tested on and the other trained on.
        pairs: Clip of the one, clip of the other, and their cosine (1 for a name or a content).
    """

    by: Literal["name", "content", "feature"]
    held_out: str
    other: str
    leak: bool
    pairs: tuple[tuple[str, str, float], ...]


@dataclass
class Found:
    """Leaks that were found, what was checked, and what could not be."""

    overlaps: list[Overlap] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)


def leaks_page(
    workspace: Workspace,
    lists: Sequence[Path] = (),
    feature: str | None = None,
    threshold: float = THRESHOLD,
    nearest: Nearest = nearest_rows,
) -> Page:
    """Look for clips that are both tested on and trained on, in all datasets of a workspace.

    Args:
        workspace: Its datasets, and its store where there is one.
        lists: Annotation files that are trained on, such as `MERR_fine_grained.json` or `MER2023_pseudo_label.txt`.
        feature: Utterance feature in which near-duplicates are looked for; none if `None`.
        threshold: Cosine from which on two clips count as near-duplicates.
        nearest: The search.

    Returns:
        A page whose exit code is 1 where there is a leak.

    Raises:
        UsageError: No dataset, an unreadable list, a threshold that is no cosine.
        StoreError: The feature is not in the store.
    """
    if not workspace.data:
        raise UsageError(f"{workspace.root} has no dataset to look into.", 'Add [data.NAME] with root = "...".')
    if not 0 < threshold <= 1:
        raise UsageError(f"A threshold of {threshold:g} is no cosine above 0.", "Give one up to 1, such as 0.99.")
    store = open_store(workspace.store_path) if feature or has_store(workspace.store_path) else None
    named = [Group(path.name, "", "train", tuple(names_of(path))) for path in lists]
    groups, clips = _groups(workspace, {id_ for group in named for id_ in group.ids})
    groups += named
    found = Found()
    if not any(group.role in ("held out", "fold") for group in groups):
        found.not_checked.append("leaks: no split of these datasets is tested on, so there is nothing to look for")
    by_name(groups, found)
    by_content(groups, clips, store, found)
    if feature and store is not None:
        by_feature(groups, store, feature, threshold, nearest, found)
    else:
        found.not_checked.append("near-duplicates: no feature was named to look for them in")
    if not lists:
        found.not_checked.append("annotation files: none was named")
    return _page(workspace, found, _lying_about(groups, found))


def _lying_about(groups: Sequence[Group], found: Found) -> list[str]:
    """Say which clips that are tested on lie elsewhere without a label: no leak as they are."""
    tested = {group.name for group in groups if group.role in ("held out", "fold")}
    bare = {group.name for group in groups if group.role == "unlabelled"}
    clips: dict[str, set[tuple[str, str]]] = {}
    for each in found.overlaps:
        if each.held_out in tested and each.other in bare:
            clips.setdefault(each.other, set()).update((each.held_out, pair[0]) for pair in each.pairs)
    one, many = "clip that is tested on is", "clips that are tested on are"
    return [
        f"{counted(len(those), one, many)} also in {name}: no leak as things are, but one as soon as that is trained "
        "on, by pseudo-labels for instance"
        for name, those in clips.items()
    ]


def _groups(workspace: Workspace, named: Collection[str]) -> tuple[list[Group], dict[tuple[str, str], Clip]]:
    """All splits of all datasets, and clips by (dataset, id); who is `named` by a list is trained on by it."""
    groups, clips = [], {}
    for table in workspace.data.values():
        dataset = open_dataset(table.name, table)
        members = dataset.members()
        own = {clip.id: clip for clip in dataset.clips()}
        clips.update({(table.name, id_): clip for id_, clip in own.items()})
        told = {id_ for id_, clip in own.items() if clip.label is not None or clip.annotations or id_ in named}
        real = [split for split in members if split and split != dataset.pool]
        held = [split for split in real if held_out(split, real)]
        folds = not held and len(real) > 1
        for split, ids in members.items():
            role: Role = "held out" if split in held else "fold" if folds and split in real else "train"
            bare = tuple(id_ for id_ in ids if id_ not in told) if role == "train" else ()
            if len(bare) < len(ids):
                rest = ids if not bare else [id_ for id_ in ids if id_ in told]
                groups.append(Group(table.name, split, role, tuple(rest)))
            if bare:
                groups.append(Group(table.name, split, "unlabelled", bare))
    return groups, clips


def _across(one: Group, other: Group) -> bool:
    """Say whether a clip of both is a leak: one is tested on, the other trained on."""
    if one.role == other.role == "fold":
        return one.dataset == other.dataset and one is not other
    if "unlabelled" in (one.role, other.role):
        return False
    return one.role != other.role


def _ordered(one: Group, other: Group) -> tuple[Group, Group]:
    """The held-out one first."""
    rank = ("held out", "fold", "train", "unlabelled")
    return (one, other) if rank.index(one.role) <= rank.index(other.role) else (other, one)


# ---- the three ways -------------------------------------------------------------------------------------------------


def by_name(groups: Sequence[Group], found: Found) -> None:
    """Clips of one name in two groups. Names that are common to two datasets may mean different clips."""
    names = {id(group): set(group.ids) for group in groups}
    for pair in combinations(groups, 2):
        one, other = _ordered(*pair)
        both = [name for name in one.ids if name in names[id(other)]]
        if both:
            pairs = tuple((name, name, 1.0) for name in both)
            found.overlaps.append(Overlap("name", one.name, other.name, _across(one, other), pairs))
    clips = len(set().union(*names.values()))
    where = counted(len(groups), "split or file", "splits and files")
    found.checked.append(f"names: {clips:,} in {where}; one name in two datasets is taken for one clip")


def by_content(
    groups: Sequence[Group], clips: Mapping[tuple[str, str], Clip], store: Store | None, found: Found
) -> None:
    """Media of the same bytes under different names. The store knows the content of what was extracted, even where the
    file is gone; of other files only those are read that have the size of another."""
    owners: dict[Address | MediaId, list[tuple[Group, str]]] = {}
    sizes: dict[int, list[Address | MediaId]] = {}
    absent: set[str] = set()
    unreadable: list[Address] = []
    for group in groups:
        for id_ in group.ids:
            clip = clips.get((group.dataset, id_))
            if clip is None:
                continue  # a name in an annotation file
            row = store.clip_row(id_) if store is not None and clip.media is None else None
            key: Address | MediaId | None = clip.media or (row[0] if row and not row[0].startswith(NO_MEDIA) else None)
            if key is None:
                absent.add(id_)
            elif key in owners:
                owners[key].append((group, id_))
            else:
                try:
                    sizes.setdefault(row[2] if row else seen(key)[0], []).append(key)
                    owners[key] = [(group, id_)]
                except OSError:
                    unreadable.append(address(key))
    same: dict[MediaId, list[tuple[Group, str]]] = {}
    read = 0
    for key in (key for keys in sizes.values() if len(keys) > 1 for key in keys):
        try:
            media, is_read = (key, False) if isinstance(key, str) else _media(store, key)
        except (OSError, MediaError):
            unreadable.append(address(key))
            continue
        read += is_read
        same.setdefault(media, []).extend(owners[key])
    pairs: dict[tuple[str, str, bool], list[tuple[str, str, float]]] = {}
    for those in same.values():
        for (one, a), (other, b) in combinations(those, 2):
            if one is not other and a != b:
                first = _ordered(one, other)[0] is one
                names = (one.name, other.name) if first else (other.name, one.name)
                pairs.setdefault((*names, _across(one, other)), []).append((a, b, 1.0) if first else (b, a, 1.0))
    for (tested, seen_in, leak), twins in pairs.items():
        found.overlaps.append(Overlap("content", tested, seen_in, leak, tuple(dict.fromkeys(twins))))
    if owners:
        found.checked.append(f"content: {len(owners):,} media, {read:,} of them read for it")
    if absent:
        found.not_checked.append(
            f"content: {counted(len(absent), 'clip has', 'clips have')} no media, here or in the store"
        )
    if unreadable:
        found.not_checked.append(f"content: {len(unreadable):,} files cannot be read, such as {unreadable[0]}")


def _media(store: Store | None, path: Address) -> tuple[MediaId, bool]:
    """Content hash of a file, and whether it had to be read."""
    known = store.file_of(path) if store is not None else None
    with at_hand(path) as media:
        return (known or media.file_id()).media, known is None


def by_feature(
    groups: Sequence[Group], store: Store, feature: str, threshold: float, nearest: Nearest, found: Found
) -> None:
    """For each held-out clip the nearest clip of what is trained on, where their cosine is at least the threshold."""
    spec = store.resolve(feature)
    have = dict(zip(clips := store.clips(), store.has(spec, clips), strict=True))
    lacking = {id_ for group in groups for id_ in group.ids if not have.get(id_, False)}
    best: list[Array] = []
    flat: set[str] = set()
    for tested, others in _rounds(groups):
        queries = [id_ for id_ in tested.ids if id_ not in lacking]
        seen = set(tested.ids)
        owner = {id_: other.name for other in reversed(others) for id_ in other.ids}
        base = [id_ for id_ in owner if id_ not in lacking and id_ not in seen]
        if not queries or not base:
            continue
        wanted = {*queries, *base}
        (queries, asked), (base, known) = _unit(store, feature, queries), _unit(store, feature, base)
        flat |= wanted - {*queries, *base}
        if not queries or not base:
            continue
        cosine, row = nearest(asked, known)
        best.append(np.asarray(cosine))
        pairs: dict[str, list[tuple[str, str, float]]] = {}
        for i in np.flatnonzero(np.asarray(cosine) >= threshold - ROUNDING):
            twin = base[int(row[i])]
            pairs.setdefault(owner[twin], []).append((queries[i], twin, min(1.0, round(float(cosine[i]), 6))))
        for name, close in pairs.items():
            close.sort(key=lambda pair: -pair[2])
            found.overlaps.append(Overlap("feature", tested.name, name, True, tuple(close)))
    if best:
        cosines = np.concatenate(best)
        usual = f"the nearest is at {np.median(cosines):.3f} in the median, {cosines.max():.3f} at most"
        found.checked.append(
            f"near-duplicates in {spec.key} from cosine {threshold:g}: {len(cosines):,} clips, {usual}"
        )
        if spec.profile in ("tiny", "random"):
            found.not_checked.append(
                f"near-duplicates by sight or sound: {spec.key} is of profile {spec.profile}, whose random networks "
                "find many clips alike that are not"
            )
    else:
        found.not_checked.append(f"near-duplicates: no held-out clip and no other has {spec.key}")
    if best and lacking:
        found.not_checked.append(
            f"near-duplicates: {counted(len(lacking), 'clip does', 'clips do')} not have {spec.key}"
        )
    if flat:
        found.not_checked.append(
            f"near-duplicates: {counted(len(flat), 'clip is', 'clips are')} zero or not finite in {spec.key}"
        )


def _rounds(groups: Sequence[Group]) -> Iterator[tuple[Group, list[Group]]]:
    """Each group that is held out, with those that are trained on then."""
    for group in groups:
        if group.role != "train":
            others = [other for other in groups if _across(group, other) and _ordered(group, other)[0] is group]
            yield group, others


def _unit(store: Store, feature: str, ids: list[str]) -> tuple[list[str], Array]:
    """Clips and their vectors at length 1 `(N, D)`, without those that have no direction."""
    rows = store.utterances(feature, ids)
    with np.errstate(all="ignore"):
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        good = np.flatnonzero(np.isfinite(length[:, 0]) & (length[:, 0] > 0))
    return [ids[i] for i in good], rows[good] / length[good]


# ---- what is said ---------------------------------------------------------------------------------------------------


def _page(workspace: Workspace, found: Found, bare: Sequence[str]) -> Page:
    known = [text for names, text in KNOWN if any(name.startswith(names) for name in workspace.data)]
    leaks = [each for each in found.overlaps if each.leak]
    leaked = {(each.held_out, pair[0]) for each in leaks for pair in each.pairs}
    columns = ("by", "tested on", "also in", "clips", "leak", "such as")
    order = sorted(found.overlaps, key=lambda each: not each.leak)
    rows = [
        [each.by, each.held_out, each.other, len(each.pairs), "yes" if each.leak else "no", _examples(each)]
        for each in order
    ]
    parts: list[Table | str] = [Table("Clips in common", columns, rows, ("clips",))] if rows else []
    parts += [f"checked: {text}." for text in found.checked]
    parts += [f"not checked: {text}." for text in found.not_checked]
    parts += [f"without label: {text}." for text in bare]
    parts += [f"known: {text}" for text in known]
    verdict = (
        f"{counted(len(leaked), 'clip is', 'clips are')} tested on and trained on"
        if leaked
        else "no leak in what was checked"
    )
    value = {
        "leaks": len(leaked),
        "overlaps": order,
        "checked": found.checked,
        "not_checked": found.not_checked,
        "without_label": list(bare),
        "known": known,
    }
    return Page(value, parts, verdict, exit_code=1 if leaked else 0)


def _examples(overlap: Overlap) -> str:
    said = [a if a == b else f"{a} = {b}" for a, b, _ in overlap.pairs]
    if overlap.by == "feature":
        said = [f"{a} ~ {b} ({cosine:.4f})" for a, b, cosine in overlap.pairs]
    return some_of(said, SHOWN)


def leaks_command(
    workspace: Workspace,
    lists: Annotated[
        list[str] | None, Flag("An annotation file that is trained on; may be repeated.", "--list")
    ] = None,
    feature: Annotated[str | None, Flag("Look for near-duplicates by this feature, such as HL-UTT.")] = None,
    threshold: Annotated[float, Flag("Cosine from which on two clips are near-duplicates.")] = THRESHOLD,
    dataset: Annotated[str | None, Flag("Look for the lists in this [data.NAME] table only.")] = None,
) -> Page:
    """Find clips that are tested on and trained on: by name, by content, and by likeness.

    Raises:
        UsageError: As `leaks_page`, or a list is nowhere.
    """
    return leaks_page(workspace, [find_labels(each, dataset=dataset) for each in lists or ()], feature, threshold)
