"""Prompts of VideoLLaMA2.1 as token ids with slots, and its answers: turns of Qwen2. No torch.

- `train_consistent`: Qwen2's turns, the tag of the medium and a newline before the question.
- `official_eval`: the same; without a medium too the question begins with a newline, as `mm_infer` writes it.
- `chat`: the same turns in the language model's own chat template, for others than Qwen2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from emo.featstore.errors import ModelError, UsageError
from emo.train.llm.prompt import CHAT, Prompt, chat_text, fill_slots, make_prompt
from emo.train.llm.tokenizer import Tokenizer

LAYOUTS = ("train_consistent", "official_eval", CHAT)
BEGIN, END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TURN = f"{BEGIN}user\n{{}}{END}\n{BEGIN}assistant\n"
# What Qwen2's template puts in front where no system turn is given (tokenizer_config.json, sha256 be21acaf...).
SYSTEM = f"{BEGIN}system\nYou are a helpful assistant.{END}\n"
VIDEO, AUDIO = "<video>", "<audio>"
TAGS = ("<image>", VIDEO, AUDIO)  # constants.py of VideoLLaMA2
SAID = 'The person in video says: "{}". '


def tag_of(video: bool, audio: bool) -> str:
    """Return the tag of what a clip has: pictures, with their sound or without, or sound alone; empty for neither."""
    return VIDEO if video else AUDIO if audio else ""


def instruction(text: str, transcript: str, tag: str) -> str:
    """Return the user's turn: the tag and a newline, what is said, the question.

    A tag that somebody wrote into the words is taken out, as the reference's data loading does.

    Args:
        text: What is asked.
        transcript: What the person says; empty for none.
        tag: From `tag_of`.
    """
    said = "".join((SAID[: SAID.index("{")], transcript, SAID[SAID.index("}") + 1 :])) if transcript else ""
    words = re.sub("|".join(TAGS), "", said + text).strip()
    return f"{tag}\n{words}" if tag else words


def build_prompt(layout: str, text: str, tokenizer: Tokenizer, slots: Sequence[str]) -> Prompt:
    """Tokenise a prompt, each stretch beside the tag on its own.

    Args:
        layout: One of `LAYOUTS`.
        text: From `instruction`.
        tokenizer: Of the language model.
        slots: Names of what stands at the tag, in order.

    Raises:
        UsageError: Unknown layout.
        ModelError: The tokenizer lacks what the layout needs.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"There is no prompt layout {layout!r}.", f"Layouts: {', '.join(LAYOUTS)}.")
    tag = next((each for each in TAGS if text.startswith(each)), "")
    if layout == "official_eval" and not tag:
        text = f"\n{text}"
    whole = chat_text(text, tokenizer) if layout == CHAT else SYSTEM + text.join(TURN.split("{}"))
    return make_prompt(layout, expanded(fill_slots(whole, {tag: "tag"} if tag else {}, tokenizer), slots))


def expanded(segments: Sequence[Sequence[int] | str], slots: Sequence[str]) -> list[Sequence[int] | str]:
    """Put the slots in the place of the tag."""
    return [part for each in segments for part in (slots if isinstance(each, str) else [each])]


def encode_answer(answer: str, tokenizer: Tokenizer, max_txt_len: int) -> list[int]:
    """Return the ids of an answer, cut at `max_txt_len`, the end id, and the newline behind it: all are learned."""
    return [*tokenizer.encode(answer)[:max_txt_len], end_id(tokenizer), *tokenizer.encode("\n")]


def end_id(tokenizer: Tokenizer) -> int:
    """Return the id of `<|im_end|>`; the tokenizer's own end id where it has none, as that of the tiny model."""
    ids = tokenizer.encode(END)
    return ids[0] if len(ids) == 1 else tokenizer.eos


def stop_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Return the sequences of ids that end an answer: the end id, and what is learned behind it."""
    end = end_id(tokenizer)
    return (end,), (end, *tokenizer.encode("\n"))


def response(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return what a model answered, from the ids it generated: up to the end id, without special ids."""
    end = end_id(tokenizer)
    kept = list(ids[: ids.index(end)] if end in ids else ids)
    special = {tuple(tokenizer.encode(each)) for each in (BEGIN, END, TEXT_END)}
    return tokenizer.decode([each for each in kept if (each,) not in special]).strip()


def check_tokenizer(tokenizer: Tokenizer, source: str) -> None:
    """Refuse a tokenizer that has only one of Qwen2's begin and end ids.

    Raises:
        ModelError: It has.
    """
    if (len(tokenizer.encode(BEGIN)) == 1) != (len(tokenizer.encode(END)) == 1):
        raise ModelError(f"The tokenizer of {source} has only one of {BEGIN} and {END}.", "Use that of Qwen2.")
