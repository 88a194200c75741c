"""Weights in CTranslate2's own form (`model.bin`): read as arrays, without CTranslate2.

The form is a list: version, name of the model's kind, then each variable with name, shape, type and bytes, then
second names (`python/ctranslate2/specs/model_spec.py` of CTranslate2 4.8, `_serialize`, version 6).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from emo.featstore.errors import ModelError

VERSION = 6
TYPES = ("<f4", "i1", "<i2", "<i4", "<f2")  # by their number in the file; 5 is bfloat16, which numpy does not have
AGAIN = "Fetch the model folder again."


@dataclass(frozen=True)
class Variable:
    """Shape, type and place of one array in the file."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


@dataclass(frozen=True)
class Model:
    """Content of a file as its list says; values are read by `array`.

    Attributes:
        path: The file.
        kind: Kind of model, such as `WhisperSpec`.
        variables: By name, in the file's order.
    """

    path: Path
    kind: str
    variables: Mapping[str, Variable] = field(default_factory=dict)

    def array(self, name: str) -> NDArray[Any]:
        """Return one array, mapped from the file.

        Raises:
            ModelError: The file has none of this name.
        """
        found = self.variables.get(name)
        if found is None:
            raise ModelError(f"{self.path} holds no {name}.", "Is it another model?")
        return np.memmap(self.path, found.dtype, "r", found.offset, found.shape or (1,)).reshape(found.shape)


def is_ct2(path: Path) -> bool:
    """Whether a file begins as CTranslate2's do."""
    try:
        with open(path, "rb") as file:
            head = file.read(40)
    except OSError:
        return False
    return len(head) == 40 and struct.unpack_from("<I", head)[0] <= VERSION and b"Spec\0" in head


def open_ct2(path: Path) -> Model:
    """Read what a `model.bin` holds, without its values.

    Raises:
        ModelError: It is not of this form, is cut off, or holds quantised numbers.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        try:
            model = _read(path, file, size)
        except (struct.error, UnicodeDecodeError) as error:
            raise ModelError(f"{path} is no CTranslate2 model, or is cut off.", AGAIN) from error
    if quantised := [name for name in model.variables if name.endswith("weight_scale")]:
        raise ModelError(
            f"{path} is quantised ({len(quantised)} matrices in whole numbers).",
            "Use files in float16 or float32: ct2-transformers-converter --quantization float16.",
        )
    return model


def _read(path: Path, file: BinaryIO, size: int) -> Model:
    version = _number(file, "I")
    kind = _name(file)
    _number(file, "I")  # revision of the kind
    if version != VERSION or not kind.endswith("Spec"):
        raise ModelError(f"{path} is no CTranslate2 model of version {VERSION}: version {version}.", AGAIN)
    variables: dict[str, Variable] = {}
    for _ in range(_number(file, "I")):
        name = _name(file)
        shape = tuple(_number(file, "I") for _ in range(_number(file, "B")))
        number = _number(file, "B")
        length = _number(file, "I")
        if number >= len(TYPES):
            raise ModelError(f"{path}: {name} is of type {number}, which emo does not read.", "Use float16 or float32.")
        found = Variable(shape, TYPES[number], file.tell())
        if length != np.dtype(found.dtype).itemsize * int(np.prod(shape)) or found.offset + length > size:
            raise ModelError(f"{path} is cut off or damaged at {name}.", AGAIN)
        variables[name] = found
        file.seek(length, 1)
    for _ in range(_number(file, "I")):  # arrays that are equal to another one are written once
        alias, name = _name(file), _name(file)
        if name not in variables:
            raise ModelError(f"{path} calls {alias} what it does not hold: {name}.", AGAIN)
        variables[alias] = variables[name]
    return Model(path, kind, variables)


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0])


def _name(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()
