"""One clip, opened and decoded once: what each encoder gets of it, and what failed already.

A `ClipDecoder` knows nothing of stores and devices and can be pickled, so that it works in a thread or in another
process. PyAV, Pillow and onnxruntime release the interpreter lock, but following faces is Python: one process serves
about ten clips of five seconds a second, however many threads it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared
from emo.extract.media.container import Media, open_media
from emo.extract.media.detect import Detector
from emo.extract.media.facemesh import FaceMesh
from emo.extract.media.faces import FaceConfig, read_openface
from emo.extract.media.follow import FaceTracker
from emo.extract.media.picks import Picks
from emo.extract.media.reading import FrameTable, Reading, as_failure
from emo.extract.media.still import is_picture, read_picture
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError

EVEN_S = 0.002  # containers round time stamps to milliseconds


@dataclass
class Decoded:
    """Result of decoding one clip.

    Attributes:
        duration_s: Of the clip.
        prepared: Input by encoder.
        failed: Why there is none, by encoder.
        faces: Table of boxes, landmarks and track choice (`faces.COLUMNS`), where faces were looked for.
        notes: What a user should know of the clip, a sentence by kind.
        spent_s: Seconds by what was done, for the timeline.
    """

    duration_s: float = 0.0
    prepared: dict[str, Prepared] = field(default_factory=dict)
    failed: dict[str, MediaError] = field(default_factory=dict)
    faces: NDArray[np.float32] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    spent_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the time that is spent inside."""
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.spent_s[what] = self.spent_s.get(what, 0.0) + time.monotonic() - start_s


class ClipDecoder:
    """Decodes clips for encoders; safe to use from several threads at once.

    Args:
        encoders: Whose inputs are prepared, by name; their models are not used.
        faces: Face settings; `None` takes the crops of each clip's OpenFace folder, and nothing is detected.
        frame: Frame that whole-image encoders see: `first`, `middle`, or an index per clip.
        detector: Finds faces; needed where an encoder needs faces and `faces` is set.
        reading: How media files are read; default as `Reading()`.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        faces: FaceConfig | None,
        frame: str | FrameTable,
        detector: Detector | None,
        reading: Reading | None = None,
    ) -> None:
        self.encoders, self.faces, self.frame, self.detector = encoders, faces, frame, detector
        self.reading = reading or Reading()
        self.mesh = FaceMesh() if any(encoder.needs == "points" for encoder in encoders.values()) else None

    def decode(self, clip: Clip, path: Path, names: Sequence[str]) -> Decoded:
        """Open and decode a clip once. What touches only one kind of input fails only the encoders that need it.

        Args:
            clip: The clip.
            path: Its media file; not touched for encoders of transcripts.
            names: Encoders to prepare inputs for.

        Returns:
            Inputs and failures; together they hold every name once.
        """
        read = [self.encoders[name] for name in names if self.encoders[name].needs == "text"]
        seen = [self.encoders[name] for name in names if self.encoders[name].needs != "text"]
        result = Decoded()
        _prepare(read, ClipInputs(transcripts=clip.transcripts), path, result)
        try:
            if seen:
                self._decode(clip, path, seen, result)
        except Exception as error:  # noqa: BLE001 - one broken clip must not end a pass over 100,000
            failed = dict.fromkeys([encoder.name for encoder in seen], as_failure(error, path))
            return Decoded(prepared=result.prepared, failed=result.failed | failed)
        return result

    def crashed(self, names: Sequence[str], failure: MediaError) -> Decoded:
        """Return that nothing could be prepared."""
        return Decoded(failed=dict.fromkeys(names, failure))

    def _decode(self, clip: Clip, path: Path, encoders: Sequence[Encoder], result: Decoded) -> None:
        needs = {encoder.needs for encoder in encoders}
        found: dict[str, Any] = {}
        errors: dict[str, MediaError] = {}
        tracker: FaceTracker | None = None

        def attempt(kind: str, read: Callable[[], dict[str, Any]]) -> None:
            try:
                found.update(read())
            except Exception as error:  # noqa: BLE001 - recorded for the encoders that need this kind of input
                errors[kind] = as_failure(error, path)

        if is_picture(path):
            self._still(clip, path, encoders, result)
            return
        with result.timed("open"):
            media = open_media(path, self.reading)
        with media:
            result.duration_s = media.info.duration_s
            if "frame" in needs:
                attempt("frame", lambda: {"index": self._frame_index(media, clip.id)})
            pickers = [encoder for encoder in encoders if encoder.needs == "frames"]
            count = max(media.info.n_frames, 1)  # without any, asking for frames will say so
            picks = Picks({each.name: (each.pick(count), each.frame_size) for each in pickers})
            if "faces" in needs and self.faces is None:
                attempt("faces", lambda: {"faces": _openface_crops(clip)})
            if needs & {"faces", "points"} and self.faces is not None:
                mesh = self.mesh if "points" in needs else None
                tracker = FaceTracker(self.detector, self.faces, path.name, mesh) if self.detector else None
            if "index" in found or tracker is not None or pickers:
                self._watch(media, path, result, found, errors, tracker, picks)
            if "audio" in needs:
                with result.timed("audio"):
                    attempt("audio", lambda: {"audio": media.audio(), "audio_t0_s": media.info.audio_start_s})
                result.notes |= media.notes
        found.pop("index", None)
        if "faces" in errors:
            errors["points"] = errors["faces"]
        result.failed |= {each.name: errors[each.needs] for each in encoders if each.needs in errors}
        _prepare(
            [each for each in encoders if each.needs not in {*errors, "frames"}], ClipInputs(**found), path, result
        )
        for each in pickers if "frames" not in errors else ():  # each has frames of its own
            _prepare([each], ClipInputs(**picks.of(each.name)), path, result)

    def _still(self, clip: Clip, path: Path, encoders: Sequence[Encoder], result: Decoded) -> None:
        """Prepare what a picture can serve: it stands for the first frame of a clip that is not here."""
        alone = f"{path.name} is a picture, the first frame of a clip"
        hint = "Name the folder of the clips as `clips` in emo.toml."
        nothing = MediaError("picture-only", f"{alone}: there is no sound and no other frame.", hint)
        result.failed |= {each.name: nothing for each in encoders if each.needs != "frame"}
        seers = [each for each in encoders if each.needs == "frame"]
        index = 0 if self.frame == "first" else None if isinstance(self.frame, str) else self.frame.index_of(clip.id)
        if index == 0 and seers:
            with result.timed("open"):
                found = ClipInputs(frame=read_picture(path))
            _prepare(seers, found, path, result)
        elif seers:
            asked = "the middle one" if index is None else f"frame {index}"
            other = MediaError("no-frame-index", f"{alone}, and `frame` asks for {asked}.", hint)
            result.failed |= {each.name: other for each in seers}

    def _watch(
        self,
        media: Media,
        path: Path,
        result: Decoded,
        found: dict[str, Any],
        errors: dict[str, MediaError],
        tracker: FaceTracker | None,
        picks: Picks,
    ) -> None:
        """Run through the frames once, following faces and picking frames for whole-image encoders."""
        index, last = found.get("index", -1), None
        enough = max(index, picks.last)
        try:
            frames = media.frames()
            while True:
                with result.timed("frames"):
                    frame = next(frames, None)
                if frame is None:
                    break
                if last is None or frame.index <= index:
                    last = frame
                picks.feed(frame)
                if tracker is not None:
                    try:
                        with result.timed("faces"):
                            tracker.feed(frame)
                    except Exception as error:  # noqa: BLE001 - the whole-image encoders can go on
                        errors["faces"], tracker = as_failure(error, path), None
                if tracker is None and frame.index >= enough:
                    break
            if tracker is not None:
                with result.timed("faces"):
                    tracks = tracker.finish()
                    result.faces = tracks.table()
        except Exception as error:  # noqa: BLE001 - nobody gets numbers from half a clip
            for kind in ("faces", "frame", "frames"):
                errors.setdefault(kind, as_failure(error, path))
            return
        if index >= 0 and last is not None:
            if last.index < index and self.frame != "middle":
                sentence = f"{path.name} has {last.index + 1} frames, so there is no frame {index} as the table says."
                errors["frame"] = MediaError("no-frame-index", sentence, "Correct the frame table.")
            found.update(frame=last.rgb, frame_time_s=last.time_s)
        if tracker is not None:
            try:
                track = tracks.choose()
            except MediaError as error:
                errors["faces"] = error
            else:
                found.update(faces=track.crops, t0_s=float(track.time_s[0]), hop_s=even_hop_s(track.time_s))
                if track.mesh is not None:
                    points, time_s = track.points()
                    start_s = float(time_s[0]) if len(time_s) else 0.0
                    found.update(points=points, points_t0_s=start_s, points_hop_s=even_hop_s(time_s))

    def _frame_index(self, media: Media, clip_id: str) -> int:
        if self.frame == "first":
            return 0
        if self.frame == "middle":
            return media.info.n_frames // 2  # as the container counts; where it promised more, the last one stands in
        assert not isinstance(self.frame, str)
        return self.frame.index_of(clip_id)


def _prepare(encoders: Sequence[Encoder], inputs: ClipInputs, path: Path, result: Decoded) -> None:
    for encoder in encoders:
        try:
            with result.timed("prepare"):
                result.prepared[encoder.name] = encoder.prepare(inputs)
        except Exception as error:  # noqa: BLE001 - one encoder's fault is not the others'
            result.failed[encoder.name] = as_failure(error, path)


def even_hop_s(time_s: NDArray[np.float64]) -> float | None:
    """Seconds between rows, or `None` where they are not evenly spaced (variable frame rate, a face out of sight)."""
    steps = np.diff(time_s)
    if not len(steps) or np.abs(steps - steps.mean()).max() > EVEN_S:
        return None
    return float(steps.mean())


def _openface_crops(clip: Clip) -> NDArray[np.uint8]:
    if clip.faces is None:
        raise MediaError("no-face", f"There is no OpenFace output for {clip.id}.", "Run OpenFace on it.", retry=True)
    return read_openface(clip.faces)
