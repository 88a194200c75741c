"""Size and time of the last change of many files; of very many, several processes ask at once.

A file system answers after some microseconds where it is a disk of this machine, and after up to a millisecond where it
is another machine's. Threads are of no use for the first: they would hand the interpreter's lock over for every file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from emo.featstore.address import Address, Url, seen

Looks: TypeAlias = NDArray[np.int64]

GONE = -2  # the size of what is not there, or was never listed; -1 says elsewhere that a clip has no file
MANY = 20_000  # of fewer, this process has its answers before others have begun
PROCESSES = 8
_SCRIPT = f"""
import array, os, sys
found = array.array("q")
for path in sys.stdin.buffer.read().split(bytes(1)):
    try:
        about = os.stat(path)
        found.extend((about.st_size, about.st_mtime_ns))
    except OSError:
        found.extend(({GONE}, {GONE}))
sys.stdout.buffer.write(found)
"""


@contextmanager
def looking(files: Sequence[str | Address], texts: Sequence[str]) -> Iterator[Callable[[], Looks]]:
    """Have files looked at while something else is done.

    Args:
        files: The files.
        texts: The same as texts.

    Yields:
        What waits for the answer and returns it: `(N, 2)` int64, size in bytes and time of the last change in ns of
        each file, both `GONE` where there is none.
    """
    if len(files) < MANY or any(isinstance(path, Url) for path in files):  # a URL's are known since it was listed
        yield lambda: _here(files, texts)
        return
    from concurrent.futures import ThreadPoolExecutor  # no short command needs it

    length = -(-len(files) // PROCESSES)
    with ThreadPoolExecutor(PROCESSES) as pool:
        parts = [pool.submit(_elsewhere, texts[i : i + length]) for i in range(0, len(texts), length)]
        yield lambda: np.concatenate([part.result() for part in parts])


def _here(files: Sequence[str | Address], texts: Sequence[str]) -> Looks:
    found = np.full((len(files), 2), GONE, "i8")
    for i, (path, text) in enumerate(zip(files, texts, strict=True)):
        with suppress(OSError):
            found[i] = seen(path, text)
    return found


def _elsewhere(texts: Sequence[str]) -> Looks:
    """Ask in a process that imports nothing; where none can be had, here."""
    import subprocess

    command = [sys.executable, "-I", "-S", "-c", _SCRIPT]
    paths = os.fsencode("\0".join(texts))
    with suppress(OSError, subprocess.SubprocessError, ValueError):  # the last of an answer that was cut off
        done = subprocess.run(command, input=paths, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        found = np.frombuffer(done.stdout, "i8").reshape(-1, 2)
        if len(found) == len(texts):
            return found
    return _here(texts, texts)
