"""Every encoder keeps the contract of `emo.extract.testing`; and what each of emo's own promises beyond it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import VideoMAEConfig, VideoMAEModel

from emo.extract.encoders import registry
from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.eva import LN_VISION_EPS, Eva
from emo.extract.encoders.hubert import LARGE, HubertLast
from emo.extract.encoders.mae import Mae
from emo.extract.encoders.minilm import MiniLM
from emo.extract.encoders.registry import encoder_names, find_encoder, load_encoder, register
from emo.extract.encoders.videomae import VideoMaeAuthor, VideoMaeMerbench
from emo.extract.testing import CONTRACT, INVARIANCE, difference, every_constant_is_in_the_key, neighbours_do_not_matter
from emo.extract.weights import seeded_state
from emo.featstore import install
from emo.featstore.errors import MediaError, ModelError, UsageError, WeightsMissing
from emo.featstore.install import install_command
from emo.featstore.names import meaning

NETWORKS = ["HL-UTT", "HL-MERBench-UTT", "mae_340_UTT", "maeV_399_UTT", "videomae-large-UTT", "eva_g_448"]
NAMES = [*NETWORKS, "eGeMAPS_UTT", "all-MiniLM-L6-v2-UTT"]
NETWORKS.append("all-MiniLM-L6-v2-UTT")
needs_opensmile = pytest.mark.skipif(find_spec("opensmile") is None, reason="opensmile is not installed: extra egemaps")
ELSEWHERE = ("mesh_UTT", "beats-iter3-UTT", "beats-iter3-whole-UTT")  # tested in test_mesh.py and test_beats.py


def make_inputs(needs: str, size: int, seed: int = 0) -> ClipInputs:
    """Random input; `size` makes it longer (audio, faces, text) or larger (frame)."""
    return {"audio": HubertLast, "faces": Mae, "frame": Eva, "text": MiniLM}[needs].sample(size, seed)


def state_of(encoder, seed=3):
    """A complete state dict for an encoder, as a published file would hold it."""
    with torch.device("meta"):
        model = encoder.build()
    return seeded_state({name: tensor.shape for name, tensor in model.state_dict().items()}, seed)


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[] if n in NETWORKS else needs_opensmile) for n in NAMES])
def encoder(request):
    return load_encoder(request.param, "tiny")


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """An encoder that has weights."""
    return load_encoder(request.param, "tiny")


def test_the_list_is_complete():
    assert encoder_names() == [*NAMES, *ELSEWHERE]


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(encoder, promise):
    promise(type(encoder))


# ---- identity --------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_same_in_every_instance_and_process():
    program = (
        "from emo.extract.encoders.registry import *\n"
        f"for name in {NETWORKS}:\n"
        "    e = load_encoder(name, 'tiny')\n"
        "    print(*(e.spec(level).fingerprint for level in e.levels))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    encoders = [load_encoder(name, "tiny") for name in NETWORKS]
    assert other == [e.spec(level).fingerprint for e in encoders for level in e.levels]
    assert len(set(other)) == len(other)


def test_what_changes_the_numbers_changes_the_fingerprint_and_nothing_else_does(network):
    level = network.levels[0]
    same = [load_encoder(network.name, "tiny", dtype="bfloat16")]
    other = [
        load_encoder(network.name, "tiny", seed=1),
        load_encoder(network.name, "tiny", media_recipe={"faces": "x"}),
    ]
    other.append(load_encoder(network.name, "random"))
    mine = network.spec(level).fingerprint
    assert {e.spec(level).fingerprint for e in same} == {mine}
    assert len({e.spec(level).fingerprint for e in other} | {mine}) == 4


def test_profiles_cannot_be_mixed_up(network, tmp_path, monkeypatch):
    monkeypatch.setattr(type(network), "installed", classmethod(lambda cls: None))
    with pytest.raises(WeightsMissing, match=r"emo\.toml"):
        load_encoder(network.name, "paper")
    with pytest.raises(UsageError, match="random"):
        load_encoder(network.name, "random", weights=str(tmp_path))
    with pytest.raises(UsageError, match="sizes"):
        load_encoder(network.name, "random", config=network.config)
    with pytest.raises(UsageError, match="huge"):
        load_encoder(network.name, "huge")
    assert load_encoder(network.name, "random").spec(network.levels[0]).profile == "random"


# Identities at the published sizes. Whoever changes one makes every store of that feature start anew: raise `version`
# with it, on purpose.
KEYS = {
    ("HL-UTT", "utt"): "c25d2fefdc9a65f6419c96e8378c8ef7",
    ("HL-UTT", "frame"): "98b92fb3426a575465c12765bce03d8e",
    ("HL-MERBench-UTT", "utt"): "7dec6009a04c712b181530be401d03cd",
    ("HL-MERBench-UTT", "frame"): "19fbd7564a5ac42fd86e0421ae978476",
    ("mae_340_UTT", "utt"): "88619496a23b43fdd90ee4b6900b6771",
    ("mae_340_UTT", "frame"): "bc074afa0d62fd967a5c63fb292fc192",
    ("maeV_399_UTT", "utt"): "90b0c7ba617e9ead5d9af8b5d3c74784",
    ("videomae-large-UTT", "utt"): "ef49b466ab4a5f34e572591518eccdd3",
    ("videomae-large-UTT", "frame"): "1d5c8f4617f0e8620f37fdaeada368fd",
    ("eva_g_448", "tokens"): "e4220266daef8f29eb9c711e97375406",
    ("all-MiniLM-L6-v2-UTT", "utt"): "6bbc70af5948979707f3ff897260cb97",
}


@pytest.mark.parametrize(("name", "level"), KEYS)
def test_the_recipe_of_a_published_feature_stays_what_it_is(name, level):
    assert load_encoder(name, "random").spec(level).fingerprint == KEYS[name, level]


@pytest.mark.parametrize(
    ("name", "forgotten"),
    [
        ("HL-UTT", "normalise"),
        ("HL-MERBench-UTT", "chunk"),
        ("mae_340_UTT", "mean"),
        ("mae_340_UTT", "std"),
        ("videomae-large-UTT", "resize"),
        ("eva_g_448", "arch"),
        ("all-MiniLM-L6-v2-UTT", "max_tokens"),
    ],
)
def test_the_contract_sees_a_constant_that_the_recipe_forgets(name, forgotten):
    kind = find_encoder(name)

    class Forgetful(kind):
        def recipe(self, level):
            return {key: value for key, value in super().recipe(level).items() if key != forgotten}

    with pytest.raises(AssertionError, match="has the same key"):
        every_constant_is_in_the_key(Forgetful)


def test_the_contract_sees_a_version_that_is_not_in_the_key():
    class Unversioned(Mae):
        def spec(self, level):
            return replace(super().spec(level), version=1)

    with pytest.raises(AssertionError, match="another version has the same key"):
        every_constant_is_in_the_key(Unversioned)


def test_the_contract_sees_clips_that_depend_on_their_neighbours():
    class Leaky(Mae):
        def run(self, tensors, batch):
            return [rows + len(batch) for rows in super().run(tensors, batch)]

    with pytest.raises(AssertionError, match="alone and among others"):
        neighbours_do_not_matter(Leaky)


# ---- output ----------------------------------------------------------------------------------------------------------


def test_cost_grows_with_the_work(encoder):
    small, large = (encoder.prepare(make_inputs(encoder.needs, size)).cost for size in (1, 20))
    assert small <= large
    assert (small < large) == (encoder.name in ("HL-UTT", "HL-MERBench-UTT", "mae_340_UTT", MiniLM.name))


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_missing_or_odd_input_is_a_media_error(encoder):
    bad = {
        "audio": [
            (ClipInputs(), "no-audio"),
            (ClipInputs(audio=np.zeros(0, np.float32)), "audio-too-short"),
            (ClipInputs(audio=np.zeros(399, np.float32)), "audio-too-short"),
            (ClipInputs(audio=np.zeros((2, 16000), np.float32)), "bad-input"),
            (ClipInputs(audio=np.zeros(16000, np.int16)), "bad-input"),
            (ClipInputs(audio=np.full(16000, np.nan, np.float32)), "bad-input"),
        ],
        "faces": [
            (ClipInputs(), "no-face"),
            (ClipInputs(faces=np.zeros((0, 112, 112, 3), np.uint8)), "no-face"),
            (ClipInputs(faces=np.zeros((112, 112, 3), np.uint8)), "bad-input"),
            (ClipInputs(faces=np.zeros((2, 112, 112, 3), np.float32)), "bad-input"),
            (ClipInputs(faces=np.zeros((2, 112, 112, 4), np.uint8)), "bad-input"),
        ],
        "frame": [
            (ClipInputs(), "no-frame"),
            (ClipInputs(frame=np.zeros((0, 0, 3), np.uint8)), "no-frame"),
            (ClipInputs(frame=np.zeros((1, 90, 160, 3), np.uint8)), "bad-input"),
            (ClipInputs(frame=np.zeros((90, 160), np.uint8)), "bad-input"),
        ],
        "text": [(ClipInputs(), "no-text"), (ClipInputs(transcripts={"english": " \n", "chinese": "你好"}), "no-text")],
    }[encoder.needs]
    for inputs, kind in bad:
        with pytest.raises(MediaError) as caught:
            encoder.prepare(inputs)
        assert (caught.value.kind, caught.value.retry) == (kind, False)


def test_the_smallest_valid_input_works(encoder):
    least = {
        "audio": ClipInputs(audio=np.zeros(400, np.float32)),  # silence, 25 ms
        "faces": ClipInputs(faces=np.zeros((1, 1, 2, 3), np.uint8)),
        "frame": ClipInputs(frame=np.zeros((1, 1, 3), np.uint8)),
        "text": ClipInputs(transcripts={"text": "."}),
    }[encoder.needs]
    if not encoder.learned:
        least = ClipInputs(audio=np.full(960, 1 / 32768, np.float32))  # 60 ms, the quietest that 16 bits can say
    for result in encoder.encode([encoder.prepare(least)])[0].values():
        assert np.isfinite(result.array).all()


# ---- weights files ---------------------------------------------------------------------------------------------------


def save(state, path):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return str(path)


def load_with(encoder, path):
    return load_encoder(encoder.name, "tiny", weights=path, config=encoder.config)


def test_a_complete_file_loads_and_its_hash_is_the_identity(network, tmp_path):
    state = state_of(network)
    loaded = load_with(network, save(state, tmp_path / "w.safetensors"))
    report = loaded.load()
    assert set(report.consumed) == set(state)
    assert not report.ignored
    assert loaded.spec(network.levels[0]).weights == loaded.weights.hash
    with loaded.computing() as model:
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name]), name


def test_every_missing_tensor_is_named(network, tmp_path):
    needed = [name for name in state_of(network) if not name.startswith("ln_vision.")]
    for name in needed[::7]:
        state = state_of(network)
        del state[name]
        with pytest.raises(ModelError, match="lacks") as caught:
            load_with(network, save(state, tmp_path / "w.safetensors")).load()
        assert name in caught.value.message


def test_unexpected_tensors_are_named(network, tmp_path):
    state = {**state_of(network), "surprise.weight": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"unexpected surprise\.weight"):
        load_with(network, save(state, tmp_path / "w.safetensors")).load()


def test_other_shapes_are_named(network, tmp_path):
    state = state_of(network)
    name = next(name for name in state if name.endswith("bias"))
    state[name] = torch.zeros(5)
    with pytest.raises(ModelError, match=r"\(5,\) instead of") as caught:
        load_with(network, save(state, tmp_path / "w.safetensors")).load()
    assert name in caught.value.message


def test_the_file_of_another_model_is_refused_with_its_names(network, tmp_path):
    path = save({"lstm.weight_ih": torch.zeros(4, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="another model"):
        load_with(network, path).load()


def test_what_is_ignored_has_a_reason(network, tmp_path):
    extra = {
        "HL-UTT": "masked_spec_embed",
        "HL-MERBench-UTT": "lm_head.weight",
        "mae_340_UTT": "decoder_blocks.0.norm1.weight",
        "maeV_399_UTT": "encoder_to_decoder.weight",
        "videomae-large-UTT": "mask_token",
        "eva_g_448": "blocks.39.norm1.weight",
        "all-MiniLM-L6-v2-UTT": "pooler.dense.weight",
    }[network.name]
    state = {**state_of(network), extra: torch.zeros(3)}
    report = load_with(network, save(state, tmp_path / "w.safetensors")).load()
    assert report.ignored[extra]


@pytest.mark.parametrize("nest", ["model", "module", None])
def test_training_checkpoints_with_prefixes_load(network, tmp_path, nest):
    prefixes = {"eva_g_448": "visual_encoder.", "maeV_399_UTT": "encoder.", "HL-UTT": "hubert."}
    state = state_of(network)
    named = {f"module.{prefixes.get(network.name, '')}{name}": tensor for name, tensor in state.items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({nest: named, "epoch": 199} if nest else named, path)
    assert set(load_with(network, str(path)).load().consumed) == set(state)


# ---- what emo's own encoders promise ---------------------------------------------------------------------------------


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def true_models():
    """The models at the published sizes, without values."""
    with torch.device("meta"):
        classes = (HubertLast, Mae, VideoMaeAuthor, VideoMaeMerbench, Eva, MiniLM)
        return {cls.name: cls(profile="random").build() for cls in classes}


def test_true_sizes(true_models):
    counts = {name: parameters(model) for name, model in true_models.items()}
    ln_vision = 2 * 1408
    assert counts == {
        "HL-UTT": 315_437_696,  # without masked_spec_embed
        "mae_340_UTT": 303_301_632,
        "maeV_399_UTT": 303_860_736 - 2 * 1024,  # no final norm
        "videomae-large-UTT": 303_860_736,
        "eva_g_448": 986_975_872 + ln_vision,
        "all-MiniLM-L6-v2-UTT": 22_713_216 - 384 * 384 - 384,  # without the pooler
    }


def test_true_names_of_eva(true_models):
    """The names and shapes that eva_vit_g.pth has, but for its 224 px position table."""
    d, h = 1408, 6144
    want = {"cls_token": (1, 1, d), "pos_embed": (1, 1025, d)}
    want |= {"patch_embed.proj.weight": (d, 3, 14, 14), "patch_embed.proj.bias": (d,)}
    for i in range(39):
        stem = f"blocks.{i}."
        want |= {f"{stem}norm{n}.{kind}": (d,) for n in (1, 2) for kind in ("weight", "bias")}
        want |= {f"{stem}attn.q_bias": (d,), f"{stem}attn.v_bias": (d,), f"{stem}attn.qkv.weight": (3 * d, d)}
        want |= {f"{stem}attn.proj.weight": (d, d), f"{stem}attn.proj.bias": (d,)}
        want |= {f"{stem}mlp.fc1.weight": (h, d), f"{stem}mlp.fc1.bias": (h,)}
        want |= {f"{stem}mlp.fc2.weight": (d, h), f"{stem}mlp.fc2.bias": (d,)}
    want |= {"ln_vision.weight": (d,), "ln_vision.bias": (d,)}
    assert {name: tuple(t.shape) for name, t in true_models["eva_g_448"].state_dict().items()} == want


def test_epsilons(true_models):
    """A wrong epsilon passes most tolerances, so the values themselves are asserted."""

    def epsilons(model):
        return {m.eps for name, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm) and name != "ln_vision"}

    assert epsilons(true_models["mae_340_UTT"]) == {1e-6}
    assert epsilons(true_models["maeV_399_UTT"]) == {1e-6}
    assert epsilons(true_models["videomae-large-UTT"]) == {1e-12}
    assert epsilons(true_models["eva_g_448"]) == {1e-6}
    assert epsilons(true_models["HL-UTT"]) == {1e-5}
    assert true_models["eva_g_448"].ln_vision.eps == LN_VISION_EPS == 1e-5


def test_audio_normalisation_has_epsilon_1e_7():
    quiet = np.float32([1e-3, -1e-3] * 800)
    want = 1e-3 / np.sqrt(1e-6 + 1e-7)
    payload = load_encoder("HL-UTT", "tiny").prepare(ClipInputs(audio=quiet)).payload
    assert payload[0, 0].item() == pytest.approx(want, rel=1e-5)


def test_final_norms(true_models):
    assert hasattr(true_models["mae_340_UTT"], "norm")
    assert not hasattr(true_models["maeV_399_UTT"], "norm")
    assert hasattr(true_models["videomae-large-UTT"], "norm")
    assert not hasattr(true_models["eva_g_448"], "norm")


@pytest.mark.parametrize(
    ("samples", "frames"), [(400, 1), (719, 1), (720, 2), (16000, 49), (160000, 499), (320000, 999)]
)
def test_hubert_frames_per_sample(samples, frames):
    encoder = load_encoder("HL-UTT", "tiny")
    assert encoder.frames(samples) == frames
    assert (encoder.shortest, encoder.hop_samples) == (400, 320)


@pytest.mark.parametrize(("samples", "rows"), [(160_000, 499), (160_001, 998), (320_000, 998)])
def test_merbench_folds_what_is_longer_than_ten_seconds(samples, rows):
    encoder = load_encoder("HL-MERBench-UTT", "tiny")
    item = encoder.prepare(ClipInputs(audio=np.random.default_rng(0).normal(size=samples).astype(np.float32)))
    assert item.payload.shape[1] == 160_000
    assert encoder.encode([item])[0]["frame"].array.shape == (rows, 64)


def test_group_norm_sounds_of_other_lengths_never_share_a_forward():
    sizes = {**load_encoder("HL-UTT", "tiny").config, "feat_extract_norm": "group", "do_stable_layer_norm": False}
    encoder = load_encoder("HL-UTT", "tiny", config=sizes)
    items = [encoder.prepare(make_inputs("audio", size, seed=size)) for size in (20, 21, 20)]
    shapes = []
    with encoder.computing() as model:
        model.register_forward_pre_hook(lambda _m, args: shapes.append(tuple(args[0].shape)))
    together = encoder.encode(items)
    assert shapes == [(2, 80_000), (1, 84_000)]
    for item, output in zip(items, together, strict=True):
        assert difference(output["frame"].array, encoder.encode([item])[0]["frame"].array) < INVARIANCE


def test_times_of_rows():
    faces = make_inputs("faces", 32)
    mae, merbench = load_encoder("mae_340_UTT", "tiny"), load_encoder("videomae-large-UTT", "tiny")
    assert mae.encode([mae.prepare(faces)])[0]["frame"].hop_s == 0.04
    assert merbench.encode([merbench.prepare(faces)])[0]["frame"].hop_s == pytest.approx(0.04 * 32 / 8)
    eva, audio = load_encoder("eva_g_448", "tiny"), load_encoder("HL-UTT", "tiny")
    assert eva.encode([eva.prepare(make_inputs("frame", 1))])[0]["tokens"].t0_s == 2.0  # frame 50 at 25 per second
    assert audio.encode([audio.prepare(make_inputs("audio", 4))])[0]["frame"].hop_s == 0.02


def test_eva_takes_a_smaller_half_precision_position_table(tmp_path):
    """As eva_vit_g.pth: half precision, 224 px table, 40th block, no ln_vision."""
    eva = load_encoder("eva_g_448", "tiny")
    state = {name: tensor.half() for name, tensor in state_of(eva).items() if not name.startswith("ln_vision")}
    state["pos_embed"] = torch.randn(1, 1 + 4 * 4, 64).half()
    state["blocks.39.attn.q_bias"] = torch.zeros(64).half()
    torch.save(state, tmp_path / "eva.pth")
    loaded = load_encoder("eva_g_448", "tiny", weights=str(tmp_path / "eva.pth"))
    report = loaded.load()
    assert "4x4 to 8x8" in report.notes[0]
    assert "no ln_vision" in report.notes[1]
    assert list(report.ignored) == ["blocks.39.attn.q_bias"]
    tokens = loaded.encode([loaded.prepare(make_inputs("frame", 1))])[0]["tokens"].array
    assert np.abs(tokens.mean(1)).max() < 1e-4  # plain normalisation
    assert np.abs(tokens.std(1) - 1).max() < 1e-2


def test_eva_finds_its_part_in_a_whole_model(tmp_path):
    """BLIP-2 and Emotion-LLaMA checkpoints hold a language model beside the image encoder."""
    eva = load_encoder("eva_g_448", "tiny")
    state = {f"visual_encoder.{n}" if not n.startswith("ln_") else n: t for n, t in state_of(eva).items()}
    language = ["llama_proj.weight", "llama_model.model.layers.0.q_proj.weight", "query_tokens"]
    state |= dict.fromkeys(language, torch.zeros(2))
    loaded = load_encoder("eva_g_448", "tiny", weights=save({n: t.clone() for n, t in state.items()}, tmp_path / "w"))
    report = loaded.load()
    assert set(report.ignored) == set(language)
    assert "ln_vision.weight" in report.consumed
    assert not report.notes


def test_another_image_size_is_explained(tmp_path):
    mae = load_encoder("mae_340_UTT", "tiny")
    state = {**state_of(mae), "pos_embed": torch.zeros(1, 197, 64)}
    with pytest.raises(ModelError, match="another image size"):
        load_encoder("mae_340_UTT", "tiny", weights=save(state, tmp_path / "w.safetensors")).load()


def test_global_pooling_without_the_option_is_explained(tmp_path):
    pooled = load_encoder("mae_340_UTT", "tiny", pooling="mean+fc_norm")
    path = save(state_of(pooled), tmp_path / "w.safetensors")
    assert load_encoder("mae_340_UTT", "tiny", weights=path, pooling="mean+fc_norm").load().consumed
    with pytest.raises(ModelError, match=r"pooling='mean\+fc_norm'"):
        load_encoder("mae_340_UTT", "tiny", weights=path).load()
    with pytest.raises(UsageError, match="sum"):
        load_encoder("mae_340_UTT", "tiny", pooling="sum")
    assert pooled.spec("utt").fingerprint != load_encoder("mae_340_UTT", "tiny").spec("utt").fingerprint


def test_a_base_size_checkpoint_is_called_that(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**LARGE, "hidden_size": 768, "num_hidden_layers": 12}))
    save({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="hidden_size is 768 instead of 1024"):
        load_encoder("HL-UTT", "paper", weights=str(tmp_path))
    state = {"cls_token": torch.zeros(1, 1, 768), "norm.weight": torch.zeros(768)}
    with pytest.raises(ModelError, match=r"base-size checkpoint \(768\), expected large \(1024\)"):
        load_encoder("mae_340_UTT", "paper", weights=save(state, tmp_path / "base.safetensors")).load()


@needs_opensmile
def test_what_is_computed_without_a_network_is_the_same_in_every_profile():
    specs = [load_encoder("egemaps", profile).spec("utt") for profile in ("paper", "tiny", "random")]
    assert len({spec.fingerprint for spec in specs}) == 1
    assert (specs[0].profile, specs[0].weights, specs[0].dim) == ("paper", "none", 88)
    assert specs[0].recipe["set"] == "eGeMAPSv02"
    assert specs[0].recipe["opensmile"] == metadata.version("opensmile")
    with pytest.raises(UsageError, match="no weights"):
        load_encoder("egemaps", weights="w.safetensors")


@needs_opensmile
def test_egemaps_of_a_tone_is_its_pitch_and_of_silence_nothing():
    egemaps = load_encoder("egemaps")
    tone = sum(np.sin(2 * np.pi * 150 * k * np.arange(16000) / 16000) / k for k in range(1, 20))
    row = egemaps.encode([egemaps.prepare(ClipInputs(audio=(0.1 * tone).astype(np.float32)))])[0]["utt"].array[0]
    semitones = 12 * np.log2(150 / 27.5)  # F0semitoneFrom27.5Hz, the first column
    assert row[0] == pytest.approx(semitones, abs=0.1)
    for quiet in (np.zeros(16000, np.float32), np.full(16000, 1e-5, np.float32)):
        with pytest.raises(MediaError) as caught:
            egemaps.prepare(ClipInputs(audio=quiet))
        assert caught.value.kind == "silent"
    with pytest.raises(MediaError) as caught:
        egemaps.prepare(ClipInputs(audio=np.full(959, 0.1, np.float32)))
    assert caught.value.kind == "audio-too-short"


def test_egemaps_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="opensmile") as caught:
        load_encoder("egemaps")
    assert install_command("egemaps") in caught.value.hint


# ---- registry --------------------------------------------------------------------------------------------------------


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UsageError, match="mae_340_UTT"):
        find_encoder("mae_341_UTT")
    with pytest.raises(UsageError, match="HL-UTT"):
        find_encoder("???")


@pytest.mark.parametrize(
    ("alias", "name"), [("HL", "HL-UTT"), ("mae_340_FRA", "mae_340_UTT"), ("minilm", "all-MiniLM-L6-v2-UTT")]
)
def test_aliases(alias, name):
    assert find_encoder(alias) is find_encoder(name)


def test_the_ambiguous_published_name_is_no_alias():
    """MER2023 and MERBench gave two different features one directory name."""
    with pytest.raises(UsageError, match="HL-UTT or HL-MERBench-UTT"):
        find_encoder("chinese-hubert-large-UTT")


def test_plugins_and_registration(monkeypatch):
    class Plugin(Mae):
        name = "mine"

    point = metadata.EntryPoint("mine its-alias", "plugin:Plugin", registry.GROUP)
    monkeypatch.setitem(sys.modules, "plugin", SimpleNamespace(Plugin=Plugin, text="no class"))
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [point])
    assert load_encoder("mine", "tiny").name == "mine"
    assert find_encoder("its-alias") is Plugin
    assert meaning("its-alias") == "mine"
    assert encoder_names() == [*NAMES, *ELSEWHERE, "mine"]
    monkeypatch.setattr(registry, "_lines", dict(registry._lines))
    register("other", Plugin, "another")
    assert find_encoder("other") is find_encoder("another") is Plugin
    with pytest.raises(UsageError, match="exists"):
        register("HL-UTT", Plugin)


@pytest.mark.parametrize(
    ("place", "said"),
    [("no.such.module:X", "cannot be imported: ModuleNotFoundError"), ("json:dumps", r"no subclass of emo\.Encoder")],
)
def test_a_broken_plugin_is_a_sentence_and_hides_nobody(monkeypatch, place, said):
    point = metadata.EntryPoint("broken", place, registry.GROUP)
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [point])
    with pytest.raises(UsageError, match=said):
        find_encoder("broken")
    assert find_encoder("HL-UTT") is HubertLast


def test_devices_and_types_that_are_not_there():
    with pytest.raises(UsageError, match="device"):
        load_encoder("mae_340_UTT", "tiny", device="abacus")
    with pytest.raises(UsageError, match="CUDA"):
        load_encoder("mae_340_UTT", "tiny", device="cuda:99")
    assert load_encoder("mae_340_UTT", "tiny", device="auto").device.type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="float8"):
        load_encoder("mae_340_UTT", "tiny", dtype="float8")


@pytest.mark.parametrize(
    "change", [{"size": {"shortest_edge": 256}}, {"crop_size": {"height": 192, "width": 192}}, {"do_normalize": False}]
)
def test_a_processor_that_asks_for_other_steps_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    config = VideoMAEConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96)
    VideoMAEModel(config).save_pretrained(tmp_path)
    usual = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(usual))
    load_encoder("videomae-large-UTT", profile="tiny", weights=str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(usual | change))
    with pytest.raises(ModelError, match="other steps"):
        load_encoder("videomae-large-UTT", profile="tiny", weights=str(tmp_path))
