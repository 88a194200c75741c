"""Prompts and answers that are longer than what training keeps of them, or than the language model was made for."""

from __future__ import annotations

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
    kept = None if model.max_context_len is None else model.max_context_len + 1
    made_for = getattr(model.llm.config, "max_position_embeddings", None)
    least = min((limit for limit in (kept, made_for) if limit), default=None)
    everyone = (*examples.train, *examples.validation)
    rows = [0 if least is None else _rows(each, least, recipe, model) for each in everyone]
    sized = [(each.name, size) for each, size in zip(everyone, rows, strict=True)]
    if kept and (long := [name for name, size in sized[: len(examples.train)] if size > kept]):
        which = counted(len(long), "clip has a prompt", "clips have prompts")
        end = "their ends, with the question, are cut off in training"
        notes.append(f"{which} of more than {kept:,} rows; {end}: {some_of(long, 3)}.")
    if made_for and (long := [name for name, size in sized if size > made_for]):
        which = counted(len(long), "clip has a prompt", "clips have prompts")
        notes.append(f"{which} of more rows than the {made_for:,} of the language model: {some_of(long, 3)}.")
    return notes


def _rows(example: Example, least: int, recipe: TuneRecipe, model: TunedModel) -> int:
    """Return the rows of a clip's longest prompt, by the longest instruction of a task; 0 where all fit in `least`."""
    rows = 0
    for task in example.answers or ("emotion",):
        learned = task in recipe.active  # else it is asked as scoring asks
        asked = max(recipe.prompts[task], key=len) if learned else recipe.prompts["emotion"][0]
        text = filled(asked, example.pair)
        if model.rows + len((text + example.transcript).encode()) + SPARE > least:
            prompt = make_prompt(model, recipe, task, text, example.transcript, recipe.layout)
            rows = max(rows, model.length(prompt, max_context_len=None))
    return rows
