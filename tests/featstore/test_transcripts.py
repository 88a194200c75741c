"""Features that were made of another transcript than a dataset gives its clip now are known by the hash beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.transcripts import LANGUAGES, hash_of, hash_spec, of_other_texts

TEXT = EncoderSpec("words", "bert", "text", "utt", 2, 1, "tiny", "seed:0", recipe={LANGUAGES: ["english"]})
MEDIA = "0123456789abcdef0123456789abcdef"


def said(name: str, **transcripts: str) -> Clip:
    return Clip(name, transcripts=transcripts)


def made_of(path: Path, clips: Sequence[Clip]) -> Store:
    store = Store.create(path)
    with store.writer() as writer:
        for clip in clips:
            media = writer.name_clip(clip.id)
            writer.add(TEXT, media, np.ones((1, 2), np.float32))
            writer.add_record(hash_spec(TEXT), media, hash_of(clip, TEXT))
    return store


def test_another_text_under_the_same_name_is_another_text(tmp_path: Path) -> None:
    store = made_of(tmp_path / "a.emo", [said("a", english="yes"), said("b", english="no")])
    assert of_other_texts(store, TEXT, [said("a", english="yes"), said("b", english="no", chinese="bu")]) == []
    assert of_other_texts(store, TEXT, [said("a", english="well"), said("b"), said("c", english="new")]) == ["a", "b"]


def test_what_was_heard_is_the_text_of_a_clip_that_has_none_of_its_own(tmp_path: Path) -> None:
    store = made_of(tmp_path / "a.emo", [replace(said("a", english="yes"), heard_by="asr@1")])
    assert of_other_texts(store, TEXT, [said("a")]) == []
    assert of_other_texts(store, TEXT, [said("a", english="yes")]) == ["a"]
    assert of_other_texts(store, TEXT, [replace(said("a", english="yes"), heard_by="asr@2")]) == ["a"]


def test_of_two_clips_with_one_file_the_text_of_one_is_enough(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "a.emo")
    with store.writer() as writer:
        for name in ("a", "b"):
            writer.clip(name, MEDIA)
        writer.add(TEXT, MEDIA, np.ones((1, 2), np.float32))
        writer.add_record(hash_spec(TEXT), MEDIA, hash_of(said("a", english="yes"), TEXT))
    both = [said("a", english="yes"), said("b", english="another")]
    assert of_other_texts(store, TEXT, both) == []
    assert of_other_texts(store, TEXT, [said("a", english="no"), both[1]]) == ["a", "b"]


def test_nothing_is_said_of_features_without_a_text_or_without_a_hash(tmp_path: Path) -> None:
    sound = replace(TEXT, name="sound", recipe={})
    store = Store.create(tmp_path / "a.emo")
    with store.writer() as writer:
        writer.add(sound, writer.name_clip("a"), np.ones((1, 2), np.float32))
    assert of_other_texts(store, sound, [said("a", english="no")]) == []
    with store.writer() as writer:
        writer.add(TEXT, writer.name_clip("a"), np.ones((1, 2), np.float32))
    assert of_other_texts(store, TEXT, [said("a", english="no")]) == []
