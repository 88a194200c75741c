"""Samples of a recipe as a file of conversations, so that other trainers learn from the same ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.conversation import conversation
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.files import write_json
from emo.featstore.page import Arg, Flag, Page
from emo.featstore.storage.store import has_store, open_store
from emo.featstore.workspace import Workspace
from emo.train.llm.data import Examples, Sample, TaskMix, load_examples
from emo.train.llm.family import Family
from emo.train.llm.recipe import TuneRecipe
from emo.train.recipe import family_named, load_recipe

PARTS = ("train", "validation")


def conversations_page(
    workspace: Workspace,
    recipe: Annotated[str, Arg("A recipe that tunes a language model: a shipped one, or a .yaml file.")],
    out: Annotated[Path, Arg("File to write, .json.")],
    dataset: Annotated[str | None, Flag("A [data.NAME] table of emo.toml.")] = None,
    set_: Annotated[list[str] | None, Flag("key=value above the recipe; may be repeated.", "--set")] = None,
    part: Annotated[str, Flag("train or validation.")] = "train",
) -> Page:
    """Write the samples of a recipe as conversations for ms-swift, LLaMA-Factory and VideoLLaMA2.

    A clip is asked what the first pass of a training asks it; its features are not needed.

    Raises:
        UsageError: The recipe is a head's, nothing is left to write, or the file cannot be written.
    """
    from emo.train.llm.setup import file_finder, records_of

    chosen = load_recipe(recipe, set_ or [])
    if not isinstance(chosen, TuneRecipe):
        raise UsageError("Conversations come from a recipe that tunes a language model.", "emo train --help-recipe")
    if part not in PARTS:
        raise UsageError(f"There is no part {part!r}.", f"Parts: {' and '.join(PARTS)}.")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} is no folder.", "Make it, or name another place.")
    if out.exists():
        raise UsageError(f"{out} exists already.", "Remove it, or name another file.")
    table, family = workspace.table(dataset), family_named(chosen.family)
    clips = list(open_dataset(table.name, table).clips())
    store = open_store(workspace.store_path) if has_store(workspace.store_path) else None
    find = file_finder((table.root, workspace.root), {}, chosen)
    examples = load_examples(clips, chosen, find, family.clean_answer, records_of(store))
    media = {clip.id: str(clip.media) for clip in clips if clip.media is not None}
    samples = samples_of(chosen, family, examples, part)
    if not samples:
        raise UsageError(f"Recipe {chosen.name} has no clips for {part}.", "Give validation.holdout or a split.")
    rows: list[dict[str, Any]] = []
    for each in samples:
        rows.append(
            conversation(each.name, media.get(each.name, f"{each.name}.mp4"), each.text, each.transcript, each.answer)
        )
    write_json(out, rows)
    tasks, absent = Counter(each.task for each in samples), sum(each.name not in media for each in samples)
    lines = [f"{out}: {len(rows):,} conversations ({', '.join(f'{n:,} {task}' for task, n in tasks.items())})"]
    if absent:
        lines.append(f"{absent:,} of them have no media file here; they name NAME.mp4.")
    value = {"path": str(out), "conversations": len(rows), "tasks": dict(tasks), "absent": absent}
    return Page(value | {"notes": list(examples.notes)}, [*lines, *examples.notes])


def samples_of(recipe: TuneRecipe, family: Family, examples: Examples, part: str) -> list[Sample]:
    """Return what the first pass asks the clips to train on, or what validation asks, with the label as its answer."""
    if part == "train":
        mix = TaskMix({task: recipe.tasks[task] for task in recipe.active}, recipe.prompts)
        return [mix.draw(recipe.seed, 0, i, example) for i, example in enumerate(examples.train)]
    question = recipe.prompts["emotion"][0]
    return [
        Sample(each.name, "emotion", question, each.transcript, family.clean_answer(each.label, "emotion"), each.label)
        for each in examples.validation
        if each.label
    ]
