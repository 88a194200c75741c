"""A clip, opened once, demuxed once and decoded once: upright RGB frames and 16 kHz mono audio.

`open_media` reads all compressed packets of the clip (a few megabytes), so that the number of frames is known exactly
and a clip that was cut off is refused before any work is spent on it. Frames are then decoded one at a time as they are
asked for; at no time are all frames of a clip in memory.

What the numbers are equal to, and tested against:

- frames: `ffmpeg -i IN -pix_fmt rgb24`, bit for bit;
- audio: `ffmpeg -i IN -ar 16000 -ac 1 out.wav` of FFmpeg 9, bit for bit. Encoder delay is skipped, and an mp4 ends
  where its edit list says (FFmpeg before 9 keeps up to one AAC packet, 23 ms, of padding after that end; here the
  result is the same whichever FFmpeg PyAV carries).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from emo.featstore.errors import MediaError

AUDIO_RATE = 16_000

DECODER = {"frames": "ffmpeg rgb24, upright", "audio": "ffmpeg s16 mono 16000 Hz, without encoder delay and padding"}
"""What of the decoding changes the numbers of a feature, for its fingerprint."""

# Containers that hold a clip. Anything else that FFmpeg would open (text as ANSI art, play lists that name other files,
# image sequences, devices) is not a clip, whatever its name says.
_CONTAINERS = "mov,matroska,avi,flv,mpegts,mpeg,asf,mxf,ogg,wav,w64,aiff,au,caf,flac,mp3,aac,ac3,amr"
# Containers, beside mp4, whose header states how long the streams are.
_STATES_DURATION = ("matroska", "avi", "flac", "wav")
# Up to this much may be missing at the end before a clip counts as cut off: durations in headers are rounded.
_SLACK_S = 0.2

# First bytes of containers (mp4 has its mark at byte 4): a file that starts like this and cannot be opened is damaged.
_SIGNATURES = (b"RIFF", b"\x1aE\xdf\xa3", b"OggS", b"fLaC", b"FLV", b"0&\xb2u")


@dataclass(frozen=True)
class MediaInfo:
    """What is known of a clip before it is decoded.

    Attributes:
        path: The file.
        width: Columns of the upright frames; `None` without video, or where none of it can be decoded.
        height: Rows of the upright frames, likewise.
        rotation_deg: Counter-clockwise turn that makes the stored frames upright: 0, 90, 180 or 270.
        fps: Average frame rate; `None` without video or where the container does not know it.
        n_frames: Video packets that will be shown, which is the number of frames; 0 without video.
        duration_s: From the first to the end of the last packet of all streams.
        audio_start_s: When the first audio sample is heard, on the clock of `Frame.time_s`; 0.0 without audio.
        has_video: Whether there is a video stream (cover art of an audio file is none).
        has_audio: Whether there is an audio stream.
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


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        index: Position in the clip, from 0.
        time_s: Presentation time; 0.0 is the earliest time stamp of the clip.
        rgb: Pixels, upright, `(H, W, 3)` uint8.
    """

    index: int
    time_s: float
    rgb: np.ndarray


class Media:
    """An open clip. Made by `open_media`; a context manager.

    `frames` and `audio` may be called in either order. Frames are a single pass; audio is kept once decoded.
    """

    def __init__(self, path: Path, container: InputContainer, threads: int) -> None:
        self._container = container
        self._video = _stream(container, "video")
        self._audio = _stream(container, "audio")
        if self._video is not None:
            self._video.codec_context.thread_count = threads
            self._video.codec_context.thread_type = "SLICE" if threads == 1 else "AUTO"
        self._path = path
        self._origin_s = (container.start_time or 0) / 1_000_000
        self._packets = _demux(path, container, [s for s in (self._video, self._audio) if s is not None])
        self._video, self._audio = (s if s and s.index in self._packets else None for s in (self._video, self._audio))
        self._samples: np.ndarray | None = None
        self._started = False
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
            MediaError: `no-audio`; `truncated` or `not-media` where the sound cannot be decoded.
        """
        if self._samples is None:
            self._samples = self._decode_audio()
        return self._samples

    def _describe(self) -> MediaInfo:
        first, video, audio = self._first, self._video, self._audio
        shown = {index: [p for p in packets if not p.is_discard] for index, packets in self._packets.items()}
        height, width = _upright(np.empty((first.height, first.width, 0)), first).shape[:2] if first else (None, None)
        start_s = (audio.start_time or 0) * audio.time_base - self._origin_s if audio else 0.0
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
        )

    def _decode_video(self) -> Iterator[Frame]:
        info, last_s = self.info, max(_time_s(p) for p in self._packets[self._video.index] if not p.is_discard)
        rgb_of, index, corrupt, time_s = VideoReformatter(), 0, 0, 0.0
        pending, self._pending = chain([self._first], self._pending), iter(())
        self._first = None
        for index, frame in enumerate(pending, start=1):
            rgb = _upright(rgb_of.reformat(frame, format="rgb24").to_ndarray(), frame)
            if frame.pts is not None:  # flushed frames have no time base of their own
                time_s = float(frame.pts * self._video.time_base) - self._origin_s
            else:
                time_s = (index - 1) / (info.fps or 25.0)
            corrupt += frame.is_corrupt
            yield Frame(index - 1, time_s, np.ascontiguousarray(rgb))
        if last_s - self._origin_s - time_s > _SLACK_S or corrupt > index // 10:
            raise _truncated(info.path, f"only {index - corrupt} of its {info.n_frames} frames can be decoded")

    def _decode_audio(self) -> np.ndarray:
        audio, resampler, source = self._audio, None, None
        parts: list[np.ndarray] = []
        stop = None
        if audio is not None and "mov" in self._container.format.name and audio.duration:
            stop = (audio.start_time or 0) + audio.duration  # end of the edit list, in units of time_base
        for frame in self._decode(audio) if audio is not None else ():
            if stop is not None and frame.pts is not None:
                frame = _shorten(frame, int((stop - frame.pts) * audio.time_base * frame.sample_rate))
            if frame is None:
                continue
            if source != (source := (frame.format.name, frame.layout.name, frame.sample_rate)):
                parts += _resample(resampler, None)  # broadcasts change their layout half-way
                resampler = av.AudioResampler("s16", "mono", AUDIO_RATE)
            parts += _resample(resampler, frame)
        parts += _resample(resampler, None)
        samples = np.concatenate(parts) if parts else np.empty(0, np.int16)
        if not samples.size:
            what = "an audio stream without samples" if audio is not None else "no audio stream"
            raise MediaError("no-audio", f"{self._path.name} has {what}.", "Only face encoders can use this clip.")
        return samples.astype(np.float32) / 32768

    def _decode(self, stream: Any) -> Iterator[Any]:
        """Decoded frames of one stream; a packet that cannot be decoded ends the clip with a typed error."""
        decoded = 0
        for packet in [*self._packets[stream.index], None]:  # None: give out what is held back
            try:
                frames = stream.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError as error:
                reason = f"its {stream.type} cannot be decoded ({error.strerror}) after {decoded} frames"
                if decoded:
                    raise _truncated(self._path, reason) from error
                raise MediaError(
                    "not-media", f"{self._path.name} is no usable clip: {reason}.", "Fetch or re-encode it."
                ) from error
            decoded += len(frames)
            yield from frames
        if not decoded and stream.type == "video":
            raise MediaError(
                "not-media", f"{self._path.name} is no usable clip: none of its frames can be decoded.", "Re-encode it."
            )


def open_media(path: Path | str, threads: int = 1) -> Media:
    """Open a clip and read its packets; decoding happens as frames and audio are asked for.

    Args:
        path: An audio or video file. mp4, mkv, avi, wav, flac and their kin.
        threads: Threads of the video decoder. 1 suits a pool that decodes many clips at once; 0 lets FFmpeg choose.

    Raises:
        MediaError: Kind `empty` (no bytes, or no frames and no sound), `not-media`, `truncated` (cut off or damaged:
            numbers from half a clip must not pass as the clip's), or `unreadable` (the file system refused; a retry
            can help).
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(12)
            cut = head[4:8] == b"ftyp" and _mp4_is_cut(file)
        if not head:
            raise MediaError("empty", f"{path.name} is empty (0 bytes).", "Fetch the file again.")
        if cut:
            raise _truncated(path, "the file ends before the data that its header announces")
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        container = av.open(f"file:{path}", options=options)
    except OSError as error:
        raise _unreadable(path, error) from error
    except av.error.FFmpegError as error:
        if head[4:8] == b"ftyp" or head.startswith(_SIGNATURES):
            raise _truncated(path, f"its header cannot be read ({error.strerror})") from error
        raise MediaError(
            "not-media", f"{path.name} is no audio or video file that FFmpeg knows.", "Remove it or convert it to mp4."
        ) from error
    try:
        return Media(path, container, threads)
    except BaseException:
        container.close()
        raise


def _truncated(path: Path, reason: str) -> MediaError:
    return MediaError("truncated", f"{path.name} is cut off or damaged: {reason}.", "Fetch it again or re-encode it.")


def _unreadable(path: Path, error: OSError) -> MediaError:
    reason = error.strerror or type(error).__name__
    return MediaError(
        "unreadable", f"{path.name} cannot be read ({reason}).", "Check the disk and run again.", retry=True
    )


def _stream(container: InputContainer, kind: Literal["video", "audio"]) -> Any:
    """The stream that ffmpeg would choose, or `None`. Cover art is no video."""
    stream = container.streams.best(kind)
    if stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic:
        return None
    return stream


def _demux(path: Path, container: InputContainer, streams: list[Any]) -> dict[int, list[Any]]:
    """All packets by stream index, after checks that the file is whole."""
    packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
    try:
        for packet in container.demux(streams) if streams else ():
            if packet.is_corrupt:
                raise _truncated(path, "a packet of it is incomplete")
            if packet.size:
                packets[packet.stream_index].append(packet)
    except OSError as error:
        raise _unreadable(path, error) from error
    except av.error.FFmpegError as error:
        raise _truncated(path, f"its packets cannot be read ({error.strerror})") from error
    packets = {index: found for index, found in packets.items() if any(not p.is_discard for p in found)}
    if not packets:
        raise MediaError("empty", f"{path.name} holds no frames and no sound.", "Fetch the file again.")
    if container.format.name.startswith(_STATES_DURATION) and container.duration:
        end_s = max(_time_s(p, end=True) for found in packets.values() for p in found)
        missing_s = ((container.start_time or 0) + container.duration) / 1_000_000 - end_s
        if missing_s > _SLACK_S:
            raise _truncated(path, f"its header announces {missing_s:.1f} s more than it holds")
    return packets


def _mp4_is_cut(file: BinaryIO) -> bool:
    """Whether a top-level box of an mp4 (ISO/IEC 14496-12, 4.2) reaches beyond the end of the file."""
    size, start = file.seek(0, os.SEEK_END), 0
    while start + 8 <= size:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:  # 0: this box reaches to the end of the file, however long that is
            return False
        start += length
        if start > size:
            return kind in (b"mdat", b"moov", b"moof")  # anything else is junk after the clip
    return False


def _time_s(packet: Any, *, end: bool = False) -> float:
    """When a packet is shown, or when it ends."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    return float(((stamp or 0) + (packet.duration or 0) * end) * packet.time_base)


def _fps(video: Any, shown: list[Any]) -> float | None:
    """Average frame rate: as stated, unless the time stamps say otherwise (some avi state their tick rate)."""
    stated = float(video.average_rate) if video.average_rate else None
    times_s = sorted(map(_time_s, shown))
    if len(shown) < 2 or times_s[-1] == times_s[0]:
        return stated
    measured = (len(shown) - 1) / (times_s[-1] - times_s[0])
    return stated if stated and abs(stated / measured - 1) < 0.02 else measured


def _upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """Turn and mirror an image as the frame's display matrix says; a view."""
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return image
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5]  # x' = a x + c y, y' = b x + d y
    if abs(int(a)) >= abs(int(b)):
        return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return image.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


def _shorten(frame: av.AudioFrame, keep: int) -> av.AudioFrame | None:
    """The first `keep` samples of a frame; `None` where that leaves nothing."""
    if keep >= frame.samples:
        return frame
    if keep <= 0:
        return None
    values = frame.to_ndarray()  # planar (channels, N), packed (1, N * channels)
    values = values[:, : keep * (1 if frame.format.is_planar else frame.layout.nb_channels)]
    samples: Any = np.ascontiguousarray(values)
    short = av.AudioFrame.from_ndarray(samples, frame.format.name, frame.layout.name)
    short.sample_rate, short.time_base, short.pts = frame.sample_rate, frame.time_base, frame.pts
    return short


def _resample(resampler: av.AudioResampler | None, frame: av.AudioFrame | None) -> list[np.ndarray]:
    return [out.to_ndarray()[0] for out in resampler.resample(frame)] if resampler is not None else []
