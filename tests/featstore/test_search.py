"""Neighbours: exact, cached by the store's state, and honest about what is compared."""

from __future__ import annotations

import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.search import Neighbourhood, nearest, nearest_many, nearest_rows, nearest_words, search_page
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import load_workspace

SPEC = EncoderSpec("HL-UTT", "hubert", "audio", "utt", 16, 1, "tiny", "seed:0")
TOKENS = EncoderSpec("eva_g_448", "eva", "frame", "tokens", 4, 3, "tiny", "seed:0")


def media(i: int) -> str:
    return f"{i:032x}"


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path, vectors: np.ndarray) -> Store:
    made = open_store(tmp_path / "a.emo", create=True)
    with made.writer() as writer:
        for i, row in enumerate(vectors):
            writer.clip(f"c{i}", media(i))
            writer.add(SPEC, media(i), row[None])
        writer.add(TOKENS, media(0), np.ones((3, 4), np.float32))
    return open_store(tmp_path / "a.emo")


def test_neighbours_are_those_of_a_plain_search(store: Store, vectors: np.ndarray) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[7]
    expected = [i for i in np.argsort(-cosine) if i != 7][:5]
    found = nearest(store, "c7", "hubert", 5)
    assert [each.clip for each in found] == [f"c{i}" for i in expected]
    assert [each.cosine for each in found] == pytest.approx(cosine[expected], abs=1e-6)
    assert len(nearest(store, "c7", "HL-UTT", 100)) == 39


def test_a_neighbourhood_is_asked_many_times_and_knows_when_it_is_out_of_date(
    store: Store, vectors: np.ndarray
) -> None:
    held = Neighbourhood(store, SPEC)
    for clip in ("c7", "c0"):
        assert held.nearest(clip, 5) == nearest(store, clip, SPEC, 5)
    assert held.version == store.version(SPEC)
    with store.writer() as writer:
        writer.clip("twin", media(99))
        writer.add(SPEC, media(99), vectors[7][None])
    assert held.version != store.version(SPEC)
    assert Neighbourhood(store, SPEC).nearest("c7", 1)[0].clip == "twin"
    with pytest.raises(FeatureMissing, match="of twin"):
        held.nearest("twin")


def test_the_index_is_kept_and_made_anew_by_a_commit(store: Store, vectors: np.ndarray) -> None:
    nearest(store, "c7", "HL-UTT")
    (kept,) = (store.path / "search").iterdir()
    written = kept.stat().st_mtime_ns
    nearest(store, "c8", "HL-UTT")
    assert kept.stat().st_mtime_ns == written
    with store.writer() as writer:
        writer.clip("twin", media(99))
        writer.add(SPEC, media(99), vectors[7][None])
    again = open_store(store.path)
    assert nearest(again, "c7", "HL-UTT", 1)[0].clip == "twin"
    (renewed,) = (store.path / "search").iterdir()
    assert renewed != kept
    renewed.write_bytes(b"damaged")
    assert nearest(again, "c7", "HL-UTT", 1)[0].clip == "twin"
    assert store.verify() == []
    store.gc()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_searched(store: Store) -> None:
    store.path.chmod(0o500)
    assert nearest(store, "c7", "HL-UTT")
    assert not (store.path / "search").exists()


def test_what_cannot_be_searched_is_said(store: Store) -> None:
    with pytest.raises(FeatureMissing, match=r"no HL-UTT@.* of nobody"):
        nearest(store, "nobody", "HL-UTT")
    with pytest.raises(UsageError, match="is of level tokens"):
        nearest(store, "c0", "eva_g_448")


CLIPS = [
    Clip("a", split="train", label=Label("sad"), transcripts={"english": "I never wanted to leave my mother."}),
    Clip("b", transcripts={"english": "What a lovely morning!", "chinese": "多么美好的早晨！"}),
    Clip("c", transcripts={"english": "My mother left us in the morning."}),
    Clip("d"),
]


def test_a_clip_that_is_none_is_told_the_nearest(store: Store) -> None:
    with pytest.raises(FeatureMissing, match=r"of c_39\. Did you mean c39\?"):
        nearest(store, "c_39", "HL-UTT")


def test_words_are_found_in_any_language() -> None:
    assert [each.clip for each in nearest_words(CLIPS, "leave the mother", 2)] == ["a", "c"]
    assert nearest_words(CLIPS, "美好的早晨", 3)[0].clip == "b"
    assert nearest_words(CLIPS, "WHAT A LOVELY MORNING")[0].cosine > 0.5
    with pytest.raises(UsageError, match="shares no letters"):
        nearest_words(CLIPS, "?!")
    with pytest.raises(UsageError, match="No clip has a transcript"):
        nearest_words([CLIPS[3]], "words")


def test_what_is_made_of_transcripts_is_kept_until_they_change(store: Store) -> None:
    plain = nearest_words(CLIPS, "leave the mother")
    assert nearest_words(CLIPS, "leave the mother", store=store) == plain
    (kept,) = (store.path / "search").iterdir()
    written = kept.stat().st_mtime_ns
    assert nearest_words(CLIPS, "leave the mother", store=store) == plain
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"damaged")
    assert nearest_words(CLIPS, "leave the mother", store=store) == plain
    more = [*CLIPS, Clip("e", transcripts={"english": "Leave the mother!"})]
    assert nearest_words(more, "leave the mother", store=store)[0].clip == "e"
    (renewed,) = (store.path / "search").iterdir()
    assert renewed != kept
    assert store.verify() == []


def test_where_faiss_sees_a_gpu_rows_are_compared_there(monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray) -> None:
    """Index and answers of a faiss with GPUs are played: there is none here. k-NN and the search for leaks come by."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    here, moved = nearest_many(unit[:3], unit, 4), []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: moved.append(index) or index, raising=False)
    for mine, theirs in zip(nearest_many(unit[:3], unit, 4), here, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert nearest_rows(unit[:3], unit)[1].tolist() == [0, 1, 2]
    assert len(moved) == 2
    nearest_many(unit[:3], np.repeat(unit, 60, axis=0), 2400)  # more than faiss finds on a GPU
    assert len(moved) == 2


def test_the_page_shows_labels_and_words(store: Store, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text("name,label\nc3,sad\nc4,happy\n")
    (tmp_path / "data" / "transcripts.csv").write_text("name,english\nc3,I miss my mother.\nc4,Hooray!\n")
    (tmp_path / "emo.toml").write_text('[store]\npath = "a.emo"\n[data.own]\nroot = "data"\nkind = "folder"\n')
    workspace = load_workspace(tmp_path)
    page = search_page(workspace, text="mother", k=2)
    assert page.value["by"] == "words"
    assert [(row["clip"], row["label"], row["says"]) for row in page.value["neighbours"]] == [
        ("c3", "sad", "I miss my mother.")
    ]
    page = search_page(workspace, clip="c4", k=39)
    assert page.value["by"].startswith("HL-UTT@")
    assert {row["clip"]: row["label"] for row in page.value["neighbours"]}["c3"] == "sad"
    for words in ({}, {"clip": "c3", "text": "both"}):
        with pytest.raises(UsageError, match="a clip, or --text WORDS"):
            search_page(workspace, **words)
