"""Models that were not trained here: a recipe says what they are asked, and their answers are scored as any other's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from emo.featstore.clip import Clip
from emo.featstore.errors import UsageError
from emo.featstore.inquiry import Ask, Replies
from emo.featstore.page import Page
from emo.featstore.workspace import Workspace
from emo.train.answers import Prediction
from emo.train.answers_page import answers_page
from emo.train.llm.recipe import TuneRecipe
from emo.train.questions import AskRecipe
from emo.train.recipe import load_recipe, make_recipe, read_keys

Say = Callable[[str], None]
USUAL = "zero-shot"
MINUS = r"[-\u2212\u2010\u2011\u2013\ufe63\uff0d]|(?:\b(?:minus|negative)|负)\s*"  # signs and words of a minus
NUMBER = re.compile(rf"({MINUS})?(\d+(?:\.\d+)?|\.\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class AskedModel:
    """A model that is asked by a recipe.

    Attributes:
        workspace: Its store keeps the answers.
        ask: Shows clips and asks; of the layer that decodes.
        model: As a user names it: `http://HOST/v1#NAME` and such.
        recipe: What is asked.
        device: Of a model in this process.
        retry_failed: Ask again what failed for good.
        cached: Ask nothing.
        say: Gets a sentence now and then.
    """

    workspace: Workspace
    ask: Ask
    model: str
    recipe: AskRecipe
    device: str = "auto"
    retry_failed: bool = False
    cached: bool = False
    say: Say = field(default=lambda sentence: None)

    def predict(self, clips: Sequence[Clip], task: str = "emotion") -> tuple[dict[str, Prediction], Replies]:
        """Return answers by clip, and all that is to be said about them; what a valence is read from holds a number.

        Raises:
            UsageError: The recipe does not know the task, or the model cannot be asked.
        """
        how = {"device": self.device, "retry_failed": self.retry_failed, "cached": self.cached}
        inquiry = replace(self.recipe.inquiry(task), **how)  # type: ignore[arg-type]
        replies = self.ask(self.workspace, clips, self.model, inquiry, self.say)
        if task != "valence":
            return {name: Prediction(text) for name, text in replies.said.items()}, replies
        numbers = {name: valence_in(text) for name, text in replies.said.items()}
        said = {name: Prediction(replies.said[name], number) for name, number in numbers.items() if number is not None}
        lost = {name: f"no-number: {replies.said[name][:120]!r}" for name in numbers if name not in said}
        return said, replace(replies, why={**replies.why, **lost})

    def page(self, clips: Sequence[Clip], task: str = "emotion") -> Page:
        """Ask, and draw the answers; exit code 3 where there is none about some clips, 130 where it was stopped."""
        said, replies = self.predict(clips, task)
        drawn = answers_page(f"Model {replies.model}", [clip.id for clip in clips], said, replies.why, task)
        notes = [*replies.notes, untrained(replies)]
        value = {"model": replies.model, "record": replies.record, **drawn.value, "notes": notes}
        code = 130 if replies.interrupted else drawn.exit_code
        return replace(drawn, value={**value, **replies.counts}, parts=[*drawn.parts, *notes], exit_code=code)


def untrained(replies: Replies) -> str:
    """Return the sentence that must stand beside every number of such a model."""
    return (
        f"{replies.model} answered zero shot ({replies.record}); which clips it was trained on is not known, and it "
        "may have seen these."
    )


def ask_recipe(name: str | None, overrides: Sequence[str] = ()) -> AskRecipe:
    """Return a recipe of questions: one of kind `ask`, or the questions of one that tunes a language model.

    Raises:
        UsageError: There is none, it is wrong, or it is a head's.
    """
    recipe = load_recipe(name or USUAL)
    if isinstance(recipe, TuneRecipe):
        recipe = AskRecipe.of_tuned(recipe)
    if not isinstance(recipe, AskRecipe):
        raise UsageError(f"Recipe {name} asks nothing: it is a head's.", f"Name {USUAL}, or one of a language model.")
    where = f"Recipe {recipe.name}"
    made: AskRecipe = make_recipe(read_keys(recipe.to_yaml(), where, overrides), where)
    return made


def valence_in(text: str) -> float | None:
    """Return the number from -1 to 1 that an answer gives: the only one in it; else `None`."""
    found = {-float(number) if minus else float(number) for minus, number in NUMBER.findall(text)}
    return found.pop() if len(found) == 1 and abs(next(iter(found))) <= 1 else None
