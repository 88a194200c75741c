"""A workspace of small clips with tables of action units, and a server that behaves like vLLM until told not to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from emo.extract.annotate.actions import INTENSITIES, PRESENCES, rules

TOML = """
[store]
path = "s.emo"
[data.mine]
root = "data"
kind = "folder"
aus = "openface"
[extract]
profile = "tiny"
"""
LABELS = ("happy", "angry", "sad", "surprise")


def _openface(label: str, frames: int, peak: int) -> str:
    """A table of OpenFace in which the units of a label rise to a frame."""
    head = ["frame", "face_id", "timestamp", "confidence", "success"]
    rows = [[*head, *(f"{u}_r" for u in INTENSITIES), *(f"{u}_c" for u in PRESENCES)]]
    for i in range(frames):
        strength = max(0.0, 3.0 - abs(i - peak))
        units = dict.fromkeys(rules()[label], strength)
        rows.append([i + 1, 0, i / 25, 0.98, 1, *(units.get(u, 0) for u in INTENSITIES)])
        rows[-1] += [int(units.get(unit, 0) >= 1) for unit in PRESENCES]
    return "\n".join(", ".join(map(str, row)) for row in rows) + "\n"


@pytest.fixture
def openface() -> Callable[..., str]:
    """The text of a table: `openface(label, frames, peak)`."""
    return _openface


@pytest.fixture
def study(tmp_path: Path, write_media: Callable[..., Path]) -> Callable[..., Path]:
    """Make a workspace of N clips; clip i has label LABELS[i % 4] by its units, and its peak at frame i % 5 + 2."""

    def make(clips: int = 4, **media: Any) -> Path:
        (tmp_path / "data/clips").mkdir(parents=True)
        (tmp_path / "openface").mkdir()
        rows = ["name,label,english"]
        for i in range(clips):
            write_media(tmp_path / f"data/clips/c{i}.mp4", **{"n_frames": 8, "size": (64 + 2 * i, 48), **media})
            table = _openface(LABELS[i % 4], 8, i % 5 + 2)
            (tmp_path / f"openface/c{i}.csv").write_text(table)
            rows.append(f"c{i},{LABELS[i % 4]},I said number {i}.")
        (tmp_path / "data/labels.csv").write_text("\n".join(rows) + "\n")
        (tmp_path / "data/transcription.csv").write_text(
            "name,english\n" + "".join(f"c{i},I said number {i}.\n" for i in range(clips))
        )
        (tmp_path / "emo.toml").write_text(TOML)
        return tmp_path

    return make


@dataclass
class Server:
    """A chat endpoint.

    Attributes:
        asked: Every question, in the order in which they came.
        behave: Gives, for the text of a question and how often it came before, what to do: a text to answer with, a
            status, or seconds to hang.
        delay_s: Before each answer.
    """

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    behave: Callable[[str, int], Any] = lambda text, before: None
    delay_s: float = 0.0
    usage: bool = True
    times: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def questions(self) -> Counter[str]:
        """How often each text was asked."""
        return Counter(self.text(each) for each in self.asked)

    @staticmethod
    def text(body: dict[str, Any]) -> str:
        """The text of a question."""
        content = body["messages"][-1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]


def good_answer(text: str) -> str:
    if "infer why" in text:
        label = text.rpartition("feels ")[2].strip(".")
        return f"The person moves the face and raises the voice, which speaks for a state of being {label}."
    return "A person in a room." if "image" in text else "It sounds normal."


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = state.text(body)
            with state.lock:
                state.asked.append(body)
                before = state.times[text]
                state.times[text] += 1
            act = state.behave(text, before)
            time.sleep(act if isinstance(act, float) else state.delay_s)
            if isinstance(act, int):
                self.answer(b'{"error": "no"}', act)
            elif isinstance(act, bytes):
                self.answer(act)
            else:
                said = act if isinstance(act, str) else good_answer(text)
                reason = "length" if said.endswith("...") else "stop"
                reply: dict[str, Any] = {"choices": [{"message": {"content": said}, "finish_reason": reason}]}
                if state.usage:
                    reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 20}
                self.answer(json.dumps(reply).encode())

        def answer(self, data: bytes, status: int = 200) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the other side has hung up

        def log_message(self, *words: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Quiet(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}/v1"
        yield state
        http.shutdown()
