"""Records as JSON lines: transcripts, answers of describers, annotations; the one layout that is emo's own.

    {"record": "whisper.transcript", "clips": 834, "fingerprint": "...", "spec": {...}}  what made them, once per kind
    {"record": "whisper.transcript", "clip": "sample_00000338", "value": ...}            one line per clip

The lines with `spec` may be absent: any tool can write the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emo.featstore.errors import UsageError
from emo.featstore.interop.base import Export, Found, Layout, Rejected, Source, kept_name, sort_places
from emo.featstore.reading import parse_json, read_text
from emo.featstore.spec import RECORD_LEVEL

SUFFIX = ".jsonl"


def find(path: Path, files: ExitStack) -> Found | None:
    """The kinds of records in a file; a line that is none is named, and the others are read."""
    if path.suffix != SUFFIX or not path.is_file():
        return None
    heads: dict[str, Mapping[str, Any]] = {}
    values: dict[str, list[tuple[str, Any]]] = {}
    rejected: list[Rejected] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # not splitlines: texts may hold U+2028
        try:
            if line.strip():
                _sort_line(parse_json(line, str(path), line=number), heads, values)
        except UsageError as error:
            rejected.append(Rejected(path.name, f"line {number}", "no-record", error.message))
    if not values:
        return None  # JSON lines of something else
    sources = []
    for name, found in values.items():
        places, unusable = sort_places(name, found)
        sources.append(_source(name, places, heads.get(name)))
        rejected += unusable
        if len(found) != (count := heads.get(name, {}).get("clips", len(found))):
            why = f"The file holds {len(found):,} of its {count} records."
            rejected.append(Rejected(path.name, name, "truncated", why))
    return Found(sources, rejected)


def _sort_line(line: Any, heads: dict[str, Mapping[str, Any]], values: dict[str, list[tuple[str, Any]]]) -> None:
    """Keep a line as the head of a kind of records, or as a clip and its value.

    Raises:
        UsageError: It is neither.
    """
    match line:
        case {"record": str(name), "fingerprint": str(), "spec": {"name": str(), "encoder": str()}}:
            heads[name] = line
            values.setdefault(name, [])
        case {"record": str(name), "clip": str(clip), "value": value}:
            values.setdefault(name, []).append((clip, value))
        case _:
            raise UsageError("It has no record, clip and value.")


def _source(name: str, places: list[tuple[str, Any]], head: Mapping[str, Any] | None) -> Source:
    spec = head["spec"] if head else {"name": name, "encoder": "unknown"}
    made = {"fingerprint": head["fingerprint"], **spec} if head else None
    declared = f"exported by emo: {json.dumps(made, sort_keys=True, ensure_ascii=False)}" if made else None
    level = modality = RECORD_LEVEL
    return Source(name, places, lambda value: value, spec["name"], level, None, modality, spec["encoder"], declared)


def write(path: Path, export: Export) -> Sequence[str]:
    """Writes one file."""
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        for kind in export.features:
            head = {"record": kind.name, "clips": len(kind.clips), "fingerprint": kind.spec.fingerprint}
            file.write(json.dumps({**head, "spec": asdict(kind.spec)}, ensure_ascii=False) + "\n")
            for clip in kind.clips:
                line = {"record": kind.name, "clip": clip, "value": kind.value(clip)}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return []


LAYOUT = Layout(
    "records",
    "a file *.jsonl of records, each line with record, clip and value",
    find,
    kept_name,
    write,
    suffixes=(SUFFIX,),
    records=True,
)
