"""Recipes of tuning: the shipped files are whole and explained, and hold the official numbers and prompts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo.featstore.errors import UsageError
from emo.featstore.labels import MERR_LABELS
from emo.train.llm.optim import Schedule, learning_rate
from emo.train.llm.recipe import TuneRecipe
from emo.train.recipe import load_recipe, make_recipe, shipped_recipes

TUNE_RECIPES = tuple(name for name in shipped_recipes() if load_recipe(name).makes == TuneRecipe.makes)


def text_of(name: str) -> str:
    return (resources.files("emo.train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TUNE_RECIPES)
def test_a_shipped_recipe_holds_every_key_and_explains_it(name: str) -> None:
    assert list(yaml.safe_load(text_of(name))) == list(type(load_recipe(name)).model_fields)
    assert load_recipe(name).name == name
    for block in text_of(name).split("\n\n")[1:]:
        key, _, comment = block.partition("\n# ")
        assert "Type: " in comment, key


@pytest.mark.parametrize("name", TUNE_RECIPES)
def test_what_is_written_back_reads_as_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["lora.r=8", "validation.metric=uar"])
    assert (recipe.lora.r, recipe.validation.metric) == (8, "uar")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


# specs of the official training files: Emotion-LLaMA_finetune.yaml and minigptv2_tuning_stage_2.yaml
OFFICIAL = {
    "min_lr": 1e-6,
    "warmup_lr": 1e-6,
    "warmup_steps": 1000,
    "weight_decay": 0.05,
    "epochs": 30,
    "batch_size": 1,
    "seed": 42,
    "max_txt_len": 1024,
    "grad_clip": None,
    "schedule": "official",
    "lora": {"r": 64, "alpha": 16, "dropout": 0.05, "targets": ("q_proj", "v_proj")},
}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("emotion-llama-stage1", {"lr": 1e-5, "steps_per_epoch": 1000, "tasks": {"emotion": 1.0, "reason": 1.0}}),
        ("emotion-llama-stage2", {"lr": 1e-6, "steps_per_epoch": 1000, "tasks": {"reason_v2": 1.0}}),
        ("emotion-llama-pseudo", {"lr": 1e-5, "steps_per_epoch": 5000, "tasks": {"emotion": 1.0}}),
    ],
)
def test_the_numbers_are_the_official_ones(name: str, more: dict[str, Any]) -> None:
    recipe = load_recipe(name)
    table = recipe.model_dump()
    expected = OFFICIAL | more
    assert {key: table[key] for key in expected} == expected
    assert (recipe.features.tokens, recipe.features.streams) == ("eva_g_448", ("mae_340_UTT", "maeV_399_UTT", "HL-UTT"))
    assert recipe.labels == MERR_LABELS
    assert recipe.scored == MERR_LABELS[:6]


def test_the_prompts_are_the_official_ones_to_the_letter() -> None:
    prompts = load_recipe("emotion-llama-stage1").prompts
    assert prompts["emotion"] == (
        "Please determine which emotion label in the video represents: happy, sad, neutral, angry, worried, surprise, "
        "fear, contempt, doubt.",
    )
    assert len(prompts["reason"]) == 5
    assert prompts["reason"][1] == "What is the emotional state of the person in the video? Please tell me the reason."
    assert prompts["reason"][2].endswith("the intended meaning behind his words? Which emotion does this reflect?")
    assert load_recipe("emotion-llama-stage2").prompts["reason_v2"] == prompts["reason"]


def test_the_schedule_of_stage_1_is_the_optimizers() -> None:
    recipe = load_recipe("emotion-llama-stage1")
    rate = learning_rate(recipe, 1000)
    for step in (0, 1, 999, 1000, 15000, 29999):
        assert rate(step) == Schedule().lr(step)
    assert learning_rate(load_recipe("emotion-llama-stage2"), 1000)(20000) == 1e-6


def test_the_other_schedules_warm_up_once() -> None:
    sets = ["lr=1.0", "min_lr=0.1", "warmup_lr=0.0", "warmup_steps=10", "epochs=10"]
    cosine = learning_rate(load_recipe("tiny", [*sets, "schedule=cosine"]), 5)
    assert [cosine(0), cosine(5), cosine(10), cosine(30), cosine(50)] == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    constant = learning_rate(load_recipe("tiny", [*sets, "schedule=constant"]), 5)
    assert [constant(5), constant(10), constant(49)] == [0.5, 1, 1]


def test_all_that_is_wrong_is_said_at_once_with_the_nearest_key() -> None:
    table = yaml.safe_load(text_of("tiny"))
    table |= {"epochz": 3, "lr": -1, "template": "no place", "labels": ["sad", "sad"], "lora": {"rank": 1, "dropot": 0}}
    table["data"] = {"reason": ["labels.txt"]}
    with pytest.raises(UsageError) as caught:
        make_recipe(table)
    for part in (
        "unknown key epochz (did you mean epochs?)",
        "unknown key lora.dropot (did you mean lora.dropout?)",
        "unknown key lora.rank",
        "lr: Input should be greater than 0",
        "template: the template needs exactly one {}",
        "labels: labels must be different",
        "data.reason: texts are read from .json and .csv files, not from labels.txt",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tasks={emotion: 0}"], "at least one task needs a weight"),
        (["tasks={reason: 1}"], "data.reason: a task with a weight needs at least one source"),
        (["tasks={humour: 1}"], "tasks.humour"),
        (["prompts={reason: [x]}"], "prompts.emotion: scoring asks the first of these"),
        (["min_lr=1"], "min_lr: is above lr"),
        (["score_labels=[fear]"], "score_labels: fear not among labels"),
        (["validation.holdout=0.9"], "validation.holdout"),
        (["lora=7"], "lora: "),
        (["lora=7", "lora.x.y=3"], "unknown key lora.x"),
        (["parallel=fsdp", "quantise=nf4"], "parallel: fsdp cannot share a quantised language model"),
        (["parallel=fsdp", "compile=true"], "compile: is for layers that are whole on every card"),
        (["parallel=pp"], "parallel: "),
        (["kind=head"], "of kind 'head'"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe("tiny", overrides)


def test_text_only_names_no_feature() -> None:
    assert load_recipe("mer2023-text-only").text_only
    assert not load_recipe("tiny").text_only
