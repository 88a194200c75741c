"""Prompts of Emotion-LLaMA as token ids with slots for embeddings; answers as token ids, and back. No torch.

The official code trains with one layout and evaluates with another (minigpt_base.py:130-213); both go by name:

- `train_consistent`: `<s>`, the patches between `<video>` and `</video>`, streams and CLS between `<feature>` and
  `</feature>`.
- `official_eval`: `<s>` twice, everything between `<video>` and `</video>`, and the literal text `<FeatureHere>`.
- `chat`: the places of `train_consistent` in the language model's own chat template, for models other than LLaMA-2.
"""

from __future__ import annotations

from collections.abc import Sequence

from emo.featstore.errors import UsageError
from emo.train.llm.prompt import CHAT, Prompt, chat_text, fill_slots, make_prompt
from emo.train.llm.tokenizer import Tokenizer

LAYOUTS = ("train_consistent", "official_eval")
TEMPLATE = "[INST] {} [/INST]"  # prompt_template of minigpt_v2.py:130; roles of conversation.py:136-143
END = "</s>"
VIDEO, FEATURE = "<VideoHere>", "<FeatureHere>"


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
    layout: str, instruction: str, tokenizer: Tokenizer, chat_template: bool = True, template: str = TEMPLATE
) -> Prompt:
    """Tokenise an instruction in a layout, each stretch of text on its own as the official code does.

    Args:
        layout: One of `LAYOUTS`, or `chat`.
        instruction: From `instruction`; without the places for embeddings the prompt has no slots.
        tokenizer: Of the language model.
        chat_template: Whether `train_consistent` puts the instruction into `template`. `official_eval` always has
            `<s>[INST] ... [/INST]`.
        template: Text with one `{}`.

    Raises:
        UsageError: Unknown layout, a template without `{}`, or one place for embeddings without the other.
    """
    if layout not in (*LAYOUTS, CHAT):
        raise UsageError(f"There is no prompt layout {layout!r}.", f"Layouts: {', '.join((*LAYOUTS, CHAT))}.")
    if (VIDEO in instruction) != (FEATURE in instruction):
        raise UsageError(f"The instruction holds only one of {VIDEO} and {FEATURE}.", "It needs both, or none.")
    places = {VIDEO: "patches", FEATURE: "features"}
    if layout == CHAT:
        return make_prompt(CHAT, fill_slots(chat_text(instruction, tokenizer), places, tokenizer))
    if layout == "official_eval":
        text = f"<s>{TEMPLATE.format(instruction)}"
        first, *rest = fill_slots(text, {VIDEO: "all"}, tokenizer)
        return make_prompt("official_eval", [[tokenizer.bos, *first], *rest])
    if template.count("{}") != 1:
        raise UsageError(f"Prompt template {template!r} needs the place {{}} once.")
    text = template.replace("{}", instruction) if chat_template else instruction
    return make_prompt("train_consistent", [[tokenizer.bos], *fill_slots(text, places, tokenizer)])


def encode_answer(answer: str, tokenizer: Tokenizer, max_txt_len: int = 1024, end_sym: str = END) -> list[int]:
    """Ids of an answer and its end symbol, cut at `max_txt_len`; the cut may take the end symbol with it.

    Args:
        answer: As `emo.train.llm.emotion_llama.captions.process_answer` leaves it.
        tokenizer: Of the language model.
        max_txt_len: Ids to keep (1024 in the official training files).
        end_sym: Text that ends an answer.
    """
    return tokenizer.encode(answer + end_sym)[:max_txt_len]


def answer_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return what a model answered, from the ids it generated (minigpt_base.py:426-503).

    Special ids, the pad piece among them, go before the text is cut at `</s>`: text behind an end *id* survives, text
    behind the characters `</s>` does not. What counts is behind the last `[/INST]`.
    """
    text = tokenizer.decode(ids).split("</s>")[0].replace("<s>", "")
    return text.rpartition("[/INST]")[2].strip()
