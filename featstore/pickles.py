"""Pickles of words, numbers and arrays, read without unpickling.

A pickle is a program that builds objects. The interpreter here knows the instructions that make plain values, and of
the objects only numpy's arrays, scalars and simple dtypes, which it makes itself from their bytes. Nothing that a file
names is imported or called, so a forged file can at worst be refused.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

# numpy 1 and numpy 2 call their modules differently; Python 2 called `builtins` differently.
_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("collections", "OrderedDict"): "dict",
    ("_codecs", "encode"): "encode",  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): "bytes",  # and how it writes none
    **{
        (f"numpy.{core}.{module}", name): name
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
}
_DTYPE = re.compile(r"[biufcSUO]\d{0,9}")
_MAX_DIMENSIONS = 32  # of numpy
_MAX_INT_BYTES = 64  # no count, label or index is longer
_MAX_EMPTY_TEXTS = 1 << 20  # an array of empty texts has any length in no bytes
_LAST_CHARACTER = 0x10FFFF
_SCALARS = (str, bytes, int, float, complex, type(None))


class Refused(ValueError):
    """The pickle wants to make something that is no plain value."""


class Damaged(ValueError):
    """The pickle is no well-formed program of the instructions that are known."""


class _Name:
    """Return what a pickle calls by name, as one of the words of `_NAMES`."""

    def __init__(self, word: str) -> None:
        self.word = word


class _Unbuilt:
    """A dtype or an array before its BUILD instruction; `keys` are the places of the memo that refer to it."""

    def __init__(self, word: str, code: str = "") -> None:
        self.word, self.code = word, code
        self.keys: list[int] = []


def read_pickle(data: bytes) -> tuple[Any, int]:
    """Read one pickled value made of dictionaries, lists, tuples, words, numbers and numpy arrays.

    Arrays of objects become lists, an object array without dimensions becomes its value, numpy's scalars become
    Python's numbers; arrays of numbers stay arrays `(...)`, which cannot be written to.

    Returns:
        The value, and how many bytes it takes.

    Raises:
        Refused: It holds or calls anything else.
        Damaged: It is cut off or malformed.
    """
    machine = _Machine()
    try:
        for code, argument, place in pickletools.genops(data):
            if code.name == "STOP":
                return machine.plain(machine.pop()), (place or 0) + 1
            machine.step(code.name, argument)
    except (Refused, Damaged):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        raise Damaged(f"it is no well-formed pickle: {error}") from error
    raise Damaged("it ends too early")


class _Arguments(tuple[Any, ...]):
    """A tuple that holds a name or what is unbuilt, at any depth: good for a call only."""


_NOT_PLAIN = (_Name, _Unbuilt, _Arguments)


class _Machine:
    """The stack, the memo and the instructions that are known."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under a MARK
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if _PUSHES.fullmatch(name):
            self.stack.append(_checked_number(argument))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise Refused(f"it wants to do {name}, which is not needed for words and numbers")

    def pop(self) -> Any:
        if not self.stack:
            raise Damaged("it takes more from the stack than is there")
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        if not self.below:
            raise Damaged("it looks for a mark that is not there")
        items, self.stack = self.stack, self.below.pop()
        return items

    def plain(self, value: Any) -> Any:
        """A value that may go into a container."""
        if isinstance(value, _NOT_PLAIN):
            raise Refused("it keeps a function or an unfinished array where a value belongs")
        return value

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def push_container(self, make: Callable[[list[Any]], Any], items: list[Any]) -> None:
        self.stack.append(make([self.plain(each) for each in items]))

    def push_tuple(self, items: list[Any]) -> None:
        self.stack.append(_Arguments(items) if any(isinstance(each, _NOT_PLAIN) for each in items) else tuple(items))

    def append(self, items: list[Any]) -> None:
        target = self.top(list)
        target.extend(self.plain(each) for each in items)

    def set_items(self, items: list[Any]) -> None:
        self.top(dict).update(_pairs([self.plain(each) for each in items]))

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Damaged(f"it fills a {kind.__name__} that is not there")
        return self.stack[-1]

    def put(self, key: int | None) -> None:
        value = self.stack[-1]
        place = len(self.memo) if key is None else key
        self.memo[place] = value
        if isinstance(value, _Unbuilt):
            value.keys.append(place)

    def call_name(self, module: str, name: str) -> None:
        word = _NAMES.get((module, name))
        if word is None:
            raise Refused(f"it wants to run {module}.{name}")
        self.stack.append(_Name(word))

    def reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise Refused("it wants to call what is no function of numpy")
        self.stack.append(_call(function.word, arguments))

    def build(self, _: Any) -> None:
        state, unbuilt = self.pop(), self.pop()
        if not isinstance(unbuilt, _Unbuilt) or not isinstance(state, tuple):
            raise Refused("it wants to set the state of an object")
        value = _dtype(unbuilt.code, state) if unbuilt.word == "dtype" else _array(*_array_state(state))
        self.stack.append(value)
        for key in unbuilt.keys:
            if self.memo.get(key) is unbuilt:
                self.memo[key] = value


_IGNORED = frozenset({"PROTO", "FRAME"})
_PUSHES = re.compile(
    r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|((SHORT_)?BIN)?(STRING|UNICODE)8?|(SHORT_)?BINBYTES8?|BYTEARRAY8"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.pop() if m.stack else m.to_mark(),
    "POP_MARK": lambda m, _: m.to_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_TUPLE": lambda m, _: m.push_tuple([]),
    "LIST": lambda m, _: m.push_container(list, m.to_mark()),
    "DICT": lambda m, _: m.push_container(lambda items: dict(_pairs(items)), m.to_mark()),
    "TUPLE": lambda m, _: m.push_tuple(m.to_mark()),
    "TUPLE1": lambda m, _: m.push_tuple([m.pop()]),
    "TUPLE2": lambda m, _: m.push_tuple([m.pop(), m.pop()][::-1]),
    "TUPLE3": lambda m, _: m.push_tuple([m.pop(), m.pop(), m.pop()][::-1]),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.to_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.to_mark()),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda m, _: m.put(None),
    "GET": lambda m, key: m.stack.append(m.memo[key]),
    "BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "GLOBAL": lambda m, names: m.call_name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.call_name(*[str(m.pop()), str(m.pop())][::-1]),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _checked_number(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 8 * _MAX_INT_BYTES:
        raise Damaged("it holds a number of more than 64 bytes")
    return bytes(value) if isinstance(value, bytearray) else value


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    keys, values = items[::2], items[1::2]
    for key in keys:
        if not isinstance(key, _SCALARS):
            raise Refused("a key of its dictionaries is neither a word nor a number")
    return list(zip(keys, values, strict=True))


def _call(word: str, arguments: tuple[Any, ...]) -> Any:
    if word == "_reconstruct":  # (ndarray, (0,), b"b"): an array that BUILD fills
        return _Unbuilt("array")
    if word == "dtype" and arguments and isinstance(arguments[0], str):
        return _Unbuilt("dtype", arguments[0])
    if word == "scalar" and len(arguments) == 2:
        dtype, data = arguments
        return _array((), dtype, False, data).item() if not _is_object(dtype) else _refuse_object()
    if word == "_frombuffer" and len(arguments) == 4:
        data, dtype, shape, order = arguments
        return _array(shape, dtype, order == "F", data) if not _is_object(dtype) else _refuse_object()
    if word == "encode" and len(arguments) == 2 and all(isinstance(each, str) for each in arguments):
        if arguments[1] not in ("latin1", "latin-1"):
            raise Refused(f"it wants to encode as {arguments[1]!r}")
        return arguments[0].encode("latin1")
    if word == "bytes" and not arguments:
        return b""
    if word == "dict" and len(arguments) <= 1:
        return dict(_pairs([each for pair in (arguments or ([],))[0] for each in _pair(pair)]))
    raise Refused(f"it calls {word} in a way that plain files do not")


def _pair(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list | tuple) or len(value) != 2 or any(isinstance(each, _NOT_PLAIN) for each in value):
        raise Damaged("an ordered dictionary is made of what are no pairs")
    return value[0], value[1]


def _is_object(dtype: Any) -> bool:
    if not isinstance(dtype, np.dtype):
        raise Refused("it makes an array of a dtype that is none")
    return dtype.kind == "O"


def _refuse_object() -> Any:
    raise Refused("it makes objects from bytes")


def _dtype(code: str, state: tuple[Any, ...]) -> np.dtype[Any]:
    """A simple dtype; one with fields, or of anything but numbers, text and objects, is refused."""
    simple = len(state) >= 5 and all(each is None for each in state[2:5]) and state[1] in ("<", ">", "|", "=")
    if not _DTYPE.fullmatch(code) or not simple:
        raise Refused(f"it makes a dtype {code!r} that is not one of simple numbers, text or plain objects")
    dtype = np.dtype("O" if code[0] == "O" else code)
    return dtype.newbyteorder(state[1]) if state[1] in "<>" else dtype


def _array_state(state: tuple[Any, ...]) -> tuple[Any, Any, bool, Any]:
    if len(state) != 5:
        raise Damaged("an array has no shape, dtype and content")
    _, shape, dtype, fortran, content = state
    return shape, dtype, bool(fortran), content


def _array(shape: Any, dtype: Any, fortran: bool, content: Any) -> Any:
    """An array of numbers or text from its bytes; of objects, a list of them, or the one that has no dimension."""
    whole = isinstance(shape, tuple) and all(type(each) is int and each >= 0 for each in shape)
    if not whole or len(shape) > _MAX_DIMENSIONS:
        raise Damaged("an array has no shape")
    order, count = "F" if fortran else "C", math.prod(shape)
    if _is_object(dtype):
        if not isinstance(content, list) or len(content) != count:
            raise Damaged(f"an array of {count} objects has other content")
        items = np.empty(count, object)
        for i, each in enumerate(content):
            items[i] = each
        return items.reshape(shape, order=order).tolist() if count else []  # type: ignore[call-overload]
    data = content.encode("latin1") if isinstance(content, str) else content  # Python 2 had no bytes
    if not isinstance(data, bytes) or len(data) != count * dtype.itemsize:
        raise Damaged(f"an array of shape {shape} and {dtype} has other content")
    if dtype.kind == "b":
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape, order=order)
    if dtype.kind == "U" and data:
        characters = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if characters.max() > _LAST_CHARACTER:
            raise Damaged("a text holds what is no character")
    if not dtype.itemsize:
        if count > _MAX_EMPTY_TEXTS:
            raise Damaged(f"an array holds {count} empty texts")
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order=order)  # type: ignore[call-overload]
