"""The official optimizer and schedule of Emotion-LLaMA, and plainer schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from emo.featstore.text import counted
from emo.train.llm.recipe import TuneRecipe

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.05  # runner_base.py:98-133, weight_decay of both training files


@dataclass(frozen=True)
class Schedule:
    """Linear warmup, then a cosine (optims.py:56-112). Defaults: stage 1, `Emotion-LLaMA_finetune.yaml`.

    Two properties of the official code are kept: the cosine counts from step 0, not from the end of the warmup; and the
    warmup counts steps *within the epoch*, so that it saw-tooths where `warmup_steps` is larger than `epoch_steps`.

    Attributes:
        init_lr: Highest learning rate.
        min_lr: Where the cosine ends.
        warmup_lr: Where the warmup starts.
        warmup_steps: Steps of the warmup.
        epoch_steps: Optimizer steps that are called an epoch (`iters_per_epoch`); no pass over the data.
        epochs: Epochs of the whole run (`max_epoch`).
    """

    init_lr: float = 1e-5
    min_lr: float = 1e-6
    warmup_lr: float = 1e-6
    warmup_steps: int = 1000
    epoch_steps: int = 1000
    epochs: int = 30

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.epoch_steps

    def lr(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 0; set before the step is made."""
        if step < self.warmup_steps:
            within = step % self.epoch_steps
            return min(self.init_lr, self.warmup_lr + (self.init_lr - self.warmup_lr) * within / self.warmup_steps)
        return self.min_lr + 0.5 * (self.init_lr - self.min_lr) * (1 + math.cos(math.pi * step / self.steps))


def learning_rate(recipe: TuneRecipe, epoch_steps: int) -> Callable[[int], float]:
    """Learning rate by step, from 0.

    `official` is Emotion-LLaMA's, whose cosine counts from step 0 and whose warmup counts within an epoch; `cosine`
    warms up once and begins its cosine where the warmup ends; `constant` warms up once and stays.
    """
    if recipe.schedule == "official":
        rates = (recipe.lr, recipe.min_lr, recipe.warmup_lr)
        return Schedule(*rates, recipe.warmup_steps, epoch_steps, recipe.epochs).lr

    def rate(step: int) -> float:
        if step < recipe.warmup_steps:
            return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * step / recipe.warmup_steps
        if recipe.schedule == "constant":
            return recipe.lr
        part = (step - recipe.warmup_steps) / max(1, recipe.epochs * epoch_steps - recipe.warmup_steps)
        return recipe.min_lr + 0.5 * (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * part))

    return rate


def warmup_note(recipe: TuneRecipe, epoch_steps: int) -> str:
    """Say that the learning rate never reaches `lr`, where the warmup is too long for that; empty where it does."""
    steps, saws = recipe.epochs * epoch_steps, recipe.schedule == "official" and recipe.warmup_steps > epoch_steps
    warm = min(steps, recipe.warmup_steps)
    most = max(map(learning_rate(recipe, epoch_steps), range(warm)), default=recipe.lr)
    if most >= recipe.lr or not (saws or recipe.warmup_steps >= steps):
        return ""
    anew = f" and begins anew every {counted(epoch_steps, 'step')}, an epoch" if saws else ""
    told = f"warmup_steps: the warmup takes {counted(recipe.warmup_steps, 'step')}{anew}"
    return (
        f"{told}; until then the learning rate is at most {most:.2g} of {recipe.lr:g}, and the run has {steps:,} steps."
    )


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float = WEIGHT_DECAY
) -> list[dict[str, Any]]:
    """Two groups of named parameters, with and without weight decay; frozen ones are left out.

    Biases and everything with fewer than two dimensions do not decay, nor does what has `bias`, `ln` or `bn` anywhere
    in its name (runner_base.py:98-133).
    """
    decay: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or any(part in name for part in ("bias", "ln", "bn"))
            (plain if spared else decay).append((name, parameter))
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float = WEIGHT_DECAY
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; each group keeps its names in `param_names`. Fused on a GPU."""
    groups = parameter_groups(parameters, weight_decay)
    fused = bool(groups) and all(p.device.type == "cuda" for group in groups for _, p in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all groups one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
