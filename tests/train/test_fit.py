"""Training a head from start to finish: honest predictions, exact repetition, everything written down."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import FeatureMissing, TrainError, UsageError
from emo.featstore.workspace import DataTable
from emo.train.heads.base import HeadRecipe, Outputs
from emo.train.heads.ensemble import LogitMean
from emo.train.heads.fit import FitResult, Progress, fit_head
from emo.train.heads.folds import group_clips, make_folds
from emo.train.heads.material import with_classes
from emo.train.heads.predict import HeadAnswerer
from emo.train.recipe import HEADS, head_class, load_recipe, make_recipe
from emo.train.runs import load_run, tell_splits

Fill = Callable[..., Any]
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")


def test_a_dataset_of_numbers_alone_is_learned_by_their_signs(fill: Fill, tmp_path: Path) -> None:
    """MOSI, MOSEI and SIMS have a valence and no emotion word."""
    store, clips = fill()
    mood = {"happy": 1.5, "neutral": 0.0}
    numbers = [
        replace(clip, label=clip.label and Label(None, mood.get(str(clip.label.emotion), -2.0))) for clip in clips
    ]
    folder = tmp_path / "run"
    result = fit_head(store, numbers, (), quick(), folder, "cpu")
    assert load_run(folder).info["labels"] == ["negative", "neutral", "positive"]
    assert result.validation.n == 40
    assert any("Classes are the signs of the valence (negative, neutral, positive)" in each for each in result.notes)
    assert all("valence" in row for row in rows_of(folder))
    given = with_classes(clips, LABELS)
    assert given == (tuple(clips), LABELS)  # words stay what they are


def test_clips_of_one_content_on_both_sides_are_named(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy under another name is known to the folds that trained on the other."""
    store, clips = fill()
    assert not any(
        "content" in note for note in fit_head(store, clips, LABELS, quick("logistic"), tmp_path / "a").notes
    )
    content = {clip.id: clip.id for clip in clips} | {"clip_003": "clip_001", "clip_042": "clip_002"}
    monkeypatch.setattr(store, "clip_row", lambda clip: (content[clip], None, -1, -1))
    said = " ".join(fit_head(store, clips, LABELS, quick("logistic"), tmp_path / "b").notes)
    assert "1 clip has the content of another: clip_003 is clip_001. Folds may train on the one" in said
    assert "1 clip that was left out has the content of clips that are trained on: clip_042 is clip_002." in said
    clips = [replace(clip, speaker="x" if clip.id in ("clip_001", "clip_003") else clip.id) for clip in clips]
    said = " ".join(fit_head(store, clips, LABELS, quick("logistic"), tmp_path / "c").notes)
    assert "clip_003 is clip_001" not in said  # of one speaker: in one fold
    assert "clip_042 is clip_002" in said


# Heads of frames are fitted in test_heads.py and test_heads_trained.py.
OF_UTTERANCES = [name for name in HEADS if not head_class(name).frames_only]
# What the others need to learn, `learns_what_can_be_learned` of the contract knows.
SWIFT = [name for name in OF_UTTERANCES if name not in ("misa", "mmim", "tfn")]


def quick(head: str = "attention", **keys: Any) -> HeadRecipe:
    small = {} if head in ("logistic", "knn") else {"epochs": 8, "lr": 0.01}
    small |= {"hidden": 16} if head == "tfn" else {}
    return make_recipe({"head": head, "folds": 3, **small, **keys})


def rows_of(folder: Path, name: str = "predictions.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def fit(filled: Any, folder: Path, recipe: HeadRecipe | None = None, **options: Any) -> FitResult:
    store, clips = filled
    return fit_head(store, clips, LABELS, recipe or quick(), folder, "cpu", **options)


@pytest.mark.parametrize("head", SWIFT)
def test_every_head_learns_and_fills_its_run_folder(fill: Fill, tmp_path: Path, head: str) -> None:
    filled = fill()
    result = fit(filled, tmp_path / "run", quick(head) if head in ("logistic", "knn") else quick(head, epochs=25))
    assert result.validation.n == 40
    assert result.validation.f1_weighted > 0.9
    assert result.splits["test1"].n == 6
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json",
        "recipe.yaml",
        "log.jsonl",
        "metrics.json",
        "predictions.jsonl",
        "clips.json",
        "digests.json",
        *(f"seed0-fold{fold}.safetensors" for fold in range(3)),
    }
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["validation"] == result.validation.to_json()
    assert [member["n_train"] + member["n_val"] for member in metrics["members"]] == [40, 40, 40]


def test_a_training_clip_is_answered_by_the_fold_that_did_not_see_it(fill: Fill, tmp_path: Path) -> None:
    filled = fill()
    clips = filled[1]
    fit(filled, tmp_path / "run")
    rows = {row["name"]: row for row in rows_of(tmp_path / "run")}
    assert list(rows) == [clip.id for clip in clips]
    folds = make_folds(np.array([LABELS.index(clip.label.emotion) for clip in clips[:40]]), 3, seed=0)
    for fold, part in enumerate(folds):
        assert all(rows[clips[i].id]["folds"] == [fold] for i in part)
    assert all(rows[clip.id]["folds"] is None for clip in clips[40:])
    assert rows["clip_000"]["truth"] == clips[0].label.emotion
    assert "truth" not in rows[clips[-1].id]
    assert sum(rows["clip_000"]["probabilities"].values()) == pytest.approx(1.0)


def test_labels_that_say_nothing_give_a_score_at_chance(fill: Fill, tmp_path: Path) -> None:
    # leakage of the held-out clips into training would show here
    store, clips = fill(n=120, test=0, unlabelled=0)
    for name in list(store.rows):
        rng = np.random.default_rng(1)
        store.rows[name] = {c: rng.normal(size=rows.shape).astype(np.float32) for c, rows in store.rows[name].items()}
    result = fit((store, clips), tmp_path / "run", quick("logistic"))
    assert result.validation.accuracy < 0.5


def test_the_same_recipe_gives_the_same_bytes_again(fill: Fill, tmp_path: Path) -> None:
    features = ["HL-UTT", "frames", {"name": "eva_g_448", "pool": "mean"}]
    for name in ("a", "b"):
        fit(fill(), tmp_path / name, quick(features=features, seeds=[3]))
    files = sorted(path.name for path in (tmp_path / "a").iterdir() if path.name not in ("run.json", "digests.json"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_the_written_recipe_repeats_the_run_and_another_seed_does_not(fill: Fill, tmp_path: Path) -> None:
    fit(fill(), tmp_path / "a")
    fit(fill(), tmp_path / "b", load_recipe(tmp_path / "a/recipe.yaml"))
    fit(fill(), tmp_path / "c", quick(seeds=[1]))
    a, b, c = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_the_written_recipe_has_every_default_resolved(fill: Fill, tmp_path: Path) -> None:
    fit(fill(), tmp_path / "run")
    text = (tmp_path / "run/recipe.yaml").read_text()
    assert set(type(quick()).model_fields) == {line.split(":")[0] for line in text.splitlines() if line[0].isalpha()}
    assert "select_by: combined" in text


def test_epochs_are_chosen_by_f1_where_there_is_no_valence(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    bare = [replace(clip, label=clip.label and Label(clip.label.emotion)) for clip in clips]
    result = fit((store, bare), tmp_path / "run")
    assert "select_by: f1_weighted" in (tmp_path / "run/recipe.yaml").read_text()
    assert result.validation.combined is None
    assert "valence" not in rows_of(tmp_path / "run")[0]
    with pytest.raises(UsageError, match="cannot be chosen by combined"):
        fit((store, bare), tmp_path / "other", quick(select_by="combined"))


def test_the_best_epoch_is_the_one_kept(fill: Fill, tmp_path: Path) -> None:
    fit(fill(), tmp_path / "run", quick(lr=0.001, epochs=12))
    log = rows_of(tmp_path / "run", "log.jsonl")
    for member in json.loads((tmp_path / "run/metrics.json").read_text())["members"]:
        fold = [row["combined"] for row in log if row["fold"] == member["fold"]]
        assert len(fold) == 12
        assert member["best_epoch"] == int(np.argmax(fold)) + 1
        assert member["combined"] == pytest.approx(max(fold), abs=1e-6)  # together and alone add up in another order


def test_thirteen_clips_run_and_the_result_says_what_they_are_worth(fill: Fill, tmp_path: Path) -> None:
    result = fit(fill(n=13, classes=6, test=0, unlabelled=3), tmp_path / "run", quick(folds=5))
    assert "13 clips are too few for a score: it shows that the path works and means nothing else." in result.notes
    tiny = "Features come from the tiny profile (random weights): no number here is an accuracy on people."
    assert result.notes[0] == result.run.info["profile"] == tiny
    assert tiny in json.loads((tmp_path / "run/metrics.json").read_text())["notes"]


def test_fewer_clips_than_folds_reduce_the_folds_and_say_so(fill: Fill, tmp_path: Path) -> None:
    result = fit(fill(n=3, test=1), tmp_path / "run", quick(folds=5))
    assert "3 labelled clips allow 3 folds instead of 5." in result.notes
    with pytest.raises(UsageError, match=r"1 labelled clips with features.*pool, test1, train"):
        fit(fill(n=1, classes=1), tmp_path / "other")


def test_splits_choose_who_trains(fill: Fill, tmp_path: Path) -> None:
    result = fit(fill(), tmp_path / "run", quick(train_splits=["test1_corpus"]))  # by either of its names
    assert result.validation.n == 6
    assert result.splits["train"].n == 40
    assert {row["name"] for row in rows_of(tmp_path / "run") if row["folds"]} == {
        f"clip_{i:03d}" for i in range(40, 46)
    }


def test_paper_features_need_no_excuse(fill: Fill, tmp_path: Path) -> None:
    result = fit(fill(n=120, profile="paper"), tmp_path / "run", quick("logistic"))
    assert result.notes == ()
    assert result.run.info["profile"] == "Features come from the published encoders (paper profile)."


def test_missing_features_follow_the_policy_and_are_recorded(fill: Fill, tmp_path: Path) -> None:
    filled = fill()
    del filled[0].rows["HL-UTT"]["clip_004"]
    with pytest.raises(FeatureMissing, match="HL-UTT: clip_004"):
        fit(filled, tmp_path / "error")
    assert load_run(tmp_path / "error").info["status"] == "failed"
    skipped = fit(filled, tmp_path / "skip", quick(missing="skip"))
    assert skipped.run.info["skipped"] == ["clip_004"]
    assert "1 clip lacks features and was left out: clip_004." in skipped.notes
    zeroed = fit(filled, tmp_path / "zeros", quick(missing="zeros"))
    assert (zeroed.run.info["zeroed"], zeroed.validation.n) == (["clip_004"], 40)
    assert "1 clip lacks features and was filled with zeros: clip_004." in zeroed.notes


def test_classes_that_a_model_has_not_seen_are_said(fill: Fill, tmp_path: Path) -> None:
    """A class of one clip is unknown to the fold that holds it out, one of the test clips alone to all."""
    store, clips = fill()
    few = {"clip_000": "worried", "clip_040": "surprise"}
    changed = [replace(c, label=c.label and Label(few.get(c.id, "happy"))) for c in clips]
    notes = fit_head(store, changed, LABELS, quick("logistic"), tmp_path / "run").notes
    told = "worried (1 of 3 models), surprise (3 of 3 models)."
    assert any(note.startswith("Classes of which a model saw no clip") and note.endswith(told) for note in notes)
    assert not any("Classes of which" in each for each in fit(fill(), tmp_path / "all", quick("logistic")).notes)


def test_progress_counts_every_epoch_of_every_fold_and_seed(fill: Fill, tmp_path: Path) -> None:
    events: list[Progress] = []
    fit(fill(), tmp_path / "run", quick(epochs=2, seeds=[0, 1]), on_progress=events.append)
    assert [event.done for event in events] == list(range(1, 13))
    assert {event.total for event in events} == {12}
    seen = [(event.seed, event.fold, event.epoch) for event in events]
    assert sorted(seen) == [(s, f, e) for s in (0, 1) for f in range(3) for e in (1, 2)]
    assert {event.drawn for event in events} == {None}


def test_an_interrupted_run_is_not_finished(fill: Fill, tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"train it again \(`emo run drop run` frees the name"):
        fit(fill(), tmp_path / "run", on_progress=stop)
    run = load_run(tmp_path / "run")
    assert (run.finished, run.info["status"]) == (False, "interrupted")
    with pytest.raises(UsageError, match="not finished"):
        HeadAnswerer(run, "cpu").answer(fill()[0], [])
    with pytest.raises(UsageError, match="holds a run already"):
        fit(fill(), tmp_path / "run")


def test_training_that_diverges_is_an_error(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    store.rows["HL-UTT"]["clip_003"] = np.full((1, 6), np.nan, np.float32)
    with pytest.raises(TrainError, match=r"diverged at epoch 1: loss .*nan"):
        fit((store, clips), tmp_path / "run")


def test_clips_that_cannot_be_used_are_named(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    with pytest.raises(UsageError, match="1 clip names come more than once: clip_000"):
        fit((store, [*clips, clips[0]]), tmp_path / "a")
    with pytest.raises(UsageError, match="outside the label set: joy"):
        fit((store, [replace(clips[0], label=Label("joy")), *clips[1:]]), tmp_path / "b")


@pytest.mark.parametrize("head", OF_UTTERANCES)
def test_a_saved_run_predicts_new_clips_as_it_predicted_them_in_training(fill: Fill, tmp_path: Path, head: str) -> None:
    store, clips = fill()
    fit((store, clips[:44]), tmp_path / "part", quick(head))
    fit((store, clips), tmp_path / "all", quick(head))
    answers = HeadAnswerer(load_run(tmp_path / "part"), "cpu").answer(store, clips)
    rows = {row["name"]: row for row in rows_of(tmp_path / "all")}
    assert list(answers)[:44] == [clip.id for clip in clips[:44]]
    for clip in clips[44:]:  # these the run has not seen before
        assert answers[clip.id].answer == rows[clip.id]["answer"]
        assert answers[clip.id].probabilities == pytest.approx(rows[clip.id]["probabilities"], abs=1e-6)


def test_a_saved_run_never_answers_a_training_clip_with_a_fold_that_saw_it(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    fit((store, clips), tmp_path / "run")
    rows = {row["name"]: row for row in rows_of(tmp_path / "run")}
    answers = HeadAnswerer(load_run(tmp_path / "run"), "cpu").answer(store, clips[:40])
    assert {name: answer.probabilities for name, answer in answers.items()} == {
        clip.id: rows[clip.id]["probabilities"] for clip in clips[:40]
    }


def test_a_saved_run_refuses_another_feature_of_the_same_name(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    fit((store, clips[:44]), tmp_path / "run")
    store.specs["HL-UTT"] = replace(store.specs["HL-UTT"], weights="seed:1")
    with pytest.raises(FeatureMissing, match="HL-UTT@"):
        HeadAnswerer(load_run(tmp_path / "run"), "cpu").answer(store, clips)


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize(("n", "folds"), [(13, 5), (3373, 5), (5, 5), (7, 3)])
def test_folds_are_even_disjoint_and_a_function_of_the_seed(n: int, folds: int, stratify: bool) -> None:
    emotion = np.random.default_rng(0).choice(6, p=[0.3, 0.25, 0.2, 0.12, 0.1, 0.03], size=n)
    parts = make_folds(emotion, folds, seed=4, stratify=stratify)
    assert sorted(np.concatenate(parts)) == list(range(n))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(np.array_equal(a, b) for a, b in zip(parts, make_folds(emotion, folds, 4, stratify), strict=True))
    if stratify:
        for label in range(6):
            counts = [int((emotion[part] == label).sum()) for part in parts]
            assert max(counts) - min(counts) <= 1
    if n > 100:
        other = make_folds(emotion, folds, 5, stratify)
        assert not all(np.array_equal(a, b) for a, b in zip(parts, other, strict=True))


GROUPED = {
    "speakers of equal size": [Clip(f"c{i}", speaker=f"s{i % 19}") for i in range(380)],
    "speakers of any size": [Clip(f"c{i}", speaker=f"s{int(i**0.5)}") for i in range(100)],
    "few speakers": [Clip(f"c{i}", speaker=f"s{i % 3}") for i in range(30)],
    "speakers and dialogues": [Clip(f"c{i}", speaker=f"s{i // 4}", dialogue=f"d{i // 10}") for i in range(120)],
    "sessions": [Clip(f"c{i}", speaker=f"s{i % 10}", session=f"e{i % 10 // 2}") for i in range(100)],
    "some without a speaker": [Clip(f"c{i}", speaker=f"s{i % 7}" if i % 2 else None) for i in range(60)],
}


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("case", GROUPED)
def test_nobody_is_in_two_folds(case: str, seed: int) -> None:
    clips = GROUPED[case]
    groups = group_clips(clips)
    assert groups.of is not None
    emotion = np.random.default_rng(1).integers(4, size=len(clips))
    count = min(5, len(groups))
    folds = make_folds(emotion, count, seed, True, groups.of)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(clips)))
    assert all(len(fold) for fold in folds)
    for name in groups.by:
        held = [{getattr(clips[i], name) for i in fold} - {None} for fold in folds]
        assert sum(map(len, held)) == len(set().union(*held)), name
    assert all(
        np.array_equal(a, b) for a, b in zip(folds, make_folds(emotion, count, seed, True, groups.of), strict=True)
    )
    if "equal size" in case:
        assert {len(fold) for fold in folds} == {60, 80}  # 19 speakers of 20 clips
        for other in make_folds(emotion, count, seed + 1, True, groups.of):
            assert not any(np.array_equal(other, fold) for fold in folds)
    if case == "sessions":
        assert len(groups) == 5


def test_a_cast_that_talks_in_every_dialogue_is_kept_together_by_speaker_alone() -> None:
    clips = [Clip(f"c{i}", speaker=f"s{i % 6}", dialogue=f"d{i // 7}") for i in range(84)]
    groups = group_clips(clips)
    assert groups.by == ("speaker",)
    assert groups.note == "Folds keep clips of one speaker together (6 groups), but not those of one dialogue."
    alone = [Clip(f"c{i}", speaker="only") for i in range(10)]
    assert group_clips(alone).of is None
    assert "nearly all clips share one speaker" in group_clips(alone).note
    assert group_clips([Clip("a"), Clip("b")]).note == ""


def spoken(clips: list[Clip], speakers: int = 8) -> list[Clip]:
    return [replace(clip, speaker=f"s{i % speakers}") for i, clip in enumerate(clips)]


def test_a_run_holds_speakers_out_and_says_so_unless_the_recipe_wants_random_folds(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    plain = fit((store, clips), tmp_path / "plain")
    assert plain.run.info["folds"] == {"by": ["random"], "groups": 40}
    clips = spoken(clips)
    result = fit((store, clips), tmp_path / "run")
    assert "Folds keep clips of one speaker together (8 groups)." in result.notes
    assert result.run.info["folds"] == {"by": ["speaker"], "groups": 8}
    who = {clip.id: clip.speaker for clip in clips}
    held: dict[int, set[str | None]] = {}
    for row in rows_of(tmp_path / "run"):
        if row["folds"]:
            held.setdefault(row["folds"][0], set()).add(who[row["name"]])
    assert len(held) == 3
    assert sum(map(len, held.values())) == 8
    free = fit((store, clips), tmp_path / "random", quick(fold_by="random"))
    assert (tmp_path / "random/predictions.jsonl").read_bytes() == (tmp_path / "plain/predictions.jsonl").read_bytes()
    assert "Folds are random: clips of one speaker may be in several folds." in free.notes
    few = fit((store, spoken(clips, 2)), tmp_path / "few")
    assert "2 groups by speaker allow 2 folds instead of 3." in few.notes


def test_a_search_holds_speakers_out_too(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    recipe = quick(epochs=1, folds=20, search={"lr": [0.01, 0.001]})
    result = fit((store, spoken(clips)), tmp_path / "run", recipe, search=2)
    assert result.search is not None
    assert {len(draw["folds"]) for row in result.search["configurations"] for draw in row["draws"]} == {8}


def test_no_actor_of_ravdess_is_in_two_folds(shared: Path) -> None:
    table = DataTable("RAVDESS", shared / "data/ravdess_speech_16k", "ravdess")
    clips = [clip for clip in open_dataset("RAVDESS", table).clips() if clip.label and clip.split <= "actor19"]
    groups = group_clips(clips)
    assert (len(groups), groups.by) == (19, ("speaker",))
    emotion = np.unique([clip.label.emotion for clip in clips if clip.label], return_inverse=True)[1]
    folds = make_folds(emotion, 5, 0, True, groups.of)
    held = [{clips[i].speaker for i in fold} for fold in folds]
    assert sorted(map(len, held)) == [3, 4, 4, 4, 4]
    assert len(set().union(*held)) == 19


def test_parts_that_are_meant_to_be_held_out_are_not_trained_on_unless_asked(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    names = ("train", "eval", "Val", "dev_corpus", "held-out", "actor07")
    clips = [replace(clip, split=names[i % 6]) if i < 40 else clip for i, clip in enumerate(clips)]
    result = fit((store, clips), tmp_path / "run", quick("logistic"))
    splits = result.run.info["splits"]
    assert splits["trained"] == {"train": 7, "actor07": 6}
    assert splits["left_out"] == {"eval": 7, "Val": 7, "dev_corpus": 7, "held-out": 6, "test1": 6}
    assert tell_splits(splits) == (
        "Trained on train (7), actor07 (6); left out: eval (7), Val (7), dev_corpus (7), held-out (6), test1 (6); "
        "without a label: pool (2)."
    )
    asked = fit((store, clips), tmp_path / "asked", quick("logistic", train_splits=["eval", "val"]))
    assert asked.run.info["splits"]["trained"] == {"eval": 7, "Val": 7}


def test_the_run_folder_names_the_clips_and_media_that_it_has_seen(fill: Fill, tmp_path: Path) -> None:
    store, clips = fill()
    store.media = {"clip_000": "ab" * 16, "clip_001": "clip:clip_001", "clip_044": "cd" * 16}
    fit((store, clips), tmp_path / "run", quick("logistic"))
    seen = json.loads((tmp_path / "run/clips.json").read_text())
    assert seen["train"] == seen["validation"] == [clip.id for clip in clips[:40]]
    assert seen["media"] == {"clip_000": "ab" * 16}


def test_the_ensemble_is_the_mean_of_raw_logits() -> None:
    mean = LogitMean(2, 2)
    mean.add(np.array([0, 1]), Outputs(np.array([[4.0, 0.0], [0.0, 1.0]]), np.array([1.0, 5.0])))
    mean.add(np.array([0]), Outputs(np.array([[-1.0, 1.0]]), np.array([2.0])))
    # a majority vote or a mean of probabilities could say otherwise
    assert mean.row(0, ["a", "b"])["answer"] == "a"
    assert mean.row(0, ["a", "b"])["probabilities"]["a"] == pytest.approx(1 / (1 + np.exp(0.5 - 1.5)))
    assert (mean.row(0, ["a", "b"])["valence"], mean.row(1, ["a", "b"])["valence"]) == (1.5, 5.0)


def test_training_loads_no_decoder_and_no_encoder() -> None:
    code = (
        "import sys, emo.train.heads.fit, emo.train.heads.attention, emo.train.heads.logistic, emo.train.heads.knn; "
        + ("print(sorted({'av', 'transformers', 'onnxruntime', 'emo.extract'} & set(sys.modules)))")
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_nothing_is_printed(fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(fill(), tmp_path / "run")
    assert capsys.readouterr() == ("", "")


def test_columns_far_apart_in_scale_are_said_where_a_head_takes_them_as_they_are(fill: Fill, tmp_path: Path) -> None:
    filled = fill()
    for row in filled[0].rows["HL-UTT"].values():
        row[:, 0] *= 1e6
    result = fit(filled, tmp_path / "plain", quick(epochs=2))
    assert [note for note in result.notes if "Columns of HL-UTT differ" in note and "standardise=true" in note]
    result = fit(filled, tmp_path / "standardised", quick(epochs=2, standardise=True))
    assert not [note for note in result.notes if "differ" in note]


def test_neighbours_are_found_over_columns_of_one_scale_where_that_is_wanted(fill: Fill, tmp_path: Path) -> None:
    filled, rng = fill(), np.random.default_rng(0)
    for row in filled[0].rows["HL-UTT"].values():
        row[:, 0] = 1e6 * rng.normal()  # says nothing, and outweighs the others
    keys = {"features": ["HL-UTT"]}
    plain = fit(filled, tmp_path / "plain", quick("knn", **keys))
    assert any("Columns of HL-UTT differ" in note for note in plain.notes)
    result = fit(filled, tmp_path / "scaled", quick("knn", standardise=True, **keys))
    assert not any("differ" in note for note in result.notes)
    assert result.validation.accuracy > plain.validation.accuracy + 0.2
    store, clips = filled
    rows = {row["name"]: row["probabilities"] for row in rows_of(tmp_path / "scaled") if not row["folds"]}
    again = HeadAnswerer(load_run(tmp_path / "scaled")).answer(store, [c for c in clips if c.id in rows], keep=False)
    assert all(again[name].probabilities == pytest.approx(said) for name, said in rows.items())
