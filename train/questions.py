"""Recipes of asking a model that was not trained here: its prompts, and what of a clip it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from emo.featstore.errors import UsageError
from emo.featstore.inquiry import SAID, Inquiry
from emo.featstore.labels import MER2023_LABELS
from emo.train.keys import Recipe
from emo.train.llm.recipe import Task, TuneRecipe

LABELS = "{labels}"  # place of the labels in an instruction


class AskRecipe(Recipe):
    """Keys of asking a model that was not trained here."""

    makes: ClassVar[str] = "ask"
    kind: Literal["ask"] = "ask"
    """Asking, in contrast to training. Type: ask."""
    name: str = Field(default="ask", min_length=1)
    """Name of this recipe. Type: text."""
    system: str = ""
    """Text of the system's role; empty for none. Type: text."""
    said: str = 'The person in the video says: "{}"'
    """Sentence that brings the transcript to the place {}, left out of clips without one; empty: never. Type: text."""
    prompts: dict[Task, tuple[str, ...]] = Field(default_factory=dict)
    """Instructions of each task; the first one is asked. {labels} is the place of the labels. Type: table of task:
    list of texts.
    """
    labels: tuple[str, ...] = Field(default=MER2023_LABELS, min_length=2)
    """Words that {labels} stands for: those of the list that is to be scored. Type: list of words."""
    languages: tuple[str, ...] = ("english", "text")
    """Transcripts to send, best first. Type: list of names."""
    frames: int = Field(default=8, ge=0, le=256)
    """Frames that are sent, evenly from the whole clip; 0: none. Type: whole number."""
    side: int = Field(default=512, ge=28, le=4096)
    """Pixels of the longer side of a frame, at most. Type: whole number."""
    sound: bool = True
    """Send the sound, as WAV of 16 kHz. false for models that only see. Type: true | false."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature of the sampling; 0 takes the most probable answer. Type: number."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling. Type: whole number."""
    max_tokens: int = Field(default=512, ge=1)
    """Tokens of an answer, at most; one that is cut off there counts as a failure. Type: whole number."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that one attempt may take. Type: number."""
    concurrency: int | None = Field(default=None, ge=1)
    """Clips that are asked about at once; null: 8 of an endpoint, 2 of a model in this process. Type: whole number,
    or null.
    """
    max_requests: int | None = Field(default=None, ge=0)
    """Requests of one command, at most; the next one goes on. Type: whole number, or null."""
    max_cost: float | None = Field(default=None, ge=0)
    """Cost of one command by prices, at most. Type: number, or null."""
    prices: str | None = None
    """TOML file that has input and output per million tokens of a model. Type: file, or null."""

    @field_validator("said")
    @classmethod
    def _said(cls, said: str) -> str:
        if said and said.count(SAID) != 1:
            raise ValueError("needs the place {} once")
        return said

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.prompts or not all(self.prompts.values()):
            raise ValueError("prompts: each task needs an instruction, and there must be one")
        return self

    @property
    def title(self) -> str:
        """The recipe's name."""
        return self.name

    def feature_names(self) -> tuple[str, ...]:
        """Return nothing: no feature is read."""
        return ()

    def with_features(self, names: Mapping[str, str]) -> Self:
        """Return the recipe as it is."""
        return self

    def features_flag(self, names: Sequence[str]) -> str:
        """Return nothing, for the same reason."""
        return ""

    @classmethod
    def of_tuned(cls, recipe: TuneRecipe) -> Self:
        """Return the questions of a recipe that tunes a language model, but for those about texts of each clip."""
        languages = tuple(dict.fromkeys((recipe.data.language, "text")))
        return cls(
            name=recipe.name,
            prompts={task: texts for task, texts in recipe.prompts.items() if task != "preference"},
            labels=recipe.scored,
            languages=languages,
            max_tokens=recipe.decode.max_new_tokens,
        )

    def inquiry(self, task: str) -> Inquiry:
        """Return what is asked about a task.

        Raises:
            UsageError: The recipe has no instruction for it.
        """
        if task not in self.prompts:
            known = f"It has: {', '.join(self.prompts)}."
            raise UsageError(f"Recipe {self.name} has no instruction for task {task}.", known)
        question = self.prompts[task][0].replace(LABELS, ", ".join(self.labels))  # type: ignore[index]
        same = ("system", "said", "languages", "frames", "side", "sound", "temperature", "seed", "max_tokens")
        same += ("timeout_s", "concurrency", "max_requests", "max_cost")
        given: dict[str, Any] = {name: getattr(self, name) for name in same}
        prices = Path(self.prices) if self.prices else None
        return Inquiry(task, question, prices=prices, **given)
