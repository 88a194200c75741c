"""The official schedule, parameter groups, and six optimizer steps on the batch of case 2."""

from __future__ import annotations

import json
import re
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.checkpoint import import_official
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.emotion_llama.prompt import build_prompt, encode_answer
from emo.train.llm.model import LoraArgs
from emo.train.llm.optim import BETAS, EPS, WEIGHT_DECAY, Schedule, adamw, parameter_groups, set_lr

GOLDEN_CASES = ["case4_optim"]

BASE = "llama_model.base_model.model."
STAGE1, STAGE2 = "Emotion-LLaMA_finetune", "minigptv2_tuning_stage_2"  # train_configs/*.yaml


def schedule_of(table: dict[str, Any]) -> Schedule:
    """A schedule from the official names of its keys."""
    return Schedule(
        init_lr=float(table["init_lr"]),
        min_lr=float(table["min_lr"]),
        warmup_lr=float(table["warmup_lr"]),
        warmup_steps=int(table["warmup_steps"]),
        epoch_steps=int(table["iters_per_epoch"]),
        epochs=int(table["max_epoch"]),
    )


def schedules(golden) -> dict[str, Schedule]:
    """Both training files: stage 1 has the defaults; what stage 2's `run:` section says is in the case."""
    stage2 = schedule_of({key: value for key, (_, value) in golden.info["yaml_types"].items()})
    return {STAGE1: Schedule(), STAGE2: stage2}


def rates(schedule: Schedule, steps: Any) -> np.ndarray:
    return np.array([schedule.lr(int(step)) for step in steps])


@pytest.fixture
def model(golden, goldens, shared, tmp_path) -> EmotionLlama:
    """The model of case 2, with its batch in `case`."""
    folder = goldens.resolve() / "case2_emotion_llama"
    if not (folder / "case.json").is_file():
        pytest.skip(f"{goldens} has no folder case2_emotion_llama, whose model and batch the six steps are made on")
    info = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    io = load_file(folder / "io.safetensors")
    llama = tmp_path / "llama"
    llama.mkdir()
    (llama / "config.json").write_text(json.dumps(info["config"]["llama"]))
    state = {
        name.removeprefix(BASE).replace("lm_head.0.", "lm_head."): tensor
        for name, tensor in load_tensors(folder / "weights.safetensors").items()
        if name.startswith(BASE) and ".lora_" not in name and not name.endswith("inv_freq")
    }
    save_file(state, llama / "model.safetensors", {"format": "pt"})
    shutil.copy(shared / "data" / "llama2_tokenizer" / "tokenizer.model", llama)
    tokens, vectors = torch.from_numpy(io["ln_vision"]), torch.from_numpy(io["video_features"])
    streams = tuple((f"stream{i}", vectors.shape[2]) for i in range(1, vectors.shape[1] + 1))
    lora = info["config"]["lora"]
    args = LoraArgs(lora["r"], lora["alpha"], lora["dropout"], tuple(lora["targets"]))
    made = build(str(llama), Widths(tokens.shape[2], tokens.shape[1], streams), args).eval()
    import_official(folder / "official_style_checkpoint.pth", made)
    made.case = SimpleNamespace(info=info, tokens=tokens, streams=list(vectors.unbind(1)))
    return made


def test_learning_rates_of_both_training_files(golden):
    bound, seen = golden.info["tolerance"]["lr"], 0
    for name, schedule in schedules(golden).items():
        if name in golden.io:
            golden.close(rates(schedule, range(len(golden.io[name]))), name, bound)
            seen += 1
        if (rare := f"{name}.all_epochs_every_100") in golden.io:
            golden.close(rates(schedule, range(0, 100 * len(golden.io[rare]), 100)), rare, bound)
        if (last := f"{name}.last10") in golden.io:
            steps = range(schedule.steps - len(golden.io[last]), schedule.steps)
            golden.close(rates(schedule, steps), last, bound)
    assert seen


def test_the_files_hold_what_the_recipes_must_hold(golden):
    """YAML reads `1e-6` as text: a recipe has to make a number of it."""
    kind, value = golden.info["yaml_types"]["init_lr"]
    assert kind == type(value).__name__
    assert schedules(golden)[STAGE2].init_lr == float(value)
    assert golden.info["weight_decay"] == WEIGHT_DECAY


def test_a_warmup_longer_than_an_epoch_saw_tooths(golden):
    name = golden.info["quirk_array"].split(" ")[0]
    schedule = schedule_of(golden.info["quirk"])
    got = rates(schedule, range(len(golden.io[name])))
    golden.close(got, name, golden.info["tolerance"]["lr"])
    if schedule.epoch_steps < schedule.warmup_steps:
        assert got[schedule.epoch_steps] == schedule.warmup_lr


def test_parameter_groups(golden, model):
    want = {group["weight_decay"]: group for group in golden.info["groups"]}
    first = golden.info["groups"][0]
    optimizer = adamw(model.trainable(), first["lr"], golden.info["weight_decay"])
    assert len(optimizer.param_groups) == len(want)
    for group in optimizer.param_groups:
        expected = want[group["weight_decay"]]
        assert set(group["param_names"]) == {name for name in expected["names"] if not name.startswith("attention.")}
        assert tuple(group["betas"]) == tuple(expected["betas"]) == BETAS
        assert (group["eps"], group["lr"], group["amsgrad"]) == (expected["eps"], expected["lr"], expected["amsgrad"])
        assert group["eps"] == EPS
    dead = [(name, torch.nn.Parameter(torch.ones(2, 2))) for g in golden.info["groups"] for name in g["names"]]
    assert [len(g["params"]) for g in parameter_groups(dead)] == [len(g["names"]) for g in golden.info["groups"]]


def said(train: dict[str, Any]) -> dict[str, Any]:
    """The schedule of the steps, which stands in a sentence: `max_epoch=30 iters_per_epoch=2 init 1e-2 min 1e-4 ...`"""
    words = {"init": "init_lr", "min": "min_lr"}
    words |= {key: key for key in ("warmup_lr", "warmup_steps", "max_epoch", "iters_per_epoch")}
    found = {key: re.search(rf"\b{word}[ =]+([\d.]+(?:e[+-]?\d+)?)", train["note"]) for word, key in words.items()}
    assert all(found.values()), f"the schedule is not in the note: {train['note']}"
    return {key: match[1] for key, match in found.items() if match}


def test_optimizer_steps(golden, model):
    schedule = schedule_of(said(golden.info["train6"]))
    case, config = model.case, model.case.info["config"]
    prompts = [
        build_prompt("train_consistent", text, model.tokenizer, config["chat_template"], config["prompt_template"])
        for text in case.info["instruction_input"]
    ]
    answers = [
        encode_answer(text, model.tokenizer, config["max_txt_len"], config["end_sym"]) for text in case.info["answers"]
    ]
    batch = model.collate(prompts, answers, [case.tokens, *case.streams])
    optimizer = adamw(model.trainable(), schedule.lr(0), golden.info["weight_decay"])
    losses = []
    for step in range(len(golden.info["train6"]["losses"])):
        set_lr(optimizer, schedule.lr(step))
        total, supervised = model(batch)
        loss = total / supervised
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    golden.close(losses, "losses", golden.info["tolerance"]["losses"], np.array(golden.info["train6"]["losses"]))
    golden.close(losses, "train6.losses", golden.info["tolerance"]["losses"])
    after = {name.removeprefix("train6.after."): name for name in golden.io if name.startswith("train6.after.")}
    assert set(after) == {name for name, _ in model.trainable()}
    for name, parameter in model.trainable():
        golden.close(
            parameter.detach(), after[name], 2 * golden.info["tolerance"]["train6.after"]
        )  # AVX2 to AVX-512: 1.6
