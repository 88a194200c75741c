"""A prompt of any family as token ids with slots for embeddings, and the layout that a model's own chat template gives.

No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emo.featstore.errors import ModelError
from emo.train.llm.tokenizer import Tokenizer

CHAT = "chat"  # layout: the language model's own chat template around the user's turn


@dataclass(frozen=True)
class Prompt:
    """One prompt: runs of token ids, and slots where the model puts embeddings.

    Attributes:
        layout: Name of the layout that it was built in.
        segments: In order: ids, or the name of a slot, whose rows `TunedModel.slot` gives.
    """

    layout: str
    segments: tuple[tuple[int, ...] | str, ...]

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order; none for a text-only prompt."""
        return tuple(each for each in self.segments if isinstance(each, str))


def make_prompt(layout: str, segments: Sequence[Sequence[int] | str]) -> Prompt:
    """Return a prompt without empty segments."""
    kept = (each if isinstance(each, str) else tuple(each) for each in segments if len(each))
    return Prompt(layout, tuple(kept))


def fill_slots(text: str, places: Mapping[str, str], tokenizer: Tokenizer) -> list[Sequence[int] | str]:
    """Cut a text at its places for embeddings, and tokenise each stretch between them on its own.

    Args:
        text: The prompt.
        places: Text of a place -> name of its slot; each place stands in the text once at most.
        tokenizer: Of the language model.
    """
    found = sorted((text.index(place), place, slot) for place, slot in places.items() if place in text)
    segments: list[Sequence[int] | str] = []
    start = 0
    for at, place, slot in found:
        segments += [tokenizer.encode(text[start:at]), slot]
        start = at + len(place)
    return [*segments, tokenizer.encode(text[start:])]


def chat_text(instruction: str, tokenizer: Tokenizer) -> str:
    """Return the user's turn in the tokenizer's chat template, up to where the answer begins.

    Raises:
        ModelError: The tokenizer has no chat template, or the template refuses a single user's turn.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "The tokenizer of the language model has no chat template, and layout chat writes prompts with it.",
            "Use an instruct or chat model whose tokenizer_config.json has chat_template, or another layout.",
        )
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [[{"role": "user", "content": instruction}]]
    try:
        (text,), _ = render_jinja_template(
            turns, chat_template=tokenizer.chat_template, add_generation_prompt=True, **tokenizer.named_tokens
        )
    except TemplateError as error:
        raise ModelError(f"The chat template of the language model cannot be used: {error}.") from error
    if instruction.strip() not in text:
        raise ModelError("The chat template of the language model drops or changes the user's words.")
    return str(text)
