"""Records: JSON values that are kept, checked and cared for like features."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from emo.featstore.errors import FeatureMissing, MediaError, StoreCorrupt, StoreError, UsageError
from emo.featstore.storage import durable
from emo.featstore.storage.records import MOST_BYTES, record_spec
from emo.featstore.storage.store import Store

ASR = record_spec("whisper.transcript", "asr", "whisper-large-v3", decoding={"beam": 5}, inputs={"sound": "16 kHz"})
VALUES: list[Any] = [
    {"text": "Ich bin fröhlich. 我很高兴", "language": "de", "words": [["Ich", 0.0, 0.25]]},
    "",
    None,
    0,
    [1.5, True, {}],
    {"long": "x" * 100_000},
]


def put(store: Store, lab: Any, commit_every: int = 2) -> None:
    with store.writer(commit_every=commit_every) as writer:
        for i, value in enumerate(VALUES):
            lab.put(writer, i, [lab.utt])
            writer.add_record(ASR, lab.media(i), value)


def check(store: Store, lab: Any) -> None:
    expected = {f"c{i}": value for i, value in enumerate(VALUES)}
    assert store.records(ASR) == store.records("whisper.transcript") == expected
    assert [store.record(ASR, f"c{i}") for i in range(len(VALUES))] == VALUES
    assert store.records(ASR, ["c3", "unknown", "c0"]) == {"c3": 0, "c0": VALUES[0]}
    assert store.verify() == []
    assert [store.get(lab.utt, f"c{i}").array.tobytes() for i in range(6)] == [
        lab.record(lab.utt, lab.media(i)).tobytes() for i in range(6)
    ]


def test_values_come_back_as_they_went_in_also_after_compact_and_gc(lab: Any, store: Store) -> None:
    put(store, lab)
    check(store, lab)
    report = store.compact()
    assert report.written == 2
    assert store.gc().segments == report.merged >= 6
    check(Store.open(store.path), lab)


def test_values_of_a_medium_are_found_by_it_alone_in_one_question(lab: Any, store: Store) -> None:
    other = record_spec("other", "asr", "none")
    put(store, lab)
    with store.writer() as writer:
        writer.add_record(other, lab.media(1), [1])
    assert store.values_of([ASR, other], lab.media(0)) == {ASR.fingerprint: VALUES[0]}
    assert store.values_of([ASR, other], lab.media(1)) == {ASR.fingerprint: "", other.fingerprint: [1]}
    assert store.values_of([other], "no such medium") == store.values_of([], lab.media(1)) == {}
    with store.writer() as writer:
        writer.add_record(ASR, lab.media(0), "anew")
    assert store.values_of([ASR], lab.media(0)) == {ASR.fingerprint: "anew"}


def test_records_are_no_features(lab: Any, store: Store) -> None:
    put(store, lab)
    assert [each.key for each in store.features()] == [lab.utt.key]
    (kept,) = store.features(records=True)
    assert (kept.key, kept.ok) == (ASR.key, 6)
    assert [each["record"] for each in store.info()["records"]] == [ASR.key]
    with pytest.raises(FeatureMissing, match=r"no whisper\.transcript"):
        store.get("whisper.transcript", "c0")
    with pytest.raises(UsageError, match="read by record"):
        store.get(ASR, "c0")
    with pytest.raises(UsageError, match="level utt"):
        store.record(lab.utt, "c0")
    with store.writer() as writer, pytest.raises(StoreError, match="not a record"):
        writer.add_record(lab.utt, lab.media(0), 1)


def test_a_record_is_asked_for_fails_and_is_made_again_like_a_feature(lab: Any, store: Store) -> None:
    clips = [(f"c{i}", lab.media(i)) for i in range(3)]
    assert store.work([ASR], clips) == {ASR.key: {lab.media(i) for i in range(3)}}
    with store.writer() as writer:
        lab.put(writer, 0, [lab.utt])
        writer.add_record(ASR, lab.media(0), "yes")
        writer.clip("c1", lab.media(1))
        writer.fail(ASR, "c1", MediaError("no-audio", "It is silent."))
    assert store.work([ASR], clips) == {ASR.key: {lab.media(2)}}
    assert store.has(ASR, ["c0", "c1"]).tolist() == [True, False]
    with pytest.raises(FeatureMissing, match=r"c1 \(no-audio\)"):
        store.record(ASR, "c1")
    with store.writer() as writer:
        writer.add_record(ASR, lab.media(0), "no")
    assert store.record(ASR, "c0") == "no"


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800", b"bytes", "x" * (MOST_BYTES + 1)])
def test_what_is_no_json_is_refused(lab: Any, store: Store, value: Any) -> None:
    with store.writer() as writer:
        with pytest.raises(StoreError, match=r"whisper\.transcript@.* of 0000"):
            writer.add_record(ASR, lab.media(1), value)
        lab.put(writer, 2)
    assert lab.contents(store) == lab.expected([2])


def test_a_flipped_byte_is_noticed_and_repaired(lab: Any, store: Store) -> None:
    put(store, lab, commit_every=100)
    data = next((store.path / "features.zarr" / ASR.key).glob("*/c/0/0"))
    whole = data.read_bytes()
    at = whole.index(b"Ich")
    data.write_bytes(whole[:at] + b"Ech" + whole[at + 3 :])
    with pytest.raises(StoreCorrupt, match="checksum"):
        Store.open(store.path).record(ASR, "c0")
    assert len(store.verify()) == 1
    store.repair()
    assert store.work([ASR], [(f"c{i}", lab.media(i)) for i in range(6)]) == {ASR.key: {lab.media(0)}}
    assert Store.open(store.path).record(ASR, "c4") == VALUES[4]


def segments(store: Store) -> list[Path]:
    """The folders of the segments that hold records."""
    return sorted(file.parents[2] for file in (store.path / "features.zarr" / ASR.key).glob("*/c/0/0"))


def cut(segment: Path) -> None:
    data = segment / "c/0/0"
    data.write_bytes(data.read_bytes()[:-1])


def vanish(segment: Path) -> None:
    shutil.rmtree(segment)


def nonsense(segment: Path) -> None:
    (segment / "c/0/0").write_bytes(b"x" * (segment / "c/0/0").stat().st_size)


@pytest.mark.parametrize("damage", [cut, vanish, nonsense])
def test_what_is_damaged_is_found_forgotten_and_made_again(
    lab: Any, store: Store, damage: Callable[[Path], None]
) -> None:
    put(store, lab)
    lost, *_ = segments(store)
    damage(lost)
    (problem,) = Store.open(store.path).verify()
    assert problem.where == str(lost)
    with pytest.raises(StoreCorrupt):
        Store.open(store.path).records(ASR)
    with pytest.raises(StoreCorrupt):
        Store.open(store.path).compact()
    mended = Store.open(store.path)
    assert mended.repair() == [problem]
    assert mended.verify() == []
    work = mended.work([ASR, lab.utt], [(f"c{i}", lab.media(i)) for i in range(6)])
    assert (work[ASR.key], work[lab.utt.key]) == ({lab.media(0)}, set()), "features are as they were"
    with mended.writer() as writer:
        for i in range(6):
            if lab.media(i) in work[ASR.key]:
                writer.add_record(ASR, lab.media(i), VALUES[i])
    mended.compact()
    mended.gc()
    check(Store.open(store.path), lab)


def test_a_damaged_group_document_is_written_anew(lab: Any, store: Store) -> None:
    put(store, lab)
    document = store.path / "features.zarr" / ASR.key / "zarr.json"
    whole = document.read_bytes()
    document.write_bytes(b"{}")
    assert [problem.where for problem in store.verify()] == [str(document)]
    store.repair()
    assert document.read_bytes() == whole
    check(Store.open(store.path), lab)


def test_bytes_that_are_no_json_are_never_a_value(lab: Any, store: Store) -> None:
    with store.writer() as writer:
        writer.clip("c0", lab.media(0))
        writer._append(ASR, lab.media(0), np.frombuffer(b'{"text":', np.uint8)[:, None], 0.0, None)
    with pytest.raises(StoreCorrupt, match=rf"{ASR.key} of {lab.media(0)} is not JSON"):
        Store.open(store.path).record(ASR, "c0")


@pytest.mark.parametrize("step", [step for step in durable.STEPS if not step.startswith("store-")])
def test_killed_at_every_step_records_are_there_or_not_at_all(lab: Any, store: Store, step: str) -> None:
    def run() -> None:
        put(Store.open(store.path), lab)
        Store.open(store.path).compact()
        Store.open(store.path).gc()

    assert lab.killed_at(step, run)
    killed = Store.open(store.path)
    clips = [(f"c{i}", lab.media(i)) for i in range(len(VALUES))]
    work = killed.work([ASR, lab.utt], clips)
    assert work[ASR.key] >= work[lab.utt.key], "what was added first is committed first"
    assert killed.verify() == []
    with killed.writer() as writer:
        for i, (_, media) in enumerate(clips):
            if media in work[lab.utt.key]:
                lab.put(writer, i, [lab.utt])
            if media in work[ASR.key]:
                writer.add_record(ASR, media, VALUES[i])
    killed.gc()
    check(Store.open(store.path), lab)
    named = {each.name for each in killed.index.segments}
    assert {segment.name for segment in segments(store)} <= named, "gc leaves no record that no commit names"


def test_everything_that_changes_the_value_changes_the_fingerprint() -> None:
    others = [
        record_spec("a", "asr", "m"),
        record_spec("b", "asr", "m"),
        record_spec("a", "describer", "m"),
        record_spec("a", "asr", "n"),
        record_spec("a", "asr", "m", prompt="Say."),
        record_spec("a", "asr", "m", decoding={"beam": 2}),
        record_spec("a", "asr", "m", inputs={"of": "f"}),
        record_spec("a", "asr", "m", profile="tiny"),
    ]
    assert len({each.fingerprint for each in others}) == len(others)


def test_plain_zarr_reads_the_bytes(lab: Any, store: Store, tmp_path: Path) -> None:
    put(store, lab, commit_every=100)
    group = zarr.open(store.path / "features.zarr", mode="r")[ASR.key]
    (array,) = (each for _, each in group.arrays())
    first = json.dumps(VALUES[0], ensure_ascii=False, separators=(",", ":")).encode()
    assert bytes(array[: len(first), 0]) == first
    assert group.attrs["spec"]["recipe"]["decoding"] == {"beam": 5}
