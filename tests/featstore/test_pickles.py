"""Pickles are read without unpickling: what is plain comes out equal, everything else is refused."""

from __future__ import annotations

import collections
import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.datasets.tables import npz_splits, read_npz_dict
from emo.featstore.pickles import Damaged, Refused, read_pickle

PLAIN: list[Any] = [
    None,
    {"a": {"emo": "sad", "val": -0.25}, "b": [1, 2.5, None, True, b"raw", ("t", ())]},
    {1: "int key", 2.5: "float key", None: 0, b"b": 1},
    [[], {}, (), "", "\u00e9\u4e2d\U0001f600", "half \ud800", b"", -5, 10**30, float("inf")],
    ["again", "again"] * 3,
]
ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
    np.array([1, 2], ">i4"),
    np.array([True, False]),
    np.array(["a", "\u4e2d\u6587"]),
    np.array([b"ab", b"c"]),
    np.zeros((3, 0)),
    np.zeros((0, 4), np.float32),
    np.array(3.5),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_out_equal(protocol: int) -> None:
    for value in PLAIN:
        data = pickle.dumps(value, protocol)
        assert read_pickle(data + b"more") == (value, len(data))
    together = {"values": PLAIN, "again": PLAIN[1]}
    assert read_pickle(pickle.dumps(together, protocol))[0] == together


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_equal(protocol: int) -> None:
    read = read_pickle(pickle.dumps({"list": ARRAYS, "first": ARRAYS[0]}, protocol))[0]
    for found, array in zip([*read["list"], read["first"]], [*ARRAYS, ARRAYS[0]], strict=True):
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", range(6))
def test_scalars_are_numbers_and_object_arrays_lists(protocol: int) -> None:
    scalars = [np.float64(1.5), np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("h\u00e9")]
    read = read_pickle(pickle.dumps(scalars, protocol))[0]
    assert read == [1.5, 0.5, -3, True, "h\u00e9"]
    assert [type(each) for each in read] == [float, float, int, bool, str]
    objects = np.array([["a", {"b": np.float64(1)}], [None, (1, 2)]], object)
    assert read_pickle(pickle.dumps(objects, protocol))[0] == objects.tolist()
    assert read_pickle(pickle.dumps(np.array({"a": 1}, object), protocol))[0] == {"a": 1}
    assert read_pickle(pickle.dumps(collections.OrderedDict(a=1, b=2), protocol))[0] == {"a": 1, "b": 2}


class Call:
    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> Any:
        return (self.function, self.arguments, *([] if self.state is None else [self.state]))


class Plain:
    """An object of a class of one's own."""


FIELDS = np.dtype([("a", "O"), ("b", "f8")])
FORGED: list[Any] = [
    Call(os.getcwd),
    Call(eval, "1"),
    Call(np.load, "x"),
    Call(getattr, "a", "upper"),
    Plain(),
    Plain,
    datetime.date(2020, 1, 1),
    {1, 2},
    np.zeros(2, FIELDS),
    FIELDS,
    np.dtype(("f4", (2, 2))),
    np.zeros(1, "M8[s]"),
    np.zeros(1, "V8"),
    Call(np.dtype, "O", state=(3, "|", None, None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)),
    Call(np.dtype, "V16", state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 16, 1, 27)),
    {(1, 2): "a tuple as a key"},
]


@pytest.mark.parametrize("place", range(len(FORGED)))
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_whatever_is_not_plain_is_refused(place: int, protocol: int) -> None:
    for value in (FORGED[place], {"train": [FORGED[place]]}):
        with pytest.raises(Refused):
            read_pickle(pickle.dumps(value, protocol))


RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
OBJECT = b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (RECONSTRUCT + b"(I1\n(I1\nt" + OBJECT + b"I00\nS'12345678'\ntb.", "objects has other content"),
        (RECONSTRUCT + b"(I1\n(I2\nt" + OBJECT + b"I00\n(lI1\natb.", "2 objects has other content"),
        (b"cnumpy._core.multiarray\nscalar\n(" + OBJECT + b"S'12345678'\ntR.", "objects from bytes"),
        (b"cnumpy._core.numeric\n_frombuffer\n(S'12345678'\n" + OBJECT + b"(I1\ntS'C'\ntR.", "objects from bytes"),
        (RECONSTRUCT + b".", "unfinished array"),
        (b"(l" + RECONSTRUCT + b"a.", "unfinished array"),
        (b"(" + RECONSTRUCT + b"tp0\n(lg0\na.", "unfinished array"),
        (b"cnumpy\ndtype\n.", "function"),
        (b"(lp0\ng0\na(I1\ntb.", "state of an object"),
        (b"I" + b"9" * 5000 + b"\n.", "no well-formed pickle"),
        (b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".", "more than 64 bytes"),
        (b"\x8d" + b"\xff" * 7 + b"\x7f.", "no well-formed pickle"),
        (b"0.", "a mark that is not there"),
        (b".", "more from the stack"),
        (b"(lI1\n", "no well-formed pickle|ends too early"),
        (b"h\x05.", "no well-formed pickle"),
        (b"Pname\n.", "PERSID"),
        (b"", "no well-formed pickle"),
    ],
)
def test_forged_programs_are_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises((Refused, Damaged), match=said):
        read_pickle(data)


def test_a_value_that_would_take_for_ever_is_not_hashed() -> None:
    double = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))  # pairs of pairs of pairs ...
    with pytest.raises(Refused, match="a key of its dictionaries"):
        read_pickle(b")q\x000" + double + b"}h\x3cI1\ns.")


def test_real_files_still_read(shared: Path) -> None:
    """Every object array of the field's files is what numpy's own, unsafe reading makes of it."""
    for path in sorted((shared / "data").rglob("*.npz")):
        trusted = np.load(path, allow_pickle=True)
        for split in npz_splits(path):
            assert read_npz_dict(path, split) == trusted[split].item()
