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
os.nice(10)  # all together are to have one process's share: whoever asks has work of its own
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
def looking(files: Sequence[str | Address]) -> Iterator[tuple[list[str], Callable[[], Looks]]]:
    """Have files looked at while something else is done.

    Args:
        files: The files.

    Yields:
        The files as texts; and what waits for the answer and returns it: `(N, 2)` int64, size in bytes and time of the
        last change in ns of each file, both `GONE` where there is none.
    """
    if len(files) < MANY or any(isinstance(path, Url) for path in files):  # a URL's are known since it was listed
        texts = list(map(str, files))
        yield texts, lambda: _here(files, texts)
        return
    from concurrent.futures import ThreadPoolExecutor  # no short command needs it

    texts, parts, length = [], [], -(-len(files) // PROCESSES)
    with ThreadPoolExecutor(PROCESSES) as pool:
        for i in range(0, len(files), length):  # the first begin while others are not even texts
            some = list(map(str, files[i : i + length]))
            parts.append(pool.submit(_elsewhere, some))
            texts += some
        yield texts, lambda: np.concatenate([part.result() for part in parts])


def _here(files: Sequence[str | Address], texts: Sequence[str]) -> Looks:
    found = np.full((len(files), 2), GONE, "i8")
    for i, (path, text) in enumerate(zip(files, texts, strict=True)):
        with suppress(OSError):
            found[i] = seen(path, text)
    return found


def _elsewhere(texts: Sequence[str]) -> Looks:
    """Ask in a process that imports nothing; where none can be had, here."""
    from subprocess import DEVNULL, PIPE, Popen

    command = [sys.executable, "-I", "-S", "-c", _SCRIPT]
    with suppress(OSError, ValueError):  # the last of an answer that was cut off
        with Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(os.fsencode("\0".join(texts)))  # in one go, without the interpreter's lock
            process.stdin.close()
            found = np.frombuffer(process.stdout.read(), "i8").reshape(-1, 2)
        if process.returncode == 0 and len(found) == len(texts):
            return found
    return _here(texts, texts)
