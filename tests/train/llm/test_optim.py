"""The schedule and the two parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from emo.train.llm.optim import Schedule, adamw, parameter_groups, set_lr, warmup_note
from emo.train.recipe import load_recipe


def test_stage_1_warms_up_and_then_follows_a_cosine_that_began_at_step_0() -> None:
    schedule = Schedule()
    assert schedule.lr(0) == 1e-6
    assert schedule.lr(500) == pytest.approx(5.5e-6)
    assert schedule.lr(999) < 1e-5
    assert schedule.lr(1000) == pytest.approx(1e-6 + 9e-6 * 0.99726, rel=1e-4), "already below the highest"
    assert schedule.steps == 30_000
    assert schedule.lr(schedule.steps) == pytest.approx(1e-6)
    after = [schedule.lr(step) for step in range(1000, schedule.steps, 500)]
    assert after == sorted(after, reverse=True)


def test_no_warmup_and_a_constant_rate() -> None:
    assert Schedule(warmup_steps=0).lr(0) == 1e-5
    flat = Schedule(init_lr=1e-6)
    assert {flat.lr(step) for step in range(0, 30_000, 777)} == {1e-6}


def test_a_warmup_longer_than_an_epoch_begins_again_with_each() -> None:
    saw = Schedule(warmup_steps=25, epoch_steps=10)
    assert saw.lr(9) > saw.lr(10) == saw.warmup_lr


def test_a_warmup_in_which_the_run_ends_is_said() -> None:
    short = load_recipe("emotion-llama-stage1", ["epochs=2", "steps_per_epoch=50"])
    told = warmup_note(short, 50)
    assert "the warmup takes 1,000 steps and begins anew every 50 steps, an epoch" in told
    assert "at most 1.4e-06 of 1e-05, and the run has 100 steps." in told
    cosine = load_recipe("tiny", ["epochs=1", "warmup_steps=5"])
    assert "the warmup takes 5 steps; until then" in warmup_note(cosine, 5)
    for fine in (load_recipe("tiny"), load_recipe("affectgpt"), load_recipe("emotion-llama-stage2")):
        assert warmup_note(fine, fine.steps_per_epoch) == ""


def test_warmup_never_exceeds_the_highest_rate() -> None:
    assert Schedule(init_lr=1e-3, warmup_lr=1e-2, warmup_steps=10).lr(0) == 1e-3


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(2, 3)
        self.ln_out = nn.Linear(2, 2, bias=False)  # by its name, like the reference, not by what it is
        self.norm = nn.LayerNorm(2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_biases_vectors_and_norms_do_not_decay_and_frozen_ones_are_left_out() -> None:
    decay, plain = parameter_groups(Parts().named_parameters(), 0.1)
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert [name for name, _ in decay["params"]] == ["proj.weight"]
    assert {name for name, _ in plain["params"]} == {"proj.bias", "ln_out.weight", "norm.weight", "norm.bias"}


def test_one_rate_for_all_groups_and_names_in_the_state() -> None:
    model = Parts()
    optimizer = adamw(model.named_parameters(), 1e-3)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["proj.weight"]
    model.proj(torch.ones(1, 2)).sum().backward()
    before = model.norm.weight.clone()
    optimizer.step()
    assert torch.equal(model.norm.weight, before), "no gradient, no step"
