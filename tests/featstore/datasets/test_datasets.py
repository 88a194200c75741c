"""Datasets: one contract that every member passes, then what is special about each."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.datasets import DATASETS, card, find_labels, open_dataset
from emo.featstore.datasets.base import Dataset
from emo.featstore.datasets.cells import held_out
from emo.featstore.datasets.lists import names_of, open_words
from emo.featstore.datasets.media import scan_media
from emo.featstore.errors import UsageError
from emo.featstore.testing import check_dataset
from emo.featstore.workspace import DataTable

POOL = "unlabelled"


def touch(*paths: Path, size: int = 3) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def by_id(dataset: Dataset) -> dict[str, Clip]:
    return {clip.id: clip for clip in dataset.clips()}


def mer2023(root: Path, name: str = "MER2023-SEMI", **places: Path) -> Dataset:
    return open_dataset(name, DataTable(name, root, **places))


def folder(root: Path, **places: Path) -> Dataset:
    return open_dataset("mine", DataTable("mine", root, **places))


def write_npz(path: Path, **tables: dict[str, dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: np.array(table, dtype=object) for name, table in tables.items()})
    return path


def make_mer2023(root: Path) -> None:
    """Two labelled clips present, one labelled clip absent, one clip present without a label."""
    write_npz(
        root / "label-6way.npz",
        train_corpus={"a": {"emo": "happy", "val": 2.0}, "gone": {"emo": "sad", "val": -1.0}},
        test3_corpus={"b": {"emo": "neutral", "val": -10}},
    )
    write(root / "transcription-engchi-polish.csv", TEXTS)
    write(root / "relative_test3_NCEV.txt", "b 125 neutral -10\n")
    touch(root / "clips" / "a.mp4", root / "clips" / "b.avi", root / "clips" / "new.mp4")


def make_mer2024(root: Path) -> None:
    write(root / "label-disdim.csv", "name,discrete,valence\na,happy,2\ngone,sad,-1\n")
    write(root / "reference-semi.csv", "name,discrete\nb,neutral\n")
    write(root / "label-transcription.csv", TEXTS)
    touch(root / "video-labeled" / "a.mp4", root / "video-unlabeled" / "b.mp4", root / "video-unlabeled" / "new.mp4")


def make_mer2025(root: Path, train: str = "track1_train_disdim.csv", test: str = "track1_test_dis.csv") -> None:
    write(root / train, "name,discrete,valence\na,happy,2\ngone,sad,-1\n")
    write(root / test, "name,discrete\nb,neutral\n")
    write(root / "subtitle_chieng.csv", TEXTS)
    touch(root / "video" / "a.mp4", root / "video" / "b.mp4", root / "video" / "new.mp4", root / "audio" / "a.wav")


def make_dfew(root: Path) -> None:
    write(root / "EmoLabel_DataSplit" / "test(single-labeled)" / "set_1.csv", "video_name,label\n2,3\n")
    write(root / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_1.csv", "video_name,label\n1,1\n77,2\n")
    touch(*(root / "Clip" / "original" / "part_1" / f"{name}.mp4" for name in ("1", "00002", "9")))


def make_emer_v1(root: Path) -> None:
    header = "names,emotions,subtitles,reasons\n"
    write(root / "gt-eng.csv", f"{header}a,happy,Hello,He laughs.\ngone,sad,,He cries.\nb,neutral,,Nothing.\n")
    write(root / "gt-chi.csv", f"{header}a,高兴,你好,他笑。\nb,中性,,无。\n")
    touch(root / "clips" / "a.mp4", root / "clips" / "b.mp4", root / "clips" / "new.mp4")


def make_emer_v2(root: Path) -> None:
    write(root / "final-EMER-reason.csv", "name,chinese,english\na,他笑。,He laughs.\ngone,,He cries.\nb,,\n")
    write(root / "check-openset.csv", "name,openset\na,\"['happy', 'at ease']\"\n")
    touch(root / "clips" / "a.mp4", root / "clips" / "b.mp4", root / "clips" / "new.mp4")


def make_merbench(root: Path, file: str = "label.npz", folder: str = "subvideo", **tables: dict[str, object]) -> None:
    write_npz(root / file, **{s: {n: {"emo": e, "val": v} for n, (e, v) in t.items()} for s, t in tables.items()})
    first, _, other = [name for table in tables.values() for name in table]
    text = TEXTS.replace("\na,", f"\n{first},").replace("\nb,", f"\n{other},")
    write(root / "transcription-engchi-polish.csv", text)
    touch(root / folder / f"{first}.mp4", root / folder / f"{other}.avi", root / folder / "new.mp4")


def make_meld(root: Path) -> None:
    make_merbench(root, train_corpus={"a": (1, -10), "gone": (2, -10)}, test_corpus={"b": (3, -10)})


def make_iemocap(root: Path, file: str = "label_4way.npz") -> None:
    first, gone, other = SESSIONS
    make_merbench(root, file, "subvideo-tgt", whole_corpus={first: (0, -10), gone: (1, -10), other: (2, -10)})


def make_sentiment(root: Path) -> None:
    make_merbench(root, train_corpus={"a": (0, 2.0), "gone": (0, -1.0)}, test_corpus={"b": (0, 0.0)})


def make_ravdess(root: Path) -> None:
    touch(*(root / f"Actor_{name[-2:]}" / f"{name}.flac" for name in SPOKEN), root / "new.wav")


def make_emotion_llama(root: Path) -> None:
    write(root / "train_NCEV.txt", "a 0 happy 2\ngone 0 sad -1\n")
    write(root / "relative_test3_NCEV.txt", "b 125 neutral -10\n")
    write(root / "notes.txt", "Made on a Tuesday.\n")
    write(root / "transcription_en_all.csv", "name,sentence\na,Hello\nb,\nnew,New\n")
    touch(*(root / "first_frames_MER2023-SEMI" / name for name in ("a.png", "b.jpg", "new.png")))


def make_folder(root: Path) -> None:
    """The same, as a folder of one's own."""
    write(root / "labels.csv", "name,label,valence,split\na,happy,2,train\ngone,sad,-1,train\nb,neutral,,test3\n")
    write(root / "transcripts.csv", TEXTS)
    touch(root / "clips" / "a.mp4", root / "clips" / "b.avi", root / "new.wav")


def make_jsonl(root: Path) -> None:
    rows = [{"name": "a", "label": "happy", "valence": 2, "split": "train"}, {"name": "gone", "label": "Sad"}]
    rows = [rows[0], rows[1] | {"valence": -1, "split": "train"}, {"name": "b", "label": "neutral", "split": "test3"}]
    write(root / "labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(root / "transcripts.jsonl", '{"name": "a", "chinese": "你好", "english": "Hello"}\n{"name": "b"}\n')
    touch(root / "clips" / "a.mp4", root / "clips" / "b.avi", root / "new.wav")


TEXTS = "name,chinese,english\na,你好,Hello\nb,,\nnew,新,New\n"
SESSIONS = ("Ses01F_impro01_M000", "Ses01F_impro01_F001", "Ses05M_script01_1b_F015")
SPOKEN = ("03-01-03-01-01-01-01", "03-01-01-01-01-01-12")
SAID = {"chinese": "你好", "english": "Hello"}
MER = (("a", "train", Label("happy", 2.0)), ("gone", "train", Label("sad", -1.0)), ("b", "test3", Label("neutral")))


@dataclass(frozen=True)
class Case:
    """A small dataset as its publisher lays it out: who is listed, in which split, with which label.

    The second of three listed clips has no media; one more clip has media and is not listed.
    """

    make: Callable[[Path], None]
    listed: tuple[tuple[str, str, Label | None], ...] = MER
    new: str = "new"
    pool: str = ""
    said: Mapping[str, str] = field(default_factory=lambda: SAID)


TRAIN_LAST = (MER[2], MER[0], MER[1])
SPLITS = ("train", "train", "test")
MELD = tuple(zip(("a", "gone", "b"), SPLITS, map(Label, ("joy", "sadness", "neutral")), strict=True))
VALENCE = tuple(zip(("a", "gone", "b"), SPLITS, (Label(None, v) for v in (2.0, -1.0, 0.0)), strict=True))
IEMOCAP = tuple(
    zip(SESSIONS, ("session1", "session1", "session5"), map(Label, ("happy", "sad", "neutral")), strict=True)
)


def named(first: str, listed: tuple[tuple[str, str, Label | None], ...] = TRAIN_LAST) -> tuple[Any, ...]:
    """The same clips with another name for the test split."""
    return tuple((name, first if split == "test3" else split, label) for name, split, label in listed)


CASES = {
    "MER2023-SEMI": Case(make_mer2023, tuple((n, s.replace("train", "train_corpus"), e) for n, s, e in MER), pool=POOL),
    "MER2023": Case(make_mer2023, tuple((n, s.replace("train", "train_corpus"), e) for n, s, e in MER), pool=POOL),
    "MER2024": Case(make_mer2024, named("test-semi"), pool=POOL),
    "MER2025": Case(make_mer2025, named("test-track1"), pool=POOL),
    "MER2026": Case(
        lambda root: make_mer2025(root, "track1_train.csv", "track1_test.csv"), named("test-track1"), pool=POOL
    ),
    "DFEW": Case(
        make_dfew,
        (("00002", "test1", Label("neutral")), ("00001", "train", Label("happy")), ("00077", "train", Label("sad"))),
        "00009",
        said={},
    ),
    "EMER-v1": Case(make_emer_v1, tuple((n, "test-v1", Label(e.emotion)) for n, _, e in MER)),
    "EMER-v2": Case(make_emer_v2, tuple((n, "test-v2", None) for n, _, _ in MER), said={}),
    "MELD": Case(make_meld, MELD),
    "IEMOCAP-4way": Case(make_iemocap, IEMOCAP),
    "IEMOCAP-6way": Case(lambda root: make_iemocap(root, "label_6way.npz"), IEMOCAP),
    "CMU-MOSI": Case(make_sentiment, VALENCE),
    "CMU-MOSEI": Case(make_sentiment, VALENCE),
    "SIMS": Case(make_sentiment, VALENCE),
    "SIMSv2": Case(make_sentiment, VALENCE),
    "RAVDESS": Case(
        make_ravdess, ((SPOKEN[1], "actor12", Label("neutral")), (SPOKEN[0], "actor01", Label("happy"))), said={}
    ),
    "emotion-llama": Case(make_emotion_llama, TRAIN_LAST, said={"english": "Hello"}),
    "folder": Case(make_folder),
    "folder of jsonl": Case(make_jsonl),
}
FROM_NAMES = {"RAVDESS"}  # only what is there is listed

# ---- the contract ---------------------------------------------------------------------------------------------------


def test_every_registered_dataset_is_under_the_contract() -> None:
    assert {name.partition(" ")[0] for name in CASES} == set(DATASETS)


@pytest.fixture(params=list(CASES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(kind: str) -> Case:
    return CASES[kind]


@pytest.fixture
def opened(kind: str, case: Case, tmp_path: Path) -> Dataset:
    case.make(tmp_path / "data")
    return reopen(kind, tmp_path / "data")


def reopen(kind: str, root: Path) -> Dataset:
    return open_dataset(kind, DataTable("set", root, kind=kind.partition(" ")[0]))


def gone(kind: str, case: Case) -> set[str]:
    """Listed clips without media."""
    return set() if kind in FROM_NAMES else {"gone", "00077", SESSIONS[1]} & {name for name, _, _ in case.listed}


def test_clips_are_the_listed_ones_then_the_unlisted_present_ones(opened: Dataset, case: Case) -> None:
    clips = list(opened.clips())
    assert [(clip.id, clip.split, clip.label) for clip in clips[:-1]] == list(case.listed)
    assert (clips[-1].id, clips[-1].split, clips[-1].label) == (case.new, case.pool, None)
    assert {clip.dataset for clip in clips} == {opened.name}
    assert list(opened.clips()) == clips  # reading twice gives the same


def test_the_contract_that_anybody_can_run(opened: Dataset) -> None:
    check_dataset(opened)


def test_a_dataset_that_breaks_the_contract_is_found_out(opened: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(opened), "members", lambda self: {})
    with pytest.raises(AssertionError):
        check_dataset(opened)


def test_media_are_joined_by_name_and_absent_ones_are_none(opened: Dataset, case: Case, kind: str) -> None:
    absent = gone(kind, case)
    assert {clip.id for clip in opened.clips() if clip.media is None} == absent
    assert all(clip.media.is_file() for clip in opened.clips() if clip.media is not None)


def test_empty_transcripts_are_absent(opened: Dataset, case: Case) -> None:
    texts = {clip.id: dict(clip.transcripts) for clip in opened.clips()}
    first = next(name for name, _, _ in case.listed if name in ("a", SESSIONS[0], "00001", SPOKEN[0]))
    other = next(name for name, _, _ in case.listed if name in ("b", SESSIONS[2], "00002", SPOKEN[1]))
    assert texts[first] == case.said
    assert texts[other] == {}


def test_check_counts_what_is_there(opened: Dataset, case: Case, kind: str) -> None:
    check = opened.check()
    absent = gone(kind, case)
    listed, labelled = len(case.listed), sum(label is not None for _, _, label in case.listed)
    present = listed - len(absent) + 1
    assert (check.listed, check.present, check.absent) == (listed, present, len(absent))
    assert check.labelled == (labelled and labelled - len(absent))
    assert check.unlabelled == present - check.labelled
    assert check.size_bytes == 3 * present
    for split in dict.fromkeys(split for _, split, _ in case.listed):
        ids = [name for name, each, _ in case.listed if each == split]
        found = next(each for each in check.splits if each.name == split)
        assert (found.listed, found.present) == (len(ids), len(set(ids) - absent))
    assert {each.name for each in check.splits} <= set(opened.splits)


def test_members_are_the_clips_by_split(opened: Dataset) -> None:
    by_split: dict[str, list[str]] = {}
    for clip in opened.clips():
        by_split.setdefault(clip.split, []).append(clip.id)
    assert {split: list(ids) for split, ids in opened.members().items()} == by_split


def test_splits_are_found_by_any_spelling(opened: Dataset) -> None:
    for split in opened.splits:
        assert opened.find_split(split.upper()) == split
        assert opened.find_split(split.removesuffix("_corpus") + "_corpus") == split
    with pytest.raises(UsageError, match=rf"no split '{opened.splits[0]}x'. Did you mean {opened.splits[0]}\?"):
        opened.find_split(opened.splits[0] + "x")


def test_labels_are_words_in_a_fixed_order(opened: Dataset, case: Case) -> None:
    words = {label.emotion for _, _, label in case.listed if label is not None and label.emotion is not None}
    assert words <= set(opened.labels)
    assert opened.labels == (opened.card.labels or tuple(sorted(words)))
    assert not any("is not one of" in problem for problem in opened.check().problems)


def test_labels_and_texts_without_any_media_are_a_dataset(opened: Dataset, kind: str, case: Case) -> None:
    for path in list(opened.table.root.rglob("*")):  # type: ignore[attr-defined]
        if path.suffix in (".mp4", ".avi", ".wav", ".flac", ".png", ".jpg"):
            path.unlink()
    again = reopen(kind, opened.table.root)  # type: ignore[attr-defined]
    rows = [] if kind in FROM_NAMES else [(name, split, label, None) for name, split, label in case.listed]
    assert [(clip.id, clip.split, clip.label, clip.media) for clip in again.clips()] == rows
    assert set(again.splits) == {split for _, split, _, _ in rows}  # no pool where nothing is unlisted
    problems = [text for text in again.check().problems if "holds no media file" in text]
    assert len(problems) == 1
    assert rows == [] or "3 listed clips are labels and texts only" in problems[0]


def test_files_are_found_under_the_root_only(opened: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "secret.txt", "x")
    write(tmp_path / "data" / "lists" / "mine.txt", "b 1 sad\n")
    found = opened.find_file("mine.txt")
    assert found is not None
    assert found.parent.name == "lists"
    assert opened.find_file("absent.txt") is None
    assert opened.find_file("../secret.txt") is None
    assert opened.find_file(str(tmp_path / "secret.txt")) is None


def test_an_empty_folder_lists_nothing_and_says_what_is_missing(kind: str, tmp_path: Path) -> None:
    empty = reopen(kind, tmp_path)
    assert list(empty.clips()) == []
    assert any("holds no media file" in problem for problem in empty.check().problems)


TABLES = {
    "MER2024": "label-disdim.csv",
    "MER2025": "track1_train_disdim.csv",
    "MER2026": "track1_train.csv",
    "DFEW": "EmoLabel_DataSplit/test(single-labeled)/set_1.csv",
    "EMER-v1": "gt-eng.csv",
    "EMER-v2": "final-EMER-reason.csv",
    "MER2023": "train-label.csv",
    "folder": "labels.csv",
    "folder of jsonl": "labels.jsonl",
}
BINARY = {"MELD": "label.npz", "SIMS": "label.npz", "IEMOCAP-4way": "label_4way.npz", "MER2023": "label-6way.npz"}


@pytest.mark.parametrize(("kind", "file"), TABLES.items())
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), ("name,label\n情,sad\n".encode("gbk"), "is not UTF-8"), (b"a;b\n1;2\n", r"no column|not JSON")],
)
def test_a_bad_table_is_named_with_what_is_wrong(
    kind: str, file: str, content: bytes, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / file, "")
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as error:
        list(reopen(kind, tmp_path).clips())
    assert str(path) in error.value.message


@pytest.mark.parametrize(("kind", "file"), BINARY.items())
def test_a_truncated_npz_is_named(kind: str, file: str, tmp_path: Path) -> None:
    CASES[kind].make(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"is not an npz|is damaged") as error:
        list(reopen(kind, tmp_path).clips())
    assert str(path) in error.value.message


@pytest.mark.parametrize("kind", list(DATASETS))
def test_cards_need_nothing_on_disk(kind: str) -> None:
    about = card(kind)
    assert about.about.endswith(".")
    assert about.how_to_get
    assert about.tree
    assert about.licence


# ---- opening --------------------------------------------------------------------------------------------------------


def test_a_name_close_to_a_registered_one_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean MER2023-SEMI\?.*kind = \"folder\""):
        mer2023(tmp_path, "mer2023_semi")


def test_kind_decides_over_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    table = DataTable("MER2023-SEM1", tmp_path, kind="folder")
    assert [clip.id for clip in open_dataset("MER2023-SEM1", table).clips()] == ["a"]
    with pytest.raises(UsageError, match=r"no dataset 'MELT'.*Did you mean MELD\?"):
        open_dataset("x", DataTable("x", tmp_path, kind="MELT"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("IEMOCAP", "IEMOCAP-4way or IEMOCAP-6way"),
        ("emer", "EMER-v1 or EMER-v2"),
        ("mosi", "CMU-MOSI"),
        ("MELDD", "MELD"),
    ],
)
def test_a_part_of_a_registered_name_is_not_taken_for_a_folder(tmp_path: Path, name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {meant}"):
        open_dataset(name, DataTable(name, tmp_path))


def test_absent_root_is_an_error_when_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        mer2023(tmp_path / "nowhere")


# ---- what names can do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:secret"])
def test_a_label_file_cannot_point_outside_the_root(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "secret.mp4", tmp_path / "data" / "a.mp4")
    write(tmp_path / "data" / "labels.csv", f"name,label\na,sad\n{name},happy\n")
    dataset = folder(tmp_path / "data")
    assert [clip.media is None for clip in dataset.clips()] == [False, True]
    assert any("outside the data root" in problem and repr(name) in problem for problem in dataset.check().problems)


def test_names_with_blanks_and_accents_match_in_any_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "frölich 情 1"), unicodedata.normalize("NFD", "frölich 情 1")
    touch(tmp_path / f"{decomposed}.mp4")
    write(tmp_path / "labels.csv", f"name,label\n{composed},sad\n")
    clip = next(iter(folder(tmp_path).clips()))
    assert clip.id == composed
    assert clip.media is not None
    assert clip.media.exists()


def test_names_in_a_table_may_carry_the_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "v1.5.mp4")
    write(tmp_path / "labels.csv", "name,label\na.MP4,sad\nv1.5,happy\n")
    assert {clip.id: clip.label for clip in folder(tmp_path).clips()} == {"a": Label("sad"), "v1.5": Label("happy")}


# ---- folder ---------------------------------------------------------------------------------------------------------


def test_id_is_the_stem_or_the_path_where_stems_repeat(tmp_path: Path) -> None:
    touch(tmp_path / "s1" / "a.mp4", tmp_path / "s2" / "a.mp4", tmp_path / "s2" / "b.mp4")
    write(tmp_path / "labels.csv", "name,label\ns1/a,sad\ns2/a,happy\ns2/b,angry\n")
    dataset = folder(tmp_path)
    assert {clip.id: clip.label.emotion for clip in dataset.clips() if clip.label} == {
        "s1/a": "sad",
        "s2/a": "happy",
        "b": "angry",
    }
    assert any("'a' in several sub-folders" in problem for problem in dataset.check().problems)


def test_sound_beside_video_is_the_same_clip(tmp_path: Path) -> None:
    touch(tmp_path / "video" / "a.mp4", tmp_path / "audio" / "a.wav", tmp_path / "video" / "a.avi")
    touch(tmp_path / "audio" / "only.wav")
    clips = by_id(folder(tmp_path))
    assert set(clips) == {"a", "only"}
    assert clips["a"].media == tmp_path / "video" / "a.mp4"


def test_hidden_folders_and_stores_hold_no_clips(tmp_path: Path) -> None:
    touch(tmp_path / ".git" / "a.mp4", tmp_path / "mine.emo" / "b.mp4", tmp_path / "c.mp4", tmp_path / "notes.txt")
    assert list(by_id(folder(tmp_path))) == ["c"]


def test_two_rows_for_one_clip_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    write(tmp_path / "labels.csv", "name,label\na,sad\na.mp4,happy\n")
    with pytest.raises(UsageError, match="a two different labels"):
        list(folder(tmp_path).clips())


def test_two_texts_for_one_clip_are_refused(tmp_path: Path) -> None:
    (tmp_path / "transcripts.csv").write_text("name,text\na.mp4,Yes.\na.wav,No.\n")
    with pytest.raises(UsageError, match="gives a two different texts"):
        list(folder(tmp_path).clips())
    (tmp_path / "transcripts.csv").write_text("name,text\na.mp4,Yes.\na,Yes.\n")
    assert folder(tmp_path).check().problems[-1].endswith("no media file.")


def test_spellings_of_a_split_are_one_split(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(
        "name,label,split\na,sad,Train\nb,sad,train\nc,sad,TEST\nd,sad,test\ne,sad,train_corpus\nf,sad,val\n"
    )
    dataset = folder(tmp_path)
    assert dataset.splits == ("Train", "TEST", "val")
    assert dataset.members() == {"Train": ["a", "b", "e"], "TEST": ["c", "d"], "val": ["f"]}
    assert dataset.find_split("train") == "Train"
    assert dataset.check().problems[:2] == (
        "Split 'Train' is also written 'train' (1), 'train_corpus' (1): one split.",
        "Split 'TEST' is also written 'test' (1): one split.",
    )


def test_folder_without_tables_is_unlabelled_clips(tmp_path: Path) -> None:
    touch(tmp_path / "a.flac")
    dataset = folder(tmp_path)
    assert dataset.labels == ()
    assert dataset.check().unlabelled == 1
    assert dataset.check().problems == ()


def test_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert any("holds no media file" in problem for problem in folder(tmp_path).check().problems)


def test_folder_reads_speaker_and_text(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    labels = write(tmp_path / "t" / "l.csv", "name,emotion,speaker\na,Sad,Ann\n")
    texts = write(tmp_path / "t" / "t.csv", "name,text\na.mp4,Hello\n")
    clip = by_id(folder(tmp_path, labels=labels, transcripts=texts))["a"]
    assert (clip.label, clip.speaker, dict(clip.transcripts)) == (Label("sad"), "Ann", {"text": "Hello"})


# ---- faces ----------------------------------------------------------------------------------------------------------


def test_faces_in_each_published_layout(tmp_path: Path) -> None:
    touch(*(tmp_path / "data" / f"{name}.mp4" for name in "abcd"))
    faces = tmp_path / "faces"
    touch(
        faces / "a_aligned" / "frame_det_00_000001.bmp", faces / "b" / "b.npy", faces / "c.npy", faces / "a" / "x.csv"
    )
    clips = by_id(folder(tmp_path / "data", faces=faces))
    assert {name: clip.faces for name, clip in clips.items()} == {
        "a": faces / "a_aligned",
        "b": faces / "b",
        "c": faces / "c.npy",
        "d": None,
    }
    with pytest.raises(UsageError, match="faces folder"):
        list(folder(tmp_path / "data", faces=tmp_path / "no").clips())
    other = tmp_path / "other"
    other.mkdir()
    assert any("for any clip" in p for p in folder(tmp_path / "data", faces=other).check().problems)


# ---- MER2023 --------------------------------------------------------------------------------------------------------


def test_mer2023_has_the_official_order_of_labels(tmp_path: Path) -> None:
    assert mer2023(tmp_path).labels == ("neutral", "angry", "happy", "sad", "worried", "surprise")


def test_mer2023_in_the_layout_of_the_baseline(tmp_path: Path) -> None:
    write(tmp_path / "train-label.csv", "name,discrete,valence\na,happy,1.5\n")
    write(tmp_path / "test1-label.csv", "name,discrete,valence\nb,sad,-1\n")
    write(tmp_path / "transcription.csv", "name,sentence\na,你好\n")
    touch(tmp_path / "video" / "a.mp4")
    clips = by_id(mer2023(tmp_path))
    assert (clips["a"].split, clips["b"].split) == ("train_corpus", "test1")
    assert dict(clips["a"].transcripts) == {"chinese": "你好"}


@pytest.mark.parametrize(
    ("file", "column", "language"),
    [("transcription_en_all.csv", "sentence", "english"), ("transcription_all_new.csv", "sentence_en", "english")],
)
def test_mer2023_reads_the_transcripts_of_emotion_llama(tmp_path: Path, file: str, column: str, language: str) -> None:
    write(tmp_path / file, f"name,{column}\na,Hi\n")
    touch(tmp_path / "clips" / "a.mp4")
    assert dict(by_id(mer2023(tmp_path))["a"].transcripts) == {language: "Hi"}


def test_mer2023_labels_from_a_list(tmp_path: Path) -> None:
    listed = write(tmp_path / "relative_test3_NCEV.txt", "b 125 neutral -10\n")
    touch(tmp_path / "clips" / "b.mp4")
    assert by_id(mer2023(tmp_path, labels=listed))["b"].split == "test3"


def test_mer2023_says_what_is_wrong_and_runs_on_what_is_there(tmp_path: Path) -> None:
    make_mer2023(tmp_path)
    write(tmp_path / "transcription_en_all.csv", "name,sentence\na,Hi\n")
    problems = "\n".join(mer2023(tmp_path).check().problems)
    assert "train_corpus lists 2 clips; the published set has 3,373" in problems
    assert "transcription-engchi-polish.csv, transcription_en_all.csv are there; the first is used" in problems
    bare = tmp_path / "bare"
    touch(bare / "a.mp4")
    problems = "\n".join(mer2023(bare).check().problems)
    assert "no label-6way.npz" in problems
    assert "no transcription*.csv" in problems
    assert [clip.id for clip in mer2023(bare).clips()] == ["a"]


def test_mer2023_reports_words_outside_its_label_set(tmp_path: Path) -> None:
    write(tmp_path / "train-label.csv", "name,discrete\na,joyful\n")
    touch(tmp_path / "clips" / "a.mp4")
    assert any("'joyful' in the label files is not one of neutral" in p for p in mer2023(tmp_path).check().problems)


def test_mer2023_real_files(shared: Path) -> None:
    dataset = mer2023(shared / "data" / "mer2023")
    check = dataset.check()
    assert (check.listed, check.present, check.labelled, check.unlabelled) == (5030, 16, 13, 3)
    assert check.transcripts == 13
    assert {split.name: (split.listed, split.published) for split in check.splits} == {
        "train_corpus": (3373, 3373),
        "test1": (411, 411),
        "test2": (412, 412),
        "test3": (834, 834),
        POOL: (0, 73148),
    }
    assert check.problems == ()
    clips = by_id(dataset)
    assert len(clips) == 5033
    assert clips["sample_00005854"].label == Label("angry", -2.5)
    assert clips["sample_00005854"].transcripts["english"].startswith("Out of all the jerks")
    present = [clip for clip in clips.values() if clip.media is not None]
    assert {clip.id for clip in present if clip.label is None} == {
        "samplenew_00004251",
        "samplenew_00051251",
        "samplenew_00061200",
    }
    assert {clip.split for clip in present} == {"train_corpus", POOL}
    assert sum(not clip.transcripts for clip in clips.values() if clip.label is not None) == 217
    assert dataset.find_file("relative_test3_NCEV.txt") is not None


# ---- several lists --------------------------------------------------------------------------------------------------


def test_a_clip_of_a_training_and_a_test_list_counts_as_test(tmp_path: Path) -> None:
    write_npz(
        tmp_path / "label-6way.npz",
        train_corpus={"a": {"emo": "sad", "val": 1}, "both": {"emo": "sad", "val": 1}},
        test1_corpus={"both": {"emo": "happy", "val": 1}},
    )
    dataset = mer2023(tmp_path)
    both = by_id(dataset)["both"]
    assert (both.split, both.label) == ("test1", Label("happy", 1.0))
    assert dataset.members() == {"train_corpus": ["a", "both"], "test1": ["both"]}
    problems = dataset.check().problems
    assert "1 clip is listed in test1 and in train_corpus; it counts as test1: 'both'." in problems
    assert any("'both' has two different labels" in problem for problem in problems)


def test_mer2024_placeholders_are_no_labels(tmp_path: Path) -> None:
    write_npz(
        tmp_path / "label-6way.npz",
        train_corpus={"a": {"emo": "sad", "val": -10}},
        test1_corpus={"b": {"emo": "neutral", "val": -10}, "c": {"emo": "neutral", "val": -10}},
    )
    dataset = reopen("MER2024", tmp_path)
    assert [(clip.id, clip.split, clip.label) for clip in dataset.clips()] == [
        ("a", "train", Label("sad")),
        ("b", "test-candidates", None),
        ("c", "test-candidates", None),
    ]
    assert any("calls all its 2 clips neutral, which is no truth" in text for text in dataset.check().problems)


def test_mer2024_open_labels_are_annotations_of_training_clips(tmp_path: Path) -> None:
    make_mer2024(tmp_path)
    write(tmp_path / "ov_store" / "check-openset.csv", "name,openset\na,\"['at ease', 'happy']\"\n")
    dataset = reopen("MER2024", tmp_path)
    clip = by_id(dataset)["a"]
    assert (clip.split, clip.label, dict(clip.annotations)) == (
        "train",
        Label("happy", 2.0),
        {"openset": "at ease, happy"},
    )
    assert dataset.members()["test-ov"] == ["a"]
    assert dataset.find_split("semi") == "test-semi"


def test_mer2025_lists_without_truth_are_clips_without_label(tmp_path: Path) -> None:
    write(tmp_path / "track_all_candidates.csv", "name\nt\nboth\n")
    write(tmp_path / "track2_train_ovmerd.csv", 'name,openset\no,"shocked, care"\n')
    write(tmp_path / "track3_train_ovmerd.csv", "name,reason\no,Because he cares.\n")
    write(tmp_path / "track2_train_mercaptionplus.csv", "name,openset\nboth,[]\n")
    dataset = reopen("MER2025", tmp_path)
    assert {clip.id: (clip.split, dict(clip.annotations)) for clip in dataset.clips()} == {
        "t": ("test-candidates", {}),
        "both": ("test-candidates", {}),
        "o": ("ovmerd", {"openset": "shocked, care", "reason": "Because he cares."}),
    }
    problems = dataset.check().problems
    assert any("1 clip is listed in test-candidates and in mercaptionplus" in problem for problem in problems)
    assert "mercaptionplus lists 1 clip; the published set has 31,327." in problems


def test_published_lists_of_test_clips_are_held_out(tmp_path: Path) -> None:
    """The names of two lists that Emotion-LLaMA evaluates on do not say so."""
    write(tmp_path / "relative_train_NCEV.txt", "a 35 angry -1.2\n")
    for number, file in enumerate(("MER2024-noise_NCE.txt", "EMER_NCE.txt", "reltive_DFEW_set_1_test.txt")):
        write(tmp_path / file, f"t{number} 35 sad\n")
    splits = {name: clip.split for name, clip in by_id(reopen("emotion-llama", tmp_path)).items()}
    assert splits == {"a": "train", "t0": "test-noise", "t1": "test-emer", "t2": "reltive_DFEW_set_1_test"}
    assert {split for split in splits.values() if not held_out(split, splits.values())} == {"train"}


def test_lists_of_splits_count_more_than_a_list_of_all_clips_and_than_pseudo_labels(tmp_path: Path) -> None:
    """Emotion-LLaMA's folder has relative_train_NCEV.txt, all_label_NCEV.txt and MER2023_pseudo_label.txt at once."""
    write(tmp_path / "MER2023_pseudo_label.txt", "a 35 happy -10\np 20 sad -10\n")
    write(tmp_path / "all_label_NCEV.txt", "a 35 angry -1.2\nb 125 sad -10\nc 4 neutral 0\n")
    write(tmp_path / "relative_test3_NCEV.txt", "b 125 sad -10\n")
    write(tmp_path / "relative_train_NCEV.txt", "a 35 angry -1.2\n")
    clips = by_id(reopen("emotion-llama", tmp_path))
    assert {name: (clip.split, clip.label and clip.label.emotion) for name, clip in clips.items()} == {
        "b": ("test3", "sad"),
        "a": ("train", "angry"),
        "c": ("", "neutral"),
        "p": ("MER2023_pseudo_label", "sad"),
    }


def test_mer2026_preferences_are_annotations(tmp_path: Path) -> None:
    write(tmp_path / "track3_emoprefer.csv", "name,a1,a2,preference\na,He laughs.,He cries.,a1\n")
    clip = by_id(reopen("MER2026", tmp_path))["a"]
    assert clip.split == "emoprefer"
    assert dict(clip.annotations) == {"a1": "He laughs.", "a2": "He cries.", "preference": "a1"}


def test_mer2026_lists_a_clip_whose_descriptions_are_compared_in_several_pairs(tmp_path: Path) -> None:
    write(tmp_path / "track3_candidate.csv", "name,a1,a2\nb,He hums.,He runs.\na,He sits.,He nods.\nb,C.,D.\n")
    write(tmp_path / "track1_train.csv", "name,discrete\nz,happy\n")
    dataset = reopen("MER2026", tmp_path)
    clips = by_id(dataset)
    assert list(clips) == ["b", "a", "z"]
    assert dict(clips["b"].annotations) == {"a1": "He hums.", "a2": "He runs."}
    told = "1 clip has several rows in {}, of which annotations hold the first: 'b'."
    assert told.format(tmp_path / "track3_candidate.csv") in dataset.check().problems


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("labels.csv", "name,label\na,happy\nsub/a,sad\n", "name clip a as a and as sub/a, with different labels"),
        ("labels.csv", "name,label,split\na,sad,train\nsub/a,sad,test\n", "different labels or splits"),
        ("transcripts.csv", "name,english\na,Well.\nsub/a,No.\n", "give clip a two different texts"),
        ("labels.csv", "name,label\na,sad\nsub/a,sad\n", None),
    ],
)
def test_a_clip_of_two_names_has_one_label_split_and_text(
    tmp_path: Path, file: str, text: str, said: str | None
) -> None:
    write(tmp_path / "sub/a.mp4", "")
    write(tmp_path / file, text)
    dataset = reopen("folder", tmp_path)
    if said is None:
        assert [(clip.id, clip.label) for clip in dataset.clips()] == [("a", Label("sad"))]
        return
    with pytest.raises(UsageError, match=said):
        list(dataset.clips())


# ---- DFEW -----------------------------------------------------------------------------------------------------------


def dfew(root: Path, tests: Mapping[int, str], trains: Mapping[int, str] | None = None) -> Dataset:
    for folder_name, sets in (("test", tests), ("train", trains or {})):
        for number, rows in sets.items():
            path = root / "EmoLabel_DataSplit" / f"{folder_name}(single-labeled)" / f"set_{number}.csv"
            write(path, "video_name,label\n" + rows)
    return reopen("DFEW", root)


def test_dfew_folds_are_splits_where_all_five_are_there(tmp_path: Path) -> None:
    dataset = dfew(tmp_path, {k: f"{k},{k}\n{k + 10},7\n" for k in range(1, 6)})
    assert dataset.splits == ("fold1", "fold2", "fold3", "fold4", "fold5")
    clips = by_id(dataset)
    assert (clips["00002"].split, clips["00002"].label) == ("fold2", Label("sad"))
    assert clips["00015"].label == Label("fear")
    assert [text for text in dataset.check().problems if "no media" not in text] == []


def test_dfew_clips_of_one_number_are_refused(tmp_path: Path) -> None:
    dataset = dfew(tmp_path, {1: "1,3\n"})
    for part, name in (("part_1", "1.mp4"), ("part_2", "00001.mp4")):
        (tmp_path / "Clip/original" / part).mkdir(parents=True)
        (tmp_path / "Clip/original" / part / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"'1' in .* is a number that another file has too"):
        list(dataset.clips())


def test_dfew_lists_that_share_clips_are_reported(tmp_path: Path) -> None:
    problems = dfew(tmp_path, {1: "1,1\n2,2\n", 2: "2,2\n"}, {1: "1,1\n3,3\n"}).check().problems
    assert any("1 clip of" in text and "is in an earlier test list too: '00002'" in text for text in problems)
    assert any("1 clip is in test list 1 and in train list 1: '00001'" in text for text in problems)
    assert any("Of the five test lists 1, 2 are there" in text for text in problems)


def test_dfew_refuses_an_unknown_class(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"set_1.csv line 3: label '8' is not a number from 1 to 7"):
        list(dfew(tmp_path, {1: "1,1\n2,8\n"}).clips())


# ---- EMER -----------------------------------------------------------------------------------------------------------


def test_emer_reasons_are_annotations(tmp_path: Path) -> None:
    make_emer_v1(tmp_path / "v1")
    make_emer_v2(tmp_path / "v2")
    assert dict(by_id(reopen("EMER-v1", tmp_path / "v1"))["a"].annotations) == {
        "reason_english": "He laughs.",
        "reason_chinese": "他笑。",
    }
    clips = by_id(reopen("EMER-v2", tmp_path / "v2"))
    assert dict(clips["a"].annotations) == {
        "reason_english": "He laughs.",
        "reason_chinese": "他笑。",
        "openset": "happy, at ease",
    }
    assert dict(clips["b"].annotations) == {}


def test_emer_v1_in_chinese_alone_has_the_same_labels(tmp_path: Path) -> None:
    make_emer_v1(tmp_path)
    (tmp_path / "gt-eng.csv").unlink()
    assert [clip.label for clip in reopen("EMER-v1", tmp_path).clips()][:2] == [Label("happy"), Label("neutral")]


def test_emer_v1_says_where_the_languages_differ(tmp_path: Path) -> None:
    make_emer_v1(tmp_path)
    write(tmp_path / "gt-chi.csv", "names,emotions,subtitles,reasons\na,生气,,x\n")
    assert any("'a' has another label in English" in text for text in reopen("EMER-v1", tmp_path).check().problems)


# ---- sets of MERBench -----------------------------------------------------------------------------------------------


def test_iemocap_speakers_are_two_a_session(tmp_path: Path) -> None:
    make_iemocap(tmp_path)
    assert [clip.speaker for clip in reopen("IEMOCAP-4way", tmp_path).clips()] == ["Ses01M", "Ses01F", "Ses05F", None]


def test_a_class_beyond_the_label_set_is_refused(tmp_path: Path) -> None:
    make_merbench(tmp_path, train_corpus={"a": (7, -10), "b": (0, -10)}, test_corpus={"c": (0, -10)})
    with pytest.raises(UsageError, match=r"train_corpus: a has class 7 where 7 are known"):
        list(reopen("MELD", tmp_path).clips())


def test_ravdess_files_of_other_names_are_not_labelled(tmp_path: Path) -> None:
    touch(tmp_path / "03-01-09-01-01-01-01.wav", tmp_path / "03-01-01-01-01-01-25.wav", tmp_path / f"{SPOKEN[0]}.wav")
    dataset = reopen("RAVDESS", tmp_path)
    assert [clip.id for clip in dataset.clips() if clip.label is not None] == [SPOKEN[0]]
    assert any("'03-01-01-01-01-01-25', '03-01-09-01-01-01-01' has no emotion" in t for t in dataset.check().problems)


# ---- jsonl ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "a", "label": "sad"}\n{"name": "b"', r"line 2 is not JSON"),
        ('["a", "sad"]\n', r"line 1 is not an object"),
        ('{"name": "a", "label": ["sad"]}\n', r"line 1 is not an object of texts and numbers"),
        ('{"name": "a"}\n', r"has no key label or emotion or discrete; its keys are name"),
        ('{"name": "a", "label": "sad"}\n{"label": "sad"}\n', r"line 2 has an empty name"),
        ('{"name": "a", "label": "sad"}\n{"name": "a", "label": "happy"}\n', r"names a twice, in lines 1 and 2"),
        ('{"name": "a", "label": "sad", "valence": "much"}\n', r"line 1: valence 'much' is not a number"),
    ],
)
def test_bad_jsonl_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "labels.jsonl", text)
    with pytest.raises(UsageError, match=said):
        list(folder(tmp_path).clips())


def test_csv_and_jsonl_side_by_side_are_a_problem(tmp_path: Path) -> None:
    make_folder(tmp_path)
    make_jsonl(tmp_path)
    problems = folder(tmp_path).check().problems
    assert "labels.csv, labels.jsonl are there; the first is used, `labels` chooses another." in problems


# ---- names in annotation files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("merr.json", '{"a": {"pseu_emotion": "sad"}, "b.mp4": {}}'),
        ("list.json", '[{"name": "a"}, {"name": "b"}]'),
        ("list.jsonl", '{"name": "a"}\n{"name": "b"}\n'),
        ("gt.csv", "names,chi_reasons\na,x\nb,y\n"),
        ("NCEV.txt", "a 35 angry -1.2\nb 125 sad -10\n"),
        ("names.txt", "a\nb\na\n"),
    ],
)
def test_names_are_read_from_any_annotation_file(tmp_path: Path, file: str, text: str) -> None:
    assert names_of(write(tmp_path / file, text)) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "names no clip"), ("[1, 2]", "names no clip"), ("{", "is not JSON"), ("", "is empty")]
)
def test_an_annotation_file_without_names_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        names_of(write(tmp_path / "merr.json", text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['at ease', 'happy']", ["at ease", "happy"]),
        ("shocked,care,serious", ["shocked", "care", "serious"]),
        ('["a", ""]', ["a"]),
        ("[]", []),
    ],
)
def test_open_words_follow_the_rule_of_mertools(text: str, words: list[str]) -> None:
    assert open_words(text) == words
    assert open_words(", ".join(words)) == words


# ---- real files -----------------------------------------------------------------------------------------------------


def test_real_open_labels(shared: Path) -> None:
    dataset = reopen("MER2024", shared / "data" / "openvocab")
    words = [open_words(clip.annotations["openset"]) for clip in dataset.clips()]
    assert len(words) == 332
    assert len({word.lower() for each in words for word in each}) == 248
    assert round(sum(map(len, words)) / len(words), 2) == 3.38


def test_real_emer(shared: Path) -> None:
    first = by_id(reopen("EMER-v1", shared / "data" / "emer"))
    second = by_id(reopen("EMER-v2", shared / "data" / "emer"))
    assert (len(first), len(second), len(first.keys() & second.keys())) == (100, 332, 39)
    assert first["sample_00000648"].label == Label("angry")
    assert first["sample_00000648"].annotations["reason_english"].endswith("his emotional state is anger.")
    assert all({"reason_english", "reason_chinese"} == clip.annotations.keys() for clip in first.values())
    assert sum(not clip.transcripts for clip in first.values()) == 7
    lengths = [len(clip.annotations["reason_english"]) for clip in second.values()]
    assert round(sum(lengths) / len(lengths)) == 1296


def test_real_ravdess_splits_are_actors(shared: Path) -> None:
    clips = list(reopen("RAVDESS", shared / "data" / "ravdess_speech_16k").clips())
    assert len(clips) == 1440
    assert {(clip.split, clip.speaker) for clip in clips} == {(f"actor{i:02d}",) * 2 for i in range(1, 25)}
    assert not any(clip.transcripts for clip in clips)


def test_real_merr_names(shared: Path) -> None:
    names = names_of(shared / "data" / "merr" / "MERR_fine_grained.json")
    listed = {clip.id for clip in mer2023(shared / "data" / "mer2023").clips() if clip.label is not None}
    assert len(names) == 4487
    assert not listed & set(names)


# ---- who speaks, where ----------------------------------------------------------------------------------------------


def places(kind: str, root: Path) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {clip.id: (clip.speaker, clip.dialogue, clip.session) for clip in reopen(kind, root).clips()}


def test_iemocap_knows_session_dialogue_and_speaker(tmp_path: Path) -> None:
    make_iemocap(tmp_path)
    found = places("IEMOCAP-4way", tmp_path)
    assert found.pop("new") == (None, None, None)
    assert {clip: dialogue for clip, (_, dialogue, _) in found.items()} == {
        each: each.rpartition("_")[0] for each in SESSIONS
    }
    assert [session for _, _, session in found.values()] == ["session1", "session1", "session5"]


def test_meld_knows_dialogues_and_from_the_authors_files_speakers(tmp_path: Path) -> None:
    tables = {"train_corpus": ("train_dia0_utt0", "train_dia0_utt1"), "val_corpus": ("val_dia0_utt0",)}
    write_npz(tmp_path / "label.npz", **{s: {n: {"emo": 0, "val": -10} for n in names} for s, names in tables.items()})
    found = places("MELD", tmp_path)
    assert found == {
        "train_dia0_utt0": (None, "train_dia0", None),
        "train_dia0_utt1": (None, "train_dia0", None),
        "val_dia0_utt0": (None, "val_dia0", None),
    }
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    write(
        tmp_path / "train_sent_emo.csv",
        header + '1,"Hi, you.",Chandler,joy,positive,0,0\n2,Hey.,NaN,joy,positive,0,1\n',
    )
    write(tmp_path / "dev_sent_emo.csv", header + "1,Oh.,Ross,joy,positive,0,0\n")
    assert {clip: speaker for clip, (speaker, _, _) in places("MELD", tmp_path).items()} == {
        "train_dia0_utt0": "Chandler",
        "train_dia0_utt1": None,
        "val_dia0_utt0": "Ross",
    }


@pytest.mark.parametrize(
    ("kind", "clip", "video"),
    [
        ("CMU-MOSI", "_dI--eQ6qVU_28", "_dI--eQ6qVU"),
        ("CMU-MOSEI", "atnd_PF-Lbs_1", "atnd_PF-Lbs"),
        ("SIMS", "video_0018_0004", "video_0018"),
        ("SIMSv2", "aqgy4_0006_00070", "aqgy4_0006"),
        ("SIMS", "strange", None),
    ],
)
def test_clips_of_one_video_are_one_dialogue(kind: str, clip: str, video: str | None, tmp_path: Path) -> None:
    write_npz(tmp_path / "label.npz", train_corpus={clip: {"emo": 0, "val": 1.0}})
    assert places(kind, tmp_path) == {clip: (None, video, None)}


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_an_own_table_names_speaker_dialogue_and_session(name: str, tmp_path: Path) -> None:
    rows = [("a", "sad", "Ann", "d1", "s1"), ("b", "sad", "n/a", "-", "")]
    keys = ("name", "label", "speaker_id", "dialogue_id", "session")
    lines = [",".join(keys), *map(",".join, rows)]
    if name.endswith("jsonl"):
        lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    write(tmp_path / name, "\n".join(lines) + "\n")
    found = {clip.id: (clip.speaker, clip.dialogue, clip.session) for clip in folder(tmp_path).clips()}
    assert found == {"a": ("Ann", "d1", "s1"), "b": (None, None, None)}


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("iemocap", (5531, 10, 151, 5)),
        ("meld", (13708, 0, 1432, 0)),
        ("mosi", (2199, 0, 93, 0)),
        ("sims", (2281, 0, 60, 0)),
    ],
)
def test_real_clips_tell_who_and_where(kind: str, known: tuple[int, int, int, int], shared: Path) -> None:
    name = {"iemocap": "IEMOCAP-4way", "meld": "MELD", "mosi": "CMU-MOSI", "sims": "SIMS"}[kind]
    found = list(places(name, shared / "data" / kind).values())
    assert (len(found), *(len({each[i] for each in found} - {None}) for i in range(3))) == known


# ---- what a check says of cells and names ---------------------------------------------------------------------------


def said(dataset: Dataset, part: str) -> list[str]:
    return [problem for problem in dataset.check().problems if part in problem]


def test_cells_that_say_nothing_are_no_class_and_are_counted(tmp_path: Path) -> None:
    words = ["happy", "nan", "Sad", "NA", "nan", "-", ""]
    touch(*(tmp_path / f"c{i}.mp4" for i in range(len(words))))
    write(tmp_path / "labels.csv", "name,label\n" + "".join(f"c{i},{word}\n" for i, word in enumerate(words)))
    dataset = folder(tmp_path)
    assert dataset.labels == ("happy", "sad")
    assert (dataset.check().labelled, dataset.check().unlabelled) == (2, 5)
    assert said(dataset, "not annotated") == [
        "4 clips are not annotated, as their label is 'nan' (2), 'NA' (1), '-' (1). "
        "If one of them is a class, name all classes in emo.toml (`classes`)."
    ]


def test_none_is_a_class_where_the_table_declares_it(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4")
    write(tmp_path / "labels.csv", "name,label\na,None\nb,happy\nc,unknown\n")
    dataset = open_dataset("mine", DataTable("mine", tmp_path, classes=("happy", "none")))
    assert dataset.labels == ("happy", "none")
    assert [clip.label and clip.label.emotion for clip in dataset.clips()] == ["none", "happy", None]
    assert said(dataset, "not annotated") == ["1 clip is not annotated, as their label is 'unknown' (1)."]


def test_words_that_look_alike_are_one_class_and_listed(tmp_path: Path) -> None:
    words = ["happy", "Happy", "\ufeffhappy", "hap\u200bpy", "ｈａｐｐｙ", "happy\u00a0", "0", "0.0"]
    write(tmp_path / "labels.csv", "name,label\n" + "".join(f"c{i},{word}\n" for i, word in enumerate(words)))
    dataset = folder(tmp_path)
    assert dataset.labels == ("0", "happy")
    assert said(dataset, "one class") == [
        r"'happy' is also written '\ufeffhappy' (1), 'hap\u200bpy' (1), '\uff48\uff41\uff50\uff50\uff59' (1): "
        "one class.",
        "'0' is also written '0.0' (1): one class.",
    ]


@pytest.mark.parametrize("kind", ["MER2024", "MER2025", "MER2026", "MER2023"])
def test_registered_sets_too_take_nothing_for_no_label(kind: str, tmp_path: Path) -> None:
    file = {"MER2023": "train-label.csv", "MER2024": "label-disdim.csv", "MER2025": "track1_train_disdim.csv"}
    write(tmp_path / file.get(kind, "track1_train.csv"), "name,discrete,valence\na,nan,NA\nb,happy,1\n")
    dataset = reopen(kind, tmp_path)
    assert {clip.id: clip.label for clip in dataset.clips()} == {"a": None, "b": Label("happy", 1.0)}
    assert said(dataset, "1 clip is not annotated")


@pytest.mark.parametrize(
    ("listed", "there", "what"),
    [
        (["1", "2", "3"], ["0001", "0002", "0003"], "leading zeros"),
        (["clip_1", "clip_2"], ["clip_01", "clip_02"], "leading zeros"),
        (["1.0", "2.0"], ["1", "2"], "a number with decimals"),
        (["A", "B"], ["a", "b"], "upper and lower case"),
        (["a.xyz", "b.xyz"], ["a", "b"], "a suffix"),
        (["old/a", "old/b"], ["a", "b"], "a folder before the name"),
        (["C:\\clips\\a", "C:\\clips\\b"], ["a", "b"], "a folder before the name"),
        (["a b", "c b"], ["a_b", "c-b"], "blanks, - or _ between words"),
        (["a\u200b", "ｂ"], ["a", "b"], "signs that nobody sees, or full-width ones"),
    ],
)
def test_names_that_were_probably_meant_are_told_in_pairs(
    listed: list[str], there: list[str], what: str, tmp_path: Path
) -> None:
    touch(tmp_path / "same.mp4", *(tmp_path / f"{name}.mp4" for name in there))
    rows = [{"name": name, "label": "sad"} for name in ["same", *listed]]
    write(tmp_path / "labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    dataset = folder(tmp_path)
    (problem,) = said(dataset, "probably files")
    assert (
        f"{len(listed)} listed clips without a file are probably files that no list names, but for {what}: " in problem
    )
    for name, file in zip(listed, there, strict=True):
        assert f"{name!r} for {file!r}" in problem
    assert dataset.check().absent == len(listed)  # told, not joined


def test_transcripts_of_nearly_a_clip_are_told(tmp_path: Path) -> None:
    touch(tmp_path / "0001.mp4", tmp_path / "0002.mp4")
    write(tmp_path / "labels.csv", "name,label\n0001,sad\n0002,sad\n")
    write(tmp_path / "transcripts.csv", "name,text\n1,Hello\n0002,Hi\n")
    assert "1 transcript belongs to no clip" in said(folder(tmp_path), "'1' for '0001'")[0]


def test_names_that_two_files_could_mean_are_no_pair(tmp_path: Path) -> None:
    touch(tmp_path / "01.mp4", tmp_path / "001.mp4")
    write(tmp_path / "labels.csv", "name,label\n1,sad\n")
    assert not said(folder(tmp_path), "probably")


def test_two_files_of_one_stem_are_a_problem(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "a.avi", tmp_path / "b.mp4", tmp_path / "b.wav", tmp_path / "c.mp4")
    assert said(folder(tmp_path), "another suffix") == [
        "2 media files have the name of another, with another suffix: 'a.mp4' is read and 'a.avi' is not, and so on."
    ]
    touch(tmp_path / "other" / "audio" / "d.wav", tmp_path / "other" / "video" / "d.mp4")
    assert "'video/d.mp4' is read and 'audio/d.wav' is not." in said(folder(tmp_path / "other"), "another suffix")[0]


def test_names_that_are_not_utf8_make_ids_that_any_file_can_hold(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    dataset = folder(tmp_path)
    assert [clip.id for clip in dataset.clips()] == ["caf%E9"]
    assert said(dataset, "not UTF-8")
    assert json.dumps(said(dataset, ""), ensure_ascii=False).encode()


def test_links_in_a_circle_pipes_and_folders_are_no_media(tmp_path: Path) -> None:
    os.symlink(tmp_path / "a.mp4", tmp_path / "b.mp4")
    os.symlink(tmp_path / "b.mp4", tmp_path / "a.mp4")
    os.symlink(tmp_path, tmp_path / "again")
    os.mkfifo(tmp_path / "c.mp4")
    touch(tmp_path / "d.mp4" / "e.mp4")
    dataset = folder(tmp_path)
    assert [clip.id for clip in dataset.clips()] == ["e"]
    assert said(dataset, "no files that can be read")


def test_a_folder_behind_a_link_is_looked_into_once(tmp_path: Path) -> None:
    root, away = tmp_path / "data", tmp_path / "away"
    for folder in (root / "own", away / "deep"):
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.mp4").write_bytes(b"")
    os.symlink(away, root / "clips")  # the clips lie on another disk
    os.symlink(root / "own", root / "also")
    os.symlink(root, away / "circle")
    tree = scan_media(root)
    assert tree.files == {"deep": root / "clips/deep/deep.mp4", "own": root / "own/own.mp4"}
    assert tree.problems == ()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, link_to_itself])
@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "label.npz"])
def test_what_is_no_file_is_one_sentence(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(UsageError, match=rf"{name}.*(no regular file|is a folder|cannot be read)"):
        list(folder(tmp_path, labels=tmp_path / name).clips())


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "é" * 200])
def test_names_that_no_file_can_have_are_clips_without_a_file(name: str, tmp_path: Path) -> None:
    write(tmp_path / "labels.jsonl", json.dumps({"name": name, "label": "sad"}) + "\n")
    assert by_id(folder(tmp_path))[name].media is None
    assert folder(tmp_path).find_file(name) is None
    with pytest.raises(UsageError):
        find_labels(name, tmp_path)


def test_a_list_that_is_nowhere_is_named_with_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "emo.toml").write_text('[data.mine]\nroot = "clips"\n')
    with pytest.raises(UsageError, match="is neither here nor under") as caught:
        find_labels("relative_test3_NCEV.txt", tmp_path)
    assert "label-6way.npz#test3" in caught.value.hint
    with pytest.raises(UsageError, match="is neither here nor under") as caught:
        find_labels("mine.txt", tmp_path)
    assert caught.value.hint == "Give its path."


def test_an_absolute_path_is_found_beside_a_named_dataset(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "emo.toml").write_text('[data.mine]\nroot = "clips"\n')
    path = write(tmp_path / "elsewhere/mine.csv", "name,label\na,sad\n")
    assert find_labels(f"{path}#train", tmp_path, "mine") == path.with_name("mine.csv#train")


def test_a_split_without_a_file_is_told_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'#test' names no file of labels. Write FILE#SPLIT"):
        find_labels("#test", tmp_path)
