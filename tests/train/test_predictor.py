"""A run is opened once and asked as often as one likes: one store, one recipe, one model."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from emo.featstore.clip import Clip, hash_media
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import MediaError, TrainError, UsageError
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
from emo.train.heads.predict import HeadAnswerer
from emo.train.metrics.choose import ScoreArgs, scored_page
from emo.train.pages import answers_csv
from emo.train.predictor import Predictor, open_predictor
from emo.train.recipe import load_recipe, make_recipe
from emo.train.run_pages import compare_page, drop_page, list_page, show_page, verify_page
from emo.train.runs import load_run, seal, write_json
from emo.train.session import usable_clips

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
    known = [replace(clip, dataset="mine") for clip in clips[:46]]
    fit_head(Store.open(tmp_path / "f.emo"), known, LABELS, recipe, tmp_path / "runs/first", "cpu")
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
        predictor.seen(new)
    assert counted == {"store": 1, "replays": 1, "recipes": 1, "weights": 3}  # of three folds


def test_a_clip_that_the_run_has_answered_needs_neither_recipe_nor_model(
    workspace: Workspace, counted: dict[str, int]
) -> None:
    assert open_predictor(workspace, "first", "cpu").predict([Clip("clip_003")])
    assert (counted["recipes"], counted["weights"]) == (0, 0)


def test_a_clip_whose_features_were_made_anew_is_answered_anew(workspace: Workspace) -> None:
    """Answers follow their features, of a training clip by the folds that held it out; what was trained on is said."""
    first = open_predictor(workspace, "first", "cpu")
    answered, trained = "clip_041", "clip_003"
    clips = [Clip(name, dataset="mine") for name in (answered, trained)]
    before = first.predict(clips)
    assert not any("made anew" in note for note in first.notes("official", clips))
    store = Store.open(workspace.root / "f.emo")
    spec = store.resolve("HL-UTT")
    with store.writer() as writer:
        for name in (answered, trained):
            writer.add(spec, f"{int(name[5:]):032x}", -2 * np.asarray(store.get(spec.key, name).array))
    again = open_predictor(workspace, "first", "cpu")
    assert again.outdated([*clips, Clip("clip_004", dataset="mine")]) == {answered, trained}
    assert again.outdated([Clip("clip_004", dataset="another")]) == set()  # of the content that the run knows
    after = again.predict(clips)
    assert after[answered].probabilities != before[answered].probabilities
    path = workspace.root / "runs/first/predictions.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if answered not in line))
    (workspace.root / "runs/first/digests.json").unlink()
    assert after[answered] == open_predictor(workspace, "first", "cpu").predict(clips)[answered]
    assert after[trained].probabilities != before[trained].probabilities
    row = next(json.loads(line) for line in path.read_text().splitlines() if f'"{trained}"' in line)
    (fold,) = row["folds"]  # of its one seed
    info = json.loads((workspace.root / "runs/first/run.json").read_text())
    info["members"] = [member for member in info["members"] if member["fold"] == fold]
    alone = HeadAnswerer(replace(load_run(workspace.root / "runs/first"), info=info), "cpu")
    told = alone.answer(store, clips[1:], keep=False)[trained].probabilities
    assert told == pytest.approx(after[trained].probabilities, abs=1e-6)
    said = "first was trained on 1 of these clips before their features were made anew: clip_003. "
    assert said + "They are answered anew, by the folds that did not train on them." in again.notes("official", clips)


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
    assert any("has seen this clip in training" in note for note in found["notes"])
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
    clips = [Clip(name) for name in ("renamed", "clip_005", "clip_041", NEW)]
    assert predictor.seen(clips) == {"clip_005": "clip_005", "renamed": "clip_005"}
    told, names = "first was trained on 1 of these clips under other names: renamed is clip_005.", [c.id for c in clips]
    trained = predictor.trained_among(clips)
    assert told in trained.notes(names)
    assert trained.verdict(names) == (
        "first has seen 1 of these 4 clips in training by their names, and 1 more under other names."
    )
    assert trained.verdict(["renamed", NEW]) == "first has seen 1 of these 2 clips in training under other names."
    page = predictor.page([Clip("renamed")], {"renamed": Prediction("sad")})
    assert told in page.value["notes"]
    assert not any("has seen none of these" in note for note in page.value["notes"])
    assert predictor.explain(Clip("renamed"))["seen"] == "clip_005"
    assert predictor.seen([Clip("clip_041"), Clip(NEW)]) == {}


def test_a_run_of_an_earlier_version_says_what_it_was_trained_on_by_its_answers(workspace: Workspace) -> None:
    folder = workspace.root / "runs/first"
    for name in ("clips.json", "digests.json"):
        (folder / name).unlink()
    assert open_predictor(workspace, "first").seen([Clip("clip_001"), Clip("clip_041")]) == {"clip_001": "clip_001"}


@pytest.fixture
def two(workspace: Workspace, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace with a second dataset, whose clips have names of the first's; it has a store of its own."""
    root = workspace.root
    (root / "other").mkdir()
    (root / "other/theirs.csv").write_text("name,label\nclip_001,sad\nclip_002,sad\nclip_041,sad\n")
    for name in ("clip_001", "clip_002", "clip_041"):
        (root / f"other/{name}.wav").write_bytes(name.encode())
    text = (root / "emo.toml").read_text().replace("f.emo", "g.emo")
    (root / "emo.toml").write_text(text + '[data.other]\nroot = "other"\nkind = "folder"\n')
    memory, old = fill()[0], Store.open(root / "f.emo")
    store = Store.create(root / "g.emo")
    with store.writer() as writer:
        for i, name in enumerate(("clip_001", "clip_002", "clip_041")):
            same = name == "clip_002"  # a copy of the first dataset's file
            media = f"{2:032x}" if same else f"{900 + i:032x}"
            writer.clip(name, media)
            for feature in ("HL-UTT", "mae_340_UTT"):
                writer.add(old.resolve(feature), media, memory.rows[feature]["clip_030" if not same else name])
        writer.commit()
    monkeypatch.chdir(root)
    return load_workspace(root / "emo.toml")


def test_a_run_names_its_dataset(workspace: Workspace) -> None:
    assert load_run(workspace.root / "runs/first").info["dataset"] == "mine"


def test_another_datasets_clip_of_the_same_name_does_not_get_the_stored_answer(two: Workspace) -> None:
    predictor = open_predictor(two, "first", "cpu")
    names = ("clip_001", "clip_002", "clip_041")
    lines = (two.root / "runs/first/predictions.jsonl").read_text().splitlines()
    stored = {row["name"]: row for row in map(json.loads, lines)}
    said = predictor.predict([Clip(name, dataset="other") for name in names])
    same = {name: said[name].probabilities == stored[name]["probabilities"] for name in names}
    assert same == {"clip_001": False, "clip_002": True, "clip_041": False}
    assert said["clip_001"].valence == pytest.approx(said["clip_041"].valence, abs=1e-6)  # features of one clip
    assert predictor.seen([Clip(name, dataset="other") for name in names]) == {"clip_002": "clip_002"}


def test_a_score_and_a_page_say_that_the_names_mean_other_clips(two: Workspace) -> None:
    page = scored_page(ScoreArgs("theirs.csv", run="first"), lambda sentence: None)
    assert "first has seen 1 of these 3 clips in training, each answered by folds" in page.verdict
    assert "1 of these clips have names of clips of first, but are others: clip_001." in page.value["notes"]
    predictor = open_predictor(two, "first", "cpu")
    clips = [Clip("clip_001", dataset="other")]
    assert "first has seen none of these clips in training." in predictor.page(clips, {}).value["notes"]


def test_features_of_another_file_of_the_same_name_are_not_taken(two: Workspace) -> None:
    store = Store.open(two.store_path)
    (two.root / "a.wav").write_bytes(b"a")
    with store.writer() as writer:
        writer.clip("clip_009", "09" * 16, two.root / "a.wav")
        for feature in ("HL-UTT", "mae_340_UTT"):
            writer.add(store.resolve(feature), "09" * 16, store.get(feature, "clip_001").array)
        writer.commit()
    (two.root / "b.wav").write_bytes(b"b")
    predictor = open_predictor(two, "first", "cpu")
    here, there = (Clip("clip_009", two.root / f"{name}.wav", "other") for name in "ab")
    assert list(predictor.predict([here])) == ["clip_009"]
    assert predictor.needs([here]) is None
    assert predictor.predict([there]) == {}
    assert "another clip of this name" in predictor.page([there], {}).value["answers"][0]["why"]
    assert not predictor.explain(there)["features"][0]["there"]
    (two.root / "a.wav").unlink()  # the data lie elsewhere now
    assert list(predictor.predict([there])) == ["clip_009"]


def test_a_file_of_new_content_at_the_old_place_is_extracted_again(workspace: Workspace) -> None:
    """The stored features are of what the file held before."""
    store, file = Store.open(workspace.store_path), workspace.root / "a.wav"
    file.write_bytes(b"before")
    with store.writer() as writer:
        media = hash_media(file).media
        writer.clip("clip_900", media, file)
        for feature in ("HL-UTT", "mae_340_UTT"):
            writer.add(store.resolve(feature), media, store.get(feature, "clip_001").array)
        writer.commit()
    clip = Clip("clip_900", file, "mine")

    def asked() -> tuple[tuple[Clip, ...], list[str]]:
        predictor = open_predictor(workspace, "first", "cpu")
        found = predictor.predict([clip])
        told = [*predictor.page([clip], found).value["notes"], *predictor.notes("official", [clip])]
        needs = predictor.needs([clip])
        return () if needs is None else needs.clips, [note for note in told if "another file now" in note]

    assert asked() == ((), [])
    os.utime(file, ns=(1, 1))  # copied, say: the same bytes
    needs, told = asked()
    assert (needs, told) == ((), [])
    file.write_bytes(b"after")
    needs, told = asked()
    assert (needs, len(told)) == ((clip,), 2)
    file.write_bytes(b"AFTER!")  # as long as what it held
    needs, told = asked()
    assert (needs, len(told)) == ((clip,), 2)
    file.unlink()  # the data lie elsewhere now
    assert asked() == ((), [])


def test_clips_without_an_answer_are_in_no_mixture(workspace: Workspace) -> None:
    predictor = open_predictor(workspace, "first", "cpu")
    clips = [Clip("clip_001"), Clip("nobody")]
    notes = " ".join(predictor.page(clips, predictor.predict(clips)).value["notes"])
    assert "mixed" not in notes
    clips = [Clip("clip_001"), Clip(NEW)]
    notes = " ".join(predictor.page(clips, predictor.predict(clips)).value["notes"])
    assert "1 out-of-fold answer of training clips, and 1 answer of all folds" in notes


def test_a_copy_of_a_clip_that_failed_says_why_there_is_no_answer(workspace: Workspace) -> None:
    store = Store.open(workspace.store_path)
    spec = next(info.spec for info in store.features() if info.spec.name == "HL-UTT")
    with store.writer() as writer:
        for name in ("silent", "copy"):
            writer.clip(name, f"{999:032x}")
        writer.fail(spec, "silent", MediaError("no-audio", "silent.mp4 has no sound."))
    page = open_predictor(workspace).page([Clip("copy")], {})
    assert page.value["answers"][0]["why"] == "no-audio: silent.mp4 has no sound."


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
    (workspace.root / "runs/broken").mkdir()
    (workspace.root / "runs/broken/run.json").write_text("")
    page = list_page(workspace)
    assert [(row["run"], row["status"]) for row in page.value] == [("broken", "damaged"), ("first", "finished")]
    assert page.parts[-1] == "`emo run verify` says what is damaged."
    with pytest.raises(TrainError, match=r"A run is damaged: .*run.json is not JSON") as caught:
        show_page(workspace, "broken")
    assert caught.value.hint.endswith("emo run drop broken")
    drop_page(workspace, "broken")
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

        def kept(self) -> dict[str, Prediction]:
            return {}

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


def test_a_run_is_shown_compared_and_dropped(workspace: Workspace) -> None:
    runs = workspace.root / "runs"
    shown = show_page(workspace, "first")
    assert shown.value["scores"]["validation"]["n"] == 40
    assert shown.value["recipe"]["head"] == shown.value["head"]
    assert set(shown.value["features"][0]) >= {"key", "profile"}
    shutil.copytree(runs / "first", runs / "second")
    recipe = (runs / "second/recipe.yaml").read_text()
    (runs / "second/recipe.yaml").write_text(recipe.replace("seeds:\n- 0", "seeds:\n- 1"))
    found = compare_page(workspace, "first", "second").value
    assert found["Recipe"] == {"seeds": ["[0]", "[1]"]}
    assert not found["Scores"]
    (runs / "second/metrics.json").write_text("[1]")
    with pytest.raises(TrainError, match=r"metrics\.json is damaged: it is no table of scores"):
        show_page(workspace, "second")
    (runs / "second/recipe.yaml").write_bytes(b"head: \xff")
    with pytest.raises(UsageError, match=r"Cannot read recipe .*it is not UTF-8"):
        compare_page(workspace, "first", "second")
    with pytest.raises(UsageError, match="secnd is no run folder") as caught:
        drop_page(workspace, "secnd")
    assert "Did you mean second?" in caught.value.hint
    (runs / "notes").mkdir()
    for name in ("notes", "..", "second/../first"):
        with pytest.raises(UsageError, match="no run folder"):
            drop_page(workspace, name)
    drop_page(workspace, "second")
    assert sorted(path.name for path in runs.iterdir()) == ["first", "notes"]


def test_something_else_in_the_place_of_the_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    workspace = Workspace(tmp_path, tmp_path / "a.emo")
    for page in (list_page, verify_page):
        with pytest.raises(UsageError, match="runs is no folder"):
            page(workspace)


def test_answers_as_a_table_have_every_probability_and_say_why_there_is_none() -> None:
    answers = [
        {"name": "a", "answer": "sad", "valence": -0.5, "probabilities": {"sad": 0.75, "happy": 0.25}},
        {"name": "b", "answer": None, "why": "no-face: nobody, anywhere"},
    ]
    rows = list(csv.reader(answers_csv(answers).splitlines()))
    assert rows == [
        ["name", "answer", "valence", "p_sad", "p_happy", "why"],
        ["a", "sad", "-0.5", "0.75", "0.25", ""],
        ["b", "", "", "", "", "no-face: nobody, anywhere"],
    ]


def test_clips_whose_names_mean_other_files_in_the_store_are_not_trained_on(two: Workspace) -> None:
    source = open_dataset("other", two.table("other"))
    clip_001, old = two.root / "other/clip_001.wav", two.root / "old.wav"
    old.write_bytes(b"another clip")
    store, said = Store.create(two.root / "h.emo"), list[str]()
    with store.writer() as writer:
        writer.clip("clip_001", hash_media(old).media, old)
    with pytest.raises(UsageError, match="1 clip of other has the name by which the store knows another clip") as error:
        usable_clips(source, store, said.append)
    assert f"clip_001 is {old} there, and {clip_001} here" in error.value.message
    old.unlink()  # the data lie elsewhere now
    assert len(usable_clips(source, store, said.append)) == 3
    store = Store.create(two.root / "i.emo")
    with store.writer() as writer:
        writer.clip("clip_001", hash_media(clip_001).media, clip_001)
    assert len(usable_clips(source, store, said.append)) == 3
    assert [each for each in said if "clips, " not in each] == []
    clip_001.write_bytes(b"it was cut anew")
    usable_clips(source, store, said.append)
    assert said[-1].startswith("1 clip has another file now than the one that the features were made of: clip_001.")
