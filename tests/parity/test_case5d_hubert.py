"""HuBERT in both recipes and both sizes, from a Hugging Face folder: inputs, hidden states, features, batches."""

from __future__ import annotations

import json
import wave

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.hubert import HubertLast, HubertMerbench

GOLDEN_CASES = ["case5d_hubert_large", "case5d_hubert_base"]
RECIPES = {"mer2023": HubertLast, "merbench": HubertMerbench}


@pytest.fixture
def folder(golden, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(golden.info["config"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(golden.info["preprocessor"]))
    (tmp_path / "model.safetensors").symlink_to(golden.weights)
    return str(tmp_path)


@pytest.fixture
def sounds(golden, goldens):
    audio = goldens / "case5_audio"
    if not audio.is_dir():
        pytest.skip(f"{goldens} has no folder case5_audio")
    result = {}
    for name in golden.info["wavs"]:
        with wave.open(str(audio / f"{name}.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        result[name] = samples.astype(np.float32) / 32768
    return result


def tolerance(golden, recipe, samples):
    stated = golden.info["tolerance"]
    if recipe == "mer2023":
        return stated["mer2023"]
    return stated["merbench_over_10s"] if samples > 160_000 else stated["merbench_up_to_10s"]


def with_features(golden, sounds, recipe):
    """The sounds that have features of this recipe."""
    names = golden.items(f"{recipe}.UTT", f"{recipe}.FRA")
    if not names:
        pytest.skip(f"{golden.folder.name} has no features of {recipe}")
    return {name: sounds[name] for name in names}


def check(golden, name, recipe, samples, output):
    got = {f"{name}.{recipe}.UTT": output["utt"].array[0], f"{name}.{recipe}.FRA": output["frame"].array}
    golden.close_all(got, tolerance(golden, recipe, samples))


def test_samples_and_normalisation(golden, folder, sounds):
    last, merbench = (cls(profile="tiny", weights=folder) for cls in (HubertLast, HubertMerbench))
    for name, audio in sounds.items():
        assert len(audio) == golden.info["wavs"][name]["samples"]
    for name in golden.items("samples_f64"):
        golden.close(sounds[name], f"{name}.samples_f64", 0)
    for name in golden.items("batch_shape"):
        folded = merbench.prepare(ClipInputs(audio=sounds[name])).payload
        assert list(folded.shape) == golden.io[f"{name}.batch_shape"].tolist()
    for name, key in golden.parts("input_values"):
        payload = last.prepare(ClipInputs(audio=sounds[name])).payload
        golden.close(payload[:, : golden.number(key, "first")], key, golden.info["tolerance"]["hidden_states"])


def test_hidden_states(golden, folder, sounds):
    """The states between the layers, the last one taken from `last_hidden_state`."""
    encoder = HubertLast(profile="tiny", weights=folder)
    for name, key in golden.parts("hidden_states"):
        states = []

        def keep(_module, args, states=states):
            states.append(args[0])

        with encoder.computing() as model:
            hooks = [layer.register_forward_pre_hook(keep) for layer in model.encoder.layers]
            last = model(encoder.prepare(ClipInputs(audio=sounds[name])).payload).last_hidden_state
            for hook in hooks:
                hook.remove()
        got = torch.cat([*states, last])
        golden.close(got, key, golden.info["tolerance"]["hidden_states"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_sound_alone(golden, folder, sounds, recipe):
    encoder = RECIPES[recipe](profile="tiny", weights=folder)
    for name, audio in with_features(golden, sounds, recipe).items():
        check(golden, name, recipe, len(audio), encoder.encode([encoder.prepare(ClipInputs(audio=audio))])[0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_sounds_in_one_batch(golden, folder, sounds, recipe, monkeypatch):
    """Sounds of every length in one padded forward (where the convolutions allow it) give what they give alone."""
    monkeypatch.setattr("emo.extract.encoders.waves.PADDING", 1e9)
    encoder = RECIPES[recipe](profile="tiny", weights=folder)
    sounds = with_features(golden, sounds, recipe)
    prepared = [encoder.prepare(ClipInputs(audio=audio)) for audio in sounds.values()]
    for (name, audio), output in zip(sounds.items(), encoder.encode(prepared), strict=True):
        check(golden, name, recipe, len(audio), output)


def test_older_names_of_the_weight_norm_load_too(golden, folder, sounds, tmp_path):
    spelling = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, tensor in load_file(golden.weights).items():
        for new, old in spelling.items():
            name = name.replace(new, old) if new in name else name.replace(old, new)
        state[f"hubert.{name}"] = tensor
    (tmp_path / "model.safetensors").unlink()
    save_file(state, tmp_path / "model.safetensors")
    encoder = HubertLast(profile="tiny", weights=folder)
    sounds = with_features(golden, sounds, "mer2023")
    name = min(sounds, key=lambda each: len(sounds[each]))
    output = encoder.encode([encoder.prepare(ClipInputs(audio=sounds[name]))])[0]
    check(golden, name, "mer2023", len(sounds[name]), output)
