"""VideoLLaMA2.1-7B-AV (branch `audio_visual` of DAMO-NLP-SG/VideoLLaMA2): a family's answers to the five questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from emo.featstore.sources.hub import Source
from emo.featstore.spec import EncoderSpec
from emo.train.llm.family import Family, Wanted
from emo.train.llm.prompt import Prompt
from emo.train.llm.recipe import FeatureKeys, LoraKeys, TuneRecipe
from emo.train.llm.tokenizer import Tokenizer
from emo.train.llm.videollama2.prompt import LAYOUTS, build_prompt, encode_answer, instruction, response, tag_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emo.train.llm.checkpoint import ImportReport
    from emo.train.llm.model import LoraArgs, TunedModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS = {
    "videollama2": Source(
        "VideoLLaMA2.1 7B AV: language model, connector, projector of sound", hub="DAMO-NLP-SG/VideoLLaMA2.1-7B-AV"
    ),
    "qwen2": Source("Qwen2 7B instruct, which VideoLLaMA2.1 began as", hub="Qwen/Qwen2-7B-Instruct"),
}


class VideoLlama2Features(FeatureKeys):
    """Pictures and sound of a clip, both of level tokens."""

    video: str | None = "siglip-so400m-384-FRA"
    """Patches of SigLIP on sixteen frames, or those connected already. Type: name, or null."""
    audio: str | None = "beats-iter3-FRA"
    """BEATs on 30 s of sound. Type: name, or null."""


class VideoLlama2Lora(LoraKeys):
    """The adapter."""

    r: int = Field(default=128, ge=1)
    alpha: int = Field(default=256, gt=0)
    targets: tuple[str, ...] = Field(default=TARGETS, min_length=1)


class VideoLlama2Recipe(TuneRecipe):
    """Keys of tuning VideoLLaMA2.1."""

    family: Literal["videollama2"] = "videollama2"
    llm: str = Field(default="videollama2", min_length=1)
    features: VideoLlama2Features = VideoLlama2Features()
    frames: int = Field(default=16, ge=1)
    """Frames in the feature of pictures, whose rows are frames times patches. Type: whole number."""
    connector: Literal["stc_v35", "stc_v1", "none"] = "stc_v35"
    """From patches to rows of the language model. none: the feature of pictures is connected already, by the frozen
    connector of its own recipe; a third of the space, and nothing of it to train. Type: stc_v35 | stc_v1 | none.
    """
    learned: tuple[Literal["connector", "projector"], ...] = ("connector", "projector")
    """Parts that are trained beside the adapter: the connector of pictures, the projector of sound. Type: list of
    connector, projector.
    """
    repetition_penalty: float = Field(default=1.0, gt=0)
    """On ids that a generated answer holds already. The reference takes it from the model's generation_config.json,
    which says 1.05 for Qwen2-7B-Instruct. Type: number, 1.0 for none.
    """
    layout: Literal["train_consistent", "official_eval", "chat"] = "train_consistent"
    """Place of embeddings in the prompt of training and of this run's own answers. official_eval differs without
    pictures and sound only; chat is the chat template of the language model, for other models than Qwen2. Type:
    train_consistent | official_eval | chat.
    """
    lora: VideoLlama2Lora = VideoLlama2Lora()

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the features that are read, which are those of their places in a prompt."""
        return tuple(name for name in ("video", "audio") if getattr(self.features, name))

    @property
    def text_only(self) -> bool:
        """Say whether the model reads the transcript alone."""
        return not self.slots

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features that are read."""
        return tuple(getattr(self.features, name) for name in self.slots)

    def with_features(self, names: Mapping[str, str]) -> Self:
        """Return the recipe with features renamed: old name -> new name."""
        given = {name: getattr(self.features, name) for name in self.slots}
        new = self.features.model_copy(update={name: names.get(each, each) for name, each in given.items()})
        return self.model_copy(update={"features": new})

    def features_flag(self, names: Sequence[str]) -> str:
        """Return the `--set` flags that choose these features, for a message."""
        return f"--set features.video=... --set features.audio=..., with names such as {names[0]}"


class VideoLlama2Family(Family):
    """SigLIP on frames through a connector, BEATs on sound through a projector, and Qwen2 with LoRA."""

    name: ClassVar[str] = "videollama2"
    Recipe: ClassVar[type[TuneRecipe]] = VideoLlama2Recipe
    layouts: ClassVar[tuple[str, ...]] = LAYOUTS
    official_layout: ClassVar[str] = "official_eval"
    weights: ClassVar[Mapping[str, Source]] = WEIGHTS
    model_types: ClassVar[Mapping[str, str]] = {"videollama2_qwen2": "qwen2"}

    def wanted(self, recipe: Any) -> tuple[Wanted, ...]:
        """Return pictures, then sound, as far as the recipe names them."""
        return tuple(Wanted(name, getattr(recipe.features, name), "tokens") for name in recipe.slots)

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
        """Return the model with connector and projector for features of these sizes."""
        from emo.train.llm.videollama2.model import Sizes, VideoLlama2

        named = dict(zip(recipe.slots, specs, strict=True))
        sizes = Sizes.from_specs(named.get("video"), named.get("audio"), recipe.frames, recipe.connector)
        return VideoLlama2(llm, tokenizer, sizes, lora, source, seed, recipe.learned, recipe.repetition_penalty)

    def instruction(self, recipe: Any, task: str, text: str, transcript: str) -> str:
        """Return the user's turn: the tag, what is said, the question."""
        return instruction(text, transcript, tag_of("video" in recipe.slots, "audio" in recipe.slots))

    def prompt(self, recipe: Any, instruction: str, tokenizer: Tokenizer, layout: str) -> Prompt:
        """Return an instruction as ids and slots, in a layout."""
        return build_prompt(layout, instruction, tokenizer, recipe.slots)

    def answer_ids(self, recipe: Any, answer: str, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of an answer, the end id, and the newline that Qwen2 writes behind it."""
        return encode_answer(answer, tokenizer, recipe.max_txt_len)

    def import_official(self, path: Path, model: Any, allow_new: bool = False) -> ImportReport:
        """Load connector, projector and adapters from a released folder, a .bin of it, or an export."""
        from emo.train.llm.videollama2.checkpoint import import_official

        return import_official(path, model, allow_new)

    def export_official(self, model: Any, recipe: Any, path: Path) -> None:
        """Write a LoRA folder as the reference's own loader reads it, or its tensors as one file."""
        from emo.train.llm.videollama2.checkpoint import export_official

        export_official(model, path)

    def trained_otherwise(self, recipe: Any, settings: Mapping[str, Any]) -> list[str]:
        """Return what differs: frames where the recipe connects them, and the penalty, which the reference keeps."""
        connects = recipe.features.video and recipe.connector != "none"
        theirs = {"num_frames": "frames"} if connects else {}
        return [
            f"The checkpoint says {name} {settings[name]}, the recipe has {ours} {here}."
            for name, ours in (theirs | {"repetition_penalty": "repetition_penalty"}).items()
            if settings.get(name, here := getattr(recipe, ours)) != here
        ]

    def clean_answer(self, text: str, task: str) -> str:
        """Return an annotated answer without space around it."""
        return text.strip()

    def answer_text(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """Return what a model answered, from the ids it generated."""
        return response(ids, tokenizer)
