"""Official checkpoints of published models: .pth files of a training, read strictly and without running code.

Every tensor of a file is consumed or ignored for a reason, and every tensor that is expected must be there: the
official loaders' `strict=False` drops adapters under another spelling without a word.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.sources.headers import damaged_entries
from emo.featstore.sources.strict import fit_names
from emo.featstore.text import some_of
from emo.train.llm.checkpoint import OTHER_SHAPE, ImportReport, State, fill, not_finite, read_safetensors, shapes


def read_official(path: Path) -> tuple[State, dict[str, Any]]:
    """Return tensors by name, and the `model` part of the training configuration where the file has one.

    AffectGPT has its `face_or_frame` with each dataset; it is among the settings where all of them agree.

    Args:
        path: A .pth file with the state dict under `model`, or at its top; or a .safetensors file.

    Raises:
        WeightsMissing: No such file.
        ModelError: It is no checkpoint, or would run code.
    """
    if not path.is_file():
        raise WeightsMissing(f"There is no checkpoint at {path}.")
    if path.suffix == ".safetensors":
        return read_safetensors(path), {}
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped and (wrong := damaged_entries(path)):
        raise ModelError(f"{path} is no checkpoint: damaged are {some_of(wrong, 3)}.", "Fetch the file again.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            if file.read(1) not in (b"\x80", b"P"):  # neither a pickle nor a zip archive
                raise ModelError(f"{path} is no checkpoint.", "Fetch the file again.") from error
        named = re.search(r"GLOBAL (\S+)", str(error))
        first = f"it asks for {named[1]}." if named else "it asks for code to be run."
        hint = "emo runs no code from checkpoints. Save its state dict on its own where you trust the file."
        raise ModelError(f"{path} holds more than tensors and plain values: {first}", hint) from error
    except Exception as error:  # of a damaged pickle torch raises whatever comes up
        raise ModelError(f"{path} is no checkpoint: {error}.", "Fetch the file again.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()) or not state:
        raise ModelError(f"{path} holds no state dict under `model`, nor at its top.")
    config = content.get("config")
    model, sets = (_table(_table(config).get(part)) for part in ("model", "datasets"))
    seen = {str(each["face_or_frame"]) for each in map(_table, sets.values()) if "face_or_frame" in each}
    return dict(state), ({"face_or_frame": seen.pop()} if len(seen) == 1 else {}) | dict(model)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def take(
    path: Path,
    found: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    expected: Mapping[str, nn.Parameter],
    ignored: Sequence[tuple[str, str]],
    alpha: float,
    new: Sequence[str] = (),
) -> ImportReport:
    """Fill parameters from the tensors of a checkpoint, all of them or none.

    Both spellings of adapter names are known (`lora_A.weight` of peft 0.2, `lora_A.default.weight` since 0.3), and the
    prefix `module.`.

    Args:
        path: The file, for messages.
        found: Its tensors.
        settings: What it says of its training.
        expected: Parameters by official name, adapters without `.default`.
        ignored: Patterns of names that are left out, each with the reason.
        alpha: Of the model's adapters.
        new: Names that may be missing, all together.

    Raises:
        ModelError: A tensor is missing, unknown, twice there, of another shape or not finite; or alpha differs.
    """
    spelled: dict[str, str] = {}  # plain name -> name in the file
    for name in found:
        plain = re.sub(r"\.(lora_[AB])\.default\.", r".\1.", name.removeprefix("module."))
        if plain in spelled:
            raise ModelError(f"{path} holds {plain} twice, under two spellings.", "Is it really one checkpoint?")
        spelled[plain] = name
    plainly = {plain: found[name] for plain, name in spelled.items()}
    fit = fit_names(shapes(expected), shapes(plainly), ignored)
    taken = {plain: tensor for plain, tensor in plainly.items() if plain in expected}
    unknown, missing = [spelled[plain] for plain in fit.unexpected], list(fit.missing)
    problems = [f"{len(unknown)} unknown tensors ({some_of(unknown, 3)})"] if unknown else []
    if missing and missing != list(new):
        problems.append(f"{len(missing)} of {len(expected)} expected tensors missing ({some_of(missing, 3)})")
    problems += [f"{name} {OTHER_SHAPE.format(*both)}" for name, both in fit.shapes.items()] + not_finite(taken)
    if (theirs := settings.get("lora_alpha", alpha)) != alpha:
        problems.append(f"lora_alpha {theirs} instead of {alpha}")
    if problems:
        hint = "Make the model with the checkpoint's features and LoRA settings."
        raise ModelError(f"{path} does not fit the model: {'; '.join(problems)}.", hint)
    fill(taken, expected)
    left = {spelled[plain]: why for plain, why in fit.ignored.items()}
    return ImportReport(tuple(taken), left, tuple(missing), settings)
