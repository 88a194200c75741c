"""CRC-32C of many records at once: that of all their bytes in one go, held against what their own ones make together.

CRCs are linear: crc(a + b) = crc(a) * x^(8 len(b)) + crc(b) modulo the polynomial, which zlib's `crc32_combine` uses
(Mark Adler; "Fast CRC Computation", here for the polynomial of Castagnoli, reflected). For records of one length the
factor depends on the place alone, so that 256 of them are put together by one look into a table each.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from emo.featstore.storage import durable
from emo.featstore.storage.index import Array

POLYNOMIAL = 0x82F63B78  # of CRC-32C, the bit of x^0 first
GROUP = 256  # records that are put together at once
_ONE = 1 << 31  # x^0
_SHIFTS = np.array([0, 8, 16, 24], "u4")
_PLACES = (np.arange(GROUP)[:, None] * 4 + np.arange(4)) * 256  # of the table of each place and byte


def differing(rows: Array, records: Array) -> Array:
    """Say which of the given records (an array of `RECORD`) in `rows` `(R, D)` have another CRC-32C: bool (N,)."""
    width = rows.shape[1] * rows.itemsize
    data = rows.reshape(-1).view("u1")
    first, length = records["start"] * width, records["rows"].astype("i8") * width
    end = first + length
    alike = len(records) > 1 and (length == length[0]).all() and (first[1:] == end[:-1]).all()
    if alike and durable.crc32c(data[first[0] : end[-1]]) == together(records["crc"], int(length[0])):
        return np.zeros(len(records), bool)
    parts = (durable.crc32c(data[a:b]) for a, b in zip(first.tolist(), end.tolist(), strict=True))
    wrong: Array = np.fromiter(parts, "u4", len(records)) != records["crc"]
    return wrong


def together(crcs: Array, length: int) -> int:
    """Return the CRC-32C of records of one length in bytes that follow each other, from their own ones."""
    found = np.asarray(crcs, "u4")
    while len(found) > 1:
        before = np.zeros(-len(found) % GROUP, "u4")  # nothing before them, whose CRC is 0
        groups = np.concatenate([before, found]).reshape(-1, GROUP)
        tables, parts = _tables(length), groups[:, :, None] >> _SHIFTS & 255  # (groups, GROUP, 4)
        found = np.bitwise_xor.reduce(tables[_PLACES + parts], axis=(1, 2))
        length *= GROUP
    return int(found[0])


@lru_cache(maxsize=32)
def _tables(length: int) -> Array:
    """Products of the 256 values of each of four bytes with x^(8 length (GROUP - 1 - place)), by place: uint32."""
    factors, step = [_ONE], _power(8 * length)
    while len(factors) < GROUP:
        factors.append(_product(factors[-1], step))
    product = np.array(factors[::-1], "u4")  # (GROUP,)
    tables = np.zeros((GROUP, 4, 256), "u4")
    for bit in range(31, -1, -1):  # bit 31 is x^0, the one below it x^1
        byte, value = divmod(bit, 8)
        tables[:, byte, np.arange(256) >> value & 1 == 1] ^= product[:, None]
        product = product >> 1 ^ np.where(product & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return tables.reshape(-1)


@lru_cache(maxsize=1024)
def _power(exponent: int) -> int:
    """Return x to this power."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _product(result, square)
        square = _product(square, square)
        exponent >>= 1
    return result


def _product(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (POLYNOMIAL if b & 1 else 0)
    return product
