"""EVA ViT-g and ln_vision against the reference class, and its position-table interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emo.extract.encoders.eva import Eva
from emo.extract.vit import ViTConfig, interpolate_positions

pytestmark = pytest.mark.parametrize("golden", ["case1_eva"], indirect=True)


@pytest.fixture
def eva(golden):
    c = golden.info["config"]
    config = ViTConfig(
        img=c["img"],
        patch=c["patch"],
        dim=c["width"],
        depth=c["depth"],
        heads=c["heads"],
        mlp=int(c["width"] * c["mlp_ratio"]),
        eps=c["block_ln_eps"],
        bias="qv",
        cls=True,
        pos="learned",
        norm=None,
    )
    assert config.mlp == c["mlp_hidden"]
    encoder = Eva(profile="tiny", config=config, weights=golden.weights)
    report = encoder.load()
    assert not report.ignored
    assert "ln_vision.weight" in report.consumed
    return encoder


def test_tokens_blocks_and_ln_vision(eva, golden):
    blocks = {}
    tolerance = golden.info["tolerance"]
    with eva.computing() as model:
        for i, block in enumerate(model.blocks):
            block.register_forward_hook(lambda _m, _a, out, i=i: blocks.__setitem__(f"block{i}", out))
        image = torch.from_numpy(golden.io["image"])
        raw = model(image)
        golden.close(raw, "tokens", tolerance["tokens"])
        named = [name for name in golden.io if name.startswith("block")]
        assert named
        for name in named:
            golden.close(blocks[name], name, tolerance.get(name, tolerance["block0"]))
        golden.close(model.tokens(image), "ln_vision", tolerance["tokens"])
        golden.close(model.ln_vision(torch.from_numpy(golden.io["tokens"])), "ln_vision", tolerance["ln_vision"])
        assert model.ln_vision.eps == golden.info["config"]["ln_vision_eps"]


def test_an_image_alone_equals_the_image_in_a_batch(eva, golden):
    with eva.computing() as model:
        images = torch.from_numpy(golden.io["image"])
        for i in range(len(images)):
            want = golden.io["tokens"][i : i + 1]
            golden.close(model(images[i : i + 1]), f"tokens[{i}]", golden.info["tolerance"]["tokens"], want)


def test_position_tables(golden):
    tables = [name.removeprefix("pos_embed_in_") for name in golden.io if name.startswith("pos_embed_in_")]
    assert tables
    for width in tables:
        want = golden.io[f"pos_embed_out_{width}"]
        table = torch.from_numpy(golden.io[f"pos_embed_in_{width}"])
        side = round((want.shape[1] - 1) ** 0.5)
        got = interpolate_positions(table, side).numpy()
        assert got.dtype == np.float32
        stride = -(-got.shape[2] // want.shape[2])  # wide tables are kept at every n-th channel only
        golden.close(got[..., ::stride], f"pos_embed_out_{width}", golden.info["tolerance"]["pos_embed"])
