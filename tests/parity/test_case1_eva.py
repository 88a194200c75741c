"""EVA ViT-g and ln_vision against the reference class, and its position-table interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emo.extract.encoders.eva import Eva
from emo.extract.encoders.vit import ViTConfig, interpolate_positions

GOLDEN_CASES = ["case1_eva"]


@pytest.fixture
def eva(golden):
    c = golden.info["config"]
    config = ViTConfig(
        img=c["img"],
        patch=c["patch"],
        dim=c["width"],
        depth=c["depth"],
        heads=c["heads"],
        mlp=c["mlp_hidden"],
        eps=c["block_ln_eps"],
        bias="qv",
        cls=True,
        pos="learned",
        norm=None,
    )
    assert config.mlp == int(config.dim * c["mlp_ratio"])
    encoder = Eva(profile="tiny", config=config, weights=golden.weights)
    report = encoder.load()
    assert {"ln_vision.weight", "ln_vision.bias"} <= set(report.consumed)
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
        for name in golden.io:
            if name.startswith("block"):
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
    if not tables:
        pytest.skip(f"{golden.folder.name} has no position tables")
    for width in tables:
        want = golden.io[f"pos_embed_out_{width}"]
        table = torch.from_numpy(golden.io[f"pos_embed_in_{width}"])
        side = round((want.shape[1] - 1) ** 0.5)
        got = interpolate_positions(table, side).numpy()
        assert got.dtype == np.float32
        # Wide tables are kept at every n-th channel only. Several n may give this many channels: the row of the CLS
        # token, which does not change, tells which it is.
        kept = [got[..., ::n] for n in range(1, got.shape[2] + 1) if len(range(0, got.shape[2], n)) == want.shape[2]]
        nearest = min(kept, key=lambda each: np.abs(each[:, 0] - want[:, 0]).max())
        golden.close(nearest, f"pos_embed_out_{width}", golden.info["tolerance"]["pos_embed"])
