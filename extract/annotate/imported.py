"""`emo annotate import`: results of MER-Factory, and files of MERR's form, as records of the store.

MER-Factory leaves `NAME/NAME_merr_data.json`, and OpenFace's table beside it:

    {"source_path": "clips/NAME.mp4", "chronological_emotion_peaks": ["Peak at 0.52s: happy (strong), sad (slight)"],
     "overall_peak_frame_info": {"frame_number": 14, "timestamp": 0.52, "top_aus_intensities": {"AU06_r": 2.1}},
     "coarse_descriptions_at_peak": {"visual_expression": "Cheek raiser (intensity: 2.10)", "visual_objective": "...",
     "audio_analysis": "...", "video_content": "..."}, "final_summary": "...", "ground_truth_label": "happy"}

Its frames are OpenFace's, which count from 1; ours count from 0. Its label is that of the strongest frame, and a result
whose peaks do not name it is refused: its own exporter takes the first peak then.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

from emo.extract.annotate.actions import CODE, PRESENCES, phrases_of
from emo.extract.annotate.clip import COARSE, FINE, coarse_text
from emo.extract.annotate.expression import named_units
from emo.extract.annotate.merr import FIELDS, faults, read_merr
from emo.extract.annotate.openface import read_table, table_bytes
from emo.featstore.annotations import ANNOTATION
from emo.featstore.datasets.tables import normal_name
from emo.featstore.errors import EmoError, UsageError
from emo.featstore.files import digest
from emo.featstore.page import Arg, Page, Table
from emo.featstore.reading import read_json
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import open_store
from emo.featstore.text import some_of
from emo.featstore.workspace import Workspace

RESULT = "_merr_data.json"  # end of the name of a result of MER-Factory
RULES = "mer-factory"
SAME_S = 0.1  # a peak this near to the strongest frame's time is its peak, as MER-Factory has it
PEAK = re.compile(r"Peak at\s+(\d+(?:\.\d+)?)s:\s*([^,(]+)")
INTENSITY = re.compile(r"\s*\(intensity:[^)]*\)")
NOTHING = ("", "n/a")


@dataclass
class Results:
    """Annotations of another tool.

    Attributes:
        form: `mer-factory` or `merr`.
        source: Name of the folder or file.
        values: Annotations by clip.
        dropped: Names that are not taken, by reason.
    """

    form: str
    source: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def take(self, name: str, read: Callable[[], dict[str, Any]]) -> None:
        """Keep what is read for a clip, or the reason why it cannot be used."""
        try:
            value = read()
        except EmoError as error:
            self.drop(error.message, name)
            return
        if name in self.values:
            self.drop("comes twice", name)
            return
        self.values[name] = {**value, "of": digest(json.dumps(value, sort_keys=True).encode())}

    def drop(self, reason: str, name: str) -> None:
        """Count a name that is not taken."""
        self.dropped.setdefault(reason, []).append(name)


def read_results(path: Path) -> Results:
    """Read annotations of another tool.

    Args:
        path: MER-Factory's output folder, one of its results, or a JSON file of MERR's form.

    Raises:
        UsageError: It is none of these.
    """
    if path.is_dir():
        files = sorted(path.rglob(f"*{RESULT}"))
        if not files:
            raise UsageError(f"{path} holds no results of MER-Factory (*{RESULT}).", "Name its output folder.")
        return _factory(files, path.name)
    if path.name.endswith(RESULT):
        return _factory([path], path.name)
    return _merr(path)


# ---- MER-Factory -----------------------------------------------------------------------------------------------------


def _factory(files: list[Path], source: str) -> Results:
    results = Results(RULES, source)
    for path in files:
        name = path.name.removesuffix(RESULT)
        try:
            value = read_json(path)
        except UsageError:
            results.drop("is no JSON", name)
            continue
        results.take(_name(value, name), lambda path=path, value=value: factory_value(value, path))  # type: ignore[misc]
    return results


def _name(value: Any, otherwise: str) -> str:
    source = value.get("source_path") if isinstance(value, dict) else None
    return PureWindowsPath(source).stem if isinstance(source, str) and source else otherwise  # takes both slashes


def factory_value(value: Any, path: Path) -> dict[str, Any]:
    """Return an annotation from a result of MER-Factory.

    Raises:
        UsageError: The result lacks something; the message is short, as many results can share it.
    """
    info = _object(value, "overall_peak_frame_info")
    said = _object(value, "coarse_descriptions_at_peak")
    caption, frame = _text(value, "final_summary"), info.get("frame_number")
    if not caption:
        raise UsageError("final_summary is empty")
    if type(frame) is not int or frame < 1:
        raise UsageError("frame_number is no frame, counted from 1")
    units = _units(info)
    own = value.get("ground_truth_label")
    label = str(own).strip().lower() if own else _label(value, info)
    words = dict(zip(units, _phrases(said, units), strict=True))
    named = named_units(units, label, RULES)
    clues = {"scene": _text(said, "visual_objective"), "voice": _text(said, "audio_analysis"), "text": ""}
    clues["expression"] = ", ".join(words[unit] for unit in named)
    return {
        "AU_list": named,
        "visual_prior_list": [words[unit] for unit in named],
        "audio_prior_list": clues["voice"],
        "peak_index": str(frame - 1),
        "peak_AU_list": units,
        "pseu_emotion": label,
        "text": "",
        COARSE: coarse_text(clues, "en") or caption,
        FINE: caption,
        "scene": clues["scene"],
        "frames": _frames(path),
        "label_from": "dataset" if own else "rules",
    }


def _object(value: Any, name: str) -> Mapping[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise UsageError(f"{name} is missing")
    return found


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    text = found.strip() if isinstance(found, str) else ""
    return "" if text.lower() in NOTHING else text


def _units(info: Mapping[str, Any]) -> list[str]:
    strengths = info.get("top_aus_intensities")
    if not isinstance(strengths, dict):
        raise UsageError("top_aus_intensities is missing")
    units = sorted(
        name.removesuffix("_r") for name, each in strengths.items() if isinstance(each, (int, float)) and each > 0
    )
    if strange := [unit for unit in units if not CODE.fullmatch(unit) or unit not in PRESENCES]:
        raise UsageError(f"{strange[0]} is no action unit of OpenFace")
    return units


def _label(value: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    peaks, time_s = value.get("chronological_emotion_peaks"), info.get("timestamp")
    if not isinstance(peaks, list) or not all(isinstance(each, str) for each in peaks):
        raise UsageError("chronological_emotion_peaks is no list of texts")
    if peaks == ["neutral"]:
        return "neutral"
    for each in peaks:
        found = PEAK.match(each)
        if found and isinstance(time_s, (int, float)) and abs(float(found[1]) - time_s) < SAME_S:
            return found[2].strip().lower()
    raise UsageError("no emotion is named at the strongest frame")


def _phrases(said: Mapping[str, Any], units: list[str]) -> list[str]:
    """Return a phrase per unit: MER-Factory's own, which stand in the order of the units, else the plain FACS names."""
    parts = [each.strip() for each in INTENSITY.sub("", _text(said, "visual_expression")).split(",")]
    if len(parts) == len(units) and all(parts):
        return parts
    return [next(iter(phrases_of(unit, "facs")), unit) for unit in units]


def _frames(path: Path) -> int | None:
    """Return how many frames OpenFace's table beside a result counts; `None` without one that can be read."""
    table = path.with_name(path.name.removesuffix(RESULT) + ".csv")
    if not table.is_file():
        return None
    try:
        return read_table(table_bytes(table), table).frames
    except EmoError:
        return None


# ---- MERR's form -----------------------------------------------------------------------------------------------------


def _merr(path: Path) -> Results:
    entries = read_merr(path)
    results = Results("merr", path.name)
    for name in entries.twice:
        results.drop("comes twice", name)
    for name in entries.strange:
        results.drop("is no object", name)
    for name, record in entries.records.items():
        results.take(name, lambda record=record: merr_value(record, entries.form))  # type: ignore[misc]
    return results


def merr_value(record: Mapping[str, Any], form: str) -> dict[str, Any]:
    """Return an annotation from a record of MERR's form; the caption of the other grain is empty.

    Raises:
        UsageError: The record is not of that form.
    """
    if wrong := faults(record, form):
        raise UsageError(wrong[0])
    value = {name: record[name] for name in FIELDS[form]}
    return {COARSE: "", FINE: "", **value, "scene": "", "frames": None, "label_from": "file"}


# ---- the command -----------------------------------------------------------------------------------------------------


def import_page(
    workspace: Workspace,
    file: Annotated[Path, Arg("MER-Factory's output folder, one of its results, or a JSON file of MERR's form.")],
) -> Page:
    """Take annotations of another tool into the store, where training, export and agree read them."""
    results = read_results(file)
    if not results.values:
        reasons = "; ".join(f"{len(names)}: {reason}" for reason, names in results.dropped.items())
        raise UsageError(f"{file} has no annotation that can be used. {reasons}.", "Is it MER-Factory's, or MERR's?")
    inputs = {"form": results.form, "from": results.source}
    spec = record_spec(ANNOTATION, "annotation", f"imported:{results.form}", inputs=inputs, profile="imported")
    store = open_store(workspace.store_path, create=True)
    here = {} if not any(each.spec == spec for each in store.features(records=True)) else store.records(spec)
    new = 0
    with store.writer() as writer:
        for name, value in results.values.items():
            media = writer.name_clip(normal_name(name))
            if here.get(normal_name(name)) != value:
                writer.add_record(spec, media, value)
                new += 1
    labels = Counter(value["pseu_emotion"] for value in results.values.values())
    value = {
        "file": str(file),
        "form": results.form,
        "record": spec.key,
        "annotations": len(results.values),
        "new": new,
        "dropped": {reason: {"clips": len(names), "names": names} for reason, names in results.dropped.items()},
        "labels": dict(labels.most_common()),
    }
    rows = [[reason, len(names), some_of(names, 3)] for reason, names in results.dropped.items()]
    parts: list[Table | str] = [Table("Not taken", ("why", "clips", "for example"), rows, ("clips",))] if rows else []
    parts.append(Table("Labels", ("label", "clips"), [list(each) for each in labels.most_common()], ("clips",)))
    verdict = f"{len(results.values):,} annotations of {file}: {new:,} new, as {spec.key}."
    return Page(value, parts, verdict, 3 if rows else 0)
