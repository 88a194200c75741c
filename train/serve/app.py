"""The application: routers, static files, errors as sentences, and the server that runs it."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from emo import __version__
from emo.featstore.errors import EmoError, FeatureMissing, MediaError, UsageError
from emo.featstore.text import did_you_mean
from emo.train.serve import routes_ask, routes_clips, routes_data, routes_jobs, routes_notes
from emo.train.serve.desk import Desk, NotFound
from emo.train.serve.guard import COOKIE, Guard, check_host, same
from emo.train.serve.inbox import sweep
from emo.train.serve.line import LineFull

STATIC = Path(__file__).parent / "static"
STATUS: tuple[tuple[type[EmoError], int], ...] = (
    (NotFound, 404),
    (LineFull, 429),
    (UsageError, 400),
    (MediaError, 422),
    (FeatureMissing, 409),
)
HEADERS_S = 15.0  # a connection is closed that has not sent the headers of a request by then
ROUTERS = (routes_ask.router, routes_clips.router, routes_data.router, routes_notes.router, routes_jobs.router)
LOG = logging.getLogger("emo.serve")
LOGIN = """<!doctype html><html lang="{lang}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>emo</title><link rel="stylesheet" href="/static/login.css"><main><h1>emo</h1>
<form method="post" action="/login"><label>{token} <input name="token" type="password" autocomplete="current-password"
required autofocus></label><button>{open}</button><p role="alert">{said}</p></form></main></html>"""
LOGIN_WORDS = {
    "en": {"token": "Token", "open": "Open", "wrong": "That is not the token."},
    "zh": {"token": "令牌", "open": "进入", "wrong": "令牌不对。"},
}


def make_app(desk: Desk, token: str | None = None, host: str = "127.0.0.1") -> Guard:
    """Return the ASGI application.

    Args:
        desk: What the page shows.
        token: Secret that every request must have; `None` for none.
        host: Address that the server listens on.
    """
    known = [Depends(_known_parameters)]
    app = FastAPI(title="emo", version=__version__, docs_url=None, redoc_url=None, dependencies=known)
    for make in ROUTERS:
        app.include_router(make(desk))
    _errors(app, desk)
    _pages(app, token)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return Guard(app, desk.limits, token, host)


def _known_parameters(request: Request) -> None:
    """Refuse a query parameter that the route does not have: it would be ignored, and the answer another one.

    Raises:
        UsageError: There is one.
    """
    about = request.app.openapi()["paths"].get(request.scope["route"].path, {}).get(request.method.lower())
    if about is None:  # the page itself, whose links carry what its scripts read
        return
    known = [each["name"] for each in about.get("parameters", []) if each["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            there = f"Parameters: {', '.join(known)}." if known else "There is none here; see GET /openapi.json."
            raise UsageError(f"There is no parameter {name[:40]!r}.", did_you_mean(name[:40], known) or there)


def _where(app: FastAPI, request: Request) -> str:
    """Return what there is near a path that there is not, or where to look."""
    paths, path = list(app.openapi()["paths"]), request.url.path[:100]
    if not path.startswith("/api"):
        return "The page is at /, its interface under /api/: GET /openapi.json describes it."
    plain = [each for each in paths if "{" not in each]
    return f"{did_you_mean(path, plain, 0.75)} GET /openapi.json lists what there is.".strip()


def _taken(app: FastAPI, path: str, known: str) -> str:
    """Return the methods that a path takes: `known` of one route, and those of its others."""
    methods = set(known.split(", ")) - {""}
    for route in app.routes:
        if getattr(route, "path", None) == path:
            methods |= getattr(route, "methods", None) or set()
    for each, of in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(each)), path):
            methods |= {name.upper() for name in of}
    return ", ".join(sorted(methods))


def _pages(app: FastAPI, token: str | None) -> None:
    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/login", include_in_schema=False)
    def login(request: Request) -> Response:
        return _login(request) if token is not None else RedirectResponse("/", 303)

    @app.post("/login", include_in_schema=False)
    def enter(request: Request, token_: str = Form("", alias="token", max_length=500)) -> Response:
        if token is None:
            return RedirectResponse("/", 303)
        if not same(token_, token):
            return _login(request, 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", max_age=30 * 24 * 3600)
        return answer


def _login(request: Request, status: int = 200) -> Response:
    """Return the form that asks for the token, in the language that the browser asks for first."""
    lang = "zh" if request.headers.get("accept-language", "")[:2].lower() == "zh" else "en"
    words = LOGIN_WORDS[lang]
    said = words["wrong"] if status == 401 else ""
    return HTMLResponse(LOGIN.format(lang=lang, token=words["token"], open=words["open"], said=said), status)


def _errors(app: FastAPI, desk: Desk) -> None:
    def say(status: int, sentence: str, hint: str = "", allow: str = "") -> JSONResponse:
        headers = {"retry-after": "60"} if status == 429 else {"allow": allow} if allow else None
        return JSONResponse({"error": desk.plain(sentence), "hint": desk.plain(hint)}, status, headers)

    @app.exception_handler(EmoError)
    def _(request: Request, error: EmoError) -> JSONResponse:
        status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
        return say(status, error.message, error.hint)

    @app.exception_handler(RequestValidationError)
    def _(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"][1:])[:80]
        return say(
            422, f"{where or 'The request'}: {str(first['msg'])[:200]}.", "GET /openapi.json describes requests."
        )

    @app.exception_handler(HTTPException)
    def _(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return say(404, f"There is nothing at {request.url.path[:100]}.", _where(app, request))
        if error.status_code == 405:
            taken = _taken(app, request.url.path, (error.headers or {}).get("Allow", ""))
            there = f"It takes {taken}; GET /openapi.json describes it."
            return say(405, f"There is no {request.method[:20]} at {request.url.path[:100]}.", there, taken)
        return say(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    def _(request: Request, error: Exception) -> JSONResponse:
        LOG.error("%s %s failed: %r", request.method, request.url.path, error)
        return say(500, "The server failed on this request.", "Its log says more.")


class _Protocol(H11Protocol):
    """HTTP/1.1 that waits `HEADERS_S` for the headers of a request, from the connection or from their first byte on."""

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._end = self.loop.call_later(HEADERS_S, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits = self.cycle is None or self.cycle.response_complete  # for the rest of the headers
        if waits and self._end is None:
            self._end = self.loop.call_later(HEADERS_S, self.transport.close)
        elif not waits:
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _rest(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


def serve(
    desk: Desk,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    say: Callable[[str], None] = print,
    opened: Callable[[str], Any] | None = None,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        desk: What the page shows.
        host, port: Where to listen; port 0 for any that is free.
        token: Needed on any host but the loopback.
        say: Gets the address as a sentence.
        opened: Called with the address when it can be opened, for instance to show it in a browser.

    Raises:
        UsageError: The host needs a token, or the address is taken.
    """
    check_host(host, token)
    sweep()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        why = f"{host}:{port} cannot be listened on: {error.strerror or error}."
        raise UsageError(why, "Name another with --port, or 0 for any that is free.") from error
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/"
    say(f"serving at {address}" + (" (with a token)" if token else "") + "; Ctrl-C ends it")
    if opened is not None:
        opened(address)
    threading.Thread(target=_warm, args=(desk,), name="warm", daemon=True).start()
    try:
        make_server(desk, host, token).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        desk.close()
        listening.close()


def _warm(desk: Desk) -> None:
    """Read what the first visitors would wait for: clips, answers of the run and what it was trained on, libraries."""
    try:
        run = desk.run_name()
        desk.catalogue(run)
        if run is not None:
            desk.predictor(run).trained_among([])
            if desk.predictor(run).evidence[1:]:
                import_module("emo.train.llm.predict")
    except EmoError as error:
        LOG.warning("%s", error)  # whoever asks is told


class _Server(uvicorn.Server):
    """A server that tells whoever waits for an answer that there will be none, before it waits for them to leave."""

    ended: Callable[[], None]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self.ended)
        await super().shutdown(sockets)


def make_server(desk: Desk, host: str, token: str | None = None) -> uvicorn.Server:
    """Return the server of the application, which has not begun."""
    config = uvicorn.Config(
        make_app(desk, token, host),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=500,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    server.ended = desk.line.close
    return server
