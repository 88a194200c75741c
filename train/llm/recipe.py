"""Recipes of LLM tuning: every key, its type, its bounds and what it means."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from emo.featstore.labels import MERR_LABELS
from emo.train.features import Missing
from emo.train.heads.folds import FoldBy
from emo.train.keys import Keys, Recipe

Task = Literal["emotion", "reason", "reason_v2", "description", "ovlabel", "valence", "sentiment", "preference"]
TASKS: tuple[Task, ...] = get_args(Task)
Policy = Literal["official", "strict", "nearest", "likelihood"]
CLIPS = "clips"  # data source: the labels that the dataset's own clips carry
RECORDS = "annotations"  # data source: records of `emo annotate run`; with @ and a fingerprint where there are several

# What each task's answer is called in MERR's JSON files (first_face.py:84-92; `pseu_emotion` is its label).
FIELDS: Mapping[Task, str] = {
    "emotion": "pseu_emotion",
    "reason": "caption",
    "reason_v2": "smp_reason_caption",
    "description": "caption",
    "ovlabel": "openset",  # MERTools' tables of open-vocabulary labels
    "valence": "valence",
    "sentiment": "valence",  # of which it is the sign
    "preference": "preference",
}


class FeatureKeys(Keys):
    """Features that the language model is conditioned on; which there are is the family's matter."""


class SourceKeys(Keys):
    """One annotation file; `field` is the JSON key that holds the answer."""

    file: str = Field(min_length=1)
    """An annotation file, clips, or annotations. Type: text."""

    @property
    def record(self) -> str:
        """Name of the records in the store, where the source is no file; else empty."""
        name, at, fingerprint = self.file.partition("@")
        return f"annotation{at}{fingerprint}" if name == RECORDS else ""

    field: str | None = None
    """Key of a .json that holds the answer; null: MERR's. Type: text, or null."""


def _source(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


Source = Annotated[SourceKeys, BeforeValidator(_source)]


class DataKeys(Keys):
    """Sources of the answers of each task, and transcripts beside the dataset's own."""

    emotion: tuple[Source, ...] = ()
    """The dataset's own labels (clips), a list or table of labels (.txt, .csv, .npz#split), a MERR .json, or
    annotations: the records of emo annotate run. Type: list of sources.
    """
    reason: tuple[Source, ...] = ()
    """Texts of a MERR .json, of its key caption; of a .csv, of the column that field names; or annotations. Type: list
    of sources.
    """
    reason_v2: tuple[Source, ...] = ()
    """Texts of a MERR .json, of its key smp_reason_caption; or annotations. Type: list of sources."""
    description: tuple[Source, ...] = ()
    """Texts of a MERR .json, of its key caption; or of a .csv, of the column that field names. Type: list of sources.
    """
    ovlabel: tuple[Source, ...] = ()
    """Words of an open vocabulary: the column openset of a .csv, or a key of a .json. Type: list of sources."""
    valence: tuple[Source, ...] = ()
    """Numbers: the dataset's own valences (clips), or a list or table of labels with them. Type: list of sources."""
    sentiment: tuple[Source, ...] = ()
    """Signs of the same numbers, as positive, negative and neutral (0). Type: list of sources."""
    preference: tuple[Source, ...] = ()
    """Better of two descriptions: a .csv of name, a1, a2 and preference (a1, a2 or same), a row per clip. {a1} and {a2}
    in its instruction are the descriptions. Type: list of sources.
    """
    transcripts: tuple[str, ...] = ()
    """csv files for clips whose dataset has none. Type: list of files."""
    language: str = "english"
    """Which transcript. Type: text."""

    def key_of(self, name: str) -> str:
        """Return the key that names a file, such as `data.emotion`; the first one where several do."""
        for task in TASKS:
            if any(name.partition("#")[0] == each.file.partition("#")[0] for each in getattr(self, task)):
                return f"data.{task}"
        return "data.transcripts"

    def files(self) -> tuple[str, ...]:
        """Return the files among the sources, each once, without the parts that are meant of them."""
        sources = [each for task in TASKS for each in getattr(self, task) if not each.record]
        named = [each.file for each in sources] + list(self.transcripts)
        return tuple(dict.fromkeys(file.partition("#")[0] for file in named if file != CLIPS))

    @field_validator("reason", "reason_v2", "description", "ovlabel")
    @classmethod
    def _texts(cls, sources: tuple[SourceKeys, ...]) -> tuple[SourceKeys, ...]:
        good = (".json", ".csv")
        if wrong := [each.file for each in sources if not each.record and not each.file.lower().endswith(good)]:
            raise ValueError(f"texts are read from .json and .csv files, not from {', '.join(wrong)}")
        return sources


class LoraKeys(Keys):
    """The adapter."""

    r: int = Field(default=64, ge=1)
    """Rank. Type: whole number. Default: ... (official)."""
    alpha: int = Field(default=16, gt=0)
    """Scale, as alpha / r. Type: whole number. Default: ... (official)."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """On the adapter's input. Type: number from 0 to 1. Default: ... (official)."""
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    """Layers that get an adapter. Type: list of names. Default: ... (official)."""


class ValidationKeys(Keys):
    """Measures during training, and the choice of the best checkpoint."""

    split: str | None = None
    """A split of the dataset (a test list is possible, and every score of the run says so); null: the part holdout
    of the labelled clips that would be trained on. Type: name, or null.
    """
    holdout: float = Field(default=0.1, ge=0, le=0.5)
    """Part that is held out. Type: number from 0 to 0.5."""
    fold_by: FoldBy = "speaker"
    """speaker: whole speakers, dialogues or sessions are held out where they are known; random: single clips. Type:
    speaker | random.
    """
    every: int | None = Field(default=None, ge=1)
    """Steps between validations, null: an epoch. Type: whole number, or null."""
    limit: int | None = Field(default=None, ge=1)
    """How many clips, at most; null: all. Type: whole number, or null."""
    metric: Literal["f1_weighted", "f1_macro", "accuracy", "uar"] = "f1_weighted"
    """Measure that chooses the checkpoint. Type: f1_weighted | f1_macro | accuracy | uar."""
    answers: Policy = "official"
    """Policy by which an answer becomes a label. Type: official | strict | nearest | likelihood."""


class CheckpointKeys(Keys):
    """When the state of the training is kept."""

    every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints, null: an epoch. Type: whole number, or null."""
    keep: int = Field(default=2, ge=1)
    """How many to keep, the best one always. Type: whole number."""


class DecodeKeys(Keys):
    """How answers are generated."""

    max_new_tokens: int = Field(default=500, ge=1)
    """Length of a generated answer, at most. Type: whole number."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts answered together: in LLaMA-2-7B each takes 0.2 GiB of a GPU, 0.4 with an answer of full length; 128
    and more are fastest where they fit. Type: whole number.
    """


class TuneRecipe(Recipe):
    """Keys of tuning a language model on cached features."""

    makes: ClassVar[str] = "tune"
    kind: Literal["tune"] = "tune"
    """Tuning a language model, in contrast to a head. Type: tune."""
    name: str = "tune"
    """Name of this recipe in run.json. Type: text."""
    family: str
    """The published model whose prompts, trained parts and checkpoints these are. Type: name of a family."""
    llm: str = Field(default="llama", min_length=1)
    """The frozen language model: a name under [weights] in emo.toml, a folder, a .gguf file, a Hugging Face id; or
    tiny (small random weights, for tests), or random (LLaMA-2-7B's sizes with random weights, for measuring speed).
    Type: text.
    """
    quantise: Literal["nf4"] | None = None
    """nf4 keeps the linear layers of the language model in 4 bits, for cards of 24 GB. It needs the package
    bitsandbytes (emo's extra nf4), a CUDA device, or a CPU to try it on, and an llm with full weights: a folder or
    an id. What is tuned is an adapter to the quantised model, which cannot be merged. Type: nf4, or null.
    """
    init_from: str | None = None
    """Adapter and projections to start from: an official .pth file, or a name of one under [weights]; a run, or its
    name; an adapter folder. null: fresh ones. Type: text, or null.
    """
    init_new_projections: bool = False
    """Let the projections of streams and CLS be fresh where the file has none: MiniGPT-v2's has none, those of
    Emotion-LLaMA have all. Type: true | false.
    """
    features: FeatureKeys = FeatureKeys()
    """Features that the model is conditioned on, by names in the store. Type: table."""
    standardise: bool = False
    """The model sees every stream with mean 0 and deviation 1 over the clips to train on, which it keeps. For small
    trainings: the values of a feature lie far from 0 and close together, and projections need long to find out. It does
    not go with init_from and official files. Type: true | false.
    """
    layout: str = "chat"
    """Place of embeddings in the prompt of training and of this run's own answers. Type: name of a layout of the
    family.
    """
    max_txt_len: int = Field(default=1024, ge=1)
    """Ids of an answer to keep, its end included. Type: whole number."""
    tasks: dict[Task, Annotated[float, Field(ge=0)]] = Field(default={"emotion": 1.0}, validate_default=True)
    """Weights of the tasks; each sample is asked one of those that its clip has an answer for. Type: table of
    emotion, reason, reason_v2, description, ovlabel, valence, sentiment, preference: number.
    """
    prompts: dict[Task, tuple[str, ...]] = Field(default_factory=dict)
    """Instructions of each task; training draws one, answering takes the first. emotion is asked by validation and
    score, reason by `emo predict --task reason`. Type: table of task: list of texts.
    """
    labels: tuple[str, ...] = Field(default=MERR_LABELS, min_length=2)
    """Emotion words that annotations may hold; any other is an error. Type: list of lower-case words. Default: the
    nine of Emotion-LLaMA.
    """
    score_labels: tuple[str, ...] | None = None
    """Words that an answer may be when it is scored, and among which policy likelihood chooses. Type: list, or null
    for all labels.
    """
    data: DataKeys = DataKeys()
    """Sources of the answers of each task. A source is written FILE, or {file: FILE, field: KEY}, which reads
    another key of it. Relative paths are looked up here and in the dataset's root. Clips that have no transcript
    in the dataset take that of the .json or of the annotations. Type: table.
    """
    train_splits: tuple[str, ...] | None = None
    """Splits to train on. null: all but those named test, val, dev, eval, held-out or the like; annotated clips
    that the dataset does not list are in no split and are trained on, unless column split of their table names
    one of these. Type: list of names, or null.
    """
    missing: Missing = "error"
    """Clips that lack one of the features. error: stop and list them; skip: leave them out; zeros: put zeros in
    their place. skip and zeros are recorded in the run with the clips' names. Type: error | skip | zeros.
    """
    missing_transcript: Literal["empty", "skip", "error"] = "empty"
    """Clips without a transcript. empty: an empty sentence (the official code writes the word nan); skip: train
    without them; error: stop and list them. Recorded in the run. Type: empty | skip | error.
    """
    lora: LoraKeys = LoraKeys()
    """The adapter. Type: table."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic and frozen weights. auto: bf16 on a GPU that has it, else fp32 (the official code: fp16). Adapter,
    projections and optimizer are always fp32. Type: auto | bf16 | fp32.
    """
    lr: float = Field(default=1e-5, gt=0)
    """Highest learning rate of AdamW. Type: number. Default: ... (stage 1)."""
    min_lr: float = Field(default=1e-6, ge=0)
    """Learning rate at the end of the cosine. Type: number."""
    warmup_lr: float = Field(default=1e-6, ge=0)
    """Learning rate at the beginning of the warmup. Type: number."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps of the warmup. Under schedule official no more than an epoch's, or it saw-tooths as the official one
    does. Type: whole number.
    """
    schedule: Literal["official", "cosine", "constant"] = "official"
    """official: cosine counted from step 0, warmup counted within the epoch; cosine: one warmup, then a cosine from
    its end; constant: one warmup, then lr. Type: official | cosine | constant.
    """
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of AdamW, on matrices only. Type: number."""
    epochs: int = Field(default=30, ge=1)
    """Epochs; an epoch is steps_per_epoch steps. Type: whole number."""
    steps_per_epoch: int | None = Field(default=1000, ge=1)
    """Optimizer steps that make an epoch; null: one pass over the data. Type: whole number, or null."""
    batch_size: int = Field(default=1, ge=1)
    """Samples in one forward pass. Type: whole number."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes per optimizer step, over all processes together; processes share them evenly. The loss is the
    mean over all supervised tokens of the step. Type: whole number.
    """
    sort_by_length: bool = True
    """Sort the samples of a step by length before they are cut into batches, which saves padding and changes
    nothing else. Type: true | false.
    """
    length_pool: int = Field(default=1, ge=1)
    """Steps whose samples are sorted together, and then taken in a random order: less padding where a step is one
    batch, but samples of like length share a step. 1: none. Type: whole number.
    """
    recompute: bool = False
    """Keep the input of every layer only, and compute the rest of its activations again in the backward pass
    (gradient checkpointing): half as much arithmetic again, a small part of the memory, and the same numbers.
    Section P7 of docs/benchmarks.md says which batch_size fits 24 and 16 GB with it and without, and with quantise:
    nf4. Type: true | false.
    """
    compile: bool = False
    """Compile the layers of the language model with torch.compile for training: fewer and larger kernels after a
    minute or so in which the first steps are slow. Dropout draws other numbers than without it; it does not go with
    parallel: fsdp. Type: true | false.
    """
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Sharing among several processes (torchrun). ddp: the batches of a step, each process with the whole language
    model; fsdp: its frozen layers too (FSDP2), for models that one card does not hold. fsdp loads the model into
    main memory first, once per process, and has every process answer all validation clips; it does not go with
    quantise. Type: ddp | fsdp.
    """
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of all gradients together. Type: number, or null for no clipping. Default: ... (official)."""
    validation: ValidationKeys = ValidationKeys()
    """Clips that are not trained on and choose the checkpoint by their decoded answers. Type: table."""
    checkpoint: CheckpointKeys = CheckpointKeys()
    """When the state of the training is kept. Type: table."""
    decode: DecodeKeys = DecodeKeys()
    """How answers are generated. Type: table."""
    log_every: int = Field(default=10, ge=1)
    """Steps between reports. Type: whole number."""
    tensorboard: bool = False
    """Tell TensorBoard what log.jsonl is told, in the run folder under tensorboard/. It needs the package
    tensorboard (emo's extra tensorboard). Type: true | false.
    """
    seed: int = Field(default=42, ge=0)
    """Seed of fresh weights, order, tasks, dropout and holdout. Type: whole number."""

    @field_validator("tasks")
    @classmethod
    def _weights(cls, tasks: dict[Task, float]) -> dict[Task, float]:
        if not any(tasks.values()):
            raise ValueError("at least one task needs a weight above 0")
        return tasks

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
        if self.standardise and self.init_from:
            problems.append("standardise: is for fresh projections, so leave it out with init_from")
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
    @abstractmethod
    def text_only(self) -> bool:
        """Say whether the model reads the transcript alone."""

    @property
    def around(self) -> str:
        """Text around an instruction on which answers depend, where the family has such a key."""
        return ""

    @property
    def title(self) -> str:
        """First part of a run's name where the user gives none."""
        return self.name

    def annotation_files(self) -> tuple[str, ...]:
        """Return the files that the training learns from, as the recipe names them."""
        return self.data.files()
