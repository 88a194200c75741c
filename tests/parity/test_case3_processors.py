"""Image processor of `eva_g_448` and the caption processor of training."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.eva import PAPER, Eva
from emo.extract.preprocess import to_float
from emo.train.captions import process_answer

pytestmark = pytest.mark.parametrize("golden", ["case3_processors"], indirect=True)


@pytest.fixture
def prepared(golden):
    """Every image of the case (tensors and png files) through `prepare` of the EVA encoder, at the case's size."""
    images = {name: golden.io[f"{name}.rgb_u8"] for name in golden.items("rgb_u8")}
    images |= {file.stem: np.asarray(Image.open(file).convert("RGB")) for file in golden.folder.glob("*.png")}
    result = {}
    for name, rgb in images.items():
        size = golden.io[f"{name}.resized_u8"].shape[-1]
        encoder = Eva(profile="tiny", config=replace(PAPER, img=size))
        result[name] = encoder.prepare(ClipInputs(frame=rgb)).payload
    assert set(result) == set(golden.items("resized_u8"))
    return result


def test_resized_pixels_are_exact(prepared, golden):
    for name, pixels in prepared.items():
        golden.close(pixels.permute(2, 0, 1), f"{name}.resized_u8", 0)


def test_normalised_pixels(prepared, golden):
    checked = 0
    for name, pixels in prepared.items():
        x = to_float(pixels, golden.info["mean"], golden.info["std"]).numpy()
        for key in golden.io:
            if key.startswith(f"{name}.out"):
                stride = int(key.partition("_stride")[2] or 1)
                golden.close(x[:, ::stride, ::stride], key, golden.info["tolerance"]["out"])
                checked += 1
    assert checked >= len(prepared)


def test_constants_of_the_encoder_are_those_of_the_case(golden):
    recipe = Eva(profile="random").spec("tokens").recipe
    assert (recipe["mean"], recipe["std"]) == (golden.info["mean"], golden.info["std"])


def test_captions(golden):
    pairs = json.loads((golden.folder / "captions.json").read_text(encoding="utf-8"))
    assert pairs
    for pair in pairs:
        options = {key: value for key, value in pair.items() if key not in ("inp", "out")}  # prompt, max_words
        assert process_answer(pair["inp"], **options) == pair["out"], pair["inp"]


def test_a_batch_of_images_is_the_images(prepared):
    together = to_float(torch.stack(list(prepared.values())))
    for row, pixels in zip(together, prepared.values(), strict=True):
        assert torch.equal(row, to_float(pixels))
