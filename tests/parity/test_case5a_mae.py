"""`mae_340_UTT`: face crops to frame and utterance features, alone and in a batch, with both poolings."""

from __future__ import annotations

import numpy as np
import pytest

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.mae import Mae
from emo.extract.vit import ViTConfig

pytestmark = pytest.mark.parametrize("golden", ["case5a_mae"], indirect=True)


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
    """Prepared clips by name; the stored crops are BGR, the encoder takes RGB."""
    clips = golden.items("faces_bgr_u8")
    assert clips
    faces = {clip: np.ascontiguousarray(golden.io[f"{clip}.faces_bgr_u8"][..., ::-1]) for clip in clips}
    return {clip: encoder.prepare(ClipInputs(faces=rgb)) for clip, rgb in faces.items()}


def check(golden, clip, output):
    tolerance = golden.info["tolerance"]["features"]
    golden.close(output["utt"].array[0], f"{clip}.UTT", tolerance)
    golden.close(output["frame"].array, f"{clip}.FRA", tolerance)
    golden.close(output["frame"].array, f"{clip}.per_frame_raw", tolerance)


def test_resized_pixels_are_exact(golden):
    prepared = prepare(load(golden), golden)
    tensor = f"pixel_u8_{golden.info['config']['img']}"
    clips = golden.items(tensor)
    assert clips
    for clip in clips:
        golden.close(prepared[clip].payload.permute(0, 3, 1, 2), f"{clip}.{tensor}", 0)


def test_each_clip_alone(golden):
    encoder = load(golden)
    for clip, item in prepare(encoder, golden).items():
        check(golden, clip, encoder.encode([item])[0])
    assert set(encoder.load().ignored) <= {"head.weight", "head.bias"}


@pytest.mark.parametrize("most", [7, 1000])
def test_all_clips_in_one_batch(golden, most):
    """Faces are batched across clips; a clip of more faces than fit is cut."""
    encoder = load(golden)
    encoder.max_cost = most
    prepared = prepare(encoder, golden)
    for clip, output in zip(prepared, encoder.encode(list(prepared.values())), strict=True):
        check(golden, clip, output)


def test_global_pooling(golden):
    encoder = load(golden, "mean+fc_norm", "weights_global_pool.safetensors")
    for clip, item in prepare(encoder, golden).items():
        got = encoder.encode([item])[0]["frame"].array
        golden.close(got, f"{clip}.per_frame_raw_global_pool", golden.info["tolerance"]["features"])
