"""A trial of a damaged file in a process of its own: the HDF5 library may crash on one, or go round in it for ever."""

from __future__ import annotations

import functools
import os
import selectors
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from emo.featstore.errors import EmoError, UsageError
from emo.featstore.interop import find_layout

STALLED_S = 60.0  # without a sign of life; healthy files of 100,000 clips give one every few milliseconds
WHOLE_BYTES = 256 << 20  # up to this size everything is read, above only what says where it lies


def survives(path: Path, layout: str) -> None:
    """Read a file in another process first.

    Raises:
        UsageError: The library crashes on it, or comes to no end.
    """
    found = path.stat()
    wrong = _tried(str(path.absolute()), layout, found.st_size, found.st_mtime_ns)
    if wrong:
        raise UsageError(f"{path} is damaged: the library that reads it {wrong}.", "Copy it again.")


@functools.lru_cache(maxsize=64)
def _tried(path: str, layout: str, size: int, mtime_ns: int) -> str:
    del mtime_ns  # of the content that was tried
    command = [sys.executable, "-m", __name__, path, layout, str(int(size <= WHOLE_BYTES))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(run.stdout, selectors.EVENT_READ)
            while waiting.select(STALLED_S):
                if not os.read(run.stdout.fileno(), 1 << 16):
                    return f"crashes ({-code})" if (code := run.wait()) < 0 else ""
        run.kill()
    return "comes to no end"


def main(path: Path, layout: str, whole: bool) -> None:
    """Read what there is; whatever is wrong with it in words is found again by whoever reads it in earnest."""
    print(flush=True)
    shown_s = time.monotonic()
    with ExitStack() as files:
        found = find_layout(layout).find(path, files)
        for source in found.sources if found else ():
            for _, place in source.places:
                if time.monotonic() - shown_s > 1:
                    print(flush=True)
                    shown_s = time.monotonic()
                if whole:
                    try:
                        source.read(place)
                    except EmoError:
                        continue
                    except Exception:  # noqa: BLE001 - of the library, which says it again
                        continue


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1")
