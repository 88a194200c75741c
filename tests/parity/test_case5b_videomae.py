"""`maeV_399_UTT`: choice of frames, pixels, tokens and utterance features, alone and in a batch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.videomae import VideoMaeAuthor
from emo.extract.preprocess import segment_indices
from emo.extract.vit import ViTConfig, sinusoid_table

pytestmark = pytest.mark.parametrize("golden", ["case5b_videomae_author"], indirect=True)


@pytest.fixture
def encoder(golden):
    c = golden.info["config"]
    config = ViTConfig(
        img=c["img"],
        patch=c["patch"],
        dim=c["dim"],
        depth=c["depth"],
        heads=c["heads"],
        mlp=int(c["dim"] * c.get("mlp_ratio", 4)),
        eps=c["eps"],
        bias="qv",
        cls=False,
        pos="sinusoid",
        norm=None,
        frames=c.get("frames", 16),
        tubelet=c["tubelet"],
    )
    return VideoMaeAuthor(profile="tiny", config=config, weights=golden.weights)


@pytest.fixture
def prepared(encoder, golden):
    clips = golden.items("faces_bgr_u8")
    assert clips
    faces = {clip: np.ascontiguousarray(golden.io[f"{clip}.faces_bgr_u8"][..., ::-1]) for clip in clips}
    return {clip: encoder.prepare(ClipInputs(faces=rgb)) for clip, rgb in faces.items()}


def test_frame_choice(golden):
    table = golden.info["sampling_indices"]
    assert table
    for key, want in table.items():
        n = int(re.findall(r"\d+", key)[-1])  # "17" or "clipA (n=17)"
        assert segment_indices(n) == want, key


def test_resized_pixels_are_exact(prepared, golden):
    clips = golden.items("pixel_u8_c_t_h_w")
    assert clips
    for clip in clips:
        golden.close(prepared[clip].payload.permute(3, 0, 1, 2), f"{clip}.pixel_u8_c_t_h_w", 0)


def test_position_table(golden):
    names = [name for name in golden.io if name.startswith("sinusoid")]
    assert names
    for name in names:
        tokens, dim = golden.io[name].shape[1:]
        golden.close(sinusoid_table(tokens, dim), name, 1e-7)  # float32 rounding of a float64 table


def test_tokens_and_utterances_alone(encoder, prepared, golden):
    tolerance = golden.info["tolerance"]
    for clip, item in prepared.items():
        golden.close(encoder.tokens(item.payload[None])[0], f"{clip}.tokens", tolerance["tokens"])
        golden.close(encoder.encode([item])[0]["utt"].array[0], f"{clip}.UTT", tolerance["UTT"])
    assert {name.split(".")[0] for name in encoder.load().ignored} <= {"fc_norm", "head"}


def test_all_clips_in_one_batch(encoder, prepared, golden):
    tolerance = golden.info["tolerance"]
    tokens = encoder.tokens(torch.stack([item.payload for item in prepared.values()]))
    outputs = encoder.encode(list(prepared.values()))
    for clip, row, output in zip(prepared, tokens, outputs, strict=True):
        golden.close(row, f"{clip}.tokens", tolerance["tokens"])
        golden.close(output["utt"].array[0], f"{clip}.UTT", tolerance["UTT"])
