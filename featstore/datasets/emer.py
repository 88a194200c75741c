"""EMER: explained emotions of 100 (v1) and 332 (v2) clips of MER2023, in the files of the AffectGPT repository."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from emo.featstore.clip import Label
from emo.featstore.datasets.base import Card, Dataset, LabelledFolder
from emo.featstore.datasets.lists import NAME, Listed, add_rows, listed_table
from emo.featstore.datasets.tables import Column, read_table, rows_by_name
from emo.featstore.errors import UsageError
from emo.featstore.labels import MER2023_LABELS
from emo.featstore.text import quoted
from emo.featstore.workspace import DataTable

_GET = "The AffectGPT repository (EMER/dataset-v1, EMER/dataset-v2); the clips are those of MER2023."
_LICENCE = "The clips under the MER2023 EULA: research only, no redistribution"
# gt-chi.csv writes the labels of MER2023 in Chinese
CHINESE = {"中性": "neutral", "生气": "angry", "高兴": "happy", "悲伤": "sad", "担忧": "worried", "惊讶": "surprise"}

CARDS = {
    "EMER-v1": Card(
        name="EMER-v1",
        about="MER2023 clips with a label, a subtitle and the reason for their emotion, English and Chinese "
        "(annotations reason_english, reason_chinese).",
        how_to_get=_GET,
        tree="gt-eng.csv      names,emotions,subtitles,reasons\ngt-chi.csv      the same in Chinese\n"
        "clips/          <name>.mp4 of MER2023",
        licence=_LICENCE,
        labels=MER2023_LABELS,
        counts={"test-v1": 100},
    ),
    "EMER-v2": Card(
        name="EMER-v2",
        about="MER2023 clips with a long description of clues and emotion, English and Chinese, and open-vocabulary "
        "words where a csv gives them (annotations reason_english, reason_chinese, openset).",
        how_to_get=_GET,
        tree="final-EMER-reason.csv    name,chinese,english\ncheck-openset.csv        name,openset (optional)\n"
        "clips/                   <name>.mp4 of MER2023",
        licence=_LICENCE,
        counts={"test-v2": 332},
    ),
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open EMER v1 or v2 as its table says."""
    return EmerV1(table, card) if card.name == "EMER-v1" else EmerV2(table, card)


class Emer(LabelledFolder):
    """Base of both versions. They are evaluation sets: their splits are test splits."""

    files: tuple[str, ...] = ()

    def _found(self) -> list[Path]:
        if self.table.labels is not None:
            return [self.table.labels]
        return [path for name in self.files if (path := self.find_file(name)) is not None]


class EmerV1(Emer):
    """Reader of EMER v1."""

    files = ("gt-eng.csv", "gt-chi.csv")

    @cached_property
    def _rows(self) -> dict[Path, dict[str, dict[str, str]]]:
        columns: list[Column] = [NAME, "emotions", "subtitles", ("reasons", "chi_reasons", "eng_reasons")]
        tables = {path: rows_by_name(path, read_table(path, columns)) for path in self._found()}
        return {path: {name: dict(row.fields) for name, row in rows.items()} for path, rows in tables.items()}

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        listed: dict[str, Listed] = {}
        differ: list[str] = []
        for path, rows in self._rows.items():
            kind = f"reason_{_language(path)}"
            more = {}
            for name, row in rows.items():
                word = row["emotions"].lower()
                label = Label(CHINESE.get(word, word)) if word else None
                more[name] = Listed("test-v1", label, annotations={kind: row["reasons"]} if row["reasons"] else {})
            differ += add_rows(listed, more)
        problems = [] if listed else [f"{self.table.root} has no {' or '.join(self.files)}: no clip is listed."]
        if differ:
            problems.append(f"{quoted(differ)} has another label in English than in Chinese; the first is used.")
        return listed, problems

    def read_transcripts(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        texts: dict[str, dict[str, str]] = {}
        for path, rows in self._rows.items():
            for name, row in rows.items():
                if row["subtitles"]:
                    texts.setdefault(name, {})[_language(path)] = row["subtitles"]
        return texts, []


class EmerV2(Emer):
    """Reader of EMER v2."""

    files = ("final-EMER-reason.csv",)

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        listed: dict[str, Listed] = {}
        for path in self._found():
            for name, row in rows_by_name(path, read_table(path, [NAME, "chinese", "english"])).items():
                texts = {f"reason_{key}": row.fields[key] for key in ("english", "chinese") if row.fields[key]}
                listed[name] = Listed("test-v2", annotations=texts)
        if (words := self.find_file("check-openset.csv")) is not None:
            add_rows(listed, listed_table(words, "test-v2", label_needed=False))
        return listed, [] if listed else [f"{self.table.root} has no {self.files[0]}: no clip is listed."]


def _language(path: Path) -> str:
    stem = path.stem.lower()
    if "eng" in stem or "chi" in stem:
        return "english" if "eng" in stem else "chinese"
    raise UsageError(f"{path} does not say its language.", "Name it after gt-eng.csv or gt-chi.csv.")
