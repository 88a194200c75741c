"""Help texts of recipe keys live at the key: the shipped files and `emo train --help-recipe` are made from them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import yaml

from emo.featstore.errors import UsageError
from emo.train.keys import Keys
from emo.train.llm.identity import code_hash
from emo.train.recipe import FAMILIES, HEADS, family_named, head_class, load_recipe, shipped_recipes
from emo.train.recipe_text import explain, table_of


def tables_of(keys: type[Keys]) -> Iterator[type[Keys]]:
    """Yield a class of keys and those of all tables in it."""
    yield keys
    for field in keys.model_fields.values():
        if table := table_of(field.annotation):
            yield from tables_of(table)


CLASSES = [*(head_class(name).Recipe for name in HEADS), *(family_named(name).Recipe for name in FAMILIES)]


@pytest.mark.parametrize("keys", CLASSES, ids=lambda keys: keys.__name__)
def test_every_key_has_a_text_that_names_its_type(keys: type[Keys]) -> None:
    told = {f"{table.__name__}.{key}": table.text_of(key) for table in tables_of(keys) for key in table.model_fields}
    assert told
    assert not [name for name, text in told.items() if "Type: " not in text]


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_file_is_what_the_texts_make(name: str) -> None:
    text = (resources.files("emo.train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text == explain(name), "write the files anew: python -m emo.train.recipe_text"


def test_a_head_without_a_file_is_explained_by_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo.train.recipe.shipped_recipes", lambda: ())
    text = explain("knn")
    assert yaml.safe_load(text) == load_recipe("knn").model_dump(mode="json") | {
        "features": ["HL-UTT", "mae_340_UTT", "maeV_399_UTT"]
    }
    assert "k: 20\n# Neighbours that vote. Type: whole number. Default: 20.\n" in text


def test_defaults_in_the_text_are_those_of_the_class() -> None:
    assert "for none. Default: null (MERBench)." in explain("attention")
    assert "for none. Default: 0.8 (MERBench)." in explain("mctn")
    assert "Default: 0.00001 (MERBench)" in explain("attention")


def test_values_of_a_users_file_are_kept_and_its_missing_keys_are_added(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# Mine.\nhead: knn\nk: 3\n")
    text = explain(str(path))
    assert text.startswith("# Mine.\n\nhead: knn\n# ")
    path.write_text(text)
    assert load_recipe(path) == load_recipe("knn", ["k=3"])
    assert explain(str(path)) == text


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(UsageError, match="no recipe 'atention'"):
        explain("atention")


def test_the_command_prints_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "emo.cli", "train", "--help-recipe"]
    shown = subprocess.run([*words, "tiny"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout) == (0, explain("tiny"))
    wrong = subprocess.run([*words, "tinny"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "no recipe 'tinny'" in wrong.stderr


def test_the_text_of_a_key_does_not_change_what_a_module_does() -> None:
    bare = 'class A:\n    """Doc."""\n\n    k: int = 3\n    n: int = 4\n'
    told = 'class A:\n    """Doc."""\n\n    k: int = 3\n    """Neighbours."""\n    n: int = 4\n    """More."""\n'
    assert code_hash(told) == code_hash(bare)
    assert code_hash(told.replace("3", "5")) != code_hash(bare)
