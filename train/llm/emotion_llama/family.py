"""Emotion-LLaMA as a family: its answers to the five questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import field_validator

from emo.featstore.errors import ModelError
from emo.featstore.sources.hub import Source
from emo.featstore.spec import EncoderSpec
from emo.train.llm.emotion_llama.captions import process_answer
from emo.train.llm.emotion_llama.prompt import (
    END,
    LAYOUTS,
    TEMPLATE,
    answer_text,
    build_prompt,
    encode_answer,
    instruction,
)
from emo.train.llm.emotion_llama.sources import WEIGHTS
from emo.train.llm.family import Family, Wanted
from emo.train.llm.prompt import CHAT, Prompt
from emo.train.llm.recipe import FeatureKeys, TuneRecipe
from emo.train.llm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emo.train.llm.checkpoint import ImportReport
    from emo.train.llm.model import LoraArgs, TunedModel

LLAMA2_IDS = 32_000
BARE = "{}"  # the template of an official training with chat_template false: nothing around the instruction


class EmotionLlamaFeatures(FeatureKeys):
    """Image tokens, CLS first, and utterance vectors in the official order: face, video, audio."""

    tokens: str | None = "eva_g_448"
    """Image tokens, CLS first; null: none. Type: name, or null."""
    streams: tuple[str, ...] = ("mae_340_UTT", "maeV_399_UTT", "HL-UTT")
    """Utterance vectors, in the official order face, video, audio. Type: list of names."""


class EmotionLlamaRecipe(TuneRecipe):
    """Keys of tuning Emotion-LLaMA."""

    family: Literal["emotion-llama"] = "emotion-llama"
    features: EmotionLlamaFeatures = EmotionLlamaFeatures()
    layout: Literal["train_consistent", "official_eval", "chat"] = "train_consistent"
    """Place of embeddings in the prompt of training and of this run's own answers. official_eval is the layout of
    the official evaluation script, which differs from that of its training; chat is the chat template of the
    language model, for other models than LLaMA-2. Type: train_consistent | official_eval | chat.
    """
    template: str = TEMPLATE
    """Text around the instruction, behind the id that begins a sequence. Literal <s> and </s> become the ids of
    begin and end. Type: text with one {}.
    """
    end_sym: str = END
    """Text that ends an answer. Type: text. Default: ..., which becomes the end id of any tokenizer."""

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("the template needs exactly one {} where the instruction goes")
        return template

    @property
    def text_only(self) -> bool:
        """Say whether the model reads the transcript alone."""
        return self.features.tokens is None and not self.features.streams

    @property
    def around(self) -> str:
        """Text around an instruction on which answers depend."""
        return self.template

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features that are read, in the order of the recipe."""
        return tuple(name for name in (self.features.tokens, *self.features.streams) if name)

    def with_features(self, names: Mapping[str, str]) -> Self:
        """Return the recipe with features renamed: old name -> new name."""
        tokens, streams = self.features.tokens, self.features.streams
        new = {"tokens": names.get(tokens, tokens) if tokens else None}
        new |= {"streams": tuple(names.get(each, each) for each in streams)}
        return self.model_copy(update={"features": self.features.model_copy(update=new)})

    def features_flag(self, names: Sequence[str]) -> str:
        """Return the `--set` flags that choose these features, for a message."""
        return f"--set features.tokens=... --set 'features.streams=[...]', with names such as {names[0]}"


class EmotionLlamaFamily(Family):
    """Image tokens of EVA, utterance vectors of face, video and audio, on LLaMA-2 or another causal language model."""

    name: ClassVar[str] = "emotion-llama"
    Recipe: ClassVar[type[TuneRecipe]] = EmotionLlamaRecipe
    layouts: ClassVar[tuple[str, ...]] = (*LAYOUTS, CHAT)
    official_layout: ClassVar[str] = "official_eval"
    settings: ClassVar[Mapping[str, str]] = {
        "max_txt_len": "max_txt_len",
        "end_sym": "end_sym",
        "prompt_template": "template",
    }
    weights: ClassVar[Mapping[str, Source]] = WEIGHTS

    def wanted(self, recipe: Any) -> tuple[Wanted, ...]:
        """Return image tokens first, where there are any, then the streams."""
        tokens = recipe.features.tokens
        streams = tuple(Wanted("stream", name, "utt") for name in recipe.features.streams)
        return (*([Wanted("tokens", tokens, "tokens")] if tokens else []), *streams)

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
        """Return the model with projections of the specs' widths."""
        from emo.train.llm.emotion_llama.model import EmotionLlama, Widths

        tokens = next((spec for spec in specs if spec.level == "tokens"), None)
        widths = Widths.from_specs(tokens, [spec for spec in specs if spec is not tokens])
        return EmotionLlama(llm, tokenizer, widths, lora, source, seed)

    def instruction(self, recipe: Any, task: str, text: str, transcript: str) -> str:
        """Return the user's turn as the official dataset writes it."""
        return instruction(task, text, transcript, media=not recipe.text_only)

    def prompt(self, recipe: Any, instruction: str, tokenizer: Tokenizer, layout: str) -> Prompt:
        """Return an instruction as ids and slots, in a layout."""
        return build_prompt(layout, instruction, tokenizer, template=recipe.template)

    def answer_ids(self, recipe: Any, answer: str, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of an answer and its end symbol."""
        return encode_answer(answer, tokenizer, recipe.max_txt_len, recipe.end_sym)

    def import_official(self, path: Path, model: Any, allow_new: bool = False) -> ImportReport:
        """Load an official .pth file."""
        from emo.train.llm.emotion_llama.checkpoint import import_official

        _check_llama2(model)
        return import_official(path, model, allow_new)

    def export_official(self, model: Any, recipe: Any, path: Path) -> None:
        """Write an official .pth file."""
        from emo.train.llm.emotion_llama.checkpoint import export_official

        _check_llama2(model)
        settings = {theirs: getattr(recipe, ours) for theirs, ours in self.settings.items()}
        export_official(model, path, settings | {"chat_template": recipe.template != BARE})

    def trained_otherwise(self, recipe: Any, settings: Mapping[str, Any]) -> list[str]:
        """Return what differs, the order of streams and the template among it, which a training may have left out."""
        told = list[str]()
        official = EmotionLlamaFeatures().streams
        if any(
            name in official and official.index(name) != place for place, name in enumerate(recipe.features.streams)
        ):
            told.append(
                f"Published checkpoints have projections of {', '.join(official)}, in this order; the recipe has "
                f"features.streams {', '.join(recipe.features.streams)}."
            )
        bare = not settings.get("chat_template", True)
        if bare:  # then its prompt_template was not used
            settings = {name: value for name, value in settings.items() if name != "prompt_template"}
        told += super().trained_otherwise(recipe, settings)
        if bare and recipe.template != BARE:
            told.append(
                "The checkpoint was trained with chat_template False, which is template '{}' here, the recipe has "
                f"template {recipe.template!r}."
            )
        return told

    def clean_answer(self, text: str, task: str) -> str:
        """Return an annotated answer as the official processor leaves it; a number keeps its point."""
        return text.strip() if task == "valence" else process_answer(text)

    def answer_text(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """Return what a model answered, from the ids it generated."""
        return answer_text(ids, tokenizer)


def _check_llama2(model: TunedModel) -> None:
    """Refuse a model on which the official code could not go on."""
    kind, ids = model.llm.config.model_type, model.tokenizer.vocab_size
    if kind != "llama" or ids > LLAMA2_IDS:
        raise ModelError(
            f"Official checkpoints are of LLaMA-2, and the language model {model.source} is not: {kind}, {ids} ids.",
            "Use the form adapter or merged for other language models.",
        )
