"""Answers from cached features: free text by greedy generation, or the likelihood of every label word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from emo.featstore.clip import Clip
from emo.featstore.datasets.base import transcript_csv
from emo.featstore.errors import FeatureMissing, TrainError, UsageError
from emo.featstore.files import write_jsonl
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.train.answerer import Answerer
from emo.train.answers import Prediction, read_predictions
from emo.train.device import resolve_device
from emo.train.features import Missing
from emo.train.llm import checkpoint
from emo.train.llm.build import build
from emo.train.llm.data import Example, chunks, transcript_of
from emo.train.llm.distributed import ahead
from emo.train.llm.family import Wanted
from emo.train.llm.features import Features
from emo.train.llm.model import LoraArgs, TunedModel
from emo.train.llm.prompt import Prompt
from emo.train.llm.recipe import TASKS, TuneRecipe
from emo.train.llm.tokenizer import Tokenizer
from emo.train.metrics.labels import POLICIES
from emo.train.metrics.seen import trained_on
from emo.train.recipe import family_named, load_recipe
from emo.train.runs import DIGESTS, Run, load_run, seal
from emo.train.runs import check as check_files

DRAWN = ("tiny", "random")  # language models without a source: profiles of `build`
OnAnswer = Callable[[int, int], None]  # answered, of how many
Inputs = list[torch.Tensor]  # one per feature that the family wants


def make_prompt(model: TunedModel, recipe: TuneRecipe, task: str, text: str, transcript: str, layout: str) -> Prompt:
    """The prompt of one question; training and answering both come through here."""
    family = family_named(recipe.family)
    return family.prompt(recipe, family.instruction(recipe, task, text, transcript), model.tokenizer, layout)


def question(recipe: TuneRecipe, task: str, transcript: str, layout: str) -> str:
    """What a clip is asked, all words of it, as a hash: an answer to another question is no answer to this one."""
    words = family_named(recipe.family).instruction(recipe, task, recipe.prompts[task][0], transcript)  # type: ignore[index]
    return hashlib.blake2b(f"{layout}\0{recipe.template}\0{words}".encode(), digest_size=8).hexdigest()


def make_inputs(features: Features, names: Sequence[str]) -> Inputs:
    """Cached features of clips as tensors on the CPU: `(B, D)` or `(B, R, D)` each."""
    return [torch.from_numpy(each) for each in features.batch(names)]


def predict(
    model: TunedModel,
    features: Features,
    clips: Sequence[Example],
    recipe: TuneRecipe,
    policy: str = "official",
    task: str = "emotion",
    layout: str | None = None,
    on_progress: OnAnswer | None = None,
) -> list[dict[str, Any]]:
    """Ask about clips, with the first instruction of the task's pool.

    Args:
        model: On its device.
        features: That hold all these clips.
        clips: Name and transcript of each are used, nothing else.
        recipe: Prompts, labels and decoding limits.
        policy: `likelihood` gives the probability of every label of `recipe.scored`; all others generate greedily and
            keep the text as it came.
        task: What is asked.
        layout: Of the prompt; default the recipe's.
        on_progress: Called after every batch.

    Returns:
        `{"name", "asked", "answer", "probabilities"?}` in the order of `clips`; `asked` is the `question`.

    Raises:
        UsageError: Unknown policy, task or layout.
    """
    layout = layout or recipe.layout
    task = check_question(recipe, policy, task, layout)
    text = recipe.prompts[task][0]  # type: ignore[index]
    prompts = [make_prompt(model, recipe, task, text, clip.transcript, layout) for clip in clips]
    by_length = sorted(range(len(clips)), key=lambda i: (-model.length(prompts[i]), clips[i].name))
    rows: dict[int, dict[str, Any]] = {}
    parts = list(chunks(by_length, recipe.decode.batch_size))

    def load(number: int) -> Inputs:
        inputs = make_inputs(features, [clips[i].name for i in parts[number]])
        return [each.pin_memory() for each in inputs] if model.device.type == "cuda" else inputs

    with ahead(load, 0, len(parts)) as loaded:
        for number, inputs in loaded:
            part = parts[number]
            for i, row in zip(part, _answers(model, [prompts[i] for i in part], inputs, recipe, policy), strict=True):
                rows[i] = {"name": clips[i].name, "asked": question(recipe, task, clips[i].transcript, layout)} | row
            if on_progress is not None:
                on_progress(len(rows), len(clips))
    return [rows[i] for i in range(len(clips))]


def _answers(
    model: TunedModel, prompts: Sequence[Prompt], inputs: Inputs, recipe: TuneRecipe, policy: str
) -> Iterator[dict[str, Any]]:
    family = family_named(recipe.family)
    if policy != "likelihood":
        for ids in model.generate(prompts, inputs, recipe.decode.max_new_tokens):
            yield {"answer": family.answer_text(ids, model.tokenizer)}
        return
    words = [family.answer_ids(recipe, label, model.tokenizer) for label in recipe.scored]
    logprobs = model.label_logprobs(prompts, inputs, words)  # (B, L)
    for row in torch.softmax(logprobs.double(), dim=1).tolist():
        best = max(range(len(row)), key=row.__getitem__)
        yield {"answer": recipe.scored[best], "probabilities": dict(zip(recipe.scored, row, strict=True))}


# ---- runs -----------------------------------------------------------------------------------------------------------


def resolve_dtype(name: str, device: str) -> str:
    """`auto` is bf16 on a GPU that has it, else fp32."""
    if name != "auto":
        return name
    return "bf16" if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def start_model(source: str, features: Features, recipe: TuneRecipe, device: str) -> TunedModel:
    """The language model with fresh adapter and projections, fitted to the features in the store.

    Args:
        source: Folder, id or .gguf file of the language model; `tiny` or `random` for a model of that profile.
        features: Their specs give the widths.
        recipe: With `dtype` resolved.
        device: Torch device.
    """
    family = family_named(recipe.family)
    lora = LoraArgs(recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.targets)
    dtype = {"bf16": "bfloat16", "fp32": "float32"}[recipe.dtype]

    def make(llm: PreTrainedModel, tokenizer: Tokenizer, name: str) -> TunedModel:
        return family.assemble(llm, tokenizer, features.specs, lora, name, recipe.seed)

    profile = source if source in DRAWN else "paper"
    return build(make, None if source in DRAWN else source, dtype, device, profile, recipe.seed, recipe.quantise)


class TunedAnswerer(Answerer):
    """Answers of a tuned language model; new ones are added to the run folder."""

    evidence: ClassVar[tuple[str, ...]] = ("official", "likelihood")
    untrained_advice: ClassVar[str] = "Go on with it: --resume."

    def __init__(self, run: Run, device: str = "auto") -> None:
        run.require(TuneRecipe.makes, "a tuned language model")
        super().__init__(run, device)
        self._model: TunedModel | None = None

    @cached_property
    def recipe(self) -> TuneRecipe:
        """The run's recipe."""
        recipe: TuneRecipe = load_recipe(self.run.path / "recipe.yaml")
        return recipe

    @cached_property
    def _texts(self) -> dict[str, str]:
        return _transcripts(self.run, self.recipe)

    @property
    def missing(self) -> Missing:
        return "zeros" if self.recipe.missing == "zeros" else "skip"

    def check(self, policy: str, task: str, transcript: str | None = None) -> None:
        check_question(self.recipe, policy, task)

    def features(self, store: Any, names: Sequence[str], missing: Missing | None = None) -> Features:
        """Return the features of clips, found by the run's own fingerprints.

        Raises:
            FeatureMissing: The store lacks the features, or clips lack them and the policy is `error`.
        """
        specs = [(feature["role"], _spec(store, self.run, feature)) for feature in self.run.info["features"]]
        wanted = [Wanted(role, spec.key, spec.level) for role, spec in specs]
        return Features(store, wanted, names, missing or self.recipe.missing)

    def model(self, features: Features) -> TunedModel:
        """Return the tuned model, which is built at the first call; the features give its widths.

        Raises:
            ModelError: The language model or the adapter cannot be loaded.
            TrainError: The adapter is damaged.
        """
        if self._model is None:
            folder = self.run.path / self.run.info["checkpoint"]
            check_files(folder)
            source = self.run.info["llm"]["source"]
            model = start_model(source, features, self.recipe, resolve_device(self.device))
            checkpoint.load_adapter(model, folder)
            self._model = model
        return self._model

    def answer(
        self,
        store: Any,
        clips: Sequence[Clip],
        policy: str = "official",
        task: str = "emotion",
        keep: bool = True,
        missing: Missing | None = None,
        layout: str | None = None,
        on_progress: OnAnswer | None = None,
    ) -> dict[str, Prediction]:
        """Answer about clips, as `Answerer.answer` says.

        Args:
            store: May be `None` for a text-only run.
            clips: Names and transcripts are used.
            policy: See `predict`. All but `likelihood` share the same generated text.
            task: What is asked. `reason` means `reason_v2` to a run that was tuned on that and not on `reason`.
            keep: Take answers that the run has given before, and add the new ones to them. Not for clips whose
                transcript is another than their dataset's.
            missing: What to do about clips without features.
            layout: Of the prompt; default the run's own.
            on_progress: Called after every batch.
        """
        recipe = self.recipe
        task = check_question(recipe, policy, task, layout)
        path = predictions_path(self.run, policy, layout, task)
        said = {c.id: transcript_of(c, recipe.data.language) or self._texts.get(c.id, "") for c in clips}
        kept = _rows(path) if keep else {}
        asked = {name: question(recipe, task, words, layout or recipe.layout) for name, words in said.items()}
        # Answers that were given with zeros are asked for again: features may be there by now.
        known = {n for n, q in asked.items() if n in kept and kept[n].get("asked") == q and not kept[n].get("zeros")}
        if new := [clip.id for clip in clips if clip.id not in known]:
            features = self.features(store, new, missing)
            readable = set(features.names)
            if examples := [Example(name, said[name]) for name in new if name in readable]:
                model = self.model(features)
                rows = predict(model, features, examples, recipe, policy, task, layout, on_progress)
                trained, zeroed = trained_on(self.run).clips, set(features.zeroed)
                for row in rows:
                    zeros = {"zeros": True} if row["name"] in zeroed else {}
                    kept[row["name"]] = row | {"trained": row["name"] in trained} | zeros
                if keep:
                    write_jsonl(path, list(kept.values()))
                    if (self.run.path / DIGESTS).exists():
                        seal(self.run.path, path.name)
                known |= readable
        found = {clip.id: kept[clip.id] for clip in clips if clip.id in known}
        return {name: Prediction(row["answer"], None, row.get("probabilities")) for name, row in found.items()}

    def zeroed(self, policy: str, clip_ids: Sequence[str]) -> list[str]:
        rows = _rows(predictions_path(self.run, policy))
        return [name for name in clip_ids if rows.get(name, {}).get("zeros")]


def load_tuned(
    store: Store | None, run: Run | Path, names: Sequence[str], device: str = "auto", missing: Missing | None = None
) -> tuple[TunedModel, Features, TuneRecipe]:
    """A finished run's model, and the features of the clips to ask about, found by the run's own fingerprints.

    Raises:
        UsageError: The run is not finished, or is no tuned language model.
        FeatureMissing: The store lacks the features, or clips lack them and the policy is `error`.
        ModelError: The language model or the adapter cannot be loaded.
    """
    answerer = TunedAnswerer(load_run(run) if isinstance(run, Path) else run, device)
    features = answerer.features(store, names, missing)
    return answerer.model(features), features, answerer.recipe


def predictions_path(run: Run, policy: str, layout: str | None = None, task: str = "emotion") -> Path:
    """Where a run keeps its answers: generated text and likelihoods apart, other tasks and layouts than its own too."""
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


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a predictions file as they are, by name; nothing where there is none."""
    if not path.exists():
        return {}
    read_predictions(path)  # says what is wrong with it
    lines = path.read_text(encoding="utf-8").split("\n")
    return {row["name"]: row for row in map(json.loads, filter(None, lines))}


def _spec(store: Store | None, run: Run, feature: Mapping[str, Any]) -> EncoderSpec:
    if store is None:
        raise FeatureMissing(f"Run {run.name} needs {feature['key']}, and there is no store.", "Run emo extract.")
    spec = store.resolve(feature["key"])
    if spec.fingerprint != feature["fingerprint"]:
        raise TrainError(f"{feature['key']} in the store is not the feature that run {run.name} was trained on.")
    return spec


def _transcripts(run: Run, recipe: TuneRecipe) -> dict[str, str]:
    """Transcripts of the files that the recipe names, where they still are."""
    found: dict[str, str] = {}
    for file in set(recipe.data.transcripts) & set(run.info["files"]):  # an imported run may do without
        for name, said in transcript_csv(Path(run.info["files"][file])).items():
            found[name] = said.get(recipe.data.language) or said.get("text") or ""
    return found
