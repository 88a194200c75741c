"""Guard of the door: hosts, tokens, sizes and times of requests; and what every answer says to the browser."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from emo.featstore.errors import UsageError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
COOKIE = "emo_token"
LEAST_TOKEN = 16  # characters
UPLOAD_PATHS = ("/api/predict",)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(self), geolocation=()",
}


@dataclass(frozen=True)
class Limits:
    """Bounds of what strangers may send.

    Attributes:
        upload_bytes: Of one file.
        seconds: Of one clip.
        pixels: Of one frame; 3840 x 2160 has 8.3 million.
        waiting: Questions in line.
        body_bytes: Of any other request.
        idle_s: Longest wait for the next part of a request.
        body_s: Longest time for a whole request to arrive.
    """

    upload_bytes: int = 200 << 20
    seconds: float = 120.0
    pixels: int = 9_000_000
    waiting: int = 32
    body_bytes: int = 1 << 20
    idle_s: float = 20.0
    body_s: float = 300.0


def check_host(host: str, token: str | None) -> None:
    """Refuse to listen to the network without a token.

    Raises:
        UsageError: The host is not the loopback and there is no token; or it can be guessed, or not be sent.
    """
    if token is not None and not all("!" <= letter <= "~" for letter in token):
        told = "The token has a letter that a header or a cookie cannot carry, or a space."
        raise UsageError(told, "Use letters and digits alone: `openssl rand -hex 16`.")
    if token is not None and len(token) < LEAST_TOKEN:
        raise UsageError(
            f"The token has {len(token)} characters.", f"Use at least {LEAST_TOKEN}: `openssl rand -hex 16`."
        )
    if host not in LOOPBACK and token is None:
        raise UsageError(
            f"{host} can be reached by other machines, and everybody there could read this workspace's clips.",
            "Give a secret with --token, or listen to 127.0.0.1.",
        )


class Refused(HTTPException):
    """A request that is not let in."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)


class Guard:
    """ASGI middleware in front of the whole application.

    Args:
        app: The application.
        limits: Bounds.
        token: Secret that every request must have, by header or by the cookie of /login; `None` for none.
        host: Address that the server listens on: on the loopback, only names of the loopback are answered to, so that
            no page elsewhere can pass for this one.
    """

    def __init__(self, app: Any, limits: Limits, token: str | None, host: str) -> None:
        self.app, self.limits, self.token = app, limits, token
        self.local_only = host in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        begun = False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name.lower() for name, _ in message.get("headers", [])}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        try:
            self._check(scope, headers)
            await self.app(scope, self._bounded(scope, headers, receive), sent)
        except Refused as error:
            if not begun:
                await _refuse(sent, error, to_login=error.status_code == 401 and scope["path"] == "/")

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        name = _part(f"//{host}", "hostname") if _plain(host) else None
        if self.local_only and name not in LOOPBACK:
            raise Refused(421, "This server answers to 127.0.0.1 and localhost alone.")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
            if (origin is not None and _part(origin, "netloc") != host) or site not in ("same-origin", "none"):
                raise Refused(403, "Requests from other pages are refused.")
        if self.token is not None and scope["path"] not in ("/login", "/static/login.css") and not self._knows(headers):
            raise Refused(401, "This server wants its token: `Authorization: Bearer TOKEN`, or open /login.")
        length = headers.get("content-length", "0")
        most = self._most(scope)
        if not length.isascii() or not length.isdigit() or int(length[:18]) > most or len(length) > 18:
            raise Refused(413, f"A request may have {most:,} bytes here.")

    def _most(self, scope: Scope) -> int:
        upload = scope["path"] in UPLOAD_PATHS
        return self.limits.upload_bytes + (64 << 10) if upload else self.limits.body_bytes

    def _knows(self, headers: dict[str, str]) -> bool:
        given = [headers["authorization"][7:]] if headers.get("authorization", "")[:7].lower() == "bearer " else []
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            found = None
        given += [found.value] if found is not None else []
        return any(same(each, self.token or "") for each in given)

    def _bounded(self, scope: Scope, headers: dict[str, str], receive: Receive) -> Receive:
        """Return a `receive` that counts bytes and seconds."""
        most, seen, begun_s, whole = self._most(scope), 0, time.monotonic(), False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen, whole
            if whole:  # what comes now is the end of the connection, for which one may wait
                return await receive()
            left = self.limits.body_s - (time.monotonic() - begun_s)
            try:
                message = await asyncio.wait_for(receive(), max(0.01, min(left, self.limits.idle_s)))
            except TimeoutError:
                raise Refused(408, "The request came too slowly.") from None
            seen += len(message.get("body", b""))
            if seen > most:
                raise Refused(413, f"A request may have {most:,} bytes here.")
            whole = not message.get("more_body", False)
            return message

        return counted


def same(given: str, secret: str) -> bool:
    """Compare two secrets in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def _part(address: str, name: str) -> str | None:
    """Return a part of an address; `None` where it is none."""
    try:
        found: str | None = getattr(urlsplit(address), name)
    except ValueError:
        return None
    return found


def _plain(host: str) -> bool:
    return bool(host) and host.isascii() and not set(host) & set("/\\@?#% \t")


async def _refuse(send: Send, error: Refused, to_login: bool = False) -> None:
    body = json.dumps({"error": error.detail, "hint": ""}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if error.status_code in (408, 413) else []
    headers += [(b"location", b"/login")] if to_login else []
    status = 303 if to_login else error.status_code
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
