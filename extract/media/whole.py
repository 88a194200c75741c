"""Claims of a file about itself, read before it is opened: what kind of file it is, and how many bytes it should have.

A clip that was cut off must not pass as whole. Most containers state how long they are, each in a way of its own; here
each is asked for the number of bytes that it announces. Nothing is announced by MPEG streams (`.ts`, `.mpg`) beyond
the packet at hand, by `.aac`, `.ac3`, `.amr`, by an `.mp3` without a Xing, Info or VBRI header, by an Ogg file beyond
its last page, and by whatever was written to a pipe: a cut between two packets of those cannot be seen.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

_ROUNDED = 64  # bytes: some writers are a header or a pad byte wrong about the size
_STREAMED = 0x7F00_0000  # sizes from here on, and 0, are what programs write that do not know the size yet

# First bytes of what is no clip; some of it FFmpeg would open as a video.
_OTHER = (
    (b"GIF8", "a GIF picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"8BPS", "a Photoshop picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!\x1a", "a RAR archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x7fELF", "a program"),
)
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"mif1")


def picture_in_mp4(head: bytes) -> bool:
    """Say whether first bytes are those of a picture in a container like mp4's, which FFmpeg opens as a video."""
    return head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS


def what_else(head: bytes) -> str | None:
    """Name the kind of a file that FFmpeg does not open as a clip, by its first 64 bytes; `None` if that is unknown."""
    if picture_in_mp4(head):
        return "an AVIF or HEIF picture"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP picture"
    for mark, name in _OTHER:
        if head.startswith(mark):
            return name
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith((b"<?xml", b"<svg")):
        return "an XML text"
    text = head.decode("utf-8", errors="ignore")  # the last character may be cut in two
    if text and len(text.encode()) > len(head) - 4 and all(c.isprintable() or c.isspace() for c in text):
        return "a text"
    return "a BMP picture" if head[:2] == b"BM" else "a program" if head[:2] == b"MZ" else None


def missing_bytes(file: BinaryIO) -> tuple[int, int] | None:
    """Bytes that a file has and bytes that it announces; `None` where it has them all, or announces nothing."""
    size = file.seek(0, os.SEEK_END)
    head = _read(file, 0, 64)
    ask = next((ask for knows, ask in (*_SURE, *_LIKELY) if knows(head)), None)
    announced = ask(file, size) if ask else None
    if announced is None:
        return None
    slack = 0 if ask in (_mp4, _mpeg_ts, _mpeg_ps, _ogg) else _ROUNDED
    return (size, announced) if announced > size + slack else None


def is_clip(head: bytes) -> bool:
    """Say whether first bytes are those of a container: what starts like this and cannot be opened is damaged."""
    return any(knows(head) for knows, _ in _SURE) and not picture_in_mp4(head)


def announced_samples(file: BinaryIO) -> int | None:
    """How many samples of sound a header counts: in FLAC, and in an mp3 with a Xing, Info or VBRI header.

    Durations that FFmpeg gives for others are estimates, or cover tracks that are not read.
    """
    head, start = _read(file, 0, 26), 0
    if head[:4] == b"fLaC":
        return _big(head[21:26]) & 0xF_FFFF_FFFF or None
    if head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
    frame = _read(file, start, 256)
    if len(frame) < 256 or frame[0] != 0xFF:
        return None
    samples = 1152 if frame[1] & 0x08 else 576  # MPEG 1, or 2 and 2.5
    for name in (b"Xing", b"Info"):
        at = frame.find(name)
        if 0 < at < 200:
            return samples * _big(frame[at + 8 : at + 12]) or None if frame[at + 7] & 1 else None
    at = frame.find(b"VBRI")
    return samples * _big(frame[at + 14 : at + 18]) or None if 0 < at < 200 else None


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _mp4(file: BinaryIO, size: int) -> int | None:
    """ISO/IEC 14496-12, 4.2: top-level boxes of 32 or 64 bit sizes; size 0 reaches to the end of the file."""
    at = 0
    while at + 8 <= size:
        length, kind = struct.unpack(">I4s", _read(file, at, 8))
        if length == 1:
            length = _big(file.read(8))
        if length < 8:
            return None
        at += length
        if at > size:  # beyond the boxes that matter, it is junk after the clip
            return at if kind in (b"mdat", b"moov", b"moof", b"sidx", b"free", b"ftyp", b"styp") else None
    return None


def _wav(file: BinaryIO, size: int) -> int | None:
    """RIFF, RF64, RIFX: the chunk of the samples."""
    order = _big if _read(file, 0, 4) == b"RIFX" else _little
    at, large = 12, 0
    while at + 8 <= size:
        chunk = _read(file, at, 32)
        length = order(chunk[4:8])
        if chunk[:4] == b"ds64":
            large = _little(chunk[16:24])
        if chunk[:4] == b"data":
            length = large if length == 0xFFFF_FFFF else 0 if length >= _STREAMED else length
            return at + 8 + length if length else None
        at += 8 + length + length % 2
    return None


def _avi(file: BinaryIO, size: int) -> int | None:
    """RIFF chunks one after the other (OpenDML has several); in a recording that broke off sizes may be 0."""
    at = 0
    while at + 12 <= size and _read(file, at, 4) == b"RIFF":
        length = _little(file.read(4))
        if length in (0, 0xFFFF_FFFF):
            return None
        at += 8 + length + length % 2
    return at


def _aiff(file: BinaryIO, size: int) -> int | None:
    length = _big(_read(file, 4, 4))
    return 8 + length if 0 < length < _STREAMED else None


def _au(file: BinaryIO, size: int) -> int | None:
    start, length = struct.unpack(">II", _read(file, 4, 8).ljust(8, b"\0"))
    return start + length if 0 < length < _STREAMED else None


def _caf(file: BinaryIO, size: int) -> int | None:
    at = 8
    while at + 12 <= size:
        _, length = struct.unpack(">4sq", _read(file, at, 12))
        if length < 0:
            return None
        at += 12 + length
    return at


def _w64(file: BinaryIO, size: int) -> int | None:
    at = 40
    while at + 24 <= size:
        name = _read(file, at, 4)
        length = _little(_read(file, at + 16, 8))
        if name == b"data":
            return at + length if 24 < length < 2**62 else None
        at += max(24, length + -length % 8)
    return None


def _flv(file: BinaryIO, size: int) -> int | None:
    """The `filesize` that the metadata state, or the end of the last tag that begins."""
    head = _read(file, 0, 65_536)
    place = head.find(b"\0\x08filesize\0")
    stated = struct.unpack(">d", head[place + 11 : place + 19])[0] if 0 < place < len(head) - 19 else 0
    stated = int(stated) if 0 < stated < 2**53 else 0
    at = _big(head[5:9]) + 4
    while at + 11 <= size:
        kind, length = struct.unpack(">B3s", _read(file, at, 4))
        if kind & 0x1F not in (8, 9, 18):
            return stated or None  # no tag: junk after the clip, or damage that the demuxer will meet
        at += 15 + _big(length)
    return max(at - 4, stated)


def _ogg(file: BinaryIO, size: int) -> int | None:
    """RFC 3533, 6: each page states its size."""
    at = 0
    while at + 27 <= size:
        page = _read(file, at, 27)
        if page[:4] != b"OggS":
            return None
        at += 27 + page[26] + sum(file.read(page[26]))
    return at + 27 if file.seek(at) < size and file.read(4) == b"OggS" else at if at >= size else None


def _matroska(file: BinaryIO, size: int) -> int | None:
    """RFC 8794: the size of the segment; all ones where it was not known."""
    at = 0
    while at + 12 <= size:
        data = _read(file, at, 12)
        id_length = 9 - data[0].bit_length()
        if id_length > 4:
            return None
        width = 9 - data[id_length].bit_length()
        if width > 8:
            return None
        value = _big(_read(file, at + id_length, width)) & ((1 << 7 * width) - 1)
        unknown = value == (1 << 7 * width) - 1
        at += id_length + width + (0 if unknown else value)
        if data[:4] == b"\x18\x53\x80\x67":
            return None if unknown else at
    return None


def _asf(file: BinaryIO, size: int) -> int | None:
    """The file properties object, unless it says broadcast."""
    head = _read(file, 0, 65_536)
    at = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if at < 0 or at + 92 > len(head) or head[at + 88] & 1:
        return None
    return _little(head[at + 40 : at + 48]) or None


def _mxf(file: BinaryIO, size: int) -> int | None:
    """SMPTE 377: key, length, value until the end; the header knows where the footer starts."""
    at, footer = 0, 0
    while at + 17 <= size:
        data = _read(file, at, 80)
        if data[:4] != b"\x06\x0e\x2b\x34":
            break
        width = data[16] & 0x7F if data[16] & 0x80 else 0
        length = _big(data[17 : 17 + width]) if width else data[16]
        start = at + 17 + width
        if data[13:14] == b"\x02" and not footer and length >= 32:
            footer = _big(_read(file, start + 24, 8))
        at = start + length
    return max(at, footer) or None


def _mpeg_ts(file: BinaryIO, size: int) -> int | None:
    """Packets of 188 bytes, 192 with a time code, 204 with a check sum: the last one must be whole."""
    head = _read(file, 0, 2000)
    for step, first in ((188, 0), (192, 4), (204, 0)):
        if len(head) > first + 4 * step and all(head[first + i * step] == 0x47 for i in range(5)):
            return size + -size % step
    return None


def _mpeg_ps(file: BinaryIO, size: int) -> int | None:
    """ISO/IEC 13818-1, 2.5.3: packs of packets, each of which states its size."""
    at = 0
    while at + 6 <= size:
        data = _read(file, at, 14)
        if data[:3] != b"\0\0\1" or data[3] == 0xB9:
            return None
        if data[3] == 0xBA:
            at += 12 if data[4] & 0xF0 == 0x20 else 14 + (data[13] & 7 if len(data) > 13 else 0)
        else:
            at += 6 + _big(data[4:6])
    return at + 6 if at < size and _read(file, at, 3) == b"\0\0\1" else at if at >= size else None


_Knows = Callable[[bytes], bool]
_Ask = Callable[[BinaryIO, int], int | None]

_SURE: tuple[tuple[_Knows, _Ask], ...] = (
    (lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), _mp4),
    (lambda head: head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE", _wav),
    (lambda head: head[:4] == b"RIFF" and head[8:11] == b"AVI", _avi),
    (lambda head: head[:4] == b"FORM" and head[8:11] == b"AIF", _aiff),
    (lambda head: head[:4] == b".snd", _au),
    (lambda head: head[:4] == b"caff", _caf),
    (lambda head: head[:4] == b"riff", _w64),
    (lambda head: head[:3] == b"FLV", _flv),
    (lambda head: head[:4] == b"OggS", _ogg),
    (lambda head: head[:4] == b"\x1aE\xdf\xa3", _matroska),
    (lambda head: head[:4] == b"0&\xb2u", _asf),
    (lambda head: head[:4] == b"\x06\x0e\x2b\x34", _mxf),
    (lambda head: head[:4] == b"\0\0\1\xba", _mpeg_ps),
    (lambda head: head[:4] == b"fLaC", lambda file, size: None),  # states samples: see `announced_samples`
)
_LIKELY: tuple[tuple[_Knows, _Ask], ...] = ((lambda head: head[:1] == b"G" or head[4:5] == b"G", _mpeg_ts),)
