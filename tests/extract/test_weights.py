"""Weights files: what is read, what is refused, what the hash covers, and the spellings of Hugging Face."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emo.extract.encoders.eva import TINY as EVA
from emo.extract.encoders.eva import EvaModel
from emo.extract.encoders.mae import TINY as MAE
from emo.extract.encoders.videomae import MERBENCH, SMALL
from emo.extract.encoders.vit import ViT
from emo.extract.weights import find_weights, fit, rename, vit_names
from emo.featstore.errors import ModelError, WeightsMissing

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def read(path):
    return find_weights(str(path)).tensors()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nest", [None, "model", "module", "state_dict"])
def test_torch_files_old_and_new_nested_and_flat(tmp_path, nest, zipped):
    content = {nest: STATE, "epoch": 3, "args": argparse.Namespace(lr=1e-3)} if nest else STATE
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(read(tmp_path / "w.pth"), STATE)


def test_the_format_is_told_by_content_not_by_name(tmp_path):
    save_file(STATE, tmp_path / "w.pth")
    assert same(read(tmp_path / "w.pth"), STATE)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"just some text", "begins with"),
        (b"<!DOCTYPE html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, what):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match=what) as caught:
        read(tmp_path / "w.pth")
    assert "w.pth is not a checkpoint" in caught.value.message


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_truncated_torch_files(tmp_path, keep, zipped):
    path = tmp_path / "w.pth"
    torch.save({"x": torch.randn(500)}, path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(ModelError, match="damaged or truncated"):
        read(path)


@pytest.mark.parametrize("keep", [0.05, 0.5])
def test_truncated_safetensors(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.randn(500)}, path)
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(ModelError, match="damaged"):
        read(path)


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, plain):
    target = tmp_path / "pwned"
    content = {"model": STATE, "extra": Payload(str(target))}
    if plain:
        (tmp_path / "w.pth").write_bytes(pickle.dumps({"x": Payload(str(target))}, protocol=2))
    else:
        torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth"):
        read(tmp_path / "w.pth")
    assert not target.exists()


def test_the_object_that_is_refused_is_named(tmp_path):
    torch.save({"model": STATE, "extra": Payload("x")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"the object \w+\.mkdir;.*can run code"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, {"model": {"lr": 0.1}}, {"a": torch.ones(1), "b": "text"}])
def test_checkpoints_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"state dict|mixes tensors"):
        read(tmp_path / "w.pth")


# ---- folders and the hub ---------------------------------------------------------------------------------------------


def shard(folder, files):
    folder.mkdir(exist_ok=True)
    index = {}
    for name, state in files.items():
        save_file(state, folder / name)
        index |= dict.fromkeys(state, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_shards_are_put_together(tmp_path):
    parts = {f"model-{i}.safetensors": {name: STATE[name]} for i, name in enumerate(STATE)}
    folder = shard(tmp_path, parts)
    assert same(read(folder), STATE)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks shard model-1\.safetensors"):
        read(folder)


def test_a_torch_folder_and_one_without_weights(tmp_path):
    with pytest.raises(ModelError, match=r"none of model\.safetensors"):
        find_weights(tmp_path)
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert same(read(tmp_path), STATE)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ModelError, match="not valid JSON"):
        find_weights(tmp_path).config()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A Hugging Face cache that holds one model, and a hub that must not be asked."""
    folder = tmp_path / "hub/models--someone--some-model"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0" * 40)
    save_file(STATE, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text('{"hidden_size": 2}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("emo.extract.weights.fetch", lambda source: pytest.fail(f"asked the hub for {source}"))


def test_the_local_cache_comes_first(cache):
    found = find_weights("someone/some-model")
    assert found.source == "someone/some-model"
    assert same(found.tensors(), STATE)
    assert found.config() == {"hidden_size": 2}


def test_what_is_not_cached_is_pulled(cache, monkeypatch, tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr("emo.extract.weights.fetch", lambda source: asked.append(source.hub) or tmp_path)
    assert same(find_weights("someone/other-model").tensors(), STATE)
    assert asked == ["someone/other-model"]


@pytest.mark.parametrize("missing", ["/nowhere/w", "checkpoints/mae.pth", "./some/where", "one-word", "a..b/c"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(cache, missing):
    with pytest.raises(WeightsMissing, match="no weights at"):
        find_weights(missing)


# ---- hash ------------------------------------------------------------------------------------------------------------


def test_the_hash_is_of_content_not_of_name_or_time(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    first = find_weights(tmp_path / "a.pth").hash
    assert len(first) == 32
    assert find_weights(tmp_path / "b.pth").hash == first
    torch.save({**STATE, "a.bias": torch.zeros(2)}, tmp_path / "a.pth")
    os.utime(tmp_path / "a.pth", (time.time() + 5,) * 2)
    assert find_weights(tmp_path / "a.pth").hash != first


def test_the_hash_of_a_folder_covers_weights_and_config_only(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    first = find_weights(tmp_path).hash
    (tmp_path / "README.md").write_text("hello")
    assert find_weights(tmp_path).hash == first
    (tmp_path / "config.json").write_text("{}")
    second = find_weights(tmp_path).hash
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert len({first, second, find_weights(tmp_path).hash}) == 3


# ---- strictness and spellings ----------------------------------------------------------------------------------------


def test_two_spellings_of_one_tensor_are_refused():
    with pytest.raises(ModelError, match="twice"):
        rename({"module.a": torch.ones(1), "a": torch.ones(1)}, [(r"^module\.", "")], "w.pth")


def test_fit_counts_and_names_what_is_wrong():
    expected = {f"blocks.{i}.w": torch.Size([2]) for i in range(6)}
    found = {f"blocks.{i}.w": torch.ones(2) for i in range(1)} | {"head.w": torch.ones(3)}
    with pytest.raises(ModelError, match=r"lacks blocks\.1\.w.* and 1 more; holds unexpected head\.w") as caught:
        fit(expected, found, (), "w.pth")
    assert caught.value.hint == "The file has 1 layers, the encoder 6."
    assert fit({"a": torch.Size([2])}, {"a": torch.ones(2).half()}, (), "w")[0]["a"].dtype == torch.float32


def sizes(cfg):
    return {
        "hidden_size": cfg.dim,
        "num_hidden_layers": cfg.depth,
        "num_attention_heads": cfg.heads,
        "intermediate_size": cfg.mlp,
        "image_size": cfg.img,
        "patch_size": cfg.patch,
        "layer_norm_eps": cfg.eps,
    }


def mae_pair():
    from transformers import ViTConfig, ViTModel

    theirs = ViTModel(ViTConfig(**sizes(MAE)), add_pooling_layer=False)
    pixels = torch.rand(2, 3, MAE.img, MAE.img)
    return (
        ViT(MAE),
        theirs,
        pixels,
        lambda: theirs(pixels).last_hidden_state,
        lambda ours: ours.final_norm(ours(pixels)),
    )


def mae_pretraining_pair():
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    theirs = ViTMAEForPreTraining(ViTMAEConfig(**sizes(MAE), mask_ratio=0.0, decoder_num_hidden_layers=1))
    pixels = torch.rand(2, 3, MAE.img, MAE.img)
    order = torch.arange(MAE.tokens - 1, dtype=torch.float32).expand(2, -1)  # keeps the patches in their order
    run = lambda: theirs.vit(pixels, noise=order).last_hidden_state  # noqa: E731
    return ViT(MAE), theirs, pixels, run, lambda ours: ours.final_norm(ours(pixels))


def videomae_pair():

    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    cfg = replace(MERBENCH, **SMALL)
    config = VideoMAEConfig(**sizes(cfg), use_mean_pooling=False, decoder_num_hidden_layers=1)
    theirs = VideoMAEForPreTraining(config)
    clips = torch.rand(1, 16, 3, cfg.img, cfg.img)
    run = lambda: theirs.videomae(clips).last_hidden_state  # noqa: E731
    return ViT(cfg), theirs, clips, run, lambda ours: ours.final_norm(ours(clips.transpose(1, 2)))


def eva_pair():
    from transformers import Blip2VisionConfig, Blip2VisionModel

    theirs = Blip2VisionModel(Blip2VisionConfig(**sizes(EVA), qkv_bias=True))
    for layer in theirs.encoder.layers:  # BLIP-2's key bias is zero
        layer.self_attn.qkv.bias.data[EVA.dim : 2 * EVA.dim] = 0
    pixels = torch.rand(2, 3, EVA.img, EVA.img)
    run = lambda: theirs.encoder(theirs.embeddings(pixels)).last_hidden_state  # noqa: E731 - before post_layernorm
    return EvaModel(EVA), theirs, pixels, run, lambda ours: ours(pixels)


@pytest.mark.parametrize("in_memory", [False, True], ids=["saved", "in-memory"])
@pytest.mark.parametrize("pair", [mae_pair, mae_pretraining_pair, videomae_pair, eva_pair])
def test_hugging_face_spellings_give_what_transformers_gives(pair, in_memory, tmp_path):
    """Files written by `save_pretrained`, and state dicts as transformers 5.x holds them, in the same transformer."""
    torch.manual_seed(0)
    ours, theirs, _, run, forward = pair()
    for name, parameter in theirs.named_parameters():
        if "key" not in name and "qkv.bias" not in name:
            torch.nn.init.normal_(parameter, std=0.05)
    theirs.eval()
    if in_memory:
        torch.save(theirs.state_dict(), tmp_path / "w.pth")
        found = read(tmp_path / "w.pth")
    else:
        theirs.save_pretrained(tmp_path)
        found = read(tmp_path)
    found, _ = vit_names(found, ours.cfg.bias, "file")
    expected = {name: tensor.shape for name, tensor in ours.state_dict().items() if not name.startswith("ln_vision")}
    ignore = [(r"decoder.*|encoder_to_decoder.*|mask_token|post_layernorm.*", "not this model")]
    state, _ = fit(expected, found, ignore, "file")
    ours.load_state_dict(state, strict=False)
    with torch.no_grad():
        want, got = run().numpy(), forward(ours.eval()).numpy()
    assert np.abs(got - want).max() < 2e-5


def test_a_key_bias_where_the_model_has_none_is_refused():
    state = {"blocks.0.attn.qkv.bias": torch.cat([torch.zeros(4), torch.ones(4), torch.zeros(4)])}
    with pytest.raises(ModelError, match="key bias"):
        vit_names(state, "qv", "file")
    state["blocks.0.attn.qkv.bias"][4:8] = 0
    renamed, dropped = vit_names(state, "qv", "file")
    assert set(renamed) == {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"}
    assert list(dropped.values()) == ["zeros: this model has no key bias"]
