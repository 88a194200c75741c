"""Frame and sound that describers are shown of a clip, decoded in one opening of the file, in any process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo.extract.annotate.describer import jpeg, wav
from emo.extract.media.container import Media, open_media
from emo.extract.media.reading import Reading, as_failure
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError

Shown = Mapping[str, Any]  # by what was asked for; in place of what cannot be had, its `MediaError`


def look(what: str, index: int | None = None) -> str:
    """Return the name of something to show: `frame` or `jpeg` of an index, `sound` or `wav`."""
    return what if index is None else f"{what}:{index}"


@dataclass(frozen=True)
class ShownDecoder:
    """Decodes what describers are shown; see `DecodePool`.

    Attributes:
        reading: How media files are read.
    """

    reading: Reading

    def decode(self, clip: Clip, path: Path, names: Sequence[str]) -> Shown:
        """Open a clip once and return what is asked for.

        Args:
            clip: The clip.
            path: Its media file.
            names: See `look`. `frame:7` gives (H, W, 3) uint8 RGB, `jpeg:7` its bytes, `sound` (N,) float32 at 16 kHz,
                `wav` its bytes.
        """
        found: dict[str, Any] = {}
        try:
            with open_media(path, self.reading) as media:
                for name in sorted(names):  # frames before sound: the file is read once
                    try:
                        found[name] = _show(media, name, path)
                    except Exception as error:  # noqa: BLE001 - a clip without sound still has a frame
                        found[name] = as_failure(error, path)
        except Exception as error:  # noqa: BLE001 - one broken clip must not end a run over 100,000
            return self.crashed(names, as_failure(error, path))
        return found

    def crashed(self, names: Sequence[str], failure: MediaError) -> Shown:
        """Return that nothing can be shown."""
        return dict.fromkeys(names, failure)


def _show(media: Media, name: str, path: Path) -> Any:
    what, _, index = name.partition(":")
    if what in ("sound", "wav"):
        sound = media.audio()
        return sound if what == "sound" else wav(sound)
    last = -1
    for frame in media.frames():
        last = frame.index
        if last == int(index):
            return frame.rgb if what == "frame" else jpeg(frame.rgb)
    sentence = f"{path.name} has {last + 1} frames, so there is no frame {index} as its action units say."
    raise MediaError("no-frame-index", sentence, "Were the action units made of another file?")
