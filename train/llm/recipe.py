"""Recipes of LLM tuning: every key, its type and its bounds. The commented files in `recipes/` say what each means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from emo.train.features import Missing
from emo.train.heads.folds import FoldBy
from emo.train.keys import Keys, Recipe

Task = Literal["emotion", "reason", "reason_v2", "description"]
TASKS: tuple[Task, ...] = ("emotion", "reason", "reason_v2", "description")
Policy = Literal["official", "strict", "nearest", "likelihood"]
CLIPS = "clips"  # data source: the labels that the dataset's own clips carry

# Emotion-LLaMA, minigpt4/datasets/datasets/first_face.py:78, in index order
EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise", "fear", "contempt", "doubt")
# What each task's answer is called in MERR's JSON files (first_face.py:84-92; `pseu_emotion` is its label).
FIELDS: Mapping[Task, str] = {
    "emotion": "pseu_emotion",
    "reason": "caption",
    "reason_v2": "smp_reason_caption",
    "description": "caption",
}


class FeatureKeys(Keys):
    """What the language model is conditioned on."""

    tokens: str | None = None
    streams: tuple[str, ...] = ()


class SourceKeys(Keys):
    """One annotation file; `field` is the JSON key that holds the answer."""

    file: str = Field(min_length=1)
    field: str | None = None


def _source(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


Source = Annotated[SourceKeys, BeforeValidator(_source)]


class DataKeys(Keys):
    """Where the answers of each task come from, and transcripts beside the dataset's own."""

    emotion: tuple[Source, ...] = ()
    reason: tuple[Source, ...] = ()
    reason_v2: tuple[Source, ...] = ()
    description: tuple[Source, ...] = ()
    transcripts: tuple[str, ...] = ()
    language: str = "english"

    @field_validator("reason", "reason_v2", "description")
    @classmethod
    def _texts(cls, sources: tuple[SourceKeys, ...]) -> tuple[SourceKeys, ...]:
        if wrong := [source.file for source in sources if not source.file.lower().endswith(".json")]:
            raise ValueError(f"texts are read from .json files, not from {', '.join(wrong)}")
        return sources


class LoraKeys(Keys):
    """The adapter."""

    r: int = Field(default=64, ge=1)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)


class ValidationKeys(Keys):
    """What is measured during training, and what decides the best checkpoint."""

    split: str | None = None
    holdout: float = Field(default=0.1, ge=0, le=0.5)
    fold_by: FoldBy = "speaker"
    every: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    metric: Literal["f1_weighted", "f1_macro", "accuracy", "uar"] = "f1_weighted"
    answers: Policy = "official"


class CheckpointKeys(Keys):
    """When the state of the training is kept."""

    every_steps: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)


class DecodeKeys(Keys):
    """How answers are generated."""

    max_new_tokens: int = Field(default=500, ge=1)
    batch_size: int = Field(default=16, ge=1)


class TuneRecipe(Recipe):
    """Keys of tuning a language model on cached features."""

    makes: ClassVar[str] = "tune"
    kind: Literal["tune"] = "tune"
    name: str = "tune"
    family: str
    llm: str = Field(default="llama", min_length=1)
    quantise: Literal["nf4"] | None = None
    init_from: str | None = None
    init_new_projections: bool = False
    features: FeatureKeys = FeatureKeys()
    layout: str = "chat"
    template: str = "{}"
    end_sym: str = "</s>"
    max_txt_len: int = Field(default=1024, ge=1)
    tasks: dict[Task, Annotated[float, Field(ge=0)]] = Field(default={"emotion": 1.0}, validate_default=True)
    prompts: dict[Task, tuple[str, ...]] = Field(default_factory=dict)
    labels: tuple[str, ...] = Field(default=EMOTIONS, min_length=2)
    score_labels: tuple[str, ...] | None = None
    data: DataKeys = DataKeys()
    train_splits: tuple[str, ...] | None = None
    missing: Missing = "error"
    missing_transcript: Literal["empty", "skip", "error"] = "empty"
    lora: LoraKeys = LoraKeys()
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    lr: float = Field(default=1e-5, gt=0)
    min_lr: float = Field(default=1e-6, ge=0)
    warmup_lr: float = Field(default=1e-6, ge=0)
    warmup_steps: int = Field(default=1000, ge=0)
    schedule: Literal["official", "cosine", "constant"] = "official"
    weight_decay: float = Field(default=0.05, ge=0)
    epochs: int = Field(default=30, ge=1)
    steps_per_epoch: int | None = Field(default=1000, ge=1)
    batch_size: int = Field(default=1, ge=1)
    accumulate: int = Field(default=1, ge=1)
    sort_by_length: bool = True
    length_pool: int = Field(default=1, ge=1)
    recompute: bool = False
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    grad_clip: float | None = Field(default=None, gt=0)
    validation: ValidationKeys = ValidationKeys()
    checkpoint: CheckpointKeys = CheckpointKeys()
    decode: DecodeKeys = DecodeKeys()
    log_every: int = Field(default=10, ge=1)
    tensorboard: bool = False
    seed: int = Field(default=42, ge=0)

    @field_validator("tasks")
    @classmethod
    def _weights(cls, tasks: dict[Task, float]) -> dict[Task, float]:
        if not any(tasks.values()):
            raise ValueError("at least one task needs a weight above 0")
        return tasks

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("the template needs exactly one {} where the instruction goes")
        return template

    @field_validator("labels", "score_labels")
    @classmethod
    def _labels(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (len(set(labels)) < len(labels) or any(label != label.lower() for label in labels)):
            raise ValueError("labels must be different lower-case words")
        return labels

    @model_validator(mode="after")
    def _whole(self) -> TuneRecipe:
        problems = []
        for task in self.active:
            if not self.prompts.get(task):
                problems.append(f"prompts.{task}: a task with a weight needs at least one instruction")
            if not getattr(self.data, task):
                problems.append(f"data.{task}: a task with a weight needs at least one source")
        if not self.prompts.get("emotion"):
            problems.append("prompts.emotion: scoring asks the first of these, so there must be one")
        if self.min_lr > self.lr:
            problems.append("min_lr: is above lr")
        if self.parallel == "fsdp" and self.quantise:
            problems.append("parallel: fsdp cannot share a quantised language model, so leave out one of the two")
        if self.parallel == "fsdp" and self.compile:
            problems.append("compile: is for layers that are whole on every card, so leave it out with parallel: fsdp")
        if strange := sorted(set(self.score_labels or ()) - set(self.labels)):
            problems.append(f"score_labels: {', '.join(strange)} not among labels")
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @property
    def active(self) -> tuple[Task, ...]:
        """Tasks with a weight, in the order of `TASKS`."""
        return tuple(task for task in TASKS if self.tasks.get(task))

    @property
    def scored(self) -> tuple[str, ...]:
        """The words that an answer may be when it is scored."""
        return self.score_labels or self.labels

    @property
    def text_only(self) -> bool:
        """Whether the model reads the transcript alone."""
        return self.features.tokens is None and not self.features.streams

    @property
    def title(self) -> str:
        """First part of a run's name where the user gives none."""
        return self.name

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features that are read, in the order of the recipe."""
        return tuple(name for name in (self.features.tokens, *self.features.streams) if name)

    def with_features(self, names: Mapping[str, str]) -> Self:
        """Return the recipe with features renamed: old name -> new name."""
        tokens, streams = self.features.tokens, self.features.streams
        renamed = {"tokens": names.get(tokens, tokens) if tokens else None}
        new = self.features.model_copy(update={**renamed, "streams": tuple(names.get(each, each) for each in streams)})
        return self.model_copy(update={"features": new})

    def features_flag(self, names: Sequence[str]) -> str:
        """Return the `--set` flags that choose these features, for a message."""
        return f"--set features.tokens=... --set 'features.streams=[...]', with names such as {names[0]}"
