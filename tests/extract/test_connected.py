"""Pictures that the frozen connector has read: the contract, its two files, and what the family makes of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from emo.extract.encoders.registry import find_encoder
from emo.extract.testing import CONTRACT
from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.shared import shared

STC, PATCHES = "siglip-so400m-384-stc-UTT", "siglip-so400m-384-UTT"


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(promise):
    promise(find_encoder(STC))


def test_the_rows_are_those_of_the_connector_on_the_patches(tmp_path):
    connector = shared("connector").StcConnector(32, 40)
    prefix = "base_model.model.model.mm_projector."
    state = {prefix + name: each for name, each in connector.state_dict().items()} | {"lm_head.weight": torch.zeros(2)}
    save_file(state, tmp_path / "some.safetensors")
    encoder = find_encoder(STC)(profile="tiny", also=str(tmp_path / "some.safetensors"))
    plain = find_encoder(PATCHES)(profile="tiny")
    item = encoder.prepare(encoder.sample(3))
    patches = torch.from_numpy(plain.encode([item])[0]["tokens"].array)
    with torch.no_grad():
        want = connector(patches.unflatten(0, (16, -1))[None])[0]
    found = encoder.encode([item])[0]["tokens"].array
    assert found.shape == (encoder.spec("tokens").rows, 40)
    torch.testing.assert_close(torch.from_numpy(found), want, atol=1e-5, rtol=1e-5)
    drawn = find_encoder(STC)(profile="tiny")
    assert drawn.spec("tokens").fingerprint != encoder.spec("tokens").fingerprint
    assert drawn.spec("tokens").dim == 64


@pytest.mark.parametrize(
    ("file", "table"),
    [("config.json", {"mm_projector_type": "stc_connector"}), ("manifest.json", {"sizes": {"connector": "stc_v1"}})],
)
def test_a_connector_of_another_version_is_refused(tmp_path, file, table):
    """Its tensors have the same names and shapes, and make other rows."""
    connector = shared("connector").StcConnector(32, 40, "stc_v1")
    state = {f"mm_projector.{name}": each for name, each in connector.state_dict().items()}
    save_file(state, tmp_path / "projections.safetensors")
    (tmp_path / file).write_text(json.dumps(table))
    with pytest.raises(ModelError, match="is stc_v1, and siglip-so400m-384-stc-UTT is of stc_v35"):
        find_encoder(STC)(profile="tiny", also=str(tmp_path / "projections.safetensors"))


def test_true_sizes_and_what_lacks(tmp_path):
    assert (find_encoder(STC)(profile="random").spec("tokens").rows, find_encoder(STC)(profile="random").dim) == (
        1352,
        3584,
    )
    torch.save({"model.mm_projector_a.0.weight": torch.zeros(2, 2)}, tmp_path / "sound.bin")
    with pytest.raises(ModelError, match="holds no connector"):
        find_encoder(STC)(profile="tiny", also=str(tmp_path / "sound.bin"))
    with pytest.raises(WeightsMissing):
        find_encoder(STC)()
