"""Requests by HTTP, each bounded in time and size; connections are kept open and used again."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from emo.featstore.errors import UsageError

MAX_REPLY_BYTES = 4 << 20
HUNG_UP = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


class Trouble(Exception):
    """Something that may pass: the request is sent again, after `wait_s` if the other side asks for that."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


@lru_cache
def origin(address: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address.

    Raises:
        UsageError: It is no http address.
    """
    parts = _split(address)
    return parts.scheme, str(parts.hostname), parts.port or {"http": 80, "https": 443}[parts.scheme]


def joined(address: str, location: str) -> str:
    """Return where a redirect of an address leads; what cannot be put together is returned as it was sent."""
    try:
        return urljoin(address, location)
    except ValueError:
        return location


class _Whole(http.client.HTTPConnection):
    """Sends head and body of a request in one piece: one system call, and the other side wakes up once."""

    _parts: list[Any] | None = None

    def request(self, *given: Any, **named: Any) -> None:
        parts = self._parts = []
        try:
            super().request(*given, **named)
        finally:
            self._parts = None
        self.send(b"".join(parts))

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)


class _WholeSecure(_Whole, http.client.HTTPSConnection):
    """The same, encrypted."""


@dataclass
class _Line:
    """A connection, and what to ask for on it."""

    connection: http.client.HTTPConnection
    prefix: str  # before the path, where a proxy wants the whole address
    used: bool = False

    def alive(self) -> bool:
        """Whether the other side has neither hung up nor said anything unasked since the last reply."""
        sock = self.connection.sock
        try:
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError, AttributeError, TypeError):
            return False


class Connections:
    """Connections that are kept for the next request; used by many threads at once, each with a connection of its own.

    A connection that the other side has closed meanwhile is opened again, and the request sent there.
    """

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str, int], list[_Line]] = {}
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for lines in self._idle.values():
            for line in lines:
                line.connection.close()

    def post(
        self, address: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request; `timeout_s` bounds all of it, however slowly the other side sends.

        Returns:
            Status, headers by their names in lower case, and a body of `MAX_REPLY_BYTES` at most. No redirect is
            followed.

        Raises:
            UsageError: The address cannot be one.
            Trouble: The other side cannot be reached, hangs up, takes too long, or sends too much.
        """
        parts, deadline = _split(address), time.monotonic() + timeout_s
        where = origin(address)
        while True:
            line = self._take(where, parts)
            try:
                return self._send(line, where, parts, body, headers, deadline)
            except HUNG_UP as error:
                if not line.used or time.monotonic() >= deadline:
                    raise Trouble("timed out" if time.monotonic() >= deadline else str(error)) from error

    def _take(self, where: tuple[str, str, int], parts: SplitResult) -> _Line:
        while True:
            with self._lock:
                lines = self._idle.get(where)
                line = lines.pop() if lines else None
            if line is None:
                return _connection(parts)
            if line.alive():
                return line
            line.connection.close()

    def _send(
        self,
        line: _Line,
        where: tuple[str, str, int],
        parts: SplitResult,
        body: bytes,
        headers: Mapping[str, str],
        deadline: float,
    ) -> tuple[int, dict[str, str], bytes]:
        connection, path, keep = line.connection, line.prefix + _path(parts), False
        connection.timeout = max(0.001, deadline - time.monotonic())
        held = list[socket.socket]()
        try:
            with _WATCH.until(deadline, connection, held):
                if connection.sock is None:
                    connection.connect()
                if connection.sock.gettimeout() is not None:
                    connection.sock.settimeout(None)  # the watch ends a wait: a time-out here would poll at every step
                held.append(connection.sock)  # the connection lets go of it before a body without a length is read
                connection.request("POST", path, body, dict(headers))
                response = connection.getresponse()
                told = {name.lower(): value for name, value in response.getheaders()}
                data = response.read(MAX_REPLY_BYTES + 1)
            if time.monotonic() >= deadline:
                raise Trouble("timed out")
            if response.length and len(data) <= MAX_REPLY_BYTES:
                raise Trouble(f"a reply that was cut off: {response.length} bytes are missing")
            if len(data) > MAX_REPLY_BYTES:
                raise Trouble(f"a reply of more than {MAX_REPLY_BYTES >> 20} MiB")
            keep = not response.will_close
            return response.status, told, data
        except HUNG_UP:
            raise
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            late = time.monotonic() >= deadline or isinstance(error, TimeoutError)
            raise Trouble("timed out" if late else str(error) or type(error).__name__) from error
        finally:
            if keep:
                line.used = True
                with self._lock:
                    self._idle.setdefault(where, []).append(line)
            else:
                connection.close()


class _Watch:
    """Hangs up connections whose time is over: one thread for all requests under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[int, tuple[float, http.client.HTTPConnection, list[socket.socket]]] = {}
        self._numbers, self._wakes_at = count(), 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def until(
        self, deadline: float, connection: http.client.HTTPConnection, held: list[socket.socket]
    ) -> Iterator[None]:
        """While it lasts, hang up the sockets of a connection at its deadline."""
        with self._changed:
            number = next(self._numbers)
            self._watched[number] = (deadline, connection, held)
            if self._thread is None or not self._thread.is_alive():
                self._wakes_at = deadline
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
            elif deadline < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._watched[number]

    def _watch(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                late = [each for each in self._watched.values() if each[0] <= now]
                self._wakes_at = min((each[0] for each in self._watched.values() if each[0] > now), default=now + 60)
                if not late:
                    self._changed.wait(self._wakes_at - now)
            for _, connection, held in late:
                for each in (connection.sock, *held):
                    with contextlib.suppress(OSError, AttributeError):
                        each.shutdown(socket.SHUT_RDWR)
            if late:
                time.sleep(0.01)  # until who waits there has heard of it


_WATCH = _Watch()


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _connection(parts: SplitResult) -> _Line:
    """Return a connection, through the proxy that the environment names if it names one."""
    kind = _WholeSecure if parts.scheme == "https" else _Whole
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(str(parts.hostname)):
        return _Line(kind(str(parts.hostname), parts.port), "")
    through = _split(proxy if "://" in proxy else f"http://{proxy}")
    connection = kind(str(through.hostname), through.port)
    if parts.scheme == "https":
        connection.set_tunnel(str(parts.hostname), parts.port)
        return _Line(connection, "")
    return _Line(connection, f"http://{parts.netloc.rpartition('@')[2]}")


@lru_cache
def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        str(parts.hostname).encode("idna")
    except ValueError:  # a port that is no number, a host that cannot be one
        good = False
    if not good or not address.isprintable() or " " in address:
        raise UsageError(f"{address[:200]!r} is no address of an endpoint.", "For example: http://localhost:8000/v1.")
    return parts
