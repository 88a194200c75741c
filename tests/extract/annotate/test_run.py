"""A run over clips: offline, through an endpoint that misbehaves, interrupted, killed, resumed, with a budget."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emo.extract.annotate.check import check_page
from emo.extract.annotate.pages import export_page, peek_page, run_page, status_page
from emo.extract.annotate.rays import Till
from emo.extract.annotate.run import Run
from emo.extract.annotate.spool import Spool, recover
from emo.featstore.annotations import annotations_of
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import MediaError, StoreError, UsageError
from emo.featstore.sources import chat
from emo.featstore.sources.chat import Reply
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import load_workspace

Study = Callable[..., Path]
Server = Any  # see conftest.py
LABELS = ("happy", "angry", "sad", "surprise")  # of the clips of a study, one after the other
FAST = {"concurrency": 2}


def run(folder: Path, **flags: Any) -> dict[str, Any]:
    page = run_page(load_workspace(folder), lambda sentence: None, **{**FAST, **flags})
    return {**page.value, "exit_code": page.exit_code}


def ask(server: Server) -> dict[str, Any]:
    return {"describer": f"{server.url}#m", "timeout": 2.0}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between attempts."""
    monkeypatch.setattr("emo.extract.annotate.budget.Budget.wait", lambda self, seconds: None)


# ---- offline ---------------------------------------------------------------------------------------------------------


def test_the_whole_path_runs_offline_and_a_second_run_makes_nothing(study: Study) -> None:
    folder = study()
    first = run(folder)
    assert (first["made"], first["failed"], first["exit_code"]) == (4, {}, 0)
    again = run(folder)
    assert (again["made"], again["there"], again["answers"]) == (0, 4, {})
    store = open_store(folder / "s.emo")
    for i, (clip, value) in enumerate(sorted(annotations_of(store).items())):
        assert clip == f"c{i}"
        assert value["pseu_emotion"] == LABELS[i]
        assert value["peak_index"] == str(i % 5 + 2)
        assert value["text"] == f"I said number {i}."
        assert value["frames"] == 8
        assert len(value["AU_list"]) == len(value["visual_prior_list"]) > 0
        assert value["text"] in value["smp_reason_caption"]
        assert LABELS[i] in value["smp_reason_caption"]
        assert LABELS[i] not in value["caption"]
    assert not list(folder.glob("*.jsonl"))


def test_one_clip_gives_the_same_annotation_alone_and_among_others(study: Study) -> None:
    folder = study()
    run(folder)
    together = annotations_of(open_store(folder / "s.emo"))
    shutil.rmtree(folder / "s.emo")
    run(folder, limit=1)
    alone = annotations_of(open_store(folder / "s.emo"))
    assert alone == {"c0": together["c0"]}


def test_the_same_media_under_two_names_is_described_once(study: Study) -> None:
    folder = study(2)
    shutil.copy(folder / "data/clips/c0.mp4", folder / "data/clips/c1.mp4")
    found = run(folder)
    assert (found["made"], found["copies"], found["answers"]["scene"]) == (1, 1, 1)


def test_a_copy_that_is_told_otherwise_is_named(study: Study) -> None:
    folder = study(2)
    shutil.copy(folder / "data/clips/c0.mp4", folder / "data/clips/c1.mp4")
    page = run_page(load_workspace(folder), lambda sentence: None, labels="dataset")
    assert page.value["described_otherwise"] == ["c1"]
    assert any(str(part).startswith("1 clip has the content of an earlier clip") for part in page.parts)
    assert str(page.verdict).endswith(", 1 copy of clips before them.")
    for table in ("labels.csv", "transcription.csv"):
        text = (folder / "data" / table).read_text().splitlines()
        (folder / "data" / table).write_text("\n".join([text[0], text[1], text[1].replace("c0", "c1", 1)]) + "\n")
    assert run(folder, labels="dataset")["described_otherwise"] == []


def test_of_two_of_one_content_the_earlier_is_described_however_slowly_it_is_read(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study(4)
    shutil.copy(folder / "data/clips/c0.mp4", folder / "data/clips/c2.mp4")
    shutil.copy(folder / "openface/c0.csv", folder / "openface/c2.csv")
    read = Run._file

    def slowly(self: Run, clip: Clip) -> FileId | None:
        time.sleep({"c0": 0.5, "c1": 0.2}.get(clip.id, 0))
        if clip.id == "c1":
            raise UsageError("an error in the midst of it")
        return read(self, clip)

    monkeypatch.setattr(Run, "_file", slowly)
    with pytest.raises(UsageError, match="in the midst"):  # nobody waits for the one that was lost
        run(folder, concurrency=4)
    monkeypatch.setattr(Run, "_file", lambda self, clip: time.sleep(0.5 * (clip.id == "c0")) or read(self, clip))
    found = run(folder, concurrency=4)
    assert (found["failed"], found["copies"]) == ({}, 1)
    assert annotations_of(open_store(folder / "s.emo"))["c0"]["text"] == "I said number 0."


def test_labels_of_rules_and_of_the_dataset_do_not_pass_for_each_other(study: Study) -> None:
    folder = study(4)
    table = folder / "data/labels.csv"
    table.write_text(table.read_text().replace("c0,happy", "c0,sad"))
    found = {}
    for labels in ("rules", "dataset", "rules"):
        key = run(folder, labels=labels)["annotation"]
        found[labels] = annotations_of(open_store(folder / "s.emo"), key)["c0"]
        assert (found[labels]["pseu_emotion"], found[labels]["label_from"]) == (
            ("happy", "rules") if labels == "rules" else ("sad", "dataset")
        )
    table.write_text(table.read_text().replace("c0,sad", "c0,angry"))
    key = run(folder, labels="dataset")["annotation"]
    assert annotations_of(open_store(folder / "s.emo"), key)["c0"]["pseu_emotion"] == "angry"


def test_what_has_changed_is_made_again_and_nothing_else(study: Study) -> None:
    folder = study()
    run(folder)
    words = (folder / "data/transcription.csv").read_text().replace("number 2", "nothing")
    (folder / "data/transcription.csv").write_text(words)
    found = run(folder)
    assert (found["made"], found["there"]) == (1, 3)
    assert annotations_of(open_store(folder / "s.emo"))["c2"]["text"] == "I said nothing."
    shutil.copy(folder / "openface/c1.csv", folder / "openface/c0.csv")  # happy becomes angry
    assert run(folder)["made"] == 1
    assert annotations_of(open_store(folder / "s.emo"))["c0"]["pseu_emotion"] == "angry"


def test_a_stored_table_is_read_again_only_where_its_record_does_not_count_frames(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study(2)
    run(folder)
    store = open_store(folder / "s.emo")
    table = next(each.spec for each in store.features(records=True) if each.spec.name == "aus.table")
    value = dict(store.records(table)["c1"])
    assert value.pop("frames") == 8
    row = store.clip_row("c1")
    assert row is not None
    media = row[0]
    with store.writer() as writer:
        writer.add_record(table, media, value)
    words = (folder / "data/transcription.csv").read_text().replace("number", "NUMBER")
    (folder / "data/transcription.csv").write_text(words)
    read, array_of = list[str](), Store.array_of
    monkeypatch.setattr(Store, "array_of", lambda self, spec, media: read.append(media) or array_of(self, spec, media))
    found = run(folder)
    assert (found["made"], found["failed"]) == (2, {})
    assert read == [media]
    assert {each["frames"] for each in annotations_of(open_store(folder / "s.emo")).values()} == {8}


def test_a_clip_that_cannot_be_annotated_is_a_typed_failure_and_no_zeros(study: Study) -> None:
    folder = study(3, audio_s=0.4)
    (folder / "openface/c0.csv").unlink()
    (folder / "data/clips/c1.mp4").write_bytes(b"no video")
    found = run(folder)
    assert found["failed"]["no-action-units"] == 1
    assert (found["made"], sum(found["failed"].values())) == (1, 2)
    store = open_store(folder / "s.emo")
    assert peek_page(store, "c0").value["failed"] == "no-action-units"
    assert {each["kind"] for each in status_page(store).value["failures"]} >= {"no-action-units"}
    assert run(folder)["failed"] == found["failed"]


def test_a_clip_without_sound_has_an_empty_clue(study: Study) -> None:
    folder = study(1, audio_s=0)
    assert run(folder)["made"] == 1
    value = annotations_of(open_store(folder / "s.emo"))["c0"]
    assert value["audio_prior_list"] == ""
    assert "tone" not in value["caption"]


def test_the_label_of_the_dataset_and_chinese(study: Study) -> None:
    folder = study(2)
    labels = (folder / "data/labels.csv").read_text().replace("c0,happy", "c0,sad")
    (folder / "data/labels.csv").write_text(labels)
    run(folder, labels="dataset", language="zh")
    value = annotations_of(open_store(folder / "s.emo"))["c0"]
    assert (value["pseu_emotion"], value["label_from"]) == ("sad", "dataset")
    assert value["AU_list"] == ["AU14"]  # the one unit that happy and sad share
    assert "悲伤" in value["smp_reason_caption"]


def test_a_recipe_that_differs_makes_other_records_and_a_name_must_then_be_chosen(study: Study) -> None:
    folder = study(1)
    first, second = run(folder), run(folder, phrases="facs")
    assert first["annotation"] != second["annotation"]
    store = open_store(folder / "s.emo")
    assert annotations_of(store, first["annotation"]) != annotations_of(store, second["annotation"])
    with pytest.raises(Exception, match="annotation@"):
        annotations_of(store)


def test_without_a_table_of_units_it_says_where_to_name_one(study: Study) -> None:
    folder = study(1)
    (folder / "emo.toml").write_text((folder / "emo.toml").read_text().replace('aus = "openface"\n', ""))
    with pytest.raises(UsageError, match="--aus FOLDER"):
        run(folder)
    assert run(folder, aus=str(folder / "openface"))["made"] == 1


# ---- an endpoint -----------------------------------------------------------------------------------------------------


def test_an_endpoint_is_shown_the_frame_and_the_sound_and_told_the_clues(study: Study, server: Server) -> None:
    folder = study(1)
    assert run(folder, **ask(server))["requests"] == 3
    scene, voice, caption = server.asked
    url = scene["messages"][0]["content"][0]["image_url"]["url"]
    picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (64, 48)
    middle = 10 + 8 * 2  # the frame of the peak: its middle says which one it is
    assert abs(picture.getpixel((32, 24))[0] - middle) < 8
    sound = voice["messages"][0]["content"][0]["input_audio"]
    with wave.open(io.BytesIO(base64.b64decode(sound["data"]))) as file:
        assert (file.getframerate(), file.getnchannels(), sound["format"]) == (16000, 1, "wav")
        assert 0.3 < file.getnframes() / 16000 < 0.6
    assert "angry, cheerful, crying" in server.text(voice)
    assert caption["messages"][0]["role"] == "system"
    for clue in ("A person in a room.", "It sounds normal.", "I said number 0.", "feels happy"):
        assert clue in server.text(caption)
    assert (caption["temperature"], caption["max_tokens"], caption["model"]) == (0.0, 512, "m")


def test_a_server_that_misbehaves_costs_retries_and_typed_failures_and_nothing_is_lost(
    study: Study, server: Server
) -> None:
    """Each clip meets another trouble at its caption."""
    folder = study(12, audio_s=0.2)
    said = {f"number {i}.": i for i in range(12)}
    acts: dict[int, Callable[[int], Any]] = {
        0: lambda before: 429 if before < 2 else None,
        1: lambda before: 503 if before < 4 else None,
        2: lambda before: b"half an answ" if before < 1 else None,
        3: lambda before: b"<html>Bad gateway</html>" if before < 1 else None,
        4: lambda before: "I'm sorry, but I can't help with that.",
        5: lambda before: "",
        6: lambda before: "The person feels happy, with a bright smile.",  # its label is sad
        7: lambda before: "A sentence that ends at the limit of ...",
        8: lambda before: (
            "You are an emotion analysis expert. Please infer emotion label based on the given emotional"
            " features. Please sort out the correct emotional clues and infer why the person in the video feels happy."
        ),
        9: lambda before: 500,
        10: lambda before: 400,
    }

    def behave(text: str, before: int) -> Any:
        number = next((n for words, n in said.items() if words in text), -1)
        return acts[number](before) if number in acts else None

    server.behave = behave
    found = run(folder, **ask(server), concurrency=4)
    kinds = {"refused": 1, "empty-answer": 1, "contradicts-label": 1, "cut-off-answer": 1, "repeats-prompt": 1}
    assert found["failed"] == kinds | {"no-answer": 1, "request-refused": 1}
    assert (found["made"], found["exit_code"], found["left"]) == (5, 0, 0)
    captions = {text: n for text, n in server.questions.items() if "infer why" in text}
    asked = {i: next(n for text, n in captions.items() if f"number {i}." in text) for i in range(12)}
    attempts = {0: 3, 1: 5, 2: 2, 3: 2, 5: chat.ATTEMPTS, 9: chat.ATTEMPTS}
    assert asked == {i: attempts.get(i, 1) for i in range(12)}
    assert found["requests"] == len(server.asked)
    assert server.questions["Please describe the content of the image."] == 12
    before = len(server.asked)
    server.behave = lambda text, before: None
    again = run(folder, **ask(server))  # what failed for good is not asked again, what may pass is
    assert (again["made"], again["there"], len(server.asked) - before) == (1, 5, 1)
    last = run(folder, **ask(server), retry_failed=True)
    assert (last["made"], last["there"], last["failed"]) == (6, 6, {})


def test_a_time_out_is_tried_again(study: Study, server: Server) -> None:
    folder = study(1)
    server.behave = lambda text, before: 5.0 if "infer why" in text and not before else None
    found = run(folder, **ask(server) | {"timeout": 0.4})
    assert (found["made"], found["requests"]) == (1, 4)


def test_a_wrong_key_ends_the_run_at_once_and_keeps_what_was_said(study: Study, server: Server) -> None:
    folder = study(4)
    server.behave = lambda text, before: 401 if "infer why" in text else None
    with pytest.raises(UsageError, match="EMO_DESCRIBER_KEY"):
        run(folder, **ask(server))
    asked = len(server.asked)
    server.behave = lambda text, before: None
    assert run(folder, **ask(server))["made"] == 4
    assert max(n for text, n in server.questions.items() if "infer why" not in text) <= 4
    assert len(server.asked) - asked < 12  # scenes and voices of before are not asked again


def test_a_second_model_may_refuse_a_caption(study: Study, server: Server) -> None:
    folder = study(3, audio_s=0.2)

    def behave(text: str, before: int) -> Any:
        if "Answer yes or no" not in text:
            return None
        return next(said for n, said in enumerate(("Yes.", "No, it does not.", "Perhaps")) if f"number {n}." in text)

    server.behave = behave
    found = run(folder, **ask(server), verify=f"{server.url}#second")
    assert (found["made"], found["failed"]) == (1, {"not-verified": 1, "unclear-verdict": 1})
    with pytest.raises(UsageError, match="cannot answer verify"):
        run(folder, verify="offline")


def test_a_budget_of_requests_is_kept_and_the_rest_is_made_later(study: Study, server: Server) -> None:
    folder = study(5)
    found = run(folder, **ask(server), max_requests=7)
    assert (found["requests"], len(server.asked), found["exit_code"]) == (7, 7, 3)
    assert found["stopped"] == "7 requests are made"
    assert found["left"] == 5 - found["made"] > 0
    rest = run(folder, **ask(server))
    assert (found["made"] + rest["made"], len(server.asked)) == (5, 15)


def test_a_budget_of_cost_is_counted_by_the_tokens_that_the_endpoint_names(study: Study, server: Server) -> None:
    folder = study(4)
    (folder / "prices.toml").write_text("[m]\ninput = 1000\noutput = 5000\n")  # 0.2 per request of 100 + 20 tokens
    money = {"max_cost": 1.0, "prices": folder / "prices.toml"}
    found = run(folder, **ask(server), **money, concurrency=1)
    assert (found["requests"], found["cost"]) == (5, 1.0)
    with pytest.raises(UsageError, match="needs prices of m"):
        run(folder, **ask(server), max_cost=1.0)
    server.usage = False
    unknown = run(folder, **ask(server), **money, concurrency=1)
    assert unknown["stopped"] == "the endpoint of m does not say how many tokens a reply took"
    assert unknown["requests"] == 1


def test_a_cost_that_is_not_known_whole_is_not_given_as_the_cost(study: Study, server: Server) -> None:
    folder = study(2, audio_s=0.2)
    (folder / "prices.toml").write_text("[m]\ninput = 1000\noutput = 5000\n")
    server.usage = False
    flags = {**FAST, **ask(server), "prices": folder / "prices.toml"}
    page = run_page(load_workspace(folder), lambda sentence: None, **flags)
    assert (page.value["requests"], page.value["cost"], page.value["uncounted"]) == (6, 0, 6)
    assert "6 requests, cost 0 without 6 replies whose tokens or price are not known" in page.parts
    server.usage = True
    flags |= {"scene": "offline", "caption": f"{server.url}#other"}  # one is free, and one has no price
    page = run_page(load_workspace(folder), lambda sentence: None, **flags)
    assert (page.value["requests"], page.value["cost"], page.value["uncounted"]) == (2, 0, 2)
    till = Till(None, None, {"m": (1, 1)})  # of a cluster
    till.pay("m", Reply("so"))
    assert till.told() == (0, 0.0, 1, "")


def test_recorded_answers_are_replayed_without_the_endpoint(study: Study, server: Server) -> None:
    folder = study(2)
    said = run(folder, **ask(server), record=folder / "said.jsonl")
    live = annotations_of(open_store(folder / "s.emo"))
    shutil.rmtree(folder / "s.emo")
    asked = len(server.asked)
    found = run(folder, describer=f"replay:{folder}/said.jsonl")
    assert (said["made"], found["made"], len(server.asked)) == (2, 2, asked)
    assert {k: v["smp_reason_caption"] for k, v in annotations_of(open_store(folder / "s.emo")).items()} == {
        k: v["smp_reason_caption"] for k, v in live.items()
    }


def test_a_prompt_of_the_workspace_takes_the_place_of_the_shipped_one(study: Study, server: Server) -> None:
    folder = study(1)
    before = run(folder, **ask(server))["annotation"]
    (folder / "prompts").mkdir()
    (folder / "prompts/scene.yaml").write_text("version: 2\nneeds: image\nen: {text: 'Where is the image from?'}\n")
    after = run(folder, **ask(server))
    assert after["annotation"] != before
    assert server.questions["Where is the image from?"] == 1


# ---- ends ------------------------------------------------------------------------------------------------------------


def start(folder: Path, server: Server, concurrency: int = 2) -> subprocess.Popen[str]:
    words = ["annotate", "run", "--describer", f"{server.url}#m", "--concurrency", str(concurrency), "--json"]
    command = [sys.executable, "-m", "emo.cli", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(server: Server, questions: int) -> None:
    deadline = time.monotonic() + 60
    while len(server.asked) < questions:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_half_way_the_same_command_goes_on_and_asks_nothing_twice(study: Study, server: Server) -> None:
    folder = study(10, audio_s=0.2)
    server.delay_s = 0.02
    process = start(folder, server)
    wait_for(server, 14)
    process.kill()
    process.communicate()
    assert len(server.asked) < 30
    time.sleep(0.3)  # answers under way reach nobody
    found = run(folder, **ask(server))
    assert found["recovered"] >= 10
    assert annotations_of(open_store(folder / "s.emo")).keys() == {f"c{i}" for i in range(10)}
    assert 30 <= len(server.asked) <= 30 + 2  # at most what the two workers waited for
    assert not list(folder.glob("*.answers-*"))
    assert open_store(folder / "s.emo").verify() == []


def test_a_file_of_answers_that_another_run_removed_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.flock, list[Path]()

    def late(descriptor: int, how: int) -> None:
        if not removed:  # another run ends between our opening and our locking
            removed.append(tmp_path / "s.emo.answers-0.jsonl")
            removed[0].unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    spool = Spool(tmp_path / "s.emo")
    spool.clip("c0", FileId("0" * 32, 1, 1), tmp_path / "c0.mp4")
    spool.flush()
    assert removed
    assert spool.path.stat().st_size > 0
    spool.clear()
    spool.close()


def test_a_damaged_file_of_answers_stays_and_only_what_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.emo", create=True)
    recipe = record_spec("said", "describer", "none", decoding={}, inputs={})
    spool = Spool(store.path)
    for number in range(3):
        spool.record(recipe, f"{number:032x}", {"text": f"answer {number}"})
    spool.failure(recipe, f"{3:032x}", MediaError("refused", "It was refused."))
    spool.close()
    whole = spool.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 5
    for number, damaged in (
        (1, [b"\0" * 20 + b"\n", *lines[1:]]),  # of the recipe
        (1, lines[1:]),  # the recipe is missing
        (3, [*lines[:2], b'{"of": 1\n', *lines[3:]]),
        (4, [*lines[:3], lines[3].replace(b"answer", b"\xff"), *lines[4:]]),
        (5, [*lines[:4], lines[4].replace(b"failed", b"fai-ed")]),
    ):
        spool.path.write_bytes(b"".join(damaged))
        with pytest.raises(StoreError, match=rf"answers-0.jsonl line {number}, .*move the file away"):
            recover(store)
        assert spool.path.read_bytes() == b"".join(damaged)
        assert not store.features(records=True)
    spool.path.write_bytes(b"".join(lines[:4]) + lines[4][:-9])
    assert recover(store) == 3
    assert not spool.path.exists()
    store.refresh()
    texts = [store.values_of([recipe], f"{number:032x}")[recipe.fingerprint]["text"] for number in range(3)]
    assert texts == ["answer 0", "answer 1", "answer 2"]
    spool.path.write_bytes(whole.rstrip())  # all of it, but for its last character
    assert recover(store) == 4


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_finishes_what_is_under_way_and_keeps_it(study: Study, server: Server, sign: int) -> None:
    folder = study(10, audio_s=0.2)
    server.delay_s = 0.1
    process = start(folder, server)
    wait_for(server, 6)
    os.kill(process.pid, sign)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    told = json.loads(out)
    assert told["stopped"] == "interrupted"
    server.delay_s = 0.0
    found = run(folder, **ask(server))
    assert found["recovered"] == 0
    assert len(server.asked) == 30
    assert found["made"] + told["made"] == 10


# ---- files -----------------------------------------------------------------------------------------------------------


def test_annotations_are_exported_in_every_form(study: Study) -> None:
    folder = study()
    run(folder)
    store = open_store(folder / "s.emo")
    for form, name in (("merr", "f.json"), ("coarse", "c.json"), ("sharegpt", "s.json"), ("csv", "t.csv")):
        assert export_page(store, form, folder / name).value["kept"] == 4
    export_page(store, "lists", folder / "lists")
    for name in ("f.json", "c.json", "lists/MERR_fine_grained.json", "lists/MERR_coarse_grained.json"):
        found = check_page(folder / name)
        assert (found.exit_code, found.value["faults"], found.value["warnings"]) == (0, {}, {})
    lines = (folder / "lists/MERR_fine_grained.txt").read_text().splitlines()
    assert lines == [f"c{i} 8 {LABELS[i]} -10" for i in range(4)]
    assert (folder / "lists/transcription_en_all.csv").read_text().splitlines()[:2] == [
        "name,sentence",
        "c0,I said number 0.",
    ]
    talk = json.loads((folder / "s.json").read_text())
    assert talk[0]["videos"] == [str(folder / "data/clips/c0.mp4")]
    assert [each["from"] for each in talk[0]["conversations"]] == ["human", "gpt"]
    assert (folder / "t.csv").read_text().startswith("name,AU_list,")
    with pytest.raises(UsageError, match="no form"):
        export_page(store, "xml", folder / "x")
    with pytest.raises(UsageError, match="exists already"):
        export_page(store, "lists", folder / "lists")


def test_the_fields_are_of_the_forms_of_the_published_file(study: Study, shared: Path) -> None:
    """Field by field: the same names in the same order, the same types, codes and numbers written the same way."""
    folder = study()
    run(folder)
    export_page(open_store(folder / "s.emo"), "merr", folder / "f.json")
    real = json.loads((shared / "data/merr/MERR_fine_grained.json").read_text())

    def shape(value: Any) -> Any:
        if isinstance(value, list):
            return {"AU" if each[:2] == "AU" and len(each) == 4 else type(each).__name__ for each in value} or {"AU"}
        return "digits" if value.isdigit() else "words"

    forms: dict[str, set[str]] = {}
    for record in real.values():
        for name, value in record.items():
            forms.setdefault(name, set()).add(str(shape(value)))
    ours = json.loads((folder / "f.json").read_text())
    for record in ours.values():
        assert list(record) == list(next(iter(real.values())))
        for name, value in record.items():
            assert str(shape(value)) in forms[name], name
