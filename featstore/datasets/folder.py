"""Your own data: a folder of media files, and if there are labels a csv or jsonl that gives them."""

from __future__ import annotations

from pathlib import Path

from emo.featstore.datasets.base import Card, Dataset, LabelledFolder
from emo.featstore.datasets.lists import Listed, listed_file, transcript_csv, two_labels
from emo.featstore.datasets.tables import without_suffix
from emo.featstore.errors import UsageError
from emo.featstore.workspace import DataTable

LABEL_FILES = ("labels.csv", "label.csv", "labels.jsonl", "label.jsonl")
TRANSCRIPT_FILES = ("transcripts.csv", "transcript.csv", "transcription.csv", "transcripts.jsonl", "transcript.jsonl")

CARDS = {
    "folder": Card(
        name="folder",
        about="Any folder of video or audio files, with a csv or jsonl of labels where there are any.",
        how_to_get="Your own.",
        tree="**/*.mp4, *.avi, *.wav, *.flac ...   media, in sub-folders too\n"
        "labels.csv                           name,label[,valence][,split][,speaker][,dialogue][,session] (optional), "
        "or labels.jsonl\n"
        "transcripts.csv                      name,text or name,chinese,english (optional), or transcripts.jsonl",
        licence="Yours to know",
    )
}


def open_table(table: DataTable, card: Card) -> Dataset:
    """Open a folder of media as its table says."""
    return Folder(table, card)


class Folder(LabelledFolder):
    """Reader of a plain folder. A clip is named by its stem, or by its path below the folder where stems repeat."""

    folders = ()

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        path, problems = self._usual(self.table.labels, LABEL_FILES, "labels")
        if path is None:
            return {}, problems
        rows, differ = listed_file(path, classes=self.card.labels, rename=str)
        problems += two_labels(differ, path)
        named: dict[str, Listed] = {}
        for name, row in rows.items():  # tables of one's own often name files, `a.mp4` for the clip `a`
            if named.setdefault(without_suffix(name), row) != row:
                raise UsageError(f"{path} gives {without_suffix(name)} two different labels.", "Remove one.")
        return named, problems

    def read_transcripts(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        path, problems = self._usual(self.table.transcripts, TRANSCRIPT_FILES, "transcripts")
        texts: dict[str, dict[str, str]] = {}
        for name, said in transcript_csv(path).items() if path is not None else ():
            if texts.setdefault(without_suffix(name), said) != said:
                raise UsageError(f"{path} gives {without_suffix(name)} two different texts.", "Remove one.")
        return texts, problems

    def _usual(self, given: Path | None, names: tuple[str, ...], key: str) -> tuple[Path | None, list[str]]:
        """The file that is meant, and a problem where several have a usual name."""
        found = [self.table.root / name for name in names if (self.table.root / name).is_file()]
        if given is not None or len(found) < 2:
            return given or next(iter(found), None), []
        have = ", ".join(path.name for path in found)
        return found[0], [f"{have} are there; the first is used, `{key}` chooses another."]
