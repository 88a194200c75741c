"""Damaged weights files: each is refused in a sentence or loaded right; no code in them is run.

Where the format has a checksum (the zip archive of torch), or where only names, types and places are damaged, no other
numbers are ever loaded. Where numbers themselves are damaged and the format has no checksum (safetensors, torch before
1.6), nobody can know: they are counted as `data`, and change the identity of every feature that they give.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import changed, harm, in_child, try_all
from safetensors.torch import save_file

SHORT, LONG = 30, 280  # damaged files of each kind; thirteen kinds
SPLIT_BYTES = 8  # of a safetensors file, which say how long its header is


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


# ---- what is damaged -------------------------------------------------------------------------------------------------

State = Mapping[str, torch.Tensor]
Read = tuple[State, Any, Any]  # numbers, settings, sentences


def as_safetensors(state: State, path: Path) -> None:
    save_file(dict(state), path)


def as_zip(state: State, path: Path) -> None:
    torch.save({"model": dict(state), "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)


def as_plain_zip(state: State, path: Path) -> None:
    torch.save({"model": dict(state), "config": {"model": {"max_txt_len": 160}}, "epoch": 3}, path)


def as_legacy(state: State, path: Path) -> None:
    torch.save({"model": dict(state), "epoch": 3}, path, _use_new_zipfile_serialization=False)


def with_code(state: State, path: Path) -> None:
    code = {"model": dict(state), "extra": Code(path.parent / "ran")}
    torch.save(code, path, _use_new_zipfile_serialization=path.stem.endswith("zip"))


def as_pickle(state: State, path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": [1, 2], "extra": Code(path.parent / "ran")}, protocol=2))


def as_folder(state: State, path: Path) -> None:
    """Two shards with their index, the settings of the model and of its pixels."""
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = VideoMAEModel(VideoMAEConfig(image_size=32, num_frames=16, use_mean_pooling=False, **sizes))
    model.save_pretrained(path, max_shard_size="40KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    pixels = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3], "resample": 2, "size": {"shortest_edge": 32}}
    steps = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True)
    _settings(path, pixels | steps | {"crop_size": {"height": 32, "width": 32}})


def as_sound(state: State, path: Path) -> None:
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    frames = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    large = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    HubertModel(HubertConfig(**sizes, **frames, **large)).save_pretrained(path)
    _settings(path, {"do_normalize": True, "sampling_rate": 16_000, "feature_size": 1})


def as_images(state: State, path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    pixels = {"image_size": 32, "patch_size": 8, "projection_dim": 24}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, **pixels)).save_pretrained(path)
    steps = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True)
    means = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 3}
    _settings(path, steps | means | {"size": {"shortest_edge": 32}, "crop_size": 32})


def _settings(path: Path, stated: dict[str, Any]) -> None:
    (path / "preprocessor_config.json").write_text(json.dumps(stated, indent=1))


FILES: dict[str, Callable[[State, Path], None]] = {
    "w.safetensors": as_safetensors,
    "zip.pth": as_zip,
    "plain-zip.pth": as_plain_zip,
    "legacy.pth": as_legacy,
    "code-zip.pth": with_code,
    "code.pth": with_code,
    "code.bin": as_pickle,
    "folder": as_folder,
    "sound": as_sound,
    "images": as_images,
}
FOLDERS = {"folder": "videomae-large-UTT", "sound": "HL-UTT", "images": "clip-vit-base-patch32-UTT"}
KINDS = {
    "encoder": [name for name in FILES if name != "plain-zip.pth"],
    "official": ["w.safetensors", "plain-zip.pth", "legacy.pth", "code-zip.pth"],
}


def data_of(path: Path) -> bytes:
    """The bytes of a file that are numbers and have no checksum."""
    data = path.read_bytes() if path.is_file() else b""
    if path.suffix == ".safetensors":
        return data[SPLIT_BYTES + int.from_bytes(data[:SPLIT_BYTES], "little") :]
    return data if "legacy" in path.name else b""


def numbers_in(path: Path) -> list[bytes]:
    return [data_of(each) for each in (sorted(path.rglob("*.safetensors")) if path.is_dir() else [path])]


def end(found: Read, truth: Read | None, numbers: bool) -> str:
    """How a read ended: as before, with other settings and a sentence that says them, with other numbers, or wrong."""
    if truth is None:
        return "other weights"
    if same(found[0], truth[0]) and found[1] == truth[1]:
        return "same"
    if found[2] != truth[2]:
        return "said"
    return "data" if numbers and found[1] == truth[1] else "other weights"


# ---- who reads it ----------------------------------------------------------------------------------------------------


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def child(kind: str, folder: Path, each: int) -> None:
    """Damage every kind of file again and again, and read it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    state, read = _encoder() if kind == "encoder" else _official()
    plans = [_plan(name, folder, state, read) for name in FILES if name in KINDS[kind]]

    def damaged(number: int) -> str:
        plan, path, whole, *_ = plans[number // each]
        dice = random.Random(f"{kind} {plan} {number % each}")
        if whole.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(whole, path)
            return f"{plan} {number % each}: {harm(path, dice)}"
        path.write_bytes(changed(whole.read_bytes(), dice) if number % each else whole.read_bytes())
        return f"{plan} {number % each}"

    def once(number: int) -> str:
        _, path, whole, truth, numbers = plans[number // each]
        found = read(path)
        if (folder / "ran").exists() or (whole.parent / "ran").exists():
            return "ran code"
        return end(found, truth, numbers_in(path) != numbers)

    try_all(each * len(plans), damaged, once)


def _plan(name: str, folder: Path, state: State, read: Callable[[Path], Read]) -> tuple[Any, ...]:
    whole = folder / "whole" / name
    whole.parent.mkdir(exist_ok=True)
    FILES[name](state, whole)
    truth = None if name.startswith("code") else read(whole)
    assert truth is None or name in FOLDERS or same({each: truth[0][each] for each in state}, state)
    return name, folder / name, whole, truth, numbers_in(whole)


def _encoder() -> tuple[State, Callable[[Path], Read]]:
    from emo.extract.encoders.registry import find_encoder
    from emo.featstore.sources.headers import inspect

    drawn = find_encoder("mae_340_UTT")(profile="tiny")
    drawn.load()

    def read(path: Path) -> Read:
        inspect(path)
        encoder = find_encoder(FOLDERS.get(path.name, "mae_340_UTT"))(profile="tiny", weights=str(path))
        encoder.load()
        given = encoder.encode([encoder.prepare(encoder.sample(3))], ["utt"])[0]["utt"].array
        state = {**encoder._model.state_dict(), "of a sample": torch.from_numpy(given)}
        return state, encoder.recipe("utt"), encoder.notes

    return drawn._model.state_dict(), read


def _official() -> tuple[State, Callable[[Path], Read]]:
    from emo.train.llm.emotion_llama.build import build
    from emo.train.llm.emotion_llama.checkpoint import import_official
    from emo.train.llm.emotion_llama.model import Widths
    from emo.train.llm.model import LoraArgs

    widths = Widths(12, 9, (("face", 10), ("video", 7), ("audio", 5)))
    model = build(None, widths, LoraArgs(r=4, alpha=8), profile="tiny", seed=0).eval()
    given = {name: torch.randn(each.shape) for name, each in model.trainable()}

    def read(path: Path) -> Read:
        with torch.no_grad():
            for _, parameter in model.trainable():
                parameter.zero_()
        report = import_official(path, model)
        return {name: each.detach().clone() for name, each in model.trainable()}, dict(report.settings), ()

    return given, read


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_weights_are_refused_or_loaded_right(kind: str, hard: bool, tmp_path: Path) -> None:
    each = LONG if hard else SHORT
    ends = in_child(__file__, kind, tmp_path, each, trials=each * len(KINDS[kind]))
    assert ends["refused"] > each, ends
    assert ends["same"] > len(KINDS[kind]) // 2, ends
    assert not (tmp_path / "ran").exists()
    print(f"{kind}: {dict(ends)}")


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
