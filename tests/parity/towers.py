"""Encoders of case10 with the weights of its towers, from files as their authors give them."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emo.extract.encoders.beats import BeatsWindows
from emo.extract.encoders.registry import find_encoder

SIGLIP, BEATS = "model.vision_tower.vision_tower.", "model.audio_tower."


def part(golden, prefix):
    """Tensors of the whole model whose names begin so, without that."""
    with safe_open(golden.folder / "weights_whole.safetensors", "pt") as file:
        return {key.removeprefix(prefix): file.get_tensor(key) for key in list(file.keys()) if key.startswith(prefix)}


def beats_sizes(golden):
    return {key: value for key, value in golden.info["config"]["beats"].items() if key != "predictor_class"}


def siglip_of(golden, folder, name="siglip-so400m-384-UTT"):
    """SigLIP from a folder of the hub, with the golden's number of frames and its layer."""
    config = golden.info["config"]["siglip"]
    folder.mkdir(exist_ok=True)
    save_file(part(golden, SIGLIP), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model", **config}))
    side = config["image_size"]
    steps = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(steps))
    made = find_encoder(name)(profile="tiny", weights=str(folder))
    return made.twin(
        frames=golden.info["config"]["num_frames"], take=(golden.info["config"]["mm_vision_select_layer"],)
    )


def beats_of(golden, path):
    """BEATs from a file of its authors."""
    torch.save({"cfg": golden.info["config"]["beats"], "model": part(golden, BEATS)}, path)
    return BeatsWindows(profile="tiny", weights=str(path))
