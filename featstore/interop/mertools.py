"""MERTools / MERBench: `features/<feature>-UTT/<clip>.npy`, one folder per feature.

Utterances are `(D,)`, frames `(T, D)` in folders named `-FRA` or `_FRA`; float16, float32 or float64. Its loader opens
`<features>/<feature>/<clip>.npy`, drops axes of length one, gives an utterance a leading axis, and casts to float32
(toolkit/utils/read_data.py, toolkit/data/feat_data.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from emo.featstore.errors import UsageError
from emo.featstore.interop.base import Export, Found, Layout, Rejected, Source, kept_name
from emo.featstore.interop.npy import holds_npy, list_npy, read_npy, write_npy
from emo.featstore.spec import EncoderSpec

LEVELS = {"UTT": "utt", "FRA": "frame"}
_NAMED = re.compile(r".+[-_](UTT|FRA)")


def find(path: Path, files: ExitStack) -> Found | None:
    """Folders of .npy files: the path itself, those in it, or those in its `features/`."""
    if not path.is_dir():
        return None
    if holds_npy(path):
        folders = [path]
    else:
        root = path / "features" if (path / "features").is_dir() else path
        folders = sorted(
            each for each in root.iterdir() if each.is_dir() and (_NAMED.fullmatch(each.name) or holds_npy(each))
        )
    sources: list[Source] = []
    rejected: list[Rejected] = []
    for folder in folders:
        places, unusable = list_npy(folder, folder.name)
        named = _NAMED.fullmatch(folder.name)
        level = LEVELS[named[1]] if named else None
        sources.append(Source(folder.name, places, read_npy, folder.name, level))
        rejected += unusable
    empty = [f"{each.name} is empty." for each in sources if not each.places]
    return Found(sources, rejected, empty) if sources else None


def name_there(spec: EncoderSpec, name: str | None) -> str:
    """Its name, with the suffix of its level."""
    if spec.level == "tokens":
        raise UsageError(f"{spec.key} has token rows; MERTools reads utterances and frames.")
    name, suffix = kept_name(spec, name), "UTT" if spec.level == "utt" else "FRA"
    found = _NAMED.fullmatch(name)
    if found and found[1] != suffix:
        raise UsageError(f"{spec.key} is of level {spec.level}, and cannot be called {name}.")
    return name if found else f"{name}-{suffix}"


def write(path: Path, export: Export) -> Sequence[str]:
    """Writes what MERTools calls its features folder."""
    for feature in export.features:
        write_npy(path / feature.name, feature)
    return []


LAYOUT = Layout(
    "mertools",
    "a folder of .npy files, or such folders (*-UTT, *_FRA) in it or in its features/",
    find,
    name_there,
    write,
)
