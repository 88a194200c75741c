"""Questions over HTTP: ask, wait, watch, cancel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from emo.featstore.datasets.lookup import SUFFIXES
from emo.featstore.errors import EmoError, UsageError
from emo.train.serve.asking import MODALITIES, Question, answer, answer_without, extract_units
from emo.train.serve.desk import Desk, NotFound
from emo.train.serve.line import LineFull, Ticket

POLL_S, BEAT_S = 0.1, 10.0
FIELDS = ("file", "clip", "run", "task", "answers", "transcript", "wait")
MOST_WORDS = 4000  # characters of a transcript
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "A video or sound file."},
                        "clip": {"type": "string", "description": "Or the id of a clip of the workspace."},
                        "run": {"type": "string", "description": "Run to ask. Default: the server's."},
                        "task": {"type": "string", "description": "emotion, or of a language model reason."},
                        "answers": {"type": "string", "description": "official or likelihood."},
                        "transcript": {"type": "string", "description": "What is said, for a language model."},
                        "wait": {"type": "string", "description": "`no`: return a ticket at once (202)."},
                    },
                }
            }
        },
    }
}


class Without(BaseModel, extra="forbid"):
    """A clip with parts of it switched off."""

    clip: str = Field(max_length=500)
    off: list[str] = Field(max_length=8)
    run: str | None = Field(None, max_length=200)
    task: str = Field("emotion", max_length=40)
    answers: str = Field("official", max_length=40)
    transcript: str | None = Field(None, max_length=MOST_WORDS)


def router(desk: Desk) -> APIRouter:
    """Return the routes of questions."""
    api = APIRouter(prefix="/api", tags=["ask"])

    @api.post("/predict", openapi_extra=FORM)
    async def predict(request: Request) -> Response:
        """Ask about a file or a clip. The answer is what `emo predict --json` prints, byte for byte."""
        asked, wait = await _read(desk, request)
        ticket = desk.line.submit(_what(asked), lambda ticket: answer(desk, asked, ticket), lambda: _drop(asked))
        if not wait:
            return JSONResponse(desk.line.show(ticket), 202)
        return await _result(desk, ticket, request)

    @api.post("/without")
    async def without(request: Request, given: Annotated[Without, Body()]) -> Response:
        """Ask about a clip as if its sound, face, frame or words were not there."""
        if strange := set(given.off) - set(MODALITIES):
            raise UsageError(f"{min(strange)!r} cannot be switched off.", f"Known: {', '.join(MODALITIES)}.")
        clip = await run_in_threadpool(desk.clip, given.clip)
        asked = Question(clip, None, given.run, given.task, given.answers, given.transcript)
        ticket = desk.line.submit(f"without {clip.id}", lambda ticket: answer_without(desk, asked, given.off))
        return await _result(desk, ticket, request)

    @api.post("/clip/units", status_code=202)
    def units(id: str) -> dict[str, Any]:
        """Extract the face mesh of a clip, from which its action units are drawn; returns a ticket."""
        clip = desk.clip(id)
        ticket = desk.line.submit(f"action units of {clip.id}", lambda ticket: extract_units(desk, clip, ticket))
        return desk.line.show(ticket)

    @api.get("/line/{ticket_id}")
    def state(ticket_id: str) -> dict[str, Any]:
        """Return the state of a question, its place in line and its stages."""
        return desk.line.show(_ticket(desk, ticket_id))

    @api.get("/line/{ticket_id}/answer")
    async def fetch(request: Request, ticket_id: str) -> Response:
        """Wait for an answer and return it."""
        return await _result(desk, _ticket(desk, ticket_id), request, owned=False)

    @api.get("/line/{ticket_id}/events")
    async def events(request: Request, ticket_id: str) -> StreamingResponse:
        """Stream the state of a question as server-sent events, until it has ended."""
        stream = _events(desk, _ticket(desk, ticket_id), request)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @api.delete("/line/{ticket_id}")
    def cancel(ticket_id: str) -> dict[str, Any]:
        """Cancel a question; extraction for it is ended, and what it had not committed is lost."""
        ticket = _ticket(desk, ticket_id)
        desk.line.cancel(ticket)
        return desk.line.show(ticket)

    return api


def _what(asked: Question) -> str:
    return asked.clip.id if asked.clip is not None else asked.file.name if asked.file is not None else ""


def _ticket(desk: Desk, ticket_id: str) -> Ticket:
    if (found := desk.line.get(ticket_id)) is None:
        raise NotFound("There is no such question, or its answer is forgotten.", "Ask again.")
    return found


async def _result(desk: Desk, ticket: Ticket, request: Request, owned: bool = True) -> Response:
    """Wait for a ticket; where its owner leaves, it is cancelled."""
    while not ticket.ended:
        if await request.is_disconnected():
            if owned:
                desk.line.cancel(ticket)
            return Response(status_code=499)
        await asyncio.sleep(POLL_S / 2)
    if ticket.state == "cancelled":
        raise UsageError("This question was cancelled.")
    if ticket.error is not None:
        raise ticket.error
    return Response(ticket.body, media_type="application/json")


async def _events(desk: Desk, ticket: Ticket, request: Request) -> AsyncIterator[str]:
    last, quiet_s = "", 0.0
    while True:
        shown = desk.line.show(ticket)
        for name in ("error", "hint"):
            if name in shown:
                shown[name] = desk.plain(shown[name])
        text = json.dumps(shown, ensure_ascii=False)
        if text != last:
            last, quiet_s = text, 0.0
            yield f"data: {text}\n\n"
        if ticket.ended or await request.is_disconnected():
            return
        await asyncio.sleep(POLL_S)
        quiet_s += POLL_S
        if quiet_s >= BEAT_S:
            quiet_s = 0.0
            yield ": waiting\n\n"


# ---- reading the form ------------------------------------------------------------------------------------------------


async def _read(desk: Desk, request: Request) -> tuple[Question, bool]:
    """Read the form of a question; a file that was sent then lies in a folder of its own.

    Raises:
        UsageError: It is no form, or names neither or both of file and clip.
        LineFull: Too many files are being received.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() not in FORMS:
        raise UsageError("A question is a form.", "Send multipart/form-data with a field file or clip.")
    if desk.uploads + desk.line.waiting() >= desk.limits.waiting:
        raise LineFull("Too many files are on their way.", "Try again in a minute.")
    desk.uploads += 1
    try:
        async with request.form(max_files=1, max_fields=len(FIELDS), max_part_size=64 << 10) as form:
            return await run_in_threadpool(_question, desk, dict(form))
    except (ValueError, OSError) as error:
        if isinstance(error, EmoError):
            raise
        if isinstance(error, OSError):
            raise EmoError(f"The file cannot be kept: {error.strerror}.", "The server's disk may be full.") from error
        raise UsageError("The form cannot be read.") from error
    finally:
        desk.uploads -= 1


def _question(desk: Desk, form: dict[str, Any]) -> tuple[Question, bool]:
    if strange := sorted(set(form) - set(FIELDS)):
        raise UsageError(f"There is no field {strange[0][:40]!r}.", f"Fields: {', '.join(FIELDS)}.")
    texts = {name: value for name, value in form.items() if isinstance(value, str) and value}
    upload = form.get("file")
    if not isinstance(upload, UploadFile) or not upload.filename:
        upload = None
    if (upload is None) == ("clip" not in texts):
        raise UsageError("Send either a file or the id of a clip.", "Form fields: file, or clip.")
    transcript = texts.get("transcript")
    if transcript is not None and len(transcript) > MOST_WORDS:
        raise UsageError(f"The transcript has {len(transcript):,} characters; {MOST_WORDS:,} are read.")
    what = {"run": desk.run_name(texts.get("run")), "transcript": transcript}
    what |= {"task": texts.get("task", "emotion"), "answers": texts.get("answers", "official")}
    clip = desk.clip(texts["clip"]) if upload is None else None
    file = _keep(desk, upload) if upload is not None else None
    return Question(clip, file, **what), texts.get("wait") != "no"


def _keep(desk: Desk, upload: UploadFile) -> Path:
    """Put a file that was sent into a folder of its own, under its own name as far as that is one."""
    name = re.split(r"[/\\]", str(upload.filename))[-1]
    stem, dot, suffix = name.rpartition(".")
    stem = "".join(letter if letter.isprintable() else "_" for letter in stem).strip(". ")
    stem = stem.encode("utf-8", "replace")[:120].decode("utf-8", "ignore") or "clip"
    if not dot or f".{suffix.lower()}" not in SUFFIXES:
        raise UsageError(f"{name[:80]!r} is no video or sound file by its name.", f"Known: {', '.join(SUFFIXES)}.")
    folder = desk.inbox.new()
    try:
        path = folder / f"{stem}.{suffix}"
        with open(path, "xb") as file:
            shutil.copyfileobj(upload.file, file, 1 << 20)
        if not os.path.getsize(path):
            raise UsageError(f"{name[:80]!r} is empty.", "Send it again.")
        return path
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _drop(asked: Question) -> None:
    if asked.file is not None:
        shutil.rmtree(asked.file.parent, ignore_errors=True)
