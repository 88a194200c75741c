"""An endpoint that lies: it redirects the key away, drips bytes, never ends, and sends what no endpoint sends."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emo.featstore.errors import EmoError, TrainError, UsageError
from emo.featstore.sources import http as module
from emo.featstore.sources.chat import ATTEMPTS, HttpChat, Recorded, Request, _read

GOOD = json.dumps({"choices": [{"message": {"content": "7"}}]}).encode()
Act = Callable[[socket.socket], None]


class Liar:
    """A server that plays acts on raw sockets, one per connection, and keeps what it was sent."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.asked: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._play, args=(client, self.acts.pop(0)), daemon=True).start()

    def _play(self, client: socket.socket, act: Act) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            self.asked.append(head)
            with contextlib.suppress(OSError):  # nobody waits any more
                act(client)


def sends(status: str, body: bytes = b"", *headers: str) -> Act:
    def act(client: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    return act


def drips(start: bytes, drop: bytes) -> Act:
    """Send a start, and then a drop every hundredth of a second, without end."""

    def act(client: socket.socket) -> None:
        client.sendall(start)
        while True:
            client.sendall(drop)
            time.sleep(0.01)

    return act


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.socket.close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def chat(liar: Liar, waits: list[float]) -> HttpChat:
    return HttpChat(liar.url, "judge-1", "sk-secret", timeout_s=0.3, sleep=waits.append)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_the_key_never_goes_to_another_place(liar: Liar, chat: HttpChat, status: str) -> None:
    other = Liar()
    other.acts = [sends("200 OK", GOOD)] * 9
    others = [f"http://127.0.0.1:{other.port}/v1/chat/completions", f"http://localhost:{liar.port}/v1"]
    broken = [f"https://127.0.0.1:{liar.port}/", "//evil.example/", "ftp://127.0.0.1/", "http://[broken/"]
    for place in [*others, *broken]:
        liar.acts = [sends(status, b"", f"Location: {place}")]
        with pytest.raises(UsageError) as caught:
            chat.reply("How far?", 0)
        assert "sk-secret" not in str(caught.value)
    assert other.asked == []
    other.socket.close()


def test_a_redirect_on_the_same_host_is_followed_but_not_for_ever(liar: Liar, chat: HttpChat) -> None:
    liar.acts = [sends("307 Temporary Redirect", b"", "Location: /v2/chat/completions"), sends("200 OK", GOOD)]
    assert chat.reply("How far?", 0) == "7"
    assert liar.asked[1].startswith(b"POST /v2/chat/completions")
    assert b"Bearer sk-secret" in liar.asked[1]
    liar.acts = [sends("307 Temporary Redirect", b"", "Location: /again")] * 9
    with pytest.raises(UsageError, match="refuses model judge-1: status 307"):
        chat.reply("How far?", 0)


@pytest.mark.parametrize(
    "act",
    [
        drips(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        drips(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
        drips(b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        drips(b"", b"H"),
        lambda client: time.sleep(3),
    ],
)
def test_the_time_out_bounds_the_whole_reply(liar: Liar, chat: HttpChat, act: Act) -> None:
    liar.acts = [act, sends("200 OK", GOOD)]
    started = time.monotonic()
    assert chat.reply("How far?", 0) == "7"
    assert time.monotonic() - started < 4 * chat.timeout_s


def test_a_reply_without_end_is_cut(liar: Liar, chat: HttpChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 1 << 20)
    chat.timeout_s = 30.0
    liar.acts = [drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (1 << 18))] * ATTEMPTS
    with pytest.raises(TrainError, match="the last one: a reply of more than 1 MiB"):
        chat.reply("How far?", 0)


@pytest.mark.parametrize(
    "act",
    [
        sends("200 OK", b"[" * 100_000),
        sends("200 OK", b'{"choices": %s}' % (b"9" * 5000)),
        sends("200 OK", b"\xff\xfe"),
        sends("200 OK", b'{"choices": []}'),
        sends("200 OK", b'{"choices": [{"message": "7"}]}'),
        lambda client: client.sendall(b"what?\r\n\r\n"),
        lambda client: client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + GOOD),
        lambda client: client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        sends("503 Busy", b"", "Retry-After: \u00b2"),
        sends("503 Busy", b"", "Retry-After: " + "9" * 400),
    ],
)
def test_what_is_no_reply_is_asked_again(liar: Liar, chat: HttpChat, waits: list[float], act: Act) -> None:
    liar.acts = [act, sends("200 OK", GOOD)]
    assert chat.reply("How far?", 0) == "7"
    assert len(waits) == 1
    assert waits[0] <= 60


def test_a_refusal_that_repeats_the_key_does_not_print_it(liar: Liar, chat: HttpChat) -> None:
    liar.acts = [sends("401 Unauthorized", b"Incorrect key: sk-secret")]
    with pytest.raises(UsageError, match=r"status 401, 'Incorrect key: \(the key\)'") as caught:
        chat.reply("How far?", 0)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://host:port/v1", "http://[::1/v1", "http://", "file:///etc", "http://a b/v1"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of an endpoint"):
        HttpChat(url, "m", sleep=lambda s: None).reply("x", 0)


def test_a_key_that_no_header_can_carry_is_refused(liar: Liar) -> None:
    for key in ("a\nX-Evil: 1", "schlüssel"):
        with pytest.raises(UsageError, match="signs that no key has"):
            HttpChat(liar.url, "m", key).reply("x", 0)


def test_a_request_carries_what_describers_need(liar: Liar, chat: HttpChat) -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
    )
    liar.acts = [sends("200 OK", GOOD)]
    assert chat.complete(Request(messages, 3, 0.5, 64)) == "7"
    body = json.loads(Request(messages, 3, 0.5, 64).body("m"))
    assert (body["messages"], body["seed"], body["temperature"], body["max_tokens"]) == (list(messages), 3, 0.5, 64)


def test_half_a_character_in_a_reply_can_be_recorded(liar: Liar, chat: HttpChat, tmp_path: Path) -> None:
    liar.acts = [sends("200 OK", b'{"choices": [{"message": {"content": "sad \\ud83d"}}]}')]
    assert Recorded(tmp_path / "r.jsonl", chat).reply("How far?", 0) == "sad \ufffd"
    assert Recorded(tmp_path / "r.jsonl", chat).reply("How far?", 0) == "sad \ufffd"
    with pytest.raises(EmoError, match="cannot be written"):
        Recorded(tmp_path / "nowhere" / "r.jsonl", chat_that_says("7")).reply("?", 0)


def chat_that_says(text: str) -> HttpChat:
    class Says(HttpChat):
        def reply(self, prompt: str, seed: int) -> str:
            return text

    return Says("http://127.0.0.1:9/v1", "m")


# ---- connections that stay open --------------------------------------------------------------------------------------


class Keeper(Liar):
    """A server that answers several requests on one connection, and hangs up after so many."""

    def __init__(self, each: int) -> None:
        self.each, self.connections = each, 0
        super().__init__()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as file:
            for _ in range(self.each):
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    if not (line := file.readline()):
                        return
                    head += line
                length = next(int(each.split(b":")[1]) for each in head.split(b"\r\n") if b"Content-Length" in each)
                self.asked.append(file.read(length))
                sends("200 OK", GOOD)(client)


@pytest.mark.parametrize(("each", "connections"), [(100, 1), (2, 3), (1, 6)])
def test_a_connection_is_used_again_and_another_is_opened_when_the_server_hangs_up(
    each: int, connections: int, waits: list[float]
) -> None:
    keeper = Keeper(each)
    chat = HttpChat(keeper.url, "m", timeout_s=5.0, sleep=waits.append)
    for _ in range(6):
        assert chat.reply("How far?", 0) == "7"
        time.sleep(0.02)  # the server may hang up meanwhile
    assert (keeper.connections, len(keeper.asked), waits) == (connections, 6, [])
    keeper.socket.close()


def test_threads_do_not_share_a_connection(waits: list[float]) -> None:
    keeper = Keeper(100)
    chat = HttpChat(keeper.url, "m", timeout_s=5.0, sleep=waits.append)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: chat.reply("How far?", 0), range(64))) == ["7"] * 64
    assert keeper.connections <= 8
    keeper.socket.close()


@pytest.mark.parametrize(
    ("indices", "text"), [((1, 0), "second"), ((0, 1), "first"), ((None, None), "first"), ((2, 1), "first")]
)
def test_of_several_answers_the_one_with_index_0_is_taken(indices: tuple[int | None, ...], text: str) -> None:
    words = [{"message": {"content": each}, "finish_reason": "stop"} for each in ("first", "second")]
    choices = [each if i is None else {"index": i, **each} for i, each in zip(indices, words, strict=True)]
    assert _read(json.dumps({"choices": choices}).encode()).text == text


def test_an_answer_that_was_broken_off_is_known_by_its_index() -> None:
    ends = [{"index": 1, "finish_reason": "stop"}, {"index": 0, "finish_reason": "error"}]
    with pytest.raises(ValueError, match="error"):
        _read(json.dumps({"choices": [{**each, "message": {"content": "7"}} for each in ends]}).encode())


@pytest.mark.parametrize(
    ("content", "text"),
    [('[{"type": "text", "text": "hap"}, {"type": "text", "text": "py"}]', "happy"), ("5", None), ('[{"a": 1}]', None)],
)
def test_content_in_parts_is_read_and_of_another_kind_is_no_answer(content: str, text: str | None) -> None:
    data = f'{{"choices": [{{"message": {{"content": {content}}}}}]}}'.encode()
    if text is None:
        with pytest.raises((TypeError, LookupError)):
            _read(data)
    else:
        assert _read(data).text == text


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            "429 Too Many",
            b'{"error": {"message": "Rate limit of sk-secret reached"}}',
            "status 429, 'Rate limit of (the",
        ),
        (
            "502 Bad",
            b"<html><head><style>b {}</style></head><h1>Bad\n gateway</h1></html>",
            "status 502, 'Bad gateway'",
        ),
        ("503 Busy", b"", "status 503."),
        ("200 OK", b'{"error": "model is loading"}', "a reply that is no completion, 'model is loading'"),
        ("200 OK", b'{"detail": [1]}', "a reply that is no completion, '[1]'"),
        ("200 OK", b"[7]", "a reply that is no completion, '[7]'"),
    ],
)
def test_a_failure_holds_the_endpoints_own_words(
    liar: Liar, chat: HttpChat, status: str, body: bytes, said: str
) -> None:
    liar.acts = [sends(status, body)] * ATTEMPTS
    with pytest.raises(TrainError) as caught:
        chat.reply("How far?", 0)
    assert said in caught.value.message
    assert "sk-secret" not in caught.value.message
