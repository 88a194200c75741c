"""MMSA: one pickle, `{"train" | "valid" | "test": {"id", "raw_text", "audio", "vision", "text", ...}}`.

Features are dense, `(N, L, D)`, shorter clips padded with zeros; `audio_lengths` and `vision_lengths` say how long each
is. Its loader (src/MMSA/data_loader.py) reads all three splits and all three features, `raw_text`, `id` and
`regression_labels`. Ids of MMSA-FET are `<video>$_$<clip>`; here they are `<video>_<clip>`, as in MERBench's labels.

The pickle is read without unpickling (`featstore/pickles.py`). It cannot be streamed: it is in memory as a whole.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets.cells import split_name
from emo.featstore.errors import UsageError
from emo.featstore.interop.base import (
    Export,
    Found,
    Layout,
    Outgoing,
    Record,
    Rejected,
    Source,
    bad,
    checked,
    from_note,
    sort_places,
    to_note,
)
from emo.featstore.pickles import Damaged, Refused, read_pickle
from emo.featstore.reading import read_bytes
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.index import Array
from emo.featstore.text import counted

SUFFIXES = (".pkl", ".pickle")
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
MODALITIES = {"audio": "audio", "vision": "face", "text": "text"}  # name there -> modality here
NOTES = "emo"  # key beside the splits


def find(path: Path, files: ExitStack) -> Found | None:
    """The features of all splits of a pickle."""
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        return None
    table = _load(path)
    splits = {name: table[name] for name in SPLITS if isinstance(table.get(name), dict)}
    if not any("id" in split for split in splits.values()):
        return None
    notes = table.get(NOTES)
    sources: list[Source] = []
    rejected: list[Rejected] = []
    for name in MODALITIES:
        source, unusable = _source(name, splits, notes.get(name) if isinstance(notes, dict) else None)
        if source.places or unusable:
            sources.append(source)
            rejected += unusable
    return Found(sources, rejected) if sources else None


def _load(path: Path) -> dict[Any, Any]:
    try:
        table, _ = read_pickle(read_bytes(path))
    except Refused as error:
        hint = "It is not loaded: a pickle of features holds words, numbers and numpy arrays only."
        raise UsageError(f"{path} is refused: {error}.", hint) from error
    except Damaged as error:
        raise UsageError(f"{path} is damaged: {error}.", "Copy it again.") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path} holds no dictionary of the splits train, valid and test.")
    return table


def _source(name: str, splits: Mapping[str, Any], note: Any) -> tuple[Source, list[Rejected]]:
    found: list[tuple[str, tuple[Any, int | None, int]]] = []
    rejected: list[Rejected] = []
    utterances = True
    for split, parts in splits.items():
        if name not in parts:
            continue
        where, array, ids = f"{split}/{name}", parts[name], list(parts.get("id", ()))
        if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or len(array) != len(ids):
            what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            rejected.append(Rejected(name, where, "wrong-shape", f"It is {what}, not ({len(ids)}, L, D)."))
            continue
        utterances &= array.ndim == 2 or array.shape[1] == 1
        lengths = _lengths(name, parts, len(ids))
        found += [
            (str(clip).replace("$_$", "_"), (array, lengths[i] if lengths else None, i)) for i, clip in enumerate(ids)
        ]
    places, unusable = sort_places(name, found)
    fields = {"feature": name, "level": "utt" if utterances else "frame", "modality": MODALITIES[name]}
    return Source(name, places, _read, **fields | from_note(note)), rejected + unusable


def _lengths(name: str, parts: Mapping[str, Any], n: int) -> list[int] | None:
    """Rows of each clip, where something says so: its own lengths, or BERT's mask (row 1 of `text_bert`)."""
    given = parts.get(f"{name}_lengths")
    mask = parts.get("text_bert")
    if (
        given is None
        and isinstance(mask, np.ndarray)
        and mask.ndim == 3
        and mask.shape[1:] == (3, parts[name].shape[1])
    ):
        given = mask[:, 1].sum(axis=1)
    if given is None or len(given) != n:
        return None
    return [int(each) for each in given]


def _read(place: tuple[Array, int | None, int]) -> Record:
    array, length, i = place
    rows = checked(array)[i]
    if length is None or rows.ndim == 1 or length >= len(rows):  # MMSA-FET cuts what is longer
        return Record(rows)
    if not rows[length:].any():
        return Record(rows[:length])
    if not rows[: len(rows) - length].any():  # padding_location="start"
        return Record(rows[len(rows) - length :])
    raise bad("wrong-length", f"It has more rows that are not zero than its length {length} says.")


def name_there(spec: EncoderSpec, name: str | None) -> str:
    """Audio, vision or text."""
    there = {here: there for there, here in MODALITIES.items()} | {"frame": "vision"}
    name = name or there.get(spec.modality, "")
    if name not in MODALITIES:
        text = f"{spec.key} is neither audio, vision nor text to MMSA."
        raise UsageError(text, f"Say which, for instance {spec.name}=audio.")
    return name


def write(path: Path, export: Export) -> Sequence[str]:
    """Writes the pickle; clips without valence, or of no split that MMSA knows, are left out and counted."""
    absent = [name for name in MODALITIES if name not in [each.name for each in export.features]]
    if absent:
        raise UsageError(f"MMSA's loader reads audio, vision and text; there is no {' and no '.join(absent)}.")
    whole = set.intersection(*(set(each.clips) for each in export.features))
    splits: dict[str, list[tuple[Clip, float]]] = {"train": [], "valid": [], "test": []}
    left = 0
    became: dict[str, list[str]] = {}  # spellings here by the split there
    for clip in export.clips.values():
        split = next((there for here, there in SPLITS.items() if split_name(clip.split).startswith(here)), None)
        if split and clip.id in whole and clip.label is not None and clip.label.valence is not None:
            splits[split].append((clip, clip.label.valence))
            became.setdefault(split, []).append(clip.split)
        else:
            left += 1
    if not any(splits.values()):
        text = "No clip has all three features, a valence, and a split that MMSA knows (train, valid, test)."
        raise UsageError(text, "Export the clips of a dataset.")
    notes = [f"Split {name} has no clip; MMSA's loader wants some." for name, clips in splits.items() if not clips]
    for name, spellings in became.items():
        if len(found := Counter(spellings)) > 1:
            parts = ", ".join(f"{split} ({count:,})" for split, count in found.items())
            notes.append(f"Split {name} is several here: {parts}. A score on it is over all of them together.")
    if left:
        are = counted(left, "clip is", "clips are")
        notes.append(f"{are} left out, for lack of a feature, a valence, or a split that MMSA knows.")
    for feature in export.features:
        feature.clips = [clip.id for clips in splits.values() for clip, _ in clips]
    table: dict[str, Any] = {name: _split(clips, export.features) for name, clips in splits.items()}
    table[NOTES] = {each.name: to_note(each.spec) for each in export.features}
    with open(path, "xb") as file:
        pickle.dump(table, file, protocol=4)
    return notes


def _split(clips: Sequence[tuple[Clip, float]], features: Sequence[Outgoing]) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "id": [clip.id for clip, _ in clips],
        "raw_text": [clip.transcripts.get("english") or clip.transcripts.get("chinese", "") for clip, _ in clips],
        "regression_labels": np.array([valence for _, valence in clips], np.float32),
    }
    for feature in features:
        rows, dtype = feature.rows()
        longest = int(rows.max())
        padded = np.zeros((len(clips), longest, feature.spec.dim), dtype)
        lengths = []
        for place, (clip, _) in zip(padded, clips, strict=True):
            array = feature.record(clip.id).array
            place[: len(array)] = array
            lengths.append(len(array))
        parts |= {feature.name: padded, f"{feature.name}_lengths": lengths}
    return parts


LAYOUT = Layout(
    "mmsa",
    "a pickle of the splits train, valid and test with id, audio, vision and text",
    find,
    name_there,
    write,
    suffixes=SUFFIXES,
    keeps_dtypes=False,
    whole_clips=True,
)
