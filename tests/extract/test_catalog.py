"""The field's names: what the catalog says is whole, and every kind of encoder in it keeps the contract."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

import pytest
import torch
from torch import nn

from emo.extract.encoders.catalog import Member, catalog
from emo.extract.encoders.registry import encoder_names, find_encoder, lines
from emo.extract.testing import CONTRACT
from emo.featstore.errors import UsageError
from emo.featstore.names import meaning

MEMBERS = {line: place for line, place in catalog().lines().items() if isinstance(place, Member)}
# Models of one type under one recipe differ in their name alone as long as nothing is published: one stands for all.
KINDS = {
    (each.entry.family, each.entry.type, each.recipe, str(each.entry.keys)): name for name, each in MEMBERS.items()
}


def test_every_row_of_the_field_is_here_or_has_a_reason():
    found = catalog()
    assert len(found.entries) >= 45
    assert not set(found.entries) & set(found.absent)
    assert all(len(reason.split()) >= 4 for reason in found.absent.values())
    for entry in found.entries.values():
        assert entry.licence
        assert entry.width > 0
        assert entry.gflop > 0
        assert entry.unit
        assert bool(entry.hub) != bool(entry.ask), entry.stem
        assert not entry.checked or date.fromisoformat(entry.checked)
        told = {*entry.recipes, *entry.lacks}
        assert entry.encoder or {"merbench", "modern"} <= told, entry.stem
        assert not set(entry.recipes) & set(entry.lacks)
        assert all(len(why.split()) >= 4 for why in entry.lacks.values())
    assert sum(bool(entry.checked) for entry in found.entries.values()) >= 25


def test_sets_name_encoders_that_are_here():
    for names in catalog().sets.values():
        assert all(find_encoder(name).name == name for name in names)
    assert len(catalog().spread(("@mer2026", "HL-MERBench-UTT"))) == len(catalog().sets["mer2026"])
    with pytest.raises(UsageError, match="no set") as caught:
        catalog().spread(("@nothing",))
    assert "@mer2026" in caught.value.hint
    assert "@merbench-top" in caught.value.hint


def test_a_name_of_the_field_that_is_not_here_says_why():
    with pytest.raises(UsageError) as caught:
        find_encoder("vggish-UTT")
    assert "TensorFlow" in caught.value.hint


def test_names_resolve_without_torch():
    code = (
        "import sys, emo\n"
        "from emo.featstore.names import known_names, meaning\n"
        "assert 'clip-vit-large-patch14-UTT' in known_names()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert meaning("clip-vit-large-patch14-UTT") == "clip-vit-large-patch14-UTT"


def test_names_are_used_once():
    words = [word for line in lines() for word in line.split()]
    twice = {word for word in words if words.count(word) > 1}
    assert twice == {"chinese-hubert-large-UTT"}  # two recipes, which the field calls so
    assert not set(encoder_names()) & set(MEMBERS)


def test_frames_go_by_the_name_of_the_field():
    kind = find_encoder("chinese-macbert-large-FRA")
    assert kind.names == {"utt": "chinese-macbert-large-UTT", "tokens": "chinese-macbert-large-FRA"}


@pytest.mark.parametrize("name", MEMBERS)
def test_published_sizes_give_the_width_that_is_stated(name):
    encoder = find_encoder(name)(profile="random")
    sides = 2 if MEMBERS[name].recipe == "stats" else 1  # mean and standard deviation side by side
    assert encoder.dim == MEMBERS[name].entry.width * sides
    assert encoder.spec("utt").name == name


COUNTED = {  # models whose operations are those of linear layers, one per size; what a weight is used for in a unit
    (each.entry.type, each.entry.width): (name, each.entry)
    for name, each in MEMBERS.items()
    if each.entry.family in ("speech", "image", "text", "causal") and each.entry.type not in ("xlnet", "gpt2")
}
CONVOLUTIONS = 4.9  # GFLOP per second of sound of wav2vec 2.0's seven convolutions, 512 channels wide
FRAMES = 50  # per second of sound, after them


@pytest.mark.parametrize(("name", "entry"), COUNTED.values(), ids=[name for name, _ in COUNTED.values()])
def test_stated_operations_follow_from_the_published_sizes(name, entry):
    """Two per weight of a linear layer and token, frame or patch; attention itself is little at these lengths."""
    encoder = find_encoder(name)(profile="random")
    with torch.device("meta"):
        layers = [each.weight for each in encoder.build().modules() if isinstance(each, nn.Linear)]
    weights = sum(each.numel() for each in layers)
    if entry.type == "albert":  # one layer's weights, used by all
        weights *= encoder.full.num_hidden_layers
    units = {"speech": FRAMES, "text": 1, "causal": 1}
    rows = units.get(entry.family) or (encoder._side // encoder.full.patch_size) ** 2 + 1
    counted = 2e-9 * weights * rows + (CONVOLUTIONS if entry.family == "speech" else 0)
    assert 0.65 < entry.gflop / counted < 1.5


@pytest.mark.parametrize("name", KINDS.values())
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(name, promise):
    promise(find_encoder(name))
