"""Models that answer messages: an OpenAI-compatible endpoint, and a recording of any model's replies."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from emo.featstore.errors import TrainError, UsageError, WriteError
from emo.featstore.files import write_atomic
from emo.featstore.reading import parse_json, read_text
from emo.featstore.sources.http import Connections, Trouble, joined, origin
from emo.featstore.text import whole_text

ATTEMPTS = 5
LONGEST_WAIT_S = 60.0
MAX_REDIRECTS = 3
MOST_WORDS = 200  # letters that are shown of what an endpoint says of an error
MOST_PAGE = 1 << 13  # letters of it that are looked at: tags that never end take the square of their number
MARKUP = re.compile(r"<(style|script).*?(?:</\1>|$)|<[^>]*>", re.DOTALL | re.IGNORECASE)
REDIRECTS = (301, 302, 307, 308)
BROKEN = ("error", "abort")  # why an answer ended, where the server gave up in the middle of it (OpenRouter, vLLM)
FILTERED = "content_filter"
_COUNTS = ("prompt_tokens", "completion_tokens")  # in `usage` of a reply


class Chat(Protocol):
    """A model that answers one message at temperature 0."""

    @property
    def id(self) -> str:
        """Name that is printed beside every number that it gave."""
        ...

    def reply(self, prompt: str, seed: int) -> str:
        """Return the answer; empty where the model said nothing."""
        ...


@dataclass(frozen=True)
class Request:
    """Question to an endpoint.

    Attributes:
        messages: As the endpoint takes them: `role` and `content`, which is text or a list of parts.
        seed: Of the sampling.
        temperature: Likewise; 0 takes the most probable answer.
        max_tokens: Most tokens of the answer; the endpoint's own limit if `None`.
    """

    messages: tuple[Mapping[str, Any], ...]
    seed: int = 0
    temperature: float = 0
    max_tokens: int | None = None

    def body(self, model: str) -> bytes:
        """Return the JSON that is sent."""
        asked = {"model": model, "messages": list(self.messages), "temperature": self.temperature, "seed": self.seed}
        return json.dumps(asked if self.max_tokens is None else asked | {"max_tokens": self.max_tokens}).encode()


@dataclass(frozen=True)
class Reply:
    """An answer, and what the endpoint says of it.

    Attributes:
        text: The answer; empty where the model said nothing.
        cut: Whether it ends at the limit of tokens, and not where the model would.
        filtered: Whether a filter of the endpoint has kept it back, or broken it off.
        tokens: Of the question and of the answer, where the endpoint counts them; empty answers before it, to the same
            question, are in it.
        model: Who answered, as the endpoint says; empty where it says nothing.
    """

    text: str
    cut: bool = False
    tokens: tuple[int, int] | None = None
    model: str = ""
    filtered: bool = False


class Refused(UsageError):
    """The endpoint refuses a request by a status below 500; `status` says which."""

    def __init__(self, message: str, hint: str, status: int) -> None:
        super().__init__(message, hint)
        self.status = status


@dataclass
class HttpChat:
    """An endpoint that speaks OpenAI's chat completions.

    Time-outs, lost connections, 429, 5xx, replies that are too long or no JSON or broken off, and empty ones are tried
    again, `ATTEMPTS` times in all, after 1, 2, 4, 8 s or as long as the endpoint asks for. The last empty reply is
    returned as it is, and so is one that is empty at the limit of tokens or by a filter. A redirect is followed on the
    same host only, so that the key reaches no other one.

    Attributes:
        url: Up to and without `/chat/completions`.
        model: Its name there; `ALIAS=NAME` where the endpoint answers under another name than it is asked by.
        key: Sent as a bearer token, if any; never stored or printed.
        timeout_s: Of one attempt, from the first connection to the last byte.
        sleep: How to wait.
        who: Word for it in messages.
        key_name: Variable that the key comes from, for messages.
        attempt: Called before each request, those that are sent again too; may raise to stop.
        connections: Kept open between requests.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    who: str = "judge"
    key_name: str = "EMO_JUDGE_KEY"
    attempt: Callable[[], None] = lambda: None
    connections: Connections = field(default_factory=Connections, repr=False, compare=False)

    @property
    def id(self) -> str:
        """The model's name; who serves it is not what it is."""
        return self.model.rpartition("=")[2]

    @property
    def alias(self) -> str:
        """The name that it is asked by."""
        return self.model.partition("=")[0]

    def reply(self, prompt: str, seed: int) -> str:
        """Answer one message at temperature 0; see `complete`."""
        return self.complete(Request(({"role": "user", "content": prompt},), seed))

    def complete(self, request: Request) -> str:
        """Return the text of one completion; see `answer`."""
        return self.answer(request).text

    def answer(self, request: Request) -> Reply:
        """Return one completion.

        Raises:
            Refused: The endpoint refuses the request (any other 4xx).
            UsageError: It redirects to another host, or cannot be one, or another model answers.
            TrainError: It gave no answer in `ATTEMPTS` attempts.
        """
        if not (self.key.isascii() and self.key.isprintable()):
            raise UsageError("The key of the endpoint holds signs that no key has.", f"Correct {self.key_name}.")
        trouble: Trouble | None = None
        empty: list[Reply] = []  # they cost as others do
        for attempt in range(ATTEMPTS):
            if attempt:
                asked_s = trouble.wait_s if trouble else 0.0
                self.sleep(min(LONGEST_WAIT_S, asked_s or 2.0 ** (attempt - 1)))
            self.attempt()
            try:
                reply = self._ask(request)
                if reply.text.strip() or reply.cut or reply.filtered:
                    return self._own(replace(reply, tokens=_together([*empty, reply])))
                trouble = None
                empty.append(reply)
            except Trouble as error:
                trouble = error
        if trouble is None:
            return replace(reply, tokens=_together(empty))
        raise TrainError(
            f"The {self.who} at {self.url} gave no answer in {ATTEMPTS} attempts; the last one: {trouble}.",
            "What it has answered is kept where --cache is given; the same command goes on.",
        )

    def _own(self, reply: Reply) -> Reply:
        """Refuse an answer of another model: servers that hold one model answer with it whatever they are asked for."""
        if same_model(self.id, reply.model):
            return reply
        raise UsageError(
            f"The {self.who} at {self.url} answers as {reply.model[:200]}, not as {self.id}.",
            f"If that is the model that is meant: #{self.alias}={reply.model[:200]}.",
        )

    def _ask(self, request: Request) -> Reply:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        address, deadline = f"{self.url.rstrip('/')}/chat/completions", time.monotonic() + self.timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            left_s = max(0.001, deadline - time.monotonic())
            status, told, data = self.connections.post(address, request.body(self.alias), headers, left_s)
            if status not in REDIRECTS:
                break
            target = joined(address, told.get("location", ""))
            if origin(target) != origin(address):
                raise UsageError(
                    f"The {self.who} at {self.url} redirects to another place: {target[:200]!r}.",
                    "The key is not sent there. If you trust it, give its address.",
                )
            address = target
        if status == 429 or status >= 500:
            raise Trouble(f"status {status}{self._told(data)}", _seconds(told.get("retry-after")))
        if status >= 300:
            raise Refused(
                f"The {self.who} at {self.url} refuses model {self.model}: status {status}{self._told(data)}.",
                f"Check the address, the model's name and {self.key_name}.",
                status,
            )
        try:
            return _read(data)
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # not JSON, or JSON of another form
            raise Trouble(f"a reply that is no completion{self._told(data)}") from error

    def _told(self, data: bytes) -> str:
        """Return the endpoint's own words in a reply, in quotes behind a comma; nothing where it has none."""
        said = _words(data)
        said = said.replace(self.key, "(the key)") if self.key else said
        return f", {said[:MOST_WORDS]!r}" if said else ""


def _read(data: bytes) -> Reply:
    """Return the answer in a reply.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: It is no completion.
    """
    value = parse_json(data.decode(), "the reply")
    choice = _answer_among(value["choices"])
    ended = choice.get("finish_reason")
    if ended in BROKEN or choice.get("error"):
        raise ValueError(ended)
    content = choice["message"]["content"]
    if isinstance(content, list):  # of parts, each with its kind
        content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError(content)
    used = value.get("usage")
    asked, said = (used.get(name) for name in _COUNTS) if isinstance(used, dict) else (None, None)
    counted = isinstance(asked, int) and isinstance(said, int) and asked >= 0 and said >= 0
    tokens = (int(asked or 0), int(said or 0)) if counted else None
    text = "" if content is None else whole_text(content)
    told = value.get("model")
    return Reply(text, ended == "length", tokens, told if isinstance(told, str) else "", ended == FILTERED)


def _answer_among(choices: Any) -> Any:
    """Return the first answer by its `index`, whatever its place in the list; by its place where none has index 0."""
    first = choices[0]
    return next((each for each in choices if isinstance(each, dict) and each.get("index") == 0), first)


def _together(replies: Sequence[Reply]) -> tuple[int, int] | None:
    """Return the tokens of several replies to one question; `None` where those of one are not known."""
    known = [reply.tokens for reply in replies if reply.tokens is not None]
    return (sum(a for a, _ in known), sum(b for _, b in known)) if len(known) == len(replies) else None


def _words(data: bytes) -> str:
    """Return in one line what a reply says of an error: the message in its JSON, or the text of a page."""
    text = data.decode(errors="replace")
    with suppress(ValueError, AttributeError):
        value = parse_json(text, "the reply")
        error = value.get("error") or _first(value).get("error") or value
        text = error if isinstance(error, str) else str(error.get("message") or error.get("detail") or text)
    return " ".join(MARKUP.sub(" ", text[:MOST_PAGE]).split())


def _first(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first answer in a reply; nothing where it has none."""
    choices = value.get("choices")
    first = _answer_among(choices) if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


@lru_cache
def same_model(asked: str, told: str) -> bool:
    """Say whether the name that an endpoint answers under is that of the model that was asked for.

    Folders and the suffix of a file do not count, nor a date or a tag behind the name. A server that says
    nothing is believed.
    """
    ours, theirs = (re.sub(r"^.*/|\.gguf$", "", each.strip().lower()) for each in (asked, told))
    if not theirs or ours == theirs:
        return True
    short, long = sorted((ours, theirs), key=len)
    return long.startswith(short) and bool(re.fullmatch(r"[-@]\d{3}[\d-]*|:\w+", long[len(short) :]))


def _seconds(text: str | None) -> float:
    text = (text or "").strip()
    return float(text) if text.isascii() and text.isdigit() else 0.0


class Recorded:
    """A file of replies, one JSON object a line, and perhaps a model behind it that answers what is not recorded.

    A reply is known by the model, the seed and the whole prompt. New ones are appended as they come, so a run that was
    stopped goes on.
    """

    def __init__(self, path: Path, chat: Chat | None = None, model: str = "") -> None:
        """Read a recording.

        Args:
            path: The file; it may be absent if there is a model.
            chat: Who answers what is not recorded; `None` replays only.
            model: Whose replies to replay, where the file has those of several.

        Raises:
            UsageError: The file is absent or damaged, or it is not clear whose replies to replay.
        """
        self.path, self.chat, self.asked = path, chat, 0
        self.replies: dict[str, str] = {}
        models: set[str] = set()
        there = chat is None or (os.path.exists(path) and os.path.getsize(path) > 0)
        lines = read_text(path).split("\n") if there else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line, str(path), line=number)
                self.replies[_key(row["model"], row["seed"], row["prompt"])] = str(row["reply"])
                models.add(row["model"])
            except (ValueError, LookupError, TypeError) as error:
                if number == len(lines) and chat is not None:  # cut off while it was written: it is asked again
                    write_atomic(path, "".join(f"{each}\n" for each in lines[:-1]))
                    break
                raise UsageError(f"{path} line {number} is no recorded reply.") from error
        if chat is None and not model:
            if len(models) != 1:
                raise UsageError(
                    f"{path} has replies of {', '.join(sorted(models)) or 'nobody'}.", f"Choose: replay:{path}#MODEL."
                )
            model = models.pop()
        self.id = chat.id if chat is not None else model

    def reply(self, prompt: str, seed: int) -> str:
        """The recorded reply, or the model's.

        Raises:
            UsageError: It is not recorded and there is no model.
        """
        key = _key(self.id, seed, prompt)
        if key in self.replies:
            return self.replies[key]
        if self.chat is None:
            raise UsageError(
                f"{self.path} has no reply of {self.id} to this prompt (seed {seed}): {prompt[-60:]!r}.",
                "A recording serves the texts, prompts and repeats that it was made with.",
            )
        text = self.chat.reply(prompt, seed)
        self.asked += 1
        self.replies[key] = text
        row = {"model": self.id, "seed": seed, "prompt": prompt, "reply": text}
        try:
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise WriteError(self.path, error) from error
        return text


def _key(model: str, seed: int, prompt: str) -> str:
    return hashlib.sha256(json.dumps([model, seed, prompt]).encode()).hexdigest()
