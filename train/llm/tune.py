"""Tune a language model on cached features: arguments, model, loop, on plain torch.

What a step does is a function of (recipe, data, step): which samples, in which batches, with which dropout. So a run
that was stopped is resumed from its last checkpoint as if nothing had happened, bit by bit on a CPU, and several
processes share a step's batches without changing what is learned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from emo.featstore.clip import Clip
from emo.featstore.errors import TrainError
from emo.featstore.storage.store import Store
from emo.train.llm.distributed import World, ahead, interruptible, own_device
from emo.train.llm.optim import learning_rate, set_lr
from emo.train.llm.preflight import check_settings
from emo.train.llm.progress import MENTION_S, Meter, Progress, Reporter
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.record import TuneResult, recorded
from emo.train.llm.resume import checkpoints
from emo.train.llm.setup import Training, Window, prepare
from emo.train.llm.validate import Validation

_DROPOUT = 3  # stream of random numbers, apart from those of data.py


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
        run_dir: Run folder, from `new_run`, or the one to resume.
        device: Torch device; `auto` is a GPU where there is one. With torchrun, every process has its own.
        on_progress: Called every `log_every` steps and after every validation.
        weights: The workspace's table of weights: what `llm` and `init_from` may name.
        roots: Folders in which annotation files are looked for, after the current one.
        resume: Continue from the newest checkpoint in `run_dir`.
        force: Differences to accept when resuming: `recipe.lr`, `store`, `version`, `code`, ...

    Raises:
        UsageError: Recipe, clips or annotations cannot be used.
        FeatureMissing: Clips lack features and `recipe.missing` is `error`.
        ModelError: The language model or the weights to start from cannot be loaded.
        TrainError: The settings cannot work, the loss is not finite, or the run may not be resumed.
    """
    device = own_device(device)
    with World.join(device) as world, recorded(run_dir, recipe, store, device, resume, world) as record:
        # ---- model -----------------------------------------------------------------------------------------------
        recipe = record.recipe
        training = prepare(store, clips, recipe, device, world, weights or {}, roots)
        validation = Validation(training.examples.validation, recipe)
        step = record.begin(training, validation, checkpoints(run_dir), weights or {}, force)
        check_settings(training, validation, step)
        rate = learning_rate(recipe, training.epoch_steps)
        save_every = recipe.checkpoint.every_steps or training.epoch_steps
        validate_every = recipe.validation.every or training.epoch_steps
        told = (on_progress, recipe.tensorboard, recipe.validation.metric)
        reporter, meter = Reporter(run_dir, step, *told, silent=world.rank > 0), Meter()

        # ---- loop ------------------------------------------------------------------------------------------------
        with ahead(training.load, step, training.steps) as windows, interruptible() as interrupted, reporter:
            for step, window in windows:
                lr = rate(step)
                meter.add(*take_step(training, step, window, lr))
                done, last = step + 1, step + 1 == training.steps
                logged = last or done % recipe.log_every == 0
                if logged or reporter.quiet_for(MENTION_S):
                    speed = meter.take(training.steps - done, training.flops_per_token, training.peak_flops)
                    (reporter.tell if logged else reporter.mention)(training.progress(done, lr, **speed))
                    meter = Meter() if logged else meter
                before, answers, best = time.perf_counter(), None, False
                if validation.examples and (last or done % validate_every == 0):
                    asked = (training.model, training.features, world, training.sharded)
                    answers, best, value = validation.measure(done, *asked)
                    reporter.tell(training.progress(done, lr, metric=value, best=best))
                stop = world.any(interrupted())
                if best or last or stop or done % save_every == 0:
                    record.save_checkpoint(done, training, validation, answers)
                meter.start += time.perf_counter() - before  # speed is that of the training alone
                if stop:
                    where = f"stopped after step {done} of {training.steps}"
                    raise KeyboardInterrupt(f"{where}; resume it with --resume {run_dir.name}")
        return record.finish(training, validation)


def take_step(training: Training, step: int, window: Window, lr: float) -> tuple[float, int, int]:
    """Take one optimizer step; return the mean loss over its supervised tokens, rows that are no padding, samples.

    Args:
        training: From `prepare`.
        step: Its number, from 0.
        window: This process's batches of it, from `Training.load`.
        lr: Learning rate.
    """
    world, device, optimizer = training.world, training.device, training.optimizer
    own = [(batch.supervised, batch.real_tokens, len(samples)) for _, samples, batch in window if samples]
    counts = torch.tensor([(0, 0, 0), *own]).sum(0).to(device)
    world.add([counts])
    supervised, tokens, seen = counts.tolist()
    losses = torch.zeros(len(window), device=device)
    for place, (i, samples, batch) in enumerate(window):
        torch.manual_seed(_dropout_seed(training.recipe.seed, step, i))
        loss, _ = training.model(batch.to(device))  # sum over the batch's supervised tokens
        loss = loss if samples else loss * 0
        (loss / supervised).backward()
        losses[place] = loss.detach()
    total = losses.sum()
    gradients = [parameter.grad for parameter in training.parameters if parameter.grad is not None]
    world.add([total, *gradients])
    norm = torch.nn.utils.get_total_norm(gradients)
    if not math.isfinite(float(total)) or not math.isfinite(float(norm)):
        _stop(training, step, window, losses)
    if training.recipe.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(training.parameters, training.recipe.grad_clip, norm)
    set_lr(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return float(total) / supervised, tokens, seen


def _stop(training: Training, step: int, window: Window, losses: torch.Tensor) -> None:
    """End a training whose loss or gradient is not finite, with the names of the clips."""
    rows = [
        {"name": sample.name, "finite": finite}
        for (_, samples, _), finite in zip(window, torch.isfinite(losses).tolist(), strict=True)
        for sample in samples
    ]
    rows = training.world.gather(rows)
    bad = [row["name"] for row in rows if not row["finite"]]
    what, names = ("loss", bad) if bad else ("gradient", [row["name"] for row in rows])
    raise TrainError(
        f"The {what} is not finite at step {step + 1}; the clips of the batch: {', '.join(names)}.",
        f"The last checkpoint is {training.last_checkpoint or 'none'}. Look at the features and answers of "
        "these clips; or lower lr, or set grad_clip.",
    )


def _dropout_seed(seed: int, step: int, batch: int) -> int:
    return int(np.random.SeedSequence([seed, _DROPOUT, step, batch]).generate_state(1, np.uint64)[0] >> 1)
