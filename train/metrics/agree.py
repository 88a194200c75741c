"""`emo annotate agree`: two annotators, or two describers, on the same clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.annotations import ANNOTATION, annotations_of
from emo.featstore.errors import UsageError
from emo.featstore.page import Arg, Page, Table
from emo.featstore.reading import read_json
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import Workspace
from emo.train.metrics.emer import token_overlap

Notes = Mapping[str, Mapping[str, Any]]
TEXTS = ("smp_reason_caption", "caption", "audio_prior_list")


def agree_page(
    workspace: Workspace | None,
    first: Annotated[str, Arg("A JSON file of MERR's form, or records: annotation@FINGERPRINT.")],
    second: Annotated[str, Arg("The other one.")],
) -> Page:
    """Compare two sets of annotations of the same clips: labels, action units, frames, words of the clues."""
    one, two = read_notes(first, workspace), read_notes(second, workspace)
    clips = [name for name in one if name in two]
    if not clips:
        raise UsageError(f"{first} and {second} have no clip in common.", "Do their clips have the same names?")
    value = {
        "clips": len(clips),
        "only_first": len(one) - len(clips),
        "only_second": len(two) - len(clips),
        "labels": label_agreement([(_label(one[name]), _label(two[name])) for name in clips]),
        "units": unit_agreement([(_units(one[name]), _units(two[name])) for name in clips]),
        "peak_index": _frames(one, two, clips),
        "texts": _texts(one, two, clips),
    }
    labels, units = value["labels"], value["units"]
    rows = [
        ["label: share that is the same", labels["agreement"], labels["clips"]],
        ["label: Cohen's kappa", _shown(labels["kappa"]), labels["clips"]],
        ["action units: F1 over all", _shown(units["f1"]), units["clips"]],
        ["frame: share that is the same", value["peak_index"]["same"], value["peak_index"]["clips"]],
        *([f"{name}: overlap of words", each["overlap"], each["clips"]] for name, each in value["texts"].items()),
    ]
    per_unit = [[unit, _shown(each["f1"]), each["first"], each["second"]] for unit, each in units["by_unit"].items()]
    tables = [Table("Agreement", ("what", "value", "clips"), rows, ("value", "clips"))]
    columns = ("AU", "F1", "first", "second")
    tables += [Table("Action units", columns, per_unit, columns[1:])] if per_unit else []
    note = "Overlap of words is that of `emo score --metric emer` without a judge (proxy); kappa is Cohen's (1960)."
    return Page(value, [*tables, note], f"{len(clips):,} clips in common.")


def read_notes(text: str, workspace: Workspace | None) -> dict[str, Mapping[str, Any]]:
    """Read a file of annotations, or records of the workspace's store.

    Raises:
        UsageError: It is neither, or there are none.
    """
    if text.partition("@")[0] == ANNOTATION:
        if workspace is None:
            raise UsageError(f"{text} means records of a store, and there is no emo.toml here or above.")
        return annotations_of(open_store(workspace.store_path), text)
    content = read_json(Path(text))
    if not isinstance(content, dict) or not all(isinstance(each, dict) for each in content.values()):
        raise UsageError(f"{text} is not a JSON object of annotations.", "emo annotate check says what is wrong.")
    return content


def label_agreement(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the share of equal labels and Cohen's kappa (1960); kappa is `None` where chance alone would agree."""
    known = [(a, b) for a, b in pairs if a and b]
    if not known:
        return {"clips": 0, "agreement": None, "kappa": None}
    total = len(known)
    same = sum(a == b for a, b in known) / total
    first, second = Counter(a for a, _ in known), Counter(b for _, b in known)
    chance = sum(first[label] * second[label] for label in first) / total**2
    kappa = None if chance == 1 else (same - chance) / (1 - chance)
    return {"clips": total, "agreement": same, "kappa": kappa}


def unit_agreement(pairs: Sequence[tuple[set[str], set[str]]]) -> dict[str, Any]:
    """Return F1 of the action units that two name, over all clips and by unit; `None` where neither names any."""
    both, first, second = Counter[str](), Counter[str](), Counter[str]()
    for a, b in pairs:
        both.update(a & b)
        first.update(a)
        second.update(b)
    by_unit = {
        unit: {"f1": 2 * both[unit] / (first[unit] + second[unit]), "first": first[unit], "second": second[unit]}
        for unit in sorted(first | second)
    }
    named = first.total() + second.total()
    return {"clips": len(pairs), "f1": 2 * both.total() / named if named else None, "by_unit": by_unit}


def _texts(one: Notes, two: Notes, clips: Sequence[str]) -> dict[str, Any]:
    found = {}
    for name in TEXTS:
        pairs = {clip: (str(one[clip][name]), str(two[clip][name])) for clip in clips if _said(one, two, clip, name)}
        if pairs:
            found[name] = {"clips": len(pairs), "overlap": token_overlap(pairs)}
    return found


def _said(one: Notes, two: Notes, clip: str, name: str) -> bool:
    return bool(one[clip].get(name) and two[clip].get(name))


def _frames(one: Notes, two: Notes, clips: Sequence[str]) -> dict[str, Any]:
    known = [(one[clip].get("peak_index"), two[clip].get("peak_index")) for clip in clips]
    pairs = [(str(a), str(b)) for a, b in known if a is not None and b is not None]
    return {"clips": len(pairs), "same": sum(a == b for a, b in pairs) / len(pairs) if pairs else None}


def _label(note: Mapping[str, Any]) -> str:
    return str(note.get("pseu_emotion") or "").strip().lower()


def _units(note: Mapping[str, Any]) -> set[str]:
    given = note.get("AU_list")
    return set(map(str, given)) if isinstance(given, list) else set()


def _shown(value: float | None) -> Any:
    return "none" if value is None else value
