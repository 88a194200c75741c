"""Clips of a drawn talking face, for the demonstration and for tests.

Face, voice and words depend on one of six emotions; who speaks, where, how strongly and in front of what is drawn from
a seed. The pictures are good enough for a face detector and the clips go through the whole path like real ones. They
say nothing about people: a model trained on them has learned a drawing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from emo.featstore.errors import UsageError

AUDIO_RATE = 16_000
_FINE = 2  # drawn so many times larger, then reduced: smooth edges


@dataclass(frozen=True)
class _Manner:
    """How an emotion looks and sounds; 0 or 1 is the neutral value.

    Attributes:
        brow: Lift of the whole brow.
        inner: Lift of the inner ends of the brows; negative is a frown.
        eye: Opening of the eyes.
        corner: Lift of the mouth corners.
        wide: Width of the mouth.
        open: How far the mouth opens on a loud sound.
        rest: Opening between sounds.
        pitch: Factor on the speaker's pitch.
        bend: Rise (or fall) of the pitch over the clip, in octaves.
        tremor: Depth of a 7 Hz wobble of the pitch, in octaves.
        loud: Factor on the amplitude.
        tempo: Syllables per second.
        bright: Slope of the voice's spectrum: 1 dull, 0 sharp.
    """

    brow: float = 0.0
    inner: float = 0.0
    eye: float = 1.0
    corner: float = 0.0
    wide: float = 1.0
    open: float = 0.8
    rest: float = 0.05
    pitch: float = 1.0
    bend: float = 0.0
    tremor: float = 0.0
    loud: float = 0.5
    tempo: float = 4.0
    bright: float = 0.6


_NEUTRAL = _Manner()
_MANNERS = {
    "neutral": _NEUTRAL,
    "angry": _Manner(-0.5, -1.0, 0.75, -0.45, 1.0, 1.2, 0.15, 1.25, -0.1, 0.0, 1.0, 5.5, 0.1),
    "happy": _Manner(0.3, 0.2, 0.7, 1.0, 1.3, 0.9, 0.3, 1.4, 0.15, 0.02, 0.75, 5.0, 0.4),
    "sad": _Manner(0.0, 0.9, 0.55, -0.9, 0.85, 0.45, 0.0, 0.8, -0.35, 0.02, 0.25, 2.4, 0.95),
    "worried": _Manner(0.5, 0.8, 1.15, -0.35, 0.75, 0.5, 0.1, 1.15, 0.05, 0.12, 0.4, 4.5, 0.7),
    "surprise": _Manner(0.9, 0.3, 1.35, 0.1, 0.75, 1.2, 0.5, 1.6, 0.5, 0.0, 0.85, 3.2, 0.4),
}
EMOTIONS = tuple(_MANNERS)
"""The six labels of MER2023, in its order."""

_WORDS = {
    "neutral": ("The train leaves at ten.", "I put the keys on the table.", "We will meet in the office."),
    "angry": ("How dare you do that again!", "I told you to leave it alone!", "This is an outrage!"),
    "happy": ("This is the best day of my life!", "I am so glad that you came!", "We won, can you believe it!"),
    "sad": ("I miss her every day.", "Nothing will be the same.", "I wish I had said goodbye."),
    "worried": ("What if they do not come back?", "I am afraid that something is wrong.", "Please be careful."),
    "surprise": ("Wow, where did you come from?", "I did not expect this at all!", "Really? When did that happen?"),
}
_SKINS = ((241, 205, 177), (226, 178, 142), (198, 146, 108), (150, 103, 72), (112, 76, 54))
_HAIRS = ((38, 28, 24), (84, 54, 34), (150, 108, 60), (62, 62, 68), (120, 58, 36))
_CLOTHES = ((52, 74, 110), (120, 48, 52), (58, 96, 74), (90, 84, 96), (176, 152, 108))
# First two formants of five vowels in Hz (Peterson and Barney, 1952, men).
_VOWELS = np.array([(730, 1090), (530, 1840), (270, 2290), (570, 840), (300, 870)], np.float64)


def generate_clip(
    path: Path | str,
    emotion: str,
    seed: int,
    duration_s: float = 1.5,
    fps: int = 25,
    size: tuple[int, int] = (320, 240),
) -> str:
    """Write one clip of a talking face.

    Args:
        path: File to write, `.mp4`.
        emotion: One of `EMOTIONS`.
        seed: Decides speaker, place, strength of the expression, words and noise. The same seed gives the same clip.
        duration_s: Length.
        fps: Frames per second.
        size: Width and height in pixels, even numbers.

    Returns:
        What is said, in English.

    Raises:
        UsageError: Unknown emotion, odd size or no length.
    """
    if emotion not in _MANNERS:
        raise UsageError(f"There is no emotion {emotion!r} to draw.", f"Known: {', '.join(EMOTIONS)}.")
    if size[0] % 2 or size[1] % 2 or min(size) < 64 or duration_s * fps < 1:
        raise UsageError(
            f"A clip of {size[0]} x {size[1]} pixels and {duration_s} s cannot be drawn.", "Use even sizes."
        )
    rng = np.random.default_rng([seed, EMOTIONS.index(emotion)])
    manner = _vary(_MANNERS[emotion], rng)
    voice, loudness = _speak(manner, duration_s, rng)
    n_frames = round(duration_s * fps)
    at = np.minimum((np.arange(n_frames) / fps * AUDIO_RATE).astype(int), len(voice) - 1)
    painter = _Painter(manner, size, rng)
    frames = (painter.frame(i / fps, float(level)) for i, level in enumerate(loudness[at]))
    _write(Path(path), frames, fps, size, voice)
    words = _WORDS["neutral" if rng.random() < 0.25 else emotion]
    return str(rng.choice(words))


def generate_dataset(folder: Path | str, n_per_emotion: int, seed: int = 0) -> list[str]:
    """Write a small dataset: `clips/*.mp4`, `labels.csv` (name, emotion, split), `transcripts.csv` (name, english).

    Every fourth clip of an emotion belongs to the split `test`, the others to `train`. Names do not tell the emotion.

    Args:
        folder: Where to write; made if absent.
        n_per_emotion: Clips of each emotion.
        seed: The same seed gives the same dataset.

    Returns:
        Names of the clips, in the order of the files.
    """
    folder = Path(folder)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    todo = [(emotion, "test" if i % 4 == 3 else "train") for emotion in EMOTIONS for i in range(n_per_emotion)]
    labels, transcripts = [], []
    for number, which in enumerate(np.random.default_rng(seed).permutation(len(todo))):
        emotion, split = todo[which]
        name = f"demo_{number:04d}"
        said = generate_clip(folder / "clips" / f"{name}.mp4", emotion, seed * 1_000_003 + number)
        labels.append((name, emotion, split))
        transcripts.append((name, said))
    for file_name, header, rows in (
        ("labels.csv", ("name", "emotion", "split"), labels),
        ("transcripts.csv", ("name", "english"), transcripts),
    ):
        with open(folder / file_name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    return [name for name, _, _ in labels]


TOML = """\
# Written by `emo demo`: drawn faces, synthetic voices, small random encoders.
[store]
path = "demo.emo"

[data.demo]
root = "data"
kind = "folder"

[extract]
profile = "tiny"
"""


def generate_workspace(folder: Path | str, n_per_emotion: int) -> None:
    """Write a dataset and an emo.toml that reads it; over an earlier one of the same kind, nothing changes.

    Raises:
        UsageError: The folder is another workspace.
    """
    toml = Path(folder) / "emo.toml"
    if toml.exists() and toml.read_text(encoding="utf-8") != TOML:
        raise UsageError(f"{toml} is not the demo's.", "Name another folder: emo demo DIR.")
    generate_dataset(Path(folder) / "data", n_per_emotion)
    toml.write_text(TOML, encoding="utf-8")


def _vary(manner: _Manner, rng: np.random.Generator) -> _Manner:
    """The same emotion, shown more or less, with an accent on other features."""
    strength = rng.uniform(0.55, 1.1)
    values = {}
    for name, neutral in vars(_NEUTRAL).items():
        shift = (getattr(manner, name) - neutral) * strength * rng.uniform(0.8, 1.2)
        values[name] = neutral + shift + rng.normal(0, 0.06) * (name not in ("tempo", "bend", "tremor"))
    return _Manner(**values)


def _speak(manner: _Manner, duration_s: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A voice that babbles vowels: samples and their loudness, both `(N,)` float32 in [-1, 1] and [0, 1]."""
    n = max(1, round(duration_s * AUDIO_RATE))
    t = np.arange(n) / AUDIO_RATE
    n_syllables = int(np.ceil(duration_s * manner.tempo)) + 1
    phase = t * manner.tempo + rng.uniform(0, 0.3)
    syllable = np.minimum(phase.astype(int), n_syllables - 1)
    accent = rng.uniform(0.6, 1.0, n_syllables)
    accent[rng.random(n_syllables) < 0.12] = 0.05  # a pause now and then
    loudness = accent[syllable] * np.sin(np.pi * (phase % 1)) ** 0.7
    octaves = manner.bend * (t / duration_s - 0.3) + manner.tremor * np.sin(2 * np.pi * 7 * t)
    octaves += 0.08 * rng.normal(size=n_syllables)[syllable] - 0.05 * (phase % 1)
    pitch_hz = rng.choice((115.0, 195.0)) * rng.uniform(0.9, 1.1) * manner.pitch * 2**octaves
    angle = 2 * np.pi * np.cumsum(pitch_hz) / AUDIO_RATE
    formants = _VOWELS[rng.integers(0, len(_VOWELS), n_syllables)] * rng.uniform(0.95, 1.15)
    voice = np.zeros(n)
    for harmonic in range(1, 26):
        hz = harmonic * pitch_hz
        gain = harmonic ** -(0.4 + 1.2 * manner.bright) * (hz < 0.45 * AUDIO_RATE)
        peaks = sum(np.exp(-(((hz - formants[syllable, k]) / (120 + 60 * k)) ** 2)) for k in range(2))
        voice += gain * (0.08 + peaks) * np.sin(harmonic * angle)
    voice *= loudness / max(np.abs(voice).max(), 1e-6)
    voice = 0.8 * np.clip(manner.loud, 0.1, 1.1) * voice + 0.004 * rng.normal(size=n)
    return voice.astype(np.float32), loudness.astype(np.float32)


class _Painter:
    """Draws the frames of one clip: what stays is drawn once, the moving features in each frame."""

    def __init__(self, manner: _Manner, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.manner, self.size, self.rng = manner, size, rng
        self.width, self.height = size[0] * _FINE, size[1] * _FINE
        self.unit = self.height * rng.uniform(0.24, 0.29)  # half the width of the face
        self.x = self.width * rng.uniform(0.4, 0.6)
        self.y = self.height * rng.uniform(0.47, 0.52)
        self.skin = np.array(_SKINS[rng.integers(len(_SKINS))]) * rng.uniform(0.92, 1.05)
        self.hair = np.array(_HAIRS[rng.integers(len(_HAIRS))], float)
        self.iris = ((70, 48, 32), (66, 92, 110), (80, 96, 62))[rng.integers(3)]
        self.noise = rng.normal(0, rng.uniform(1, 4), (8, size[1], size[0], 1))
        self.blink_s = rng.uniform(0.4, 3.0)
        self.sway = rng.uniform(0.4, 1.6), rng.uniform(0, 6), rng.uniform(0.02, 0.06)
        self.back = self._background()
        self.head = self._head()

    def frame(self, time_s: float, loudness: float) -> np.ndarray:
        """One picture, `(height, width, 3)` uint8."""
        rate, start, depth = self.sway
        dx = depth * np.sin(rate * 2 * np.pi * time_s + start) * self.unit
        dy = 0.5 * depth * np.sin(rate * 3 * np.pi * time_s) * self.unit - 0.02 * loudness * self.unit
        head = self.head.copy()
        self._features(ImageDraw.Draw(head), time_s, loudness)
        image = self.back.copy()
        image.paste(head, (round(self.x + dx - head.width / 2), round(self.y + dy - head.height / 2)), head)
        pixels = np.asarray(image.reduce(_FINE), np.float32)
        grain = self.noise[int(time_s * 25) % len(self.noise)]
        return np.clip(pixels + grain, 0, 255).astype(np.uint8)

    def _muted(self, low: float, high: float) -> np.ndarray:
        """A colour that is not too colourful."""
        colour = self.rng.uniform(low, high, 3)
        return 0.4 * colour + 0.6 * colour.mean()

    def _background(self) -> Image.Image:
        rng = self.rng
        top, bottom = self._muted(40, 190), self._muted(30, 150)
        share = np.linspace(0, 1, self.height)[:, None, None]
        image = Image.fromarray(
            np.broadcast_to(top + (bottom - top) * share, (self.height, self.width, 3)).astype(np.uint8)
        )
        draw = ImageDraw.Draw(image)
        for _ in range(6):  # furniture, out of focus
            x, y, w, h = rng.uniform(0, 1, 4) * (self.width, self.height, self.width / 3, self.height / 2)
            draw.rectangle((x, y, x + w, y + h), fill=_rgb(self._muted(40, 180)))
        image = image.filter(ImageFilter.GaussianBlur(self.unit / 8))
        cloth = np.array(_CLOTHES[rng.integers(len(_CLOTHES))]) * rng.uniform(0.8, 1.2)
        draw, u, x, y = ImageDraw.Draw(image), self.unit, self.x, self.y
        _ellipse(draw, x, y + 2.95 * u, 2.1 * u, 1.45 * u, cloth)
        draw.polygon([(x - 0.45 * u, y + 0.8 * u), (x + 0.45 * u, y + 0.8 * u), (x + 0.6 * u, y + 1.75 * u),
                      (x, y + 2.0 * u), (x - 0.6 * u, y + 1.75 * u)], fill=_rgb(self.skin * 0.78))  # fmt: skip
        return image

    def _head(self) -> Image.Image:
        """Hair, ears and the shaded face, on a transparent ground whose middle is the middle of the face."""
        u, rng = self.unit, self.rng
        side = int(3.6 * u) // 2 * 2
        c = side / 2
        image = Image.new("RGBA", (side, side), (*_rgb(self.hair), 0))
        draw = ImageDraw.Draw(image)
        long_hair = rng.random() < 0.5
        _ellipse(draw, c, c - 0.32 * u, 1.12 * u, 1.2 * u, self.hair)
        if long_hair:
            draw.rounded_rectangle((c - 1.12 * u, c - 0.4 * u, c + 1.12 * u, c + 1.35 * u), 0.4 * u, _rgb(self.hair))
        for way in (-1, 1):
            _ellipse(draw, c + way * 0.97 * u, c + 0.05 * u, 0.14 * u, 0.26 * u, self.skin * 0.86)
        face = Image.new("L", (side, side))
        pen = ImageDraw.Draw(face)
        _ellipse(pen, c, c - 0.1 * u, 0.95 * u, 1.1 * u, 255)
        _ellipse(pen, c, c + 0.42 * u, 0.74 * u, 0.86 * u, 255)  # the jaw is narrower than the forehead
        face = face.filter(ImageFilter.GaussianBlur(0.06 * u))
        rows, columns = np.mgrid[0:side, 0:side]
        x, y = (columns - c) / u, (rows - c) / u
        light = 1.12 - 0.85 * x**2 - 0.1 * (y + 0.2) ** 2 + rng.uniform(-0.12, 0.12) * x
        light -= 0.24 * np.exp(-((x / 0.17) ** 2 + ((y - 0.38) / 0.08) ** 2))  # under the nose
        for way in (-1, 1):
            light -= 0.4 * np.exp(-(((x - way * 0.42) / 0.34) ** 2 + ((y + 0.2) / 0.17) ** 2))  # eye sockets
            light += 0.06 * np.exp(-(((x - way * 0.5) / 0.2) ** 2 + ((y - 0.22) / 0.2) ** 2))  # cheeks
            light -= 0.14 * np.exp(-(((x - way * 0.17) / 0.06) ** 2 + ((y - 0.15) / 0.25) ** 2))  # sides of the nose
        light += 0.12 * np.exp(-((x / 0.08) ** 2 + ((y - 0.12) / 0.3) ** 2))  # ridge of the nose
        light -= 0.14 * np.exp(-((x / 0.25) ** 2 + ((y - 0.9) / 0.06) ** 2))  # under the lip
        skin = np.clip(self.skin * light[..., None], 0, 255).astype(np.uint8)
        image.paste(Image.fromarray(skin), (0, 0), face)
        alpha = np.asarray(image)[..., 3].copy()
        alpha[np.asarray(face) > 127] = 255
        image.putalpha(Image.fromarray(alpha))
        draw = ImageDraw.Draw(image)
        fringe = rng.uniform(-0.5, 0.5) * u
        draw.chord((c - 1.1 * u, c - 1.52 * u, c + 1.1 * u, c + 0.65 * u), 205, 335, fill=_rgb(self.hair))
        draw.polygon([(c + fringe, c - 1.2 * u), (c - 0.85 * u, c - 0.9 * u), (c - 0.98 * u, c - 0.35 * u),
                      (c - 0.72 * u, c - 0.72 * u), (c + fringe, c - 0.8 * u), (c + 0.75 * u, c - 0.72 * u),
                      (c + 0.98 * u, c - 0.35 * u), (c + 0.85 * u, c - 0.9 * u)], fill=_rgb(self.hair))  # fmt: skip
        for way in (-1, 1):
            _ellipse(draw, c + way * 0.09 * u, c + 0.33 * u, 0.045 * u, 0.03 * u, self.skin * 0.5)
        return image

    def _features(self, draw: ImageDraw.ImageDraw, time_s: float, loudness: float) -> None:
        """Brows, eyes and mouth."""
        u, m, c = self.unit, self.manner, self.head.width / 2
        blink = max(0.0, 1 - abs(time_s - self.blink_s) / 0.08)
        opening = float(np.clip(m.eye, 0.35, 1.7)) * (1 - blink)
        for way in (-1, 1):
            self._eye(draw, c + way * 0.42 * u, c - 0.17 * u, way, opening)
            brow = [
                (way * 0.17, -0.43 - 0.1 * m.brow - 0.13 * m.inner),
                (way * 0.38, -0.5 - 0.12 * m.brow - 0.02 * m.inner),
                (way * 0.62, -0.43 - 0.1 * m.brow + 0.05 * m.inner),
            ]
            points = [(c + x * u, c + y * u) for x, y in brow]
            draw.line(points, fill=_rgb(self.hair * 0.8), width=round(0.085 * u), joint="curve")
            for x, y in (points[0], points[-1]):
                _ellipse(draw, x, y, 0.042 * u, 0.042 * u, self.hair * 0.8)
        if m.inner < -0.4:  # frown lines
            for way in (-1, 1):
                line = [(c + way * 0.06 * u, c - 0.48 * u), (c + way * 0.07 * u, c - 0.32 * u)]
                draw.line(line, fill=_rgb(self.skin * 0.66), width=round(0.03 * u))
        self._mouth(draw, c, c + 0.62 * u, max(m.rest, 0) * 0.5 + max(m.open, 0.1) * loudness)

    def _eye(self, draw: ImageDraw.ImageDraw, x: float, y: float, way: int, opening: float) -> None:
        u = self.unit
        half = 0.08 * opening * u
        share = np.linspace(-1, 1, 15)
        arc = np.sqrt(1 - share**2)
        upper = [(x + s * 0.24 * u, y - a * half) for s, a in zip(share, arc, strict=True)]
        lower = [(x + s * 0.24 * u, y + a * half * 0.75) for s, a in zip(share, arc, strict=True)]
        if half > 1.5:
            draw.polygon(upper + lower[::-1], fill=_rgb(self.skin * 0.3 + (125, 123, 120)))
            radius = min(0.11 * u, half * 1.1)
            _ellipse(draw, x, y - 0.01 * u, radius, radius, self.iris)
            _ellipse(draw, x, y - 0.01 * u, radius * 0.5, radius * 0.5, (14, 12, 12))
            _ellipse(draw, x - 0.03 * u, y - 0.04 * u, radius * 0.22, radius * 0.22, (255, 255, 255))
        draw.line(upper, fill=_rgb(self.hair * 0.5), width=max(2, round(0.085 * u)), joint="curve")
        draw.line(lower, fill=_rgb(self.skin * 0.6), width=max(1, round(0.018 * u)), joint="curve")

    def _mouth(self, draw: ImageDraw.ImageDraw, x: float, y: float, opening: float) -> None:
        u, m = self.unit, self.manner
        half = 0.34 * u * float(np.clip(m.wide, 0.5, 1.5)) * (1 - 0.12 * min(opening, 1.5))
        gap = 0.16 * u * opening
        lift = 0.13 * u * m.corner
        share = np.linspace(-1, 1, 21)
        line = y - lift * (share**2 - 0.35)  # the corners rise or sink, the middle gives way
        arc = 1 - share**2
        lips = np.clip(self.skin * (0.82, 0.58, 0.58), 0, 255)
        bow = 0.05 * u * arc * (1 - 0.35 * np.exp(-((share / 0.18) ** 2)))
        xs = x + share * half
        outer = [*zip(xs, line - gap * 0.4 * arc - bow, strict=True)]
        outer += [*zip(xs[::-1], (line + gap * arc + 0.075 * u * arc)[::-1], strict=True)]
        draw.polygon(outer, fill=_rgb(lips))
        if gap > 2:
            upper, lower = line - gap * 0.4 * arc, line + gap * arc
            draw.polygon(
                [*zip(xs, upper, strict=True), *zip(xs[::-1], lower[::-1], strict=True)], fill=(58, 20, 24, 255)
            )
            teeth = upper + np.minimum(0.06 * u * arc, lower - upper)
            inner = slice(3, -3)
            draw.polygon(
                [*zip(xs[inner], upper[inner], strict=True), *zip(xs[inner][::-1], teeth[inner][::-1], strict=True)],
                fill=(236, 232, 224, 255),
            )
        else:
            draw.line([*zip(xs, line, strict=True)], fill=_rgb(lips * 0.55), width=max(2, round(0.025 * u)))
        for way in (-1, 1):  # creases beside a smile
            if m.corner > 0.4:
                crease = [(x + way * (half + 0.06 * u), y - 0.28 * u), (x + way * (half + 0.11 * u), y - lift * 0.6)]
                draw.line(crease, fill=_rgb(self.skin * 0.76), width=max(2, round(0.03 * u)))


def _ellipse(draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, fill: object) -> None:
    colour = fill if isinstance(fill, int) else _rgb(np.asarray(fill))
    draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)


def _rgb(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(int(c) for c in np.clip(colour, 0, 255))


def _write(path: Path, frames: Iterable[np.ndarray], fps: int, size: tuple[int, int], voice: np.ndarray) -> None:
    """Encode frames and voice: H.264 where PyAV's FFmpeg has x264, else MPEG-4 part 2; AAC."""
    with av.open(f"file:{path}", "w", format="mp4") as container:
        if "libx264" in av.codecs_available:
            # Looking ahead makes x264 give other bytes now and then, even in one thread.
            options = {"preset": "veryfast", "crf": "20", "x264-params": "rc-lookahead=0"}
            video = container.add_stream("libx264", rate=fps, options=options)
        else:
            video = container.add_stream("mpeg4", rate=fps, options={"qscale": "3"})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=AUDIO_RATE, layout="mono")
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, fps)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(voice[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = AUDIO_RATE, 0, Fraction(1, AUDIO_RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
