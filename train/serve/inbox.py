"""Files that are sent to the page: in a folder of this server's own, of which nothing stays behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path

UPLOADS = "emo-upload-"  # folders of servers


class Inbox:
    """Folders of files that were sent, inside one that is locked as long as this server lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._held: int | None = None

    def new(self) -> Path:
        """Return a new folder for one file.

        Raises:
            OSError: None can be made.
        """
        with self._lock:
            if self._folder is None or not self._folder.is_dir():  # nor was it tidied away
                self._let_go()
                folder = Path(tempfile.mkdtemp(prefix=UPLOADS))
                self._held = os.open(folder, os.O_RDONLY)
                fcntl.flock(self._held, fcntl.LOCK_EX)
                self._folder = folder
            return Path(tempfile.mkdtemp(dir=self._folder))

    def close(self) -> None:
        """Remove what is there still."""
        with self._lock:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def sweep() -> None:
    """Remove what servers that were killed have left behind: the folders that no process holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{UPLOADS}*"):
        try:
            found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # it is gone, or somebody else's
            continue
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a server that is alive holds it
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(found)
