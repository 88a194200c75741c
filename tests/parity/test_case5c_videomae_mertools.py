"""MERBench's VideoMAE from a Hugging Face folder: choice of frames, pixels, frame and utterance features."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.videomae import VideoMaeMerbench
from emo.extract.media.preprocess import to_float, uniform_indices, window_indices

GOLDEN_CASES = ["case5c_videomae_mertools"]


@pytest.fixture
def encoder(golden, tmp_path):
    """The encoder as it loads a Hugging Face folder: sizes and preprocessing come from the folder's own files."""
    (tmp_path / "config.json").write_text(json.dumps(golden.info["config"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(golden.info["preprocessor"]))
    (tmp_path / "model.safetensors").symlink_to(golden.weights)
    return VideoMaeMerbench(profile="tiny", weights=str(tmp_path))


@pytest.fixture
def prepared(encoder, golden):
    return {clip: encoder.prepare(ClipInputs(faces=rgb)) for clip, rgb in golden.faces().items()}


def check(golden, clip, output):
    got = {f"{clip}.UTT": output["utt"].array[0], f"{clip}.FRA": output["frame"].array}
    golden.close_all(got, golden.info["tolerance"]["features"])


def test_frame_choice(golden):
    tables = [key for key in golden.info if key.startswith("resample_frames_uniform_")]
    assert tables
    for key in tables:
        count = int(key.rpartition("_")[2])
        for n, want in golden.info[key].items():
            assert uniform_indices(golden.count(n), count) == want, f"{key}[{n}]"
    for n, want in golden.info.get("mer2024_sunlicai_indexes", {}).items():
        assert window_indices(golden.count(n), count=len(want[0])) == want, f"sunlicai[{n}]"


def test_pixels(encoder, prepared, golden):
    for clip, key in golden.parts("pixel_values"):
        pixels = prepared[clip].payload[: golden.number(key, "first")]
        golden.close(to_float(pixels, encoder.mean, encoder.std)[None], key, golden.info["tolerance"]["features"])


def test_sizes_come_from_the_folder(encoder, golden):
    c = golden.info["config"]
    assert (encoder.config.dim, encoder.config.eps) == (c["hidden_size"], c["layer_norm_eps"])
    assert encoder.config.norm == (None if c["use_mean_pooling"] else "norm")
    assert {name.split(".")[0] for name in encoder.load().ignored} <= {"fc_norm", "classifier"}


def test_each_clip_alone(encoder, prepared, golden):
    for clip, item in prepared.items():
        check(golden, clip, encoder.encode([item])[0])


def test_all_clips_in_one_batch(encoder, prepared, golden):
    for clip, output in zip(prepared, encoder.encode(list(prepared.values())), strict=True):
        check(golden, clip, output)


def test_names_that_transformers_5_gives_in_memory_load_too(encoder, prepared, golden, tmp_path):
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
