"""Run a recipe again on a few clips, with one thing changed at a time, and see which change agrees with the other side.

The recipe is that of a store: its encoder is made anew and must have the same fingerprint, its media must be where the
store remembers them, and what it gives unchanged must be what the store has (or the other side). Otherwise nothing is
concluded from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from emo.extract.compare.sides import MOSTLY, ClipRow, Hypothesis, Side, StoreSide, error_of, hypothesis
from emo.extract.compare.variants import variants_of
from emo.extract.encoders.base import ClipInputs, Decoded, Encoder, Variant
from emo.extract.encoders.registry import find_encoder, load_encoder
from emo.extract.media.container import open_media
from emo.extract.media.detect import Detector
from emo.extract.media.facemesh import FaceMesh
from emo.extract.media.faces import OPENFACE_RECIPE, FaceConfig, read_openface
from emo.extract.media.follow import FaceTracker
from emo.extract.media.picks import Picks
from emo.extract.media.reading import Reading
from emo.extract.weights_page import local_path
from emo.featstore.datasets.lookup import clips_of
from emo.featstore.errors import EmoError, MediaError, ModelError, UsageError, WeightsMissing
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.maintain import BESIDE
from emo.featstore.storage.store import Store
from emo.featstore.text import counted
from emo.featstore.transcripts import LANGUAGES
from emo.featstore.workspace import Workspace


@dataclass(frozen=True)
class Experiment:
    """Result of re-running.

    Attributes:
        tested: Every change that was tried.
        hints: Causes with more members than can be tried, whose changes are about as large as the difference.
        notes: Which clips could not be used, and why.
    """

    tested: tuple[Hypothesis, ...]
    hints: tuple[str, ...]
    notes: tuple[str, ...]


def experiment(
    rows: Sequence[ClipRow],
    sides: tuple[Side, Side],
    tolerance: float,
    count: int,
    workspace: Workspace | None,
    device: str,
    say: Callable[[str], None],
) -> Experiment:
    """Test every known variant of the side that emo made.

    Args:
        rows: How the clips compare; those that are broken on one side left out.
        sides: A and B.
        tolerance: Largest error at which a clip agrees.
        count: Clips to run, at most.
        workspace: Says where weights and OpenFace output are.
        device: Where to run.
        say: Told what is going on.

    Raises:
        EmoError: It cannot be run here; the message says why.
    """
    own, encoder = _encoder(sides, workspace, device)
    here, there, foreign = ("A", "B", sides[1]) if own is sides[0] else ("B", "A", sides[0])
    names = _choose(rows, own.store, tolerance, count)
    clips, notes = _again(names, own, foreign, encoder, tolerance, workspace, say)
    stored = [error_of(each.mine, each.theirs) for each in clips]
    if all(each <= tolerance for each in stored):
        raise UsageError(" ".join(notes) or f"no clip that differs has its media where {own.store.path} remembers it.")
    before = [error_of(each.plain, each.theirs) for each in clips]
    words = f"{here}: not computed in float32, as it is when re-run"
    tested = [hypothesis("half-precision", words, "re-run", stored, before, tolerance)]
    if tested[0].explains:
        return Experiment(tuple(tested), (), notes)
    moved: dict[str, list[list[float]]] = {}
    candidates = variants_of(encoder)
    for number, variant in enumerate(candidates, start=1):
        say(f"re-running {counted(len(clips), 'clip')}, {number} of {len(candidates)}: {variant.change}")
        made = [variant.run(each.decoded, own.spec.level) for each in clips]
        after = [error_of(x, each.theirs) for x, each in zip(made, clips, strict=True)]
        tested.append(hypothesis(variant.cause, f"{there}: {variant.change}", "re-run", before, after, tolerance))
        if variant.family:
            sizes = [error_of(x, each.plain) for x, each in zip(made, clips, strict=True)]
            moved.setdefault(variant.cause, []).append(sizes)
    hints = tuple(cause for cause, sizes in moved.items() if _about_as_large(before, sizes))
    return Experiment(tuple(tested), hints, notes)


def _about_as_large(differences: Sequence[float], sizes: Sequence[Sequence[float]]) -> bool:
    """Say whether every difference is like those among the members of a family, give or take a factor of 2."""
    low, high = np.min(sizes, axis=0) / 2, np.max(sizes, axis=0) * 2  # (clips,)
    return bool(((low <= differences) & (differences <= high)).all())


@dataclass(frozen=True)
class _Clip:
    """One clip that is run again: decoded; its feature in the store, on the other side, and as the recipe gives it."""

    decoded: Decoded
    mine: NDArray[Any]
    theirs: NDArray[Any]
    plain: NDArray[Any]


def _again(
    names: Sequence[str],
    own: StoreSide,
    foreign: Side,
    encoder: Encoder,
    tolerance: float,
    workspace: Workspace | None,
    say: Callable[[str], None],
) -> tuple[list[_Clip], tuple[str, ...]]:
    """Run the recipe unchanged: the clips where it gives what it should, and why the others were left out."""
    faces, folders = _faces(own.spec, workspace)
    detector = faces.open_detector() if faces is not None else None
    clips, notes = [], []
    for name in names:
        say(f"decoding {name}")
        try:
            decoded = decode(Path(own.store.clip_row(name)[1]), encoder, faces, detector, folders.get(name))
            plain = Variant("", "", encoder).run(decoded, own.spec.level)
        except MediaError as error:
            notes.append(f"{name} was not re-run: {error.message}")
            continue
        mine, theirs = (side.get(name).astype(np.float64) for side in (own, foreign))
        if error_of(plain, theirs) > tolerance < error_of(plain, mine) > error_of(mine, theirs) / MOSTLY:
            notes.append(f"{name} was not re-run: the recipe no longer gives what the store has for it.")
            continue
        clips.append(_Clip(decoded, mine, theirs, plain))
    return clips, tuple(notes)


def _encoder(sides: Sequence[Side], workspace: Workspace | None, device: str) -> tuple[StoreSide, Encoder]:
    """The side whose recipe can be run here, and its encoder.

    Raises:
        EmoError: There is none, and why.
    """
    reasons: list[EmoError] = []
    for side in sides:
        if not isinstance(side, StoreSide):
            continue
        spec = side.spec
        try:
            if spec.profile == "imported":
                raise UsageError(f"{spec.key} was imported, and emo cannot make it.")
            if spec.encoder in BESIDE:
                raise UsageError(f"{spec.key} is a table that a pass keeps beside the features, and no feature.")
            if LANGUAGES in spec.recipe:
                raise UsageError(f"{spec.key} is made of transcripts, and emo knows no variants of that to try.")
            options: dict[str, Any] = {}
            if spec.weights.startswith("seed:"):
                options["seed"] = int(spec.weights.removeprefix("seed:"))
            elif spec.weights != "none":
                found = None if workspace is None else local_path(workspace, find_encoder(spec.name).name)
                if found is None:
                    raise WeightsMissing(f"the weights of {spec.key} are not on this machine.")
                options["weights"] = str(found)
            media = spec.recipe["media"]
            encoder = load_encoder(spec.name, spec.profile, device=device, media_recipe=media, **options)
            made = encoder.spec(spec.level)
            if made.fingerprint != spec.fingerprint:
                raise ModelError(f"what is here would make {made.key}, not {spec.key}.")
            return side, encoder
        except EmoError as error:
            reasons.append(error)
    raise reasons[0] if reasons else UsageError("neither side is a store that says how its features were made.")


def _faces(spec: EncoderSpec, workspace: Workspace | None) -> tuple[FaceConfig | None, dict[str, Path]]:
    """Face settings of a recipe, or else the OpenFace folder of each clip.

    Raises:
        UsageError: This emo finds faces in another way, or nothing says which frames were taken.
    """
    media = spec.recipe["media"]
    if media.get("frame", "first") not in ("first", "middle"):
        raise UsageError(f"the frames of {spec.key} came from a table, which the store does not keep.")
    recipe = media.get("faces")
    if recipe is None:
        return None, {}
    if recipe["source"] == OPENFACE_RECIPE["source"]:
        known = {} if workspace is None else clips_of(workspace)
        return None, {name: clip.faces for name, clip in known.items() if clip.faces is not None}
    given = {each.name: recipe[each.name] for each in fields(FaceConfig)}
    config = FaceConfig(**{**given, "detector": recipe["detector"]["name"]})
    if config.recipe() != recipe:
        raise UsageError(f"this version of emo finds faces in another way than {spec.key} was made.")
    return config, {}


def _choose(rows: Sequence[ClipRow], store: Store, tolerance: float, count: int) -> list[str]:
    """Clips whose media are at hand: large and small ones that differ, and one that agrees, as a control."""

    def at_hand(rows: Sequence[ClipRow]) -> list[str]:
        known = [(store.clip_row(row.clip), row.clip) for row in rows]
        return [
            clip
            for (_, path, _, _), clip in sorted(known, key=lambda each: each[0][2])
            if path is not None and store.file_of(path) is not None
        ]

    differ = at_hand([row for row in rows if not row.agrees(tolerance)])
    agree = at_hand([row for row in rows if row.agrees(tolerance)])
    control = agree[len(agree) // 2 :][:1] if count > 1 else []
    places = np.linspace(0, len(differ) - 1, min(len(differ), count - len(control))).round().astype(int)
    return [*(differ[i] for i in places), *control]


def decode(
    path: Path, encoder: Encoder, faces: FaceConfig | None, detector: Detector | None, openface: Path | None
) -> Decoded:
    """Decode a clip for one encoder, as a pass does, with what the variants want to see besides.

    Args:
        path: The media file.
        encoder: Its `needs` and its `media_recipe` say what is decoded.
        faces: How faces are found; `None` takes the crops in `openface`.
        detector: Finds them.
        openface: Folder of OpenFace output.

    Raises:
        MediaError: The clip lacks what the encoder needs.
    """
    if encoder.needs == "faces" and faces is None:
        if openface is None:
            raise MediaError("no-face", "emo.toml names no OpenFace output for it.")
        crops = read_openface(openface)
        files = [each.name for each in openface.glob("*.bmp")]  # the order of a glob that nobody sorted
        return Decoded(ClipInputs(faces=crops), listing=[sorted(files).index(name) for name in files])
    with open_media(path, Reading.of_recipe(encoder.media_recipe)) as media:
        if encoder.needs == "audio":
            return Decoded(ClipInputs(audio=media.audio()), sound=_sound(path), path=path)
        if encoder.needs in ("faces", "points"):
            tracker = FaceTracker(detector, faces, path.name, FaceMesh() if encoder.needs == "points" else None)
            for frame in media.frames():
                tracker.feed(frame)
            track = tracker.finish().choose()
            points = None if track.mesh is None else track.points()[0]
            return Decoded(ClipInputs(faces=track.crops, points=points), path=path)
        if encoder.needs == "frames":
            picks = Picks({encoder.name: (encoder.pick(media.info.n_frames), encoder.frame_size)})
            for frame in media.frames():
                picks.feed(frame)
            return Decoded(ClipInputs(**picks.of(encoder.name)), path=path)
        frames: dict[str, NDArray[np.uint8]] = {}
        places = {"first": 0, "second": 1, "middle": media.info.n_frames // 2, "last": media.info.n_frames}
        for frame in media.frames():
            frames |= {name: frame.rgb for name, index in places.items() if frame.index <= index}
    return Decoded(ClipInputs(frame=frames[encoder.media_recipe["frame"]]), frames, path=path)


def _sound(path: Path) -> tuple[NDArray[np.float64], int]:
    """Mono samples at their own rate, as a decoder gives them, and the rate."""
    with av.open(f"file:{path}") as container:
        stream = container.streams.best("audio")
        mono = av.AudioResampler("fltp", "mono", stream.rate)
        parts = [out.to_ndarray()[0] for frame in container.decode(stream) for out in mono.resample(frame)]
        parts += [out.to_ndarray()[0] for out in mono.resample(None)]
    return np.concatenate(parts).astype(np.float64), stream.rate
