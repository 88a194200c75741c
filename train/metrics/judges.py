"""Who answers a judge's prompt: an OpenAI-compatible endpoint, a local model, or a recording of either."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from emo.featstore.errors import ModelError, TrainError, UsageError
from emo.featstore.files import write_atomic
from emo.featstore.reading import read_text
from emo.train.device import resolve_device

ATTEMPTS = 5
LONGEST_WAIT_S = 60.0
MAX_NEW_TOKENS = 512


class Chat(Protocol):
    """A model that answers one message at temperature 0."""

    @property
    def id(self) -> str:
        """What it is, as it is printed beside every number that it gave."""
        ...

    def reply(self, prompt: str, seed: int) -> str:
        """The answer; empty where the model said nothing."""
        ...


@dataclass
class HttpChat:
    """An endpoint that speaks OpenAI's chat completions.

    Time-outs, lost connections, 429, 5xx, replies that are no JSON and empty ones are tried again, `ATTEMPTS` times in
    all, after 1, 2, 4, 8 s or as long as the endpoint asks for. The last empty reply is returned as it is.

    Attributes:
        url: Up to and without `/chat/completions`.
        model: Its name there.
        key: Sent as a bearer token, if any; never stored or printed.
        timeout_s: Of one attempt.
        sleep: How to wait.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    @property
    def id(self) -> str:
        """The model's name; who serves it is not what it is."""
        return self.model

    def reply(self, prompt: str, seed: int) -> str:
        """One completion.

        Raises:
            UsageError: The endpoint refuses the request (any other 4xx).
            TrainError: It gave no answer in `ATTEMPTS` attempts.
        """
        trouble, asked_s = "", 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                self.sleep(min(LONGEST_WAIT_S, asked_s or 2.0 ** (attempt - 1)))
                asked_s = 0.0
            try:
                text = self._ask(prompt, seed)
            except urllib.error.HTTPError as error:
                said = error.read(300).decode(errors="replace").strip()
                if error.code != 429 and error.code < 500:
                    raise UsageError(
                        f"The judge at {self.url} refuses model {self.model}: {error.code} {said}.",
                        "Check the address, the model's name and EMO_JUDGE_KEY.",
                    ) from error
                trouble, asked_s = f"status {error.code}", _seconds(error.headers.get("Retry-After"))
            except (TimeoutError, urllib.error.URLError, ConnectionError, http.client.HTTPException) as error:
                trouble = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, LookupError, TypeError):  # not JSON, or JSON of another form
                trouble = "a reply that is no completion"
            else:
                if text.strip():
                    return text
                trouble = ""
        if not trouble:
            return ""
        raise TrainError(
            f"The judge at {self.url} gave no answer in {ATTEMPTS} attempts; the last one: {trouble}.",
            "What it has answered is kept where --cache is given; the same command goes on.",
        )

    def _ask(self, prompt: str, seed: int) -> str:
        message = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [message], "temperature": 0, "seed": seed}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            content = json.loads(response.read())["choices"][0]["message"]["content"]
        return "" if content is None else str(content)


def _seconds(text: str | None) -> float:
    return float(text) if text and text.strip().isdigit() else 0.0


@dataclass
class LocalChat:
    """A Hugging Face causal language model on this machine, decoded greedily.

    Attributes:
        source: Folder or model id.
        device: `auto`, `cpu`, `cuda`, ...
    """

    source: str
    device: str = "auto"
    _loaded: tuple[Any, Any] | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The model as it was named."""
        return self.source

    def reply(self, prompt: str, seed: int) -> str:
        """One greedy answer, through the model's chat template if it has one; the seed changes nothing."""
        import torch

        tokenizer, model = self._loaded = self._loaded or self._load()
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            inputs = tokenizer(prompt, return_tensors="pt")
        ids = inputs["input_ids"].to(model.device)  # (1, T)
        with torch.inference_mode():
            mask = torch.ones_like(ids)
            out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(self.source).eval().to(resolve_device(self.device))
            return AutoTokenizer.from_pretrained(self.source), model
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"The judge {self.source} cannot be loaded: {str(error).splitlines()[0]}") from error


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
        there = chat is None or (path.exists() and path.stat().st_size > 0)
        lines = read_text(path).split("\n") if there else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
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
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return text


def _key(model: str, seed: int, prompt: str) -> str:
    return hashlib.sha256(json.dumps([model, seed, prompt]).encode()).hexdigest()


def find_chat(text: str, cache: Path | None = None) -> Chat:
    """A judge's model from what a person writes.

    Args:
        text: `http://localhost:8000/v1#MODEL` (key from EMO_JUDGE_KEY), `hf:MODEL`, `replay:FILE` or
            `replay:FILE#MODEL`.
        cache: Where to keep replies, and to look for them first.

    Raises:
        UsageError: It is none of these.
    """
    kind, _, rest = text.partition(":")
    name, _, model = rest.rpartition("#") if "#" in rest else (rest, "", "")
    if kind == "replay" and name:
        return Recorded(Path(name), None, model)
    if kind == "hf" and rest:
        chat: Chat = LocalChat(rest)
    elif kind in ("http", "https") and model:
        chat = HttpChat(f"{kind}:{name}", model, os.environ.get("EMO_JUDGE_KEY", ""))
    else:
        raise UsageError(f"{text!r} is no judge.", "Judges: proxy, http://HOST/v1#MODEL, hf:MODEL, replay:FILE.")
    return chat if cache is None else Recorded(cache, chat)
