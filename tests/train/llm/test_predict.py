"""Answers of a tuned run from cached features: policies, order, what is missing, what is kept in the run folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.clip import Clip
from emo.featstore.errors import FeatureMissing, TrainError, UsageError
from emo.featstore.files import write_json
from emo.featstore.storage import journal
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import load_workspace
from emo.train import runs
from emo.train.answers import Prediction, read_predictions
from emo.train.llm import answer as answer_module
from emo.train.llm import predict as predict_module
from emo.train.llm import setup as training_module
from emo.train.llm.answer import TunedAnswerer, load_tuned
from emo.train.llm.data import Example
from emo.train.llm.predict import predict
from emo.train.llm.question import predictions_path
from emo.train.llm.tune import tune
from emo.train.metrics.choose import ScoreArgs, scored_page
from emo.train.metrics.labels import score
from emo.train.muted import Muted
from emo.train.predictor import open_predictor
from emo.train.runs import Run, check, load_run


def predict_run(store: Any, run: Any, clips: Any, policy: str = "official", device: str = "auto", **how: Any) -> Any:
    """Answers of a run that is opened for this one question."""
    return TunedAnswerer(load_run(run) if isinstance(run, Path) else run, device).answer(store, clips, policy, **how)


Make = Callable[..., Any]


def media_of(clip_id: str) -> str:
    """Content hash of a clip of `corpus`."""
    return hashlib.blake2b(clip_id.encode(), digest_size=16).hexdigest()


@pytest.fixture
def tuned(corpus: Make, recipe: Make, tmp_path: Path) -> tuple[Any, Run]:
    """A run of three steps over 12 clips; one of the test clips has no face."""
    made = corpus(n=12, without="clip_013")
    chosen = recipe("steps_per_epoch=3", "validation.holdout=0", "decode.batch_size=4", "missing=error")
    with_face = [clip for clip in made.clips if clip.id != "clip_013"]
    return replace(made, clips=with_face), tune(made.store, with_face, chosen, tmp_path / "runs" / "run", "cpu").run


def loaded(tuned: tuple[Any, Run]) -> tuple[Any, Any, Any, list[Example]]:
    made, run = tuned
    names = [clip.id for clip in made.clips]
    model, features, recipe = load_tuned(made.store, run, names, "cpu")
    return model, features, recipe, [Example(clip.id, clip.transcripts.get("english", "")) for clip in made.clips]


def test_answers_come_in_the_order_of_the_clips_and_batches_do_not_matter(tuned: tuple[Any, Run]) -> None:
    model, features, recipe, clips = loaded(tuned)
    seen: list[tuple[int, int]] = []
    rows = predict(model, features, clips, recipe, on_progress=lambda done, of: seen.append((done, of)))
    assert [row["name"] for row in rows] == [clip.name for clip in clips]
    assert seen == [(4, 17), (8, 17), (12, 17), (16, 17), (17, 17)]
    alone = [predict(model, features, [clip], recipe)[0] for clip in clips]
    assert [row["answer"] for row in rows] == [row["answer"] for row in alone]


def test_likelihood_gives_every_label_a_probability(tuned: tuple[Any, Run]) -> None:
    model, features, recipe, clips = loaded(tuned)
    rows = predict(model, features, clips, recipe, "likelihood")
    for row in rows:
        assert tuple(row["probabilities"]) == recipe.scored
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["answer"] == max(row["probabilities"], key=row["probabilities"].get)
    alone = [predict(model, features, [clip], recipe, "likelihood")[0] for clip in clips]
    for row, single in zip(rows, alone, strict=True):
        assert row["probabilities"] == pytest.approx(single["probabilities"], abs=1e-5)
    assert len({tuple(row["probabilities"].values()) for row in rows}) > 1


def test_what_is_not_known_is_refused(tuned: tuple[Any, Run]) -> None:
    model, features, recipe, clips = loaded(tuned)
    for options, says in [
        ({"policy": "guess"}, "Unknown policy 'guess'"),
        ({"task": "humour"}, "Unknown task 'humour'"),
        ({"layout": "best"}, "Unknown layout 'best'"),
        ({"policy": "likelihood", "task": "reason"}, "task reason has none"),
        ({"task": "description"}, "no instruction for task description"),
    ]:
        with pytest.raises(UsageError, match=says):
            predict(model, features, clips, recipe, **options)
    assert predict(model, features, clips[:1], recipe, task="reason")[0]["name"] == clips[0].name


def test_new_answers_are_added_to_the_run_and_asked_once(
    tuned: tuple[Any, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = tuned
    path = predictions_path(run, "official")
    assert not path.exists()  # there was no validation
    first = predict_run(made.store, run.path, made.clips[:5], "official", "cpu")
    assert read_predictions(path) == first
    both = predict_run(made.store, run, made.clips, "strict", "cpu")
    assert {name: both[name] for name in first} == first
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 17
    assert [row["name"] for row in rows[:5]] == [clip.id for clip in made.clips[:5]]
    trained = {clip.id for clip in made.clips if clip.split == "train"}
    assert {row["name"] for row in rows if row["trained"]} == trained

    from emo.train.llm import predict as module

    monkeypatch.setattr(module, "build", None)  # nothing is loaded where everything is known
    assert predict_run(made.store, run, made.clips, "nearest", "cpu") == both


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["announced", "written"])
def test_killed_while_the_answers_are_written_the_run_goes_on(
    tuned: tuple[Any, Run], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = tuned
    clips = made.clips
    first = predict_run(made.store, run.path, clips[:3], "official", "cpu")

    def reached(now: str) -> None:
        if now == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs, "reached", reached)
        with pytest.raises(Killed):
            predict_run(made.store, run.path, clips[:6], "official", "cpu")
    assert check(run.path) is None
    kept = read_predictions(predictions_path(run, "official"))
    assert len(kept) == (3 if step == "announced" else 6)
    after = predict_run(made.store, run.path, clips[:6], "official", "cpu")
    assert {name: after[name] for name in first} == first
    assert check(run.path) is None
    with open(predictions_path(run, "official"), "a") as file:
        file.write(" ")
    with pytest.raises(TrainError, match="not what was written"):
        predict_run(made.store, run.path, clips[:6], "official", "cpu")


def test_another_clip_of_the_same_name_is_asked_anew(tuned: tuple[Any, Run]) -> None:
    made, run = tuned
    run = Run(run.path, run.info | {"dataset": "mine"})
    mine, other = (replace(made.clips[0], dataset=name) for name in ("mine", "other"))
    path = predictions_path(run, "official")

    def row(clip: Any) -> dict[str, Any]:
        predict_run(made.store, run, [clip], "official", "cpu", missing="zeros")
        return {each["name"]: each for each in map(json.loads, path.read_text().splitlines())}[clip.id]

    first = row(mine)
    assert (first["dataset"], first["trained"]) == ("mine", True)
    assert first["media"] == made.store.clip_row(mine.id)[0]
    assert row(other) == first  # of the same content, so the same clip
    text = path.read_text().replace(first["media"], "00" * 16)
    path.write_text(text.replace('"answer": "', '"answer": "another '))
    (run.path / "digests.json").unlink()
    assert row(mine) == first  # what was kept was about other content


def test_a_clip_whose_features_were_made_anew_is_asked_anew(tuned: tuple[Any, Run]) -> None:
    made, run = tuned
    clips = [made.clips[0], made.clips[-1]]
    asked: list[int] = []

    def ask() -> None:
        asked.clear()
        predict_run(made.store, run, clips, "likelihood", "cpu", on_progress=lambda done, of: asked.append(of))

    ask()
    assert asked == [2]
    ask()
    assert asked == []
    spec = made.store.resolve("mae_340_UTT")
    with made.store.writer() as writer:
        writer.add(spec, made.store.clip_row(clips[1].id)[0], -made.memory["mae_340_UTT"][clips[1].id])
    assert TunedAnswerer(run, "cpu").outdated(made.store, clips) == {clips[1].id}
    ask()
    assert asked == [1]
    assert TunedAnswerer(run, "cpu").outdated(made.store, clips) == set()
    ask()
    assert asked == []


def test_a_known_answer_imports_no_network(tuned: tuple[Any, Run]) -> None:
    made, run = tuned
    predict_run(made.store, run, made.clips[:2], "official", "cpu")
    code = """
import sys
for name in ("torch", "transformers", "peft", "safetensors"):
    sys.modules[name] = None
from emo.featstore.clip import Clip
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store, open_store
from emo.train.llm.answer import TunedAnswerer
from emo.train.runs import load_run
from pathlib import Path
clip = Clip(sys.argv[3], transcripts={"english": sys.argv[4]})
assert list(TunedAnswerer(load_run(Path(sys.argv[1]))).answer(Store.open(sys.argv[2]), [clip])) == [clip.id]
"""
    clip = made.clips[0]
    words = [str(run.path), str(made.store.path), clip.id, clip.transcripts.get("english", "")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_likelihoods_and_other_layouts_have_files_of_their_own(tuned: tuple[Any, Run]) -> None:
    made, run = tuned
    predict_run(made.store, run, made.clips, "likelihood", "cpu")
    predict_run(made.store, run, made.clips[:2], "official", "cpu", layout="official_eval")
    predict_run(made.store, run, made.clips[:2], "official", "cpu", layout="train_consistent")
    found = sorted(path.name for path in run.path.glob("predictions*"))
    assert found == ["predictions-likelihood.jsonl", "predictions-official_eval.jsonl", "predictions.jsonl"]
    known = read_predictions(run.path / "predictions-likelihood.jsonl")
    truth = {clip.id: clip.label for clip in made.clips}
    assert score(truth, known, "likelihood").confusion == score(truth, known, "official").confusion


def test_a_clip_without_features_is_named_and_left_out_only_on_request(tuned: tuple[Any, Run]) -> None:
    made, run = tuned
    clips = [*made.clips, replace(made.clips[0], id="clip_013"), replace(made.clips[0], id="stranger")]
    with pytest.raises(FeatureMissing, match=r"mae_340_UTT: clip_013 \(no-face\), stranger \(not extracted\)"):
        predict_run(made.store, run, clips, "official", "cpu")
    skip = predict_run(made.store, run, clips, "official", "cpu", missing="skip")
    assert set(skip) == {clip.id for clip in made.clips}
    zeros = predict_run(made.store, run, clips, "likelihood", "cpu", missing="zeros")
    assert isinstance(zeros["stranger"], Prediction)
    rows = [json.loads(line) for line in predictions_path(run, "likelihood").read_text().splitlines()]
    assert {row["name"] for row in rows if row.get("zeros")} == {"clip_013", "stranger"}
    assert (
        predict_run(made.store, run, clips[-1:], "likelihood", "cpu", missing="skip") == {}
    )  # zeros are not kept for it


def test_a_run_that_is_not_finished_or_no_language_model_is_refused(tuned: tuple[Any, Run]) -> None:
    made, run = tuned
    (run.path / "digests.json").unlink()  # what is told here is what run.json says, not that it was changed
    write_json(run.path / "run.json", run.info | {"status": "failed"})
    with pytest.raises(UsageError, match="is failed, not finished"):
        predict_run(made.store, run.path, made.clips)
    write_json(run.path / "run.json", run.info | {"kind": "head"})
    with pytest.raises(UsageError, match="is of kind head, not a tuned language model"):
        predict_run(made.store, run.path, made.clips)
    with pytest.raises(FeatureMissing, match="there is no store"):
        predict_run(None, run, made.clips, device="cpu")
    features = [feature | {"fingerprint": "0" * 32} for feature in run.info["features"]]
    other = Run(run.path, run.info | {"features": features})
    with pytest.raises(TrainError, match="is not the feature that run run was trained on"):
        predict_run(made.store, other, made.clips, device="cpu")


def test_transcripts_reach_the_prompt(tuned: tuple[Any, Run]) -> None:
    made, run = tuned
    silent = [replace(made.clips[0], transcripts={})]
    said = predict_run(made.store, run, made.clips[:1], "likelihood", "cpu")
    predictions_path(run, "likelihood").unlink()
    assert predict_run(made.store, run, silent, "likelihood", "cpu") != said


# ---- words of the prompt --------------------------------------------------------------------------------------------

CLUES = {"smp_reason_caption": "He frowns.", "pseu_emotion": "sad"}
SPOKEN = {  # by clip: where its words stand, and as they are in a prompt
    "clip_000": "I am fine.",  # dataset
    "clip_001": "From a table",  # data.transcripts, in whose cell blanks are odd
    "clip_002": "From MERR",
    "clip_003": "From the store",  # annotations of `emo annotate run`
    "clip_004": "",  # nowhere
}


@pytest.fixture
def told(corpus: Make, recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Run, list[Any]]:
    """A run over clips whose words stand in four places, and what the prompts of training and asking said since."""
    made = corpus(n=6)
    spec = record_spec("annotation", "annotation", "none")
    with made.store.writer() as writer:
        writer.add_record(spec, media_of("clip_003"), CLUES | {"text": "From  the store "})
    files = {"MERR.json": json.dumps({name: CLUES | {"text": "From\n MERR"} for name in ("clip_002", "clip_001")})}
    files["t.csv"] = "name,english\nclip_001,From  a\u3000table\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    clips = [clip if i == 0 else replace(clip, transcripts={}) for i, clip in enumerate(made.clips[:5])]
    heard: list[Any] = []

    def listen(module: Any) -> None:
        real = module.make_prompt

        def prompt(model: Any, recipe: Any, task: str, text: str, transcript: str, layout: str) -> Any:
            heard.append(transcript)
            return real(model, recipe, task, text, transcript, layout)

        monkeypatch.setattr(module, "make_prompt", prompt)

    listen(training_module)
    listen(predict_module)
    sources = "data={emotion: [clips], reason_v2: [MERR.json, annotations], transcripts: [t.csv]}"
    sets = [sources, "tasks={emotion: 1, reason_v2: 1}", "prompts.reason_v2=['Why?']", "steps_per_epoch=2"]
    chosen = recipe(*sets, "validation.holdout=0")
    run = tune(Store.open(made.store.path), clips, chosen, tmp_path / "runs" / "run", "cpu", roots=[tmp_path]).run
    return replace(made, store=Store.open(made.store.path), clips=clips), run, heard


def test_what_is_said_in_a_clip_is_the_same_in_training_and_in_asking(told: tuple[Any, Run, list[Any]]) -> None:
    made, run, heard = told
    assert set(heard) == set(SPOKEN.values())  # in training
    for clip in made.clips:
        heard.clear()
        predict_run(made.store, run, [clip], "official", "cpu")
        assert heard == [SPOKEN[clip.id]]
        heard.clear()
        muted = Muted(made.store, run.info["features"], ["audio"])
        predict_run(muted, run, [clip], "official", "cpu", keep=False)
        assert heard == [SPOKEN[clip.id]]
        heard.clear()
        predict_run(made.store, run, [replace(clip, transcripts={"text": ""})], "official", "cpu", keep=False)
        assert heard == [""]


def test_a_file_that_may_hold_the_words_of_a_clip_is_missed(told: tuple[Any, Run, list[Any]], tmp_path: Path) -> None:
    made, run, heard = told
    (tmp_path / "MERR.json").unlink()
    with pytest.raises(
        UsageError, match=r"What is said in clip_002 may stand in .* run run: .*MERR.json does not exist"
    ):
        predict_run(made.store, run, [made.clips[2]], "official", "cpu")
    heard.clear()
    new = replace(made.clips[2], id="new@12345678", dataset="", transcripts={})
    predict_run(made.store, run, [*made.clips[:2], made.clips[3], new], "official", "cpu", missing="zeros")
    assert sorted(heard) == sorted([*(SPOKEN[f"clip_00{i}"] for i in (0, 1, 3)), ""])


def test_text_only_the_words_of_annotations_are_found_without_a_store_in_hand(recipe: Make, tmp_path: Path) -> None:
    store = open_store(tmp_path / "a.emo", create=True)
    with store.writer() as writer:
        for i in range(4):
            writer.clip(f"c{i}", media_of(f"c{i}"))
            said = {"smp_reason_caption": "So.", "pseu_emotion": ["sad", "happy"][i % 2], "text": "Said"}
            writer.add_record(record_spec("annotation", "annotation", "none"), media_of(f"c{i}"), said)
    short = ("features={tokens: null, streams: []}", "steps_per_epoch=1", "validation.holdout=0")
    clips = [Clip(f"c{i}", split="train") for i in range(4)]
    chosen = recipe(*short, "data.emotion=[{file: annotations, field: pseu_emotion}]")
    run = tune(Store.open(store.path), clips, chosen, tmp_path / "run", "cpu").run
    assert TunedAnswerer(run, "cpu")._words(clips[0], None) == "Said"


def test_the_answers_are_those_of_the_best_checkpoint(corpus: Make, recipe: Make, tmp_path: Path) -> None:
    """What validation has said while training is said again from the files."""
    made = corpus()
    run = tune(made.store, made.clips, recipe("validation.every=2"), tmp_path / "run", "cpu").run
    kept = predictions_path(run, "likelihood")
    known = read_predictions(kept)
    assert len(known) == 4
    kept.unlink()
    clips = [clip for clip in made.clips if clip.id in known]
    again = predict_run(made.store, load_run(run.path), clips, "likelihood", "cpu")
    for name, row in known.items():
        assert again[name].probabilities == pytest.approx(row.probabilities, abs=1e-6)


def test_store_recipe_and_model_are_opened_once_however_many_questions(
    tuned: tuple[Any, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = tuned
    (tmp_path / "data").mkdir(exist_ok=True)
    text = f'[store]\npath = "{made.store.path}"\n[data.mine]\nroot = "data"\nkind = "folder"\n'
    (tmp_path / "emo.toml").write_text(text)
    rows = [f"{clip.id},{clip.label.emotion}" for clip in made.clips if clip.label and clip.label.emotion]
    (tmp_path / "truth.csv").write_text("name,label\n" + "\n".join(rows) + "\n")
    count = dict.fromkeys(("store", "replays", "recipes", "models"), 0)

    def counting(what: str, owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            count[what] += when(*args)
            return real(*args, **more)

        monkeypatch.setattr(owner, name, call)

    counting("store", Store, "open")
    counting("replays", journal, "read", lambda *args: args[1] == 1)
    counting("recipes", answer_module, "load_recipe")
    counting("models", predict_module, "build")
    predictor = open_predictor(load_workspace(tmp_path / "emo.toml"), run.name, "cpu")
    for some in (made.clips[:2], made.clips[2:4]):
        predictor.page(some, predictor.predict(some))
        predictor.predict(some, "likelihood")
        predictor.explain(some[0])
    assert count == {"store": 1, "replays": 1, "recipes": 1, "models": 1}

    count.update(dict.fromkeys(count, 0))
    monkeypatch.chdir(tmp_path)
    assert scored_page(ScoreArgs("truth.csv", run=run.name), lambda sentence: None).value["n"] == len(rows)
    assert count == {"store": 1, "replays": 1, "recipes": 1, "models": 1}
