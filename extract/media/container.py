"""A clip, opened once, demuxed once and decoded once: upright RGB frames and 16 kHz mono audio.

`open_media` reads all compressed packets of the clip (a few megabytes), so that the number of frames is known exactly
and a clip that was cut off is refused before any work is spent on it. Frames are then decoded one at a time as they are
asked for; at no time are all frames of a clip in memory.

What the numbers are equal to, and tested against (`tests/extract/media`):

- frames: `ffmpeg -i IN -pix_fmt rgb24`, bit for bit, 10 bit and interlaced video included. Where pixels are not square
  by more than 1 %, frames have the shape that a player shows: `-vf scale=W:H` with its width;
- times of frames: the best effort of ffprobe, except that they never run backwards;
- audio: `ffmpeg -i IN -ac 1 -ar 16000 OUT.wav` of FFmpeg 4 to 8: as many samples, and within three steps of 16 bits
  (decoders and the resampler round differently from version to version). Encoder delay is skipped, and the last packet
  of an mp4's sound is kept whole, which `Reading(sound_tail="trim")` cuts at the edit list as FFmpeg 9 does. One thing
  is not ffmpeg's: where time stamps leave a gap of 0.1 s or more, which ffmpeg closes up, there is silence, so that
  everything after it keeps its time.

This is the one border to FFmpeg: whatever goes wrong beyond it ends in a `MediaError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from emo.extract.media.picture import Clock, Rgb
from emo.extract.media.reading import Reading
from emo.extract.media.sound import Sound, too_long, trimmed
from emo.extract.media.whole import announced_samples, is_clip, missing_bytes, picture_in_mp4, what_else
from emo.featstore.errors import MediaError

# Containers that hold a clip. Anything else that FFmpeg would open (text as ANSI art, play lists that name other files,
# image sequences, devices) is not a clip, whatever its name says.
CONTAINERS = "mov,matroska,avi,flv,mpegts,mpeg,asf,mxf,ogg,wav,w64,aiff,au,caf,flac,mp3,aac,ac3,amr"
# Up to this much may be missing at the end of the frames before a clip counts as cut off: rates are rounded.
_SLACK_S = 0.2
_SLACK_COUNTED_S = 0.03  # where the header counts samples of sound: a frame of an mp3
_FAINT = 3  # of 32768: what rounding leaves of two channels that cancel each other
_MAX_PIXELS = 100_000_000  # of one frame; 8K video has 33 million

# What PyAV raises where FFmpeg, or what FFmpeg found in a file, does not suit it.
_FOREIGN = (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError, MemoryError)


@dataclass(frozen=True)
class MediaInfo:
    """Header of a clip: all that is known before it is decoded.

    Attributes:
        path: The file.
        width: Columns of the upright frames as a player shows them; `None` without video, or where none of it can be
            decoded.
        height: Rows of the upright frames, likewise.
        rotation_deg: Counter-clockwise turn that makes the stored frames upright: 0, 90, 180 or 270.
        fps: Average frame rate; `None` without video or where the container does not know it.
        n_frames: Video packets that will be shown, which is the number of frames; 0 without video.
        duration_s: From the first to the end of the last packet of all streams that are read.
        audio_start_s: When the first audio sample is heard, on the clock of `Frame.time_s`; 0.0 without audio.
        has_video: Whether there is a video stream (cover art of an audio file is none).
        has_audio: Whether there is an audio stream.
        audio_tracks: How many sound tracks the file has, the one that is read included.
    """

    path: Path
    width: int | None
    height: int | None
    rotation_deg: int
    fps: float | None
    n_frames: int
    duration_s: float
    audio_start_s: float
    has_video: bool
    has_audio: bool
    audio_tracks: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        index: Position in the clip, from 0.
        time_s: Presentation time; 0.0 is the earliest time stamp of the clip. Never before the frame before.
        rgb: Pixels, upright, in display shape, `(H, W, 3)` uint8.
        small: Gives the same picture with so many pixels on its longer side, made from what was decoded; `None` where
            there is nothing but `rgb`.
        scaled: Gives it in a width and height, the aspect ratio not kept, likewise.
    """

    index: int
    time_s: float
    rgb: np.ndarray
    small: Callable[[int], np.ndarray] | None = None
    scaled: Callable[[int, int], np.ndarray] | None = None


class Media:
    """An open clip. Made by `open_media`; a context manager.

    `frames` and `audio` may be called in either order. Frames are a single pass; audio is kept once decoded.

    Attributes:
        info: What is known of the clip.
        notes: What a user should know of it, a sentence by kind: `sound-tracks` (there are several), `sound-gap`,
            `constant-sound` and `channels-cancel` (all three known once the sound is decoded).
    """

    def __init__(
        self, path: Path, container: InputContainer, reading: Reading, threads: int, counted: int | None
    ) -> None:
        self._path, self._container, self._reading = path, container, reading
        self._video, self._audio = _video_stream(container), _audio_stream(container, reading.audio_track)
        if self._video is not None:
            self._video.codec_context.thread_count = threads
            self._video.codec_context.thread_type = "SLICE" if threads == 1 else "AUTO"
        self._origin_s = (container.start_time or 0) / 1_000_000
        self._packets = self._demux(counted)
        self._video, self._audio = (s if s and s.index in self._packets else None for s in (self._video, self._audio))
        self._samples: np.ndarray | None = None
        self._started = False
        self.notes: dict[str, str] = {}
        self._rgb = Rgb(self._video.sample_aspect_ratio if self._video is not None else None)
        self._pending = self._decode(self._video) if self._video is not None else iter(())
        self._first, self._broken = None, None
        try:  # only a decoded frame says how it is turned and how large it really is
            self._first = next(self._pending, None)
        except MediaError as error:
            self._broken = error  # the sound may be whole: raised when frames are asked for
        self.info = self._describe()

    def __enter__(self) -> Media:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and forget its packets."""
        self._packets, self._pending, self._first = {}, iter(()), None
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Decode the frames of the clip, in order of presentation.

        Returns:
            A generator; only the frame in hand is in memory.

        Raises:
            MediaError: `no-video`; `not-media` where no frame can be decoded; while iterating, `truncated`.
            RuntimeError: Frames were asked for before: a clip is decoded once.
        """
        if self._broken is not None:
            raise self._broken
        if self._video is None:
            raise MediaError(
                "no-video", f"{self._path.name} has no video stream.", "Only audio encoders can use this clip."
            )
        if self._started:
            raise RuntimeError(f"the frames of {self._path.name} were asked for twice; a clip is decoded once")
        self._started = True
        return self._decode_video()

    def audio(self) -> np.ndarray:
        """Decode the sound of the clip.

        Returns:
            `(N,)` float32 in [-1, 1) at 16 kHz, mono: the 16-bit samples of ffmpeg divided by 32768.

        Raises:
            MediaError: `no-audio`; `truncated` or `not-media` where the sound cannot be decoded; `not-finite` or
                `out-of-range` where it is stored as floats that are no sound; `too-long`.
        """
        if self._samples is None:
            self._samples = self._decode_audio()
        return self._samples

    def _describe(self) -> MediaInfo:
        first, video, audio = self._first, self._video, self._audio
        shown = {index: [p for p in packets if not p.is_discard] for index, packets in self._packets.items()}
        start_s = (audio.start_time or 0) * audio.time_base - self._origin_s if audio else 0.0
        height, width = self._rgb.shape(first) if first else (None, None)
        tracks = len(self._container.streams.audio)
        if audio and tracks > 1:
            number = self._container.streams.audio.index(audio) + 1
            self.notes["sound-tracks"] = (
                f"{self._path.name} has {tracks} sound tracks, of which number {number} is read; --audio-track chooses."
            )
        return MediaInfo(
            path=self._path,
            width=width,
            height=height,
            rotation_deg=first.rotation % 360 if first else 0,
            fps=_fps(video, shown[video.index]) if video else None,
            n_frames=len(shown[video.index]) if video else 0,
            duration_s=max(_time_s(p, end=True) for packets in shown.values() for p in packets) - self._origin_s,
            audio_start_s=float(start_s),
            has_video=video is not None,
            has_audio=audio is not None,
            audio_tracks=tracks,
        )

    def _demux(self, counted: int | None) -> dict[int, list[Any]]:
        """All packets by stream index, after checks that the file is whole and not too long.

        Args:
            counted: Samples of sound that the header counts.
        """
        streams = [stream for stream in (self._video, self._audio) if stream is not None]
        packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
        limit_s, stated = self._reading.max_minutes * 60, self._container.duration
        with _border(self._path, "truncated", "its packets cannot be read"):
            for packet in self._container.demux(streams) if streams else ():
                # The last samples of a file without a stated length rarely fill a packet: whole ones are all there.
                if packet.is_corrupt and not packet.stream.codec_context.name.startswith("pcm_"):
                    raise _truncated(self._path, "a packet of it is incomplete")
                if packet.size:
                    packets[packet.stream_index].append(packet)
                    if _time_s(packet) - self._origin_s > limit_s:
                        minutes = stated / 60_000_000 if stated else None
                        raise too_long(self._path.name, self._reading.max_minutes, minutes)
        packets = {index: found for index, found in packets.items() if any(not p.is_discard for p in found)}
        if not packets:
            if self._reading.audio_track and self._container.streams.audio:
                raise self._no_audio()
            raise MediaError("empty", f"{self._path.name} holds no frames and no sound.", "Fetch the file again.")
        if counted and self._audio is not None and self._audio.index in packets:
            found = packets[self._audio.index]
            there_s = float(sum(packet.duration or 0 for packet in found) * self._audio.time_base)
            counted_s = counted / self._audio.rate
            if counted_s - there_s > _SLACK_COUNTED_S:
                there = f"it holds {there_s:.2f} of the {counted_s:.2f} s of sound that its header announces"
                raise _truncated(self._path, there)
        return packets

    def _decode_video(self) -> Iterator[Frame]:
        info, packets = self.info, [p for p in self._packets[self._video.index] if not p.is_discard]
        last_s, step_s = max(map(_time_s, packets)) - self._origin_s, 1 / (info.fps or 25.0)
        clock = Clock(
            self._video.time_base, self._origin_s, step_s, stored_order=self._container.format.name.startswith("avi")
        )
        index, corrupt, time_s = 0, 0, 0.0
        pending, self._pending = chain([self._first], self._pending), iter(())
        self._first = None
        for index, frame in enumerate(pending, start=1):
            if frame.width * frame.height > _MAX_PIXELS:
                raise MediaError(
                    "not-media", f"{info.path.name} has frames of {frame.width} x {frame.height}.", "Scale it down."
                )
            with _border(info.path, "not-media", f"frame {index} cannot be converted"):
                rgb = self._rgb(frame)
            corrupt += frame.is_corrupt
            time_s = clock.time_s(frame)
            yield Frame(index - 1, time_s, rgb, partial(self._rgb.small, frame), partial(self._rgb.scaled, frame))
        # Both must say so: two packets may make one frame (fields), and time stamps of packets may be wrong (AVI).
        few = (len(packets) - index) * step_s > _SLACK_S and last_s - time_s > _SLACK_S
        if few or corrupt > index // 10:
            raise _truncated(info.path, f"only {index - corrupt} of its {info.n_frames} frames can be decoded")

    def _decode_audio(self) -> np.ndarray:
        audio, name = self._audio, self._path.name
        if audio is None:
            raise self._no_audio()
        limit_s = 60 * self._reading.max_minutes + 1
        sound = Sound(name, stored_float=audio.codec_context.name.startswith("pcm_f"), limit_s=limit_s)
        frames = self._decode(audio)
        if self._reading.sound_tail == "trim" and "mov" in self._container.format.name and audio.duration:
            frames = trimmed(frames, (audio.start_time or 0) + audio.duration)
        with _border(self._path, "not-media", "its sound cannot be converted"):
            for frame in frames:
                sound.add(frame)
            samples = sound.samples()
        if not samples.size:
            raise self._no_audio()
        if sound.gaps:
            at_s, gap_s = max(sound.gaps, key=lambda gap: gap[1])
            self.notes["sound-gap"] = (
                f"The sound of {name} has {len(sound.gaps)} gap{'s'[: len(sound.gaps) != 1]}, filled with silence; the "
                f"longest has {gap_s:.2f} s and begins at {at_s:.2f} s."
            )
        if sound.loud and max(int(samples.max()), -int(samples.min())) <= _FAINT:
            self.notes["channels-cancel"] = (
                f"The channels of {name} cancel each other: encoders hear their mean, which is silent. "
                "Invert one of them."
            )
        elif samples.min() == samples.max():
            value = "digital silence" if samples[0] == 0 else f"constantly {samples[0]}"
            self.notes["constant-sound"] = f"The sound of {name} is {value}."
        return samples.astype(np.float32) / 32768

    def _no_audio(self) -> MediaError:
        tracks, wanted = len(self._container.streams.audio), self._reading.audio_track
        if tracks and wanted and wanted > tracks:
            what = f"{tracks} sound track{'s'[: tracks != 1]}, and no number {wanted}"
        else:
            what = "an audio stream without samples" if tracks else "no audio stream"
        return MediaError("no-audio", f"{self._path.name} has {what}.", "Only face encoders can use this clip.")

    def _decode(self, stream: Any) -> Iterator[Any]:
        """Decoded frames of one stream; a packet that cannot be decoded ends the clip with a typed error."""
        decoded = 0
        for packet in [*self._packets[stream.index], None]:  # None: give out what is held back
            reason = f"its {stream.type} cannot be decoded after {decoded} frames"
            with _border(self._path, "truncated" if decoded else "not-media", reason):
                try:
                    frames = stream.decode(packet)
                except av.error.EOFError:
                    break
            decoded += len(frames)
            yield from frames
        if not decoded and stream.type == "video":
            raise MediaError(
                "not-media", f"{self._path.name} is no usable clip: none of its frames can be decoded.", "Re-encode it."
            )


def open_media(path: Path | str, reading: Reading | None = None, threads: int = 1) -> Media:
    """Open a clip and read its packets; decoding happens as frames and audio are asked for.

    Args:
        path: An audio or video file. mp4, mkv, avi, wav, flac and their kin.
        reading: Which sound track, how its end is treated, how long a clip may be; default as `Reading()`.
        threads: Threads of the video decoder. 1 suits a pool that decodes many clips at once; 0 lets FFmpeg choose.

    Raises:
        MediaError: Kind `empty` (no bytes, or no frames and no sound), `not-media`, `truncated` (cut off or damaged:
            numbers from half a clip must not pass as the clip's), `too-long`, `not-there`, or `unreadable` (the file
            system refused; a retry can help).
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            lacks, counted = missing_bytes(file), announced_samples(file)
    except FileNotFoundError as error:
        raise MediaError("unreadable", f"{path} does not exist.", "Check its name.", retry=True) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not head:
        raise MediaError("empty", f"{path.name} is empty (0 bytes).", "Fetch the file again.")
    if picture_in_mp4(head):
        raise _no_clip(path, head)
    if lacks is not None:
        raise _truncated(path, f"it holds {lacks[0]:,} of the {lacks[1]:,} bytes that it announces")
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    known = is_clip(head)
    with _border(path, "truncated", "its header cannot be read", _no_clip(path, head) if not known else None):
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    try:
        with _border(path, "truncated", "its streams cannot be read"):
            return Media(path, container, reading or Reading(), threads, counted)
    except BaseException:
        container.close()
        raise


@contextmanager
def _border(path: Path, kind: str, reason: str, instead: MediaError | None = None) -> Iterator[None]:
    """Turn errors of FFmpeg and PyAV into a `MediaError`.

    A file that the system reads to its end is not the disk's fault, whatever number FFmpeg gives its error.

    Args:
        path: The file.
        kind: `truncated`, or `not-media`.
        reason: What could not be done.
        instead: Raised in their place, where nothing more is to be said.
    """
    try:
        yield
    except _FOREIGN as error:
        if isinstance(error, OSError) and (refused := _disk_error(path)) is not None:
            raise _unreadable(path, refused) from error
        if instead is not None:
            raise instead from error
        why = f"{reason} ({getattr(error, 'strerror', None) or type(error).__name__})"
        if kind == "truncated":
            raise _truncated(path, why) from error
        raise MediaError(kind, f"{path.name} is no usable clip: {why}.", "Fetch or re-encode it.") from error


def _disk_error(path: Path) -> OSError | None:
    """The error that the file system gives when the whole file is read; `None` where it can be read."""
    try:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        return error
    return None


def _truncated(path: Path, reason: str) -> MediaError:
    return MediaError("truncated", f"{path.name} is cut off or damaged: {reason}.", "Fetch it again or re-encode it.")


def _no_clip(path: Path, head: bytes) -> MediaError:
    what = what_else(head)
    said = f"is {what}, not a clip" if what else "is in no audio or video format that emo reads"
    return MediaError("not-media", f"{path.name} {said}.", "Remove it or convert it to mp4.")


def _unreadable(path: Path, error: OSError) -> MediaError:
    reason = error.strerror or type(error).__name__
    return MediaError(
        "unreadable", f"{path.name} cannot be read ({reason}).", "Check the disk and run again.", retry=True
    )


def _video_stream(container: InputContainer) -> Any:
    """The video stream that ffmpeg would choose, or `None`. Cover art is no video."""
    return _usable(container, "video")


def _audio_stream(container: InputContainer, track: int | None) -> Any:
    """The sound track asked for, or the one that ffmpeg would choose, or `None`."""
    if track is None:
        return _usable(container, "audio")
    tracks = container.streams.audio
    return tracks[track - 1] if track <= len(tracks) and tracks[track - 1].codec_context is not None else None


def _usable(container: InputContainer, kind: Literal["video", "audio"]) -> Any:
    stream = container.streams.best(kind)
    if stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic:
        return None
    return stream


def _time_s(packet: Any, *, end: bool = False) -> float:
    """When a packet is shown, or when it ends."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    base, units = packet.time_base, (stamp or 0) + (packet.duration or 0) * end
    return units * base.numerator / base.denominator  # rounded once, as float(units * base), at a tenth of its cost


def _fps(video: Any, shown: list[Any]) -> float | None:
    """Average frame rate: as stated, unless the time stamps say otherwise (some avi state their tick rate)."""
    stated = float(video.average_rate) if video.average_rate else None
    times_s = sorted(map(_time_s, shown))
    if len(shown) < 2 or times_s[-1] == times_s[0]:
        return stated
    measured = (len(shown) - 1) / (times_s[-1] - times_s[0])
    return stated if stated and abs(stated / measured - 1) < 0.02 else measured
