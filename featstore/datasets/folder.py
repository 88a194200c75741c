"""Your own data: a folder of media files, and if there are labels a csv that gives them."""

from __future__ import annotations

from pathlib import Path

from emo.featstore.datasets.base import Card, Dataset, LabelledFolder, Listed, listed_csv, transcript_csv
from emo.featstore.errors import UsageError
from emo.featstore.tables import npz_splits, read_label_npz, read_list, without_suffix
from emo.featstore.workspace import DataTable

LABEL_FILES = ("labels.csv", "label.csv")
TRANSCRIPT_FILES = ("transcripts.csv", "transcript.csv", "transcription.csv")

CARD = Card(
    name="folder",
    about="Any folder of video or audio files, with a csv of labels where there are any.",
    how_to_get="Your own.",
    tree="**/*.mp4, *.avi, *.wav, *.flac ...   media, in sub-folders too\n"
    "labels.csv                           name,label[,valence][,split][,speaker] (optional)\n"
    "transcripts.csv                      name,text or name,chinese,english (optional)",
    licence="Yours to know",
)


def open_table(table: DataTable) -> Dataset:
    """Open a folder of media as its table says."""
    return Folder(table, CARD)


class Folder(LabelledFolder):
    """Reader of a plain folder. A clip is named by its stem, or by its path below the folder where stems repeat."""

    def media_folder(self) -> Path:
        return self.table.clips or self.table.root

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        path = self.table.labels or self._usual(LABEL_FILES)
        if path is None:
            return {}, []
        if path.suffix.lower() == ".csv":
            return self._named(path, listed_csv(path)), []
        if path.suffix.lower() == ".npz":
            listed = {n: Listed(s, label) for s in npz_splits(path) for n, label in read_label_npz(path, s).items()}
            return self._named(path, listed), []
        return self._named(path, {row.name: Listed("", row.label) for row in read_list(path)}), []

    def read_transcripts(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        path = self.table.transcripts or self._usual(TRANSCRIPT_FILES)
        if path is None:
            return {}, []
        return {without_suffix(name): texts for name, texts in transcript_csv(path).items()}, []

    def _usual(self, names: tuple[str, ...]) -> Path | None:
        return next((self.table.root / name for name in names if (self.table.root / name).is_file()), None)

    def _named(self, path: Path, listed: dict[str, Listed]) -> dict[str, Listed]:
        """Rows under clip names: tables of one's own often name files, `a.mp4` for the clip `a`."""
        named: dict[str, Listed] = {}
        for name, row in listed.items():
            if named.setdefault(without_suffix(name), row) != row:
                raise UsageError(f"{path} gives {without_suffix(name)} two different labels.", "Remove one.")
        return named
