"""MERBench's extractors on models of Hugging Face and timm: every model of the case, through emo's own loaders.

Each model becomes a folder as on the hub: its configuration files, and its tensors with the case's prefix taken off.
Which entry of the catalog it is follows from its name. What emo does otherwise on purpose is asserted as well: a clip
without words fails where MERBench writes zeros.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.registry import find_encoder
from emo.extract.encoders.tokens import PROBE, read_tokens
from emo.featstore.errors import MediaError

GOLDEN_CASES = ["case9_merbench_encoders"]


def of(*recipes):
    """Let a test run on the models of these recipes."""

    def mark(test):
        test.recipes = recipes
        return test

    return mark


def pytest_generate_tests(metafunc):
    """One test per model of its recipes that the case's folder holds."""
    if "model" not in metafunc.fixturenames:
        return
    cases = sorted(metafunc.config.getoption("--goldens").glob("case9_*/case.json"))
    models = [each for file in cases for each in json.loads(file.read_text())["models"].items()]
    wanted = getattr(metafunc.function, "recipes", None)
    names = sorted({name for name, model in models if wanted is None or model["recipe"] in wanted})
    metafunc.parametrize("model", names or ["no case9"])


@pytest.fixture
def folder(golden, model, tmp_path):
    """The model as a folder of the hub."""
    if model not in golden.info["models"]:
        pytest.skip(f"{golden.folder.name} has no model {model}")
    with safe_open(golden.weights, "pt") as file:
        prefix = f"{model}."
        tensors = {
            name.removeprefix(prefix): file.get_tensor(name) for name in list(file.keys()) if name.startswith(prefix)
        }
    assert tensors
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    kept = golden.info["models"][model]["folder"]
    if kept is None:  # timm's folder
        recipe = golden.info["recipes"][golden.info["models"][model]["recipe"]]
        stated = {"architecture": model, "model_args": recipe["overrides"]}
        (tmp_path / "config.json").write_text(json.dumps(stated))
    else:
        for file in (golden.folder / kept).iterdir():
            (tmp_path / file.name).symlink_to(file)
    return str(tmp_path)


@pytest.fixture
def encoder(model, folder):
    return find_encoder(f"{model}-UTT")(profile="tiny", weights=folder)


def recipe_of(golden, model):
    return golden.info["recipes"][golden.info["models"][model]["recipe"]]


def sound(golden, clip):
    samples = golden.info["clips"][clip]["samples"]
    base = golden.io["audio.base_int16"]
    return np.tile(base, -(-samples // len(base)))[:samples].astype(np.float32) / 32768


def faces(golden, count):
    base = golden.io["face.base"]
    return np.stack([np.roll(base, 3 * i, axis=1) for i in range(count)])[..., ::-1].copy()


def stated(golden, model, tensor, long=False):
    bounds = golden.info["tolerance"][model]
    return bounds.get(tensor, bounds.get(f"{tensor}_{'long' if long else 'short'}"))


def compare(golden, model, item, output, long=False):
    """UTT and FRA of one clip, whole or in the parts that the case keeps; at least one of each must be there."""
    level = next(each for each in output if each != "utt")
    rows = output[level].array
    golden.close(output["utt"].array[0], f"{model}.{item}.UTT", stated(golden, model, "UTT", long))
    parts = {"FRA": rows, "FRA_first20": rows[:20], "FRA_every7th": rows[::7], "FRA_last20": rows[-20:]}
    held = [name for name in parts if f"{model}.{item}.{name}" in golden.io]
    assert held
    for name in held:
        want = golden.io[f"{model}.{item}.{name}"]
        want = want[None] if want.ndim == 1 else want  # a clip of one frame
        golden.close(parts[name], f"{model}.{item}.{name}", stated(golden, model, "FRA", long), want)


@of("audio")
def test_speech(golden, model, encoder):
    said = recipe_of(golden, model)
    assert (encoder.chunk, list(encoder.take)) == (said["chunk_samples"], said["layers_summed"])
    clips = [clip for clip in golden.info["clips"] if f"{model}.{clip}.UTT" in golden.io]
    assert clips
    items = [encoder.prepare(ClipInputs(audio=sound(golden, clip))) for clip in clips]
    for clip, output in zip(clips, encoder.encode(items), strict=True):
        compare(golden, model, clip, output, len(sound(golden, clip)) > said["chunk_samples"])
    for clip, item in zip(clips, items, strict=True):
        for key in [each for each in golden.io if each.startswith(f"{model}.{clip}.input_values_first")]:
            count = golden.number(key, "first")
            golden.close(item.payload[0, :count], key, stated(golden, model, "input_values"))
    golden.close(summands(encoder, sound(golden, "base")), f"{model}.base.last4", stated(golden, model, "last4"))


def summands(encoder, audio):
    """The hidden states that the recipe sums, each alone."""
    item = encoder.prepare(ClipInputs(audio=audio))
    alone = [encoder.twin(take=(each,)).encode([item])[0]["frame"].array for each in encoder.take]
    return np.stack(alone)


@of("whisper")
def test_whisper(golden, model, encoder):
    said = recipe_of(golden, model)
    clips = [clip for clip in golden.info["clips"] if f"{model}.{clip}.UTT" in golden.io]
    assert clips
    items = [encoder.prepare(ClipInputs(audio=sound(golden, clip))) for clip in clips]
    assert all(item.payload.shape[1:] == (said["mel_bins"], said["mel_frames"] + 1) for item in items)
    for clip, output in zip(clips, encoder.encode(items), strict=True):
        compare(golden, model, clip, output)
    for key in [each for each in golden.io if each.startswith(f"{model}.") and ".mel_first" in each]:
        clip, count = key.split(".")[-2], golden.number(key, "first")
        mel = items[clips.index(clip)].payload[0, :, :-1]
        golden.close(mel[:, :count], key, stated(golden, model, "mel"))
        tail = torch.full_like(mel[:, count:], golden.info["whisper_mel_tail"])
        golden.close(mel[:, count:], key, stated(golden, model, "mel"), tail.numpy())


@of("clip", "data2vec_vision", "dinov2", "eva02")
def test_images(golden, model, encoder):
    sets = golden.info["frames"]["dinov2_sets" if encoder.frames else "clip_sets"]
    items = [encoder.prepare(ClipInputs(faces=faces(golden, count), hop_s=0.04)) for count in sets.values()]
    for name, output in zip(sets, encoder.encode(items), strict=True):
        compare(golden, model, name, output)
    if encoder.frames:
        assert encoder.frames == recipe_of(golden, model)["frames"]
    crops = [key for key in golden.io if key.startswith("crop.")]
    assert crops
    for key in crops:
        seen = torch.from_numpy(encoder.resized(golden.io[key][..., ::-1].copy())[None])
        pixels = encoder.pixels([seen])[0, :, 1::5, 2::5]
        name = f"{model}.pixel_values.{key.removeprefix('crop.')}"
        golden.close(pixels, name, stated(golden, model, "pixel_values"))


@of("dinov2")
def test_dinov2_with_the_positions_of_today(golden, model, folder):
    encoder = find_encoder(f"{model}-modern-UTT")(profile="tiny", weights=folder)
    kind = find_encoder(f"{model}-UTT")
    today = encoder.twin(kind, **{**{n: getattr(kind, n) for n in ("frames", "normed", "pool_tokens")}})
    for name, count in golden.info["frames"]["dinov2_sets"].items():
        rows = today.encode([today.prepare(ClipInputs(faces=faces(golden, count), hop_s=0.04))])[0]["frame"].array
        key = f"{model}.{name}.FRA_size_interpolation"
        golden.close(rows, key, stated(golden, model, "FRA_size_interpolation"))


@of("text")
@pytest.mark.parametrize("language", ["chinese", "english"])
def test_text(golden, model, folder, language):
    kind = find_encoder(f"{model}-UTT")

    class Reader(kind):
        languages = (language,)

    encoder = Reader(profile="tiny", weights=folder)
    said, told = recipe_of(golden, model), golden.info["text"][model]
    assert list(encoder.take) == said["layers_summed"]
    assert encoder._trim == (told["start"], told["end"])
    spoken, items = [], []
    for sentence in golden.info["sentences"]:
        text, key = sentence[language], f"{model}.{language}.{sentence['name']}"
        ids = told["ids"][language].get(sentence["name"])
        if ids is not None:
            assert encoder.tokenize(text)[0] == ids
        inputs = ClipInputs(transcripts={language: text or ""})
        if golden.io[f"{key}.FRA"].dtype == np.float64:  # zeros that stand for no words
            assert not golden.io[f"{key}.FRA"].any()
            with pytest.raises(MediaError) as caught:
                encoder.prepare(inputs)
            assert caught.value.kind == "no-text"
            continue
        items.append(encoder.prepare(inputs))
        spoken.append(key.removeprefix(f"{model}."))
    assert spoken
    for key, output in zip(spoken, encoder.encode(items), strict=True):
        compare(golden, model, key, output)


@of("text")
def test_the_states_of_the_probe(golden, model, encoder):
    told, whole = golden.info["text"][model], encoder.twin(_trim=(0, None))
    ids, _ = whole.tokenize(recipe_of(golden, model)["probe"])
    assert ids == told["probe_ids"]
    inputs = ClipInputs(transcripts={encoder.languages[0]: recipe_of(golden, model)["probe"]})
    item = whole.prepare(inputs)
    alone = [whole.twin(take=(each,)).encode([item])[0]["tokens"].array for each in whole.take]
    golden.close(np.stack(alone), f"{model}.probe.last4", stated(golden, model, "last4"))


def test_ids_of_the_genuine_llama_tokenizer(golden, shared, tmp_path):
    """The ids of LLaMA-2's own SentencePiece model, read as from a folder of the hub, and the rows that are kept."""
    told, file = golden.info["text"].get("real_llama2"), golden.info.get("real_llama2_tokenizer")
    if told is None or file is None:
        pytest.skip(f"{golden.folder.name} has no ids of the genuine tokenizer")
    pieces = shared / file["file"]
    if not pieces.is_file() or hashlib.sha256(pieces.read_bytes()).hexdigest() != file["sha256"]:
        pytest.skip(f"{pieces} is not the tokenizer of the case")
    (tmp_path / "tokenizer.model").symlink_to(pieces)
    tokens = read_tokens(tmp_path, find_encoder("llama-2-7b-UTT")(profile="random").full)
    assert tokens.encode(PROBE)[0] == told["probe_ids"]
    assert tokens.decode(told["probe_ids"]) == told["probe_decoded"]
    assert tokens.probe() == (told["start"], told["end"])
    texts = {each["name"]: each for each in golden.info["sentences"]}
    checked = [(lang, name, ids) for lang, table in told["ids"].items() for name, ids in table.items()]
    assert len(checked) >= 10
    for language, name, ids in checked:
        assert tokens.encode(texts[name][language])[0] == ids, (language, name)


def test_the_mean_of_rows_in_half_precision(golden):
    """MERBench's features of language models are float16: its mean is the float32 mean, rounded."""
    if "fp16_mean.in" not in golden.io:
        pytest.skip(f"{golden.folder.name} has no rows in half precision")
    rows = golden.io["fp16_mean.in"]
    assert rows.dtype == np.float16
    pooled = find_encoder("llama-2-7b-UTT")(profile="random").pool([torch.from_numpy(rows).float()], ["utt"])["utt"][0]
    np.testing.assert_array_equal(np.asarray(pooled).reshape(-1).astype(np.float16), golden.io["fp16_mean.out"])
