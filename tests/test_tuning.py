"""Tuning as typed: equal trajectories by different ways, a killed run that goes on, all that a run can be asked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Demo = tuple[Path, subprocess.CompletedProcess[str]]
Emo = Callable[..., subprocess.CompletedProcess[str]]

TRAIN = ("train", "--cached", "--recipe", "tiny")
# Two passes over the data, with dropout where it can be equal. One thread: sums are then made in one order.
# Under seed 0 one hidden unit is all but silent on the drawn clips: Adam makes steps of the rounding of its gradient.
SHORT = ("seed=1", "epochs=2", "steps_per_epoch=4", "validation.holdout=0", "log_every=1")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# torchrun would take our --run for an abbreviation of its --run-path, but for the two dashes.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TORCHRUN += ["-m", "--", "emo.cli"]
TOLERANCE = 5e-5  # of weights that go some 1e-2 in these steps: gradients summed in another order


@pytest.fixture(scope="module")
def space(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with features of 24 drawn clips, to be filled with runs."""
    folder = tmp_path_factory.mktemp("tuning") / "w"
    shutil.copytree(demo[0], folder)
    shutil.rmtree(folder / "runs")
    return folder


def sets(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture(scope="module")
def train(emo: Emo, space: Path) -> Callable[..., Path]:
    """Train a run of that name, once, and give its folder."""

    def run(name: str, *pairs: str) -> Path:
        if not (space / "runs" / name).exists():
            result = emo(*TRAIN, "--run", name, *sets(*SHORT, *pairs), cwd=space, env=ONE_THREAD)
            assert result.returncode == 0, result.stderr
        return space / "runs" / name

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = max((run / "checkpoints").glob("step-*"))
    return load_file(folder / "adapter_model.safetensors") | load_file(folder / "projections.safetensors")


def gap(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


# ---- trajectories ---------------------------------------------------------------------------------------------------


def test_killed_and_resumed_is_uninterrupted_bit_by_bit(emo: Emo, space: Path) -> None:
    """`emo train --resume RUN` after SIGKILL, with dropout, validation and a best checkpoint."""
    keys = sets("epochs=6", "steps_per_epoch=8", "checkpoint.every_steps=2", "validation.every=8", "lora.dropout=0.3")
    whole = emo(*TRAIN, "--run", "whole", *keys, cwd=space, env=ONE_THREAD)
    assert whole.returncode == 0, whole.stderr
    words = [sys.executable, "-m", "emo.cli", *TRAIN, "--run", "killed", *keys]
    child = subprocess.Popen(words, cwd=space, env={**os.environ, **ONE_THREAD}, stderr=subprocess.DEVNULL)
    run = space / "runs" / "killed"
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "step-00000010").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    refused = emo("score", "labels.csv#test", "--run", "killed", cwd=space)
    assert refused.returncode == 2
    assert "is running, not finished" in refused.stderr
    changed = emo(*TRAIN, "--resume", "killed", *keys, "--set", "lr=0.5", cwd=space, env=ONE_THREAD)
    assert changed.returncode == 6
    assert "recipe.lr" in changed.stderr
    resumed = emo("train", "--cached", "--resume", "killed", cwd=space, env=ONE_THREAD)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((run / "run.json").read_text())["resumed"][0]["step"] >= 10
    one, other = weights(space / "runs" / "whole"), weights(run)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(space / "runs" / "whole") == losses(run)
    for file in ("predictions-likelihood.jsonl", "metrics.json", "recipe.yaml"):
        assert (space / "runs" / "whole" / file).read_bytes() == (run / file).read_bytes(), file


@pytest.mark.parametrize(
    "pairs",
    [
        ("batch_size=1", "accumulate=8", "lora.dropout=0"),
        ("batch_size=8", "accumulate=1", "lora.dropout=0", "sort_by_length=false"),
    ],
    ids=["8 x 1", "padded as it comes"],
)
def test_how_a_step_is_cut_does_not_matter(train: Callable[..., Path], pairs: tuple[str, ...]) -> None:
    """1 x 8 = 8 x 1 accumulated, and sorted by length = in the order of the draw."""
    one = train("one", "batch_size=8", "accumulate=1", "lora.dropout=0")
    other = train("-".join(pairs).replace("=", ""), *pairs)
    assert losses(one) == pytest.approx(losses(other), rel=1e-5)
    assert gap(one, other) < TOLERANCE


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(train: Callable[..., Path], space: Path, parallel: str) -> None:
    """As torchrun starts them, on the CPU by gloo; with dropout, which belongs to a batch and not to a process."""
    keys = ("batch_size=4", "accumulate=2")
    one = train("alone", *keys)
    words = [*TORCHRUN, *TRAIN, "--run", parallel, "--json", *sets(*SHORT, *keys, f"parallel={parallel}")]
    result = subprocess.run(
        words, cwd=space, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    run = json.loads(result.stdout)  # one of the two speaks
    assert (run["status"], run["processes"]) == ("finished", 2)
    assert losses(one) == pytest.approx(losses(space / "runs" / parallel), rel=1e-5)
    assert gap(one, space / "runs" / parallel) < TOLERANCE


def test_several_processes_share_one_refusal(space: Path) -> None:
    (space / "runs" / "taken").mkdir(parents=True)
    result = subprocess.run(
        [*TORCHRUN, *TRAIN, "--run", "taken"], cwd=space, capture_output=True, text=True, timeout=300
    )
    assert result.returncode != 0
    assert "Run 'taken' exists" in result.stderr


# ---- asking a run ---------------------------------------------------------------------------------------------------


def test_a_tuned_run_is_scored_and_asked(emo: Emo, train: Callable[..., Path], space: Path) -> None:
    run = train("asked")
    for policy in ("likelihood", "official"):
        scored = emo("score", "labels.csv#test", "--run", "asked", "--answers", policy, "--json", cwd=space)
        assert scored.returncode == 0, scored.stderr
        notes = " ".join(json.loads(scored.stdout)["notes"])
        assert "The language model is tiny and has random weights" in notes
        assert "Prompt layout: train_consistent." in notes
    assert (run / "predictions-likelihood.jsonl").exists()
    said = emo("predict", "demo_0000", "--run", "asked", "--answers", "likelihood", "--json", cwd=space)
    (answer,) = json.loads(said.stdout)["answers"]
    assert answer["answer"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
    reason = emo("predict", "demo_0000", "--run", "asked", "--task", "reason", cwd=space)
    assert reason.returncode == 0, reason.stderr
    assert reason.stdout.startswith("demo_0000: ")


def test_a_transcript_of_ones_own_is_heard_and_not_kept(emo: Emo, train: Callable[..., Path], space: Path) -> None:
    run = train("asked")
    words = ("predict", "demo_0001", "--run", "asked", "--answers", "likelihood", "--json")
    usual = json.loads(emo(*words, cwd=space).stdout)["answers"]
    kept = (run / "predictions-likelihood.jsonl").read_bytes()
    other = json.loads(emo(*words, "--transcript", "Something else altogether!", cwd=space).stdout)["answers"]
    assert usual[0]["name"] == other[0]["name"]
    assert usual[0]["probabilities"] != other[0]["probabilities"]
    assert (run / "predictions-likelihood.jsonl").read_bytes() == kept


def test_a_checkpoint_goes_out_and_comes_back(emo: Emo, train: Callable[..., Path], space: Path) -> None:
    train("asked")
    out = emo("weights", "export", "asked", "asked.pth", "--form", "official", "--json", cwd=space)
    assert out.returncode == 0, out.stderr
    words = ("weights", "import", "asked.pth", "--recipe", "tiny", "--run", "back")
    back = emo(*words, cwd=space)
    assert back.returncode == 0, back.stderr
    assert "consumed: 26 tensors, all that were expected" in back.stdout
    scored = emo("score", "labels.csv#test", "--run", "back", "--answers", "likelihood", "--json", cwd=space)
    assert "Prompt layout: official_eval." in json.loads(scored.stdout)["notes"]
    wrong = emo("weights", "import", "asked.pth", "--recipe", "tiny", "--run", "bad", "--set", "lora.r=2", cwd=space)
    assert wrong.returncode == 5
    assert "does not fit the model" in wrong.stderr
    assert not (space / "runs" / "bad").exists()  # nothing half made is left


def test_a_changed_transcript_is_asked_about_again(
    emo: Emo, train: Callable[..., Path], space: Path, tmp_path: Path
) -> None:
    train("asked")
    folder = tmp_path / "w"
    shutil.copytree(space, folder)
    words = ("predict", "demo_0001", "--run", "asked", "--answers", "likelihood", "--json")
    before = json.loads(emo(*words, cwd=folder).stdout)["answers"]
    csv = folder / "data" / "transcripts.csv"
    lines = csv.read_text().splitlines()
    changed = ["demo_0001,Nothing like what was said." if line.startswith("demo_0001,") else line for line in lines]
    csv.write_text("\n".join(changed) + "\n")
    after = json.loads(emo(*words, cwd=folder).stdout)["answers"]
    assert before[0]["probabilities"] != after[0]["probabilities"]


# ---- going on -------------------------------------------------------------------------------------------------------


def test_a_run_that_failed_before_its_first_step_leaves_nothing(emo: Emo, space: Path) -> None:
    keys = sets(*SHORT, "data.emotion=[later.txt]")
    lost = emo(*TRAIN, "--run", "lost", *keys, cwd=space)
    assert lost.returncode == 2
    assert "later.txt, which data.emotion of recipe tiny names, does not exist" in lost.stderr
    assert not (space / "runs" / "lost").exists()
    (space / "later.txt").write_text("demo_0001 10 sad\ndemo_0002 10 happy\n")
    found = emo(*TRAIN, "--run", "lost", *keys, "--json", cwd=space)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["n_train"] == 2


def test_flags_of_going_on_are_heard_or_refused(emo: Emo, train: Callable[..., Path], space: Path) -> None:
    for words, said in (
        (("--resume", "x", "--run", "y"), "--run and --resume do not go together"),
        (("--recipe", "tiny", "--force", "store"), "--force belongs to --resume"),
        (("--resume", "nobody"), "There is no run nobody"),
    ):
        result = emo("train", "--cached", *words, cwd=space)
        assert result.returncode == 2, words
        assert said in result.stderr
    train("asked")
    result = emo("train", "--cached", "--resume", "asked", "--set", "nonsense=1", cwd=space)
    assert "unknown key nonsense" in result.stderr  # what is set is looked at
