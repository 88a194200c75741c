"""A language model in 4 bits: close to what it was, tuned and kept as an adapter, and never merged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emo.featstore.errors import ModelError, UsageError
from emo.featstore.install import install_command
from emo.train.llm.answer import TunedAnswerer, load_tuned
from emo.train.llm.checkpoint import load_adapter, merge, save_adapter
from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.emotion_llama.prompt import build_prompt, encode_answer, instruction
from emo.train.llm.model import Batch, LoraArgs
from emo.train.llm.tokenizer import Tokenizer
from emo.train.llm.tune import tune
from emo.train.runs import load_run


def predict_run(store: Any, run: Any, clips: Any, policy: str = "official", device: str = "auto", **how: Any) -> Any:
    """Answers of a run that is opened for this one question."""
    return TunedAnswerer(load_run(run) if isinstance(run, Path) else run, device).answer(store, clips, policy, **how)


Make = Callable[..., Any]
REASON = "nf4 needs bitsandbytes (extra nf4, 125 MB)"
WIDTHS, LORA = Widths(12, 9, (("face", 10),)), LoraArgs(r=4, alpha=8, dropout=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder of a small LLaMA; nf4 takes weights in blocks of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    Tokenizer.bytes().save(tmp_path / "llama")
    return tmp_path / "llama"


def batch(model: EmotionLlama) -> Batch:
    generator = torch.Generator().manual_seed(0)
    tokens, stream = torch.randn(3, 9, 12, generator=generator), torch.randn(3, 10, generator=generator)
    prompts = [
        build_prompt("train_consistent", instruction("emotion", "Which?", said), model.tokenizer) for said in "abc"
    ]
    return model.collate(prompts, [encode_answer("happy", model.tokenizer)] * 3, tokens, [stream])


def step_down(model: EmotionLlama, steps: int = 5) -> list[float]:
    """Losses of a few steps on one batch."""
    optimizer = torch.optim.AdamW([each for _, each in model.trainable()], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss, n = model(batch(model))
        (loss / n).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / n)
    return losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bits_learn_and_are_kept_as_an_adapter(folder: Path, tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("bitsandbytes", reason=REASON)
    model, full = build(folder, WIDTHS, LORA, dtype, quantise="nf4"), build(folder, WIDTHS, LORA, dtype)
    frozen = model.llm.model.layers[0].mlp.up_proj.weight
    assert (frozen.dtype, frozen.numel()) == (torch.uint8, 256 * 128 // 2)
    losses = step_down(model)
    assert losses[0] == pytest.approx(step_down(full, 1)[0], rel=0.02)
    assert losses[-1] < losses[0] - 0.05

    save_adapter(model, tmp_path / "adapter")
    again = build(folder, WIDTHS, LORA, dtype, quantise="nf4", seed=1)
    load_adapter(again, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(again(batch(again))[0], model(batch(model))[0])
    with pytest.raises(ModelError, match="A quantised language model cannot be merged"):
        merge(model, tmp_path / "merged")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_run_in_four_bits(corpus: Make, recipe: Make, folder: Path, tmp_path: Path, dtype: str) -> None:
    """With answers between its steps, for which bitsandbytes may pack the weights another way."""
    pytest.importorskip("bitsandbytes", reason=REASON)
    made = corpus(n=20)
    sets = (f"llm={folder}", f"dtype={dtype}", "steps_per_epoch=4", "validation.every=2")
    result = tune(made.store, made.clips, recipe("quantise=nf4", *sets), tmp_path / "run", "cpu")
    full = tune(made.store, made.clips, recipe(*sets), tmp_path / "full", "cpu")
    assert result.run.info["parameters"] == full.run.info["parameters"]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("run", "full")]
    losses = [[row["loss"] for row in map(json.loads, log) if "loss" in row] for log in logs]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    asked = [clip for clip in made.clips if clip.split == "test1"]
    assert len(predict_run(made.store, result.run, asked, "likelihood", "cpu")) == len(asked)
    again, _, _ = load_tuned(made.store, result.run, [asked[0].id], "cpu")
    assert again.llm.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8


def test_what_nf4_needs_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="nf4 needs the package bitsandbytes") as caught:
        build(folder, WIDTHS, quantise="nf4")
    assert caught.value.hint == f"Install it: {install_command('nf4')}."
    with pytest.raises(UsageError, match="There is no quantisation 'int3'"):
        build(folder, WIDTHS, quantise="int3")
    with pytest.raises(UsageError, match="nf4 needs a CUDA device or a CPU, not meta"):
        build(folder, WIDTHS, device="meta", quantise="nf4")
    (folder / "small.gguf").touch()
    with pytest.raises(UsageError, match=r"small\.gguf is a \.gguf file"):
        build(folder / "small.gguf", WIDTHS, quantise="nf4")
