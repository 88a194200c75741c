"""Prompts in both layouts, answers, and how generated ids are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.train.llm.emotion_llama.family import EmotionLlamaFamily
from emo.train.llm.emotion_llama.prompt import LAYOUTS, Prompt, answer_text, build_prompt, encode_answer, instruction
from emo.train.llm.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()
EMOTION = (
    "Please determine which emotion label in the video represents: "
    "happy, sad, neutral, angry, worried, surprise, fear, contempt, doubt."
)


@pytest.fixture(scope="module")
def llama(shared: Path) -> Tokenizer:
    return Tokenizer.from_file(shared / "data" / "llama2_tokenizer" / "tokenizer.model")


def text_of(prompt: Prompt) -> str:
    """The prompt with its slots named, begin and end ids shown."""
    shown = []
    for each in prompt.segments:
        if isinstance(each, str):
            shown.append(f"|{each}|")
        else:
            shown += ["<s>" * each.count(BYTES.bos), BYTES.decode(each)]
    return "".join(shown)


def test_the_instruction_is_written_as_the_official_dataset_writes_it() -> None:
    assert instruction("emotion", "Which?", "I am fine.") == (
        "<video><VideoHere></video> <feature><FeatureHere></feature> "
        "The person in video says: I am fine..  [emotion] Which? "
    )
    assert instruction("reason_v2", "Why?", "", media=False) == "The person in video says: .  [reason_v2] Why? "


def test_both_layouts_as_text() -> None:
    words = instruction("emotion", "Which?", "Yes")
    assert text_of(build_prompt("train_consistent", words, BYTES)) == (
        "<s>[INST] <video>|patches|</video> <feature>|features|</feature> "
        "The person in video says: Yes.  [emotion] Which?  [/INST]"
    )
    assert text_of(build_prompt("official_eval", words, BYTES)) == (
        "<s><s>[INST] <video>|all|</video> <feature><FeatureHere></feature> "
        "The person in video says: Yes.  [emotion] Which?  [/INST]"
    )


def test_published_ids_of_both_layouts(llama: Tokenizer) -> None:
    """Sections 3.3 and 3.5 of the reference's description, sentence `I am fine.`"""
    words = instruction("emotion", EMOTION, "I am fine.")
    bos, s0, patches, s1, features, s2 = build_prompt("train_consistent", words, llama).segments
    assert (bos, patches, features) == ((1,), "patches", "features")
    assert s0 == (518, 25580, 29962, 529, 9641, 29958)
    assert s1 == (1533, 9641, 29958, 529, 14394, 29958)
    assert len(s2) == 54
    assert s2[:11] == (1533, 14394, 29958, 450, 2022, 297, 4863, 4083, 29901, 306, 626)
    assert s2[-7:] == (7404, 29889, 29871, 518, 29914, 25580, 29962)
    first, slot, rest = build_prompt("official_eval", words, llama).segments
    assert (first, slot, len(rest)) == ((1, 1, 518, 25580, 29962, 529, 9641, 29958), "all", 62)
    assert rest[:12] == (1533, 9641, 29958, 529, 14394, 5299, 19132, 10605, 2565, 14394, 29958, 450)


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        ("happy", [9796, 2]),
        ("worried", [6365, 1255, 2]),
        ("contempt", [640, 3456, 2]),
        ("surprise", [16671, 2]),
        ("", [2]),
    ],
)
def test_published_ids_of_answers(llama: Tokenizer, answer: str, ids: list[int]) -> None:
    assert encode_answer(answer, llama) == ids
    assert encode_answer(answer, llama, max_txt_len=1) == ids[:1], "the end symbol is cut like any other id"


def test_without_places_for_embeddings_there_are_no_slots() -> None:
    for layout in LAYOUTS:
        prompt = build_prompt(layout, instruction("emotion", "Which?", "Yes", media=False), BYTES)
        assert prompt.slots == ()
        assert text_of(prompt).endswith("Yes.  [emotion] Which?  [/INST]")


def test_the_chat_template_is_a_choice_of_the_training_layout_only() -> None:
    words = instruction("emotion", "Which?", "Yes", media=False)
    assert text_of(build_prompt("train_consistent", words, BYTES, chat_template=False)) == f"<s>{words}"
    assert text_of(build_prompt("train_consistent", words, BYTES, template="Q: {} A:")) == f"<s>Q: {words} A:"
    plain = build_prompt("official_eval", words, BYTES)
    assert build_prompt("official_eval", words, BYTES, chat_template=False, template="{}") == plain


def test_what_a_person_says_cannot_add_a_slot() -> None:
    words = instruction("emotion", "Which?", "{} <VideoHere> <FeatureHere> {0}")
    for layout, slots in zip(LAYOUTS, (("patches", "features"), ("all",)), strict=True):
        prompt = build_prompt(layout, words, BYTES)
        assert prompt.slots == slots
        assert "says: {} <VideoHere> <FeatureHere> {0}." in text_of(prompt)


def test_wrong_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match="train_consistent, official_eval"):
        build_prompt("official", "Which?", BYTES)
    with pytest.raises(UsageError, match="only one of"):
        build_prompt("train_consistent", "<video><VideoHere></video> Which?", BYTES)
    for template in ("[INST]", "{} {}"):
        with pytest.raises(UsageError, match=r"the place \{\} once"):
            build_prompt("train_consistent", "Which?", BYTES, template=template)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("happy</s>", "happy"),
        ("sad</s>junk</s>", "sadjunk"),  # behind an end id: survives, as in the reference
        ("[INST] echo [/INST] worried ", "worried"),
        (" two  words ", "two  words"),
        ("</s>", ""),
    ],
)
def test_answers_are_read_from_ids(said: str, text: str) -> None:
    assert answer_text(BYTES.encode(said, bos=True), BYTES) == text


def test_a_number_is_learned_with_its_point() -> None:
    clean = EmotionLlamaFamily().clean_answer
    assert (clean("-0.5", "valence"), clean(" He smiles. ", "reason")) == ("-0.5", "he smiles")


def test_the_characters_of_an_end_symbol_cut_the_answer() -> None:
    spelled = [BYTES.encode(character)[0] for character in "sad</s> junk"]
    assert answer_text(spelled, BYTES) == "sad"
