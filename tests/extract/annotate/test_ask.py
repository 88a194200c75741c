"""Models behind an endpoint, zero shot: what they are shown, what becomes of bad answers; nothing is asked twice."""

from __future__ import annotations

import base64
import io
import json
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emo.extract.annotate.ask import ask
from emo.extract.annotate.describer import wav
from emo.extract.annotate.pages import status_page
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.inquiry import Replies
from emo.featstore.page import Page, Table
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace
from emo.train.asked import ask_recipe, valence_in
from emo.train.metrics.choose import ScoreArgs, scored_page
from emo.train.pages import predict_page

Study = Callable[..., Path]
Server = Any  # see conftest.py
SETTINGS = ["timeout_s=1", "concurrency=2"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between attempts."""
    monkeypatch.setattr("emo.extract.annotate.budget.Budget.wait", lambda self, seconds: None)


def quiet(sentence: str) -> None:
    """Hear nothing."""


def asked(folder: Path, server: Server, task: str = "emotion", model: str = "m", **how: Any) -> Replies:
    workspace = load_workspace(folder)
    inquiry = replace(ask_recipe(None, SETTINGS).inquiry(task), **how)
    clips = list(open_dataset("mine", workspace.table("mine")).clips())
    return ask(workspace, clips, f"{server.url}#{model}", inquiry, quiet)


def predict(folder: Path, clips: list[str] | None = None, **flags: Any) -> Page:
    return predict_page(load_workspace(folder), None, ask, quiet, clips, set_=SETTINGS, **flags)  # type: ignore[arg-type]


def by_clip(answers: dict[str, Any], usual: Any = "happy") -> Callable[[str, int], Any]:
    """Behave by the number that a person says: what is a list is done one after the other, its last for ever."""

    def behave(text: str, before: int) -> Any:
        found = next((act for name, act in answers.items() if f"number {name[1:]}." in text), usual)
        return found[min(before, len(found) - 1)] if isinstance(found, list) else found

    return behave


def reply(said: str, **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}], **more}).encode()


# ---- a server that behaves -------------------------------------------------------------------------------------------


def test_frames_sound_and_words_are_sent_once_and_the_answers_kept(study: Study, server: Server) -> None:
    folder = study(3)
    server.behave = by_clip({"c1": "<think>Happy?\nNo.</think>\n\nsad"})
    first = asked(folder, server)
    assert first.said == {"c0": "happy", "c1": "sad", "c2": "happy"}
    assert (first.counts["requests"], first.why, first.model) == (3, {}, "m")
    body = next(each for each in server.asked if "number 0." in server.text(each))
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 512)
    *frames, sound, text = body["messages"][0]["content"]
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(each["image_url"]["url"].partition("base64,")[2]))) for each in frames
    ]
    assert [each.size for each in pictures] == [(64, 48)] * 8
    middles = [each.getpixel((32, 24))[0] for each in pictures]  # it brightens from frame to frame
    assert middles == sorted(middles)
    assert middles[-1] - middles[0] > 40
    with wave.open(io.BytesIO(base64.b64decode(sound["input_audio"]["data"]))) as file:
        assert file.getframerate() == 16000
    assert text["text"].startswith('The person in the video says: "I said number 0." Which of these emotions ')
    assert "neutral, angry, happy, sad, worried, surprise?" in text["text"]
    again = asked(folder, server)
    assert (again.said, again.counts["requests"], len(server.asked)) == (first.said, 0, 3)
    assert asked(folder, server, cached=True).said == first.said
    assert open_store(folder / "s.emo").verify() == []
    assert not list(folder.glob("*.answers-*"))


def test_status_counts_answers_by_model_and_says_what_failed(study: Study, server: Server) -> None:
    folder = study(3)
    server.behave = by_clip({"c1": "I'm sorry, but I can't help with that."})
    one = asked(folder, server)
    server.behave = by_clip({})
    two = asked(folder, server, model="n")
    page = status_page(open_store(folder / "s.emo"))
    assert page.value["asked"] == [
        {"record": one.record, "model": "m", "answered": 2, "failed": 1},
        {"record": two.record, "model": "n", "answered": 3, "failed": 0},
    ]
    assert page.value["records"] == []
    (failed,) = page.value["failures"]
    assert (failed["record"], failed["kind"], failed["names"]) == (one.record, "refused", ["c1"])
    sentence, *tables = page.parts
    assert isinstance(sentence, str)
    assert "no annotations" in sentence
    assert [each.title for each in tables if isinstance(each, Table)] == ["Asked by --model: clips", "What failed"]


def test_model_words_decoding_and_what_is_shown_are_the_identity(study: Study, server: Server) -> None:
    folder = study(1)
    keys = {asked(folder, server, **how).record for how in ({}, {"frames": 4}, {"sound": False}, {"max_tokens": 9})}
    keys |= {asked(folder, server, "reason").record, asked(folder, server, model="n").record}
    keys |= {asked(folder, server, temperature=0.5).record}
    assert (len(keys), len(server.asked)) == (7, 7)
    assert asked(folder, server, timeout_s=9.0, concurrency=1, max_requests=5).record in keys
    assert len(server.asked) == 7


def test_replies_without_tokens_are_said_to_be_missing_in_the_cost(study: Study, server: Server) -> None:
    folder = study(1)
    (folder / "prices.toml").write_text("[m]\ninput = 1000\noutput = 5000\n")
    server.usage = False
    found = asked(folder, server, prices=folder / "prices.toml")
    assert (found.counts["cost"], found.counts["uncounted"]) == (0, 1)
    assert "1 request to m, cost 0 without 1 reply whose tokens or price are not known." in found.notes


def test_other_words_about_a_clip_are_another_question(study: Study, server: Server) -> None:
    folder = study(1)
    assert predict(folder, ["c0"], model=f"{server.url}#m").value["answers"] == [
        {"name": "c0", "answer": "It sounds normal."}
    ]
    server.behave = by_clip({}, "sad")
    predict(folder, ["c0"], model=f"{server.url}#m")
    assert len(server.asked) == 1
    page = predict(folder, ["c0"], model=f"{server.url}#m", transcript="It rains.")
    assert page.value["answers"] == [{"name": "c0", "answer": "sad"}]
    assert '"It rains." Which' in server.text(server.asked[-1])
    stale = predict(folder, ["c0"], model=f"{server.url}#m", cached=True)
    assert stale.value["answers"][0]["why"] == "what was answered was asked with another transcript"
    assert len(server.asked) == 2


def test_a_clip_is_asked_about_by_what_it_has(study: Study, server: Server) -> None:
    folder = study(1, audio_s=0)
    voice = folder / "voice.wav"
    voice.write_bytes(wav(np.sin(np.arange(8000) / 10).astype(np.float32)))
    (folder / "data/labels.csv").write_text("name,label\nc0,happy\ngone,sad\n")
    page = predict(folder, ["c0", str(voice), "gone"], model=f"{server.url}#m")
    kinds = {tuple(part["type"] for part in each["messages"][0]["content"]) for each in server.asked}
    assert kinds == {("image_url",) * 8 + ("text",), ("input_audio", "text")}
    notes = " ".join(page.value["notes"])
    assert "1 clip has no sound; answered by frames alone: c0" in notes
    assert "1 clip has no frames; answered by sound alone: voice@" in notes
    assert "zero shot" in notes
    assert page.value["answers"][-1] == {"name": "gone", "answer": None, "why": "it has no media file here"}
    assert page.exit_code == 3


def test_the_same_content_under_two_names_is_asked_about_once(study: Study, server: Server) -> None:
    folder = study(2)
    shutil.copy(folder / "data/clips/c0.mp4", folder / "data/clips/c1.mp4")
    first = asked(folder, server)
    assert len(server.asked) == 1
    assert "another transcript" in first.why[next(iter({"c0", "c1"} - set(first.said)))]
    words = (folder / "data/transcription.csv").read_text().replace("number 1", "number 0")
    (folder / "data/transcription.csv").write_text(words)
    (folder / "data/labels.csv").write_text("name,label\nc0,happy\nc1,happy\n")
    assert asked(folder, server).said == {"c0": "It sounds normal.", "c1": "It sounds normal."}


# ---- a server that does not ------------------------------------------------------------------------------------------

BAD = {
    "c0": [429, 429, "happy"],
    "c1": 500,
    "c2": 1.5,  # hangs longer than an attempt may take
    "c3": "The person is ha...",  # ends at the limit of tokens
    "c4": "I would say that the person is not happy at all but rather sad.",
    "c5": "I'm sorry, but I can't identify emotions of people.",
    "c6": "word " * 1000,
    "c7": "",
    "c8": [b"<html>", "angry"],
    "c9": 413,
}
FAILED = {
    **{"c1": "no-answer", "c2": "no-answer", "c3": "cut-off-answer", "c5": "refused"},
    **{"c6": "too-long-answer", "c7": "empty-answer", "c9": "request-refused"},
}


def test_bad_answers_are_typed_failures_and_none_is_lost_or_asked_twice(study: Study, server: Server) -> None:
    folder = study(10, audio_s=0.1)
    server.behave = by_clip(BAD)
    found = asked(folder, server, concurrency=10)
    assert found.said == {"c0": "happy", "c4": BAD["c4"], "c8": "angry"}
    assert {name: why.partition(":")[0] for name, why in found.why.items()} == FAILED
    assert found.counts["requests"] == len(server.asked)
    server.behave = by_clip({"c1": "sad"})
    before = len(server.asked)
    again = asked(folder, server)
    assert [
        text for text in map(server.text, server.asked[before:]) if "number 1." not in text and "number 2." not in text
    ] == []
    assert len(server.asked) - before == 2  # of those that may pass, once each
    assert set(again.said) == {"c0", "c1", "c2", "c4", "c8"}
    assert {name: why.partition(":")[0] for name, why in again.why.items()} == {
        name: kind for name, kind in FAILED.items() if kind != "no-answer"
    }
    whole = asked(folder, server, retry_failed=True)
    assert (whole.why, len(server.asked) - before) == ({}, 2 + 5)
    assert open_store(folder / "s.emo").verify() == []


def test_an_answer_that_the_server_broke_off_is_asked_again_and_none_by_a_filter_or_at_the_limit(
    study: Study, server: Server
) -> None:
    folder = study(4, audio_s=0.1)

    def ended(said: str, how: str, **more: Any) -> bytes:
        return json.dumps({"choices": [{"message": {"content": said}, "finish_reason": how, **more}]}).encode()

    server.behave = by_clip(
        {
            "c0": [ended("The man is hap", "error", error={"message": "upstream is gone"}), "sad"],
            "c1": ended("The man is hap", "abort"),
            "c2": ended("The man is hap", "content_filter"),
            "c3": ended("", "length"),
        }
    )
    found = asked(folder, server)
    assert found.said == {"c0": "sad"}
    kinds = {"c1": "no-answer", "c2": "refused", "c3": "cut-off-answer"}
    assert {name: why.partition(":")[0] for name, why in found.why.items()} == kinds
    assert len(server.asked) == 2 + 5 + 1 + 1


def test_what_empty_answers_cost_is_counted(study: Study, server: Server) -> None:
    folder = study(1)
    (folder / "prices.toml").write_text("[m]\ninput = 1000\noutput = 5000\n")
    used = {"usage": {"prompt_tokens": 100, "completion_tokens": 20}}
    server.behave = by_clip({"c0": [reply("", **used), reply("sad", **used)]})
    found = asked(folder, server, prices=folder / "prices.toml")
    assert (found.counts["requests"], found.counts["cost"], found.counts["uncounted"]) == (2, 0.4, 0)


def test_a_refusal_after_other_words_is_asked_for_once(study: Study, server: Server) -> None:
    folder = study(1)
    asked(folder, server)
    (folder / "data/transcription.csv").write_text("name,english\nc0,I said nothing.\n")
    (folder / "data/labels.csv").write_text("name,label\nc0,happy\n")
    server.behave = by_clip({}, "I cannot help with that.")
    for _ in range(2):
        assert asked(folder, server).why["c0"].startswith("refused: ")
    assert len(server.asked) == 2


def test_another_models_answers_end_the_run_and_its_alias_lets_them_through(study: Study, server: Server) -> None:
    folder = study(2)
    server.behave = lambda text, before: reply("happy", model="models/other-7b.gguf")
    with pytest.raises(UsageError, match=r"answers as models/other-7b\.gguf, not as m"):
        asked(folder, server)
    assert asked(folder, server, model="m=other-7b").said == {"c0": "happy", "c1": "happy"}
    server.behave = lambda text, before: reply("happy", model="org/M-2024-08-06")
    assert len(asked(folder, server).said) == 2


def test_a_budget_ends_a_run_and_the_next_one_goes_on(study: Study, server: Server) -> None:
    folder = study(4)
    page = predict_page(
        load_workspace(folder),
        None,
        ask,
        quiet,
        None,
        dataset="mine",
        model=f"{server.url}#m",
        set_=["max_requests=1", "concurrency=1"],
    )  # type: ignore[arg-type]
    silent = [row for row in page.value["answers"] if row["answer"] is None]
    assert (len(silent), page.value["requests"], page.exit_code) == (3, 1, 3)
    assert silent[0]["why"] == "not asked: 1 request is made"
    assert "no answer about c1, c2, c3: not asked: 1 request is made" in page.parts
    assert predict(folder, dataset="mine", model=f"{server.url}#m").value["requests"] == 3


def test_killed_it_loses_no_answer_and_asks_none_again(study: Study, server: Server) -> None:
    folder = study(6, audio_s=0.1)
    server.delay_s = 0.1
    words = ["predict", "--dataset", "mine", "--model", f"{server.url}#m", "--set", "concurrency=1"]
    process = subprocess.Popen([sys.executable, "-m", "emo.cli", *words], cwd=folder, stdout=subprocess.PIPE)
    while len(server.asked) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.delay_s = 0.0
    found = asked(folder, server)
    assert len(found.said) == 6
    assert len(server.asked) <= 6 + 1  # the one that was under way
    assert any("of a run that was killed" in note for note in found.notes)


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_answers_are_scored_as_any_others_and_a_refusal_is_no_class(
    study: Study, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study(4)
    monkeypatch.chdir(folder)
    server.behave = by_clip(
        {"c0": "The person is happy.", "c1": "angry", "c2": "happy", "c3": "I'm sorry, I can't see."}
    )
    args = ScoreArgs("labels.csv", model=f"{server.url}#m", ask=ask, options={"answers": "nearest"})
    page = scored_page(args, quiet)
    assert (page.value["n"], page.value["missing"]) == (3, 1)
    assert page.value["accuracy"] == pytest.approx(2 / 3)
    assert "no answer about c3: refused: The model refuses: \"I'm sorry, I can't see.\"." in page.value["notes"]
    notes = " ".join(page.value["notes"])
    assert "Asked for emotion by recipe zero-shot." in notes
    assert "which clips it was trained on is not known" in notes
    with pytest.raises(UsageError, match="no prediction"):
        scored_page(replace(args, require_all=True), quiet)
    offered = replace(args, overrides=("labels=[joy,happiness,angry]", "sound=false"))
    shown = len(server.asked)
    notes = " ".join(scored_page(offered, quiet).value["notes"])
    assert "m was not offered these labels of the list, but words near them count: happy (1)." in notes
    assert len(server.asked) == shown + 4
    assert "joy, happiness, angry" in server.text(server.asked[-1])
    with pytest.raises(UsageError, match="no likelihoods"):
        scored_page(replace(args, options={"answers": "likelihood"}), quiet)


def test_each_metric_asks_its_own_question(study: Study, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study(2)
    monkeypatch.chdir(folder)
    (folder / "words.csv").write_text('name,openset\nc0,"happy, calm"\nc1,angry\n')
    (folder / "values.csv").write_text("name,label,valence\nc0,happy,1.5\nc1,angry,-0.5\n")
    server.behave = by_clip({"c0": "Happy, calm", "c1": "angry"})
    model = f"{server.url}#m"
    page = scored_page(ScoreArgs("words.csv", model=model, ask=ask, metric="openset"), quiet)
    assert page.value["score"] == 1.0
    assert "all words that fit" in server.text(server.asked[-1])
    server.behave = by_clip({"c0": "0.8", "c1": "I would say -0.3."})
    page = scored_page(ScoreArgs("values.csv", model=model, ask=ask, metric="sentiment"), quiet)
    assert page.value["accuracy"] == 1.0
    server.behave = by_clip({"c0": "positive", "c1": "Negative."})
    page = scored_page(ScoreArgs("values.csv", model=model, ask=ask, metric="sentiment", task="sentiment"), quiet)
    assert page.value["accuracy"] == 1.0


def test_a_number_is_read_from_an_answer_only_where_it_is_plain() -> None:
    assert [valence_in(text) for text in ("-0.5", "It is 0.25.", "−1", "between 0 and 1", "about 3", "no idea")] == [
        *(-0.5, 0.25, -1.0, None, None, None)
    ]


def test_a_number_below_zero_stays_so_by_whatever_sign_or_word_it_is_said() -> None:
    for text in ("\u20130.5", "\uff0d0.5", "\u20110.5", "minus 0.5", "about negative 0.5.", "负0.5"):
        assert valence_in(text) == -0.5, text
    assert [valence_in(text) for text in ("+0.5", "positive 0.5", "0.2\u20130.5")] == [0.5, 0.5, None]


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_questions_come_from_recipes_of_language_models_too() -> None:
    asked = ask_recipe("emotion-llama-stage1").inquiry("emotion")
    assert asked.question.startswith("Please determine which emotion label in the video represents: happy, sad,")
    assert ask_recipe("zero-shot-dfew").inquiry("emotion").question.count("disgust") == 1
    assert ask_recipe("affectgpt").inquiry("valence").question.startswith("Please identify the overall positive")
    with pytest.raises(UsageError, match="asks nothing: it is a head's"):
        ask_recipe("attention")
    with pytest.raises(UsageError, match="has no instruction for task ovlabel"):
        ask_recipe("emotion-llama-stage1").inquiry("ovlabel")
    with pytest.raises(UsageError, match="unknown key frame "):
        ask_recipe(None, ["frame=3"])


def test_flags_that_do_not_go_together_are_refused(study: Study, server: Server) -> None:
    folder = study(1)
    for flags, said in (
        ({"clips": None}, "No clip is named"),
        ({"clips": ["c0"], "recipe": "zero-shot"}, "--set and --retry-failed say how a model is asked"),
        ({"clips": ["c0"], "model": f"{server.url}#m", "run": "a"}, "--model asks none"),
        ({"clips": ["c0"], "model": "offline"}, "cannot answer emotion"),
        ({"clips": ["c0"], "model": server.url}, "names no model"),
        ({"clips": ["c0"], "model": "qwen"}, "'qwen' names no model"),
    ):
        with pytest.raises(UsageError, match=said):
            predict(folder, **flags)
    assert server.asked == []


def test_dfew_is_scored_by_its_folds(
    tmp_path: Path, server: Server, write_media: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, answers = tmp_path / "DFEW", ("happy", "sad", "neutral", "angry", "disgusted")
    (root / "EmoLabel_DataSplit/test(single-labeled)").mkdir(parents=True)
    (root / "Clip/original").mkdir(parents=True)
    for k in range(1, 6):
        write_media(root / f"Clip/original/{k}.mp4", n_frames=2, size=(64 + 2 * k, 48))
        lists = root / "EmoLabel_DataSplit/test(single-labeled)"
        (lists / f"set_{k}.csv").write_text(f"video_name,label\n{k},{[1, 2, 3, 4, 6][k - 1]}\n")
    (tmp_path / "emo.toml").write_text('[store]\npath = "s.emo"\n[data.DFEW]\nroot = "DFEW"\n')
    monkeypatch.chdir(tmp_path)
    server.behave = lambda text, before: answers[len(server.asked) - 1]
    recipe = "asks.yaml"
    (tmp_path / recipe).write_text(ask_recipe("zero-shot-dfew", ["concurrency=1"]).to_yaml())
    given = ScoreArgs("DFEW", protocol="dfew", model=f"{server.url}#m", recipe=recipe, ask=ask)
    page = scored_page(replace(given, options={"answers": "nearest"}), quiet)
    assert page.value["mean"]["war"] == 1.0
    assert "surprise, disgust, fear? Answer" in server.text(server.asked[0])
    assert "zero shot" in " ".join(page.value["notes"])
