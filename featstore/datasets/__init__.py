"""One file per dataset, all under one contract (`base.Dataset`). Members are imported when they are opened.

A dataset is one module and one line here: `CARDS` says what is known about it, `open_table(table, card)` reads it. An
installed package adds its own by the same line:

    [project.entry-points."emo.datasets"]
    SMILE = "package.module"
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emo.featstore.address import Url
from emo.featstore.datasets.base import Card, Dataset
from emo.featstore.datasets.mirror import mirrored
from emo.featstore.datasets.tables import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from emo.featstore.errors import UsageError
from emo.featstore.published import where_from
from emo.featstore.registry import Registry
from emo.featstore.text import nearest
from emo.featstore.workspace import DataTable, find_workspace, load_workspace

# name -> module that has CARDS[name] and open_table(table, card) -> Dataset
DATASETS = {
    "MER2023-SEMI": "emo.featstore.datasets.mer2023",
    "MER2023": "emo.featstore.datasets.mer2023",
    "MER2024": "emo.featstore.datasets.mer2024",
    "MER2025": "emo.featstore.datasets.mer2025",
    "MER2026": "emo.featstore.datasets.mer2025",
    "DFEW": "emo.featstore.datasets.dfew",
    "EMER-v1": "emo.featstore.datasets.emer",
    "EMER-v2": "emo.featstore.datasets.emer",
    "MELD": "emo.featstore.datasets.meld",
    "IEMOCAP-4way": "emo.featstore.datasets.iemocap",
    "IEMOCAP-6way": "emo.featstore.datasets.iemocap",
    "CMU-MOSI": "emo.featstore.datasets.sentiment",
    "CMU-MOSEI": "emo.featstore.datasets.sentiment",
    "SIMS": "emo.featstore.datasets.sentiment",
    "SIMSv2": "emo.featstore.datasets.sentiment",
    "RAVDESS": "emo.featstore.datasets.ravdess",
    "emotion-llama": "emo.featstore.datasets.emotion_llama",
    "folder": "emo.featstore.datasets.folder",
}
_datasets = Registry("dataset", "emo.datasets", DATASETS)
dataset_names = _datasets.names


def open_dataset(name: str, table: DataTable) -> Dataset:
    """Open a dataset.

    The reader is the table's `kind` where given, else the one registered under `name`; any other name is a folder of
    media with a csv of labels.

    Args:
        name: Name of the dataset; clips carry it.
        table: Its `[data.NAME]` table.

    Raises:
        UsageError: Unknown `kind`, a name that looks like a mistyped dataset name, or a root that does not exist.
    """
    kind = table.kind or (name if name in _datasets else _folder_unless_typo(name))
    module = _module(kind)
    if table.url:
        mirrored(Url(table.url), frozenset((*MEDIA_SUFFIXES, *AUDIO_SUFFIXES)))
    if not os.path.isdir(table.root):
        state = "is a file" if os.path.exists(table.root) else "does not exist"
        raise UsageError(f"The root of {name}, {table.root}, {state}.", "Correct `root` in emo.toml.")
    opened: Dataset = module.open_table(table, card(kind))
    return opened


def find_labels(name: str, start: Path | None = None, dataset: str | None = None, first: Sequence[str] = ()) -> Path:
    """A label file as typed, else under the root of one of the workspace's datasets; `#split` stays at its end.

    Args:
        name: Such as `relative_test3_NCEV.txt` or `label-6way.npz#test1`.
        start: Folder from which an emo.toml is looked for; the current one if `None`.
        dataset: Look under the root of this one only, unless the name is an absolute path.
        first: Datasets that are meant where several have such a file.

    Raises:
        UsageError: It is nowhere, or several datasets have such a file.
    """
    path, mark, split = name.partition("#")
    if not path:
        raise UsageError(f"{name!r} names no file of labels.", "Write FILE#SPLIT, for instance labels.csv#test.")
    if (dataset is None or os.path.isabs(path)) and (os.path.exists(path) or os.path.exists(name)):
        return Path(name)
    try:
        workspace = load_workspace(find_workspace(start))
    except UsageError as error:
        raise UsageError(f"{path} does not exist here, and there is no dataset to look in: {error.message}") from error
    tables = workspace.data if dataset is None else {dataset: workspace.table(dataset)}
    there = {k: table for k, table in tables.items() if dataset is not None or table.url or os.path.isdir(table.root)}
    files = {each: open_dataset(each, table).find_file(path) for each, table in there.items()}
    found = {each: file for each, file in files.items() if file is not None}
    meant = {each: file for each, file in found.items() if each in first} or found
    if len(set(meant.values())) > 1:
        have = " and ".join(f"{each} ({file})" for each, file in meant.items())
        raise UsageError(f"{path} is a file of several datasets: {have}.", "Give its path, or --dataset NAME.")
    for file in meant.values():
        return file.with_name(file.name + mark + split)
    roots = ", ".join(str(table.root) for table in tables.values())
    hint = f"{where_from(path)} Give its path.".strip()
    raise UsageError(f"{path} is neither here nor under {roots or 'any dataset'}.", hint)


def card(kind: str) -> Card:
    """Describe a registered dataset, how to get it and what its folder looks like; nothing needs to be on disk.

    Raises:
        UsageError: No such dataset.
    """
    found: Card = _module(kind).CARDS[kind]
    return replace(found, name=kind)


def _module(kind: str) -> Any:
    module = _datasets.find(kind)
    if kind not in getattr(module, "CARDS", ()) or not hasattr(module, "open_table"):
        what = f"The package of dataset {kind} has no CARDS[{kind!r}] or no open_table(table, card)"
        raise UsageError(f"{what}: its entry point names {module!r}.", "Mend that package or remove it.")
    return module


def _folder_unless_typo(name: str) -> str:
    """`folder`, unless the name is nearly a registered one: then silence would read the data with the wrong reader."""
    typed = name.lower().replace("-", "").replace("_", "")
    plain = {known: known.lower().replace("-", "").replace("_", "") for known in dataset_names()}
    close = [known for known, each in plain.items() if len(typed) >= 4 and typed in each]  # IEMOCAP, EMER, MOSI
    close = close or [known for known in (nearest(name, plain, 0.8),) if known]
    if close:
        raise UsageError(
            f"Unknown dataset {name!r}; did you mean {' or '.join(close)}?",
            'If it is your own folder of clips, add kind = "folder" to its table.',
        )
    return "folder"
