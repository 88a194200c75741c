"""Care of a store: compact and gc beside readers and writers, and the dataset card."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from emo.featstore.errors import MediaError, StoreCorrupt, StoreError
from emo.featstore.storage import journal, maintain
from emo.featstore.storage.store import Store


def segments(store: Store) -> int:
    return len([path for path in store.path.glob("features.zarr/*/*") if path.is_dir()])


def test_compact_merges_and_gc_frees_and_every_row_stays(lab: Any, store: Store) -> None:
    lab.fill(store, range(20), commit_every=3)
    with store.writer() as writer:
        writer.clip("x", lab.media(99))
        writer.fail(lab.utt, "x", MediaError("no-audio", "Silent.", retry=True))
        writer.fail(lab.spec("NEVER", "utt", 8, 1), "x", MediaError("no-audio", "Silent."))
    truth, before = lab.contents(store), store.features()
    failures, clips = store.failures(), store.clips()
    report = store.compact()
    assert (report.merged, report.written) == (sum(info.segments for info in before), 4)  # tokens in two dtypes
    cleaned = store.gc()
    assert (cleaned.segments, segments(store)) == (report.merged, 4)
    assert os.listdir(store.path / "journal") == [f"{store.index.base:08d}.jsonl"]
    for seen in (store, Store.open(store.path)):
        assert lab.contents(seen) == truth == lab.expected(range(20))
        assert (seen.failures(), seen.clips()) == (failures, clips)
        assert seen.verify() == []
    assert store.compact() == maintain.CompactReport(0, 0)
    lab.fill(store, range(20, 25), commit_every=3)
    assert lab.contents(Store.open(store.path)) == lab.expected(range(25))


def test_compact_drops_rows_that_were_overridden(lab: Any, store: Store) -> None:
    for version in (1, 2, 3):
        with store.writer() as writer:
            lab.put(writer, 1, [lab.utt], version)
    store.compact()
    store.gc()
    (info,) = store.features()
    assert (info.rows, info.segments, segments(store)) == (1, 1, 1)
    assert info.size_bytes == 8 * 4 + 20  # one row and the index of one chunk
    assert (store.get("HL-UTT", "c1").array == lab.record(lab.utt, lab.media(1), 3)).all()


def test_compact_leaves_large_segments_where_they_are(lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.fill(store, range(1, 7))
    monkeypatch.setattr(maintain, "SMALL_BYTES", 1)
    assert store.compact() == maintain.CompactReport(0, 0)
    monkeypatch.setattr(maintain, "SMALL_BYTES", 1 << 20)
    monkeypatch.setattr(maintain, "LARGE_BYTES", 70)  # two records of 32 bytes, and a third
    lab.fill(store, range(7, 13))
    store.compact()
    assert [info.segments for info in store.features() if info.spec == lab.utt] == [4]
    assert lab.contents(store) == lab.expected(range(1, 13))


def test_a_reader_from_before_compact_and_gc_goes_on(lab: Any, store: Store) -> None:
    lab.fill(store, range(10), commit_every=3)
    readers = [Store.open(store.path) for _ in range(3)]
    for reader in readers:
        assert len(reader.clips()) == 10
    readers[0].get("HL-UTT", "c1")  # has some segments mapped already
    store.compact()
    store.gc()
    for reader in readers[:2]:
        assert lab.contents(reader) == lab.expected(range(10))
    assert (readers[2].utterances("HL-UTT", ["c3"]) == lab.record(lab.utt, lab.media(3))).all()


def test_gc_looks_at_the_journal_before_it_calls_anything_garbage(lab: Any, store: Store) -> None:
    old = lab.fill(Store.open(store.path), [1])
    lab.fill(store, [2])
    assert old.gc() == maintain.GcReport(0, 0, 0, 0)
    assert lab.contents(old) == lab.expected([1, 2])


def test_a_segment_that_is_gone_for_no_reason_is_corruption(lab: Any, store: Store) -> None:
    lab.fill(store, range(3))
    home = store.path / "features.zarr" / lab.utt.key
    segment = next(path for path in home.iterdir() if path.is_dir())
    segment.rename(store.path / "elsewhere")
    with pytest.raises(StoreCorrupt, match=rf"{segment.name} is missing.*emo store verify"):
        Store.open(store.path).get("HL-UTT", "c1")
    assert [problem.where for problem in store.verify()] == [str(segment)]


def test_compact_yields_to_a_commit_that_comes_between(lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit, and then another compact, take the number under its hands; nothing of either is lost."""
    lab.fill(store, range(6), commit_every=2)
    real = journal.publish
    meanwhile = [lambda: lab.fill(Store.open(store.path), [6, 7]), lambda: Store.open(store.path).compact()]

    def publish(*commit: Any) -> bool:
        if meanwhile:
            monkeypatch.setattr(journal, "publish", real)
            meanwhile.pop(0)()
            monkeypatch.setattr(journal, "publish", publish)
        return real(*commit)

    monkeypatch.setattr(journal, "publish", publish)
    assert store.compact() == maintain.CompactReport(0, 0)  # the other one did it all
    assert not meanwhile
    monkeypatch.undo()
    assert lab.contents(Store.open(store.path)) == lab.expected(range(8))
    store.gc()
    assert store.verify() == []
    assert lab.contents(Store.open(store.path)) == lab.expected(range(8))


@pytest.mark.parametrize("read_before", [False, True])
def test_compact_refuses_to_copy_damage(lab: Any, store: Store, read_before: bool) -> None:
    """Also of records that this process has read and checked when they were whole."""
    lab.fill(store, range(6), commit_every=2)
    if read_before:
        assert lab.contents(store) == lab.expected(range(6))
    for data in (store.path / "features.zarr" / lab.frame.key).glob("*/c/0/0"):
        with open(data, "r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
    assert store.verify() != []
    before = journal.numbers(store.medium)
    with pytest.raises(StoreCorrupt, match="checksum"):
        store.compact()
    assert journal.numbers(store.medium) == before
    assert os.listdir(store.path / "writers") == []


def test_gc_keeps_its_hands_off_what_is_not_its_own(lab: Any, store: Store) -> None:
    lab.fill(store, range(3))
    mine = store.path / "features.zarr" / lab.utt.key / "my-notes"
    mine.mkdir()
    (store.path.parent / ".other.emo.x.new").mkdir()
    assert store.gc() == maintain.GcReport(0, 0, 0, 0)
    assert mine.is_dir()


def test_the_dataset_card(lab: Any, store: Store) -> None:
    for device in ("cpu", "cuda:0", "cpu"):
        with store.writer(environment={"device": device, "dtype": "float32"}) as writer:
            for i in range(3):
                lab.put(writer, i)
            writer.clip("x", lab.media(8))
            writer.fail(lab.utt, "x", MediaError("no-audio", "Silent."))
    for _ in range(2):  # a compacted store has the same card, save for the waste
        card = json.loads(json.dumps(Store.open(store.path).info()))
        assert (card["clips"], card["media"], card["failures"]) == (4, 4, {"no-audio": 1})
        assert card["environments"] == [{"device": "cpu", "dtype": "float32"}, {"device": "cuda:0", "dtype": "float32"}]
        utt = next(each for each in card["features"] if each["feature"] == lab.utt.key)
        assert (utt["ok"], utt["failed"], utt["rows"], utt["failures"]) == (3, 1, 3, {"no-audio": 1})
        assert utt["profile"] == "tiny"
        assert "never for results" in utt["meaning"]
        assert utt["spec"]["weights"] == "seed:0"
        assert card["size_bytes"] == sum(each["size_bytes"] for each in card["features"]) > 0
        assert card["created"] <= card["updated"]
        store.compact()


def test_the_card_tells_features_from_the_tables_beside_them(lab: Any, store: Store) -> None:
    """Boxes of faces and hashes of texts are neither `paper` nor `tiny`."""
    beside = {"faces": "detector", "text-hash": "text hash"}
    with store.writer() as writer:
        for spec in (lab.utt, *(replace(lab.utt, name=name, encoder=name) for name in beside)):
            writer.add(spec, lab.media(1), lab.record(lab.utt, lab.media(1)))
        writer.clip("x", lab.media(1))
    card = {each["spec"]["name"]: each for each in store.info()["features"]}
    assert {name: each["profile"] for name, each in card.items()} == {lab.utt.name: "tiny", **beside}
    assert {name for name, each in card.items() if "results" in each["meaning"]} == {lab.utt.name}


def test_a_dropped_feature_is_gone_with_its_failures_and_nothing_else_is(lab: Any, store: Store) -> None:
    lab.fill(store, range(6), commit_every=2)
    with store.writer() as writer:
        writer.clip("x", lab.media(99))
        for spec in (lab.utt, lab.frame):
            writer.fail(spec, "x", MediaError("no-audio", "Silent."))
    other, kept, clips = Store.open(store.path), store.get("HL-FRA", "c3").array, store.clips()
    assert store.drop(lab.utt) == 6
    other.refresh()
    for seen in (store, other, Store.open(store.path)):
        assert "HL-UTT" not in [each.spec.name for each in seen.features()]
        assert {each.feature for each in seen.failures()} == {lab.frame.key}
        assert seen.clips() == clips
        assert (seen.get("HL-FRA", "c3").array == kept).all()
        assert seen.verify() == []
    assert store.gc().segments > 0
    with pytest.raises(StoreError, match="no feature"):
        other.drop(lab.utt)
    with other.writer() as writer:  # who adds to it again begins it anew
        lab.put(writer, 1, [lab.utt])
    assert Store.open(store.path).has(lab.utt, ["c0", "c1"]).tolist() == [False, True]


def test_a_writer_that_runs_while_a_feature_is_dropped_loses_nothing_of_its_own(lab: Any, store: Store) -> None:
    lab.fill(store, range(3))
    with Store.open(store.path).writer() as writer:
        lab.put(writer, 7, [lab.utt])
        store.drop(lab.utt)
    store.refresh()
    assert store.has(lab.utt, ["c1", "c7"]).tolist() == [False, True]
    assert store.verify() == []
