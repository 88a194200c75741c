"""A GPU gives what a CPU gives: features, resized pixels, faces. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emo.extract.demo import generate_clip
from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.registry import load_encoder
from emo.extract.media.container import open_media
from emo.extract.media.detect import CenterFace, OnnxNetwork
from emo.extract.media.facenet import DetectionServer
from emo.extract.media.preprocess import resample_exactly, resize

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch sees no CUDA device")

NAMES = ("HL-UTT", "HL-MERBench-UTT", "mae_340_UTT", "maeV_399_UTT", "videomae-large-UTT", "eva_g_448")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("float16", 2e-2)])
def test_features(name: str, dtype: str, most: float) -> None:
    rng = np.random.default_rng(0)
    cpu, gpu = load_encoder(name, "tiny"), load_encoder(name, "tiny", device="cuda:0", dtype=dtype)
    sizes = (5, 9, 5)
    clips = [
        ClipInputs(
            audio=rng.normal(0, 0.1, 4000 * size).astype(np.float32),
            faces=rng.integers(0, 256, (size, 112, 112, 3), dtype=np.uint8),
            frame=rng.integers(0, 256, (90 + size, 160, 3), dtype=np.uint8),
        )
        for size in sizes
    ]
    there, here = (each.encode([each.prepare(clip) for clip in clips]) for each in (gpu, cpu))
    for mine, theirs in zip(there, here, strict=True):
        for level in cpu.levels:
            a, b = mine[level].array, theirs[level].array
            assert np.abs(a - b).max() <= most * np.abs(b).max(), level


@pytest.mark.parametrize(("shape", "size"), [((112, 112), 224), ((112, 96), 64), ((500, 300), 224)])
def test_resized_pixels_to_the_bit(shape: tuple[int, int], size: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *shape, 3), dtype=np.uint8))
    assert torch.equal(resample_exactly(pixels.cuda(), size, "bilinear").cpu(), resize(pixels, size, "bilinear"))


def test_faces(tmp_path: Path) -> None:
    generate_clip(tmp_path / "clip.mp4", "happy", seed=0)
    with open_media(tmp_path / "clip.mp4") as media:
        frames = [frame.rgb for frame in media.frames()][::5]
    with DetectionServer(torch.device("cuda:0"), 0.3) as server:
        here, there = CenterFace(network=OnnxNetwork(0.3)), CenterFace(network=server)
        for frame in frames:
            (mine,), (theirs,) = there.detect(frame), here.detect(frame)
            assert np.abs(mine.landmarks - theirs.landmarks).max() < 0.05  # pixels
            assert mine.score == pytest.approx(theirs.score, abs=1e-3)
