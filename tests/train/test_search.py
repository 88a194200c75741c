"""Heads trained together are the heads trained one by one, and a search chooses by held-out folds alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emo.featstore.clip import Label
from emo.featstore.errors import TrainError, UsageError
from emo.featstore.page import Table
from emo.train.answers import read_predictions
from emo.train.features import Stream, StreamShape
from emo.train.heads import fit, stack
from emo.train.heads.base import Epoch, Fold, Head, HeadRecipe, Outputs, Targets
from emo.train.heads.fit import Progress, fit_head
from emo.train.heads.noise import Drop, WideDrop, draw_noise
from emo.train.heads.objective import Diverged
from emo.train.heads.search import RUNS, average_parts, best_of_note, check_search, draw, rank, search_parts
from emo.train.metrics.labels import score
from emo.train.recipe import head_class, load_recipe, make_recipe
from emo.train.runs import load_run

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
CLASSES = 3
SETTINGS: dict[str, Sequence[dict[str, Any]]] = {
    "attention": (
        {"hidden": 4, "dropout": 0.2, "lr": 0.01},
        {"hidden": 4, "dropout": 0.5, "lr": 0.001, "weight_decay": 0.1},
        {"hidden": 7, "dropout": 0.0, "lr": 0.01, "grad_clip": 0.01},
        {"hidden": 7, "dropout": 0.3, "lr": 0.01},
    ),
    "attention-mer2023": (
        {"layers": (5, 3), "dropout": 0.3, "lr": 0.01},
        {"layers": (5, 3), "dropout": 0.1, "lr": 0.001},
        {"layers": (6,), "dropout": 0.3, "lr": 0.01, "weight_decay": 0.1},
    ),
    "attention_topn": ({"hidden": 4, "lr": 0.01}, {"hidden": 4, "dropout": 0.5, "lr": 0.001}),
    "lf_dnn": (
        {"hidden": 4, "dropout": 0.2, "lr": 0.01},
        {"hidden": 4, "dropout": 0.5, "lr": 0.001},
        {"hidden": 6, "grad_clip": 0.01},
    ),
    "lmf": (
        {"hidden": 4, "rank": 3, "lr": 0.01},
        {"hidden": 4, "rank": 3, "dropout": 0.5, "weight_decay": 0.1},
        {"hidden": 6, "rank": 1, "lr": 0.01, "grad_clip": 0.01},
    ),
    "misa": (  # with encodings that are not all zero: of equal clips, what they have in common is rounding noise
        {"hidden": 16, "lr": 0.0003, "safe": True, "sim_weight": 0.2, "epochs": 2},
        {"hidden": 16, "lr": 0.0001, "safe": True, "dropout": 0.5, "recon_weight": 0.2, "grad_clip": 0.01, "epochs": 2},
    ),
    "mmim": (
        {"hidden": 8, "lr": 0.003, "safe": True, "alpha": 0.2},
        {"hidden": 8, "lr": 0.001, "safe": True, "dropout": 0.5, "beta": 0.0},
        {"hidden": 8, "lr": 0.003, "cpc_layers": 3, "safe": True},
    ),
    "tfn": (
        {"hidden": 3, "dropout": 0.2, "lr": 0.01},
        {"hidden": 3, "dropout": 0.5, "lr": 0.001},
        {"hidden": 4, "grad_clip": 0.01},
    ),
}


class Material:
    """Three streams that tell the emotion, valence for most clips, and folds whose sizes differ."""

    def __init__(self, n: int = 82) -> None:
        rng = np.random.default_rng(3)
        self.n, self.emotion = n, rng.integers(CLASSES, size=n)
        valence = np.where(rng.random(n) < 0.8, self.emotion - 1.0, np.nan)
        self.targets = Targets(self.emotion, valence)
        rows = [rng.normal(size=(CLASSES, dim))[self.emotion] * 2 + rng.normal(size=(n, dim)) for dim in (6, 5, 3)]
        self.streams = [Stream(f"s{k}", each.astype(np.float32)) for k, each in enumerate(rows)]

    def heads(self, name: str, settings: Sequence[dict[str, Any]], **keys: Any) -> list[Head]:
        """One per settings and fold."""
        kind = head_class(name)
        recipes = [make_recipe({"head": name, "epochs": 6, "batch_size": 16, **keys, **each}) for each in settings]
        shapes = [StreamShape(stream.dim) for stream in self.streams]
        return [kind(recipe, shapes, CLASSES, True, "cpu", 10 + fold) for recipe in recipes for fold in range(3)]

    def parts(self, count: int, told: list[list[Epoch]]) -> list[Fold]:
        found = []
        for i in range(count):
            val = np.arange(i % 3, self.n, 3)

            def measure(out: Outputs, val: np.ndarray = val) -> float:
                assert out.valence is not None
                return -float(np.mean((out.valence - self.emotion[val] + 1) ** 2))  # tells small differences

            told.append([])
            found.append(Fold(np.delete(np.arange(self.n), val), val, measure, told[-1].append))
        return found

    def train(self, heads: list[Head], together: bool, keep: bool = True) -> tuple[list[int], list[list[Epoch]]]:
        told: list[list[Epoch]] = []
        parts, kind = self.parts(len(heads), told), type(heads[0])
        data = kind.prepare(self.streams, "cpu")
        way = kind.fit_all if together else Head.fit_all.__func__.__get__(kind)  # type: ignore[attr-defined]
        return way(heads, data, self.targets, parts, keep), told


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_together_is_one_by_one(name: str, standardise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights, order and masks: losses, metrics, best epochs and trained weights agree to 1e-4."""
    monkeypatch.setattr(stack, "CPU_STACKS", 1)  # all heads of one shape in one stack
    material = Material()
    alone = material.heads(name, SETTINGS[name], standardise=standardise)
    stacked = material.heads(name, SETTINGS[name], standardise=standardise)
    best, told = material.train(alone, together=False)
    best_together, told_together = material.train(stacked, together=True)
    assert best == best_together
    for one, other in zip(told, told_together, strict=True):
        assert [(e.epoch, e.best) for e in one] == [(e.epoch, e.best) for e in other]
        for field in ("loss", "metric"):
            assert [getattr(e, field) for e in other] == pytest.approx([getattr(e, field) for e in one], rel=1e-4)
    for one, other in zip(alone, stacked, strict=True):
        wanted, got = one.state(), other.state()
        assert wanted.keys() == got.keys()
        for key in wanted:
            difference = np.abs(wanted[key] - got[key])
            if key.endswith("self_attn.in_proj_bias"):
                # A bias of all keys changes no attention: its gradient is rounding noise, which Adam takes for steps.
                difference = np.delete(difference, np.s_[len(difference) // 3 : 2 * len(difference) // 3])
            assert difference.max() < 1e-4, key


def test_together_with_other_masks_is_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    material, settings = Material(), SETTINGS["attention"][:1]
    _, told = material.train(material.heads("attention", settings), together=False)
    monkeypatch.setattr(stack, "draw_noise", lambda seed, *rest: draw_noise(seed + 1, *rest))
    _, others = material.train(material.heads("attention", settings), together=True)
    assert others[0][-1].loss != pytest.approx(told[0][-1].loss, rel=1e-2)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
def test_a_wide_mask_is_a_mask_too(p: float) -> None:
    """Each row has its own numbers, as many zeros as it should, and the same ones again for the same two numbers."""
    drop = WideDrop(p)
    drop.noise = torch.randint(-(2**15), 2**15, (64, 2), generator=torch.Generator().manual_seed(0)).short()
    out = drop(torch.ones(64, 5000))
    kept = out > 0
    assert torch.equal(out, drop(torch.ones(64, 5000)))
    assert kept.double().mean().item() == pytest.approx(1 - p, abs=5e-3)
    assert out.max().item() == pytest.approx(1 / (1 - p), rel=1e-6)
    if p:
        likeness = np.corrcoef(kept.numpy())  # of rows
        assert np.abs(likeness - np.eye(64)).max() < 0.08
        assert np.abs(np.corrcoef(kept.numpy()[:, :64].T) - np.eye(64)).max() < 0.65  # of columns, over 64 rows
    assert torch.equal(drop.eval()(torch.ones(2, 8)), torch.ones(2, 8))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.999])
def test_a_mask_keeps_as_many_as_it_should_and_scales_them(p: float) -> None:
    drop = Drop(8, p)
    drop.noise = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(-1, 8)  # every number once
    out = drop(torch.ones(2**13, 8))
    assert (out == 0).double().mean().item() == pytest.approx(p, abs=1e-5)
    assert out.max().item() == pytest.approx(1 / (1 - p), rel=1e-6)
    assert torch.equal(drop.eval()(torch.ones(2, 8)), torch.ones(2, 8))


def test_the_number_of_cores_changes_no_bit() -> None:
    material, threads, states = Material(), torch.get_num_threads(), []
    try:
        for cores in (1, 3):
            torch.set_num_threads(cores)
            heads = material.heads("attention", SETTINGS["attention"])
            _, told = material.train(heads, together=True)
            states.append(([head.state() for head in heads], told))
            assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(threads)
    (one, told), (other, told_again) = states
    assert told == told_again
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_head_that_diverges_takes_no_other_with_it(threads: int) -> None:
    material, before = Material(), torch.get_num_threads()
    settings = [{"hidden": 4, "lr": 0.01}, {"hidden": 4, "lr": 1e30}]
    try:
        torch.set_num_threads(threads)
        best, told = material.train(material.heads("attention", settings), together=True, keep=False)
        alone, _ = material.train(material.heads("attention", settings[:1]), together=True, keep=False)
        assert best == [*alone, 0, 0, 0]
        assert all(math.isnan(epochs[-1].metric) and len(epochs) < 6 for epochs in told[3:])
        with pytest.raises(TrainError, match="diverged at epoch"):
            material.train(material.heads("attention", settings), together=True)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", ["misa", "mmim"])
def test_what_is_not_finite_in_the_reference_is_caught_and_safe_is_finite(name: str, together: bool) -> None:
    """misa: a batch of one clip; mmim: an encoding of zeros. One epoch shows it, though its loss may be finite."""
    material, found = Material(33), []
    for safe in (False, True):
        heads = material.heads(name, [{"hidden": 4, "safe": safe, "epochs": 1, "batch_size": 21}])
        if name == "mmim":
            for head in heads:
                torch.nn.init.constant_(head.net.net.text_encoder.linear_3.bias, -1e3)
        best, told = material.train(heads, together, keep=False)
        found.append(best)
        assert all(math.isfinite(epochs[-1].metric) == safe for epochs in told)
        if not safe:
            with pytest.raises(TrainError, match="diverged at epoch 1") as caught:
                material.train(heads, together)
            assert ("gradient of a batch of one clip is not finite" in caught.value.message) == (name == "misa")
            helps = "22 clips in batches of 21 leave one for the last: --set batch_size=23 leaves no batch of one."
            assert caught.value.hint == (helps if name == "misa" else "Lower lr, or look for broken features.")
    assert found == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("together", [False, True])
def test_a_batch_of_one_clip_is_named_only_where_it_is_the_cause(together: bool) -> None:
    """A learning rate that is too high is told as before; and the batch size that is named helps."""
    material = Material(33)
    heads = material.heads("attention", [{"hidden": 4, "lr": 1e30, "batch_size": 21}])
    with pytest.raises(TrainError, match=r"validation metric \w+\. Lower lr") as caught:
        material.train(heads, together)
    assert caught.value.hint.startswith("Lower lr")
    for standardise in (False, True):
        keys = {"hidden": 16, "epochs": 1, "standardise": standardise}
        with pytest.raises(TrainError, match="one clip") as caught:
            material.train(material.heads("misa", [keys | {"batch_size": 1}]), together)
        assert caught.value.hint == "Batches have one clip each: --set batch_size=6 leaves no batch of one."
        best, _ = material.train(material.heads("misa", [keys | {"batch_size": 23}]), together)
        assert best == [1, 1, 1]


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_draws_are_merbenchs_ranges_and_a_function_of_the_seed() -> None:
    recipe = make_recipe({"head": "attention"})
    draws = draw(recipe, 50)
    assert draws == draw(recipe, 50)
    assert [each.settings for each in draws] != [
        each.settings for each in draw(make_recipe({"head": "attention", "seeds": [1]}), 50)
    ]
    assert {each.settings["hidden"] for each in draws} == {64, 128, 256}
    assert {each.settings["dropout"] for each in draws} == {0.2, 0.3, 0.4, 0.5}
    assert {each.settings["lr"] for each in draws} == {1e-3, 1e-4}
    for each in draws:
        assert {key: getattr(each.recipe, key) for key in each.settings} == each.settings
        assert each.recipe.seeds == (each.seed,)


def test_nothing_is_drawn_twice_under_one_seed() -> None:
    draws = draw(make_recipe({"head": "attention"}), 50)  # 24 settings
    assert len({(str(each.settings), each.seed) for each in draws}) == 50
    assert [each.seed for each in draws] == [0] * 24 + [1] * 24 + [2] * 2
    nine = draw(make_recipe({"head": "attention-mer2023"}), 9)  # each rate three times, as run_release.sh does
    assert sorted(each.settings["lr"] for each in nine) == [1e-5] * 3 + [1e-4] * 3 + [1e-3] * 3


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"epochs": [1]}, "search: epochs cannot be searched, but hidden, dropout, lr"),
        ({"layers": [[1]]}, "search: layers cannot be searched"),
        ({"lr": []}, "search.lr: no values"),
        ({"lr": [0.1, -1]}, r"search\.lr: -1: .*greater than 0"),
    ],
)
def test_a_wrong_range_is_named_when_the_recipe_is_read(search: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_recipe({"head": "attention", "search": search})


def test_the_leaderboard_goes_by_the_mean_of_all_folds_and_leaves_out_what_diverged() -> None:
    draws = draw(make_recipe({"head": "attention", "search": {"lr": [0.1, 0.2, 0.3]}}), 4)
    values = {0.1: [0.5, 0.7], 0.2: [0.9, None], 0.3: [0.6, 0.8]}
    folds = [
        [{"fold": i, "best_epoch": v and 1, "f1": v} for i, v in enumerate(values[d.settings["lr"]])] for d in draws
    ]
    board = rank(draws, folds, "f1")
    assert [row["settings"]["lr"] for row in board] == [0.3, 0.1, 0.2]
    assert [row["mean"] for row in board] == [pytest.approx(0.7), pytest.approx(0.6), None]
    assert board[0]["spread"] == pytest.approx(np.std([0.6, 0.8] * (board[0]["models"] // 2), ddof=1))
    assert sum(row["models"] for row in board) == 8
    assert rank(draws[:1], [[{"fold": 0, "best_epoch": 1, "f1": 0.5}]], "f1")[0]["spread"] is None
    with pytest.raises(TrainError, match="under all settings"):
        rank(draws, [[{"fold": 0, "best_epoch": None, "f1": None}]] * 4, "f1")


# ---- a whole run -----------------------------------------------------------------------------------------------------


def recipe_of(head: str = "attention", **keys: Any) -> HeadRecipe:
    ranges = {"hidden": [4, 8], "lr": [0.01, 0.001]} if head == "attention" else {"lr": [0.01, 0.001]}
    return make_recipe({"head": head, "folds": 3, "epochs": 4, "search": ranges, **keys})


def run(filled: Any, folder: Path, recipe: HeadRecipe | None = None, search: int = 5, **options: Any) -> Any:
    store, clips = filled
    return fit_head(store, clips, LABELS, recipe or recipe_of(), folder, "cpu", search=search, **options)


def test_every_value_is_what_a_plain_run_of_these_settings_gives(fill: Callable[..., Any], tmp_path: Path) -> None:
    found = run(fill(), tmp_path / "search").search
    assert found["drawn"] == 5
    assert found["possible"] == 4
    tried = 0
    for row in found["configurations"]:
        for each in row["draws"]:
            store, clips = fill()
            plain = recipe_of(**row["settings"], seeds=[each["seed"]])
            folder = tmp_path / f"plain-{tried}"
            fit_head(store, clips, LABELS, plain, folder, "cpu")
            members = json.loads((folder / "metrics.json").read_text())["members"]
            assert [fold["best_epoch"] for fold in each["folds"]] == [member["best_epoch"] for member in members]
            wanted = [member["combined"] for member in members]
            assert [fold["combined"] for fold in each["folds"]] == pytest.approx(wanted, abs=1e-4)
            tried += 1
    assert tried == 5


def test_settings_that_diverge_when_trained_again_are_named_and_the_next_are_taken(
    fill: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tried = fit._train, []

    def train(material: Any, plan: Any, *rest: Any) -> Any:
        tried.append({name: getattr(plan.recipe, name) for name in plan.recipe.search})
        if len(tried) == 1:
            raise Diverged("Training diverged at epoch 2: loss nan, validation metric nan.")
        return whole(material, plan, *rest)

    monkeypatch.setattr(fit, "_train", train)
    result = run(fill(), tmp_path / "run", recipe_of("attention"))
    search = json.loads((tmp_path / "run/search.json").read_text())
    board = search["configurations"]
    assert search["chosen"] == tried[1] == board[0]["settings"]
    last = board[-1]
    assert (last["settings"], last["again"][:28]) == (tried[0], "Training diverged at epoch 2")
    assert last["mean"] >= board[0]["mean"]
    assert [row["rank"] for row in board] == list(range(1, len(board) + 1))
    assert any("diverged when trained again" in note for note in result.notes)
    table, *_ = search_parts(result.search)
    assert isinstance(table, Table)
    assert "diverged" in table.rows[-1]

    def never(*_: Any) -> Any:
        raise Diverged("Training diverged at epoch 1: loss nan, validation metric nan.")

    monkeypatch.setattr(fit, "_train", never)
    with pytest.raises(TrainError, match="diverged under all settings"):
        run(fill(), tmp_path / "other", recipe_of("attention"))


@pytest.mark.parametrize("head", SETTINGS)
def test_the_best_settings_are_trained_six_times_and_can_be_scored(
    fill: Callable[..., Any], tmp_path: Path, head: str
) -> None:
    store, clips = fill()
    result = run((store, clips), tmp_path / "run", recipe_of(head))
    search = json.loads((tmp_path / "run/search.json").read_text())
    best = search["configurations"][0]
    assert best["mean"] == max(row["mean"] for row in search["configurations"])
    assert search["chosen"] == best["settings"]
    written = load_recipe(tmp_path / "run/recipe.yaml")
    assert {key: getattr(written, key) for key in best["settings"]} == best["settings"]
    assert len(written.seeds) == RUNS
    assert not set(written.seeds) & set(search["seeds"])  # a seed that won is not asked again

    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    runs = [each["validation"]["f1_weighted"] for each in metrics["runs"]]
    assert len(runs) == RUNS
    average = metrics["average"]
    assert average["validation"]["f1_weighted"] == {
        "mean": pytest.approx(np.mean(runs)),
        "std": pytest.approx(np.std(runs, ddof=1)),
    }
    assert set(average["splits"]) == {"test1"}
    assert len(list((tmp_path / "run").glob("*.safetensors"))) == RUNS * 3

    truth = {clip.id: clip.label for clip in clips if clip.split == "test1"}
    again = score(truth, read_predictions(tmp_path / "run/predictions.jsonl"), "strict", LABELS)
    assert replace(again, extra=0) == result.splits["test1"]
    table, *_ = search_parts(result.search)
    assert isinstance(table, Table)
    assert len(table.rows) == len(search["configurations"])
    (averages,) = average_parts(result.average)
    assert [row[0] for row in averages.rows] == ["validation", "test1"]


def test_no_test_split_has_a_say(fill: Callable[..., Any], tmp_path: Path) -> None:
    """Other labels and other features of the test clips: the same choice, byte by byte."""
    store, clips = fill(test=20)
    run((store, clips), tmp_path / "a")
    before = json.loads((tmp_path / "a/metrics.json").read_text())
    for each in clips:
        if each.split == "test1":
            for rows in store.rows.values():
                rows[each.id] = -rows[each.id]
    turned = [replace(c, label=Label("surprise", 9.0)) if c.split == "test1" else c for c in clips]
    run((store, turned), tmp_path / "b")
    after = json.loads((tmp_path / "b/metrics.json").read_text())
    assert (tmp_path / "a/search.json").read_bytes() == (tmp_path / "b/search.json").read_bytes()
    assert (tmp_path / "a/recipe.yaml").read_bytes() == (tmp_path / "b/recipe.yaml").read_bytes()
    assert before["validation"] == after["validation"]
    assert before["splits"] != after["splits"]


def test_thirteen_clips_can_be_searched(fill: Callable[..., Any], tmp_path: Path) -> None:
    result = run(fill(n=13, classes=6, test=0), tmp_path / "run", recipe_of(folds=20))
    assert "13 labelled clips allow 13 folds instead of 20." in result.notes
    assert "The settings are the best of 5 draws on the same validation clips." in result.notes
    assert result.search["configurations"][0]["models"] in (13, 26)


def test_a_single_draw_is_not_several() -> None:
    assert best_of_note(1) == "The settings are the best of 1 draw on the same validation clips."


def test_progress_counts_search_and_runs_together(fill: Callable[..., Any], tmp_path: Path) -> None:
    told: list[Progress] = []
    run(fill(), tmp_path / "run", on_progress=told.append)
    assert [each.done for each in told] == list(range(1, (5 + RUNS) * 3 * 4 + 1))
    assert {each.total for each in told} == {(5 + RUNS) * 3 * 4}
    assert {each.drawn for each in told[: 5 * 12]} == set(range(5))
    assert {each.drawn for each in told[5 * 12 :]} == {None}


@pytest.mark.parametrize("at", [7, 80])
def test_an_interrupted_search_is_not_finished(fill: Callable[..., Any], tmp_path: Path, at: int) -> None:
    def stop(now: Progress) -> None:
        if now.done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fill(), tmp_path / "run", on_progress=stop)
    assert load_run(tmp_path / "run").info["status"] == "interrupted"
    assert (tmp_path / "run/search.json").exists() == (at > 60)


def test_who_cannot_be_searched_says_so(fill: Callable[..., Any], tmp_path: Path) -> None:
    for head in ("logistic", "knn"):
        with pytest.raises(
            UsageError, match=f"Head {head} has no epochs.*Heads that can: attention, attention-mer2023"
        ):
            check_search(make_recipe({"head": head}))
    with pytest.raises(UsageError, match="nothing to search"):
        check_search(make_recipe({"head": "attention", "search": {}}))
    with pytest.raises(UsageError, match="counts its seeds"):
        check_search(make_recipe({"head": "attention", "seeds": [0, 1]}))
    with pytest.raises(UsageError, match=r"one row per frame.*Pool them"):
        run(fill(), tmp_path / "run", recipe_of(features=["HL-UTT", "frames"]))


# ---- as typed --------------------------------------------------------------------------------------------------------


def test_search_as_typed(emo: Callable[..., Any], demo: Any, tmp_path: Path) -> None:
    folder = demo[0]
    words = ("train", "--head", "attention", "--cached", "--search", "3", "--set", "epochs=2", "--set", "folds=2")
    shown = emo(*words, "--run", "searched", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    for part in ("3 draws of 24 settings", "rank", "hidden", "Chosen: hidden ", "Mean ± standard deviation of 6 runs"):
        assert part in shown.stdout
    scored = emo("score", "labels.csv#test", "--run", "searched", "--json", cwd=folder)
    assert scored.returncode == 0, scored.stderr
    plain = emo(*words, "--json", cwd=folder)
    value = json.loads(plain.stdout)
    assert value["search"] == json.loads((folder / "runs/searched/search.json").read_text())
    assert {"validation", "splits", "seeds"} == set(value["average"])
    for refused, says in ((("--head", "knn"), "Heads that can"), (("--recipe", "tiny"), "not for language models")):
        before = sorted((folder / "runs").iterdir())
        result = emo("train", *refused, "--cached", "--search", "3", cwd=folder)
        assert (result.returncode, result.stdout) == (2, "")
        assert says in result.stderr
        assert sorted((folder / "runs").iterdir()) == before


def test_values_to_draw_are_numbers_however_yaml_reads_them() -> None:
    """YAML takes 1e-3 for a text."""
    recipe = load_recipe("attention", ["search={lr: [1e-3, 1e-4]}"])
    assert recipe.search == {"lr": (0.001, 0.0001)}
    assert {each.settings["lr"] for each in draw(recipe, 2)} == {0.001, 0.0001}
