"""Checkpoints of VideoLLaMA2.1 in and out: released folders, single `.bin` files, and LoRA folders of its trainer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.files import replacing, write_json
from emo.featstore.sources.hub import cached, weight_files
from emo.featstore.workspace import HUB_ID
from emo.train.llm.checkpoint import ADAPTER, ImportReport, State
from emo.train.llm.official import read_official, take
from emo.train.llm.videollama2.connector import PUBLISHED, told, version_beside
from emo.train.llm.videollama2.model import CONNECTED, VideoLlama2

ADAPTERS, OURS = "base_model.model.", "llama_model."  # peft's prefix, and emo's before that
NON_LORA = "non_lora_trainables.bin"  # beside an adapter: connector and projector (train.py of VideoLLaMA2)
CONFIG, ADAPTER_CONFIG, GENERATION = "config.json", "adapter_config.json", "generation_config.json"
SETTINGS = {  # what a folder tells of itself -> in which file
    "lora_alpha": ADAPTER_CONFIG,
    "num_frames": CONFIG,
    "repetition_penalty": GENERATION,
}
GROUPS = {  # what a file may be about -> beginning of its names
    "the adapters": f"{OURS}{ADAPTERS}",
    "the connector": "mm_projector.",
    "the projector of sound": "mm_projector_a.",
}
LLM = re.compile(r"model\.(layers|embed_tokens|norm)\..*|lm_head\..*")
IGNORED = (
    (LLM.pattern, "the language model, which the recipe's llm names"),
    (r"model\.audio_tower\..*", "an encoder: its features come from the store"),
    (r"model\.vision_tower\..*", "an encoder: its features come from the store, and the reference does not read it"),
    (r"mm_projector\..*", "the connector, which the recipe has no pictures for, or connected ones"),
    (r"mm_projector_a\..*", "the projector of sound, which the recipe does not read"),
)


def import_official(path: str | Path, model: VideoLlama2, allow_new: bool = False) -> ImportReport:
    """Load what a checkpoint has of connector, projector and adapters; all or nothing.

    Args:
        path: The released folder (sharded safetensors), a folder with an adapter and `non_lora_trainables.bin`, a
            single file such as `mm_projector_a.bin`, or what `export_official` wrote.
        model: To fill. Adapters that the checkpoint does not have stay fresh, which changes no answer.
        allow_new: Let connector or projector stay fresh where the checkpoint has nothing of them.

    Raises:
        WeightsMissing: No such file or folder.
        ModelError: It is no checkpoint; or a tensor is missing, unknown, of another shape or not finite; or its
            connector is of another version.
    """
    path = Path(path)
    _check_version(path, model)
    found, settings = _read_folder(path) if path.is_dir() else read_official(path)
    expected = dict(model.kept())
    plain: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if plain_name(name) in plain:
            raise ModelError(f"{path} holds {name} twice, under two spellings.", "Is it really one checkpoint?")
        plain[plain_name(name)] = tensor
    fresh: list[str] = []
    for start in GROUPS.values():
        of = [name for name in expected if name.startswith(start)]
        if (start.startswith(OURS) or allow_new) and not any(name.startswith(start) for name in plain):
            fresh += of
    report = take(
        path, plain, settings, expected, IGNORED, model.lora.alpha, [name for name in expected if name in fresh]
    )
    if not report.consumed and not all(name.startswith(OURS) for name in expected):
        raise ModelError(f"{path} holds nothing of VideoLLaMA2.", "Is it another model's?")
    absent = [group for group, start in GROUPS.items() if any(name.startswith(start) for name in report.missing)]
    words = [f"The checkpoint has nothing of {' and '.join(absent)}, which stay as they were drawn."] if absent else []
    if any(LLM.fullmatch(name) for name in report.ignored) and not _same(path, model.source):
        words.append(f"The language model is {model.source}; the one in {path} was not read.")
    return replace(report, warnings=tuple(words)) if words else report


def plain_name(name: str) -> str:
    """Return emo's name of a tensor, whatever the reference and peft put in front of it."""
    bare = name.removeprefix("module.").removeprefix(ADAPTERS)
    if ".lora_A." in bare or ".lora_B." in bare:
        return f"{OURS}{ADAPTERS}{bare}"
    return re.sub(r"^(model\.)+(?=mm_projector)", "", bare)


def _read_folder(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors of all files of a folder; those that are ignored have a shape and no values."""
    files = [each for each in (path / ADAPTER, path / NON_LORA) if each.is_file()] or list(weight_files(path))
    if not files:
        raise WeightsMissing(f"{path} holds no checkpoint: no weights, no {ADAPTER}.", "Is the download complete?")
    state: State = {}
    for file in files:
        state |= _peek(file) if file.suffix == ".safetensors" else read_official(file)[0]
    given = {key: told(path / file).get(key) for key, file in SETTINGS.items()}
    return state, {key: value for key, value in given.items() if value is not None}


def _same(path: Path, source: str) -> bool:
    """Say whether the language model came from this folder, named by its path or by its id on the hub."""
    other = Path(source) if Path(source).exists() or not HUB_ID.fullmatch(source) else cached(source)
    return other is not None and other.resolve() == path.resolve()


def _check_version(path: Path, model: VideoLlama2) -> None:
    """Refuse a connector of another version: its tensors fit, and make other rows."""
    here, theirs = model.sizes.connector, version_beside(path)
    if hasattr(model, "mm_projector") and theirs not in (None, here):
        raise ModelError(f"The connector of {path} is {theirs}, the recipe has {here}.", f"Set connector: {theirs}.")


def _peek(path: Path) -> State:
    """Tensors of a .safetensors file: of 16 GB of language model the shapes alone are read."""
    try:
        with safe_open(path, "pt") as file:
            found: State = {}
            for name in file.keys():  # noqa: SIM118
                needed = plain_name(name).startswith(tuple(GROUPS.values()))
                shape = file.get_slice(name).get_shape()
                found[name] = file.get_tensor(name) if needed else torch.empty(shape, device="meta")
            return found
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", "Fetch it again.") from error


def export_official(model: VideoLlama2, path: str | Path) -> None:
    """Write what was learned: a folder with peft's adapter and `non_lora_trainables.bin`, or one file of all tensors.

    Args:
        model: To write.
        path: A folder, as the reference's trainer leaves it; a file where the name ends in `.pth`, `.pt` or `.bin`.
    """
    path = Path(path)
    kept = {name: each.detach().cpu().contiguous() for name, each in model.kept()}
    adapters = {name.removeprefix(OURS): each for name, each in kept.items() if name.startswith(OURS)}
    rest = {f"{ADAPTERS}model.{name}": each for name, each in kept.items() if not name.startswith(OURS)}
    with replacing(path) as temporary:
        if path.suffix in (".pth", ".pt", ".bin"):
            torch.save(adapters | rest, temporary)
            return
        temporary.mkdir()
        save_file(adapters, temporary / ADAPTER, {"format": "pt"})
        model.llama_model.peft_config["default"].save_pretrained(str(temporary))
        torch.save(rest, temporary / NON_LORA)
        write_json(temporary / CONFIG, _config(model))


def _config(model: VideoLlama2) -> dict[str, Any]:
    """config.json of the reference: the language model's, and how pictures and sound come in."""
    sizes, table = model.sizes, model.llm.config.to_dict()
    table |= {"model_type": "videollama2_qwen2", "num_frames": sizes.frames}
    if sizes.video[0] and sizes.connector != CONNECTED:
        table |= {"mm_projector_type": {ours: theirs for theirs, ours in PUBLISHED.items()}[sizes.connector]}
        table |= {"mm_hidden_size": sizes.video[1], "mm_vision_select_layer": -2}
    if sizes.audio[0]:
        table |= {"mm_projector_a_type": "mlp2x_gelu", "mm_hidden_size_a": sizes.audio[1]}
        table |= {"hidden_size_a": model.embeddings.weight.shape[1]}
    return table
