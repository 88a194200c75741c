"""A run is opened once and asked as often as one likes: one store, one recipe, one model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from emo.featstore.clip import Clip
from emo.featstore.errors import TrainError, UsageError
from emo.featstore.page import Page
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import journal
from emo.featstore.storage.store import Store
from emo.featstore.workspace import Workspace, load_workspace
from emo.train import predictor as predictor_module
from emo.train import recipe as recipe_module
from emo.train.answerer import Answerer
from emo.train.answers import Prediction
from emo.train.features import Missing
from emo.train.heads.fit import fit_head
from emo.train.metrics.choose import ScoreArgs, scored_page
from emo.train.predictor import Predictor, open_predictor
from emo.train.recipe import load_recipe, make_recipe
from emo.train.runs import list_page, load_run, seal, verify_page, write_json

Fill = Callable[..., Any]
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
NEW = "clip_047"  # in the store, and not known to the run


@pytest.fixture
def workspace(fill: Fill, tmp_path: Path) -> Workspace:
    """A workspace with a store on disk, a finished run of a head, and two clips that the run does not know."""
    memory, clips = fill()
    (tmp_path / "data").mkdir()
    rows = [f"{clip.id},{clip.label.emotion}" for clip in clips if clip.label]
    (tmp_path / "data/labels.csv").write_text("name,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "truth.csv").write_text("name,label\n" + "\n".join([*rows[:6], f"{NEW},sad"]) + "\n")
    (tmp_path / "emo.toml").write_text(
        '[store]\npath = "f.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n[extract]\nprofile = "tiny"\n'
    )
    store = Store.create(tmp_path / "f.emo")
    specs = {name: memory.specs[name] for name in ("HL-UTT", "mae_340_UTT")}
    with store.writer() as writer:
        for name, spec in specs.items():
            for clip in clips:
                writer.clip(clip.id, f"{int(clip.id[5:]):032x}")
                writer.add(spec, f"{int(clip.id[5:]):032x}", memory.rows[name][clip.id])
        writer.commit()
    recipe = make_recipe({"head": "attention", "features": list(specs), "folds": 3, "epochs": 3})
    fit_head(Store.open(tmp_path / "f.emo"), clips[:46], LABELS, recipe, tmp_path / "runs/first", "cpu")
    return load_workspace(tmp_path / "emo.toml")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count how often a store is opened and its whole journal replayed, a recipe parsed, and weights loaded."""
    count = {"store": 0, "replays": 0, "recipes": 0, "weights": 0}

    def counting(
        what: str, real: Callable[..., Any], when: Callable[..., bool] = lambda *_: True
    ) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            count[what] += when(*args)
            return real(*args, **more)

        return call

    monkeypatch.setattr(Store, "open", counting("store", Store.open))
    monkeypatch.setattr(journal, "read", counting("replays", journal.read, lambda *a: a[1] == 1))
    monkeypatch.setattr(recipe_module, "load_recipe", counting("recipes", load_recipe))
    monkeypatch.setattr(safetensors.numpy, "load_file", counting("weights", safetensors.numpy.load_file))
    return count


def test_it_is_opened_once_however_often_it_is_asked(workspace: Workspace, counted: dict[str, int]) -> None:
    predictor = open_predictor(workspace, "first", "cpu")
    assert counted == {"store": 0, "replays": 0, "recipes": 0, "weights": 0}  # nothing before the first question
    new = [Clip(NEW), Clip("clip_046")]
    first = predictor.predict(new)
    assert predictor.needs(new) is None
    for _ in range(3):
        assert predictor.predict(new) == first
        predictor.explain(new[0])
        predictor.page(new, predictor.predict(new))
        predictor.seen([NEW])
    assert counted == {"store": 1, "replays": 1, "recipes": 1, "weights": 3}  # of three folds


def test_a_clip_that_the_run_has_answered_needs_neither_recipe_nor_model(
    workspace: Workspace, counted: dict[str, int]
) -> None:
    assert open_predictor(workspace, "first", "cpu").predict([Clip("clip_003")])
    assert (counted["recipes"], counted["weights"]) == (0, 0)


def test_a_score_opens_the_store_once_too(
    workspace: Workspace, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    page = scored_page(ScoreArgs("truth.csv", run="first"), lambda sentence: None)
    assert page.value["n"] == 7
    assert counted == {"store": 1, "replays": 1, "recipes": 1, "weights": 3}
    told = "first has seen 6 of these 7 clips in training, each answered by folds that did not train on it."
    assert told in page.value["notes"]


def test_several_questions_are_answered_as_each_is_alone(workspace: Workspace) -> None:
    def said(predictor: Predictor, name: str) -> str:
        clips = [Clip(name)]
        return json.dumps(predictor.page(clips, predictor.predict(clips)).value)

    names = ["clip_047", "clip_001", "clip_046", "nobody", "clip_047"]
    one = open_predictor(workspace, "first", "cpu")
    assert [said(one, name) for name in names] == [said(open_predictor(workspace, "first", "cpu"), n) for n in names]


def test_what_is_extracted_later_is_found(workspace: Workspace, fill: Fill) -> None:
    predictor = open_predictor(workspace, "first", "cpu")
    late = Clip("late", workspace.root / "late.mp4")
    needs = predictor.needs([late, Clip(NEW), Clip("without media")])
    assert needs is not None
    assert needs.clips == (late,)
    assert (needs.encoders, needs.profile) == (("HL-UTT", "mae_340_UTT"), "tiny")
    assert predictor.predict([late]) == {}
    store = Store.open(workspace.store_path)
    with store.writer() as writer:
        writer.clip("late", "ee" * 16)
        for key in needs.keys:
            spec: EncoderSpec = store.resolve(key)
            writer.add(spec, "ee" * 16, np.ones((1, spec.dim), np.float32))
        writer.commit()
    assert predictor.needs([late]) is None
    assert list(predictor.predict([late])) == ["late"]


def test_an_answer_is_explained(workspace: Workspace) -> None:
    predictor = open_predictor(workspace, "first", "cpu")
    found = predictor.explain(Clip("clip_001"))
    assert found["answer"] in LABELS
    assert set(found["probabilities"]) == set(LABELS)
    assert [(each["name"], each["there"]) for each in found["features"]] == [("HL-UTT", True), ("mae_340_UTT", True)]
    assert found["seen"] == "clip_001"
    assert any("1 of these 1 clips" in note for note in found["notes"])
    assert predictor.explain(Clip(NEW))["seen"] is None
    absent = predictor.explain(Clip("nobody"))
    assert absent["answer"] is None
    assert absent["features"][0] == {
        "name": "HL-UTT",
        "key": absent["features"][0]["key"],
        "there": False,
        "why": "not extracted",
    }
    json.dumps(found, allow_nan=False)


def test_a_clip_of_another_name_with_the_same_media_has_been_seen(workspace: Workspace) -> None:
    store = Store.open(workspace.store_path)
    with store.writer() as writer:
        writer.clip("renamed", f"{5:032x}")
        writer.commit()
    predictor = open_predictor(workspace, "first", "cpu")
    clips = ["renamed", "clip_005", "clip_041", NEW]
    assert predictor.seen(clips) == {"clip_005": "clip_005", "renamed": "clip_005"}
    told = "The run was trained on 1 of these clips under other names: renamed is clip_005."
    assert told in predictor.notes("official", dict.fromkeys(clips, Prediction("sad")))
    assert told in predictor.page([Clip("renamed")], {}).value["notes"]
    assert predictor.explain(Clip("renamed"))["seen"] == "clip_005"
    assert predictor.seen(["clip_041", NEW]) == {}


def test_a_run_of_an_earlier_version_says_what_it_was_trained_on_by_its_answers(workspace: Workspace) -> None:
    folder = workspace.root / "runs/first"
    for name in ("clips.json", "digests.json"):
        (folder / name).unlink()
    assert open_predictor(workspace, "first").seen(["clip_001", "clip_041"]) == {"clip_001": "clip_001"}


def test_what_cannot_be_asked_is_refused(workspace: Workspace) -> None:
    predictor = open_predictor(workspace, None)
    for wrong, says in (
        ({"policy": "loud"}, "Unknown policy"),
        ({"task": "reason"}, "knows no task reason"),
        ({"transcript": "Oh."}, "reads no transcript"),
    ):
        with pytest.raises(UsageError, match=says):
            predictor.check(**wrong)
    with pytest.raises(UsageError, match="no run folder"):
        open_predictor(workspace, "absent")


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["seed0-fold1.safetensors", "recipe.yaml", "predictions.jsonl", "run.json", "clips.json"]
)
def test_a_damaged_file_is_refused_and_named(workspace: Workspace, name: str) -> None:
    path = workspace.root / "runs/first" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # of the weights one bit of one number
    path.write_bytes(data)

    def ask() -> Page:
        predictor = open_predictor(workspace, "first", "cpu")
        return predictor.page([Clip(NEW)], predictor.predict([Clip(NEW)]))

    with pytest.raises(TrainError, match="damaged") as caught:
        ask()
    assert name in str(caught.value)
    page = verify_page(workspace)
    assert page.exit_code == 6
    assert page.value[0]["state"] == "damaged"
    assert name in page.value[0]["problems"][0]


def test_whole_runs_are_listed_and_verified(workspace: Workspace) -> None:
    page = verify_page(workspace, "first")
    assert (page.exit_code, page.value[0]["state"]) == (0, "as written")
    sealed = set(json.loads((workspace.root / "runs/first/digests.json").read_text()))
    there = {path.name for path in (workspace.root / "runs/first").iterdir()}
    assert sealed == there - {"digests.json"}
    (workspace.root / "runs/first/digests.json").unlink()
    assert verify_page(workspace).value[0]["state"] == "without digests"
    (row,) = list_page(workspace).value
    assert (row["run"], row["kind"], row["status"], row["n_train"]) == ("first", "head", "finished", 40)


def test_another_kind_of_run_is_one_class_behind_the_same_contract(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Oracle(Answerer):
        missing: Missing = "skip"

        def check(self, policy: str, task: str, transcript: str | None = None) -> None:
            if task != "emotion":
                raise UsageError("It knows emotions alone.")

        def answer(self, store: Any, clips: Any, *rest: Any, **more: Any) -> dict[str, Prediction]:
            return {clip.id: Prediction("happy") for clip in clips}

    folder = workspace.root / "runs/oracle"
    folder.mkdir()
    write_json(folder / "run.json", {"kind": "oracle", "status": "finished", "notes": []})
    seal(folder)
    with pytest.raises(TrainError, match="unknown kind oracle"):
        open_predictor(workspace, "oracle")
    monkeypatch.setitem(predictor_module.ANSWERERS, "oracle", f"{__name__}:Oracle")
    monkeypatch.setattr(predictor_module, "import_module", lambda _: type("Module", (), {"Oracle": Oracle}))
    predictor = open_predictor(workspace, load_run(folder))
    assert predictor.predict([Clip("a")]) == {"a": Prediction("happy")}
    assert predictor.page([Clip("a")], predictor.predict([Clip("a")])).exit_code == 0
