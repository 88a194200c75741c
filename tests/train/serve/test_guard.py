"""What is not let in: other hosts, other pages, no token, too much, too slow, anything malformed."""

from __future__ import annotations

import asyncio
import random
import socket
import string
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import pytest
from serving import Idle
from starlette.testclient import TestClient

from emo.featstore.errors import UsageError
from emo.featstore.workspace import Workspace
from emo.train.serve import app
from emo.train.serve.app import make_app, make_server
from emo.train.serve.desk import Desk
from emo.train.serve.guard import Guard, Limits, check_host

TOKEN = "0123456789abcdef"


def test_the_network_needs_a_token() -> None:
    check_host("127.0.0.1", None)
    check_host("0.0.0.0", TOKEN)
    with pytest.raises(UsageError, match="other machines"):
        check_host("0.0.0.0", None)
    with pytest.raises(UsageError, match="characters"):
        check_host("0.0.0.0", "short")
    for token in ("пароль-пароль-пароль", "a secret with spaces", f"{TOKEN}\n"):
        with pytest.raises(UsageError, match="cannot carry"):
            check_host("0.0.0.0", token)


def test_only_names_of_the_loopback_are_answered_to(desk: Desk) -> None:
    for name, status in (
        ("http://evil.example", 421),
        ("http://localhost:1", 200),
        ("http://127.0.0.1.evil.example", 421),
    ):
        with TestClient(make_app(desk), base_url=name) as page:
            assert page.get("/api/about").status_code == status, name
    with TestClient(make_app(desk), base_url="http://127.0.0.1") as page:
        assert page.get("/api/about", headers={"host": "[::1"}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}, {"origin": "http://["}],
)
def test_other_pages_cannot_send_anything(page: TestClient, headers: dict[str, str]) -> None:
    assert page.post("/api/predict", data={"clip": "demo_0001"}, headers=headers).status_code == 403


def test_a_token_opens_by_header_by_cookie_and_by_form(desk: Desk) -> None:
    with TestClient(make_app(desk, TOKEN, "0.0.0.0"), base_url="http://any.example") as page:
        assert page.get("/api/about").status_code == 401
        assert page.get("/", follow_redirects=False).headers.get("location") == "/login"
        assert page.get("/api/about", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert page.get("/api/about", headers={"authorization": f"Bearer {TOKEN[:-1]}é".encode()}).status_code == 401
        assert page.post("/login", data={"token": "wrong"}).status_code == 401
        entered = page.post("/login", data={"token": TOKEN}, follow_redirects=False)
        assert entered.status_code == 303
        assert "httponly" in entered.headers["set-cookie"].lower()
        assert "samesite=strict" in entered.headers["set-cookie"].lower()
        assert page.get("/api/about").status_code == 200  # the cookie


def test_the_token_is_asked_for_in_the_language_of_the_browser(desk: Desk) -> None:
    with TestClient(make_app(desk, TOKEN, "0.0.0.0"), base_url="http://any.example") as page:
        chinese = {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}
        assert 'lang="zh"' in page.get("/login", headers=chinese).text
        assert "令牌不对" in page.post("/login", data={"token": "wrong"}, headers=chinese).text
        assert 'lang="en"' in page.get("/login", headers={"accept-language": "de,zh"}).text
        assert "That is not the token." in page.post("/login", data={"token": "wrong"}).text


@pytest.mark.parametrize(
    ("method", "path", "taken"),
    [
        ("POST", "/api/clips", "GET"),
        ("DELETE", "/api/labels", "GET, POST"),
        ("PUT", "/api/line/x", "DELETE, GET"),
        ("PUT", "/login", "GET, POST"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_refused_with_those_that_it_takes(
    page: TestClient, method: str, path: str, taken: str
) -> None:
    answer = page.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"] == f"There is no {method} at {path}."
    assert answer.json()["hint"].startswith(f"It takes {taken}; ")
    assert answer.headers["allow"] == taken


def test_ten_gigabytes_are_refused_before_they_are_sent(page: TestClient) -> None:
    for length in ("10737418240", "99999999999999999999", "-1", "ten"):
        answer = page.post("/api/predict", content=b"x", headers={"content-length": length})
        assert answer.status_code == 413, length
    assert page.post("/api/select", content=b"[" * (2 << 20)).status_code == 413


def ask(guard: Guard, parts: list[dict[str, Any]], delay_s: float = 0.0) -> int:
    """Send one request in parts, without a length, and return the status."""

    async def run() -> int:
        found: list[int] = []
        waiting = iter(parts)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(delay_s)
            return next(waiting, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.append(message["status"])

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=b")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/predict",
            "raw_path": b"/api/predict",
            "headers": headers,
        }
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 1)}
        scope |= {"client": ("127.0.0.1", 2), "root_path": "", "asgi": {"version": "3.0"}}
        await guard(scope, receive, send)
        return found[0]

    return asyncio.run(run())


def test_a_body_without_a_length_is_counted(desk: Desk) -> None:
    desk.limits = Limits(upload_bytes=1000)
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    more = [{"type": "http.request", "body": b"x" * 20_000, "more_body": True}] * 10
    assert ask(make_app(desk), [{"type": "http.request", "body": head, "more_body": True}, *more]) == 413


def test_a_slow_body_is_given_up(desk: Desk) -> None:
    desk.limits = Limits(idle_s=0.05)
    assert ask(make_app(desk), [{"type": "http.request", "body": b"--b\r\n", "more_body": True}], delay_s=0.2) == 408


@contextmanager
def served(workspace: Workspace) -> Iterator[tuple[str, int]]:
    """Serve a workspace from a thread."""
    desk, listening = Desk(workspace, Idle(workspace.root)), socket.create_server(("127.0.0.1", 0))
    server = make_server(desk, "127.0.0.1")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join(20)
        desk.close()
        listening.close()


def trickle(line: socket.socket) -> bytes:
    """Send headers without end, a line every fifth of a second, for five seconds; return what came back by then."""
    line.settimeout(0.2)
    for number in range(25):
        try:
            line.sendall(f"x-{number}: y\r\n".encode())
            return line.recv(1000)
        except TimeoutError:
            continue
        except OSError:
            return b""
    return b"it is still open"


def answered(line: socket.socket, ask: bytes) -> int:
    """Send a request; read the answer to its end, in however many pieces it comes, and return its status."""
    line.sendall(ask)
    with HTTPResponse(line) as answer:
        answer.begin()
        answer.read()
        return answer.status


def test_a_client_that_sends_its_headers_slowly_is_cut_off(few: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "HEADERS_S", 1.0)
    ask = b"GET /api/about HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    with served(few) as place:
        with socket.create_connection(place) as first:
            first.sendall(ask)
            assert trickle(first) == b""
        with socket.create_connection(place, 10) as second:  # a connection that is kept open is watched again
            assert answered(second, ask + b"\r\n") == 200
            time.sleep(1.5)
            assert answered(second, ask + b"\r\n") == 200
            second.sendall(ask)
            assert trickle(second) == b""


PATHS = ("/api/clips", "/api/clip", "/api/clip/media", "/api/clip/timeline", "/api/clip/neighbours", "/api/about")
NAMES = ("id", "q", "run", "label", "sort", "offset", "limit", "feature", "k", "selection", "differs", "least", "split")
ESCAPES = (
    *(
        "../" * 8 + "etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "/etc/passwd",
        "file:///etc/passwd",
        "C:\\boot.ini",
        "\0",
        "%00",
    ),
    *("<script>alert(1)</script>", "' OR 1=1 --", "${7*7}", "{{7*7}}", "\ud7ff" * 99, "\u202e", "a" * 5000, "", "nan"),
    *(
        "-1",
        "1e309",
        "99999999999999999999",
        "emo.toml",
        "runs/../emo.toml",
        "demo.emo/emo.json",
        "CON",
        "demo_0001/..",
    ),
)


def _malformed(rng: random.Random, known: dict[str, set[str]]) -> tuple[str, str, dict[str, Any]]:
    """Draw one request that nobody in their right mind would send; `known`: the parameters of each path."""
    words = [rng.choice(ESCAPES) if rng.random() < 0.7 else "".join(rng.choices(string.printable, k=9)) for _ in NAMES]
    query = {name: word for name, word in zip(NAMES, words, strict=True) if rng.random() < 0.4}
    kind = rng.randrange(6)
    if kind < 2:
        path = rng.choice(PATHS)
        if rng.random() < 0.9:  # the others are refused for the name of a parameter
            query = {name: word for name, word in query.items() if name in known.get(path, query)}
        return "GET", path, {"params": query}
    if kind == 2:
        path = "/static/" + "".join(
            rng.choices(("..", "%2e%2e", "/", "%2f", "js", "main.js", "%5c", "etc/passwd"), k=6)
        )
        return "GET", path, {}
    if kind == 3:
        return "POST", "/api/predict", {"data": query}
    if kind == 4:
        path = rng.choice(("/api/predict", "/api/without", "/api/select", "/api/clip/units", "/login"))
        body = rng.randbytes(rng.randrange(200))
        types = ("application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "\x7f")
        return "POST", path, {"content": body, "headers": {"content-type": rng.choice(types)}}
    path = rng.choice(("/api/line/", "/api/line/../about/", "/nothing/", "/api/")) + rng.choice(ESCAPES)[:50]
    return rng.choice(("GET", "DELETE", "PUT", "PATCH", "OPTIONS")), path.replace("\0", "%00").replace("\n", ""), {}


def test_two_thousand_malformed_requests_give_no_traceback_and_no_other_file(page: TestClient) -> None:
    rng = random.Random(16)
    secrets = ("root:x:0", "Traceback", 'File "/', "[store]", '"schema"')
    seen: dict[int, int] = {}
    described = page.get("/openapi.json").json()["paths"]
    known = {
        path: {each["name"] for each in of["get"].get("parameters", ())}
        for path, of in described.items()
        if "get" in of
    }
    for number in range(2000):
        method, path, given = _malformed(rng, known)
        answer = page.request(method, path, **given, follow_redirects=False)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (number, method, path, given, answer.text)
        if answer.status_code >= 400:
            assert answer.json()["error"], (number, method, path)
        assert not any(word in answer.text for word in secrets), (number, method, path)
    assert seen.get(404, 0) > 100
    assert page.get("/api/about").status_code == 200


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/api/clips?lable=sad", "Did you mean label?"),
        ("/api/clips?zzz=1", "Parameters: q, dataset, "),
        ("/api/map?methd=pca", "Did you mean method?"),
        ("/api/clip?id=demo_0001&runn=x", "Did you mean run?"),
        ("/api/jobs?run=x", "There is none here"),
    ],
)
def test_a_parameter_that_is_not_there_is_refused_with_the_one_that_was_meant(
    page: TestClient, path: str, hint: str
) -> None:
    answer = page.get(path)
    assert answer.status_code == 400
    assert "There is no parameter" in answer.json()["error"]
    assert answer.json()["hint"].startswith(hint)
    assert page.get("/?view=clips&t=3").status_code == 200  # a link of the page, which its scripts read


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/api/confussion", "Did you mean /api/confusion?"),
        ("/api/nothing/like/that", "GET /openapi.json"),
        ("/clips", "The page is at /"),
        ("/static/no.js", "The page is at /"),
        ("/api/clips?run=xyz", "Runs: "),
        ("/api/jobs/log?run=x", "GET /api/jobs"),
        ("/api/jobs/log?run={head}_", "Did you mean {head}?"),
        ("/api/clip?id=nobody", "GET /api/clips"),
        ("/api/line/x", "Ask again."),
    ],
)
def test_whoever_asks_for_what_is_not_there_is_told_where_to_look(
    page: TestClient, head: str, path: str, hint: str
) -> None:
    answer = page.get(path.format(head=head))
    assert answer.status_code == 404
    assert hint.format(head=head) in answer.json()["hint"]
