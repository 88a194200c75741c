"""The validator of MERR-like files: on the published file it counts what was counted by hand; it sees each fault."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import emo.extract.annotate
from emo.extract.annotate.actions import PRESENCES, action_units, phrases_of, rules
from emo.extract.annotate.answers import check_label
from emo.extract.annotate.check import check_page, stats_page, text_figures
from emo.featstore.errors import MediaError, UsageError

GOOD = {
    "AU_list": ["AU04"],
    "visual_prior_list": ["Frowns furrowed"],
    "audio_prior_list": "and his tone sounds negative.",
    "peak_index": "20",
    "peak_AU_list": ["AU01", "AU04"],
    "pseu_emotion": "angry",
    "text": "I was trying to be quiet.",
    "smp_reason_caption": "A man frowns\n    and sounds angry.",
}


@pytest.fixture
def check(tmp_path: Path) -> Callable[[Any], dict[str, Any]]:
    def run(content: Any) -> dict[str, Any]:
        path = tmp_path / "file.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        page = check_page(path)
        return {**page.value, "exit_code": page.exit_code}

    return run


def listed(text: str, mark: str) -> list[tuple[str, int]]:
    return [(word, int(count)) for word, count in re.findall(rf"(?:^|{mark} )(.+?) (\d+)(?={mark} |$)", text)]


def test_the_published_file_is_counted_as_it_was_by_hand(shared: Path) -> None:
    found = check_page(shared / "data/merr/MERR_fine_grained.json")
    value = found.value
    facts = (shared / "specs/merr_annotation.md").read_text()
    assert (found.exit_code, value["records"], value["good"], value["faults"]) == (0, 4487, 4487, {})
    assert value["warnings"]["AU_list is not within peak_AU_list"]["records"] == 306
    assert "AU_list is empty" not in value["warnings"]
    assert value["warnings"]["the caption is a refusal"]["records"] == 9
    phrases = re.findall(r"^\| (AU\d\d) \| (.+) \|$", facts, re.M)
    assert {unit: dict(listed(text, ";")) for unit, text in phrases} == value["phrases"]
    labels = re.findall(r"^\| (\w+) \| (\d+) \| (AU.+) \|$", facts, re.M)
    assert {label: int(count) for label, count, _ in labels} == value["labels"]
    for label, _, text in labels:
        assert dict(listed(text, ",")) == dict(list(value["units"][label].items())[:9]), label
    assert value["sounds"]["different"] == int(re.search(r"(\d+) different strings", facts)[1])
    said = facts.split("the commonest: ")[1].split("\n")[0]
    assert {text: int(count) for text, count in re.findall(r"`([^`]+)` (\d+)", said)} == value["sounds"]["commonest"]


def test_the_profile_of_2024_is_what_the_published_file_says(shared: Path) -> None:
    value = check_page(shared / "data/merr/MERR_fine_grained.json").value
    for unit in action_units():
        assert set(phrases_of(unit)) == set(value["phrases"].get(unit, ())), unit


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"AU_list": "AU04"}, "AU_list is not a list of codes such as AU04"),
        ({"AU_list": ["04"]}, "AU_list is not a list of codes such as AU04"),
        ({"visual_prior_list": ["a", "b"]}, "AU_list and visual_prior_list differ in length"),
        ({"audio_prior_list": ["and his tone"]}, "audio_prior_list is not a text"),
        ({"peak_index": 20}, "peak_index is not a whole number as a text"),
        ({"peak_index": "20.0"}, "peak_index is not a whole number as a text"),
        ({"peak_AU_list": None}, "peak_AU_list is not a list of codes such as AU04"),
        ({"pseu_emotion": ""}, "pseu_emotion is not a word"),
        ({"text": None}, "text is not a text"),
        ({"smp_reason_caption": " "}, "smp_reason_caption is not a text that says something"),
    ],
)
def test_each_fault_is_named_and_counted(
    check: Callable[[Any], dict[str, Any]], change: dict[str, Any], fault: str
) -> None:
    found = check({"good": GOOD, "bad": GOOD | change})
    assert found["faults"] == {fault: {"records": 1, "names": ["bad"]}}
    assert (found["exit_code"], found["good"], found["labels"]) == (6, 1, {"angry": 1})


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"AU_list": [], "visual_prior_list": []}, "AU_list is empty"),
        ({"peak_AU_list": ["AU01"]}, "AU_list is not within peak_AU_list"),
        ({"visual_prior_list": ["Dimpler"]}, "a phrase belongs to another action unit"),
        ({"visual_prior_list": ["winks"]}, "a phrase is of no profile"),
        ({"pseu_emotion": "Angry"}, "pseu_emotion is none of MERR's nine words"),
        ({"pseu_emotion": "happy"}, "AU_list goes beyond the label's rule"),
        ({"smp_reason_caption": "I cannot analyze explicit content."}, "the caption is a refusal"),
        ({"note": "x"}, "further fields: note"),
    ],
)
def test_what_is_worth_a_look_is_no_fault(
    check: Callable[[Any], dict[str, Any]], change: dict[str, Any], warning: str
) -> None:
    found = check({"odd": GOOD | change})
    assert found["warnings"] == {warning: {"records": 1, "names": ["odd"]}}
    assert (found["exit_code"], found["faults"]) == (0, {})


def test_names_that_come_twice_and_values_that_are_no_records_are_faults(
    check: Callable[[Any], dict[str, Any]],
) -> None:
    one = json.dumps(GOOD)
    found = check(f'{{"a": {one}, "a": {one}, "b": 3}}')
    assert found["faults"] == {
        "comes twice": {"records": 1, "names": ["a"]},
        "is no object": {"records": 1, "names": ["b"]},
    }


def test_a_coarse_file_is_known_by_its_caption(check: Callable[[Any], dict[str, Any]]) -> None:
    coarse = {name: value for name, value in GOOD.items() if name != "smp_reason_caption"} | {"caption": "A man."}
    assert (check({"a": coarse})["form"], check({"a": coarse})["faults"]) == ("coarse", {})
    assert set(check({"a": coarse, "b": GOOD, "c": GOOD})["faults"]) == {"smp_reason_caption is missing"}
    del coarse["text"]  # which the fine records have alone
    assert (check({"a": coarse})["form"], check({"a": coarse})["faults"]) == ("coarse", {})


@pytest.mark.parametrize("content", ["[]", "{}", "3"])
def test_what_is_no_file_of_records_is_refused(check: Callable[[Any], dict[str, Any]], content: str) -> None:
    with pytest.raises(UsageError, match="not a JSON object of clip names"):
        check(content)


def test_statistics_of_texts_are_what_they_say() -> None:
    found = text_figures(["a b a", "a b a", "", "他 说"])
    assert (found["records"], found["empty"], found["repeated"]) == (4, 1, 2)
    assert found["distinct_1"] == 4 / 8  # a b a a b a 他 说
    assert found["distinct_2"] == 3 / 5  # ab ba ab ba 他说
    assert found["words"]["median"] == 2.5


def test_statistics_come_with_pictures(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"a": GOOD, "b": GOOD | {"peak_index": 3}}))
    page = stats_page(path, tmp_path / "report")
    assert (page.value["records"], page.value["left_out"]) == (1, 1)
    for name in ("labels.png", "units.png", "lengths.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_every_rule_names_units_that_a_source_can_see() -> None:
    for table in ("merr-2024", "mer-factory"):
        assert {unit for units in rules(table).values() for unit in units} <= set(PRESENCES)
    with pytest.raises(UsageError, match="merr-2023"):
        rules("merr-2023")
    with pytest.raises(UsageError, match="facs has en and zh"):
        phrases_of("AU04", "merr-2024", "zh")


def test_the_table_of_words_tells_how_many_published_captions_contradict_their_label(shared: Path) -> None:
    contradict = 0
    for record in json.loads((shared / "data/merr/MERR_fine_grained.json").read_text()).values():
        try:
            check_label(record["smp_reason_caption"], record["pseu_emotion"])
        except MediaError:
            contradict += 1
    table = Path(emo.extract.annotate.__file__).with_name("labels.yaml").read_text(encoding="utf-8")
    assert f"of MERR's 4,487 captions {contradict} do" in table
