"""`emo data leaks`: clips that are tested on and trained on, found by name, by content and by likeness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore import fetch
from emo.featstore.clip import hash_media
from emo.featstore.datasets.leaks import leaks_page
from emo.featstore.errors import FeatureMissing, StoreError, UsageError
from emo.featstore.page import Page
from emo.featstore.search import nearest_rows
from emo.featstore.storage.store import Store
from emo.featstore.workspace import Workspace, load_workspace


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def media(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        write(folder / f"{name}.mp4", content)


def found(page: Page, by: str) -> list[tuple[str, str, bool, list[tuple[str, str]]]]:
    return [
        (each.held_out, each.other, each.leak, [pair[:2] for pair in each.pairs])
        for each in page.value["overlaps"]
        if each.by == by
    ]


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., Workspace]:
    """A workspace of folders: `workspace(own="name,label,split rows")`."""

    def make(**tables: str) -> Workspace:
        lines = []
        for name, rows in tables.items():
            write(tmp_path / name / "labels.csv", "name,label,split\n" + rows)
            lines.append(f'[data.{name}]\nroot = "{name}"\nkind = "folder"\n')
        write(tmp_path / "emo.toml", "".join(lines))
        return load_workspace(tmp_path)

    return make


# ---- by name --------------------------------------------------------------------------------------------------------


def test_clean_splits_have_no_leak(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    page = leaks_page(workspace(own="a,sad,train\nb,sad,test\n"))
    assert (page.exit_code, page.value["leaks"], page.value["overlaps"]) == (0, 0, [])
    assert page.verdict == "no leak in what was checked"


def test_a_test_clip_of_another_datasets_training_split_is_a_leak(workspace: Callable[..., Workspace]) -> None:
    page = leaks_page(workspace(own="a,sad,train\nb,sad,test\n", more="b,sad,train\nc,sad,train\n"))
    assert found(page, "name") == [("own test", "more train", True, [("b", "b")])]
    assert (page.exit_code, page.verdict) == (1, "1 clip is tested on and trained on")


@pytest.mark.parametrize("split", ["val", "dev", "valid", "validation", "eval", "held_out", "Val_corpus", "1"])
def test_every_name_of_a_held_out_part_is_tested_on(workspace: Callable[..., Workspace], split: str) -> None:
    rest, test = ("0", "2") if split == "1" else ("train", "test")  # beside a test split, a set has no folds
    page = leaks_page(workspace(own=f"a,sad,{rest}\nb,sad,{split}\nc,sad,{test}\n", other="b,sad,train\n"))
    assert found(page, "name") == [(f"own {split}", "other train", True, [("b", "b")])]
    assert page.exit_code == 1


def test_a_clip_of_two_training_splits_or_two_test_splits_is_no_leak(workspace: Callable[..., Workspace]) -> None:
    page = leaks_page(workspace(own="a,sad,train\nb,sad,test1\n", more="a,sad,train\nb,sad,test2\n"))
    assert {(row[0], row[1], row[2]) for row in found(page, "name")} == {
        ("own train", "more train", False),
        ("own test1", "more test2", False),
    }
    assert page.exit_code == 0


def test_a_clip_that_two_lists_of_one_dataset_name_is_a_leak(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-label.csv", "name,discrete\na,sad\nboth,sad\n")
    write(tmp_path / "data" / "test1-label.csv", "name,discrete\nboth,sad\n")
    write(tmp_path / "emo.toml", '[data.MER2023]\nroot = "data"\n')
    page = leaks_page(load_workspace(tmp_path))
    assert found(page, "name") == [("MER2023 test1", "MER2023 train_corpus", True, [("both", "both")])]


def test_folds_are_held_out_in_turn(tmp_path: Path) -> None:
    for k in range(1, 6):
        write(
            tmp_path / "dfew/EmoLabel_DataSplit/test(single-labeled)" / f"set_{k}.csv",
            f"video_name,label\n{k},1\n9,1\n",
        )
    write(tmp_path / "emo.toml", '[data.DFEW]\nroot = "dfew"\n')
    rows = found(leaks_page(load_workspace(tmp_path)), "name")
    assert len(rows) == 10  # every pair of five folds
    assert all(leak and pairs == [("00009", "00009")] for _, _, leak, pairs in rows)


def test_an_annotation_file_is_checked_against_every_test_split(
    workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    here = workspace(own="a,sad,train\nb,sad,test1\nc,sad,test2\n")
    merr = write(tmp_path / "MERR.json", '{"a": {}, "c": {}, "x": {}}')
    page = leaks_page(here, [merr])
    assert found(page, "name") == [
        ("own test2", "MERR.json", True, [("c", "c")]),
        ("own train", "MERR.json", False, [("a", "a")]),
    ]
    assert "annotation files: none was named" in leaks_page(here).value["not_checked"]
    assert "annotation files: none was named" not in page.value["not_checked"]


def test_an_unlabelled_copy_is_no_leak_but_said(tmp_path: Path) -> None:
    """Other names, no labels: nothing is learned from it, unless somebody gives it pseudo-labels."""
    write(tmp_path / "own" / "labels.csv", "name,label,split\na,sad,train\nb,sad,test\nc,happy,test\n")
    media(tmp_path / "own", a="one", b="two", c="six")
    media(tmp_path / "copy", x1="one", x2="two", x3="six")
    tables = "".join(f'[data.{name}]\nroot = "{name}"\nkind = "folder"\n' for name in ("own", "copy"))
    write(tmp_path / "emo.toml", tables)
    page = leaks_page(load_workspace(tmp_path))
    assert (page.exit_code, page.value["leaks"], page.verdict) == (0, 0, "no leak in what was checked")
    assert found(page, "content") == [
        ("own train", "copy, no labels", False, [("a", "x1")]),
        ("own test", "copy, no labels", False, [("b", "x2"), ("c", "x3")]),
    ]
    (said,) = page.value["without_label"]
    assert said.startswith("2 clips that are tested on are also in copy, no labels: no leak as things are, but one as")
    pseudo = write(tmp_path / "pseudo.txt", "x2 0 sad -10\n")  # under whatever name: by the list it is trained on
    page = leaks_page(load_workspace(tmp_path), [pseudo])
    assert page.exit_code == 1
    assert ("own test", "copy", True, [("b", "x2")]) in found(page, "content")


def test_where_nothing_is_tested_on_that_is_said(tmp_path: Path) -> None:
    media(tmp_path / "copy", x1="one")
    write(tmp_path / "emo.toml", '[data.copy]\nroot = "copy"\nkind = "folder"\n')
    page = leaks_page(load_workspace(tmp_path))
    assert (
        "leaks: no split of these datasets is tested on, so there is nothing to look for" in page.value["not_checked"]
    )


# ---- by content -----------------------------------------------------------------------------------------------------


def test_one_content_under_two_names_is_a_leak(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    here = workspace(own="a,sad,train\nb,sad,test\nc,sad,test\nd,sad,test\n")
    media(tmp_path / "own", a="same", b="same", c="else", d="longer")
    page = leaks_page(here)
    assert found(page, "content") == [("own test", "own train", True, [("b", "a")])]
    assert "content: 4 media, 3 of them read for it" in page.value["checked"]  # only files of one size


def test_content_that_the_store_knows_is_not_read_again(
    workspace: Callable[..., Workspace], tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = workspace(own="a,sad,train\nb,sad,test\ngone,sad,test\n")
    media(tmp_path / "own", a="same", b="same", gone="same")
    with Store.create(here.store_path).writer() as writer:
        for name in ("a", "b", "gone"):
            path = tmp_path / "own" / f"{name}.mp4"
            writer.clip(name, hash_media(path), path)
            writer.add(lab.utt, hash_media(path).media, lab.record(lab.utt, lab.media(1)))
    (tmp_path / "own" / "gone.mp4").unlink()
    monkeypatch.setattr(fetch, "hash_media", lambda path: pytest.fail(f"{path} was read"))
    page = leaks_page(here)
    assert found(page, "content") == [("own test", "own train", True, [("b", "a"), ("gone", "a")])]
    assert "content: 3 media, 0 of them read for it" in page.value["checked"]


def test_clips_without_media_are_not_checked_and_counted(workspace: Callable[..., Workspace]) -> None:
    page = leaks_page(workspace(own="a,sad,train\nb,sad,test\n"))
    assert "content: 2 clips have no media, here or in the store" in page.value["not_checked"]


# ---- by feature -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(workspace: Callable[..., Workspace], lab: Any) -> Callable[..., Workspace]:
    """A workspace of one dataset with utterance vectors in its store: `stored(rows, a=[...], b=[...])`."""

    def make(rows: str, **vectors: list[float]) -> Workspace:
        here = workspace(own=rows)
        spec = lab.spec("HL-UTT", "utt", 3, 1)
        with Store.create(here.store_path).writer() as writer:
            for i, (name, vector) in enumerate(vectors.items()):
                writer.clip(name, lab.media(i))
                writer.add(spec, lab.media(i), np.array([vector], np.float32))
        return here

    return make


ROWS = "a,sad,train\nb,sad,train\nx,sad,test\ny,sad,test\n"


def test_a_near_duplicate_is_a_leak_and_names_its_twin(stored: Callable[..., Workspace]) -> None:
    here = stored(ROWS, a=[1, 0, 0], b=[0, 1, 0], x=[3, 0.01, 0], y=[1, 1, 1])
    page = leaks_page(here, feature="HL-UTT")
    assert found(page, "feature") == [("own test", "own train", True, [("x", "a")])]
    assert page.exit_code == 1
    (said,) = [text for text in page.value["checked"] if text.startswith("near-duplicates")]
    assert "2 clips" in said
    assert leaks_page(here, feature="HL-UTT", threshold=0.999999).exit_code == 0
    assert leaks_page(here, feature="HL-UTT", threshold=0.5).value["leaks"] == 2


@pytest.mark.parametrize(("cosine", "leak"), [(0.99 + 2e-5, True), (0.99, True), (0.99 - 2e-5, False)])
def test_the_threshold_itself_counts_as_near(cosine: float, leak: bool, stored: Callable[..., Workspace]) -> None:
    here = stored(ROWS, a=[1, 0, 0], x=[cosine, (1 - cosine**2) ** 0.5, 0])
    assert (leaks_page(here, feature="HL-UTT").exit_code == 1) is leak
    assert leaks_page(here, feature="HL-UTT", threshold=1.0).exit_code == 0


def test_equal_vectors_are_found_at_a_threshold_of_one(stored: Callable[..., Workspace]) -> None:
    here = stored(ROWS, a=[0.1, 0.2, 0.3], x=[0.3, 0.6, 0.9])  # in float32 their cosine need not be 1
    assert leaks_page(here, feature="HL-UTT", threshold=1.0).value["leaks"] == 1


def test_a_clip_that_is_in_both_does_not_hide_its_twin(
    stored: Callable[..., Workspace], workspace: Callable[..., Workspace]
) -> None:
    stored(ROWS, a=[0, 0, 1], b=[0, 1, 0], x=[1, 0, 0], y=[0, 1, 1], twin=[1, 0.01, 0])
    page = leaks_page(workspace(own=ROWS, more="x,sad,train\ntwin,sad,train\n"), feature="HL-UTT")
    assert found(page, "name") == [("own test", "more train", True, [("x", "x")])]
    assert found(page, "feature") == [("own test", "more train", True, [("x", "twin")])]
    assert page.value["leaks"] == 1


def test_vectors_without_direction_and_clips_without_the_feature_are_said(stored: Callable[..., Workspace]) -> None:
    page = leaks_page(stored(ROWS, a=[1, 0, 0], x=[0, 0, 0], y=[0, 1, 0]), feature="HL-UTT")
    assert page.exit_code == 0
    said = "\n".join(page.value["not_checked"])
    assert "near-duplicates: 1 clip does not have HL-UTT" in said
    assert "near-duplicates: 1 clip is zero or not finite in HL-UTT" in said


def test_another_search_can_be_plugged_in(stored: Callable[..., Workspace]) -> None:
    seen = []

    def search(queries: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append((queries.shape, base.shape))
        return nearest_rows(queries, base)

    here = stored(ROWS, a=[1, 0, 0], b=[0, 1, 0], x=[1, 0, 0], y=[0, 0, 1])
    assert leaks_page(here, feature="HL-UTT", nearest=search).value["leaks"] == 1
    assert seen == [((2, 3), (2, 3))]


def test_the_search_is_exact() -> None:
    rng = np.random.default_rng(0)
    queries, base = rng.normal(size=(37, 5)).astype(np.float32), rng.normal(size=(101, 5)).astype(np.float32)
    cosine, row = nearest_rows(queries, base)
    np.testing.assert_array_equal(row, (queries @ base.T).argmax(axis=1))
    np.testing.assert_allclose(cosine, (queries @ base.T).max(axis=1), rtol=1e-5)


def test_without_a_feature_likeness_is_said_not_to_be_checked(workspace: Callable[..., Workspace]) -> None:
    assert "near-duplicates: no feature was named to look for them in" in leaks_page(
        workspace(own="a,sad,test\n")
    ).value["not_checked"]  # fmt: skip


# ---- what is refused, what is known ---------------------------------------------------------------------------------


def test_a_feature_needs_a_store_that_has_it(
    workspace: Callable[..., Workspace], stored: Callable[..., Workspace]
) -> None:
    with pytest.raises(StoreError, match=r"features\.emo"):
        leaks_page(workspace(own="a,sad,test\n"), feature="HL-UTT")
    with pytest.raises(FeatureMissing, match="mae_340_UTT"):
        leaks_page(stored(ROWS, a=[1, 0, 0]), feature="mae_340_UTT")


def test_bad_questions_are_refused(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset to look into"):
        leaks_page(workspace())
    with pytest.raises(UsageError, match="A threshold of 99 is no cosine"):
        leaks_page(workspace(own="a,sad,test\n"), threshold=99)
    with pytest.raises(UsageError, match="does not exist"):
        leaks_page(workspace(own="a,sad,test\n"), [tmp_path / "no.json"])


def test_known_cases_are_told_for_the_datasets_that_they_concern(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, words in (("MER2023-SEMI", "MERR"), ("EMER-v1", "EMER"), ("IEMOCAP-6way", "session")):
        write(tmp_path / "emo.toml", f'[data.{name}]\nroot = "data"\n')
        assert any(words in text for text in leaks_page(load_workspace(tmp_path)).value["known"])
    write(tmp_path / "emo.toml", '[data.own]\nroot = "data"\n')
    assert leaks_page(load_workspace(tmp_path)).value["known"] == []


# ---- real files -----------------------------------------------------------------------------------------------------


def test_real_annotations_are_of_training_clips(shared: Path, tmp_path: Path) -> None:
    tables = {"MER2023": "mer2023", "EMER-v1": "emer", "EMER-v2": "emer", "MER2024": "openvocab"}
    write(
        tmp_path / "emo.toml",
        "".join(f'[data.{name}]\nroot = "{shared / "data" / folder}"\n' for name, folder in tables.items()),
    )
    merr = shared / "data" / "merr" / "MERR_fine_grained.json"
    page = leaks_page(load_workspace(tmp_path), [merr])
    rows = {(held_out, other): (leak, len(pairs)) for held_out, other, leak, pairs in found(page, "name")}
    assert rows == {
        ("EMER-v1 test-v1", "MER2023 train_corpus"): (True, 100),
        ("EMER-v2 test-v2", "MER2023 train_corpus"): (True, 332),
        ("MER2024 test-ov", "MER2023 train_corpus"): (True, 332),
        ("EMER-v1 test-v1", "EMER-v2 test-v2"): (False, 39),
        ("EMER-v1 test-v1", "MER2024 test-ov"): (False, 39),
        ("EMER-v2 test-v2", "MER2024 test-ov"): (False, 332),
        ("MER2023 unlabelled", "MERR_fine_grained.json"): (False, 3),
    }
    assert found(page, "content") == []
