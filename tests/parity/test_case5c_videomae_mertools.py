"""MERBench's VideoMAE from a Hugging Face folder: choice of frames, pixels, frame and utterance features."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.videomae import VideoMaeMerbench
from emo.extract.preprocess import to_float, uniform_indices, window_indices

pytestmark = pytest.mark.parametrize("golden", ["case5c_videomae_mertools"], indirect=True)


@pytest.fixture
def encoder(golden, tmp_path):
    """The encoder as it loads a Hugging Face folder: sizes and preprocessing come from the folder's own files."""
    (tmp_path / "config.json").write_text(json.dumps(golden.info["config"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(golden.info["preprocessor"]))
    (tmp_path / "model.safetensors").symlink_to(golden.weights)
    return VideoMaeMerbench(profile="tiny", weights=str(tmp_path))


@pytest.fixture
def prepared(encoder, golden):
    clips = golden.items("faces_bgr_u8")
    assert clips
    faces = {clip: np.ascontiguousarray(golden.io[f"{clip}.faces_bgr_u8"][..., ::-1]) for clip in clips}
    return {clip: encoder.prepare(ClipInputs(faces=rgb)) for clip, rgb in faces.items()}


def check(golden, clip, output):
    tolerance = golden.info["tolerance"]["features"]
    golden.close(output["utt"].array[0], f"{clip}.UTT", tolerance)
    golden.close(output["frame"].array, f"{clip}.FRA", tolerance)


def test_frame_choice(golden):
    tables = [key for key in golden.info if key.startswith("resample_frames_uniform_")]
    assert tables
    for key in tables:
        count = int(key.rpartition("_")[2])
        for n, want in golden.info[key].items():
            assert uniform_indices(int(n), count) == want, f"{key}[{n}]"
    for n, want in golden.info["mer2024_sunlicai_indexes"].items():
        assert window_indices(int(n)) == want, f"sunlicai[{n}]"


def test_pixels(encoder, prepared, golden):
    clips = golden.items("pixel_values_first2")
    assert clips
    for clip in clips:
        got = to_float(prepared[clip].payload[:2], encoder.mean, encoder.std)[None]
        golden.close(got, f"{clip}.pixel_values_first2", golden.info["tolerance"]["features"])


def test_sizes_come_from_the_folder(encoder, golden):
    c = golden.info["config"]
    assert (encoder.config.dim, encoder.config.eps) == (c["hidden_size"], c["layer_norm_eps"])
    assert encoder.config.norm == (None if c["use_mean_pooling"] else "norm")
    assert not encoder.load().ignored


def test_each_clip_alone(encoder, prepared, golden):
    for clip, item in prepared.items():
        check(golden, clip, encoder.encode([item])[0])


def test_all_clips_in_one_batch(encoder, prepared, golden):
    for clip, output in zip(prepared, encoder.encode(list(prepared.values())), strict=True):
        check(golden, clip, output)


def test_names_that_transformers_5_gives_in_memory_load_too(encoder, prepared, golden, tmp_path):
    from safetensors.torch import load_file, save_file

    state = {}
    for name, tensor in load_file(golden.weights).items():
        name = name.replace("attention.q_bias", "attention.query.bias").replace(
            "attention.v_bias", "attention.value.bias"
        )
        state[f"videomae.{name}"] = tensor
    folder = tmp_path / "five"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(golden.info["config"]))
    (folder / "preprocessor_config.json").write_text(json.dumps(golden.info["preprocessor"]))
    save_file(state, folder / "model.safetensors")
    clip, item = next(iter(prepared.items()))
    again = VideoMaeMerbench(profile="tiny", weights=str(folder))
    check(golden, clip, again.encode([item])[0])
    assert torch.equal(item.payload, prepared[clip].payload)
