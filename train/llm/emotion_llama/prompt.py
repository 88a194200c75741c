"""Prompts of Emotion-LLaMA as token ids with slots for embeddings; answers as token ids, and back. No torch.

Two layouts, by name, because the official code trains with one and evaluates with another (minigpt_base.py:130-213):

- `train_consistent`: `<s>`, the patches between `<video>` and `</video>`, streams and CLS between `<feature>` and
  `</feature>`.
- `official_eval`: `<s>` twice, everything between `<video>` and `</video>`, and the literal text `<FeatureHere>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from emo.featstore.errors import UsageError
from emo.train.llm.emotion_llama.tokenizer import LlamaTokenizer

LAYOUTS = ("train_consistent", "official_eval")
TEMPLATE = "[INST] {} [/INST]"  # prompt_template of minigpt_v2.py:130; roles of conversation.py:136-143
END = "</s>"
VIDEO, FEATURE = "<VideoHere>", "<FeatureHere>"

Layout = Literal["train_consistent", "official_eval"]
Slot = Literal["patches", "features", "all"]


@dataclass(frozen=True)
class Prompt:
    """One prompt: runs of token ids, and slots where the model puts embeddings.

    Attributes:
        layout: One of `LAYOUTS`.
        segments: In order. `patches` stands for the image groups, `features` for streams and CLS, `all` for both.
    """

    layout: Layout
    segments: tuple[tuple[int, ...] | Slot, ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Names of the slots, in order; none for a text-only prompt."""
        return tuple(each for each in self.segments if isinstance(each, str))


def instruction(task: str, text: str, transcript: str, media: bool = True) -> str:
    """The user's turn as the official dataset writes it (first_face.py:151-155): two spaces before `[`, one at the end.

    Args:
        task: `emotion`, `reason`, `reason_v2`, `description`; it appears in brackets.
        text: One of the task's instructions.
        transcript: What the person says; a full stop is put behind it whatever it ends with.
        media: `False` leaves out the places for embeddings, for text-only models.
    """
    places = f"<video>{VIDEO}</video> <feature>{FEATURE}</feature> " if media else ""
    return f"{places}The person in video says: {transcript}.  [{task}] {text} "


def build_prompt(
    layout: str, instruction: str, tokenizer: LlamaTokenizer, chat_template: bool = True, template: str = TEMPLATE
) -> Prompt:
    """Tokenise an instruction in a layout, each stretch of text on its own as the official code does.

    Args:
        layout: One of `LAYOUTS`.
        instruction: From `instruction`; without the places for embeddings the prompt has no slots.
        tokenizer: Of the language model.
        chat_template: Whether `train_consistent` puts the instruction into `template`. `official_eval` always has
            `<s>[INST] ... [/INST]`.
        template: Text with one `{}`.

    Raises:
        UsageError: Unknown layout, a template without `{}`, or one place for embeddings without the other.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"There is no prompt layout {layout!r}.", f"Layouts: {', '.join(LAYOUTS)}.")
    if (VIDEO in instruction) != (FEATURE in instruction):
        raise UsageError(f"The instruction holds only one of {VIDEO} and {FEATURE}.", "It needs both, or none.")
    if layout == "official_eval":
        head, found, tail = f"<s>{TEMPLATE.format(instruction)}".partition(VIDEO)
        first = tokenizer.encode(head, bos=True)
        return Prompt("official_eval", _segments([first, "all", tokenizer.encode(tail)] if found else [first]))
    if template.count("{}") != 1:
        raise UsageError(f"Prompt template {template!r} needs the place {{}} once.")
    head, found, tail = (template.replace("{}", instruction) if chat_template else instruction).partition(VIDEO)
    segments: list[list[int] | Slot] = [[tokenizer.bos], tokenizer.encode(head)]
    if found:
        middle, _, tail = tail.partition(FEATURE)
        segments += ["patches", tokenizer.encode(middle), "features", tokenizer.encode(tail)]
    return Prompt("train_consistent", _segments(segments))


def encode_answer(answer: str, tokenizer: LlamaTokenizer, max_txt_len: int = 1024, end_sym: str = END) -> list[int]:
    """Ids of an answer and its end symbol, cut at `max_txt_len`; the cut may take the end symbol with it.

    Args:
        answer: As `emo.train.llm.emotion_llama.captions.process_answer` leaves it.
        tokenizer: Of the language model.
        max_txt_len: Ids to keep (1024 in the official training files).
        end_sym: Text that ends an answer.
    """
    return tokenizer.encode(answer + end_sym)[:max_txt_len]


def answer_text(ids: Sequence[int], tokenizer: LlamaTokenizer) -> str:
    """What a model answered, from the ids it generated (minigpt_base.py:426-503).

    Special ids, the pad piece among them, go before the text is cut at `</s>`: text behind an end *id* survives, text
    behind the characters `</s>` does not. What counts is behind the last `[/INST]`.
    """
    text = tokenizer.decode(ids).split("</s>")[0].replace("<s>", "")
    return text.rpartition("[/INST]")[2].strip()


def _segments(segments: Sequence[Sequence[int] | Slot]) -> tuple[tuple[int, ...] | Slot, ...]:
    return tuple(each if isinstance(each, str) else tuple(each) for each in segments if len(each))
