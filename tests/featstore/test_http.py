"""Requests by HTTP: through proxies and TLS, replies in every shape, and servers that neither read nor keep silent."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emo.featstore.sources.http import Connections, Trouble

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Talk = Callable[[socket.socket], None]


class Server:
    """A server that has one talk per connection, which ends when the other side hangs up."""

    def __init__(self, *talks: Talk) -> None:
        self.talks = talks
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for talk in self.talks:
            with contextlib.suppress(OSError):
                client, _ = self.socket.accept()
                with client:
                    talk(client)


def head(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(1)
        if not piece:
            break
        data += piece
    return data


def says(*data: bytes, heard: list[bytes] | None = None) -> Talk:
    """Answer so many requests without a body on one connection, each with these bytes."""

    def talk(client: socket.socket) -> None:
        for each in data:
            got = head(client)
            if heard is not None:
                heard.append(got)
            client.sendall(each)

    return talk


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections()
    yield made
    del made


def post(connections: Connections, port: int, timeout_s: float = 5.0) -> tuple[int, dict[str, str], bytes]:
    return connections.post(f"http://127.0.0.1:{port}/v1/x?a=b", b"", {"X-Own": "yes"}, timeout_s)


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (OK, 200, b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nok\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n", 200, b"ok!"),
        (b"HTTP/1.0 200 OK\r\n\r\nup to the end", 200, b"up to the end"),
        (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", 200, b"ok"),
    ],
)
def test_a_reply_is_read_in_every_shape(connections: Connections, sent: bytes, status: int, body: bytes) -> None:
    server = Server(says(sent))
    found = post(connections, server.port)
    assert (found[0], found[2]) == (status, body)
    server.socket.close()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n", "more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "cut off: 3 bytes are missing"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0"),
        (b"", "without response"),
    ],
)
def test_what_is_no_reply_is_said(connections: Connections, sent: bytes, words: str) -> None:
    server = Server(says(sent))
    with pytest.raises(Trouble, match=words):
        post(connections, server.port)
    server.socket.close()


def test_a_connection_that_said_more_than_it_was_asked_is_not_used_again(connections: Connections) -> None:
    heard: list[bytes] = []
    more = b"HTTP/1.1 500 Not Yours\r\nContent-Length: 0\r\n\r\n"
    server = Server(says(OK + more, OK, heard=heard), says(OK, OK, heard=heard))
    assert [post(connections, server.port)[0] for _ in range(3)] == [200, 200, 200]
    time.sleep(0.05)
    assert len([each for each in heard if each]) == 3
    server.socket.close()


def test_a_request_names_its_host_and_holds_one_line_per_header(connections: Connections) -> None:
    heard: list[bytes] = []
    server = Server(says(OK, heard=heard))
    post(connections, server.port)
    lines = heard[0].decode().splitlines()
    assert lines[0] == "POST /v1/x?a=b HTTP/1.1"
    assert {f"Host: 127.0.0.1:{server.port}", "X-Own: yes", "Content-Length: 0"} <= set(lines)
    with pytest.raises(Trouble, match="Invalid header value"):
        connections.post(f"http://127.0.0.1:{server.port}/", b"", {"X": "a\r\nY: b"}, 1.0)
    server.socket.close()


def test_a_request_is_sent_in_one_piece(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    send = http.client.HTTPConnection.send

    def counted(self: http.client.HTTPConnection, data: bytes) -> None:
        sent.append(data)
        send(self, data)

    monkeypatch.setattr(http.client.HTTPConnection, "send", counted)
    server = Server(says(OK))
    assert connections.post(f"http://127.0.0.1:{server.port}/", b"body", {}, 5.0)[0] == 200
    assert len(sent) == 1
    assert sent[0].endswith(b"\r\n\r\nbody")
    server.socket.close()


def test_the_time_out_bounds_what_nobody_reads(connections: Connections) -> None:
    """A server that takes a few bytes now and then, of a body that fits no buffer."""
    ended = threading.Event()

    def talk(client: socket.socket) -> None:
        while not ended.wait(0.02):
            client.recv(1000)

    server = Server(talk)
    started_s = time.monotonic()
    with pytest.raises(Trouble, match="timed out"):
        connections.post(f"http://127.0.0.1:{server.port}/", bytes(64 << 20), {}, 0.4)
    assert time.monotonic() - started_s < 2
    ended.set()
    server.socket.close()


def test_a_proxy_is_asked_for_the_whole_address(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []
    proxy = Server(says(OK, heard=heard))
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
    assert connections.post("http://models.example:8000/v1", b"", {}, 5.0)[2] == b"ok"
    assert heard[0].startswith(b"POST http://models.example:8000/v1 HTTP/1.1\r\nHost: models.example:8000\r\n")
    proxy.socket.close()


# ---- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file with a key and a certificate of localhost that it signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side of TLS, whose certificate this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.parent / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def within(context: ssl.SSLContext, talk: Talk) -> Talk:
    def secretly(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as wrapped:
            talk(wrapped)

    return secretly


def test_a_connection_by_tls_is_used_again(connections: Connections, trusted: ssl.SSLContext) -> None:
    heard: list[bytes] = []
    server = Server(within(trusted, says(OK, OK, heard=heard)))
    for _ in range(2):
        assert connections.post(f"https://localhost:{server.port}/v1", b"", {}, 5.0)[2] == b"ok"
    assert [each.splitlines()[0] for each in heard] == [b"POST /v1 HTTP/1.1"] * 2
    server.socket.close()


def test_a_certificate_that_is_not_trusted_gets_no_request(connections: Connections, certificate: Path) -> None:
    heard: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server(within(context, says(OK, heard=heard)))
    with pytest.raises(Trouble, match="certificate verify failed"):
        connections.post(f"https://localhost:{server.port}/v1", b"", {"Authorization": "Bearer sk-secret"}, 5.0)
    assert heard == []
    server.socket.close()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_the_time_out_bounds_a_reply_by_tls(connections: Connections, trusted: ssl.SSLContext, start: bytes) -> None:
    def drips(client: socket.socket) -> None:
        client.sendall(start)
        while True:
            client.sendall(b"x")
            time.sleep(0.01)

    server = Server(within(trusted, drips))
    started_s = time.monotonic()
    with pytest.raises(Trouble, match="timed out"):
        connections.post(f"https://localhost:{server.port}/v1", b"", {}, 0.5)
    assert time.monotonic() - started_s < 2
    server.socket.close()


def test_tls_goes_through_a_proxy_which_sees_no_request(
    connections: Connections, trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []
    secret: list[bytes] = []

    def tunnel(client: socket.socket) -> None:
        heard.append(head(client))
        client.sendall(b"HTTP/1.1 200 Connected\r\nX: y\r\n\r\n")
        within(trusted, says(OK, heard=secret))(client)

    proxy = Server(tunnel)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    assert connections.post("https://localhost/v1", b"", {"Authorization": "Bearer sk-secret"}, 5.0)[2] == b"ok"
    assert [each.splitlines()[0].rpartition(b" ")[0] for each in heard] == [b"CONNECT localhost:443"]
    assert b"Bearer sk-secret" in secret[0]
    proxy.socket.close()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (says(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), "407 Proxy Authentication Required"),
        (says(b"HTTP/1.1 200 OK\r\n"), "EOF"),
        (lambda client: time.sleep(1), "timed out"),
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_said(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, said: Talk, words: str
) -> None:
    proxy = Server(said)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(Trouble, match=words):
        connections.post("https://localhost/v1", b"", {}, 0.5)
    proxy.socket.close()
