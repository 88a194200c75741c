"""Annotations as files of other tools: MERR's JSON, the field's lists, ShareGPT conversations, csv."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emo.extract.annotate.merr import FIELDS
from emo.featstore.conversation import conversation
from emo.featstore.errors import UsageError
from emo.featstore.files import csv_text, replacing, write_atomic, write_json
from emo.featstore.text import some_of

Annotations = Mapping[str, Mapping[str, Any]]
QUESTION = "Please analyze all the clues in the video and reason out the emotional label of the person in the video."
INVALID_VALENCE = "-10"  # what MER2023's lists have where there is no valence


def merr_record(value: Mapping[str, Any], form: str) -> dict[str, Any]:
    """Return the eight fields of MERR, in its order and its types."""
    return {name: value[name] for name in FIELDS[form]}


def write_merr(annotations: Annotations, out: Path) -> list[Path]:
    """Write MERR's fine-grained JSON."""
    return _write_records(annotations, out, "fine")


def write_coarse(annotations: Annotations, out: Path) -> list[Path]:
    """Write MERR's coarse-grained JSON."""
    return _write_records(annotations, out, "coarse")


def _write_records(annotations: Annotations, out: Path, form: str) -> list[Path]:
    write_json(out, {name: merr_record(value, form) for name, value in annotations.items()})
    return [out]


def write_lists(annotations: Annotations, out: Path) -> list[Path]:
    """Write a folder as the training script of Emotion-LLaMA reads it.

    `MERR_fine_grained.txt` and `MERR_coarse_grained.txt` (`name frames label valence`), the JSON of the same names, and
    `transcription_en_all.csv` (`name,sentence`).
    """
    if lacking := [name for name, value in annotations.items() if value["frames"] is None]:
        sentence = f"The lists need the number of frames of each clip, and {some_of(lacking, 3)} came without one."
        raise UsageError(sentence, "Export --form merr, which has no such column.")
    lines = "".join(f"{n} {v['frames']} {v['pseu_emotion']} {INVALID_VALENCE}\n" for n, v in annotations.items())
    with replacing(out) as folder:
        folder.mkdir()
        for form in ("fine", "coarse"):
            (folder / f"MERR_{form}_grained.txt").write_text(lines, encoding="utf-8")
            records = {name: merr_record(value, form) for name, value in annotations.items()}
            text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
            (folder / f"MERR_{form}_grained.json").write_text(text, encoding="utf-8")
        rows = [("name", "sentence"), *((name, value["text"]) for name, value in annotations.items())]
        (folder / "transcription_en_all.csv").write_text(csv_text(rows), encoding="utf-8")
    return sorted(out.iterdir())


def write_sharegpt(annotations: Annotations, out: Path) -> list[Path]:
    """Write conversations as ms-swift, LLaMA-Factory and VideoLLaMA2 read them: one file, one question, one answer."""
    rows = [
        conversation(
            name, value.get("media") or f"{name}.mp4", QUESTION, value["text"] or "", value["smp_reason_caption"]
        )
        for name, value in annotations.items()
    ]
    write_json(out, rows)
    return [out]


def write_csv(annotations: Annotations, out: Path) -> list[Path]:
    """Write a csv with a row per clip; lists are joined by semicolons."""
    names = [*dict.fromkeys([*FIELDS["coarse"], *FIELDS["fine"]]), "scene", "frames"]
    rows: list[tuple[Any, ...]] = [("name", *names)]
    for clip, value in annotations.items():
        cells = [value.get(name, "") for name in names]
        rows.append((clip, *("; ".join(each) if isinstance(each, list) else each for each in cells)))
    write_atomic(out, csv_text(rows))
    return [out]


FORMS: Mapping[str, Callable[[Annotations, Path], list[Path]]] = {
    "merr": write_merr,
    "coarse": write_coarse,
    "lists": write_lists,
    "sharegpt": write_sharegpt,
    "csv": write_csv,
}


def write_form(annotations: Annotations, form: str, out: Path) -> list[Path]:
    """Write annotations in a form and return the files.

    Raises:
        UsageError: There is no such form, or the folder of the lists exists.
    """
    if form not in FORMS:
        raise UsageError(f"There is no form {form!r}.", f"Forms: {', '.join(FORMS)}.")
    if form == "lists" and out.exists():
        raise UsageError(f"{out} exists already.", "Name another folder for the lists.")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} is no folder.", "Make it, or name another place.")
    return FORMS[form](annotations, out)
