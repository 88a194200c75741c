"""`emo look`: a sheet of pictures of what the features of a clip have seen: frames, faces, crops, tracks, sound."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emo.extract.media.container import Frame, Media, open_media
from emo.extract.media.detect import Detector
from emo.extract.media.faces import FaceTrack, FaceTracks, read_openface
from emo.extract.media.follow import FaceTracker
from emo.extract.media.reading import as_failure
from emo.extract.session import face_config, read_as
from emo.featstore.clip import Clip
from emo.featstore.datasets.lookup import clips_of, find_clips
from emo.featstore.document import Picture, write_parts
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.fetch import at_hand
from emo.featstore.page import Arg, Flag, Page, Table, span_text
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import counted
from emo.featstore.workspace import Workspace

WIDTH, EDGE = 1200, 12  # pixels of a sheet, and between its parts
SHOWN, CROPS = 6, 12  # frames and aligned faces on a sheet
KEPT = 120  # frames that are kept while a clip is read; of longer ones every second, every third ...
THUMB = 360  # longer side of a frame that is kept
CHOSEN, OTHERS, INK, SOFT = "#1a9850", "#e08214", "#1b2533", "#8a94a3"
LINE, LETTERS, GAP = 14, 12, 4  # pixels of a line of words, of its letters, and between two words


@dataclass
class Seen:
    """All that a sheet shows of one clip.

    Attributes:
        name: Of the clip.
        facts: What is known of its file, as texts by what they are of.
        frames: Some of its frames, small, each with its index and the factor by which it is smaller.
        tracks: The people in it; `None` where faces were not looked for.
        chosen: The person whose features are taken.
        crops: Aligned faces of that person, or of an OpenFace folder, `(T, h, w, 3)` uint8.
        sound: Samples, 16 kHz mono.
        problems: What could not be had, a sentence each.
    """

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    frames: list[tuple[int, float, Image.Image]] = field(default_factory=list)
    tracks: FaceTracks | None = None
    chosen: FaceTrack | None = None
    crops: np.ndarray | None = None
    sound: np.ndarray | None = None
    problems: list[str] = field(default_factory=list)


def look_page(
    workspace: Workspace,
    say: Callable[[str], None],
    clips: Annotated[list[str] | None, Arg("Names of clips, media files, folders of them, or lists of names.")] = None,
    failures: Annotated[bool, Flag("The clips that an extraction failed on, with what it said.", "--failures")] = False,
    limit: Annotated[int, Flag("So many clips at most.", least=1)] = 24,
    out: Annotated[Path, Flag("Folder of the sheets and of report.html.")] = Path("look"),
    dataset: Annotated[str | None, Flag("The [data.NAME] table that clips and lists are of.")] = None,
) -> Page:
    """Draw what the features of clips have seen: frames with faces, aligned crops, who was chosen, the sound.

    Raises:
        UsageError: No clip is named, or both clips and `--failures` are.
    """
    store = open_store(workspace.store_path) if has_store(workspace.store_path) else None
    if failures == bool(clips):
        what = "Name clips, or give --failures; not both." if clips else "Name clips, or give --failures."
        raise UsageError(what, "For instance: emo look sample_00000338")
    said = _failed(store) if failures else {}
    asked = _of_names(workspace, said) if failures else find_clips(workspace, clips or [], None, store, dataset)
    if not asked:
        what = "No clip has failed." if store is not None else "There is no store yet, so no clip has failed."
        raise UsageError(what if failures else "No clip is named.", "Name clips: emo look CLIP")
    config = face_config(workspace)
    detector = config.open_detector() if any(_faces_of(workspace, clip) is None for clip in asked[:limit]) else None
    pictures, value = [], []
    for number, clip in enumerate(asked[:limit], 1):
        say(f"{number} of {min(len(asked), limit)}: {clip.id}")
        seen = see(workspace, clip, detector)
        told = said.get(clip.id, [])
        seen.problems = [*told, *(text for text in seen.problems if not any(each.endswith(text) for each in told))]
        picture = Picture(_file_name(clip.id), clip.id, _png(sheet(seen)), _facts(seen))
        pictures.append(picture)
        value.append({"clip": clip.id, "file": str(out / picture.name), **seen.facts, "problems": seen.problems})
    left = f"; {len(asked) - limit:,} more are left out (--limit)" if len(asked) > limit else ""
    verdict = f"{counted(len(pictures), 'sheet')}{left}"
    notes = ["Green: the person whose features are taken. Orange: others. A frame without a box: no face was followed."]
    write_parts(out, value, "emo look", verdict, notes, pictures)
    lines = [f"{each['clip']}: {text}" for each in value for text in each["problems"]]
    return Page(value, [*lines, f"{verdict}: {out / 'report.html'}"])


# ---- what is looked at -----------------------------------------------------------------------------------------------


def _failed(store: Store | None) -> dict[str, list[str]]:
    """Sentences on what failed, by clip."""
    why: dict[str, dict[str, list[str]]] = {}  # features by what was said of them, by clip
    for each in store.failures() if store is not None else ():
        said = why.setdefault(each.clip, {}).setdefault(f"{each.kind}: {each.message}", [])
        said.append(each.feature.partition("@")[0])
    return {
        clip: [f"{', '.join(dict.fromkeys(of))}: {what}" for what, of in each.items()] for clip, each in why.items()
    }


def _of_names(workspace: Workspace, names: Sequence[str] | dict[str, Any]) -> list[Clip]:
    known = clips_of(workspace)
    return [known[name] for name in names if name in known]


def _faces_of(workspace: Workspace, clip: Clip) -> Path | None:
    table = workspace.data.get(clip.dataset or "")
    return clip.faces if table is not None and table.faces is not None else None


def see(workspace: Workspace, clip: Clip, detector: Detector | None) -> Seen:
    """Read a clip once, as an extraction does, and keep what can be shown; what is wrong with it is a sentence."""
    seen = Seen(clip.id)
    if clip.media is None:
        seen.problems.append("There is no media file.")
        return seen
    folder = _faces_of(workspace, clip)
    try:
        with at_hand(clip.media) as found, open_media(found.path, read_as(workspace)) as media:
            _describe(seen, media)
            tracker = None if detector is None or folder else FaceTracker(detector, face_config(workspace), clip.id)
            _try(seen, clip, lambda: _watch(seen, media, tracker))
            _try(seen, clip, lambda: _listen(seen, media))
    except MediaError as error:
        seen.problems.append(f"{error.kind}: {error.message}")
    if folder is not None:
        seen.facts["faces"] = f"OpenFace's, of {folder}"
        _try(seen, clip, lambda: setattr(seen, "crops", read_openface(folder)))
    return seen


def _try(seen: Seen, clip: Clip, look: Callable[[], None]) -> None:
    """Look at one side of a clip; what is wrong with it is a sentence on its sheet."""
    assert clip.media is not None
    try:
        look()
    except Exception as error:  # noqa: BLE001 - the other sides are shown all the same
        failure = as_failure(error, clip.media)
        seen.problems.append(f"{failure.kind}: {failure.message}")


def _describe(seen: Seen, media: Media) -> None:
    info = media.info
    seen.facts["media"] = str(info.path)
    seen.facts["length"] = span_text(info.duration_s) if info.duration_s >= 10 else f"{info.duration_s:.2f} s"
    if info.has_video:
        rate = "an unknown rate" if info.fps is None else f"{info.fps:.3g} per second"
        seen.facts["picture"] = f"{info.width} x {info.height}, {counted(info.n_frames, 'frame')}, {rate}"
    tracks = f", the first of {info.audio_tracks} tracks" if info.audio_tracks > 1 else ""
    seen.facts["sound"] = f"begins at {info.audio_start_s:.3f} s{tracks}" if info.has_audio else "none"


def _watch(seen: Seen, media: Media, tracker: FaceTracker | None) -> None:
    if not media.info.has_video:
        return
    step = 1
    for frame in media.frames():
        if frame.index % step == 0:
            seen.frames.append(_thumb(frame))
        if len(seen.frames) > KEPT:
            step *= 2
            seen.frames = [each for each in seen.frames if each[0] % step == 0]
        if tracker is not None:
            tracker.feed(frame)
    if tracker is None:
        return
    seen.tracks = tracker.finish()
    people = len(seen.tracks.tracks)
    seen.facts["people"] = f"{people:,}, of whom one was chosen by rule {seen.tracks.config.rule}" if people else "none"
    seen.chosen = seen.tracks.choose()
    seen.crops = seen.chosen.crops
    seen.facts["chosen"] = f"seen in {len(seen.chosen.index):,} of {counted(seen.tracks.n_frames, 'frame')}"


def _listen(seen: Seen, media: Media) -> None:
    if media.info.has_audio:
        seen.sound = media.audio()
        seen.problems += [f"{kind}: {text}" for kind, text in media.notes.items()]


def _thumb(frame: Frame) -> tuple[int, float, Image.Image]:
    image = Image.fromarray(frame.rgb)
    factor = min(1.0, THUMB / max(image.size))
    return frame.index, factor, image.resize((round(image.width * factor), round(image.height * factor)))


# ---- the sheet -------------------------------------------------------------------------------------------------------


def sheet(seen: Seen) -> Image.Image:
    """The sheet of one clip, `WIDTH` pixels wide; an empty strip where nothing can be shown."""
    strips = [*_frames(seen), *_crops(seen), *_times(seen), *_wave(seen)]
    height = sum(strip.height + EDGE for strip in strips) + EDGE
    whole = Image.new("RGB", (WIDTH, max(height, 60)), "white")
    top = EDGE
    for strip in strips:
        whole.paste(strip, (EDGE, top))
        top += strip.height + EDGE
    return whole


def _even(count: int, of: int) -> list[int]:
    """So many places of a row, evenly spread, each once."""
    return sorted(set(np.linspace(0, of - 1, min(count, of)).round().astype(int).tolist())) if of else []


def _frames(seen: Seen) -> Iterator[Image.Image]:
    places = _even(SHOWN, len(seen.frames))
    if not places:
        return
    wide = (WIDTH - EDGE) // SHOWN - EDGE
    images = []
    for index, factor, image in (seen.frames[place] for place in places):
        image, scale = image.copy(), wide / image.width
        image = image.resize((wide, max(1, round(image.height * scale))))
        _mark(ImageDraw.Draw(image), seen, index, factor * scale)
        images.append((index, image))
    strip = Image.new("RGB", (WIDTH - 2 * EDGE, max(image.height for _, image in images) + LINE), "white")
    pen = ImageDraw.Draw(strip)
    for place, (index, image) in enumerate(images):
        strip.paste(image, (place * (wide + EDGE), LINE))
        _write(pen, place * (wide + EDGE), f"frame {index}")
    yield strip


def _mark(pen: ImageDraw.ImageDraw, seen: Seen, index: int, scale: float) -> None:
    """Draw boxes and landmarks of everybody who is seen in a frame."""
    for track in (*seen.tracks.tracks, *seen.tracks.glimpses) if seen.tracks is not None else ():
        for row in np.flatnonzero(track.index == index):
            colour = CHOSEN if track is seen.chosen else OTHERS
            pen.rectangle([float(each) * scale for each in track.boxes[row]], outline=colour, width=2)
            for x, y in track.landmarks[row] * scale:
                pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)


def _crops(seen: Seen) -> Iterator[Image.Image]:
    places = _even(CROPS, 0 if seen.crops is None else len(seen.crops))
    if not places or seen.crops is None:
        return
    wide = (WIDTH - EDGE) // CROPS - EDGE
    strip = Image.new("RGB", (WIDTH - 2 * EDGE, wide + LINE), "white")
    pen = ImageDraw.Draw(strip)
    for number, place in enumerate(places):
        crop = Image.fromarray(seen.crops[place]).resize((wide, wide))
        strip.paste(crop, (number * (wide + EDGE), LINE))
        if seen.chosen is not None:
            _write(pen, number * (wide + EDGE), f"frame {int(seen.chosen.index[place])}")
    yield strip


def _times(seen: Seen) -> Iterator[Image.Image]:
    """A line per person, drawn where that person is seen."""
    people = [] if seen.tracks is None else [*seen.tracks.tracks, *seen.tracks.glimpses][:12]
    if not people or seen.tracks is None:
        return
    strip = Image.new("RGB", (WIDTH - 2 * EDGE, LINE * (len(people) + 1)), "white")
    pen, wide = ImageDraw.Draw(strip), (WIDTH - 2 * EDGE) / max(1, seen.tracks.n_frames)
    _write(pen, 0, "who is seen when")
    for row, track in enumerate(people):
        colour, top = CHOSEN if track is seen.chosen else OTHERS, LINE * (1 + row)
        pen.line([0, top + 5, strip.width, top + 5], fill="#e4e8ee")
        starts = np.split(track.index, np.flatnonzero(np.diff(track.index) > 1) + 1)
        for part in starts:
            pen.rectangle(
                [part[0] * wide, top, max(part[0] * wide + 1, (part[-1] + 1) * wide - 1), top + 10], fill=colour
            )
    yield strip


def _wave(seen: Seen) -> Iterator[Image.Image]:
    if seen.sound is None or not len(seen.sound):
        return
    strip = Image.new("RGB", (WIDTH - 2 * EDGE, 94), "white")
    pen = ImageDraw.Draw(strip)
    loudest = float(np.abs(seen.sound).max())
    _write(pen, 0, f"sound, {len(seen.sound) / 16_000:.2f} s, loudest sample {loudest:.3f}")
    for x, part in enumerate(np.array_split(seen.sound, strip.width)):
        if len(part):
            low, high = float(part.min()), float(part.max())
            scale = 38 / max(loudest, 1e-9)
            pen.line([x, 54 - high * scale, x, 54 - low * scale], fill=INK)
    yield strip


def _write(pen: ImageDraw.ImageDraw, x: float, words: str) -> None:
    """Write words at the top of a strip, one by one: the font's own space is two pixels wide, and they run together."""
    for word in words.split():
        pen.text((x, -2), word, fill=SOFT, font=_font())
        x += _font().getlength(word) + GAP


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LETTERS)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _facts(seen: Seen) -> Table:
    rows = [*seen.facts.items(), *(("problem", text) for text in seen.problems)]
    return Table(seen.name, ("", "what"), rows)


def _file_name(name: str) -> str:
    plain = "".join(each if each.isalnum() or each in "-_.@" else "_" for each in name)[:120]
    return f"{plain}.png"
