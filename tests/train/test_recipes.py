"""Recipes: the shipped files say what the code does, and a wrong recipe is told everything at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import yaml

from emo.featstore.errors import UsageError
from emo.featstore.spec import EncoderSpec
from emo.train.recipe import HEADS, head_class, load_recipe, make_recipe


@pytest.mark.parametrize("name", HEADS)
def test_a_shipped_recipe_holds_every_key_with_its_default(name: str) -> None:
    text = (resources.files("emo.train") / "recipes" / f"{name}.yaml").read_text()
    assert set(yaml.safe_load(text)) == set(head_class(name).Recipe.model_fields)
    assert load_recipe(name) == head_class(name).Recipe()


@pytest.mark.parametrize("name", HEADS)
def test_every_key_of_a_shipped_recipe_is_explained(name: str) -> None:
    text = (resources.files("emo.train") / "recipes" / f"{name}.yaml").read_text()
    for block in text.split("\n\n")[1:]:
        key, *comment = block.strip().splitlines()
        assert comment, key
        assert all(line.startswith("# ") for line in comment), key
        assert "Type: " in block, key


def test_the_protocol_is_merbenchs() -> None:
    recipe = load_recipe("attention").model_dump()
    expected = {"epochs": 100, "batch_size": 32, "weight_decay": 1e-5, "folds": 5, "lr": 1e-3, "grad_clip": None}
    assert {key: recipe[key] for key in expected} == expected
    assert [choice["name"] for choice in recipe["features"]] == ["HL-UTT", "mae_340_UTT", "maeV_399_UTT"]


def test_what_is_written_back_reads_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("attention", ["lr=1e-4", "features=[a, {name: eva_g_448, pool: mean}]", "seeds=[1, 2]"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == recipe
    assert again.model_dump()["lr"] == 1e-4
    assert [choice.pool for choice in again.features] == ["none", "mean"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        make_recipe({"head": "attention", "hiden": 3, "folds": 1, "features": [], "seeds": [1, 1], "layers": [3]})
    for part in (
        "hiden (did you mean hidden?)",
        "folds: ",
        "features: ",
        "seeds must be different",
        "unknown key layers",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("source", "overrides", "says"),
    [
        ("atention", [], "no recipe 'atention'"),
        ("absent.yaml", [], "Cannot read recipe absent.yaml"),
        ("attention", ["lr"], "'lr' is not key=value"),
        ("attention", ["lr=[1"], "--set lr is not YAML"),
        ("attention", ["head=banana"], "no head 'banana'"),
        ("logistic", ["hidden=3"], "unknown key hidden"),
    ],
)
def test_a_wrong_source_or_override_is_named(source: str, overrides: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe(source, overrides)


def test_a_recipe_file_without_a_head_or_a_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for text, says in [("epochs: 3\n", "names no head"), ("- 1\n", "not a table"), ("a: [", "not YAML")]:
        path.write_text(text)
        with pytest.raises(UsageError, match=says):
            load_recipe(path)


def test_a_number_that_is_not_finite_is_no_setting() -> None:
    for each in ("lr=.inf", "dropout=.nan"):
        with pytest.raises(UsageError, match="finite"):
            load_recipe("attention", [each])


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("head: attention\nepochs: 3\nfolds: 3\nepochs: 5\n")
    with pytest.raises(UsageError, match="key 'epochs' stands on line 2 and again on line 4"):
        load_recipe(path)


def test_a_recipe_that_is_none_is_told_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"There is no recipe 'emotion-lama-stage1'. Did you mean emotion-llama-stage1\?"
    ):
        load_recipe("emotion-lama-stage1")
    with pytest.raises(UsageError, match=r"Did you mean attention\?"):
        load_recipe("atention")


def test_a_head_takes_the_features_that_are_there() -> None:
    held = [
        EncoderSpec("a-UTT", "a", "audio", "utt", 4, 1, "tiny", "seed:0"),
        EncoderSpec("b-FRA", "b", "text", "frame", 4, None, "tiny", "seed:0"),
        EncoderSpec("c", "c", "frame", "tokens", 4, 9, "tiny", "seed:0"),
    ]

    def taken(recipe: str, specs: list[EncoderSpec]) -> list[tuple[str, str]] | None:
        found = load_recipe(recipe).on_what_is_there(specs)
        return found and [(each.name, each.pool) for each in found.features]

    assert taken("attention", held) == [("a-UTT", "none")]
    assert taken("attention", held[1:]) == [("b-FRA", "mean"), ("c", "mean")]
    assert taken("mult", held) == taken("mfn", held) == [("b-FRA", "none")]
    assert taken("mult", held[:1]) is None
    assert taken("attention", []) is None
    assert load_recipe("tiny").on_what_is_there(held) is None  # a language model's features have their places


@pytest.mark.parametrize("pair", ["hidden=true", "lr=true", "dropout=false", "train_splits=true"])
def test_true_is_no_number(pair: str) -> None:
    with pytest.raises(UsageError, match=rf"{pair.partition('=')[0]}: "):
        load_recipe("attention", [pair])


def test_off_is_a_word_though_yaml_reads_it_as_false() -> None:
    assert load_recipe("attention", ["valence=off"]).valence == "off"
    assert load_recipe("attention", ["standardise=true", "grad_clip=null"]).standardise is True
