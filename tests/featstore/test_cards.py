"""What the pages about a store say of faces: how many frames with a face show the person that was taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.cards import data_check, store_card, store_list
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.page import Table
from emo.featstore.storage.store import Store
from emo.featstore.workspace import load_workspace

COLUMNS = ["frame", "time_s", "track", "chosen"]


def rows(*people: tuple[range, bool]) -> np.ndarray:
    """A table: the frames of each person, and whether that one was taken."""
    parts = [[(i, i / 25, number, taken) for i in frames] for number, (frames, taken) in enumerate(people)]
    return np.array([row for part in parts for row in part], np.float32)


@pytest.fixture
def store(lab: Any, tmp_path: Any) -> Store:
    spec = lab.spec("faces", "frame", 4, None, columns=COLUMNS, stored_dtype="float32")
    spec = type(spec)(**{**vars(spec), "encoder": "faces", "modality": "face"})
    tables = {
        "alone": rows((range(10), True)),
        "half": rows((range(10), True), (range(10, 20), False)),
        "together": rows((range(10), True), (range(4), False)),
        "glimpses": rows((range(1), False), (range(5, 6), False)),
    }
    store = Store.create(tmp_path / "s.emo")
    with store.writer() as writer:
        for i, (clip, table) in enumerate(tables.items()):
            writer.clip(clip, lab.media(i))
            writer.add(spec, lab.media(i), table, t0_s=0.0, hop_s=0.04)
        lab.put(writer, 9)
    return store


def test_the_card_says_how_many_frames_with_a_face_were_kept(store: Store) -> None:
    page = store_card(store)
    (faces,) = page.value["faces"].values()
    assert faces == {"clips": 4, "kept_share": pytest.approx((1 + 0.5 + 1 + 0) / 4)}
    assert any("62.5% of the frames with a face show the person that was taken" in str(part) for part in page.parts)


def test_the_worst_clips_come_first_and_whole_ones_not_at_all(store: Store) -> None:
    page = store_list(store, faces=True)
    assert [(each["clip"], each["kept"], each["seen"], each["share"]) for each in page.value] == [
        ("glimpses", 0, 2, 0.0),
        ("half", 10, 20, 0.5),
    ]
    (table,) = page.parts
    assert isinstance(table, Table)
    assert "left out in 2 of 4 clips" in table.title


def test_without_faces_the_pages_say_so(lab: Any, tmp_path: Any) -> None:
    store = lab.fill(Store.create(tmp_path / "s.emo"), range(2))
    assert store_card(store).value["faces"] == {}
    assert store_list(store, faces=True).value == []


def test_faces_and_a_feature_do_not_go_together(store: Store) -> None:
    with pytest.raises(UsageError, match="takes no feature"):
        store_list(store, "HL-UTT", faces=True)


def test_failures_are_told_in_words(lab: Any, tmp_path: Any) -> None:
    store = lab.fill(Store.create(tmp_path / "s.emo"), range(2))
    with store.writer() as writer:
        writer.clip("mute", lab.media(7))
        writer.fail(lab.utt, lab.media(7), MediaError("no-audio", "It has no sound."))
    (table, *_) = store_card(store).parts
    assert isinstance(table, Table)
    assert table.title.endswith("3 clips; failures: 1 no-audio")


def test_clips_without_a_list_have_no_table_of_splits(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.wav").write_bytes(b"never opened")
    (tmp_path / "emo.toml").write_text('[data.mine]\nroot = "clips"\nkind = "folder"\n')
    titles = [part.title for part in data_check(load_workspace(tmp_path)).parts if isinstance(part, Table)]
    assert titles == ["mine"]
    (tmp_path / "clips/labels.csv").write_text("name,label\na,sad\n")
    splits = data_check(load_workspace(tmp_path)).parts[1]
    assert isinstance(splits, Table)
    assert splits.rows[0][0] == "(no split)"
