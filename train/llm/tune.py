"""Tune a language model on cached features: one flat loop on plain torch.

What a step does is a function of (recipe, data, step): which samples, in which batches, with which dropout. So a run
that was stopped goes on from its last checkpoint as if nothing had happened, bit by bit on a CPU, and several processes
share a step's batches without changing what is learned.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import write_atomic, write_json, write_jsonl
from emo.featstore.install import versions
from emo.featstore.storage.store import Store
from emo.train.answers import Prediction
from emo.train.features import media_of
from emo.train.llm.data import Features, Sample, Sampler, TaskMix, load_examples
from emo.train.llm.emotion_llama import checkpoint
from emo.train.llm.emotion_llama.model import Batch
from emo.train.llm.emotion_llama.prompt import encode_answer
from emo.train.llm.optim import adamw, learning_rate, set_lr
from emo.train.llm.predict import make_inputs, make_prompt, predict, predictions_path, resolve_dtype, start_model
from emo.train.llm.progress import Meter, Progress, Reporter, summary_writer
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.resume import FOLDER, Checkpoint, check_drift, checkpoints, load_moments, prune, save_checkpoint
from emo.train.llm.setup import (
    MFU_DEFINITION,
    base_parameters,
    describe,
    file_finder,
    find_source,
    flops_per_token,
    init_model,
    peak_flops,
    readable,
)
from emo.train.llm.shard import shard
from emo.train.llm.world import World, ahead, interruptible, own_device
from emo.train.metrics.labels import Score, score, too_few
from emo.train.recipe import load_recipe
from emo.train.runs import Run, load_run, split_counts, utc

_DROPOUT = 3  # stream of random numbers, apart from those of data.py
# They change nothing of what is learned: a run may go on with others.
FREE: dict[str, Any] = dict.fromkeys(("parallel", "recompute", "tensorboard", "log_every", "checkpoint"), True)
FREE["validation"] = {"fold_by"}  # who is held out is in the digest of the data


@dataclass(frozen=True)
class TuneResult:
    """What `tune` has left in the run folder.

    Attributes:
        run: The finished run.
        validation: Score of the validation clips at the checkpoint that was kept; `None` without validation.
        notes: Sentences that must stand beside any score of this run.
    """

    run: Run
    validation: Score | None
    notes: tuple[str, ...]


def tune(
    store: Store | None,
    clips: Sequence[Clip],
    recipe: TuneRecipe | None,
    run_dir: Path,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    *,
    weights: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
    resume: bool = False,
    force: Sequence[str] = (),
) -> TuneResult:
    """Tune a language model on the answers that a recipe names, reading nothing but the store.

    Args:
        store: Where the features lie; `None` for a text-only recipe.
        clips: The dataset's: labels, splits, transcripts.
        recipe: From `load_recipe`; `None` with `resume` takes the run's own.
        run_dir: Run folder, from `new_run`, or the one to go on with.
        device: Torch device; `auto` is a GPU where there is one. With torchrun, every process has its own.
        on_progress: Called every `log_every` steps and after every validation.
        weights: The workspace's table of weights: what `llm` and `init_from` may name.
        roots: Folders in which annotation files are looked for, after the current one.
        resume: Go on from the newest checkpoint in `run_dir`.
        force: Differences to accept when going on: `recipe.lr`, `store`, `version`, ...

    Raises:
        UsageError: Recipe, clips or annotations cannot be used.
        FeatureMissing: Clips lack features and `recipe.missing` is `error`.
        ModelError: The language model or the weights to start from cannot be loaded.
        TrainError: The loss is not finite, or the run may not go on.
    """
    device = own_device(device)
    with World.join(device) as world:
        before = world.share(lambda: _check_folder(run_dir, resume))  # before the first process makes a run of it
        if recipe is None:
            if before is None:
                raise UsageError("There is no recipe to tune by.")
            recipe = load_recipe(run_dir / "recipe.yaml")
        if recipe.accumulate % world.size:
            raise UsageError(
                f"accumulate: {recipe.accumulate} batches per step cannot be shared by {world.size} processes.",
                f"Make it a multiple of {world.size}.",
            )
        recipe = recipe.model_copy(update={"dtype": resolve_dtype(recipe.dtype, device)})
        started = time.time()
        info: dict[str, Any] = {"schema": 1, "kind": "tune", "name": run_dir.name, "status": "running"}
        info |= {"recipe": recipe.name, "started_at": utc(started), "store": str(store.path) if store else None}
        if before is not None:
            kept = ("started_at", "imported", "resumed")
            info |= {key: before.info[key] for key in kept if key in before.info}

        def save(**more: Any) -> None:
            info.update(more)
            if world.rank == 0:
                write_json(run_dir / "run.json", info)

        run_dir.mkdir(parents=True, exist_ok=True)
        if before is None:
            save()
            if world.rank == 0:
                write_atomic(run_dir / "recipe.yaml", recipe.to_yaml())  # enough to go on from, whatever happens now
        begun = before is None
        try:
            training = Training(store, clips, recipe, run_dir, device, on_progress, weights or {}, roots, world, info)
            found = checkpoints(run_dir)
            if found:
                training.go_on(found[-1], force)
            else:
                training.begin(weights or {})
            begun = True
            save()
            validation = training.run()
        except BaseException as error:
            if begun:  # a run that may not go on stays as it was
                save(status="failed" if isinstance(error, Exception) else "interrupted", error=str(error))
            if isinstance(error, torch._dynamo.exc.TorchDynamoException):
                why = str(getattr(error, "inner_exception", error)).strip().split("\n")[0]
                raise TrainError(f"The layers cannot be compiled: {why}.", "Train without: compile=false.") from error
            raise
        save(status="finished", finished_at=utc(time.time()), duration_s=round(time.time() - started, 3))
    return TuneResult(Run(run_dir, info), validation, tuple(info["notes"]))


class Training:
    """One training: everything that is decided before the first step, and the loop.

    Attributes:
        step: Optimizer steps done.
        best: `{"step", "value"}` of the best validation so far.
        history: All validations so far.
    """

    def __init__(
        self,
        store: Store | None,
        clips: Sequence[Clip],
        recipe: TuneRecipe,
        run_dir: Path,
        device: str,
        on_progress: Callable[[Progress], None] | None,
        weights: Mapping[str, str],
        roots: Sequence[Path],
        world: World,
        info: dict[str, Any],
    ) -> None:
        self.recipe, self.run_dir, self.device, self.world, self.info = recipe, run_dir, device, world, info
        self.on_progress, self.store = on_progress, store
        if recipe.tensorboard:
            summary_writer()  # where it is missing, that is said now
        files: dict[str, str] = {}
        examples = load_examples(clips, recipe, file_finder(roots, files))
        names = [example.name for example in (*examples.train, *examples.validation)]
        self.features = Features(store, recipe.features, names, recipe.missing)
        self.examples = readable(examples, self.features)
        source = find_source(recipe.llm, weights)
        self.sharded = recipe.parallel == "fsdp" and world.size > 1
        self.model = start_model(source, self.features, recipe, "cpu" if self.sharded else device)
        if self.sharded:
            shard(self.model, device)
        self.model.train()
        if recipe.recompute:
            self.model.recompute()
        if recipe.compile:
            self.model.compile_layers()
        mix = TaskMix({task: recipe.tasks[task] for task in recipe.active}, recipe.prompts)
        self.sampler = Sampler(
            self.examples.train,
            mix,
            recipe.seed,
            recipe.batch_size,
            recipe.accumulate,
            recipe.sort_by_length,
            recipe.length_pool,
        )
        self.epoch_steps = recipe.steps_per_epoch or self.sampler.steps_per_pass
        self.steps = recipe.epochs * self.epoch_steps
        self.rate = learning_rate(recipe, self.epoch_steps)
        named = self.model.trainable()
        self.names = {parameter: name for name, parameter in named}
        self.parameters = [parameter for _, parameter in named]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer = adamw(named, recipe.lr, recipe.weight_decay)
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.history: list[dict[str, Any]] = []
        llm_parameters = base_parameters(self.model)
        peak = peak_flops(device)
        self.speed = (flops_per_token(self.model), peak * world.size if peak else None)  # FLOP/s there are
        self.identity = {
            "recipe": recipe.model_dump(mode="json", exclude=FREE),
            "store": store.id if store is not None and self.features.specs else None,
            "feature": {spec.name: spec.fingerprint for spec in self.features.specs},
            "data": self.examples.digest,
            "llm": {"source": source, "tokenizer": self.model.tokenizer.fingerprint, "parameters": llm_parameters},
            "version": versions() | {"torch": torch.__version__},
        }
        info |= describe(recipe, self.features, self.examples, source) | {
            "files": files,
            "splits": split_counts(
                clips,
                [example.name for example in self.examples.train],
                [example.name for example in self.examples.validation],
            ),
            "parameters": {"llm": llm_parameters, "trained": sum(each.numel() for each in self.parameters)},
            "steps": self.steps,
            "mfu": MFU_DEFINITION,
            "device": device,
            "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
            "processes": world.size,
            "versions": {"python": platform.python_version()} | versions("numpy", "torch", "transformers", "peft"),
        }

    def begin(self, weights: Mapping[str, str]) -> None:
        """Load what the recipe starts from."""
        self.info["imported"] = init_model(self.model, self.recipe, self.run_dir, weights)

    def go_on(self, newest: Checkpoint, force: Sequence[str]) -> None:
        """Take up a checkpoint.

        Raises:
            TrainError: Something has changed since that was not forced by name.
        """
        forced = check_drift(newest.state["identity"], self.identity, force, f"Run {self.run_dir.name}")
        checkpoint.load_adapter(self.model, newest.path)
        load_moments(newest.path, self.optimizer, self.names)
        self.step, self.best = newest.step, newest.state["best"]
        self.history = newest.state["history"]
        self.info["resumed"] = [
            *self.info.get("resumed", []),
            {"step": self.step, "at": utc(time.time()), "forced": [asdict(each) for each in forced]},
        ]

    def run(self) -> Score | None:
        """Train to the end; leave recipe, log, checkpoints, predictions and metrics in the run folder."""
        recipe, world = self.recipe, self.world
        if world.rank == 0:
            write_atomic(self.run_dir / "recipe.yaml", recipe.to_yaml())
            parts = {"train": self.examples.train, "validation": self.examples.validation}
            names = {part: [example.name for example in examples] for part, examples in parts.items()}
            media = media_of(self.store, {name for part in names.values() for name in part})
            write_json(self.run_dir / "clips.json", names | {"media": media})
        save_every = recipe.checkpoint.every_steps or self.epoch_steps
        validate_every = recipe.validation.every or self.epoch_steps
        told = (self.on_progress, recipe.tensorboard, recipe.validation.metric)
        reporter, meter = Reporter(self.run_dir, self.step, *told, silent=world.rank > 0), Meter()
        with ahead(self.load, self.step, self.steps) as windows, interruptible() as interrupted, reporter:
            for step, window in windows:
                lr = self.rate(step)
                loss, tokens, samples = self.take_step(step, window, lr)
                self.step = step + 1
                meter.add(loss, tokens, samples)
                last = self.step == self.steps
                if last or self.step % recipe.log_every == 0:
                    reporter.tell(self._progress(lr, **meter.take(self.steps - self.step, *self.speed)))
                    meter = Meter()
                before, answers, best = time.perf_counter(), None, False
                if self.examples.validation and (last or self.step % validate_every == 0):
                    answers, best, value = self._validate()
                    reporter.tell(self._progress(lr, metric=value, best=best))
                stop = world.any(interrupted())
                if best or last or stop or self.step % save_every == 0:
                    self._save(answers)
                meter.start += time.perf_counter() - before  # speed is that of the training alone
                if stop:
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step} of {self.steps}; go on with --resume {self.run_dir.name}"
                    )
        return self._finish()

    # ---- one step ----------------------------------------------------------------------------------------------------

    def load(self, step: int) -> list[tuple[int, list[Sample], Batch]]:
        """This process's batches of a step, with their number in the step; runs in a thread, one step ahead.

        Where the last window of a pass does not go round, a process of a sharded model gets another one's batch without
        its samples: to pass through the model as often as the others, and to learn nothing from it.
        """
        batches = list(enumerate(self.sampler.batches(step)))
        window = [(i, samples, self._collate(samples)) for i, samples in batches[self.world.rank :: self.world.size]]
        if self.sharded and len(window) * self.world.size < len(batches):
            window.append((0, [], self._collate(batches[0][1])))
        return window

    def _collate(self, samples: Sequence[Sample]) -> Batch:
        recipe, model = self.recipe, self.model
        prompts = [make_prompt(model, recipe, s.task, s.text, s.transcript, recipe.layout) for s in samples]
        answers = [encode_answer(s.answer, model.tokenizer, recipe.max_txt_len, recipe.end_sym) for s in samples]
        batch = model.collate(prompts, answers, *make_inputs(self.features, [s.name for s in samples]))
        return batch.pin_memory() if self.device.startswith("cuda") else batch

    def take_step(self, step: int, window: list[tuple[int, list[Sample], Batch]], lr: float) -> tuple[float, int, int]:
        """One optimizer step: mean loss over its supervised tokens, rows that are no padding, samples."""
        own = [(batch.supervised, batch.real_tokens, len(samples)) for _, samples, batch in window if samples]
        counts = torch.tensor([(0, 0, 0), *own]).sum(0).to(self.device)
        self.world.add([counts])
        supervised, tokens, seen = counts.tolist()
        losses = torch.zeros(len(window), device=self.device)
        for place, (i, samples, batch) in enumerate(window):
            torch.manual_seed(_dropout_seed(self.recipe.seed, step, i))
            loss, _ = self.model(batch.to(self.device))  # sum over the batch's supervised tokens
            loss = loss if samples else loss * 0
            (loss / supervised).backward()
            losses[place] = loss.detach()
        total = losses.sum()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.world.add([total, *gradients])
        norm = torch.nn.utils.get_total_norm(gradients)
        if not math.isfinite(float(total)) or not math.isfinite(float(norm)):
            self._stop(step, window, losses)
        if self.recipe.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.grad_clip, norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return float(total) / supervised, tokens, seen

    def _stop(self, step: int, window: list[tuple[int, list[Sample], Batch]], losses: torch.Tensor) -> None:
        rows = [
            {"name": sample.name, "finite": finite}
            for (_, samples, _), finite in zip(window, torch.isfinite(losses).tolist(), strict=True)
            for sample in samples
        ]
        rows = self.world.gather(rows)
        bad = [row["name"] for row in rows if not row["finite"]]
        what, names = ("loss", bad) if bad else ("gradient", [row["name"] for row in rows])
        kept = checkpoints(self.run_dir)
        raise TrainError(
            f"The {what} is not finite at step {step + 1}; the clips of the batch: {', '.join(names)}.",
            f"The last checkpoint is {kept[-1].path.name if kept else 'none'}. Look at the features and answers of "
            "these clips; or lower lr, or set grad_clip.",
        )

    # ---- reports -----------------------------------------------------------------------------------------------------

    def _progress(self, lr: float, loss: float | None = None, **more: Any) -> Progress:
        if loss is not None and self.device.startswith("cuda"):
            more["memory_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return Progress(self.step, self.steps, (self.step - 1) // self.epoch_steps, loss, lr, **more)

    def _validate(self) -> tuple[list[dict[str, Any]], bool, float]:
        """Answers about the validation clips, whether this is the best step so far, and the value that says so."""
        recipe, world = self.recipe, self.world
        # Of a sharded model every process must make all passes; the first one's answers are then everybody's.
        mine = self.examples.validation if self.sharded else self.examples.validation[world.rank :: world.size]
        rows = predict(self.model, self.features, mine, recipe, recipe.validation.answers)
        rows = world.gather([] if self.sharded and world.rank else rows)
        rows.sort(key=lambda row: row["name"])
        value = float(getattr(self._score(rows), recipe.validation.metric))
        best = self.best is None or value > self.best["value"]
        self.history.append({"step": self.step, recipe.validation.metric: value})
        if best:
            self.best = {"step": self.step, "value": value}
        return rows, best, value

    def _score(self, rows: Sequence[Mapping[str, Any]]) -> Score:
        truth = {example.name: Label(example.label) for example in self.examples.validation}
        said = {row["name"]: Prediction(row["answer"], None, row.get("probabilities")) for row in rows}
        return score(truth, said, self.recipe.validation.answers, self.recipe.scored)

    def _save(self, answers: list[dict[str, Any]] | None) -> None:
        if self.world.rank == 0:
            number, offset = self.sampler.position(self.step)
            state = {
                "schema": 1,
                "step": self.step,
                "steps": self.steps,
                "position": {"pass": number, "offset": offset},  # a function of step, as are learning rate and dropout
                "rng": {"seed": self.recipe.seed, "step": self.step},
                "best": self.best,
                "history": self.history,
                "identity": self.identity,
            }
            save_checkpoint(
                self.run_dir,
                state,
                lambda folder: checkpoint.save_adapter(self.model, folder),
                self.optimizer,
                self.names,
                answers,
            )
            self._prune()
        self.world.wait()

    def _prune(self) -> None:
        if self.world.rank == 0:
            prune(self.run_dir, self.recipe.checkpoint.keep, self.best["step"] if self.best else None)

    def _finish(self) -> Score | None:
        metric = self.recipe.validation.metric
        kept = f"{FOLDER}/step-{self.best['step'] if self.best else self.step:08d}"
        self.info |= {"checkpoint": kept, "best": self.best}
        self._prune()
        if not self.examples.validation:
            if self.world.rank == 0:
                write_json(self.run_dir / "metrics.json", {"select_by": None, "notes": self.info["notes"]})
            return None
        path = self.run_dir / kept / "validation.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        validation = self._score(rows)
        if few := too_few(validation.n):
            self.info["notes"].append(f"Of the validation: {few}")
        self.info["notes"].append("The validation clips chose the checkpoint, so their score is somewhat too good.")
        if self.world.rank == 0:
            run = Run(self.run_dir, self.info)
            truth = {example.name: example.label for example in self.examples.validation}
            rows = [row | {"trained": False, "truth": truth[row["name"]]} for row in rows]
            write_jsonl(predictions_path(run, self.recipe.validation.answers), rows)
            metrics = {"select_by": metric, "validation": validation.to_json(), "history": self.history}
            write_json(self.run_dir / "metrics.json", metrics | {"notes": self.info["notes"]})
        return validation


# ---- parts of the loop ----------------------------------------------------------------------------------------------


def _dropout_seed(seed: int, step: int, batch: int) -> int:
    return int(np.random.SeedSequence([seed, _DROPOUT, step, batch]).generate_state(1, np.uint64)[0] >> 1)


# ---- before the first step ------------------------------------------------------------------------------------------


def _check_folder(run_dir: Path, resume: bool) -> Run | None:
    """The unfinished run in a folder that is to go on, or `None` for a new one."""
    if not resume:
        if (run_dir / "run.json").exists():
            raise UsageError(f"{run_dir} holds a run already.", "Choose another run name, or go on with --resume.")
        return None
    before = load_run(run_dir)
    before.require(TuneRecipe.makes, "a tuned language model")
    if before.finished:
        raise UsageError(f"Run {before.name} is finished.", f"Start a new one with init_from={before.name}.")
    return before
