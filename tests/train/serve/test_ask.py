"""Questions over HTTP: the answer is the command's, byte for byte; the line, its places and its end."""

from __future__ import annotations

import errno
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import LOCAL, Idle
from starlette.testclient import TestClient

from emo.extract import hands
from emo.extract.demo import generate_clip
from emo.extract.hands import Hands, Killed
from emo.featstore.errors import MediaError, StoreFull
from emo.featstore.workspace import Workspace
from emo.train.serve.app import make_app
from emo.train.serve.desk import Desk
from emo.train.serve.guard import Limits
from emo.train.serve.inbox import Inbox, sweep
from emo.train.serve.line import Line, Ticket

Emo = Callable[..., subprocess.CompletedProcess[str]]


def uploads() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("emo-upload-*/*"))


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


def test_a_question_that_was_taken_back_is_refused_as_such(demo_copy: Workspace, head: str) -> None:
    class Taken(Idle):
        def look(self, path: Path, most_s: float, most_pixels: int, cancelled: threading.Event) -> dict[str, Any]:
            cancelled.wait(20)
            raise Killed("This was cancelled.")

    desk = Desk(demo_copy, Taken(demo_copy.root), head)
    with TestClient(make_app(desk), base_url=LOCAL, raise_server_exceptions=False) as page:
        ticket = page.post("/api/predict", files={"file": ("a.mp4", b"words", "video/mp4")}, data={"wait": "no"}).json()
        page.delete(f"/api/line/{ticket['id']}")
        answer = page.get(f"/api/line/{ticket['id']}/answer")
    assert (answer.status_code, answer.json()["error"]) == (400, "This question was cancelled.")
    desk.close()


def test_whoever_waits_is_told_when_the_server_ends() -> None:
    line, hold = Line(2), threading.Event()
    first = line.submit("first", lambda ticket: b"1" if hold.wait(10) else b"")
    second = line.submit("second", lambda ticket: b"2")
    line.close()
    hold.set()
    assert second.state == "cancelled"
    assert first.cancelled.is_set()


def test_a_full_disk_is_said_while_a_file_is_received(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    answer = page.post("/api/predict", files={"file": ("a.mp4", b"words", "video/mp4")})
    assert answer.json() == {
        "error": "The file cannot be kept: No space left on device.",
        "hint": "The server's disk may be full.",
    }


def test_files_of_a_server_that_was_killed_are_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "emo-upload-left" / "x"
    left.mkdir(parents=True)
    (left / "face.mp4").write_bytes(b"of somebody")
    alive = Inbox()
    kept = alive.new()
    sweep()
    assert not left.parent.exists()
    assert kept.is_dir()
    shutil.rmtree(kept.parent)  # somebody tidied up
    assert alive.new().is_dir()
    alive.close()
    assert list(tmp_path.iterdir()) == []


def test_what_the_working_process_raises_is_not_taken_for_its_end() -> None:
    class Pipe:
        def send(self, what: Any) -> None: ...

        def poll(self, wait_s: float) -> bool:
            return True

        def recv(self) -> tuple[str, Exception]:
            return "failed", StoreFull("No space left on device (writing to the store).")

        def close(self) -> None: ...

    works = hands._Process()
    works._pipe, works._process = Pipe(), SimpleNamespace(is_alive=lambda: True)  # type: ignore[assignment]
    with pytest.raises(StoreFull, match="No space left"):
        works.call("extract", {}, print, threading.Event(), 9.0)


def test_a_file_that_is_too_long_for_the_page_is_not_told_of_settings_of_the_workspace(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * 8000 * 5))
    with pytest.raises(MediaError, match="longer than the") as caught:
        hands._look(str(path), 2.0, 9_000_000, print)
    assert (caught.value.kind, caught.value.hint) == ("too-long", "Cut it.")


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
