"""EMER's overlaps: what counts as a score, what stands beside a number, and that a proxy never takes its name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.train.metrics.emer import (
    PROMPTS,
    Judge,
    emer_page,
    judge_all,
    language_of,
    parse_score,
    read_descriptions,
    self_test,
    shuffled,
    token_overlap,
)

TRUE = {"a": "他很开心，面带笑容。", "b": "她在哭泣，非常伤心。", "c": "他怒吼，十分生气。", "d": "她有点惊讶。"}


class Reader:
    """A judge that reads: words are the text itself, equal texts get 9, others 2; or whatever it is told to say."""

    id = "reader-1"

    def __init__(self, says: dict[int, str] | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.says = says or {}

    def reply(self, prompt: str, seed: int) -> str:
        self.asked.append((prompt, seed))
        if seed in self.says:
            return self.says[seed]
        two = re.findall(r"(?:描述|情感|description|emotions)》?[:：] ?(.+)", prompt, re.I)
        if "分数" in prompt or "score" in prompt:
            return f"'分数'：{9 if two[-1] == two[-2] else 2}；'原因'：无"
        return two[-1]


# ---- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("'score': 7; 'reason': both are sad", 7),
        ("'分数'：8.5；'原因'：都很开心", 8.5),
        ("预测分数：9", 9),
        ("**Score:** 6", 6),
        ("The score is 7 out of 10, since both cry", 7),
        ("10", 10),
        (" 3.5\n", 3.5),
        ("7/10", 7),
        ("7分", 7),
        ("7: both cry", 7),
        ("1. The person cries. 2. He is sad. 'score': 4", 4),
    ],
)
def test_a_clear_score_is_read(reply: str, score: float) -> None:
    assert parse_score(reply) == score


@pytest.mark.parametrize(
    "reply",
    ["", "   ", "They overlap a lot.", "1. The person cries.\n2. He is sad.", "7. Because both cry", "0", "11", "-3",
     "score: 3, or score: 5", "between 3 and 5", "3 people cry", "7-8", "3..5"],
)  # fmt: skip
def test_what_is_no_clear_score_is_rejected(reply: str) -> None:
    assert parse_score(reply) is None


# ---- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "language", "n", "is_"),
    [
        ("gt-chi.csv", None, 100, "zh"),
        ("gt-eng.csv", None, 100, "en"),
        ("final-EMER-reason.csv", None, 332, "zh"),
        ("final-EMER-reason.csv", "en", 332, "en"),
    ],
)
def test_emers_files_are_read_in_their_language(
    shared: Path, name: str, language: str | None, n: int, is_: str
) -> None:
    found = read_descriptions(shared / "data/emer" / name, language)
    assert len(found) == n
    assert all(found.values())
    assert language_of(found) == is_


def test_predictions_are_read_from_baselines_and_from_answers(tmp_path: Path) -> None:
    (tmp_path / "valley.csv").write_text("names,chi_reasons\na,他很开心。\n")
    (tmp_path / "mine.json").write_text('{"a": "他很开心。"}')
    assert (
        read_descriptions(tmp_path / "valley.csv") == read_descriptions(tmp_path / "mine.json") == {"a": "他很开心。"}
    )
    (tmp_path / "twice.csv").write_text("names,reasons\na,x\na,y\n")
    with pytest.raises(UsageError, match="line 3 describes a another way"):
        read_descriptions(tmp_path / "twice.csv")


# ---- judging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["zh", "en"])
def test_clues_take_one_question_and_labels_three(language: str) -> None:
    chat = Reader()
    judge = Judge(chat, language)
    assert judge("clue", "T", "P", 0).score == 2
    assert len(chat.asked) == 1
    assert judge("label", "T", "T", 0).score == 9
    assert len(chat.asked) == 4
    assert judge.prompts("clue") == [f"emer-clue-{language}-1"]
    assert judge.prompts("label") == [f"emer-words-{language}-1", f"emer-label-{language}-1"]
    assert {each for kind in ("clue", "label") for each in judge.prompts(kind)} <= set(PROMPTS)


def test_braces_in_a_description_are_only_text() -> None:
    chat = Reader()
    Judge(chat, "en")("clue", "{truth} {0}", "{said}", 0)
    assert "{truth} {0}" in chat.asked[0][0]


def test_repeats_have_a_spread_and_one_has_none() -> None:
    pairs = {name: (text, text) for name, text in TRUE.items()}
    found = judge_all(Judge(Reader({1: "5", 2: "7"}), "zh"), "clue", pairs, repeats=3)
    assert found.per_repeat == [9, 5, 7]
    assert (found.mean, found.spread) == (7, 2)
    assert (found.judge, found.prompts, found.repeats, found.scale) == ("reader-1", ["emer-clue-zh-1"], 3, "1-10")
    assert judge_all(Judge(Reader(), "zh"), "clue", pairs).spread is None


def test_a_rejected_reply_takes_its_clip_out_and_is_told() -> None:
    class Moody(Reader):
        def reply(self, prompt: str, seed: int) -> str:
            return "I would rather not." if "哭泣" in prompt else super().reply(prompt, seed)

    page = emer_page(TRUE, TRUE, Moody(), kinds=("clue",))
    found = page.value["clue_overlap"]
    assert (found["n"], found["rejected"], found["mean"]) == (3, 1, 9)
    assert "b: 'I would rather not.'" in " ".join(map(str, page.parts))
    with pytest.raises(UsageError, match="reader-1 gave no clear score for any of 4 clips; it said 'no'"):
        emer_page(TRUE, TRUE, Reader({0: "no"}))


def test_judge_prompts_repeats_and_spread_are_part_of_every_number() -> None:
    page = emer_page(TRUE, shuffled(TRUE), Reader(), repeats=2, test_clips=4)
    for kind, prompts in (("clue", ["emer-clue-zh-1"]), ("label", ["emer-words-zh-1", "emer-label-zh-1"])):
        found = page.value[f"{kind}_overlap"]
        assert {key: found[key] for key in ("mean", "spread", "judge", "prompts", "repeats", "n")} == {
            "mean": 2, "spread": 0, "judge": "reader-1", "prompts": prompts, "repeats": 2, "n": 4
        }  # fmt: skip
        tested = page.value["self_test"][kind]
        assert {what: (each["mean"], each["judge"]) for what, each in tested.items()} == {
            "same": (9, "reader-1"),
            "shuffled": (2, "reader-1"),
        }
    assert page.verdict == (
        "clue overlap 2.00 (spread 0.00), label overlap 2.00 (spread 0.00) of 10, judged by reader-1 with "
        "emer-clue-zh-1 emer-words-zh-1 emer-label-zh-1, 2 repeats, 4 clips."
    )
    json.dumps(page.value, allow_nan=False)


def test_a_judge_that_cannot_tell_fails_its_self_test() -> None:
    page = emer_page(TRUE, TRUE, Reader({0: "8"}), kinds=("clue",), test_clips=4)
    assert "Self-test failed for clue overlap" in " ".join(map(str, page.parts))
    with pytest.raises(UsageError, match="two clips or more"):
        self_test({"a": "x"}, token_overlap)


def test_two_languages_are_not_compared() -> None:
    with pytest.raises(UsageError, match="truth is in zh and the predictions are in en"):
        emer_page(TRUE, dict.fromkeys(TRUE, "He is happy."), Reader())


# ---- the proxy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "language"), [("gt-chi.csv", None), ("gt-eng.csv", None), ("final-EMER-reason.csv", "en")]
)
def test_the_proxy_tells_the_truth_from_shuffled_truth(shared: Path, name: str, language: str | None) -> None:
    found = self_test(read_descriptions(shared / "data/emer" / name, language), token_overlap)
    assert found["same"] == pytest.approx(1)
    assert found["shuffled"] < 0.15


def test_the_proxy_never_has_the_name_of_the_judged_metric() -> None:
    page = emer_page(TRUE, shuffled(TRUE), None, test_clips=4)
    said = json.dumps(page.value) + str(page.parts) + page.verdict
    for name in ("clue", "label", "overlap_", "1-10", "of 10"):
        assert name not in said, name
    assert page.value["metric"] == "token-overlap-1"
    assert "No judge was asked" in said
    assert "a proxy" in page.verdict
    again = emer_page(TRUE, shuffled(TRUE), None, test_clips=4)
    assert isinstance(page, Page)
    assert page == again
