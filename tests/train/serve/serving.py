"""What tests of the page share: its address, hands that do nothing, and clips of a small store."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from emo.extract.hands import Hands
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import MediaError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

LOCAL = "http://127.0.0.1:7860"
SPEC = EncoderSpec("HL-UTT", "hubert", "audio", "utt", 4, 1, "tiny", "seed:0")
CLIPS = [f"c{i}" for i in range(6)]


def add_clips(store: Store, *names: str) -> None:
    """Commit a feature of clips `c<number>`; the nearer two numbers are, the nearer are their vectors."""
    with store.writer() as writer:
        for name in names:
            number = int(name[1:])
            media = f"{number:032x}"
            writer.clip(name, FileId(media, 1, 1))
            writer.add(SPEC, media, np.array([[np.cos(number / 9), np.sin(number / 9), 0, 0]], np.float32))


@contextmanager
def served_at(folder: Path, *flags: str) -> Iterator[str]:
    """Serve the workspace of a folder by `emo serve`, as a process of its own, and yield its address."""
    command = [sys.executable, "-m", "emo.cli", "serve", "--port", "0", *flags]
    server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.search(r"http://\S+/", said)
        assert found, said
        yield found[0]
    finally:
        server.terminate()
        server.wait(20)


class Idle(Hands):
    """Hands that start no process: they look into nothing, and extract nothing."""

    def look(self, path: Path, most_s: float, most_pixels: int, cancelled: threading.Event) -> dict[str, Any]:
        raise MediaError("not-media", f"{path.name} is not looked at in this test.")

    def extract(
        self,
        clips: Sequence[Clip],
        encoders: Sequence[str],
        keys: Sequence[str],
        profile: str | None,
        tell: Callable[[dict[str, Any]], None],
        cancelled: threading.Event,
    ) -> dict[str, Any]:
        raise MediaError("not-extracted", "Nothing is extracted in this test.")


# Fields of a record as MERR has them.
MERR = {
    "AU_list": ["AU04"],
    "visual_prior_list": ["Frowns furrowed"],
    "audio_prior_list": "a low voice",
    "peak_index": "7",
    "peak_AU_list": ["AU04"],
    "pseu_emotion": "angry",
    "text": "No!",
    "smp_reason_caption": "A frown and a low voice.",
}
