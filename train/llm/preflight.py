"""Two batches before a long run: settings that cannot work fail in the first minute, not after the first epoch."""

from __future__ import annotations

import torch

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.text import some_of
from emo.train.llm.predict import predict
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.setup import Training
from emo.train.llm.validate import Validation

ANSWER_IDS = 4  # generated ids by which decoding is tried


def check_settings(training: Training, validation: Validation, step: int) -> None:
    """Try the largest batch of the first pass forwards and backwards, and two validation answers.

    Nothing of the training is moved by it: gradients are zero again, and random numbers, step and weights as before.

    Args:
        training: Ready for its first step.
        validation: Its validation clips.
        step: With which it begins; nothing is tried where none is left.

    Raises:
        UsageError: The validation cannot choose a checkpoint.
        TrainError: A batch does not fit into memory, or a loss is not finite.
    """
    if step >= training.steps:
        return
    _check_validation(training.recipe, validation, step)
    devices = [training.device] if training.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        _try_batch(training)
        _try_answers(training, validation)


def _check_validation(recipe: TuneRecipe, validation: Validation, step: int) -> None:
    """Refuse one clip; and none where the recipe asks for some, unless the run has begun that way long ago."""
    keys, count = recipe.validation, len(validation.examples)
    asked = keys.split is not None or keys.holdout > 0
    if count > 1 or (count == 0 and (step > 0 or not asked)):
        return
    what = f"one clip, {validation.examples[0].name}, which" if count else "no clip to score, and"
    raise UsageError(
        f"The validation has {what} cannot choose a checkpoint.",
        "Hold more out (validation.holdout), name a split (validation.split), or train without: validation.holdout=0.",
    )


def _try_batch(training: Training) -> None:
    samples = training.sampler.longest()
    names = some_of([sample.name for sample in samples], 3)
    try:
        loss, supervised = training.model.loss(training.collate(samples).to(training.device))
        (loss / supervised).backward()
    except torch.OutOfMemoryError as error:
        raise TrainError(
            f"The largest batch does not fit into memory: {len(samples)} samples, {names}.",
            "Lower batch_size and raise accumulate as much; or set recompute=true, or quantise=nf4.",
        ) from error
    finally:
        training.optimizer.zero_grad(set_to_none=False)
    if not torch.isfinite(loss):
        raise TrainError(
            f"The loss is not finite before the first step; the clips of the batch: {names}.",
            "Look at the features and answers of these clips.",
        )


def _try_answers(training: Training, validation: Validation) -> None:
    recipe = training.recipe
    few = min(recipe.decode.max_new_tokens, ANSWER_IDS)
    short = recipe.model_copy(update={"decode": recipe.decode.model_copy(update={"max_new_tokens": few})})
    by_length = sorted(validation.examples, key=lambda example: len(example.transcript))
    asked = by_length[-recipe.decode.batch_size :]
    try:
        predict(training.model, training.features, asked, short, recipe.validation.answers)
    except torch.OutOfMemoryError as error:
        raise TrainError(
            f"The answers to {len(asked)} validation clips do not fit into memory.", "Lower decode.batch_size."
        ) from error
