"""Segments: plain Zarr v3 on disk, mapped into memory, and the same numbers either way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from emo.featstore.errors import StoreCorrupt
from emo.featstore.storage import durable
from emo.featstore.storage.index import RECORD, Segment
from emo.featstore.storage.medium import Local
from emo.featstore.storage.segment import CHUNK_ROWS, SegmentGone, SegmentReader, SegmentWriter
from emo.featstore.storage.store import Store

CASES = [
    pytest.param("float32", 8, 1, [1] * 7, id="utt"),
    pytest.param("float32", 4, 1, [1] * (CHUNK_ROWS + 300), id="utt-partial-last-chunk"),
    pytest.param("float16", 4, None, [3, 1, 1500, 7], id="frame"),
    pytest.param("float32", 4, None, [2, 9], id="frame-float32"),
    pytest.param("float16", 6, 5, [5] * 4, id="tokens"),
    pytest.param("float32", 6, 5, [5], id="tokens-one-float32"),
]


def write(folder: Path, dtype: str, dim: int, fixed: int | None, lengths: list[int]) -> tuple[Segment, list[Any]]:
    rng = np.random.default_rng(0)
    writer = SegmentWriter(Local(folder.parent), folder.name, dim, dtype, fixed)
    records, start = [], 0
    for rows in lengths:
        array = rng.normal(size=(rows, dim)).astype(dtype)
        records.append((start, rows, writer.append(array), array))
        start += rows
    return Segment(folder.name, "f", dtype, dim, start, writer.finish()), records


@pytest.mark.parametrize(("dtype", "dim", "fixed", "lengths"), CASES)
def test_the_mapped_file_the_zarr_api_and_plain_zarr_give_the_same_bytes(
    tmp_path: Path, dtype: str, dim: int, fixed: int | None, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, records = write(tmp_path / "s", dtype, dim, fixed, lengths)
    mapped = SegmentReader(Local(tmp_path), "s", segment)
    monkeypatch.setattr("emo.featstore.storage.segment._plain_chunk_rows", lambda *_: None)
    through_zarr = SegmentReader(Local(tmp_path), "s", segment)
    assert (mapped.mapped, through_zarr.mapped) == (True, False)
    plain = zarr.open_array(tmp_path / "s", mode="r")
    assert plain.dtype == dtype
    assert plain.chunks == (fixed if fixed and fixed > 1 else min(segment.rows, CHUNK_ROWS), dim)
    assert plain.shards == (-(-segment.rows // plain.chunks[0]) * plain.chunks[0], dim)
    for start, rows, crc, array in records:
        for found in (
            mapped.record(start, rows, crc),
            through_zarr.record(start, rows, crc),
            plain[start : start + rows],
        ):
            assert np.asarray(found).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (4, 6), "compressors": zarr.codecs.ZstdCodec()},
        {"chunks": (2, 3), "shards": (20, 6)},
        {"chunks": (20, 6), "compressors": None},
        {"chunks": (20, 6), "compressors": zarr.codecs.GzipCodec(), "shards": (20, 6)},
    ],
)
def test_a_segment_rewritten_by_another_tool_reads_the_same(tmp_path: Path, layout: dict[str, Any]) -> None:
    segment, records = write(tmp_path / "s", "float16", 6, 5, [5] * 4)
    data = np.concatenate([array for *_, array in records])
    shutil.rmtree(tmp_path / "s")
    zarr.create_array(tmp_path / "s", data=data, **layout)
    reader = SegmentReader(Local(tmp_path), "s", segment)
    assert not reader.mapped
    for start, rows, crc, array in records:
        assert (reader.record(start, rows, crc) == array).all()


def test_plain_zarr_lists_the_features_with_their_recipes_and_reads_the_numbers(lab: Any, store: Store) -> None:
    lab.fill(store, range(6))
    root = zarr.open(store.path / "features.zarr", mode="r")
    groups = dict(root.groups())
    assert set(groups) == {spec.key for spec in lab.specs}
    for spec in lab.specs:
        assert groups[spec.key].attrs["spec"] == {
            **{name: getattr(spec, name) for name in ("name", "level", "dim", "rows", "profile", "weights")},
            **{name: getattr(spec, name) for name in ("encoder", "modality", "version", "recipe")},
        }
    (array,) = (array for _, array in groups[lab.utt.key].arrays())
    assert (array[:] == store.utterances("HL-UTT", store.clips())).all()


def test_a_missing_segment_and_a_torn_one_are_named(tmp_path: Path) -> None:
    segment, records = write(tmp_path / "s", "float32", 8, 1, [1] * 7)
    data = tmp_path / "s" / "c" / "0" / "0"
    whole = data.read_bytes()
    for torn in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0"):
        data.write_bytes(torn)
        with pytest.raises(StoreCorrupt, match=r"Segment .*/s is damaged: .*bytes.*emo store verify"):
            SegmentReader(Local(tmp_path), "s", segment)
    data.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(StoreCorrupt, match="shard index is damaged"):
        SegmentReader(Local(tmp_path), "s", segment)
    data.write_bytes(whole[:9] + bytes([whole[9] ^ 1]) + whole[10:])
    reader = SegmentReader(Local(tmp_path), "s", segment)
    with pytest.raises(StoreCorrupt, match="rows 0 to 1"):
        reader.record(*records[0][:3])
    assert (reader.record(*records[1][:3]) == records[1][3]).all()
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(SegmentGone, match="missing"):
        SegmentReader(Local(tmp_path), "s", segment)


def test_a_reader_computes_the_checksum_of_a_mapped_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, records = write(tmp_path / "s", "float16", 6, 5, [5] * 4)
    computed = []
    real = durable.crc32c
    monkeypatch.setattr(durable, "crc32c", lambda data: computed.append(len(data)) or real(data))
    mapped = SegmentReader(Local(tmp_path), "s", segment)
    monkeypatch.setattr("emo.featstore.storage.segment._plain_chunk_rows", lambda *_: None)
    through_zarr = SegmentReader(Local(tmp_path), "s", segment)
    for reader, times in ((mapped, [1, 0, 0]), (through_zarr, [1, 1, 1])):
        for expected in times:
            computed.clear()
            reader.record(*records[2][:3])
            assert len(computed) == expected
    with pytest.raises(StoreCorrupt, match="rows 15 to 20"):
        mapped.record(*records[3][:2], crc=0)
    assert mapped.check(np.array([(0, 0, 0, 5, 1, 0, 0)], RECORD)).tolist() == [True]


def test_writing_does_not_hold_the_records_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    record = np.zeros((1025, 1408), np.float16)  # 2.9 MB
    tracemalloc.start()
    writer = SegmentWriter(Local(tmp_path), "s", 1408, "float16", 1025)
    for _ in range(20):
        writer.append(record)
    writer.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * record.nbytes
