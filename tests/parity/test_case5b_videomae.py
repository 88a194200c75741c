"""`maeV_399_UTT`: choice of frames, pixels, tokens and utterance features, alone and in a batch."""

from __future__ import annotations

import pytest

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.videomae import VideoMaeAuthor
from emo.extract.encoders.vit import ViTConfig, sinusoid_table
from emo.extract.media.preprocess import resample_exactly, resize, segment_indices

GOLDEN_CASES = ["case5b_videomae_author"]


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
    return {clip: encoder.prepare(ClipInputs(faces=rgb)) for clip, rgb in golden.faces().items()}


def check(golden, clip, tokens, output):
    got = {f"{clip}.tokens": tokens, f"{clip}.UTT": output["utt"].array[0]}
    golden.close_all(got, golden.info["tolerance"])


def test_frame_choice(golden):
    table = golden.info["sampling_indices"]
    assert table
    for key, want in table.items():
        assert segment_indices(golden.count(key), segments=len(want) // 2) == want, key


def test_resized_pixels_are_exact(prepared, golden):
    for clip, key in golden.parts("pixel_u8_c_t_h_w"):
        for way in (resize, resample_exactly):
            pixels = way(prepared[clip].payload, golden.io[key].shape[-1], "bilinear")
            golden.close(pixels.permute(3, 0, 1, 2), key, 0)


def test_position_table(golden):
    names = [name for name in golden.io if name.startswith("sinusoid")]
    if not names:
        pytest.skip(f"{golden.folder.name} has no position table")
    for name in names:
        tokens, dim = golden.io[name].shape[1:]
        golden.close(sinusoid_table(tokens, dim), name, 1e-7)  # float32 rounding of a float64 table


def test_tokens_and_utterances_alone(encoder, prepared, golden):
    for clip, item in prepared.items():
        check(golden, clip, encoder.tokens(encoder.stage([item]), [item])[0], encoder.encode([item])[0])
    assert {name.split(".")[0] for name in encoder.load().ignored} <= {"fc_norm", "head"}


def test_all_clips_in_one_batch(encoder, prepared, golden):
    batch = list(prepared.values())
    tokens, outputs = encoder.tokens(encoder.stage(batch), batch), encoder.encode(batch)
    for clip, row, output in zip(prepared, tokens, outputs, strict=True):
        check(golden, clip, row, output)
