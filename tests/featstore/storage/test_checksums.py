"""Checksums of many records at once say the same as those of each."""

from __future__ import annotations

import numpy as np
import pytest

from emo.featstore.storage import durable
from emo.featstore.storage.checksums import differing, together
from emo.featstore.storage.index import RECORD


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 1000, 70_000])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_checksums_of_parts_make_that_of_the_whole(count: int, length: int) -> None:
    data = np.random.default_rng(count).integers(0, 256, (count, length), np.uint8)
    crcs = [durable.crc32c(row) for row in data]
    assert together(np.array(crcs, "u4"), length) == durable.crc32c(data)


@pytest.mark.parametrize(("first", "gap", "rows"), [(0, 0, 1), (3, 0, 2), (0, 1, 1)], ids=["plain", "within", "gaps"])
def test_the_record_that_differs_is_named(first: int, gap: int, rows: int) -> None:
    chance = np.random.default_rng(1)
    data = chance.normal(size=(2000, 3)).astype(np.float32)
    records = np.zeros(300, RECORD)
    records["start"], records["rows"] = first + np.arange(300) * (rows + gap), rows
    for each in records:
        each["crc"] = durable.crc32c(data[each["start"] : each["start"] + rows])
    assert not differing(data, records).any()
    for place in chance.integers(0, 300, 20):
        changed = data.copy()
        changed.view(np.uint8)[records["start"][place], chance.integers(0, 12)] ^= 1 << chance.integers(0, 8)
        assert np.flatnonzero(differing(changed, records)).tolist() == [place]
