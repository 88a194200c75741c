"""Whisper from two kinds of files: one network, one recipe, the same numbers.

A small random model is saved as transformers saves it and converted by CTranslate2's own converter. Weights in float32
are the same bits, so features must agree as two runs of one network do; CTranslate2's own arithmetic is a witness.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.registry import load_encoder
from emo.featstore.errors import ModelError
from emo.featstore.sources import packages
from emo.featstore.sources.ct2 import is_ct2, open_ct2
from emo.featstore.sources.headers import inspect

ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed: extra pocket")

SAME = 1e-6  # of the largest value: float32 weights, the same network
HALF = 2e-3  # of the largest value: weights rounded to float16
THEIRS = 5e-5  # of the largest value: float32 weights, CTranslate2's own kernels
NAMES = ("whisper-base-UTT", "whisper-base-modern-UTT", "whisper-base-stats-UTT")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    root = tmp_path_factory.mktemp("whisper")
    sizes = {"d_model": 512, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48, "vocab_size": 51865}
    sizes |= {
        f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4))
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = WhisperForConditionalGeneration(WhisperConfig(**sizes))
        for name, tensor in model.named_parameters():  # biases are drawn as zeros, which would hide a mistake
            if name.endswith("bias"):
                torch.nn.init.normal_(tensor, std=0.1)
        model.save_pretrained(root / "hf")
    WhisperFeatureExtractor(feature_size=80).save_pretrained(root / "hf")
    found = {"hf": root / "hf"}
    for kind in ("float32", "float16", "int8"):
        found[kind] = root / kind
        converter = ctranslate2.converters.TransformersConverter(str(root / "hf"))
        _without_tokenizer(converter).convert(str(found[kind]), quantization=kind)
    return found


def _without_tokenizer(converter):
    """The converter writes a vocabulary, for which a random model has no tokenizer: names are made up."""
    load = converter._load

    def loaded():
        from unittest.mock import MagicMock, patch

        import transformers

        tokenizer = MagicMock()
        tokenizer.get_vocab.return_value = {f"t{i}": i for i in range(51865)}
        tokenizer.additional_special_tokens = []
        with patch.object(transformers.AutoTokenizer, "from_pretrained", lambda *a, **k: tokenizer):
            return load()

    converter._load = loaded
    return converter


def sound(seconds: float, seed: int = 0) -> ClipInputs:
    rng = np.random.default_rng(seed)
    t = np.arange(int(16_000 * seconds)) / 16_000
    return ClipInputs(audio=(0.3 * np.sin(2 * np.pi * 220 * t) + rng.normal(0, 0.05, len(t))).astype(np.float32))


def feature(name: str, folder: Path, level: str = "utt") -> np.ndarray:
    encoder = load_encoder(name, weights=str(folder))
    return encoder.encode([encoder.prepare(sound(2.3))], [level])[0][level].array


def error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize("name", NAMES)
def test_both_sources_give_the_same_feature(name, folders):
    theirs = feature(name, folders["hf"])
    assert error(theirs, feature(name, folders["float32"])) < SAME
    assert 0 < error(theirs, feature(name, folders["float16"])) < HALF


def test_ctranslate2_computes_what_we_compute(folders):
    encoder = load_encoder("whisper-base-modern-UTT", weights=str(folders["float32"]))
    item = encoder.prepare(sound(2.3))
    rows = encoder.encode([item])[0]["frame"].array
    mel = np.ascontiguousarray(item.payload[:, :, :-1].numpy())
    model = ctranslate2.models.Whisper(str(folders["float32"]), compute_type="float32", intra_threads=1)
    theirs = np.asarray(model.encode(ctranslate2.StorageView.from_array(mel), to_cpu=True))[0]
    assert error(theirs[: len(rows)], rows) < THEIRS


def test_one_recipe_and_two_hashes(folders):
    specs = [load_encoder(NAMES[2], weights=str(folders[kind])).spec("utt") for kind in ("hf", "float32", "float16")]
    assert len({str(spec.recipe) for spec in specs}) == 1
    assert len({spec.weights for spec in specs}) == 3


def test_the_statistics_are_those_of_the_frames_that_hold_sound(folders):
    frames = feature("whisper-base-modern-UTT", folders["float16"], "frame")
    assert len(frames) == 115  # 2.3 s in steps of 20 ms
    encoder = load_encoder("whisper-base-modern-UTT", weights=str(folders["float16"]))
    twin = encoder.twin(statistics=("mean", "std"))
    rows = twin.encode([twin.prepare(sound(2.3))], ["utt"])[0]["utt"].array
    want = np.concatenate([frames.mean(0), frames.std(0)])
    np.testing.assert_allclose(rows[0], want, atol=2e-5)
    heard = ClipInputs(audio=sound(31.0).audio, audio_t0_s=0.5)
    output = encoder.encode([encoder.prepare(heard)], ["frame"])[0]["frame"]
    assert (len(output.array), output.t0_s, output.hop_s) == (1550, 0.5, 0.02)


def test_states_and_lengths_are_those_of_transformers(folders):
    """Every hidden state of 30 s is the library's; without padding, 30 s of sound give the same as with it."""
    encoder = load_encoder("whisper-base-modern-UTT", weights=str(folders["hf"]))
    item = encoder.prepare(sound(30.0))
    with encoder.computing() as model:
        theirs = model.encoder(item.payload[:, :, :-1], output_hidden_states=True).hidden_states
    for layer, states in enumerate(theirs):
        for take in {layer, layer - len(theirs)}:
            twin = encoder.twin(take=(take,))
            assert error(states[0].numpy(), twin.encode([item], ["frame"])[0]["frame"].array) == 0
    whole = encoder.encode([item], ["frame"])[0]["frame"].array
    free = encoder.twin(padded=False)
    assert error(whole, free.encode([item], ["frame"])[0]["frame"].array) == 0
    short = sound(2.3)
    a, b = (each.encode([each.prepare(short)], ["frame"])[0]["frame"].array for each in (encoder, free))
    assert a.shape == b.shape == (115, 512)
    assert error(a, b) > 1e-3  # what is not there is not attended to
    assert load_encoder(NAMES[2], weights=str(folders["hf"])).spec("utt").recipe["layers"] == [1]  # of two


def test_files_that_are_cut_off_quantised_or_another_kind_are_refused(folders, tmp_path):
    whole = (folders["float16"] / "model.bin").read_bytes()
    assert is_ct2(folders["float16"] / "model.bin")
    assert inspect(folders["float16"]).status == "ok"
    for n in (60, 5_000, len(whole) - 50_000):
        (tmp_path / "model.bin").write_bytes(whole[:n])
        with pytest.raises(ModelError, match="cut off"):
            open_ct2(tmp_path / "model.bin")
    with pytest.raises(ModelError, match="quantised"):
        load_encoder(NAMES[2], weights=str(folders["int8"]))
    (tmp_path / "model.bin").write_bytes(whole.replace(b"WhisperSpec", b"XhisperSpec", 1))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="XhisperSpec"):
        load_encoder(NAMES[2], weights=str(tmp_path))
    (tmp_path / "model.bin").write_bytes(struct.pack("<I", 5) + whole[4:])
    with pytest.raises(ModelError, match="version 5"):
        open_ct2(tmp_path / "model.bin")


# ---- packages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that brings one model in two halves."""
    import hashlib

    (tmp_path / "emo_test_weights").mkdir()
    (tmp_path / "emo_test_weights" / "__init__.py").write_text("raise RuntimeError('nobody imports me')")
    halves = [b"first half, ", b"second half"]
    for i, half in enumerate(halves):
        (tmp_path / "emo_test_weights" / f"m.{i}").write_bytes(half)
    parts = tuple(
        packages.Part("emo_test_weights", f"m.{i}", hashlib.sha256(half).hexdigest()) for i, half in enumerate(halves)
    )
    model = packages.Packaged("a test", "", "emo-test-weights==1", {"model.bin": parts})
    monkeypatch.setattr(packages, "PACKAGES", {"test": model})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EMO_HOME", str(tmp_path / "home"))
    return tmp_path / "emo_test_weights"


def test_parts_are_put_together_and_never_imported(package):
    folder = packages.installed("test")
    assert (folder / "model.bin").read_bytes() == b"first half, second half"
    (folder / "model.bin").write_bytes(b"first half, second hulf")  # an earlier copy that was damaged is made anew
    assert (packages.installed("test") / "model.bin").read_bytes() == b"first half, second half"
    assert packages.installed("nothing") is None


def test_other_bytes_than_the_known_ones_are_refused(package):
    (package / "m.1").write_bytes(b"second hale")
    with pytest.raises(ModelError, match=r"m\.1 is not the file") as caught:
        packages.installed("test")
    assert "emo-test-weights==1" in caught.value.hint


def test_a_package_that_is_not_there_is_no_error(package):
    (package / "__init__.py").unlink()
    package.rename(package.with_name("gone"))
    assert packages.installed("test") is None
