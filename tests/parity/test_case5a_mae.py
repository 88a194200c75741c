"""`mae_340_UTT`: face crops to frame and utterance features, alone and in a batch, with both poolings."""

from __future__ import annotations

import pytest

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.mae import Mae
from emo.extract.encoders.vit import ViTConfig
from emo.extract.media.preprocess import resample_exactly, resize

GOLDEN_CASES = ["case5a_mae"]


def load(golden, pooling="cls", weights="weights.safetensors"):
    c = golden.info["config"]
    config = ViTConfig(
        img=c["img"],
        patch=c["patch"],
        dim=c["dim"],
        depth=c["depth"],
        heads=c["heads"],
        mlp=int(c["dim"] * c["mlp_ratio"]),
        eps=c["eps"],
        bias="qkv",
        cls=True,
        pos="learned",
        norm="norm",
    )
    return Mae(pooling=pooling, profile="tiny", config=config, weights=str(golden.folder / weights))


def prepare(encoder, golden):
    """Prepared clips by name."""
    return {clip: encoder.prepare(ClipInputs(faces=rgb)) for clip, rgb in golden.faces().items()}


def check(golden, clip, output):
    utt, frame = output["utt"].array[0], output["frame"].array
    got = {f"{clip}.UTT": utt, f"{clip}.FRA": frame, f"{clip}.per_frame_raw": frame}
    golden.close_all(got, golden.info["tolerance"]["features"])


def test_resized_pixels_are_exact(golden):
    prepared = prepare(load(golden), golden)
    for clip, key in golden.parts("pixel_u8"):
        faces, size = prepared[clip].payload, golden.io[key].shape[-1]
        for way in (resize, resample_exactly):
            pixels = way(faces, size, "bilinear").permute(0, 3, 1, 2)
            golden.close(pixels[: golden.number(key, "first")], key, 0)


def test_each_clip_alone(golden):
    encoder = load(golden)
    for clip, item in prepare(encoder, golden).items():
        check(golden, clip, encoder.encode([item])[0])
    assert {name.split(".")[0] for name in encoder.load().ignored} <= {"head", "fc_norm"}


@pytest.mark.parametrize("most", [7, 1000])
def test_all_clips_in_one_batch(golden, most):
    """Faces are batched across clips; a clip of more faces than fit is cut."""
    encoder = load(golden)
    encoder.max_cost = most
    prepared = prepare(encoder, golden)
    for clip, output in zip(prepared, encoder.encode(list(prepared.values())), strict=True):
        check(golden, clip, output)


def test_global_pooling(golden):
    parts = golden.parts("per_frame_raw_global_pool")
    encoder = load(golden, "mean+fc_norm", "weights_global_pool.safetensors")
    prepared = prepare(encoder, golden)
    for clip, key in parts:
        golden.close(encoder.encode([prepared[clip]])[0]["frame"].array, key, golden.info["tolerance"]["features"])
