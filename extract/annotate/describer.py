"""The contract of a describer: a question about a clip goes in, an answer comes out; and all that it may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emo.featstore.errors import MediaError, UsageError
from emo.featstore.sources.chat import Reply

SIDE = 1024  # pixels of the longer side of a picture that is sent
RATE = 16_000
QUALITY = 90  # of the JPEG


class Stopped(Exception):
    """No more questions may be asked: the budget is spent, or a person stopped the run."""


@dataclass(frozen=True)
class Clues:
    """Everything that is known of a clip when a question is asked.

    Attributes:
        texts: By the names that prompts use: `scene`, `expression`, `voice`, `text`, `label`, `caption`.
        frame: Gives the frame of strongest expression (H, W, 3) uint8 RGB; decodes when first asked.
        sound: Gives the sound (N,) float32 at 16 kHz, likewise.
        pictures: Gives frames of the whole clip as JPEG files, in order, likewise.
        image, wave: Give `frame` and `sound` as the bytes of a JPEG and of a WAV file, where these are at hand.
    """

    texts: Mapping[str, str]
    frame: Callable[[], NDArray[np.uint8]]
    sound: Callable[[], NDArray[np.float32]]
    pictures: Callable[[], Sequence[bytes]] = tuple
    image: Callable[[], bytes] | None = None
    wave: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Question:
    """A question to a describer.

    Attributes:
        kind: `scene`, `voice`, `caption` or `verify`; or a task of a recipe.
        system: Text of the system's role.
        text: Text of the user's role, with the clip's clues in it.
        needs: `image`, `sound`, `clip` (frames and sound, as far as there are), or nothing, that is shown with it.
        language: Of the answer.
        clues: What is known of the clip.
    """

    kind: str
    system: str
    text: str
    needs: str
    language: str
    clues: Clues

    def images(self) -> Sequence[bytes]:
        """Return the pictures that are shown as JPEG, in order: of `image` one, at most 1024 pixels wide or high."""
        if self.needs == "clip":
            return self.clues.pictures()
        if self.needs != "image":
            return []
        return [jpeg(self.clues.frame()) if self.clues.image is None else self.clues.image()]

    def wave(self) -> bytes | None:
        """Return the sound as a 16-bit WAV file, where the question needs it; a `clip` may have none."""
        if self.needs not in ("sound", "clip"):
            return None
        if self.clues.wave is not None:
            return self.clues.wave()
        sound = self.clues.sound()
        return wav(sound) if len(sound) or self.needs == "sound" else None


class Describer(Protocol):
    """Something that answers questions about clips: the contract of a plug-in. Asked from several threads at once."""

    @property
    def id(self) -> str:
        """Model and version: part of the identity of every answer."""
        ...

    @property
    def remote(self) -> bool:
        """Whether an answer costs a request that nobody wants to pay twice."""
        ...

    def decoding(self) -> Mapping[str, Any]:
        """Return the settings that change answers; part of their identity."""
        ...

    def answers(self, kind: str) -> bool:
        """Whether it can answer questions of this kind."""
        ...

    def describe(self, question: Question) -> Reply:
        """Answer a question.

        Raises:
            MediaError: This clip gets no answer; recorded.
            Stopped: No more questions may be asked.
            UsageError: Nothing can be answered at all; ends the run.
        """
        ...


@dataclass(frozen=True)
class Asking:
    """How describers ask.

    Attributes:
        key: Of endpoints; never stored.
        timeout_s: Of one attempt.
        temperature, seed, max_tokens: Of the decoding.
        attempt: Called before each request.
        wait: Waits so many seconds between attempts.
        device: Of local models.
    """

    key: str = field(default="", repr=False)
    timeout_s: float = 60.0
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 512
    attempt: Callable[[], None] = lambda: None
    wait: Callable[[float], None] | None = None
    device: str = "auto"


def jpeg(frame: NDArray[np.uint8], side: int = SIDE) -> bytes:
    """Return a frame (H, W, 3) as JPEG, at most `side` pixels wide or high."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    out = BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def wav(sound: NDArray[np.float32]) -> bytes:
    """Return samples (N,) in [-1, 1] at 16 kHz as a 16-bit WAV file.

    Raises:
        MediaError: There are none.
    """
    import wave

    if not len(sound):
        raise MediaError("no-audio", "The clip has no sound.")
    out = BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32767).round().astype("<i2").tobytes())
    return out.getvalue()


def refuse_rest(name: str, rest: str) -> None:
    """Refuse words behind the name of a describer that takes none.

    Raises:
        UsageError: There are some.
    """
    if rest:
        raise UsageError(f"Describer {name} takes nothing behind its name, not {rest!r}.")
