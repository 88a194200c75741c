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
from emo.extract.media.preprocess import to_float
from emo.train.llm.emotion_llama.captions import process_answer

GOLDEN_CASES = ["case3_processors"]
PICTURES = {".png", ".bmp", ".jpg", ".jpeg"}


@pytest.fixture
def prepared(golden):
    """Every image of the case (tensors and picture files) through `prepare` of the EVA encoder, at the case's size."""
    images = {name: golden.io[f"{name}.rgb_u8"] for name in golden.items("rgb_u8")}
    files = [file for file in sorted(golden.folder.iterdir()) if file.suffix.lower() in PICTURES]
    images |= {file.stem: np.asarray(Image.open(file).convert("RGB")) for file in files}
    assert set(images) == set(golden.items("resized_u8"))
    result = {}
    for name, rgb in images.items():
        size = golden.io[f"{name}.resized_u8"].shape[-1]
        encoder = Eva(profile="tiny", config=replace(PAPER, img=size))
        result[name] = encoder.prepare(ClipInputs(frame=rgb)).payload[0]
    return result


def test_resized_pixels_are_exact(prepared, golden):
    for name, pixels in prepared.items():
        golden.close(pixels.permute(2, 0, 1), f"{name}.resized_u8", 0)


def test_normalised_pixels(prepared, golden):
    for name, key in golden.parts("out"):
        x = to_float(prepared[name], golden.info["mean"], golden.info["std"]).numpy()
        stride = golden.number(key, "stride") or 1
        golden.close(x[:, ::stride, ::stride], key, golden.info["tolerance"]["out"])


def test_constants_of_the_encoder_are_those_of_the_case(golden):
    recipe = Eva(profile="random").spec("tokens").recipe
    assert (recipe["mean"], recipe["std"]) == (golden.info["mean"], golden.info["std"])


def test_captions(golden):
    file = golden.folder / "captions.json"
    if not file.is_file():
        pytest.skip(f"{golden.folder.name} has no captions.json")
    pairs = json.loads(file.read_text(encoding="utf-8"))
    assert pairs
    for pair in pairs:
        options = {key: pair[key] for key in ("prompt", "max_words") if key in pair}
        assert process_answer(pair["inp"], **options) == pair["out"], pair["inp"]


def test_a_batch_of_images_is_the_images(prepared):
    for shape in {pixels.shape for pixels in prepared.values()}:
        alike = [pixels for pixels in prepared.values() if pixels.shape == shape]
        for row, pixels in zip(to_float(torch.stack(alike)), alike, strict=True):
            assert torch.equal(row, to_float(pixels))
