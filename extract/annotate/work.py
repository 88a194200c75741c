"""Work on one clip, step by step: where the steps are kept, and the file that is opened once for all of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.describer import Describer, Stopped
from emo.extract.annotate.shown import Shown
from emo.extract.annotate.units import UnitTable
from emo.extract.media.container import Media, open_media
from emo.extract.media.reading import Reading, as_failure
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import EmoError, MediaError
from emo.featstore.fetch import AtHand
from emo.featstore.files import digest
from emo.featstore.sources.chat import Reply
from emo.featstore.spec import EncoderSpec

_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


class Keep(Protocol):
    """The place where the steps of one clip are kept."""

    def kept(self, spec: EncoderSpec, of: str) -> Any:
        """Return the value of a step if it is there and was made of the same; else `None`.

        Raises:
            MediaError: It failed for good.
        """
        ...

    def put(self, spec: EncoderSpec, value: Mapping[str, Any]) -> None:
        """Keep a value."""
        ...

    def put_units(self, spec: EncoderSpec, table: UnitTable) -> None:
        """Keep a table of action units."""
        ...

    def units(self, spec: EncoderSpec) -> NDArray[np.float32]:
        """Return the rows of a table that is kept."""
        ...

    def fail(self, spec: EncoderSpec, error: MediaError) -> None:
        """Keep a failure."""
        ...

    def turn(self, describer: Describer) -> AbstractContextManager[Any]:
        """Wait until this describer may be asked; others wait while the context lasts."""
        ...

    def paid(self, model: str, reply: Reply) -> None:
        """Hear of a reply that came from a model."""
        ...

    def show(self, names: Sequence[str]) -> Shown:
        """Decode what describers are shown of the clip, by the names of `shown.look`, in one opening of the file."""
        ...


class Work(Protocol):
    """Settings of a run: which records it makes, and whom it asks for them."""

    @property
    def goal(self) -> EncoderSpec:
        """The records that count as made: what comes last of a clip."""
        ...

    @property
    def reading(self) -> Reading:
        """How clips are decoded."""
        ...

    @property
    def describers(self) -> Mapping[str, Describer]:
        """Models that are asked, by question."""
        ...

    @property
    def answers(self) -> Mapping[str, EncoderSpec]:
        """Records of answers, by question."""
        ...

    def specs(self) -> list[EncoderSpec]:
        """Return all recipes of records."""
        ...


class OneClip(ABC):
    """The work on one clip.

    Args:
        clip: The clip; it has a media file.
        file: Its content.
        keep: Where the steps are kept.
        reading: How it is decoded.
        goal: Records of the whole, under which a failure is kept.
    """

    def __init__(self, clip: Clip, file: FileId, keep: Keep, reading: Reading, goal: EncoderSpec) -> None:
        self.clip, self.file, self.keep = clip, file, keep
        self._reading, self._goal = reading, goal
        self._media: Media | None = None
        self._at_hand: AtHand | None = None

    def run(self) -> None:
        """Make what is not there yet; what fails is kept as a failure.

        Raises:
            Stopped: No more may be asked; what is made so far is kept.
            UsageError: Nothing can be asked at all.
        """
        try:
            self.make()
        except MediaError as error:
            self.keep.fail(self._goal, error)
        except (Stopped, EmoError):
            raise
        except Exception as error:  # noqa: BLE001 - one broken clip must not end a run over 100,000
            self.keep.fail(self._goal, as_failure(error, self.clip.media or Path(self.clip.id)))
        finally:
            if self._media is not None:
                self._media.close()
            if self._at_hand is not None:
                self._at_hand.close()

    @abstractmethod
    def make(self) -> None:
        """Make the steps that are not there yet.

        Raises:
            MediaError: The clip cannot be worked on.
        """

    def opened(self) -> Media:
        """Return the open file."""
        if self._media is None:
            assert self.clip.media is not None
            self._at_hand = AtHand(self.clip.media)
            self._media = open_media(self._at_hand.path, self._reading)
        return self._media

    def audio(self) -> NDArray[np.float32]:
        """Return the sound (N,) at 16 kHz."""
        return self.opened().audio()


class Failing:
    """Keep a failure of a step as that step's, and let the whole hear of it.

    Args:
        keep: Where.
        spec: The step's.
    """

    def __init__(self, keep: Keep, spec: EncoderSpec) -> None:
        self.keep, self.spec = keep, spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: Any) -> None:
        if isinstance(error, MediaError):
            self.keep.fail(self.spec, error)


def made_of(value: Any) -> str:
    """Return the hash of what a step is made of."""
    return digest(_canonical(value).encode())
