"""Every family keeps the contract, and the contract notices a family that breaks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emo.featstore.errors import ModelError, UsageError
from emo.train.llm.affectgpt.model import AffectGpt
from emo.train.llm.emotion_llama.family import EmotionLlamaFamily
from emo.train.llm.emotion_llama.model import EmotionLlama
from emo.train.llm.family import Family, Wanted
from emo.train.llm.model import TunedModel
from emo.train.llm.prompt import Prompt
from emo.train.llm.videollama2.model import VideoLlama2
from emo.train.recipe import FAMILIES
from emo.train.testing import check_family


class Unfrozen(EmotionLlamaFamily):
    def assemble(self, *given: Any) -> Any:
        model = super().assemble(*given)
        model.llm.get_output_embeddings().requires_grad_(True)
        return model


class WithoutASlot(EmotionLlamaFamily):
    def prompt(self, *given: Any) -> Prompt:
        prompt = super().prompt(*given)
        return replace(prompt, segments=tuple(each for each in prompt.segments if each != "features"))


class Unordered(EmotionLlamaFamily):
    def prompt(self, *given: Any) -> Prompt:
        prompt = super().prompt(*given)
        return replace(prompt, segments=prompt.segments[::-1])


class Unending(EmotionLlamaFamily):
    def answer_ids(self, *given: Any) -> list[int]:
        return super().answer_ids(*given)[:-1]


class AnyLayout(EmotionLlamaFamily):
    def prompt(self, recipe: Any, instruction: str, tokenizer: Any, layout: str) -> Prompt:
        try:
            return super().prompt(recipe, instruction, tokenizer, layout)
        except UsageError:
            return super().prompt(recipe, instruction, tokenizer, "train_consistent")


class Unstable(EmotionLlamaFamily):
    asked = 0

    def wanted(self, recipe: Any) -> tuple[Wanted, ...]:
        self.asked += 1
        return super().wanted(recipe)[:: 1 if self.asked % 2 else -1]


class AnySize(EmotionLlamaFamily):
    def assemble(self, recipe: Any, llm: Any, tokenizer: Any, specs: Sequence[Any], *given: Any) -> Any:
        read = [replace(spec, level="utt") if spec.rows is None else spec for spec in specs]
        return super().assemble(recipe, llm, tokenizer, read, *given)


class Forgetful(EmotionLlamaFamily):
    def export_official(self, model: Any, recipe: Any, path: Path) -> None:
        with torch.no_grad():
            model.llama_proj.bias.zero_()
        super().export_official(model, recipe, path)
        with torch.no_grad():
            model.llama_proj.bias.fill_(1)


class Lenient(EmotionLlamaFamily):
    def import_official(self, path: Path, model: Any, allow_new: bool = False) -> Any:
        return None if path.name == "foreign.pth" else super().import_official(path, model, allow_new)


class Rewriting(EmotionLlamaFamily):
    def answer_text(self, ids: Sequence[int], tokenizer: Any) -> str:
        text = super().answer_text(ids, tokenizer)
        ids.clear()  # type: ignore[attr-defined]
        return text


class NoSource(EmotionLlamaFamily):
    weights = {"llama": "meta-llama/Llama-2-7b-chat-hf"}  # type: ignore[dict-item]  # noqa: RUF012


ROWS = {"videollama2": 64}  # sixteen frames of four patches


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_family(name, tmp_path, ROWS.get(name, 9))


@pytest.mark.parametrize(
    ("family", "says"),
    [
        (Unfrozen, "language model is not frozen"),
        (WithoutASlot, "do not take every feature once and in order"),
        (Unordered, "do not take every feature once and in order"),
        (Unending, "no end of the answer"),
        (AnyLayout, "no UsageError"),
        (Unstable, "other features when asked again"),
        (AnySize, "no ModelError"),
        (Forgetful, r"official checkpoints lose \['llama_proj.bias'\]"),
        (Lenient, "no ModelError that says 'foreign.pth'"),
        (Rewriting, "changes the ids"),
        (NoSource, "weights are no Sources"),
    ],
)
def test_a_broken_family_is_noticed(family: Callable[[], Family], says: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=says):
        check_family(family(), tmp_path)


@pytest.mark.parametrize("kind", [EmotionLlama, AffectGpt, VideoLlama2])
def test_prompts_with_places_for_features_are_refused_by_a_model_made_for_none(kind: type[TunedModel]) -> None:
    with pytest.raises(ModelError, match="made for none"):
        kind.check(SimpleNamespace(shapes=[]), 2, [])
