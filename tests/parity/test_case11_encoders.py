"""AffectGPT's encoders against its own code: faces, windows of sound, CLIP and HuBERT features."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emo.extract.encoders.affectgpt import bilinear, window_bounds
from emo.extract.encoders.base import ClipInputs, Prepared
from emo.extract.encoders.registry import find_encoder
from emo.extract.media.preprocess import uniform_indices

GOLDEN_CASES = ["case11_affectgpt"]
FACES, SOUND = "clip-vit-large-patch14-affectgpt-UTT", "chinese-hubert-large-affectgpt-UTT"


def names(golden):
    return sorted(golden.info["data"])


def make(golden, folder, name, part, config, processor):
    folder.mkdir()
    with safe_open(golden.weights, "pt") as file:
        tensors = {key.removeprefix(part): file.get_tensor(key) for key in list(file.keys()) if key.startswith(part)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return find_encoder(name)(profile="tiny", weights=str(folder))


@pytest.fixture
def clip(golden, tmp_path):
    config = golden.info["config"]
    sizes = {"model_type": "clip", **config["clip"]}
    processor = {
        "image_mean": config["clip_mean"],
        "image_std": config["clip_std"],
        "resample": 3,
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
    }
    return make(golden, tmp_path / "clip", FACES, "visual_encoder.model.", sizes, processor)


@pytest.fixture
def hubert(golden, tmp_path):
    sizes = {"model_type": "hubert", **golden.info["config"]["hubert"]}
    return make(golden, tmp_path / "hubert", SOUND, "acoustic_encoder.model.", sizes, {"do_normalize": True})


def faces_of(golden, name):
    return np.load(golden.folder / f"{name}_faces.npy")[..., ::-1]  # RGB, as emo has them


def close(ours, theirs, tolerance):
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=tolerance, rtol=0)


def test_indices_and_windows(golden):
    for count, table in golden.info["frame_indices"].items():
        for length, indices in table.items():
            assert uniform_indices(int(length), int(count)) == indices
    for samples, windows in golden.info["clip_table"].items():
        ours = [[start, min(end, max(int(samples), 32000))] for start, end in window_bounds(int(samples))]
        assert ours == windows, samples


def test_faces_are_resized(golden):
    for name in names(golden):
        faces = faces_of(golden, name)[..., ::-1]
        chosen = [bilinear(faces[i], 224) for i in uniform_indices(len(faces), 8)]
        off = np.abs(np.stack(chosen).astype(int) - golden.io[f"{name}.raw_face_u8"])
        assert off.max() <= golden.info["tolerance"]["raw_face_levels"]
        assert (off > 0).mean() <= golden.info["tolerance"]["raw_face_unequal_fraction"]


def test_pixels_and_features_of_faces(golden, clip):
    tolerance = golden.info["tolerance"]
    for name in names(golden):
        raw = golden.io[f"{name}.raw_face_u8"]  # blue first; as they came out of the reference's own resize
        item = clip.prepare(ClipInputs(faces=np.ascontiguousarray(raw[..., ::-1])))
        pixels = clip.pixels([item.payload])
        close(pixels[:, :, ::9, ::9], golden.io[f"{name}.clip_pixels_stride"], tolerance["clip_pixels"])
        found = clip.encode([item])[0]
        close(found["tokens"].array, golden.io[f"{name}.face_features"], tolerance["clip_features"])
        close(found["utt"].array[0], golden.io[f"{name}.face_features"].mean(0), tolerance["clip_features"])


def test_features_of_sound(golden, hubert):
    """Through `prepare` where the file has 16 kHz; else from the reference's resampled windows."""
    soundfile = pytest.importorskip("soundfile")
    tolerance = golden.info["tolerance"]
    seen = set()
    for name in names(golden):
        facts = golden.info["data"][name]
        if facts["sample_rate"] == 16000 and facts["channels"] == 1:
            audio, _ = soundfile.read(golden.folder / facts["wav"], dtype="float32")
            item = hubert.prepare(ClipInputs(audio=audio))
            close(item.payload[:, ::37], golden.io[f"{name}.hubert_input_stride"], tolerance["hubert_input"])
        else:
            item = Prepared(torch.from_numpy(hubert.normalised(golden.io[f"{name}.raw_audio"][:, 0])), 1.0)
        seen.add(facts["sample_rate"])
        (found,) = hubert.encode([item])
        close(found["tokens"].array, golden.io[f"{name}.audio_features"], tolerance["audio_features"])
    assert 16000 in seen
