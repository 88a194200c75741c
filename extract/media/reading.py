"""How a clip is read: which sound track, where its sound ends, how long it may be; and what of that changes numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emo.featstore.address import Address
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.meant import SOUND_TAIL, TAILS

AUDIO_RATE = 16_000

FRAMES = "ffmpeg rgb24, upright, display shape"
"""How pixels come about, for the fingerprint: colours by FFmpeg's scaler, bicubic where chroma is scaled; turned as the
display matrix says; non-square pixels made square."""

SOUND = "ffmpeg s16 mono 16000 Hz, without encoder delay"
GAPS = "silence"

LIMIT_MIN = 5.0


@dataclass(frozen=True)
class FrameTable:
    """The frame that whole-image encoders see, by clip.

    Attributes:
        indices: Of the frames, counted from 0.
        recipe: What of the table is in the fingerprint.
        lacking: Sentence about a clip that is not in it, with `{clip}` for its id.
        hint: What to do about that.
        retry: Whether such a clip may be in it the next time.
    """

    indices: Mapping[str, int]
    recipe: str
    lacking: str = "The frame table has no entry for clip {clip}."
    hint: str = "Add it to the table."
    retry: bool = False

    def index_of(self, clip: str) -> int:
        """Return the index of the clip's frame.

        Raises:
            MediaError: The clip is not in the table.
        """
        if clip not in self.indices:
            raise MediaError("no-frame-index", self.lacking.format(clip=clip), self.hint, retry=self.retry)
        return self.indices[clip]


@dataclass(frozen=True)
class Reading:
    """Settings of the decoder.

    Attributes:
        audio_track: Which sound track, counted from 1; `None` for the one that ffmpeg would choose.
        sound_tail: `keep` the last packet of an mp4's sound whole, as ffmpeg 4 to 8 do and with them every published
            extractor, or `trim` it where the edit list says that the sound ends.
        max_minutes: A clip that is longer is refused.
    """

    audio_track: int | None = None
    sound_tail: str = SOUND_TAIL
    max_minutes: float = LIMIT_MIN

    def __post_init__(self) -> None:
        if self.audio_track is not None and self.audio_track < 1:
            raise UsageError(f"There is no sound track {self.audio_track}.", "Tracks are counted from 1.")
        if self.sound_tail not in TAILS:
            raise UsageError(f"There is no sound tail {self.sound_tail!r}.", f"There are {' and '.join(TAILS)}.")
        if not self.max_minutes > 0:
            raise UsageError(f"max_minutes is {self.max_minutes}; it must be above 0.")

    @property
    def audio_recipe(self) -> dict[str, object]:
        """Return the keys that change the samples, for the fingerprint."""
        recipe: dict[str, object] = {"audio": SOUND, "tail": TAILS[self.sound_tail], "gaps": GAPS}
        return recipe if self.audio_track is None else {**recipe, "track": self.audio_track}

    @classmethod
    def of_recipe(cls, recipe: Mapping[str, Any]) -> Reading:
        """The settings that made a feature with this media recipe.

        Raises:
            UsageError: Another version of emo read its clips in another way.
        """
        tails = {words: name for name, words in TAILS.items()}
        reading = cls(recipe.get("track"), tails.get(recipe.get("tail", ""), SOUND_TAIL))
        if ("audio" in recipe and dict(recipe) != reading.audio_recipe) or recipe.get("frames", FRAMES) != FRAMES:
            raise UsageError("this version of emo decodes media in another way than that feature was made.")
        return reading


def as_failure(error: Exception, path: Address) -> MediaError:
    """A failure as it is recorded; what is not a `MediaError` is a fault of emo, and trying again may help."""
    if isinstance(error, MediaError):
        return error
    if isinstance(error, OSError):
        sentence = f"{path} cannot be read: {error.strerror or error}."
        return MediaError("unreadable", sentence, "Check the file and its permissions.", retry=True)
    return MediaError("internal", f"{path.name}: {type(error).__name__}: {error}.", retry=True)
