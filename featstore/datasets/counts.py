"""How many clips a dataset has, by split and label, beside the numbers that are published: `emo data counts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.base import Dataset
from emo.featstore.page import Arg, Page, Table
from emo.featstore.workspace import DataTable, Workspace

ALL = "all"
WIDE = 12  # with more labels or splits than this, labels are counted over all splits


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split, listed and present; a clip that several lists name is counted in each.

    Attributes:
        split: Its name; `all` for the whole dataset, each clip counted once.
        clips: All of it.
        present: Clips with a media file.
        labelled: Clips with a label.
        transcripts: Clips with a transcript.
        annotated: Clips with open annotations.
        labels: Clips by emotion word, in the order of the dataset's labels.
        valence: Least and greatest, or `None` where no clip has one.
        valence_zero: Clips whose valence is exactly 0.
        known: Published number of clips.
        result: `equal` or `differs`, of the number of clips and of each label as far as they are published; `not all
            here` for an unlabelled pool, which only the media can show; empty where nothing is published.
    """

    split: str
    clips: int
    present: int
    labelled: int
    transcripts: int
    annotated: int
    labels: Mapping[str, int]
    valence: tuple[float, float] | None
    valence_zero: int
    known: int | None
    result: str


@dataclass(frozen=True)
class DatasetCounts:
    """Counts of one dataset; `result` is `differs` where any split's is, else `equal`, or empty if nothing is known."""

    dataset: str
    root: Path
    splits: tuple[SplitCounts, ...]
    absent: tuple[str, ...]
    result: str


def count(dataset: Dataset, root: Path) -> DatasetCounts:
    """Count a dataset; its media are listed, not opened."""
    by_id = {clip.id: clip for clip in dataset.clips()}
    members = dataset.members()
    splits = [_split(dataset, split, [by_id[id_] for id_ in ids]) for split, ids in members.items()]
    if len(splits) > 1 or ALL in dataset.card.classes:
        splits.append(_split(dataset, ALL, list(by_id.values())))
    results = {each.result for each in splits}
    result = next((word for word in ("differs", "equal") if word in results), "")
    absent = tuple(split for split in dataset.card.counts if split not in members and split != dataset.pool)
    return DatasetCounts(dataset.name, root, tuple(splits), absent, result)


def _split(dataset: Dataset, split: str, clips: Sequence[Clip]) -> SplitCounts:
    labels = [clip.label for clip in clips if clip.label is not None]
    words = Counter(label.emotion for label in labels if label.emotion is not None)
    valences = [label.valence for label in labels if label.valence is not None]
    found = {word: words[word] for word in (*dataset.labels, *sorted(set(words) - set(dataset.labels)))}
    known = dataset.card.counts.get(split)
    classes = dataset.card.classes.get(split)
    pairs = [] if known is None else [(len(clips), known)]
    pairs += zip(found.values(), classes, strict=False) if classes else []
    result = "" if not pairs else "equal" if all(a == b for a, b in pairs) else "differs"
    if result == "differs" and split and split == dataset.pool:
        result = "not all here"
    return SplitCounts(
        split=split,
        clips=len(clips),
        present=sum(clip.media is not None for clip in clips),
        labelled=len(labels),
        transcripts=sum(bool(clip.transcripts) for clip in clips),
        annotated=sum(bool(clip.annotations) for clip in clips),
        labels={word: number for word, number in found.items() if number or word in dataset.card.labels},
        valence=(min(valences), max(valences)) if valences else None,
        valence_zero=valences.count(0.0),
        known=known,
        result=result,
    )


def counts_page(
    workspace: Workspace | DataTable,
    dataset: Annotated[str | None, Arg("A [data.NAME] table; default: all of them.")] = None,
) -> Page:
    """Count clips by split and label, with transcript and valence, beside the published numbers.

    Args:
        workspace: A workspace, or one table of it.
        dataset: Which of the workspace's datasets; all of them if `None`.

    Raises:
        UsageError: No such dataset, or its files cannot be read.
    """
    if isinstance(workspace, DataTable):
        tables = [workspace]
    else:
        one = dataset is not None or len(workspace.data) < 2
        tables = [workspace.table(dataset)] if one else list(workspace.data.values())
    found = [count(open_dataset(table.name, table), table.root) for table in tables]
    verdict = "; ".join(_verdict(each) for each in found)
    return Page(found, [part for each in found for part in _parts(each)], verdict)


def _parts(found: DatasetCounts) -> list[Table | str]:
    annotated = any(each.annotated for each in found.splits)
    columns = [
        "split",
        "clips",
        "present",
        "labelled",
        "text",
        *(["annotated"] if annotated else []),
        "known",
        "result",
    ]
    rows = [
        [each.split or "(no split)", each.clips, each.present, each.labelled, each.transcripts]
        + ([each.annotated] if annotated else [])
        + ["" if each.known is None else each.known, each.result]
        for each in found.splits
    ]
    parts: list[Table | str] = [Table(f"{found.dataset} ({found.root})", columns, rows, columns[1:-1])]
    parts += _labels(found)
    rated = [each for each in found.splits if each.valence is not None]
    if rated:
        values = [[each.split, *(each.valence or ()), each.valence_zero] for each in rated]
        columns = ["split", "lowest", "highest", "zero"]
        parts.append(Table("Valence", columns, values, columns[1:]))
    return parts


def _labels(found: DatasetCounts) -> list[Table | str]:
    """Clips by label and split; of many splits or many labels the totals, largest first."""
    words = list(dict.fromkeys(word for each in found.splits for word in each.labels))
    if not words:
        return []
    shown = [each for each in found.splits if each.labels]
    if len(words) > WIDE or len(shown) > WIDE // 2:
        total = Counter({word: sum(s.labels.get(word, 0) for s in found.splits if s.split != ALL) for word in words})
        return [Table("Labels", ("label", "clips"), total.most_common(), ("clips",))]
    columns = ["label", *(each.split or "(no split)" for each in shown)]
    rows = [[word, *(each.labels.get(word, 0) for each in shown)] for word in words]
    return [Table("Labels", columns, rows, columns[1:])]


def _verdict(found: DatasetCounts) -> str:
    if not found.result:
        return f"{found.dataset}: no published counts to compare with"
    if found.result == "equal":
        but = f", but for {', '.join(found.absent)}: nothing is listed of it" if found.absent else ""
        return f"{found.dataset}: equal to the published counts{but}"
    which = ", ".join(each.split for each in found.splits if each.result == "differs")
    return f"{found.dataset}: differs from the published counts in {which}"
