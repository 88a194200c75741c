"""MER2023: the challenge sets MER-MULTI (test1), MER-NOISE (test2) and MER-SEMI (test3) and their training corpus."""

from __future__ import annotations

import re
from pathlib import Path

from emo.featstore.datasets.base import Card, Dataset, LabelledFolder, Listed, listed_csv, some, transcript_csv
from emo.featstore.errors import UsageError
from emo.featstore.tables import npz_splits, read_label_npz, read_list, split_name
from emo.featstore.workspace import DataTable

# Index order of MERBench, toolkit/globals.py.
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")

CARD = Card(
    name="MER2023",
    about="Chinese film and television clips with one main speaker, six emotions and valence.",
    how_to_get="Sign the MER2023 end-user licence agreement and ask the challenge organisers; labels and transcripts "
    "are also in the MERTools repository (MERBench).",
    tree="label-6way.npz                    or csv with name,discrete,valence\n"
    "transcription-engchi-polish.csv   or another transcription*.csv\n"
    "clips/ or video/                  <name>.mp4, <name>.avi\n"
    "relative_test3_NCEV.txt           list for `emo score` (optional)",
    licence="MER2023 EULA: research only, no redistribution",
    labels=LABELS,
    counts={"train_corpus": 3373, "test1": 411, "test2": 412, "test3": 834},
)


def open_table(table: DataTable) -> Dataset:
    """Open MER2023 (or MER2023-SEMI: the same files) as its table says."""
    return Mer2023(table, CARD)


class Mer2023(LabelledFolder):
    """Reader of MER2023 in the layouts of MERBench (npz) and of the challenge baseline (csv per split)."""

    def media_folder(self) -> Path:
        if self.table.clips is not None:
            return self.table.clips
        named = [self.table.root / name for name in ("clips", "video", "videos")]
        return next((folder for folder in named if folder.is_dir()), self.table.root)

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        listed: dict[str, Listed] = {}
        twice: list[str] = []
        files, problems = self._label_files()
        for path in files:
            for name, row in _read_labels(path).items():
                if listed.setdefault(name, row) != row:
                    twice.append(name)
        if twice:
            problems.append(f"{some(twice)} has two different labels in {self.table.root}; the first is used.")
        return listed, problems

    def _label_files(self) -> tuple[list[Path], list[str]]:
        root = self.table.root
        if self.table.labels is not None:
            if not self.table.labels.exists():
                raise UsageError(f"The labels of {self.name}, {self.table.labels}, do not exist.")
            return [self.table.labels], []
        npz = sorted(root.glob("label*.npz"))
        if npz:
            more = [f"{', '.join(p.name for p in npz)} are there; the first is used, `labels` chooses another."]
            return npz[:1], more if len(npz) > 1 else []
        files = sorted(root.glob("*label*.csv"))
        return files, [] if files else [f"{root} has no label-6way.npz and no *label*.csv: no clip has a label."]

    def read_transcripts(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        if self.table.transcripts is not None:
            return transcript_csv(self.table.transcripts), []
        # the polished two-language file first, where several lie side by side
        files = sorted(self.table.root.glob("transcription*.csv"), key=lambda p: ("engchi" not in p.name, p.name))
        if not files:
            return {}, [f"{self.table.root} has no transcription*.csv: no clip has a transcript."]
        names = ", ".join(path.name for path in files)
        more = [f"{names} are there; the first is used, `transcripts` chooses another."] if len(files) > 1 else []
        return transcript_csv(files[0]), more


def _read_labels(path: Path) -> dict[str, Listed]:
    if path.suffix.lower() == ".npz":
        return {
            name: Listed(_split(split), label)
            for split in npz_splits(path)
            for name, label in read_label_npz(path, split).items()
        }
    if path.suffix.lower() == ".csv":
        return {
            name: Listed(_split(row.split), row.label, row.speaker)
            for name, row in listed_csv(path, _split_of_file(path)).items()
        }
    split = _split_of_file(path)
    return {row.name: Listed(split, row.label) for row in read_list(path)}


def _split(text: str) -> str:
    """`train_corpus`, `test1`, ...: the training split keeps its full name, as the field writes them."""
    plain = split_name(text)
    return "train_corpus" if plain == "train" else plain


def _split_of_file(path: Path) -> str:
    """Split that a file's name tells: `test1-label.csv`, `train-label.csv`, `relative_test3_NCEV.txt`."""
    match = re.search(r"test[123]|train", path.stem.lower())
    return _split(match[0]) if match else ""
