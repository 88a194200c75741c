"""Which feature a name means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emo.featstore.errors import FeatureMissing, StoreError
from emo.featstore.names import choose, meaning


def test_a_name_an_alias_and_the_beginning_of_a_fingerprint_mean_the_feature(lab: Any) -> None:
    for name in (
        "HL-UTT",
        "hubert",
        "HL",
        lab.utt.key,
        f"HL-UTT@{lab.utt.fingerprint[:4]}",
        f"hubert@{lab.utt.fingerprint}",
    ):
        assert choose(name, lab.specs) == lab.utt
    assert choose("eva", lab.specs) == lab.tokens
    assert {meaning("mae"), meaning("videomae")} == {"mae_340_UTT", "maeV_399_UTT"}


def test_an_absent_feature_names_what_there_is(lab: Any) -> None:
    with pytest.raises(
        FeatureMissing, match=r"no mae in the store; it holds HL-UTT@.*, HL-FRA@.*, eva_g_448@.*emo extract"
    ):
        choose("mae", lab.specs)
    with pytest.raises(FeatureMissing, match="no features yet"):
        choose("mae", [])
    with pytest.raises(KeyError, match="other recipes of HL-UTT are: HL-UTT@"):
        choose("HL-UTT@ffffffff", lab.specs)


def test_two_recipes_under_one_name_are_told_apart_never_guessed(lab: Any) -> None:
    paper = replace(lab.utt, profile="paper", weights="0123456789abcdef" * 2, recipe={"layer": {"from": -1}})
    with pytest.raises(StoreError) as caught:
        choose("HL-UTT", [lab.utt, paper])
    said = str(caught.value)
    assert all(
        part in said for part in (lab.utt.key, paper.key, "profile: tiny | paper", "recipe.layer.from: absent | -1")
    )
    assert "seed:0" in said
    assert "0123456789abcdef" in said
    assert choose(paper.key, [lab.utt, paper]) == paper


def test_a_name_that_no_pass_makes_is_no_advice_to_extract_it(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo.featstore.names._lines", lambda: ["HL-UTT hubert", "eva_g_448"])
    with pytest.raises(FeatureMissing) as caught:
        choose("HL-UT", [lab.utt])
    assert "Did you mean HL-UTT?" in caught.value.hint
    assert "--encoders" not in caught.value.hint
    with pytest.raises(FeatureMissing) as caught:
        choose("eva_g_448", [lab.utt])
    assert "--encoders eva_g_448" in caught.value.hint


def test_a_name_the_literature_uses_twice_is_refused(lab: Any) -> None:
    with pytest.raises(StoreError, match="HL-UTT or HL-MERBench-UTT"):
        choose("chinese-hubert-large-UTT", lab.specs)
