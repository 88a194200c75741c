"""BEATs: the contract, its files, and what no golden notices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.beats import BeatsWhole, BeatsWindows
from emo.extract.encoders.beats_net import BeatsConfig, PositionalConv
from emo.extract.encoders.registry import find_encoder
from emo.extract.testing import CONTRACT
from emo.extract.weights import seeded_state
from emo.featstore.errors import ModelError

SMALL = {"cfg": {"encoder_layers": 2, "encoder_embed_dim": 16, "embed_dim": 8, "encoder_ffn_embed_dim": 24}}
SMALL["cfg"] |= {"encoder_attention_heads": 2, "conv_pos": 4, "conv_pos_groups": 2, "num_buckets": 8, "max_distance": 9}


def state_of(encoder):
    with torch.device("meta"):
        model = encoder.build()
    return seeded_state({name: each.shape for name, each in model.state_dict().items()}, 3)


@pytest.fixture
def state():
    return state_of(BeatsWindows(profile="tiny", config=BeatsConfig(**SMALL["cfg"])))


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("kind", [BeatsWindows, BeatsWhole])
def test_contract(promise, kind):
    promise(kind)


def test_the_two_recipes_are_two_features():
    assert find_encoder("beats-iter3-whole-FRA") is BeatsWhole
    assert (
        BeatsWhole(profile="tiny").spec("tokens").fingerprint != BeatsWindows(profile="tiny").spec("tokens").fingerprint
    )
    assert BeatsWindows(profile="random").spec("tokens").rows == 1496


def test_windows_and_the_whole():
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, 40 * 16_000).astype(np.float32)
    windows, whole = BeatsWindows(profile="tiny"), BeatsWhole(profile="tiny")
    cut = whole.prepare(ClipInputs(audio=sound[: 30 * 16_000]))
    assert torch.equal(whole.prepare(ClipInputs(audio=sound)).payload, cut.payload)
    bank = windows.prepare(ClipInputs(audio=sound)).payload[0]
    assert bank.shape == (2998, 128)
    silent = bank[1600:]  # eight windows of 2 s are 16 s
    assert (silent == silent[0, 0]).all()
    assert abs(float(silent[0, 0]) + 15.9375) < 1e-6


@pytest.mark.parametrize("prefix", ["", "model.audio_tower.", "audio_tower."])
def test_files_of_the_authors_and_of_video_llama(tmp_path, state, prefix):
    """Sizes come from the file; the table of distances may stand there once or in every layer; classes are left."""
    table = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
    held = {prefix + name: each for name, each in state.items()}
    held |= {prefix + table.format(1): state[table.format(0)], prefix + "predictor.weight": torch.zeros(5, 16)}
    torch.save({"model": held, **SMALL}, tmp_path / "beats.pt")
    encoder = BeatsWindows(profile="tiny", weights=str(tmp_path / "beats.pt"))
    report = encoder.load()
    assert set(report.ignored) == {"predictor.weight", table.format(1)}
    assert sorted(report.consumed) == sorted(state)
    held[prefix + table.format(1)] = held[prefix + table.format(1)] + 1
    torch.save({"model": held, **SMALL}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="another table of distances"):
        BeatsWindows(profile="tiny", weights=str(tmp_path / "other.pt")).load()


def test_files_of_other_networks_are_refused(tmp_path, state):
    torch.save({"model": state, "cfg": SMALL["cfg"] | {"deep_norm": False}}, tmp_path / "shallow.pt")
    with pytest.raises(ModelError, match="deep_norm is False instead of True"):
        BeatsWindows(profile="tiny", weights=str(tmp_path / "shallow.pt"))
    torch.save({"model": state, **SMALL}, tmp_path / "small.pt")
    with pytest.raises(ModelError, match="sizes of BEATs iter3"):
        BeatsWindows(weights=str(tmp_path / "small.pt"))
    (tmp_path / "page.pt").write_text("<html>")
    with pytest.raises(ModelError, match="web page"):
        BeatsWindows(weights=str(tmp_path / "page.pt"))


def test_the_weight_norm_has_its_small_constant():
    conv = PositionalConv(BeatsConfig(encoder_embed_dim=2, conv_pos=2, conv_pos_groups=1))
    with torch.no_grad():
        conv.bias.zero_()
        conv.weight_g.fill_(1.0)
        conv.weight_v.fill_(1e-4)  # four values for a place: their squares sum to 4e-8
        out = conv(torch.ones(1, 1, 2))
    weight = 1e-4 / (4e-8 + 1e-6) ** 0.5
    torch.testing.assert_close(out, torch.nn.functional.gelu(torch.full((1, 1, 2), 2 * weight)))
