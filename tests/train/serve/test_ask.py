"""Questions over HTTP: the answer is the command's, byte for byte; the line, its places and its end."""

from __future__ import annotations

import itertools
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import LOCAL, Idle
from starlette.testclient import TestClient

from emo.extract.demo import generate_clip
from emo.extract.hands import Hands
from emo.featstore.workspace import Workspace
from emo.train.serve.app import make_app
from emo.train.serve.desk import Desk
from emo.train.serve.guard import Limits
from emo.train.serve.line import Line, Ticket

Emo = Callable[..., subprocess.CompletedProcess[str]]


def uploads() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("emo-upload-*"))


def test_a_file_that_is_sent_is_answered_as_the_command_answers_it_and_is_not_kept(
    demo_copy: Workspace, head: str, emo: Emo, tmp_path: Path
) -> None:
    clip = tmp_path / "new face.mp4"
    generate_clip(clip, "happy", seed=77)
    desk = Desk(demo_copy, Hands(demo_copy.root), head)
    with TestClient(make_app(desk), base_url=LOCAL) as page:
        sent = {"file": (clip.name, clip.read_bytes(), "video/mp4")}
        ticket = page.post("/api/predict", files=sent, data={"wait": "no"})
        assert ticket.status_code == 202
        events = page.get(f"/api/line/{ticket.json()['id']}/events").text
        answer = page.get(f"/api/line/{ticket.json()['id']}/answer")
        name = answer.json()["answers"][0]["name"]
        timeline = page.get("/api/clip/timeline", params={"id": name}).json()
        gone = page.get("/api/clip/media", params={"id": name})
    desk.close()
    states = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
    assert [each["stage"] for each in states[-1]["stages"]] == ["look", "open", "extract", "answer"]
    assert states[-1]["state"] == "done"
    said = emo("predict", str(clip), "--run", head, "--json", cwd=demo_copy.root)
    assert answer.content + b"\n" == said.stdout.encode()
    assert name.startswith("new face@")
    assert len(timeline["media"]["wave"]) > 100
    assert len(timeline["faces"]["boxes"]) > 20
    assert gone.status_code == 404
    assert not uploads()


def test_a_clip_of_the_dataset_is_answered_as_the_command_answers_it(
    page: TestClient, demo_copy: Workspace, head: str, emo: Emo
) -> None:
    answer = page.post("/api/predict", data={"clip": "demo_0003"})
    assert answer.headers["content-type"] == "application/json"
    said = emo("predict", "demo_0003", "--run", head, "--json", cwd=demo_copy.root)
    assert answer.content + b"\n" == said.stdout.encode()


def test_switching_parts_off_changes_the_answer_and_says_how(page: TestClient) -> None:
    found = page.post("/api/without", json={"clip": "demo_0001", "off": ["audio"]}).json()
    assert found["all"]["probabilities"] != found["without"]["probabilities"]
    assert sum(found["without"]["probabilities"].values()) == pytest.approx(1)
    assert "mean" in found["note"]
    same = page.post("/api/without", json={"clip": "demo_0001", "off": ["text"]}).json()
    assert same["all"] == same["without"]  # a head reads no words
    assert page.post("/api/without", json={"clip": "demo_0001", "off": ["smell"]}).status_code == 400


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({}, 400, "either a file or the id"),
        ({"clip": "nobody"}, 404, "no clip of this workspace"),
        ({"clip": "../../etc/passwd"}, 404, "no clip of this workspace"),
        ({"clip": "demo_0001", "run": "nothing"}, 404, "no finished run"),
        ({"clip": "demo_0001", "run": "../runs"}, 404, "no finished run"),
        ({"clip": "demo_0001", "task": "reason"}, 400, "knows no task"),
        ({"clip": "demo_0001", "answers": "guess"}, 400, "Unknown policy"),
        ({"clip": "demo_0001", "colour": "red"}, 400, "no field 'colour'"),
    ],
)
def test_a_wrong_question_ends_in_a_sentence(page: TestClient, form: dict[str, str], status: int, words: str) -> None:
    answer = page.post("/api/predict", data=form or {"wait": "no"})
    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"words", "no video or sound file by its name"),
        ("noend", b"words", "no video or sound file by its name"),
        ("a.mp4", b"", "is empty"),
        ("../../a.mp4", b"words", "not looked at"),
    ],
)
def test_a_wrong_file_ends_in_a_sentence_and_is_not_kept(page: TestClient, name: str, data: bytes, words: str) -> None:
    answer = page.post("/api/predict", files={"file": (name, data, "video/mp4")})
    assert answer.status_code in (400, 422)
    assert words in answer.json()["error"]
    assert not uploads()


def test_places_in_line_are_told_and_a_question_can_be_taken_back() -> None:
    line, hold, begun, dropped = Line(2), threading.Event(), threading.Event(), []

    def slow(ticket: Ticket) -> bytes:
        begun.set()
        hold.wait(10)
        return b"1"

    first = line.submit("first", slow)
    assert begun.wait(10)
    second = line.submit("second", lambda ticket: b"2", lambda: dropped.append("second"))
    third = line.submit("third", lambda ticket: b"3")
    assert [line.show(each)["place"] for each in (first, second, third)] == [0, 1, 2]
    with pytest.raises(ValueError, match="wait already"):
        line.submit("fourth", lambda ticket: b"4", lambda: dropped.append("fourth"))
    line.cancel(second)
    assert line.show(third)["place"] == 1
    hold.set()
    end = time.monotonic() + 10
    while not third.ended and time.monotonic() < end:
        time.sleep(0.01)
    assert (first.state, second.state, third.state) == ("done", "cancelled", "done")
    assert (first.body, third.body) == (b"1", b"3")
    assert dropped == ["fourth", "second"]
    line.close()


def test_a_full_line_says_so(demo_copy: Workspace, head: str) -> None:
    desk = Desk(demo_copy, Idle(demo_copy.root), head, limits=Limits(waiting=0))
    with TestClient(make_app(desk), base_url=LOCAL) as page:
        answer = page.post("/api/predict", files={"file": ("a.mp4", b"words", "video/mp4")})
    assert answer.status_code == 429
    assert "minute" in answer.json()["hint"]
    assert answer.headers["retry-after"] == "60"
    assert not uploads()
    desk.close()


def test_the_answer_of_a_language_model_comes_word_by_word(page: TestClient, desk: Desk, demo_copy: Workspace) -> None:
    run = next(each.name for each in (demo_copy.root / "runs").iterdir() if each.name.startswith("tiny"))
    heard: list[tuple[str, str]] = []
    predictor = desk.predictor(run)
    found = predictor.predict([desk.clip("demo_0003")], keep=False, on_text=lambda *said: heard.append(said))
    texts = [text for _, text in heard]
    assert len(texts) > 1
    assert texts[-1] == found["demo_0003"].answer
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
    assert len(desk.predictor(run).evidence) == 2
    likely = page.post("/api/predict", data={"clip": "demo_0003", "run": run, "answers": "likelihood"}).json()
    assert sum(likely["answers"][0]["probabilities"].values()) == pytest.approx(1)
    typed = page.post("/api/predict", data={"clip": "demo_0003", "run": run, "transcript": "What a day!"})
    assert typed.status_code == 200
