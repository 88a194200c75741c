"""The contract of extraction as the page sees it; the command line hands one in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from emo.featstore.clip import Clip
from emo.featstore.storage.store import Store


class Hands(Protocol):
    """Reads media and makes features, in processes that can be killed. All that it returns are plain values."""

    def look(self, path: Path, most_s: float, most_pixels: int, cancelled: threading.Event) -> dict[str, Any]:
        """Return `duration_s`, `width`, `height`, `fps`, `n_frames` and the `wave` of a media file.

        Raises:
            MediaError: It is no clip, or beyond the bounds.
        """
        ...

    def extract(
        self,
        clips: Sequence[Clip],
        encoders: Sequence[str],
        keys: Sequence[str],
        profile: str | None,
        tell: Callable[[dict[str, Any]], None],
        cancelled: threading.Event,
    ) -> dict[str, Any]:
        """Extract features of clips into the workspace's store, and the face mesh where it can be had.

        Raises:
            EmoError: As `emo extract`, or because it was cancelled.
        """
        ...

    def curves(self, store: Store, clip_id: str) -> dict[str, Any] | None:
        """Return action units over time and the frame of strongest expression; `None` where the store has none."""
        ...

    def fields(self) -> dict[str, tuple[str, ...]]:
        """Return the fields of a MERR record by form."""
        ...

    def faults(self, record: dict[str, Any]) -> list[str]:
        """Return what is wrong with a MERR record."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...
