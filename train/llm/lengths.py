"""Prompts and answers that are longer than what training keeps of them, or than the language model was made for."""

from __future__ import annotations

from collections.abc import Sequence

from emo.featstore.errors import UsageError
from emo.featstore.text import counted, some_of
from emo.train.llm.data import Example, Examples, filled
from emo.train.llm.family import Family
from emo.train.llm.model import TunedModel
from emo.train.llm.predict import make_prompt
from emo.train.llm.recipe import TuneRecipe

SPARE = 512  # ids that a template and a system's text may add to the words of a question; no id is shorter than a byte


def length_notes(examples: Examples, recipe: TuneRecipe, family: Family, model: TunedModel) -> list[str]:
    """Say which clips have an answer or a prompt that training cuts, or one that is too long for the language model.

    Args:
        examples: To train and to validate on.
        recipe: Their tasks and instructions.
        family: Of the model.
        model: Its tokenizer and limits.

    Raises:
        UsageError: A label to be scored is cut: it would be learned without its end, and others may be equal to it.
    """
    whole = recipe.model_copy(update={"max_txt_len": 1 << 30})

    def cut(answer: str) -> bool:
        if len(answer.encode()) + SPARE <= recipe.max_txt_len:
            return False
        kept, all_of_it = (family.answer_ids(each, answer, model.tokenizer) for each in (recipe, whole))
        return len(kept) < len(all_of_it)

    if labels := [label for label in recipe.scored if cut(family.clean_answer(label, "emotion"))]:
        told = f"max_txt_len: {counted(recipe.max_txt_len, 'id')} of an answer are too few for {', '.join(labels)}."
        raise UsageError(told, "Raise it: a label is one only with its end.")
    answers = [each.name for each in examples.train if any(cut(each.answers[task]) for task in each.answers)]
    notes = []
    if answers:
        which = counted(len(answers), "clip has an answer", "clips have answers")
        notes.append(f"{which} of more than {recipe.max_txt_len:,} ids, cut there in training: {some_of(answers, 3)}.")
    if model.max_context_len is not None:
        kept_rows = model.max_context_len + 1
        if long := _longer(kept_rows, examples.train, recipe, model):
            which = counted(len(long), "clip has a prompt", "clips have prompts")
            end = "their ends, with the question, are cut off in training"
            notes.append(f"{which} of more than {kept_rows:,} rows; {end}: {some_of(long, 3)}.")
    made_for = getattr(model.llm.config, "max_position_embeddings", None)
    if made_for and (long := _longer(made_for, (*examples.train, *examples.validation), recipe, model)):
        which = counted(len(long), "clip has a prompt", "clips have prompts")
        notes.append(f"{which} of more rows than the {made_for:,} of the language model: {some_of(long, 3)}.")
    return notes


def _longer(limit: int, examples: Sequence[Example], recipe: TuneRecipe, model: TunedModel) -> list[str]:
    """Return the clips that have a prompt of more than `limit` rows with the longest instruction of a task."""
    longest = {task: max(recipe.prompts[task], key=len) for task in recipe.active}

    def long(example: Example) -> bool:
        for task in example.answers or ("emotion",):
            text = filled(longest.get(task, recipe.prompts["emotion"][0]), example.pair)
            if model.rows + len((text + example.transcript).encode()) + SPARE > limit:
                prompt = make_prompt(model, recipe, task, text, example.transcript, recipe.layout)
                if model.length(prompt, max_context_len=None) > limit:
                    return True
        return False

    return [example.name for example in examples if long(example)]
