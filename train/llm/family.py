"""Contract of a family: a published multimodal language model, seen as cached features, projections and LoRA.

A family is one folder here and one line in `emo.train.recipe`. It answers five questions: which features at which
level; what is trainable; how a prompt and its places become ids and rows; how official checkpoints are read and
written; how an answer is post-processed. The loop, the data, distribution, answering and scoring ask nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from emo.featstore.sources.hub import Source
from emo.featstore.spec import EncoderSpec
from emo.train.llm.prompt import Prompt
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emo.train.llm.checkpoint import ImportReport
    from emo.train.llm.model import LoraArgs, TunedModel


@dataclass(frozen=True)
class Wanted:
    """One feature that a family reads.

    Attributes:
        role: Its place, as run.json keeps it: `tokens`, `stream`, ...
        name: Its name in the store.
        level: `utt` gives `(B, D)`; `tokens` and `frame` give `(B, R, D)` and need the same number R in all clips.
    """

    role: str
    name: str
    level: str


class Family(ABC):
    """One published model. Members are stateless; the recipe and the model carry all settings.

    Attributes:
        name: As in the recipe key `family`.
        Recipe: Its recipe keys.
        layouts: Prompt layouts by name, the usual one first.
        official_layout: Layout of the official evaluation, which imported checkpoints are asked in.
        weights: Where what it starts from comes from, by keys of [weights] in emo.toml: rows of `emo weights list`.
        model_types: What config.json calls the published whole -> type of the language model in it.
        settings: Key of the official training file -> recipe key, for settings that change an answer.
    """

    name: ClassVar[str]
    Recipe: ClassVar[type[TuneRecipe]]
    layouts: ClassVar[tuple[str, ...]]
    official_layout: ClassVar[str]
    weights: ClassVar[Mapping[str, Source]] = {}
    model_types: ClassVar[Mapping[str, str]] = {}
    settings: ClassVar[Mapping[str, str]] = {}

    # ---- 1: features -------------------------------------------------------------------------------------------------

    @abstractmethod
    def wanted(self, recipe: Any) -> tuple[Wanted, ...]:
        """Return the features that a recipe reads, in the order in which the model takes them; none for text only."""

    # ---- 2: what is trainable ----------------------------------------------------------------------------------------

    @abstractmethod
    def assemble(
        self,
        recipe: Any,
        llm: PreTrainedModel,
        tokenizer: Tokenizer,
        specs: Sequence[EncoderSpec],
        lora: LoraArgs,
        source: str,
        seed: int,
    ) -> TunedModel:
        """Return the model: a frozen language model, fresh adapters, fresh modules for features of these sizes.

        Args:
            recipe: Of the run.
            llm: The language model, on its device.
            tokenizer: Its tokenizer.
            specs: Of the features, in the order of `wanted`.
            lora: The adapters.
            source: Where the language model came from.
            seed: Of everything that is drawn; torch's generator is set to it already.

        Raises:
            ModelError: The features have sizes that the family cannot take.
        """

    # ---- 3: prompts --------------------------------------------------------------------------------------------------

    @abstractmethod
    def instruction(self, recipe: Any, task: str, text: str, transcript: str) -> str:
        """Return the words of one question with the places for embeddings in them.

        Args:
            recipe: Of the run.
            task: `emotion`, `reason`, ...
            text: One of the task's instructions.
            transcript: What the person says; may be empty.
        """

    @abstractmethod
    def prompt(self, recipe: Any, instruction: str, tokenizer: Tokenizer, layout: str) -> Prompt:
        """Return an instruction as ids and slots, in a layout.

        Raises:
            UsageError: The layout is unknown, or cannot hold the instruction.
            ModelError: The tokenizer has not what the layout needs.
        """

    @abstractmethod
    def answer_ids(self, recipe: Any, answer: str, tokenizer: Tokenizer) -> list[int]:
        """Return the ids that are learned behind a prompt, the end of the answer among them."""

    # ---- 4: official checkpoints -------------------------------------------------------------------------------------

    @abstractmethod
    def import_official(self, path: Path, model: Any, allow_new: bool = False) -> ImportReport:
        """Load an official checkpoint into a model, strictly: every tensor is consumed, or ignored for a reason.

        Args:
            path: The file, or a folder where the family has such checkpoints.
            model: From `assemble`.
            allow_new: Let modules stay fresh that an earlier stage's file cannot have.

        Raises:
            WeightsMissing: No such file.
            ModelError: It is no such checkpoint, does not fit, or the model is not the official one's build.
        """

    @abstractmethod
    def export_official(self, model: Any, recipe: Any, path: Path) -> None:
        """Write what was learned as the official code loads it.

        Raises:
            ModelError: The model is not the official one's build.
        """

    def trained_otherwise(self, recipe: Any, settings: Mapping[str, Any]) -> list[str]:
        """Return a sentence on each setting of an official training that a recipe has otherwise.

        Args:
            recipe: Of the run.
            settings: The `model` part of the official configuration.
        """
        return [
            f"The checkpoint was trained with {theirs} {settings[theirs]!r}, the recipe has {ours} {here!r}."
            for theirs, ours in self.settings.items()
            if settings.get(theirs, here := getattr(recipe, ours)) != here
        ]

    # ---- 5: answers --------------------------------------------------------------------------------------------------

    @abstractmethod
    def clean_answer(self, text: str, task: str) -> str:
        """Return an annotated answer to a task in the form that is trained on; a label in that of a label."""

    @abstractmethod
    def answer_text(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """Return the text of an answer from the ids that were generated."""
