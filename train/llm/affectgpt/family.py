"""AffectGPT 2025 (MERTools, MER2025_Track23) as a family: its answers to the five questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from emo.featstore.sources.hub import Source
from emo.featstore.spec import EncoderSpec
from emo.train.keys import Keys
from emo.train.llm.affectgpt.prompt import (
    FRAME,
    LAYOUTS,
    PREFERENCE,
    SAME,
    SENTIMENT,
    SETTINGS,
    VALENCE,
    build_prompt,
    encode_answer,
    instruction,
    response,
    streams,
    words_of,
)
from emo.train.llm.family import Family, Wanted
from emo.train.llm.prompt import Prompt
from emo.train.llm.recipe import FeatureKeys, LoraKeys, TuneRecipe
from emo.train.llm.tokenizer import Tokenizer
from emo.train.metrics.words import split_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emo.train.llm.checkpoint import ImportReport
    from emo.train.llm.model import LoraArgs, TunedModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS = {"qwen2.5": Source("Qwen2.5 7B instruct, AffectGPT's language model", hub="Qwen/Qwen2.5-7B-Instruct")}


class AffectGptFeatures(FeatureKeys):
    """Features of eight rows each; the setting says which of them are read."""

    face: str | None = "clip-vit-large-patch14-affectgpt-FRA"
    """CLIP on eight faces. Type: name, or null."""
    frame: str | None = None
    """CLIP on eight frames, as wide as face. Type: name, or null."""
    audio: str | None = "chinese-hubert-large-affectgpt-FRA"
    """HuBERT on eight windows of two seconds. Type: name, or null."""
    image: str | None = None
    """CLIP on one picture, as wide as face. Type: name, or null."""


class AffectGptLora(LoraKeys):
    """The adapter."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, gt=0)
    targets: tuple[str, ...] = Field(default=TARGETS, min_length=1)


class TokenKeys(Keys):
    """Rows that each place of a prompt takes; more than one repeat the same vector."""

    video: int = Field(default=1, ge=1)
    """Rows of faces, and of frames. Type: whole number. Default: ... (official)."""
    audio: int = Field(default=1, ge=1)
    """Rows of sound. Type: whole number. Default: ... (official)."""
    multi: int = Field(default=1, ge=1)
    """Rows of sound and video merged. Type: whole number. Default: ... (official)."""
    image: int = Field(default=1, ge=1)
    """Rows of a picture. Type: whole number. Default: ... (official)."""


class AffectGptRecipe(TuneRecipe):
    """Keys of tuning AffectGPT."""

    family: Literal["affectgpt"] = "affectgpt"
    llm: str = Field(default="qwen2.5", min_length=1)
    setting: str = "multiface_audio_face_text"
    """Which clauses a prompt has, and so which features are read: face_or_frame of the reference. Type: name of one
    of its 15 settings.
    """
    features: AffectGptFeatures = AffectGptFeatures()
    tokens: TokenKeys = TokenKeys()
    """Rows of the places of a prompt. Type: table."""
    layout: Literal["train_consistent", "official_eval"] = "train_consistent"
    """Place of embeddings in the prompt of training and of this run's own answers. official_eval has no begin id, as
    the official inference, which differs in that from its training. Type: train_consistent | official_eval.
    """
    lora: AffectGptLora = AffectGptLora()

    @model_validator(mode="after")
    def _features(self) -> Self:
        if self.setting not in SETTINGS:
            raise ValueError(f"setting: there is no {self.setting!r}; there are {', '.join(SETTINGS)}")
        if lacking := [name for name in streams(self.setting) if getattr(self.features, name) is None]:
            raise ValueError(f"features.{lacking[0]}: setting {self.setting} reads it, so it needs a name")
        return self

    @property
    def text_only(self) -> bool:
        """Say whether the model reads the transcript alone."""
        return not streams(self.setting)

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features that are read."""
        return tuple(getattr(self.features, name) for name in streams(self.setting))

    def with_features(self, names: Mapping[str, str]) -> Self:
        """Return the recipe with features renamed: old name -> new name."""
        given = {name: getattr(self.features, name) for name in streams(self.setting)}
        new = self.features.model_copy(update={name: names.get(each, each) for name, each in given.items()})
        return self.model_copy(update={"features": new})

    def features_flag(self, names: Sequence[str]) -> str:
        """Return the `--set` flags that choose these features, for a message."""
        return " ".join(f"--set features.{name}=..." for name in streams(self.setting)) + f", as {names[0]}"


class AffectGptFamily(Family):
    """CLIP on faces and HuBERT on sound, weighted sums over time, and Qwen2.5 with LoRA on all its linear layers."""

    name: ClassVar[str] = "affectgpt"
    Recipe: ClassVar[type[TuneRecipe]] = AffectGptRecipe
    layouts: ClassVar[tuple[str, ...]] = LAYOUTS
    official_layout: ClassVar[str] = "official_eval"
    weights: ClassVar[Mapping[str, Source]] = WEIGHTS
    settings: ClassVar[Mapping[str, str]] = {"max_length": "max_txt_len", "face_or_frame": "setting"}

    def wanted(self, recipe: Any) -> tuple[Wanted, ...]:
        """Return the features of the setting."""
        return tuple(Wanted(name, getattr(recipe.features, name), "tokens") for name in streams(recipe.setting))

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
        """Return the model with the fusion and the projections that the setting needs."""
        from emo.train.llm.affectgpt.model import AffectGpt, Widths

        widths = Widths.from_specs(recipe.setting, specs, recipe.tokens.model_dump())
        return AffectGpt(llm, tokenizer, widths, lora, source, seed)

    def instruction(self, recipe: Any, task: str, text: str, transcript: str) -> str:
        """Return the whole prompt of the setting as text."""
        return instruction(recipe.setting, text, transcript)

    def prompt(self, recipe: Any, instruction: str, tokenizer: Tokenizer, layout: str) -> Prompt:
        """Return a prompt as ids and slots, in a layout."""
        return build_prompt(layout, recipe.setting, instruction, tokenizer, recipe.decode.max_new_tokens)

    def answer_ids(self, recipe: Any, answer: str, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of an answer, `###` and the end id."""
        return encode_answer(answer, tokenizer, recipe.max_txt_len)

    def import_official(self, path: Path, model: Any, allow_new: bool = False) -> ImportReport:
        """Load an official .pth file."""
        from emo.train.llm.affectgpt.checkpoint import import_official

        return import_official(path, model)

    def export_official(self, model: Any, recipe: Any, path: Path) -> None:
        """Write an official .pth file."""
        from emo.train.llm.affectgpt.checkpoint import export_official

        export_official(model, path, {theirs: getattr(recipe, ours) for theirs, ours in self.settings.items()})

    def trained_otherwise(self, recipe: Any, settings: Mapping[str, Any]) -> list[str]:
        """Return what differs, the rows of each place among it."""
        here = {f"num_{name}_query_token": rows for name, rows in recipe.tokens.model_dump().items()}
        return super().trained_otherwise(recipe, settings) + [
            f"The checkpoint was trained with {name} {settings[name]}, the recipe has {rows}: tokens."
            for name, rows in here.items()
            if settings.get(name, rows) != rows
        ]

    def clean_answer(self, text: str, task: str) -> str:
        """Return words as the reference's sentence about them, and texts as they are."""
        if task == "ovlabel":
            return FRAME.format(", ".join(split_words(text)) or "neutral")
        if task == "valence":
            return VALENCE.format(float(text))
        if task == "sentiment":
            return SENTIMENT.format(text.strip())
        if task == "preference":
            return SAME if text == "same" else PREFERENCE.format(text)
        return FRAME.format(text.strip()) if task == "emotion" else text.strip()

    def answer_text(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """Return what a model answered, without the sentence around words."""
        return words_of(response(ids, tokenizer))
