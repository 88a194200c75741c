"""Does it name what went differently? Every known variant is built by hand on the encoder's model.

The networks are small and random, the clips are real. What the other side does is written out here once more, with
Pillow, numpy, scipy and the bare model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import scipy.signal
import torch
from PIL import Image

from emo.extract.compare import rerun
from emo.extract.compare.verdict import CAUSES, compare, compare_page
from emo.extract.encoders.base import Decoded, Encoder
from emo.extract.encoders.registry import load_encoder
from emo.extract.media.container import open_media
from emo.extract.media.faces import FaceConfig
from emo.extract.media.follow import FaceTracker
from emo.extract.media.reading import Reading
from emo.extract.session import ExtractArgs, open_session
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import Store
from emo.featstore.workspace import load_workspace

ROOT = Path(__file__).resolve().parents[3]
TOML = """[store]
path = "own.emo"
[data.real]
root = "data"
kind = "folder"
{faces}[extract]
profile = "tiny"
"""
SMALL = ("sample_00002422", "sample_00003462")  # 1.7 and 2 s
LONG = "sample_00000727"  # 10.7 s, so that chunks of 10 s matter
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@dataclass
class Known:
    """One clip as the tests decode it."""

    path: Path
    samples: np.ndarray | None = None  # (N,) float32, 16 kHz
    crops: np.ndarray | None = None  # (T, 112, 112, 3) uint8 RGB
    frames: list[np.ndarray] | None = None


@dataclass
class World:
    """A workspace whose features emo extracted, with the same clips decoded for the tests."""

    folder: Path
    clips: dict[str, Known]

    @property
    def store(self) -> Path:
        return self.folder / "own.emo"


def extract(folder: Path, **request: Any) -> None:
    outcome = open_session(load_workspace(folder), ExtractArgs(device="cpu", **request)).run()
    assert not outcome.failures, outcome.failures


@pytest.fixture(scope="module", autouse=True)
def _decode_once() -> Any:
    """Comparisons of one module look at the same few clips again and again."""
    real, found = rerun.decode, dict[tuple[Path, str], Decoded]()

    def decode(path: Path, encoder: Encoder, *rest: Any) -> Decoded:
        key = (path, str(encoder.media_recipe))
        if key not in found:
            found[key] = real(path, encoder, *rest)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rerun, "decode", decode)
        yield


@pytest.fixture(scope="module")
def sound(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("sound")
    (folder / "emo.toml").write_text(TOML.format(faces=""))
    (folder / "data").mkdir()
    clips = {}
    for name in (*SMALL, LONG):
        path = Path(shutil.copy(shared / f"data/mer2023/clips/{name}.mp4", folder / "data"))
        with open_media(path) as media:
            clips[name] = Known(path, samples=media.audio())
    extract(folder, encoders=("HL-UTT", "HL-MERBench-UTT"))
    return World(folder, clips)


@pytest.fixture(scope="module")
def faces(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A real clip of 42 frames, and the first 24 and 8 frames of another one."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "emo.toml").write_text(TOML.format(faces=""))
    (folder / "data").mkdir()
    shutil.copy(shared / f"data/mer2023/clips/{SMALL[0]}.mp4", folder / "data/whole.mp4")
    for name, n in {"some": 24, "short": 8}.items():
        with (
            open_media(shared / f"data/mer2023/clips/{SMALL[1]}.mp4") as media,
            av.open(str(folder / f"data/{name}.mp4"), "w") as out,
        ):
            stream = out.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.bit_rate = media.info.width, media.info.height, 8_000_000
            for frame in islice(media.frames(), n):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.rgb, format="rgb24")))
            out.mux(stream.encode())
    clips = {}
    config = FaceConfig()
    for name in ("whole", "some", "short"):
        path = folder / f"data/{name}.mp4"
        tracker, frames = FaceTracker(config.open_detector(), config), []
        with open_media(path) as media:
            for frame in media.frames():
                tracker.feed(frame)
                frames.append(frame.rgb)
        clips[name] = Known(path, crops=tracker.finish().choose().crops, frames=frames)
    assert [len(clip.crops) for clip in clips.values()] == [42, 24, 8]
    extract(folder, encoders=("mae_340_UTT", "maeV_399_UTT", "videomae-large-UTT", "eva_g_448"))
    extract(folder, encoders=("mae_340_FRA",))
    return World(folder, clips)


# ---- recipes, written out by hand ------------------------------------------------------------------------------------


@cache
def encoder_of(feature: str) -> Encoder:
    encoder = load_encoder(feature, "tiny")
    encoder.load()
    return encoder


def hubert(samples: np.ndarray, layers: str = "last", chunk: bool = False, normalise: bool = True) -> np.ndarray:
    """HuBERT, utterance level: `last`, `four`, `first`, or `raw` (the last without the final norm)."""
    x = samples.astype(np.float64)
    if normalise:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
    pieces = [x]
    if chunk and len(x) > 160_000:
        x = np.pad(x, (0, -len(x) % 160_000))
        pieces = list(x.reshape(-1, 160_000))
    rows = []
    with torch.inference_mode():
        for piece in pieces:
            out = encoder_of("HL-UTT")._model(torch.tensor(piece[None], dtype=torch.float32), output_hidden_states=True)
            states, last = out.hidden_states, out.last_hidden_state
            assert not torch.allclose(states[-1], last)  # transformers 5: before the final norm
            four = states[-4] + states[-3] + states[-2] + last
            row = {"last": last, "raw": states[-1], "four": four, "first": states[1]}[layers]
            rows.append(row[0].numpy())
    return np.concatenate(rows).mean(0)


def sound_at(path: Path) -> tuple[np.ndarray, int]:
    """The mono sound of a clip at its own rate."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray().mean(0) for frame in container.decode(audio=0)]
        return np.concatenate(frames), container.streams.audio[0].rate


def polyphase(path: Path) -> np.ndarray:
    x, rate = sound_at(path)
    return scipy.signal.resample_poly(x, 160, rate // 100)


def by_fft(path: Path) -> np.ndarray:
    x, rate = sound_at(path)
    return scipy.signal.resample(x, int(np.ceil(len(x) * 16000 / rate)))


def pixels(images: Any, size: int, resample: Any, norm: Any = None) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, S, S)."""
    small = [np.asarray(Image.fromarray(np.ascontiguousarray(each)).resize((size, size), resample)) for each in images]
    x = np.stack(small).astype(np.float32) / 255
    if norm is not None:
        x = (x - np.float32(norm[0])) / np.float32(norm[1])
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def mae(crops: np.ndarray, norm: Any = None, kept: Callable[..., Any] | None = None) -> np.ndarray:
    """MAE per face (T, D); `kept` is what is taken of (tokens, model)."""
    model = encoder_of("mae_340_UTT")._model
    with torch.inference_mode():
        tokens = model(pixels(crops, 64, Image.Resampling.BILINEAR, norm))
        return (kept(tokens, model) if kept else model.norm(tokens[:, 0])).numpy()


def videomae(crops: np.ndarray, at: list[int], feature: str, norm: Any, last: Any) -> np.ndarray:
    """VideoMAE, utterance level. Aligned faces are square, so that both published ways to resize are the same."""
    model = encoder_of(feature)._model
    with torch.inference_mode():
        tokens = model(pixels(crops[at], 64, Image.Resampling.BILINEAR, norm).transpose(0, 1)[None])  # (1, 128, D)
        return (last(tokens, model) if last else tokens)[0].mean(0).numpy()


def author(c: Known, crops: Any = None, at: Any = None, norm: Any = None, last: Any = None) -> np.ndarray:
    """maeV_399_UTT, or what is given in place of its parts."""
    return videomae(c.crops if crops is None else crops, at or tsn(c), "maeV_399_UTT", norm, last)


def merbench(c: Known, at: Any = None, norm: Any = IMAGENET, last: Any = lambda x, model: model.norm(x)) -> np.ndarray:
    """videomae-large-UTT, likewise."""
    return videomae(c.crops, at or equal_steps(c), "videomae-large-UTT", norm, last)


def eva(frame: np.ndarray, norm: Any = CLIP, raw: bool = False) -> np.ndarray:
    model = encoder_of("eva_g_448")._model
    with torch.inference_mode():
        x = pixels([frame], 112, Image.Resampling.BICUBIC, norm)
        tokens = model(x)
        return (tokens if raw else model.ln_vision(tokens))[0].numpy()


def tsn(clip: Known) -> list[int]:
    """Specification of maeV_399_UTT: 8 segments of 2 frames; up to 9 frames, the first two."""
    n = len(clip.crops)
    if n <= 9:
        return [0, min(1, n - 1)] * 8
    return [min(int((n - 1) / 16 + (n - 1) / 8 * x) + i, n - 1) for x in range(8) for i in (0, 1)]


def equal_steps(clip: Known) -> list[int]:
    """Specification of MERBench's VideoMAE."""
    n = len(clip.crops)
    found = [int(i * n / min(16, n)) for i in range(min(16, n))]
    return found + [found[-1]] * (16 - len(found))


def layer_norm(x: torch.Tensor, model: Any) -> torch.Tensor:
    """A norm that was never trained."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def trimmed(path: Path) -> np.ndarray:
    """The sound as far as the edit list goes, as FFmpeg 9 writes it."""
    with open_media(path, Reading(sound_tail="trim")) as media:
        return media.audio()


# variant, feature, verdict, word of the change, what the other side has for a clip
SOUND: list[tuple[str, str, str, str, Callable[[Known], np.ndarray]]] = [
    ("as it should be", "HL-UTT", "match", "", lambda c: hubert(c.samples)),
    ("as it should be", "HL-MERBench-UTT", "match", "", lambda c: hubert(c.samples, "four", chunk=True)),
    ("sum of the last four layers", "HL-UTT", "layers", "sum", lambda c: hubert(c.samples, "four")),
    ("last layer alone", "HL-MERBench-UTT", "layers", "last layer", lambda c: hubert(c.samples, chunk=True)),
    ("10 s zero-padded chunks", "HL-UTT", "chunks", "10 s", lambda c: hubert(c.samples, chunk=True)),
    ("no chunks", "HL-MERBench-UTT", "chunks", "whole clip", lambda c: hubert(c.samples, "four")),
    ("MERBench's script", "HL-UTT", "recipe", "MERBench", lambda c: hubert(c.samples, "four", chunk=True)),
    ("final norm left out", "HL-UTT", "final-norm", "transformers 5", lambda c: hubert(c.samples, "raw")),
    ("sound not normalised", "HL-UTT", "normalisation", "without", lambda c: hubert(c.samples, normalise=False)),
    ("sound cut at the edit list", "HL-UTT", "sound-tail", "edit list", lambda c: hubert(trimmed(c.path))),
    ("sound resampled by scipy's resample_poly", "HL-UTT", "resampler", "poly", lambda c: hubert(polyphase(c.path))),
    ("sound resampled by FFT", "HL-UTT", "resampler", "FFT", lambda c: hubert(by_fft(c.path))),
    ("44.1 kHz taken for 16 kHz", "HL-UTT", "resampler", "own rate", lambda c: hubert(sound_at(c.path)[0])),
    ("stored as float16", "HL-UTT", "half-precision", "float16", lambda c: np.float16(hubert(c.samples))),
    ("divided by 4", "HL-UTT", "scale", "0.25 times", lambda c: hubert(c.samples) / 4),
    ("vectors of length 1", "HL-UTT", "scale", "length", lambda c: (x := hubert(c.samples)) / np.linalg.norm(x)),
    ("NaN", "HL-UTT", "not-finite", "of B", lambda c: hubert(c.samples) * np.nan),
    ("zeros", "HL-UTT", "zeros", "of B", lambda c: np.zeros(64)),
]
MERBENCH = "videomae-large-UTT"
FACES: list[tuple[str, str, str, str, Callable[[Known], np.ndarray]]] = [
    ("as it should be", "mae_340_UTT", "match", "", lambda c: mae(c.crops).mean(0)),
    ("as it should be", "maeV_399_UTT", "match", "", lambda c: author(c)),
    ("as it should be", MERBENCH, "match", "", lambda c: merbench(c)),
    ("as it should be", "eva_g_448", "match", "", lambda c: eva(c.frames[0])),
    ("BGR", "mae_340_UTT", "colour", "BGR", lambda c: mae(c.crops[..., ::-1]).mean(0)),
    ("BGR", "maeV_399_UTT", "colour", "BGR", lambda c: author(c, c.crops[..., ::-1])),
    ("BGR", "eva_g_448", "colour", "BGR", lambda c: eva(c.frames[0][..., ::-1])),
    ("ImageNet mean and std", "mae_340_UTT", "normalisation", "ImageNet", lambda c: mae(c.crops, IMAGENET).mean(0)),
    ("ImageNet mean and std", "maeV_399_UTT", "normalisation", "ImageNet", lambda c: author(c, norm=IMAGENET)),
    ("[0, 1], no mean and std", MERBENCH, "normalisation", "[0, 1]", lambda c: merbench(c, norm=None)),
    ("[0, 1], no mean and std", "eva_g_448", "normalisation", "[0, 1]", lambda c: eva(c.frames[0], None)),
    ("mean of the normed patch tokens", "mae_340_UTT", "pooling", "each after", lambda c: pooled(c, normed_mean)),
    ("mean of patch tokens, fc_norm never loaded", "mae_340_UTT", "pooling", "untrained", lambda c: pooled(c, fc_norm)),
    ("CLS token alone", "eva_g_448", "pooling", "CLS", lambda c: eva(c.frames[0])[0]),
    ("final norm left out", "mae_340_UTT", "final-norm", "no norm", lambda c: pooled(c, lambda x, model: x[:, 0])),
    ("final norm left out", MERBENCH, "final-norm", "without", lambda c: merbench(c, last=None)),
    ("final norm left out", "eva_g_448", "final-norm", "ln_vision", lambda c: eva(c.frames[0], raw=True)),
    ("a final norm added", "maeV_399_UTT", "final-norm", "each token", lambda c: author(c, last=layer_norm)),
    ("frames sorted as text", "maeV_399_UTT", "frame-order", "text", lambda c: author(c, c.crops[as_text(c)])),
    ("rows in a random order", "mae_340_FRA", "frame-order", "another order", lambda c: mae(shuffled(c, 7))),
    (
        "all frames of short clips",
        "maeV_399_UTT",
        "short-clips",
        "not frames 0 and 1",
        lambda c: author(c, at=spread(c)),
    ),
    ("frames 0 and 1 of short clips", MERBENCH, "short-clips", "only", lambda c: merbench(c, at=not_spread(c))),
    ("MERBench's choice of frames", "maeV_399_UTT", "frame-choice", "MERBench", lambda c: author(c, at=equal_steps(c))),
    ("the first 16 frames", "maeV_399_UTT", "frame-choice", "first frames", lambda c: author(c, at=first_16(c))),
    ("16 faces, not all", "mae_340_UTT", "frame-choice", "16", lambda c: mae(c.crops[sixteen(c)]).mean(0)),
    ("the middle frame", "eva_g_448", "frame-choice", "middle", lambda c: eva(c.frames[len(c.frames) // 2])),
    ("computed in bfloat16", "mae_340_UTT", "half-precision", "in bfloat16", lambda c: in_bfloat16(c)),
    ("one vector added", "mae_340_UTT", "offset", "added", lambda c: mae(c.crops).mean(0) + np.linspace(-1, 1, 64)),
]


def first_16(clip: Known) -> list[int]:
    return [min(i, len(clip.crops) - 1) for i in range(16)]


def sixteen(clip: Known) -> list[int]:
    return sorted(set(equal_steps(clip)))


def spread(clip: Known) -> list[int]:
    return equal_steps(clip) if len(clip.crops) <= 9 else tsn(clip)


def not_spread(clip: Known) -> list[int]:
    return tsn(clip) if len(clip.crops) <= 9 else equal_steps(clip)


def as_text(clip: Known) -> list[int]:
    return [int(name) for name in sorted(str(i) for i in range(len(clip.crops)))]


def shuffled(clip: Known, seed: int) -> np.ndarray:
    return clip.crops[np.random.default_rng(seed).permutation(len(clip.crops))]


def normed_mean(tokens: torch.Tensor, model: Any) -> torch.Tensor:
    return model.norm(tokens)[:, 1:].mean(1)


def fc_norm(tokens: torch.Tensor, model: Any) -> torch.Tensor:
    return layer_norm(tokens[:, 1:].mean(1), model)


def pooled(clip: Known, kept: Callable[..., torch.Tensor]) -> np.ndarray:
    return mae(clip.crops, kept=kept).mean(0)


def in_bfloat16(clip: Known) -> np.ndarray:
    with torch.autocast("cpu", torch.bfloat16):
        return pooled(clip, lambda tokens, model: model.norm(tokens[:, 0]).float())


PLANTED = [*(("sound", *each) for each in SOUND), *(("faces", *each) for each in FACES)]


def save(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize(
    ("world", "variant", "feature", "verdict", "word", "make"),
    PLANTED,
    ids=[f"{each[2]}: {each[1]}" for each in PLANTED],
)
def test_every_planted_variant_is_named(
    world: str,
    variant: str,
    feature: str,
    verdict: str,
    word: str,
    make: Callable[[Known], np.ndarray],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    here: World = request.getfixturevalue(world)
    whole = world == "faces" or verdict in ("match", "layers", "chunks", "recipe", "sound-tail")
    names = here.clips if whole else SMALL  # the long clip takes long
    theirs = save(tmp_path / "theirs", {name: make(here.clips[name]) for name in names})
    tolerance = 1e-4 if variant == "stored as float16" else 1e-3  # by default, rounding is no difference
    found = compare(here.store, theirs, feature, tolerance=tolerance)
    print(found.verdict)
    assert found.equal == (verdict == "match"), found.verdict
    if found.equal:
        stored_half = feature == "eva_g_448"  # token records are float16 in the store
        assert found.cause == ("half-precision" if stored_half else None)
    else:
        assert found.cause == verdict, found.verdict
        best = next(each for each in found.hypotheses if each.explains)
        assert (best.cause, word in best.change) == (verdict, True), found.verdict
        assert best.change[1:] in found.verdict
        if best.evidence == "numbers" and best.after is not None:
            assert "weaker" in found.verdict
    page = compare_page(found)
    assert page.exit_code == (0 if found.equal else 3)
    json.dumps(page.value, allow_nan=False)


def test_the_documents_table_is_the_planted_one() -> None:
    text = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \| `(.+?)` \|$", text, re.MULTILINE)
    assert rows == [(variant, feature, verdict) for _, variant, feature, verdict, *_ in PLANTED if verdict != "match"]
    causes = re.findall(r"^\| `([\w-]+)` \| (.+?) \|$", text, re.MULTILINE)
    assert dict(causes) == CAUSES
    assert {verdict for _, _, verdict in rows} == set(CAUSES)


# ---- what else it says -----------------------------------------------------------------------------------------------


def test_two_recipes_of_one_store(sound: World) -> None:
    found = compare(sound.store, sound.store, "HL-UTT", "HL-MERBench-UTT")
    assert found.cause == "recipe"
    assert any(line.startswith("recipe.layers: last_hidden_state | ") for line in found.recipe)


def test_the_sides_may_be_swapped_and_the_folder_names_the_feature(faces: World, tmp_path: Path) -> None:
    theirs = save(tmp_path / "mae_340_UTT", {n: mae(c.crops[..., ::-1]).mean(0) for n, c in faces.clips.items()})
    found = compare(theirs, faces.store)
    assert found.cause == "colour"
    assert "A: colour channels in the order BGR" in found.verdict


def test_what_is_on_one_side_only_does_not_count_and_is_said(faces: World, tmp_path: Path) -> None:
    theirs = save(
        tmp_path / "theirs", {n: mae(faces.clips[n].crops).mean(0) for n in ("whole", "some")} | {"x": np.ones(64)}
    )
    found = compare(faces.store, theirs, "mae_340_UTT")
    assert (found.equal, found.only_a, found.only_b) == (True, ("short",), ("x",))
    assert "1 clip is in A only. 1 clip is in B only." in found.verdict


def test_frames_in_the_order_of_the_folder(faces: World, tmp_path: Path) -> None:
    """The published script lists OpenFace's crops without sorting them."""
    (tmp_path / "emo.toml").write_text(TOML.format(faces='faces = "openface"\n'))
    (tmp_path / "data").symlink_to(faces.folder / "data")
    orders = {}
    for name in ("whole", "some"):
        folder = tmp_path / "openface" / f"{name}_aligned"
        folder.mkdir(parents=True)
        crops = faces.clips[name].crops
        for i in np.random.default_rng(3).permutation(len(crops)):
            Image.fromarray(crops[i]).save(folder / f"frame_det_00_{i + 1:06d}.bmp")
        orders[name] = [int(file[-10:-4]) - 1 for file in os.listdir(folder)]
    if any(order == sorted(order) for order in orders.values()):
        pytest.skip("this file system lists files in order")
    outcome = open_session(load_workspace(tmp_path), ExtractArgs(device="cpu", encoders=("maeV_399_UTT",))).run()
    assert {failure.clip for failure in outcome.failures} == {"short"}  # OpenFace has none of it
    theirs = {name: author(faces.clips[name], faces.clips[name].crops[order]) for name, order in orders.items()}
    save(tmp_path / "theirs", theirs)
    found = compare(tmp_path / "own.emo", tmp_path / "theirs", workspace=load_workspace(tmp_path))
    assert found.cause == "frame-order"
    assert "the folder lists them" in found.verdict


def test_a_store_computed_in_half_precision(faces: World, tmp_path: Path) -> None:
    shutil.copy(faces.folder / "emo.toml", tmp_path)
    (tmp_path / "data").symlink_to(faces.folder / "data")
    extract(tmp_path, encoders=("mae_340_UTT",), dtype="bfloat16")
    theirs = save(tmp_path / "theirs", {n: mae(c.crops).mean(0) for n, c in faces.clips.items()})
    found = compare(tmp_path / "own.emo", theirs)
    assert found.cause == "half-precision"
    assert "A: not computed in float32" in found.verdict


def test_most_of_a_difference_is_named_as_such(faces: World, tmp_path: Path) -> None:
    """The right change, and besides it something small that nobody knows."""
    rng = np.random.default_rng(0)
    theirs = {n: mae(c.crops[..., ::-1]).mean(0) for n, c in faces.clips.items()}
    theirs = {n: x + rng.normal(0, 0.005, x.shape) * np.linalg.norm(x) / 8 for n, x in theirs.items()}
    found = compare(faces.store, save(tmp_path / "theirs", theirs), "mae_340_UTT")
    assert found.cause == "colour"
    assert "mostly colour, and something else besides" in found.verdict


NONE: dict[str, tuple[str, str, Callable[[Known], np.ndarray]]] = {
    "crops turned by 90 degrees": ("faces", "mae_340_UTT", lambda c: mae(np.rot90(c.crops, axes=(1, 2))).mean(0)),
    "every face a little darker": ("faces", "mae_340_UTT", lambda c: mae((c.crops * 0.8).astype(np.uint8)).mean(0)),
    "other numbers": ("faces", "mae_340_UTT", lambda c: np.random.default_rng(len(c.crops)).normal(size=64)),
    "the first layer": ("sound", "HL-UTT", lambda c: hubert(c.samples, "first")),
}


@pytest.mark.parametrize(("world", "feature", "make"), NONE.values(), ids=NONE)
def test_a_recipe_that_is_none_of_these_has_no_known_cause(
    world: str, feature: str, make: Callable[[Known], np.ndarray], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    here: World = request.getfixturevalue(world)
    theirs = save(tmp_path / "theirs", {name: make(clip) for name, clip in here.clips.items()})
    found = compare(here.store, theirs, feature)
    assert found.cause is None, found.verdict
    assert "No known cause explains it" in found.verdict
    assert compare_page(found).exit_code == 3


def test_an_order_that_nobody_can_guess_is_a_hint_and_no_verdict(faces: World, tmp_path: Path) -> None:
    theirs = {name: author(clip, shuffled(clip, 11)) for name, clip in faces.clips.items()}
    del theirs["short"]  # two frames of eight: too few draws to tell
    found = compare(faces.store, save(tmp_path / "theirs", theirs), "maeV_399_UTT")
    assert found.cause is None
    assert re.search(r"about as large as what .*frames that were not sorted", found.verdict)


def test_where_media_have_changed_the_numbers_alone_speak(
    faces: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "file_of", lambda self, path: None)
    theirs = save(tmp_path / "theirs", {n: mae(c.crops[..., ::-1]).mean(0) for n, c in faces.clips.items()})
    found = compare(faces.store, theirs, "mae_340_UTT")
    assert found.cause is None
    assert "Only the numbers were looked at" in found.verdict
    assert "Nothing was re-run: no clip that differs has its media" in found.notes[0]


def test_zero_clips_to_re_run_looks_at_the_numbers_alone(faces: World, tmp_path: Path) -> None:
    theirs = save(tmp_path / "theirs", {n: mae(c.crops[..., ::-1]).mean(0) for n, c in faces.clips.items()})
    found = compare(faces.store, theirs, "mae_340_UTT", clips=0)
    assert not any(each.evidence == "re-run" for each in found.hypotheses)
    assert "Only the numbers were looked at" in found.verdict


def test_some_zeros_and_another_cause_are_both_said(faces: World, tmp_path: Path) -> None:
    theirs = {n: mae(c.crops[..., ::-1]).mean(0) for n, c in faces.clips.items()}
    theirs["short"] = np.zeros(64)
    found = compare(faces.store, save(tmp_path / "theirs", theirs), "mae_340_UTT")
    assert "1 of them hold NaN, or nothing but zeros on one side; of the others: The cause is colour." in found.verdict
    counts = compare_page(found).parts[2].rows
    assert ["all zero", 0, 1] in counts


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_other_widths_are_refused_in_one_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = save(tmp_path / "a", {"x": rng.normal(size=64)})
    b = save(tmp_path / "b", {"x": rng.normal(size=(3, 48))})
    with pytest.raises(UsageError, match=r"^A has 64 columns and B has 48 \(x\): these are two features\.$"):
        compare(a, b)


def test_disjoint_names_show_three_of_each_side(tmp_path: Path) -> None:
    a = save(tmp_path / "a", {f"sample_{i}": np.ones(4) for i in range(5)})
    b = save(tmp_path / "b", {f"sample-{i}": np.ones(4) for i in range(5)})
    with pytest.raises(UsageError) as raised:
        compare(a, b)
    assert "sample_0, sample_1, sample_2;" in raised.value.message
    assert "sample-0, sample-1, sample-2." in raised.value.message


@pytest.mark.parametrize("kind", ["pickled", "cut off", "text"])
def test_files_that_are_no_numbers_are_refused(kind: str, tmp_path: Path) -> None:
    good = save(tmp_path / "a", {"x": np.ones(4)})
    bad = tmp_path / "b"
    bad.mkdir()
    if kind == "cut off":
        (bad / "x.npy").write_bytes((good / "x.npy").read_bytes()[:-8])
    else:
        np.save(bad / "x.npy", np.array([{"a": 1}] if kind == "pickled" else ["a"]), allow_pickle=True)
    with pytest.raises(UsageError, match=r"x\.npy"):
        compare(good, bad)


def test_it_must_be_clear_what_is_compared(faces: World, tmp_path: Path) -> None:
    theirs = save(tmp_path / "theirs", {"x": np.ones(64)})
    with pytest.raises(UsageError, match="--feature"):
        compare(faces.store, theirs)
    with pytest.raises(UsageError, match="nothing does not exist"):
        compare(faces.store, tmp_path / "nothing", "mae_340_UTT")
    with pytest.raises(UsageError, match="is no store"):
        compare(faces.store, theirs, "mae_340_UTT", "maeV_399_UTT")
