"""Answers as a page: clips without one are counted, by kind and with the reason."""

from __future__ import annotations

from emo.train.answers import Prediction
from emo.train.answers_page import answers_page, silence


def test_clips_without_an_answer_are_counted_by_kind() -> None:
    why = {f"c{i}": f"no-face: c{i}.mp4 shows no face." for i in range(5)} | {"x": "its features are not in the store"}
    names = [*why, "good"]
    page = answers_page("Run a", names, {"good": Prediction("happy")}, why)
    assert page.exit_code == 3
    assert [row["name"] for row in page.value["answers"]] == names
    assert page.value["answers"][0]["why"] == "no-face: c0.mp4 shows no face."
    assert list(page.parts[1:]) == [
        "no answer about c0, c1, c2 and 2 more: no-face; for example c0.mp4 shows no face.",
        "no answer about x: its features are not in the store",
        "6 of 7 clips have no answer.",
    ]


def test_one_silent_clip_needs_no_count_and_none_needs_no_word() -> None:
    assert silence({"a": "no-audio: a.mp4 has no sound."}, 3) == ["no answer about a: no-audio: a.mp4 has no sound."]
    assert silence({}, 3) == []
    assert answers_page("Run a", ["a"], {"a": Prediction("sad")}, {}).exit_code == 0
