"""Questions to a language model: which there are, by what words they are known, and where their answers are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emo.featstore.errors import UsageError
from emo.train.llm.data import Pair, filled
from emo.train.llm.recipe import TASKS, TuneRecipe
from emo.train.metrics.labels import POLICIES
from emo.train.recipe import family_named
from emo.train.runs import Run


def question(recipe: TuneRecipe, task: str, transcript: str, layout: str, pair: Pair | None = None) -> str:
    """Hash of all words that a clip is asked: an answer to another question is no answer to this one."""
    text = filled(recipe.prompts[task][0], pair)  # type: ignore[index]
    words = family_named(recipe.family).instruction(recipe, task, text, transcript)
    return hashlib.blake2b(f"{layout}\0{recipe.around}\0{words}".encode(), digest_size=8).hexdigest()


def predictions_path(run: Run, policy: str, layout: str | None = None, task: str = "emotion") -> Path:
    """Return where a run keeps answers: generated text and likelihoods apart, and so other tasks and layouts."""
    name = "predictions" + ("" if task == "emotion" else f"-{task}") + ("-likelihood" if policy == "likelihood" else "")
    return run.path / (name + (f"-{layout}" if layout and layout != run.info["layout"] else "") + ".jsonl")


def check_question(recipe: TuneRecipe, policy: str, task: str, layout: str | None = None) -> str:
    """The task that is meant: `reason` was called `reason_v2` in the second stage, which a user need not know.

    Raises:
        UsageError: Unknown policy, task or layout, or ones that do not go together.
    """
    layout = layout or recipe.layout
    layouts = family_named(recipe.family).layouts
    for what, value, known in (("policy", policy, POLICIES), ("task", task, TASKS), ("layout", layout, layouts)):
        if value not in known:
            raise UsageError(f"Unknown {what} {value!r}.", f"Known: {', '.join(known)}.")
    if policy == "likelihood" and task != "emotion":
        raise UsageError(f"Policy likelihood chooses among labels, and task {task} has none.", "Use policy official.")
    if task == "reason" and "reason" not in recipe.active and "reason_v2" in recipe.active:
        task = "reason_v2"
    if not recipe.prompts.get(task):  # type: ignore[call-overload]
        raise UsageError(f"The recipe has no instruction for task {task}.", f"It has: {', '.join(recipe.prompts)}.")
    return task
