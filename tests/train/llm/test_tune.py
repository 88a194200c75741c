"""Tuning: equal trajectories by different ways, checkpoints that survive, and a run folder that says what happened."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from steps import Stop, same, stop_after, weights

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import FeatureMissing, TrainError, UsageError, WeightsMissing
from emo.featstore.install import install_command
from emo.train.answers import read_predictions
from emo.train.llm.resume import check_drift, checkpoints, differences, prune
from emo.train.llm.tune import Progress, tune
from emo.train.metrics.labels import score
from emo.train.recipe import load_recipe
from emo.train.runs import load_run

Make = Callable[..., Any]
QUIET = ("validation.holdout=0",)
DRY = (*QUIET, "lora.dropout=0")


def gap(a: Path, b: Path) -> float:
    """Largest difference of the learned weights, relative to how far they went apart from the other run's."""
    one, other = weights(a), weights(b)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def train(made: Any, recipe: Any, path: Path, **options: Any) -> Any:
    return tune(made.store, made.clips, recipe, path, "cpu", **options)


# ---- trajectories ---------------------------------------------------------------------------------------------------


def test_the_loss_falls(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    train(corpus(), recipe("epochs=2", "steps_per_epoch=20", *DRY), tmp_path / "run")
    losses = [row["loss"] for row in log(tmp_path / "run")]
    assert len(losses) == 40
    # The tiny model's output layer is random, small and frozen: no answer's loss can fall far.
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.1


def test_a_run_is_a_function_of_its_recipe(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus()
    for name in ("a", "b"):
        train(made, recipe("steps_per_epoch=3"), tmp_path / name)
    assert same(tmp_path / "a", tmp_path / "b")
    train(made, recipe("steps_per_epoch=3", "seed=8"), tmp_path / "c")
    assert not same(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("at", [2, 3, 5])
def test_resumed_is_uninterrupted_bit_by_bit(corpus: Make, recipe: Make, tmp_path: Path, at: int) -> None:
    """With dropout, across a pass over the data, and with the validation's best kept."""
    made, chosen = corpus(n=10), recipe("checkpoint.every_steps=2", "validation.every=3", "lora.dropout=0.3")
    train(made, chosen, tmp_path / "whole")
    with pytest.raises(Stop):
        train(made, chosen, tmp_path / "parts", on_progress=stop_after(at))
    assert load_run(tmp_path / "parts").info["status"] == "failed"
    result = train(made, None, tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    whole, parts = load_run(tmp_path / "whole").info, load_run(tmp_path / "parts").info
    assert whole["best"] == parts["best"]
    assert [row["step"] for row in parts.get("resumed", [])] == ([] if at < 3 else [2 if at == 3 else 4])
    timeless = [
        [(row["step"], row.get("loss"), row.get("metric")) for row in log(tmp_path / n)] for n in ("whole", "parts")
    ]
    assert timeless[0] == timeless[1]
    assert result.run.finished
    for file in ("predictions-likelihood.jsonl", "clips.json", "recipe.yaml"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_recomputing_activations_changes_no_bit(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    """With dropout, and with answers between the steps; also where a run goes on with the other way."""
    made, sets = corpus(n=12), ("checkpoint.every_steps=2", "validation.every=3", "lora.dropout=0.3")
    train(made, recipe(*sets), tmp_path / "kept")
    with pytest.raises(Stop):
        train(made, recipe(*sets), tmp_path / "again", on_progress=stop_after(5))
    train(made, recipe(*sets, "recompute=true"), tmp_path / "again", resume=True)
    assert same(tmp_path / "kept", tmp_path / "again")


def test_compiled_layers_learn_the_same(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through torch's tracing, without its code generator, which needs a compiler; answers go without either."""
    real, traced = torch.nn.Module.compile, []

    def count(graph: Any, inputs: Any) -> Any:
        traced.append(graph)
        return graph

    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **how: real(layer, backend=count, **how))
    made, sets = corpus(), ("steps_per_epoch=4", "validation.every=2", "lora.dropout=0")
    train(made, recipe(*sets), tmp_path / "plain")
    train(made, recipe(*sets, "compile=true"), tmp_path / "compiled")
    assert traced
    assert gap(tmp_path / "plain", tmp_path / "compiled") < TOLERANCE
    plain, compiled = (read_predictions(tmp_path / n / "predictions-likelihood.jsonl") for n in ("plain", "compiled"))
    for name, row in plain.items():
        assert compiled[name].probabilities == pytest.approx(row.probabilities, abs=1e-3)


def test_layers_that_cannot_be_compiled_are_one_sentence(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Failed to find C compiler")

    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **how: real(layer, backend=broken, **how))
    with pytest.raises(TrainError, match=r"cannot be compiled.*Failed to find C compiler") as caught:
        train(corpus(), recipe(*QUIET, "compile=true"), tmp_path / "run")
    assert "compile=false" in caught.value.hint
    assert load_run(tmp_path / "run").info["status"] == "failed"


TOLERANCE = 2e-5  # of weights whose 8 steps are 1e-2 long: sums of gradients in another order


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["batch_size=8", "accumulate=1"], ["batch_size=1", "accumulate=8"]),
        (["batch_size=8", "accumulate=1"], ["batch_size=2", "accumulate=4"]),
        (
            ["batch_size=4", "accumulate=2", "sort_by_length=true"],
            ["batch_size=4", "accumulate=2", "sort_by_length=false"],
        ),
    ],
    ids=["1x8 = 8x1", "1x8 = 4x2", "sorted = padded"],
)
def test_how_a_step_is_cut_does_not_matter(
    corpus: Make, recipe: Make, tmp_path: Path, one: list[str], other: list[str]
) -> None:
    """The loss is normalised over the window's supervised tokens, so long and short answers weigh as in one batch."""
    made = corpus()
    labels = ("worried", "surprise and more than that, far more", "sad")
    clips = [replace(clip, label=Label(labels[i % 3])) for i, clip in enumerate(made.clips)]
    made = replace(made, clips=clips)
    names = f"labels=[worried, sad, {json.dumps(labels[1])}]"
    # Plain gradient steps would show errors linearly; Adam at a small eps makes noise of tiny gradients large.
    for name, sets in (("one", one), ("other", other)):
        train(made, recipe(*DRY, names, *sets), tmp_path / name)
    assert gap(tmp_path / "one", tmp_path / "other") < TOLERANCE
    losses = [[row["loss"] for row in log(tmp_path / name)] for name in ("one", "other")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len({round(loss, 6) for loss in losses[0]}) == 8


# ---- a killed process ------------------------------------------------------------------------------------------------

KILLED = """
def until(step):
    seen = []
    def reached(now):
        seen.append(now)
        if seen.count(step) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    resume.reached = reached
    train(step)

for step in ("weights-written", "optimizer-written", "synced", "renamed"):
    assert os.WTERMSIG(os.waitpid(fork(until, step), 0)[1]) == signal.SIGKILL
"""


def test_killed_while_a_checkpoint_is_written_the_one_before_is_usable(
    corpus: Make, recipe: Make, tmp_path: Path, other_process: Make
) -> None:
    made = corpus(n=8)
    chosen = recipe(*QUIET, "steps_per_epoch=4", "checkpoint.every_steps=2", "checkpoint.keep=1")
    train(made, chosen, tmp_path / "whole")
    other_process(made, chosen, KILLED)
    for step in ("weights-written", "optimizer-written", "synced", "renamed"):
        found = checkpoints(tmp_path / step)
        assert [each.step for each in found] == ([2, 4] if step == "renamed" else [2])
        assert load_run(tmp_path / step).info["status"] == "running"
        train(made, chosen, tmp_path / step, resume=True)
        assert same(tmp_path / "whole", tmp_path / step)
        assert [path.name for path in (tmp_path / step / "checkpoints").iterdir()] == ["step-00000004"]


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def stopped(made: Any, chosen: Any, path: Path) -> None:
    with pytest.raises(Stop):
        train(made, chosen, path, on_progress=stop_after(3))


def test_a_training_does_not_go_on_with_features_that_were_made_anew(
    corpus: Make, recipe: Make, tmp_path: Path
) -> None:
    made, sets = corpus(n=8), (*QUIET, "checkpoint.every_steps=1")
    stopped(made, recipe(*sets), tmp_path / "run")
    state = checkpoints(tmp_path / "run")[-1].path / "state.json"
    spec = made.store.resolve("mae_340_UTT")
    with made.store.writer() as writer:
        writer.add(spec, made.store.clip_row("clip_003")[0], -made.memory["mae_340_UTT"]["clip_003"])
    with pytest.raises(TrainError, match=r"force them by name: checksums\."):
        train(made, None, tmp_path / "run", resume=True)
    earlier = json.loads(state.read_text())
    del earlier["identity"]["checksums"]  # as an earlier version wrote it
    state.write_text(json.dumps(earlier))
    (state.parent / "digests.json").unlink()
    train(made, None, tmp_path / "run", resume=True)


def test_what_has_changed_since_is_told_in_a_table(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made, sets = corpus(n=8), (*QUIET, "checkpoint.every_steps=1")
    stopped(made, recipe(*sets), tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    changed = recipe(*sets, "lr=0.005", "lora.dropout=0.5")
    with pytest.raises(TrainError) as caught:
        train(made, changed, tmp_path / "run", resume=True)
    lines = str(caught.value).splitlines()
    assert lines[1].split() == ["what", "then", "now"]
    assert lines[2].split() == ["recipe.lora.dropout", "0.05", "0.5"]
    assert lines[3].split() == ["recipe.lr", "0.01", "0.005"]
    assert (tmp_path / "run" / "run.json").read_bytes() == before  # a refusal changes nothing

    made.clips[0] = replace(made.clips[0], label=Label("sad"))
    with pytest.raises(TrainError, match=r'data  *"'):
        train(made, None, tmp_path / "run", resume=True)
    with pytest.raises(TrainError, match=r"force them by name: data\."):
        train(made, recipe(*sets, "lr=0.005"), tmp_path / "run", resume=True, force=["recipe.lr"])
    with pytest.raises(UsageError, match=r"Forced lora, which does not differ. What differs: data"):
        train(made, None, tmp_path / "run", resume=True, force=["lora"])
    train(made, recipe(*sets, "lr=0.005"), tmp_path / "run", resume=True, force=["recipe", "data"])
    forced = load_run(tmp_path / "run").info["resumed"][0]["forced"]
    assert [each["name"] for each in forced] == ["recipe.lr", "data"]
    assert load_recipe(tmp_path / "run" / "recipe.yaml").lr == 0.005


def test_another_store_or_code_version_is_refused(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, chosen = corpus(n=8), recipe(*QUIET, "checkpoint.every_steps=1")
    stopped(made, chosen, tmp_path / "run")
    copy = replace(corpus(n=8, path=tmp_path / "again.emo"), clips=made.clips)
    with pytest.raises(TrainError, match=r"store  *\"[0-9a-f]{32}\""):
        train(copy, None, tmp_path / "run", resume=True)
    from emo.train.llm import identity

    real = identity.versions
    monkeypatch.setattr(identity, "versions", lambda *names: real(*names) | {"emo": "9.9"})
    with pytest.raises(TrainError, match=r"version.emo  *\"[\w.]+\"  *\"9.9\""):
        train(made, None, tmp_path / "run", resume=True)
    train(made, None, tmp_path / "run", resume=True, force=["version"])


def test_every_feature_is_in_the_identity(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus(n=8)
    stopped(made, recipe(*QUIET, "checkpoint.every_steps=1"), tmp_path / "run")
    then = checkpoints(tmp_path / "run")[-1].state["identity"]
    assert then["feature"] == {each.spec.name: each.spec.fingerprint for each in made.store.features()}
    now = {**then, "feature": then["feature"] | {"HL-UTT": "0" * 32}}
    with pytest.raises(TrainError, match=r"feature.HL-UTT"):
        check_drift(then, now, [], "Run x")


def test_every_batch_of_every_step_has_a_dropout_of_its_own(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", drawn.append)
    train(corpus(n=8), recipe(*QUIET, "steps_per_epoch=3", "accumulate=2"), tmp_path / "run")
    assert len(set(drawn[-6:])) == 6  # three steps of two batches


def test_differences_name_nested_keys_and_what_is_absent() -> None:
    found = differences({"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1}, "d": "x"})
    assert [(each.name, each.then, each.now) for each in found] == [("a.c", "2", "(absent)"), ("d", "null", '"x"')]
    assert check_drift({"a": 1}, {"a": 1}, [], "Run x") == []


def test_the_newest_and_the_best_are_kept(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.2, 0.7, 0.4, 0.7])
    from emo.train.llm.validate import Validation

    real = Validation.score

    def scored(self: Any, rows: Any) -> Any:
        return replace(real(self, rows), f1_weighted=next(values, 0.7))

    monkeypatch.setattr(Validation, "score", scored)
    made = corpus()
    result = train(
        made, recipe("validation.every=2", "checkpoint.every_steps=1", "checkpoint.keep=2"), tmp_path / "run"
    )
    assert [each.step for each in checkpoints(tmp_path / "run")] == [4, 7, 8]
    assert result.run.info["best"] == {"step": 4, "value": 0.7}  # a tie keeps the earlier one
    assert result.run.info["checkpoint"] == "checkpoints/step-00000004"
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    assert history == [{"step": 2 * i + 2, "f1_weighted": v} for i, v in enumerate([0.2, 0.7, 0.4, 0.7])]


def test_a_damaged_checkpoint_is_none(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus(n=8)
    stopped(made, recipe(*QUIET, "checkpoint.every_steps=1"), tmp_path / "run")
    newest = checkpoints(tmp_path / "run")[-1]
    (newest.path / "state.json").write_text("{")
    assert checkpoints(tmp_path / "run")[-1].step == newest.step - 1
    (tmp_path / "run" / "checkpoints" / ".step-00000009.1.new").mkdir()
    prune(tmp_path / "run", 1, None)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emo.train.llm import resume

    made, chosen = corpus(n=8), recipe(*QUIET, "checkpoint.every_steps=2")
    real, calls = resume.save_file, list[Any]()

    def full(tensors: Any, path: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real(tensors, path)

    monkeypatch.setattr(resume, "save_file", full)
    with pytest.raises(TrainError, match="step-00000004 cannot be written: I/O error: No space left") as caught:
        train(made, chosen, tmp_path / "run")
    assert "--resume run" in caught.value.hint
    assert [each.step for each in checkpoints(tmp_path / "run")] == [2]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))  # nothing half written takes space
    fewer = recipe(*QUIET, "checkpoint.every_steps=3", "checkpoint.keep=1", "log_every=2")
    train(made, fewer, tmp_path / "run", resume=True)  # which changes nothing of what is learned
    train(made, chosen, tmp_path / "whole")
    assert same(tmp_path / "whole", tmp_path / "run")


def test_ctrl_c_finishes_the_step_and_saves(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made, chosen = corpus(n=8), recipe(*QUIET)

    def press(progress: Progress) -> None:
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 3 of 8"):
        train(made, chosen, tmp_path / "run", on_progress=press)
    assert load_run(tmp_path / "run").info["status"] == "interrupted"
    assert [each.step for each in checkpoints(tmp_path / "run")] == [3]
    train(made, None, tmp_path / "run", resume=True)
    train(made, chosen, tmp_path / "whole")
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_finished_or_foreign_run_does_not_go_on(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made, chosen = corpus(n=8), recipe(*QUIET, "steps_per_epoch=1")
    train(made, chosen, tmp_path / "run")
    with pytest.raises(UsageError, match="run is finished"):
        train(made, None, tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="holds a run already"):
        train(made, chosen, tmp_path / "run")
    with pytest.raises(UsageError, match="no run folder"):
        train(made, None, tmp_path / "nothing", resume=True)
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "run.json").write_text('{"kind": "head", "status": "failed"}')
    with pytest.raises(UsageError, match="of kind head, not a tuned language model"):
        train(made, None, tmp_path / "head", resume=True)


# ---- the run folder -------------------------------------------------------------------------------------------------


def test_the_run_folder_says_what_happened(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made, seen = corpus(), list[Progress]()
    chosen = recipe("validation.every=4", "validation.answers=official")
    result = train(made, chosen, tmp_path / "run", on_progress=seen.append)
    info = load_run(tmp_path / "run").info
    assert info == result.run.info
    assert (info["kind"], info["status"], info["layout"]) == ("tune", "finished", "train_consistent")
    assert [feature["key"] for feature in info["features"]] == [
        made.store.resolve(name).key for name in ("eva_g_448", "mae_340_UTT", "maeV_399_UTT", "HL-UTT")
    ]
    assert "tiny profile (random weights)" in info["notes"][0]
    assert "The language model is tiny and has random weights" in info["notes"][1]
    assert "5 clips of the recipe without transcript" in info["notes"][2]
    assert info["left_out"] == {"split test1": [f"clip_{i:03d}" for i in range(24, 30)]}
    assert (info["n_train"], info["n_validation"]) == (20, 4)
    parts = json.loads((tmp_path / "run" / "clips.json").read_text())
    assert set(parts["train"]).isdisjoint(parts["validation"])
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == chosen.model_copy(update={"dtype": "fp32"})

    steps = [each for each in seen if each.loss is not None]
    assert [each.step for each in steps] == list(range(1, 9))
    assert all(each.mfu is None and each.memory_bytes is None for each in steps)  # a CPU has no known peak
    assert all((each.samples_per_s or 0) > 0 and (each.tokens_per_s or 0) > 0 for each in steps)
    assert steps[-1].eta_s == 0
    assert next((each.step, each.best) for each in seen if each.metric is not None) == (4, True)
    assert [row["step"] for row in log(tmp_path / "run")] == [each.step for each in seen]

    truth = {clip.id: clip.label for clip in made.clips if clip.id in parts["validation"]}
    again = score(truth, read_predictions(tmp_path / "run" / "predictions.jsonl"), "official", chosen.scored)
    assert result.validation is not None
    assert again == result.validation  # the same code as `emo score`
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["validation"]["f1_weighted"] == info["best"]["value"] == again.f1_weighted


def test_tensorboard_is_told_what_the_log_is_told(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    """And of every step once, though two of them were made twice."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made, run = corpus(), tmp_path / "run"
    chosen = recipe("tensorboard=true", "validation.every=4", "checkpoint.every_steps=4")
    with pytest.raises(Stop):
        train(made, chosen, run, on_progress=stop_after(6))
    train(made, None, run, resume=True)
    board = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    rows = [row for row in log(run) if "metric" not in row]
    assert [row["step"] for row in rows] == list(range(1, 9))
    told = {"loss", "lr", "samples_per_s", "tokens_per_s"}  # a CPU has neither MFU nor GPU memory
    assert set(board.Tags()["scalars"]) == {f"train/{name}" for name in told} | {"validation/f1_weighted"}
    measured = [row for row in log(run) if "metric" in row]
    pairs = [(f"train/{name}", name, rows) for name in told] + [("validation/f1_weighted", "metric", measured)]
    for tag, name, expected in pairs:
        events = board.Scalars(tag)
        assert [event.step for event in events] == [row["step"] for row in expected]
        assert [event.value for event in events] == pytest.approx([row[name] for row in expected])


def test_tensorboard_is_optional_and_its_absence_is_said_before_the_first_step(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    made, sets = corpus(n=4), (*QUIET, "steps_per_epoch=1")
    train(made, recipe(*sets), tmp_path / "plain")
    assert not (tmp_path / "plain" / "tensorboard").exists()
    with pytest.raises(UsageError, match="needs the package tensorboard") as caught:
        train(made, recipe(*sets, "tensorboard=true"), tmp_path / "run")
    assert caught.value.hint == f"Install it: {install_command('tensorboard')}."
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_real_tokens_are_counted_not_padded_ones(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus(n=4)
    seen: list[int] = []
    from emo.train.llm.progress import Meter

    real = Meter.add

    def add(self: Any, loss: float, tokens: int, samples: int) -> None:
        seen.append(tokens)
        real(self, loss, tokens, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meter, "add", add)
        for size in (1, 4):
            sets = (*DRY, "steps_per_epoch=1", f"batch_size={size}", f"accumulate={4 // size}")
            train(made, recipe(*sets), tmp_path / str(size))
    assert seen[0] == seen[1]


def test_a_checkpoint_chosen_on_a_test_list_is_confessed(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    result = train(corpus(), recipe("steps_per_epoch=1", "validation.split=test1"), tmp_path / "run")
    assert "chosen on split test1, a test list" in " ".join(result.run.info["notes"])
    honest = train(corpus(path=tmp_path / "b.emo"), recipe("steps_per_epoch=1"), tmp_path / "honest")
    assert "test list" not in " ".join(honest.run.info["notes"])


def test_emotions_of_a_file_that_are_not_the_labels_are_said(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus(n=12)
    for name, second in (("same", made.clips[1].label.emotion), ("other", made.clips[2].label.emotion)):
        (tmp_path / f"{name}.txt").write_text(f"clip_000 1 {made.clips[0].label.emotion}\nclip_001 1 {second}\n")
        result = train(
            made,
            recipe("steps_per_epoch=1", "validation.holdout=0", f"data.emotion=[{tmp_path}/{name}.txt]"),
            tmp_path / name,
        )
        said = "1 clip is trained on another emotion than its label, by which validation and scores go: clip_001."
        assert (said in result.run.info["notes"]) == (name == "other")


def test_validation_clips_that_are_copies_of_clips_to_train_on_are_named(
    corpus: Make, recipe: Make, tmp_path: Path
) -> None:
    made = corpus()
    with made.store.writer() as writer:
        writer.clip("copy", made.store.clip_row("clip_003")[0])
    clips = [*made.clips, Clip("copy", split="test1", label=Label("sad"))]
    run = train(replace(made, clips=clips), recipe("validation.split=test1", "steps_per_epoch=1"), tmp_path / "run").run
    told = "1 validation clip has the content of clips that are trained on: copy is clip_003. "
    assert any(note.startswith(told) for note in run.info["notes"])


def test_what_training_cuts_off_is_said_and_a_label_is_never_cut(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus()
    with pytest.raises(UsageError, match="8 ids of an answer are too few for surprise"):
        train(made, recipe(*QUIET, "max_txt_len=8"), tmp_path / "short")  # a byte an id, and the end
    (tmp_path / "long.csv").write_text(f"name,caption\nclip_000,{'He smiles. ' * 60}\nclip_001,He frowns.\n")
    sets = ("tasks={reason: 1}", "data.reason=[{file: long.csv, field: caption}]", "max_txt_len=200", *QUIET)
    clips = [replace(c, transcripts={"english": "Well. " * 900}) if c.id == "clip_001" else c for c in made.clips]
    told = recipe(*sets, "steps_per_epoch=1")
    notes = train(replace(made, clips=clips), told, tmp_path / "run", roots=[tmp_path]).run.info["notes"]
    assert "1 clip has an answer of more than 200 ids, cut there in training: clip_000." in notes
    question = "their ends, with the question, are cut off in training"
    assert f"1 clip has a prompt of more than 3,801 rows; {question}: clip_001." in notes
    assert "1 clip has a prompt of more rows than the 4,096 of the language model: clip_001." in notes


def test_clips_without_features_follow_the_policy_and_are_recorded(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus(without="clip_002")
    sets = ("steps_per_epoch=1", *QUIET)
    with pytest.raises(FeatureMissing, match=r"mae_340_UTT: clip_002 \(no-face\)"):
        train(made, recipe(*sets, "missing=error"), tmp_path / "error")
    assert load_run(tmp_path / "error").info["status"] == "failed"
    skip = train(made, recipe(*sets, "missing=skip"), tmp_path / "skip").run.info
    assert (skip["skipped"], skip["n_train"]) == (["clip_002"], 23)
    assert "1 clip lacks features and was left out: clip_002." in skip["notes"]
    zeros = train(made, recipe(*sets, "missing=zeros"), tmp_path / "zeros").run.info
    assert (zeros["zeroed"], zeros["n_train"]) == (["clip_002"], 24)
    assert "1 clip lacks features and was filled with zeros: clip_002." in zeros["notes"]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_with_the_names(
    corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from emo.train.llm.emotion_llama.model import EmotionLlama

    real = EmotionLlama.forward
    calls: list[int] = []

    def forward(self: Any, batch: Any) -> Any:
        calls.append(1)
        loss, n = real(self, batch)
        if len(calls) < 6:  # two steps of two batches, and the first batch of the third
            return loss, n
        if what == "gradient":
            loss.register_hook(lambda gradient: gradient * float("nan"))
            return loss, n
        return loss * float("nan"), n

    monkeypatch.setattr(EmotionLlama, "forward", forward)
    made, chosen = corpus(n=12), recipe(*QUIET, "batch_size=2", "accumulate=2", "checkpoint.every_steps=1")
    with pytest.raises(TrainError, match=rf"The {what} is not finite at step 3") as caught:
        train(made, chosen, tmp_path / "run")
    assert caught.value.message.count("clip_") == (2 if what == "loss" else 4)
    assert "step-00000002" in caught.value.hint
    assert checkpoints(tmp_path / "run")[-1].step == 2
    assert all(torch.isfinite(each).all() for each in weights(tmp_path / "run").values())


def test_gradients_are_clipped_by_their_norm(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made = corpus(n=8)
    for name, value in (("none", "null"), ("loose", "1e9"), ("tight", "1e-9")):
        train(made, recipe(*DRY, "steps_per_epoch=2", f"grad_clip={value}"), tmp_path / name)
    assert same(tmp_path / "none", tmp_path / "loose")
    assert not same(tmp_path / "none", tmp_path / "tight")


# ---- data and weights to start from ---------------------------------------------------------------------------------


def test_reasoning_captions_of_merr_are_learned(corpus: Make, recipe: Make, shared: Path, tmp_path: Path) -> None:
    source = shared / "data/merr/MERR_fine_grained.json"
    first = dict(list(json.loads(source.read_text()).items())[:24])
    made = corpus()
    renamed = {f"clip_{i:03d}": entry for i, entry in enumerate(first.values())}
    (tmp_path / "fine.json").write_text(json.dumps(renamed))
    nine = "labels=[neutral, angry, happy, sad, worried, surprise, fear, contempt, doubt]"
    tasks = ["tasks={emotion: 1, reason_v2: 2}", "prompts.reason_v2=['Why so?']", nine]
    sets = [*tasks, "data={emotion: [fine.json], reason_v2: [fine.json]}", "steps_per_epoch=3", *QUIET]
    result = train(made, recipe(*sets, "max_txt_len=200"), tmp_path / "run", roots=[tmp_path])
    assert result.run.info["tasks"] == {"emotion": 24, "reason_v2": 24}
    assert result.run.info["files"] == {"fine.json": str(tmp_path / "fine.json")}
    with pytest.raises(UsageError, match=r"The annotation file fine.json, which data.emotion of") as caught:
        train(made, recipe(*sets), tmp_path / "lost")
    assert "Looked at: " in caught.value.hint
    assert "--set 'data.emotion=[FILE]'" in caught.value.hint
    sets[3] = "data={emotion: [clips], reason_v2: [MERR_mine.json]}"
    with pytest.raises(UsageError, match=r"MERR_mine.json, which data.reason_v2 of") as caught:
        train(made, recipe(*sets), tmp_path / "lost too")
    assert "The README of ZebangCheng/Emotion-LLaMA links it" in caught.value.hint


def test_a_second_stage_starts_from_the_first(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    made, short = corpus(n=8), (*QUIET, "steps_per_epoch=1")
    train(made, recipe(*short), tmp_path / "first")
    begun = ("lr=1e-30", "min_lr=0", "warmup_lr=0", "weight_decay=0")  # nothing moves
    second = train(made, recipe(*short, *begun, "init_from=first"), tmp_path / "second")
    assert same(tmp_path / "first", tmp_path / "second")
    assert second.run.info["init_from"] == "first"
    fresh = train(made, recipe(*short, *begun), tmp_path / "fresh")
    assert not same(tmp_path / "first", fresh.run.path)
    with pytest.raises(WeightsMissing, match="init_from: nowhere is no name under"):
        train(made, recipe(*short, "init_from=nowhere"), tmp_path / "x")
    with pytest.raises(WeightsMissing, match="language model 'llama' is no name under"):
        train(made, recipe(*short, "llm=llama"), tmp_path / "y")


def test_an_official_checkpoint_is_taken_with_a_report(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    from emo.train.llm.answer import load_tuned
    from emo.train.llm.emotion_llama.checkpoint import export_official

    made, short = corpus(n=8), (*QUIET, "steps_per_epoch=1")
    train(made, recipe(*short), tmp_path / "first")
    model, _, _ = load_tuned(made.store, tmp_path / "first", ["clip_000"], "cpu")
    export_official(model, tmp_path / "official.pth", {"max_txt_len": 64})
    begun = ("lr=1e-30", "min_lr=0", "warmup_lr=0", "weight_decay=0", "init_from=stage1", "max_txt_len=60")
    table = {"stage1": str(tmp_path / "official.pth")}
    result = train(made, recipe(*short, *begun), tmp_path / "second", weights=table)
    assert same(tmp_path / "first", tmp_path / "second")
    assert result.run.info["imported"]["consumed"] == 18
    assert result.run.info["imported"]["missing"] == []
    assert "The checkpoint was trained with max_txt_len 64, the recipe has max_txt_len 60." in result.run.info["notes"]


def test_text_only_needs_no_store(recipe: Make, tmp_path: Path) -> None:
    said = {"english": "I am fine."}
    clips = [Clip(f"c{i}", split="train", label=Label(["sad", "happy"][i % 2]), transcripts=said) for i in range(20)]
    chosen = recipe("features={tokens: null, streams: []}", "steps_per_epoch=2")
    result = tune(None, clips, chosen, tmp_path / "run", "cpu")
    assert result.run.info["features"] == []
    assert "Text only" in " ".join(result.notes)


def test_standardised_streams_are_seen_alike_whatever_their_scale(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    sets = ("features.tokens=null", "steps_per_epoch=3", *DRY)
    losses = {}
    for scale in (1.0, 30.0):
        made = corpus(scale=scale, path=tmp_path / f"{scale}.emo")
        for how in ("true", "false"):
            train(made, recipe(*sets, f"standardise={how}"), tmp_path / f"{scale}-{how}")
            losses[scale, how] = [row["loss"] for row in log(tmp_path / f"{scale}-{how}")]
    assert losses[1.0, "true"] == pytest.approx(losses[30.0, "true"], rel=1e-4)
    assert losses[1.0, "false"] != pytest.approx(losses[30.0, "false"], rel=1e-4)
    rows = torch.stack([torch.from_numpy(made.memory["HL-UTT"][clip.id][0]) for clip in made.clips[:24]]).double()
    kept = weights(tmp_path / "30.0-true")
    torch.testing.assert_close(kept["feats_mean3"].double(), rows.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept["feats_deviation3"].double(), rows.std(0, correction=0), rtol=1e-5, atol=1e-5)
    assert not [name for name in weights(tmp_path / "30.0-false") if "mean" in name]
    with pytest.raises(UsageError, match="init_from"):
        recipe("standardise=true", "init_from=other")
