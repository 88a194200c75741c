"""The record of a training in its run folder: status, checkpoints, validation, and where a resumed run begins."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import json_text, write_atomic, write_json, write_jsonl
from emo.featstore.reading import read_jsonl
from emo.featstore.storage.store import Store
from emo.train.features import checksums_of, media_of
from emo.train.llm import checkpoint
from emo.train.llm.distributed import World
from emo.train.llm.identity import as_of_then
from emo.train.llm.predict import resolve_dtype
from emo.train.llm.question import predictions_path
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.resume import FOLDER, Checkpoint, check_drift, load_moments, prune, save_checkpoint
from emo.train.llm.setup import Training, init_model
from emo.train.llm.validate import Validation
from emo.train.metrics.labels import Score, too_few
from emo.train.recipe import load_recipe
from emo.train.runs import DIGESTS, Run, check, load_run, seal, utc, write_sealed


@dataclass(frozen=True)
class TuneResult:
    """A finished tuning.

    Attributes:
        run: The finished run.
        validation: Score of the validation clips at the checkpoint that was kept; `None` without validation.
        notes: Sentences that must stand beside any score of this run.
    """

    run: Run
    validation: Score | None
    notes: tuple[str, ...]


@contextmanager
def recorded(
    run_dir: Path, recipe: TuneRecipe | None, store: Store | None, device: str, resume: bool, world: World
) -> Iterator[Record]:
    """Open the record of a run, new or to be resumed, and leave in it how the training has ended.

    Raises:
        UsageError: The folder holds a run already, or none to resume; or the processes cannot share a step.
    """
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
    record = Record(run_dir, recipe, store, world, before)
    try:
        yield record
    except BaseException as error:
        if record.begun:  # a run that may not be resumed stays as it was
            status = "failed" if isinstance(error, Exception) else "interrupted"
            record.write(status=status, error=str(error))
        if isinstance(error, torch._dynamo.exc.TorchDynamoException):
            why = str(getattr(error, "inner_exception", error)).strip().split("\n")[0]
            raise TrainError(f"The layers cannot be compiled: {why}.", "Train without: compile=false.") from error
        raise


class Record:
    """Return what run.json says of a training under way.

    Attributes:
        recipe: With `dtype` resolved.
        info: Content of run.json.
        begun: Whether this training may change the run's status.
    """

    def __init__(
        self, run_dir: Path, recipe: TuneRecipe, store: Store | None, world: World, before: Run | None
    ) -> None:
        self.run_dir, self.recipe, self.store, self.world = run_dir, recipe, store, world
        self.started, self.begun = time.time(), before is None
        self.info: dict[str, Any] = {"schema": 1, "kind": recipe.makes, "name": run_dir.name, "status": "running"}
        self.info |= {"recipe": recipe.name, "started_at": utc(self.started)}
        self.info |= {"store": str(store.path) if store else None}
        if before is not None:
            kept = ("started_at", "imported", "resumed")
            self.info |= {key: before.info[key] for key in kept if key in before.info}
        run_dir.mkdir(parents=True, exist_ok=True)
        if before is None:
            self.write()
            if world.rank == 0:
                write_atomic(run_dir / "recipe.yaml", recipe.to_yaml())  # enough to resume from, whatever happens now

    def write(self, **more: Any) -> None:
        """Write run.json, with more in it."""
        self.info |= more
        if self.world.rank == 0:
            write_sealed(self.run_dir / "run.json", json_text(self.info))

    def begin(
        self,
        training: Training,
        validation: Validation,
        found: Sequence[Checkpoint],
        weights: Mapping[str, str],
        force: Sequence[str],
    ) -> int:
        """Load what the training starts from, and return the step that it begins with.

        Raises:
            TrainError: Something has changed since the newest checkpoint that was not forced by name; or it is damaged.
        """
        self.info |= training.facts
        step = 0
        if found:
            step = self._take_up(training, validation, found[-1], force)
        else:
            self.info["imported"] = init_model(training.model, self.recipe, self.run_dir, weights)
        notes = (self.info.get("imported") or {}).get("notes", ())
        self.info["notes"] = [*self.info["notes"], *notes]
        self.begun = True
        if self.world.rank == 0:
            (self.run_dir / DIGESTS).unlink(missing_ok=True)  # of a training that was stopped at its very end
        self.write()
        if self.world.rank == 0:
            write_atomic(self.run_dir / "recipe.yaml", self.recipe.to_yaml())
            parts = {"train": training.examples.train, "validation": training.examples.validation}
            names = {part: [example.name for example in examples] for part, examples in parts.items()}
            everyone = list(dict.fromkeys(name for part in names.values() for name in part))
            made = checksums_of(self.store, [spec.key for spec in training.features.specs], everyone)
            write_json(self.run_dir / "clips.json", names | {"media": media_of(self.store, everyone), "made": made})
        return step

    def _take_up(self, training: Training, validation: Validation, newest: Checkpoint, force: Sequence[str]) -> int:
        then = as_of_then(newest.state["identity"], self.recipe)
        then = {"checksums": training.identity["checksums"], **then}  # of the features; earlier versions kept none
        forced = check_drift(then, training.identity, force, f"Run {self.run_dir.name}")
        note = check(newest.path)
        checkpoint.load_adapter(training.model, newest.path)
        load_moments(newest.path, training.optimizer, training.names)
        validation.best, validation.history = newest.state["best"], newest.state["history"]
        row = {"step": newest.step, "at": utc(time.time()), "forced": [asdict(each) for each in forced]}
        self.info["resumed"] = [*self.info.get("resumed", []), row | ({"note": note} if note else {})]
        training.last_checkpoint = newest.path.name
        return newest.step

    def save_checkpoint(
        self, step: int, training: Training, validation: Validation, answers: list[dict[str, Any]] | None
    ) -> None:
        """Write a checkpoint after `step` steps, and remove those that are no longer wanted."""
        if self.world.rank == 0:
            number, offset = training.sampler.position(step)
            state = {
                "schema": 1,
                "step": step,
                "steps": training.steps,
                "position": {"pass": number, "offset": offset},  # a function of step, as are learning rate and dropout
                "rng": {"seed": self.recipe.seed, "step": step},
                "best": validation.best,
                "history": validation.history,
                "identity": training.identity,
            }
            saved = save_checkpoint(
                self.run_dir,
                state,
                lambda folder: checkpoint.save_adapter(training.model, folder),
                training.optimizer,
                training.names,
                answers,
            )
            training.last_checkpoint = saved.path.name
            self._prune(validation)
        self.world.wait()

    def _prune(self, validation: Validation) -> None:
        if self.world.rank == 0:
            prune(self.run_dir, self.recipe.checkpoint.keep, validation.best["step"] if validation.best else None)

    def finish(self, training: Training, validation: Validation) -> TuneResult:
        """Leave predictions and metrics in the run folder, say that the run is finished, and seal it."""
        kept = f"{FOLDER}/step-{validation.best['step'] if validation.best else training.steps:08d}"
        self.info |= {"checkpoint": kept, "best": validation.best}
        self._prune(validation)
        reached = self._measured(kept, validation) if validation.examples else None
        metrics: dict[str, Any] = {"select_by": None}
        if reached is not None:
            metrics = {"select_by": self.recipe.validation.metric, "validation": reached.to_json()}
            metrics["history"] = validation.history
        if self.world.rank == 0:
            write_json(self.run_dir / "metrics.json", metrics | {"notes": self.info["notes"]})
        now = time.time()
        if self.world.rank == 0:
            seal(self.run_dir)
        self.write(status="finished", finished_at=utc(now), duration_s=round(now - self.started, 3))
        return TuneResult(Run(self.run_dir, self.info), reached, tuple(self.info["notes"]))

    def _measured(self, kept: str, validation: Validation) -> Score:
        """Score the validation at the checkpoint that is kept, and write its answers."""
        path = self.run_dir / kept / "validation.jsonl"
        rows = [row for _, row in read_jsonl(path)]
        reached = validation.score(rows)
        if few := too_few(reached.n):
            self.info["notes"].append(f"Of the validation: {few}")
        self.info["notes"].append("The validation clips chose the checkpoint, so their score is somewhat too good.")
        if self.world.rank == 0:
            run = Run(self.run_dir, self.info)
            truth = {example.name: example.label for example in validation.examples}
            rows = [row | {"trained": False, "truth": truth[row["name"]]} for row in rows]
            write_jsonl(predictions_path(run, self.recipe.validation.answers), rows)
        return reached


def _check_folder(run_dir: Path, resume: bool) -> Run | None:
    """Return the unfinished run in a folder that is to be resumed, or `None` for a new one."""
    if not resume:
        if (run_dir / "run.json").exists():
            on = f"Choose another run name, or go on with it: emo train --cached --resume {run_dir.name}."
            raise UsageError(f"{run_dir} holds a run already.", on)
        return None
    before = load_run(run_dir)
    before.require(TuneRecipe.makes, "a tuned language model")
    if before.finished:
        raise UsageError(f"Run {before.name} is finished.", f"Start a new one with init_from={before.name}.")
    return before
