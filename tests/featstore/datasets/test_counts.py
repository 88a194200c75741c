"""`emo data counts`: what a dataset holds by split and label, and whether that is what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emo.featstore.datasets.counts import DatasetCounts, SplitCounts, counts_page
from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.featstore.workspace import DataTable, load_workspace


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def by_split(page: Page) -> dict[str, SplitCounts]:
    (found,) = page.value
    assert isinstance(found, DatasetCounts)
    return {each.split: each for each in found.splits}


@pytest.fixture
def own(tmp_path: Path) -> DataTable:
    write(tmp_path / "own/labels.csv", "name,label,valence,split\na,sad,-1,train\nb,happy,0,train\nc,sad,2.5,test\n")
    write(tmp_path / "own/transcripts.csv", "name,text\na,Hello\nb,\n")
    (tmp_path / "own/a.mp4").write_bytes(b"x")
    (tmp_path / "own/new.mp4").write_bytes(b"x")
    return DataTable("own", tmp_path / "own", kind="folder")


def test_clips_are_counted_by_split_and_label(own: DataTable) -> None:
    counts = by_split(counts_page(own))
    assert counts["train"] == SplitCounts("train", 2, 1, 2, 1, 0, {"happy": 1, "sad": 1}, (-1.0, 0.0), 1, None, "")
    assert counts["test"] == SplitCounts("test", 1, 0, 1, 0, 0, {"sad": 1}, (2.5, 2.5), 0, None, "")
    assert counts[""] == SplitCounts("", 1, 1, 0, 0, 0, {}, None, 0, None, "")
    assert counts["all"].clips == 4


def test_the_table_shows_the_same_numbers(own: DataTable) -> None:
    clips, labels, valence = (table for table in counts_page(own).parts if isinstance(table, Table))
    rows: list[dict[str, Any]] = [dict(zip(clips.columns, row, strict=True)) for row in clips.rows]
    assert [(row["split"], row["clips"], row["labelled"]) for row in rows] == [
        ("train", 2, 2),
        ("test", 1, 1),
        ("(no split)", 1, 0),
        ("all", 4, 3),
    ]
    assert list(labels.columns) == ["label", "train", "test", "all"]
    assert [list(row) for row in labels.rows] == [["happy", 1, 0, 1], ["sad", 1, 1, 2]]
    assert list(valence.rows[0]) == ["train", -1.0, 0.0, 1]


def test_many_labels_or_splits_are_given_in_total(tmp_path: Path) -> None:
    lines = [f"c{i},word{i % 20}" for i in range(60)]
    write(tmp_path / "labels.csv", "\n".join(["name,label", *lines]))
    _, labels = counts_page(DataTable("own", tmp_path, kind="folder")).parts
    assert isinstance(labels, Table)
    assert dict(labels.rows)["word0"] == 3  # type: ignore[arg-type]
    assert tuple(labels.columns) == ("label", "clips")


def test_other_numbers_than_the_published_ones_are_named(tmp_path: Path) -> None:
    write(tmp_path / "final-EMER-reason.csv", "name,chinese,english\na,x,y\n")
    page = counts_page(DataTable("EMER-v2", tmp_path))
    assert (by_split(page)["test-v2"].known, by_split(page)["test-v2"].result) == (332, "differs")
    assert page.verdict == "EMER-v2: differs from the published counts in test-v2"


def test_equal_totals_with_other_labels_differ(shared: Path, tmp_path: Path) -> None:
    rows = (shared / "data" / "mer2023" / "relative_test3_NCEV.txt").read_text().splitlines()
    name, frames, _, valence = rows[0].split()
    other = "angry" if " angry " not in rows[0] else "sad"
    labels = write(tmp_path / "relative_test3_NCEV.txt", "\n".join([f"{name} {frames} {other} {valence}", *rows[1:]]))
    page = counts_page(DataTable("MER2023", tmp_path, labels=labels))
    assert by_split(page)["test3"].clips == 834
    assert page.verdict == "MER2023: differs from the published counts in test3"


def test_splits_that_are_not_there_do_not_count_as_equal(tmp_path: Path) -> None:
    rows = "\n".join(f"c{i}" for i in range(20000))
    write(tmp_path / "track_all_candidates.csv", "name\n" + rows)
    page = counts_page(DataTable("MER2025", tmp_path))
    assert page.verdict == (
        "MER2025: equal to the published counts, but for train, ovmerd, mercaptionplus: nothing is listed of it"
    )


def test_an_own_dataset_has_nothing_to_compare_with(own: DataTable) -> None:
    assert counts_page(own).verdict == "own: no published counts to compare with"


def test_a_workspace_is_counted_whole_or_by_name(own: DataTable, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    write(tmp_path / "emo.toml", '[data.own]\nroot = "own"\nkind = "folder"\n[data.two]\nroot = "two"\n')
    workspace = load_workspace(tmp_path)
    assert [each.dataset for each in counts_page(workspace).value] == ["own", "two"]
    assert [each.dataset for each in counts_page(workspace, "two").value] == ["two"]
    with pytest.raises(UsageError, match=r"no \[data.tow\] table. Did you mean two\?"):
        counts_page(workspace, "tow")


# ---- real files: the counts of ../shared/specs/mertools.md, 3.5 -----------------------------------------------------

REAL = [
    ("MER2023-SEMI", "mer2023", {"train_corpus": 3373, "test1": 411, "test2": 412, "test3": 834}),
    ("MELD", "meld", {"train": 9989, "val": 1109, "test": 2610}),
    ("IEMOCAP-4way", "iemocap", {f"session{i}": n for i, n in enumerate((1085, 1023, 1151, 1031, 1241), 1)}),
    ("IEMOCAP-6way", "iemocap", {f"session{i}": n for i, n in enumerate((1373, 1356, 1569, 1512, 1623), 1)}),
    ("CMU-MOSI", "mosi", {"train": 1284, "val": 229, "test": 686}),
    ("SIMS", "sims", {"train": 1368, "val": 456, "test": 457}),
    ("EMER-v1", "emer", {"test-v1": 100}),
    ("EMER-v2", "emer", {"test-v2": 332}),
    ("RAVDESS", "ravdess_speech_16k", {f"actor{i:02d}": 60 for i in range(1, 25)}),
]


@pytest.mark.parametrize(("name", "folder", "clips"), REAL, ids=[name for name, _, _ in REAL])
def test_real_counts_are_the_published_ones(shared: Path, name: str, folder: str, clips: dict[str, int]) -> None:
    page = counts_page(DataTable(name, shared / "data" / folder))
    found = by_split(page)
    assert {split: found[split].clips for split in clips} == clips
    assert {found[split].result for split in clips} == {"equal"}
    assert page.verdict == f"{name}: equal to the published counts"


LABELS = [
    ("MER2023", "mer2023", "train_corpus", [871, 822, 689, 383, 462, 146]),
    ("MER2023", "mer2023", "test1", [88, 105, 93, 50, 57, 18]),
    ("MER2023", "mer2023", "test2", [123, 98, 87, 40, 52, 12]),
    ("MER2023", "mer2023", "test3", [166, 183, 169, 257, 45, 14]),
    ("IEMOCAP-4way", "iemocap", "all", [1636, 1084, 1708, 1103]),
    ("IEMOCAP-6way", "iemocap", "all", [648, 1084, 1708, 1103, 1041, 1849]),
    ("RAVDESS", "ravdess_speech_16k", "all", [96] + 7 * [192]),
]


@pytest.mark.parametrize(("name", "folder", "split", "labels"), LABELS)
def test_real_labels_are_the_published_ones(
    shared: Path, name: str, folder: str, split: str, labels: list[int]
) -> None:
    assert list(by_split(counts_page(DataTable(name, shared / "data" / folder)))[split].labels.values()) == labels


@pytest.mark.parametrize(
    ("name", "folder", "scale", "zeros"),
    [("CMU-MOSI", "mosi", 3.0, [53, 13, 30]), ("SIMS", "sims", 1.0, [207, 69, 69])],
)
def test_real_valences_are_the_published_ones(
    shared: Path, name: str, folder: str, scale: float, zeros: list[int]
) -> None:
    found = by_split(counts_page(DataTable(name, shared / "data" / folder)))
    assert [found[split].valence_zero for split in ("train", "val", "test")] == zeros
    assert {found[split].valence for split in ("train", "val", "test")} == {(-scale, scale)}
    assert found["all"].labels == {}


def test_real_transcripts_are_the_published_ones(shared: Path) -> None:
    found = by_split(counts_page(DataTable("MER2023", shared / "data" / "mer2023")))
    assert found["all"].labelled - found["all"].transcripts == 217
    assert (found["train_corpus"].valence, found["test3"].valence) == ((-5.0, 4.25), None)
    assert (found["unlabelled"].clips, found["unlabelled"].result) == (3, "not all here")
    for name, folder in (("MELD", "meld"), ("IEMOCAP-6way", "iemocap"), ("CMU-MOSI", "mosi"), ("SIMS", "sims")):
        counts = by_split(counts_page(DataTable(name, shared / "data" / folder)))["all"]
        assert counts.transcripts == counts.clips
