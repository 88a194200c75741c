"""Two real processes on a CPU: they learn what one does, whether they share the batches alone or the layers too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emo.featstore.errors import UsageError
from emo.train.answers import read_predictions
from emo.train.llm.answer import load_tuned
from emo.train.llm.checkpoint import merge
from emo.train.llm.distributed import World
from emo.train.llm.resume import checkpoints
from emo.train.llm.tune import tune
from emo.train.runs import load_run

Make = Callable[..., Any]
SHORT = (
    *("batch_size=3", "accumulate=2", "steps_per_epoch=6", "lora.dropout=0.2"),
    *("validation.every=3", "validation.holdout=0.125", "decode.batch_size=1"),
)
TOLERANCE = 2e-5  # of weights whose 6 steps are 1e-2 long: sums of gradients in another order

BOTH = """
for parallel in ("ddp", "fsdp"):
    assert together(lambda rank: train(parallel, recipe.model_copy(update={"parallel": parallel}))) == [0, 0]
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a run has learned at its last checkpoint, by name."""
    folder = checkpoints(run)[-1].path
    return load_file(folder / "adapter_model.safetensors") | load_file(folder / "projections.safetensors")


def gap(a: Path, b: Path) -> float:
    """Largest difference of the learned weights."""
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def losses(run: Path) -> list[float | None]:
    return [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("policy", ["likelihood", "official"])
def test_two_processes_learn_what_one_does(
    corpus: Make, recipe: Make, tmp_path: Path, other_process: Make, policy: str
) -> None:
    """Also where the last window of a pass has one batch for two of them, and validation an odd number of clips."""
    made, chosen = corpus(n=24), recipe(*SHORT, f"validation.answers={policy}")
    tune(made.store, made.clips, chosen, tmp_path / "one", "cpu")
    other_process(made, chosen, BOTH)
    one = load_run(tmp_path / "one").info
    file = "predictions-likelihood.jsonl" if policy == "likelihood" else "predictions.jsonl"
    said = read_predictions(tmp_path / "one" / file)
    assert (one["n_train"], one["n_validation"]) == (21, 3)  # 21: three windows of 6, and one batch
    for name in ("ddp", "fsdp"):
        assert gap(tmp_path / "one", tmp_path / name) < TOLERANCE
        assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / name), abs=1e-5)
        two = load_run(tmp_path / name).info
        assert (one["processes"], two["processes"]) == (1, 2)
        assert one["best"] == two["best"]
        assert one["parameters"] == two["parameters"]
        again = read_predictions(tmp_path / name / file)
        assert again.keys() == said.keys()
        for clip, answer in said.items():
            assert again[clip].answer == answer.answer
            assert again[clip].probabilities == pytest.approx(answer.probabilities, abs=1e-5)


SHARDED = """
from torch.distributed.tensor import DTensor
from emo.train.llm import setup

layers = []
real = setup.shard

def watched(model, device):
    real(model, device)
    decoder = model.llm.model
    for name, each in model.named_parameters():
        frozen_layer = ".layers." in name and ".lora_" not in name
        assert isinstance(each, DTensor) == frozen_layer, name
        if frozen_layer:
            assert each.to_local().numel() * 2 == each.numel(), name
            layers.append(each.numel())
    assert len(layers) == 9 * len(decoder.layers)

class Stop(Exception):
    pass

def stop(progress):
    if progress.step == 3:
        raise Stop

setup.shard = watched
assert together(lambda rank: train("whole")) == [0, 0]
together(lambda rank: train("handed", on_progress=stop))
first, second = together(lambda rank: train("parts", on_progress=stop))  # only the first process reports
assert first and second  # the other does not wait for what never comes
assert together(lambda rank: train("parts", None, resume=True)) == [0, 0]
"""


def test_a_sharded_run_goes_on_bit_by_bit_or_in_one_process_and_is_then_like_any_other(
    corpus: Make, recipe: Make, tmp_path: Path, other_process: Make
) -> None:
    made = corpus(n=22)
    chosen = recipe(*SHORT, "parallel=fsdp", "recompute=true", "checkpoint.every_steps=2")
    other_process(made, chosen, SHARDED)
    assert gap(tmp_path / "whole", tmp_path / "parts") == 0
    assert [row["step"] for row in load_run(tmp_path / "parts").info["resumed"]] == [2]
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    alone = chosen.model_copy(update={"parallel": "ddp"})
    tune(made.store, made.clips, alone, tmp_path / "handed", "cpu", resume=True)
    assert gap(tmp_path / "whole", tmp_path / "handed") < TOLERANCE

    names = load_file(checkpoints(tmp_path / "parts")[-1].path / "adapter_model.safetensors")
    assert names
    assert all(".lora_" in name for name in names)
    model, _, _ = load_tuned(made.store, tmp_path / "parts", ["clip_000"], "cpu")  # whole, in this one process
    merge(model, tmp_path / "merged")
    assert "model.layers.0.self_attn.q_proj.weight" in load_file(tmp_path / "merged" / "model.safetensors")


STUBBORN = """
from torch.nn.functional import one_hot
from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.model import Widths
from emo.train.llm.emotion_llama.prompt import Prompt
from emo.train.llm.distributed import World, shard

def job(rank):
    with World.join("cpu") as world:
        model = build(None, Widths(), profile="tiny")
        end, ids = model.tokenizer.eos, model.llm.config.vocab_size
        shard(model, "cpu")
        if rank:  # would end its answers at once
            model.llm.lm_head.register_forward_hook(lambda *_: one_hot(torch.tensor([[end]]), ids)[0].float())
        answers = model.generate([Prompt("train_consistent", ((1, 5, 6),))], (), 5)
        said = world.gather([{"ids": answers[0]}])
        assert said[0] == said[1], said
        assert len(answers[0]) == 5

assert together(job) == [0, 0]
"""


def test_the_first_process_says_how_answers_go_on(corpus: Make, recipe: Make, other_process: Make) -> None:
    """Or a bit of difference between two devices would end one of them, and the other would wait for it."""
    other_process(corpus(n=1), recipe(), STUBBORN)


def test_one_process_has_nothing_to_share(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus(n=8)
    for parallel in ("ddp", "fsdp"):
        chosen = recipe("validation.holdout=0", "steps_per_epoch=2", f"parallel={parallel}")
        tune(made.store, made.clips, chosen, tmp_path / parallel, "cpu")
    assert gap(tmp_path / "ddp", tmp_path / "fsdp") == 0


def test_batches_that_processes_cannot_share_are_refused(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = corpus(n=2)
    monkeypatch.setattr(World, "join", classmethod(lambda cls, device: cls(0, 2)))
    monkeypatch.setattr(World, "share", lambda self, make: make())
    with pytest.raises(UsageError, match="accumulate: 3 batches per step cannot be shared by 2 processes"):
        tune(made.store, made.clips, recipe("accumulate=3"), tmp_path / "run", "cpu")


# ---- the world ------------------------------------------------------------------------------------------------------

SHARE = """
from emo.featstore.errors import EmoError, FeatureMissing, MediaError, TrainError, UsageError
from emo.train.llm.distributed import World

def job(rank):
    world = World.join("auto" if not torch.cuda.is_available() else "cpu")
    assert (world.rank, world.size) == (rank, 2)
    assert World.join("cpu") == world  # again

    calls = []
    assert world.share(lambda: calls.append(1) or Path("runs") / "a") == Path("runs/a")
    assert len(calls) == (rank == 0)
    assert world.share(lambda: None) is None

    def fails(error):
        def make():
            raise error
        try:
            world.share(make)
        except BaseException as raised:
            return raised

    for error in (UsageError("no", "do"), FeatureMissing("gone"), MediaError("no-face", "m", "h", retry=True)):
        told = fails(error)
        assert type(told) is type(error)
        assert (told.message, told.hint, str(told), vars(told)) == (error.message, error.hint, str(error), vars(error))
    told = fails(KeyError("x"))
    assert type(told) is (TrainError if rank else KeyError), told
    assert not rank or told.message == "The first process failed: KeyError('x')."
    assert world.share(lambda: "still here") == "still here"
    world.leave()
    world.leave()  # once

assert together(job) == [0, 0]

def alone(rank):  # the other one waits for something that never comes
    with World.join("cpu") as world:
        if rank:
            raise UsageError("a fault in one process")
        world.wait()

import time
start = time.monotonic()
assert all(together(alone))
assert time.monotonic() - start < 30, "waited"
"""


def test_the_first_process_makes_and_all_of_them_get(corpus: Make, recipe: Make, other_process: Make) -> None:
    other_process(corpus(n=1), recipe(), SHARE)


def test_alone_everything_is_made_here() -> None:
    assert World().share(lambda: 3) == 3
    World().leave()
