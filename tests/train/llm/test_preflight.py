"""Settings that cannot work fail before the first step, and trying them moves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emo.featstore.errors import TrainError, UsageError
from emo.train.llm.distributed import World
from emo.train.llm.model import TunedModel
from emo.train.llm.preflight import check_settings
from emo.train.llm.setup import prepare
from emo.train.llm.tune import tune
from emo.train.llm.validate import Validation

Make = Callable[..., Any]


def test_trying_moves_neither_random_numbers_nor_weights_nor_gradients(corpus: Make, recipe: Make) -> None:
    made = corpus()
    chosen = recipe("lora.dropout=0.5").model_copy(update={"dtype": "fp32"})
    training = prepare(made.store, made.clips, chosen, "cpu", World(), {}, ())
    before = [parameter.detach().clone() for parameter in training.parameters]
    state = torch.get_rng_state()
    validation = Validation(training.examples.validation, chosen)
    check_settings(training, validation, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, training.parameters, strict=True))
    assert not any(parameter.grad.any() for parameter in training.parameters if parameter.grad is not None)
    assert training.model.training
    assert (validation.best, validation.history) == (None, [])
    assert not training.optimizer.state


@pytest.mark.parametrize(("method", "says"), [("loss", "largest batch does not fit"), ("label_logprobs", "answers to")])
def test_what_does_not_fit_is_said_before_the_first_step(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, says: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(TunedModel, method, full)
    monkeypatch.setattr("emo.train.llm.tune.take_step", None)
    made = corpus()
    with pytest.raises(TrainError, match=says) as caught:
        tune(made.store, made.clips, recipe(), tmp_path / "run", "cpu")
    assert "batch_size" in caught.value.hint


def test_a_validation_of_one_clip_is_refused(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus()
    with pytest.raises(UsageError, match="validation has one clip"):
        tune(made.store, made.clips, recipe("validation.limit=1"), tmp_path / "run", "cpu")


@pytest.mark.parametrize("keys", [(), ("validation.holdout=0.01",)])
def test_an_empty_hold_out_is_refused_where_one_is_asked_for(
    corpus: Make, recipe: Make, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    made = corpus(n=4)
    with pytest.raises(UsageError, match="validation has no clip to score") as caught:
        tune(made.store, made.clips, recipe(*keys), tmp_path / "run", "cpu")
    assert "validation.holdout=0." in caught.value.hint
    without = recipe("validation.holdout=0", "steps_per_epoch=1")
    assert tune(made.store, made.clips, without, tmp_path / "other", "cpu").run.finished
