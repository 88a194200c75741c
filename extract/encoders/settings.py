"""Settings in the JSON files beside weights: each is stated there, or a sentence says what is taken in its place.

A folder of a model must hold the files that its format has. A name that is one slip away from a known one is refused:
otherwise its default would be taken in silence. Values that are not as published are used, and said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from emo.extract.weights import Weights
from emo.featstore.errors import ModelError
from emo.featstore.text import slips

AGAIN = "Fetch the model's whole folder again."
MODEL, PROCESSOR = "config.json", "preprocessor_config.json"
SLIPS = 2  # letters that are other, lacking or too many in a name that was meant to be a known one
# Of a configuration of transformers: what training, text generation and bookkeeping are about, not a feature.
NO_MATTER = re.compile(
    r".*dropout.*|.*layerdrop.*|.*drop_path.*|mask_.*|.*spec_augment|init.*|.*label.*|(?!pad_).*token_id|.*tokens|ctc_.*"
    r"|.*codevector.*|.*(loss|diversity).*|output_.*|return_.*|problem_type|tie_.*|.*classifier.*|use_cache|decoder_.*"
    r"|xvector_.*|tdnn_.*|architectures|.*name_or_path|transformers_version|.*dtype|.*cross_attention|pruned_.*|is_.*"
    r"|task_.*|finetuning_.*|tokenizer_class|chunk_size_feed_forward|torchscript|pretraining_tp|.*checkpointing"
)


def read_settings(
    weights: Weights, usual: Mapping[str, Any], name: str = PROCESSOR
) -> tuple[dict[str, Any], list[str]]:
    """The settings that a file beside the weights states, in place of the usual ones.

    Args:
        weights: A model's folder; of a single file there are no settings, so the usual ones are taken.
        usual: Each key with its value as published.
        name: The file.

    Returns:
        A value for every key of `usual`, and sentences: keys that are not stated, values that are not as published.

    Raises:
        ModelError: The folder lacks the file; a name is misspelt; a value is of another kind.
    """
    if not weights.path.is_dir():
        return dict(usual), [f"{weights.source} is a single file, without {name}: settings are taken as published."]
    stated = stated_in(weights, name, usual)
    taken = {key: stated.get(key, value) for key, value in usual.items()}
    for key, value in taken.items():
        if not _alike(value, usual[key]):
            raise ModelError(f"{weights.source}/{name} states {key} {value!r}, which is no such setting.", AGAIN)
    lacking = [f"{key} {value}" for key, value in usual.items() if key not in stated]
    said = f"{weights.source}/{name} does not state everything; taken as published: {', '.join(lacking)}."
    return taken, ([said] if lacking else []) + unlike(f"{weights.source}/{name}", taken, usual)


def stated_in(weights: Weights, name: str, known: Iterable[str]) -> dict[str, Any]:
    """Return what a file of a model's folder states.

    Raises:
        ModelError: It is not there, is damaged, or a name in it is a slip of one that is known and not stated.
    """
    stated = weights.config(name)
    if stated is None:
        raise ModelError(f"{weights.source} holds no {name}, which its format needs.", AGAIN)
    check_names(stated, known, f"{weights.source}/{name}")
    return stated


def check_names(stated: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse a name that is a slip of one that is known and not stated.

    Raises:
        ModelError: There is one.
    """
    stated, known = set(stated), set(known)
    for name in sorted(stated - known):
        for meant in sorted(known - stated):
            if slips(name, meant) <= min(SLIPS, len(meant) // 4):
                raise ModelError(f"{where} states {name!r}, which nobody knows, and no {meant!r}.", AGAIN)


def unlike(where: str, found: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    """A sentence on what is not as published, where there is anything that can change a feature."""
    other = [
        f"{key} {_plain(value)} ({_plain(published[key])})"
        for key, value in found.items()
        if key in published and not NO_MATTER.fullmatch(key) and _plain(value) != _plain(published[key])
    ]
    return [f"{where} is not as published (in brackets): {', '.join(other)}."] if other else []


def _plain(value: Any) -> Any:
    """A value as it is compared: `{"height": 384, "width": 384}` is 384."""
    if isinstance(value, Mapping) and (sides := list(value.values())) and all(each == sides[0] for each in sides):
        return sides[0]
    return list(value) if isinstance(value, tuple) else value


def _alike(value: Any, usual: Any) -> bool:
    """Whether a value can stand in place of the usual one."""
    if isinstance(usual, bool):
        return isinstance(value, bool)
    if isinstance(usual, (list, tuple)):
        fits = isinstance(value, (list, tuple)) and len(value) == len(usual)
        return fits and all(map(_alike, value, usual))
    if isinstance(value, Mapping):  # a size may be a number, or numbers by name
        return bool(value) and all(_number(each) for each in value.values())
    return isinstance(value, str) if isinstance(usual, str) else isinstance(usual, Mapping) or _number(value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
