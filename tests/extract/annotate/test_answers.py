"""Checks of answers, the describer that measures, prompts, and which annotations are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.extract.annotate.actions import label_words
from emo.extract.annotate.answers import check_answer, check_label, check_verdict
from emo.extract.annotate.offline import _words, colours, pitch_hz, scene, voice
from emo.extract.annotate.prompts import OWN, load_prompt
from emo.extract.annotate.registry import find_describer
from emo.extract.annotate.replay import Recorder
from emo.extract.annotate.select import Selection, select
from emo.extract.annotate.testing import check_describer
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.labels import MERR_LABELS
from emo.featstore.sources.chat import Reply

RATE = 16_000


def kind_of(text: str, cut: bool = False, asked: str = "Please describe the content of the image.") -> str:
    try:
        check_answer(Reply(text, cut), asked=asked)
    except MediaError as error:
        return error.kind
    return ""


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("A man stands in a room.", ""),
        (" \n", "empty-answer"),
        ("I'm sorry, but I can't assist with that request.", "refused"),
        ("I cannot analyze explicit content. Is there something else I can help you with?", "refused"),
        ("As an AI, I do not have eyes.", "refused"),
        ("抱歉，我无法查看图片。", "refused"),
        ("The person says \"I'm sorry, but I can't help\" and looks down.", ""),
        ("A woman says sorry to a man.", ""),
        ("Please describe the content of the image.", "repeats-prompt"),
        ("Please describe the content of the image. The picture shows a wide green field with a dog that runs.", ""),
        ("x " * 2001, "too-long-answer"),
    ],
)
def test_what_is_no_answer_is_typed(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_an_answer_that_was_cut_off_and_an_echo_of_the_whole_question_are_none() -> None:
    assert kind_of("A man stands", cut=True) == "cut-off-answer"
    filled = "Clues: A man in a dark room who looks down at the floor. Please infer why he feels sad today."
    with pytest.raises(MediaError) as error:
        check_answer(Reply(f"{filled} Answer:"), asked="Please infer", filled=filled)
    assert error.value.kind == "repeats-prompt"
    check_answer(Reply("A man in a dark room looks down at the floor, so he is sad."), asked="x", filled=filled)


def test_thoughts_are_no_part_of_an_answer_by_whatever_word_they_are_marked() -> None:
    for begin, end in (("<think>", "</think>"), ("<thinking>", "</Thinking>"), ("[THINK]", "[/THINK]")):
        thought = f"{begin}He smiles, so happy? No.{end}"
        assert check_answer(Reply(f"{thought}\nsad"), asked="x") == "sad"
        assert kind_of(f"{begin}He smiles, so") == "cut-off-answer"
        assert kind_of(thought) == "empty-answer"


def test_an_answer_that_a_filter_broke_off_is_a_refusal() -> None:
    with pytest.raises(MediaError, match="A filter of the endpoint has broken the answer off: 'The man is ang'"):
        check_answer(Reply("The man is ang", filtered=True), asked="x")


@pytest.mark.parametrize(
    ("caption", "label", "good"),
    [
        ("He smiles, so he is happy.", "happy", True),
        ("He smiles, so he is happy.", "sad", False),
        ("His joy hides his sadness.", "sad", True),
        ("A man stands in a room.", "sad", True),
        ('He says "I am happy" and looks down.', "sad", False),
        ("她很高兴。", "sad", False),
        ("她很伤心。", "sad", True),
    ],
)
def test_a_caption_that_names_another_emotion_only_contradicts_its_label(caption: str, label: str, good: bool) -> None:
    if good:
        check_label(caption, label)
    else:
        with pytest.raises(MediaError) as error:
            check_label(caption, label)
        assert error.value.kind == "contradicts-label"


def test_what_the_person_says_is_not_the_captions_own_word() -> None:
    check_label('He says "I am happy" and looks down.', "sad", ["I am happy"])
    assert set(label_words()) >= set(MERR_LABELS)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Yes, it does.", ""),
        ("是", ""),
        ("No.", "not-verified"),
        ("不符合", "not-verified"),
        ("Well", "unclear-verdict"),
    ],
)
def test_a_verdict_is_yes_or_no(text: str, kind: str) -> None:
    if kind:
        with pytest.raises(MediaError) as error:
            check_verdict(text)
        assert error.value.kind == kind
    else:
        check_verdict(text)


# ---- the describer that measures -------------------------------------------------------------------------------------


def tone(hz: float, amplitude: float = 0.3, seconds: float = 1.0) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hz * n * t) / n for n in (1, 2, 3, 4))
    return (amplitude * wave / 2).astype(np.float32)


@pytest.mark.parametrize("hz", [90.0, 130.0, 180.0, 240.0, 330.0])
def test_the_pitch_is_that_of_the_tone(hz: float) -> None:
    frames = np.lib.stride_tricks.sliding_window_view(tone(hz), 640)[::320]
    assert pitch_hz(frames) == pytest.approx(hz, rel=0.02)


def test_noise_has_no_pitch_and_silence_is_refused() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    assert pitch_hz(np.lib.stride_tricks.sliding_window_view(noise, 640)[::320]) is None
    for sound, kind in ((np.zeros(RATE, np.float32), "silent"), (np.zeros(10, np.float32), "no-audio")):
        with pytest.raises(MediaError) as error:
            voice(sound, "", _words()["en"])
        assert error.value.kind == kind


def test_loudness_pitch_and_rate_in_words() -> None:
    words = _words()["en"]
    assert voice(tone(110, 0.5), "", words) == "speaks in a loud, low voice."
    assert voice(tone(300, 0.01), "one", words) == "speaks in a quiet, high-pitched, slow voice."
    assert voice(tone(180, 0.1), "one two three four five six", words).endswith("medium-pitched, fast voice.")
    assert voice(tone(300, 0.01), "一二三四五六七八", _words()["zh"]) == "声音轻，音调高，语速快。"


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 20, 20), "red"),
        ((20, 200, 20), "green"),
        ((20, 20, 200), "blue"),
        ((120, 70, 30), "brown"),
        ((230, 230, 230), "white"),
        ((120, 120, 120), "grey"),
        ((10, 10, 12), "black"),
        ((240, 220, 30), "yellow"),
        ((230, 40, 150), "pink"),
    ],
)
def test_colours_have_their_names(rgb: tuple[int, int, int], name: str) -> None:
    assert colours(np.full((100, 3), rgb, np.float32)) == [name]


def test_a_scene_is_brightness_contrast_and_colours_and_no_more() -> None:
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[:, 80:] = (200, 20, 20)
    assert scene(frame, _words()["en"]) == "The picture is very dark, of medium contrast, mostly black and red."
    assert scene(frame, _words()["zh"]) == "画面很暗，对比度中等，主要为黑色和红色。"


def test_describers_are_found_by_what_a_person_writes(tmp_path: Path) -> None:
    assert find_describer("offline").id == "emo-offline-1"
    assert find_describer("http://localhost:1/v1#m").id == "m"
    (tmp_path / "said.jsonl").write_text(json.dumps({"model": "x", "seed": 0, "prompt": "p", "reply": "r"}) + "\n")
    assert find_describer(f"replay:{tmp_path}/said.jsonl").id == "x"
    for text in ("offline:x", "http://localhost:1/v1", "replay:", "gpt"):
        with pytest.raises(UsageError):
            find_describer(text)


def test_the_describers_keep_the_contract(server: Any, tmp_path: Path) -> None:
    check_describer(find_describer("offline"))
    recorder = Recorder(find_describer(f"{server.url}#m"), tmp_path / "said.jsonl")
    check_describer(recorder)
    check_describer(find_describer(f"replay:{tmp_path}/said.jsonl"))


# ---- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(OWN.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_shipped_prompt_is_whole_in_both_languages(path: Path, language: str) -> None:
    prompt = load_prompt(path.stem, language)
    assert prompt.text.strip()
    assert "{" not in prompt.fill({"text": "hello"})


def test_the_prompts_are_those_of_the_report(shared: Path) -> None:
    report = (shared / "specs/000_8e41f61716a663e4.txt").read_text()
    plain = " ".join(report.split())
    for name in ("scene", "scene-words", "voice-tones"):
        assert load_prompt(name).text in plain
    caption = load_prompt("caption")
    assert caption.system in plain
    assert caption.text.rpartition("{text} ")[2].format(label="surprise") in plain


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "not YAML"),
        ("version: 1", "no text in 'en'"),
        ("en: {text: 'What {colour}?'}", "names {colour}"),
        ("en: {text: 'What {'}", "braces"),
        ("needs: smell\nen: {text: 'What?'}", "needs image, sound or nothing"),
    ],
)
def test_a_prompt_that_is_wrong_is_refused_with_its_file(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/mine.yaml").write_text(content)
    with pytest.raises(UsageError, match=says):
        load_prompt("mine", "en", tmp_path)
    for name in ("scenes", "../scene"):
        with pytest.raises(UsageError):
            load_prompt(name, "en", tmp_path)


# ---- which are kept --------------------------------------------------------------------------------------------------


def note(label: str, caption: str, **other: Any) -> dict[str, Any]:
    units = {"happy": ["AU12"], "sad": ["AU15"], "neutral": ["AU04"]}[label]
    common = {"AU_list": units, "peak_AU_list": units, "pseu_emotion": label, "text": "", "audio_prior_list": ""}
    return {**common, "caption": caption, "smp_reason_caption": caption, **other}


def test_every_drop_has_a_reason_and_is_counted() -> None:
    given = {
        "good": note("happy", "She smiles and is happy."),
        "copy": note("happy", "She smiles, and is happy!"),
        "other": note("sad", "She is happy."),
        "none": note("neutral", "A face.", AU_list=[], peak_AU_list=[]),
        "against": note("sad", "She is sad.", AU_list=[], peak_AU_list=["AU12"]),
        "refused": note("sad", "I cannot analyze that."),
    }
    kept, dropped = select(given, Selection())
    assert list(kept) == ["good"]
    assert dropped == {
        "the caption names another emotion": ["other"],
        "no action unit": ["none"],
        "no active unit speaks for the label": ["against"],
        "the caption is a refusal": ["refused"],
        "same words as another": ["copy"],
    }
    assert list(select(given, Selection(strict=False))[0]) == ["good", "other", "none", "against", "refused"]


def test_near_captions_are_found_by_their_embeddings() -> None:
    given = {name: note("happy", f"happy {name}") for name in "abc"}
    rows = {"happy a": [1.0, 0.0], "happy b": [0.99, 0.1], "happy c": [0.0, 1.0]}
    kept, dropped = select(given, Selection(near=0.95), lambda texts: np.array([rows[each] for each in texts]))
    assert (list(kept), dropped) == (["a", "c"], {"near another caption": ["b"]})


def test_labels_are_capped_and_neutral_clips_are_a_share_of_the_others() -> None:
    given = {f"h{i}": note("happy", f"happy {i}") for i in range(10)}
    given |= {f"n{i}": note("neutral", f"calm {i}") for i in range(20)}
    kept, dropped = select(given, Selection(cap=4, neutral=0.5))
    assert [sum(name[0] == letter for name in kept) for letter in "hn"] == [4, 2]
    assert {reason: len(names) for reason, names in dropped.items()} == {
        "more happy than wanted": 6,
        "more neutral than wanted": 18,
    }
    assert kept == select(dict(reversed(given.items())), Selection(cap=4, neutral=0.5))[0]
    assert kept != select(given, Selection(cap=4, neutral=0.5, seed=1))[0]


@pytest.mark.parametrize("wrong", [{"near": 2.0}, {"cap": 0}, {"neutral": -1.0}, {"form": "x"}])
def test_a_selection_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Selection(**wrong)


def test_thoughts_are_no_part_of_an_answer() -> None:
    for text in ("<think>angry or sad?</think>\nhappy", "Angry, or sad? He smiles.</think>happy", "happy"):
        assert check_answer(Reply(text), asked="Which?") == "happy"
    for text in ("<think>is he happy", "<think>a</think><think>is he happy"):
        with pytest.raises(MediaError, match="comes to no answer"):
            check_answer(Reply(text), asked="Which?")
