"""Answers from cached features: free text by greedy generation, or the likelihood of every label word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from emo.featstore.spec import EncoderSpec
from emo.train.llm.build import build
from emo.train.llm.data import Example, chunks, filled
from emo.train.llm.distributed import ahead
from emo.train.llm.features import Features
from emo.train.llm.model import LoraArgs, TunedModel
from emo.train.llm.prompt import Prompt
from emo.train.llm.question import check_question, question
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.tokenizer import Tokenizer
from emo.train.recipe import family_named

DRAWN = ("tiny", "random")  # language models without a source: profiles of `build`
OnAnswer = Callable[[int, int], None]  # answered, of how many
OnText = Callable[[str, str], None]  # clip, its answer so far
Inputs = list[torch.Tensor]  # one per feature that the family wants


def make_prompt(model: TunedModel, recipe: TuneRecipe, task: str, text: str, transcript: str, layout: str) -> Prompt:
    """The prompt of one question; training and answering both come through here."""
    family = family_named(recipe.family)
    return family.prompt(recipe, family.instruction(recipe, task, text, transcript), model.tokenizer, layout)


def make_inputs(features: Features, names: Sequence[str]) -> Inputs:
    """Cached features of clips as tensors on the CPU: `(B, D)` or `(B, R, D)` each."""
    return [torch.from_numpy(each) for each in features.batch(names)]


def predict(
    model: TunedModel,
    features: Features,
    clips: Sequence[Example],
    recipe: TuneRecipe,
    policy: str = "official",
    task: str = "emotion",
    layout: str | None = None,
    on_progress: OnAnswer | None = None,
    on_text: OnText | None = None,
) -> list[dict[str, Any]]:
    """Ask about clips, with the first instruction of the task's pool.

    Args:
        model: On its device.
        features: That hold all these clips.
        clips: Name, transcript and pair of each are used, nothing else.
        recipe: Prompts, labels and decoding limits.
        policy: `likelihood` gives the probability of every label of `recipe.scored`; all others generate greedily and
            keep the text as it came.
        task: What is asked.
        layout: Of the prompt; default the recipe's.
        on_progress: Called after every batch.
        on_text: Called with the name of a clip and its answer so far, as it is generated.

    Returns:
        `{"name", "asked", "answer", "probabilities"?}` in the order of `clips`; `asked` is the `question`.

    Raises:
        UsageError: Unknown policy, task or layout.
    """
    layout = layout or recipe.layout
    task = check_question(recipe, policy, task, layout)
    text = recipe.prompts[task][0]  # type: ignore[index]
    prompts = [make_prompt(model, recipe, task, filled(text, c.pair), c.transcript, layout) for c in clips]
    by_length = sorted(range(len(clips)), key=lambda i: (-model.length(prompts[i]), clips[i].name))
    rows: dict[int, dict[str, Any]] = {}
    parts = list(chunks(by_length, recipe.decode.batch_size))

    def load(number: int) -> Inputs:
        inputs = make_inputs(features, [clips[i].name for i in parts[number]])
        return [each.pin_memory() for each in inputs] if model.device.type == "cuda" else inputs

    with ahead(load, 0, len(parts)) as loaded:
        for number, inputs in loaded:
            part = parts[number]
            told = None if on_text is None else partial(_tell, on_text, [clips[i].name for i in part], recipe, model)
            given = _answers(model, [prompts[i] for i in part], inputs, recipe, policy, told)
            for i, row in zip(part, given, strict=True):
                asked = question(recipe, task, clips[i].transcript, layout, clips[i].pair)
                rows[i] = {"name": clips[i].name, "asked": asked} | row
            if on_progress is not None:
                on_progress(len(rows), len(clips))
    return [rows[i] for i in range(len(clips))]


def _tell(on_text: OnText, names: Sequence[str], recipe: TuneRecipe, model: TunedModel, i: int, ids: list[int]) -> None:
    on_text(names[i], family_named(recipe.family).answer_text(ids, model.tokenizer))


def _answers(
    model: TunedModel,
    prompts: Sequence[Prompt],
    inputs: Inputs,
    recipe: TuneRecipe,
    policy: str,
    on_ids: Callable[[int, list[int]], None] | None = None,
) -> Iterator[dict[str, Any]]:
    family = family_named(recipe.family)
    if policy != "likelihood":
        for ids in model.generate(prompts, inputs, recipe.decode.max_new_tokens, on_ids):
            yield {"answer": family.answer_text(ids, model.tokenizer)}
        return
    words = [
        family.answer_ids(recipe, family.clean_answer(label, "emotion"), model.tokenizer) for label in recipe.scored
    ]
    logprobs = model.label_logprobs(prompts, inputs, words)  # (B, L)
    for row in torch.softmax(logprobs.double(), dim=1).tolist():
        best = max(range(len(row)), key=row.__getitem__)
        yield {"answer": recipe.scored[best], "probabilities": dict(zip(recipe.scored, row, strict=True))}


def resolve_dtype(name: str, device: str) -> str:
    """`auto` is bf16 on a GPU that has it, else fp32."""
    if name != "auto":
        return name
    return "bf16" if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _nothing(spec: EncoderSpec) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and deviation that change nothing, of a feature that has one row."""
    return (np.zeros(spec.dim), np.ones(spec.dim)) if spec.level == "utt" else None


def start_model(source: str, features: Features, recipe: TuneRecipe, device: str) -> TunedModel:
    """The language model with fresh adapter and projections, fitted to the features in the store.

    Args:
        source: Folder, id or .gguf file of the language model; `tiny` or `random` for a model of that profile.
        features: Their specs give the widths.
        recipe: With `dtype` resolved.
        device: Torch device.
    """
    family = family_named(recipe.family)
    lora = LoraArgs(recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.targets)
    dtype = {"bf16": "bfloat16", "fp32": "float32"}[recipe.dtype]

    def make(llm: PreTrainedModel, tokenizer: Tokenizer, name: str) -> TunedModel:
        model = family.assemble(recipe, llm, tokenizer, features.specs, lora, name, recipe.seed)
        if recipe.standardise:  # to be filled, from clips to train on or from a file
            model.standardise([_nothing(spec) for spec in features.specs])
        return model

    drawn = source in DRAWN
    return build(
        make,
        None if drawn else source,
        dtype,
        device,
        "paper" if not drawn else source,
        recipe.seed,
        recipe.quantise,
        family.model_types,
    )
