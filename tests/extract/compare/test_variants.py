"""Variants: encoders with one thing changed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emo.extract.compare.variants import CAUSES, variants_of
from emo.extract.encoders.base import ClipInputs, Decoded, Encoder
from emo.extract.encoders.registry import load_encoder


def source_of(encoder: Encoder) -> Decoded:
    rng = np.random.default_rng(0)
    if encoder.needs == "audio":
        sound = rng.normal(0, 0.1, 44_100)
        return Decoded(ClipInputs(audio=sound[:16_000].astype(np.float32)), sound=(sound, 44_100))
    if encoder.needs == "faces":
        crops = rng.integers(0, 256, (20, 112, 112, 3), dtype=np.uint8)
        return Decoded(ClipInputs(faces=crops), listing=list(rng.permutation(20)))
    frames = {n: rng.integers(0, 256, (90, 160, 3), dtype=np.uint8) for n in ("first", "second", "middle", "last")}
    return Decoded(ClipInputs(frame=frames["first"]), frames)


needs_opensmile = pytest.mark.skipif(find_spec("opensmile") is None, reason="opensmile is not installed: extra egemaps")


@pytest.mark.parametrize(
    "feature",
    [
        "HL-UTT",
        "HL-MERBench-UTT",
        "mae_340_UTT",
        "maeV_399_UTT",
        "videomae-large-UTT",
        "eva_g_448",
        pytest.param("eGeMAPS_UTT", marks=needs_opensmile),
    ],
)
def test_variants_change_one_thing_and_leave_the_encoder_alone(feature: str) -> None:
    encoder = load_encoder(feature, "tiny")
    level, source = encoder.levels[0], source_of(encoder)
    spec = encoder.spec(level).fingerprint

    def plain() -> np.ndarray:
        return encoder.encode([encoder.prepare(source.inputs)], [level])[0][level].array

    before = plain()
    found = variants_of(encoder)
    assert ("half-precision" in {variant.cause for variant in found}) == encoder.learned
    for variant in found:
        assert variant.cause in CAUSES
        made = variant.run(source, level)
        assert made.shape == before.shape
        assert np.isfinite(made).all()
    assert (plain() == before).all()
    assert encoder.spec(level).fingerprint == spec


def test_the_norm_of_a_weights_file_is_a_variant(tmp_path: Path) -> None:
    """Checkpoints of the authors hold a final norm that the published feature does not pass."""
    encoder = load_encoder("maeV_399_UTT", "tiny")
    encoder.load()
    rng = torch.Generator().manual_seed(0)
    norm = {f"norm.{part}": torch.randn(64, generator=rng) for part in ("weight", "bias")}
    save_file({**encoder._model.state_dict(), **norm}, tmp_path / "w.safetensors")
    with_file = load_encoder("maeV_399_UTT", "tiny", weights=str(tmp_path / "w.safetensors"))
    named = [each for each in variants_of(with_file) if "the file's norm on each token" in each.change]
    source = source_of(encoder)
    item = encoder.prepare(source.inputs)
    tokens = encoder.tokens(encoder.stage([item]), [item])  # (1, 128, D), without a norm
    normed = torch.nn.functional.layer_norm(tokens, (64,), norm["norm.weight"], norm["norm.bias"], eps=1e-6)
    np.testing.assert_allclose(named[0].run(source, "utt")[0], normed[0].mean(0), rtol=0, atol=1e-5)
