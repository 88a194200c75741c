"""A describer at an OpenAI-compatible endpoint (vLLM, Ollama, llama.cpp): images as data URLs, sound as bytes."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emo.extract.annotate.describer import Asking, Question
from emo.featstore.errors import MediaError, TrainError, UsageError
from emo.featstore.sources.chat import HttpChat, Refused, Reply, Request
from emo.featstore.sources.http import origin

KEY = "EMO_DESCRIBER_KEY"
OF_ONE_CLIP = (400, 413, 415, 422)  # statuses that concern what was sent; others concern the address or the key


@dataclass(frozen=True)
class Endpoint:
    """A model behind an address.

    Attributes:
        chat: Speaks to it.
        asking: How.
    """

    chat: HttpChat
    asking: Asking

    @property
    def id(self) -> str:
        """The model's name; who serves it is not what it is."""
        return self.chat.id

    @property
    def remote(self) -> bool:
        """Answers cost requests."""
        return True

    def decoding(self) -> Mapping[str, Any]:
        """Return the settings of the sampling."""
        asking = self.asking
        return {"temperature": asking.temperature, "seed": asking.seed, "max_tokens": asking.max_tokens}

    def answers(self, kind: str) -> bool:
        """Any question can be asked; whether the model sees and hears shows in its answers."""
        return True

    def describe(self, question: Question) -> Reply:
        """Ask the model."""
        asking = self.asking
        request = Request(tuple(messages(question)), asking.seed, asking.temperature, asking.max_tokens)
        try:
            return self.chat.answer(request)
        except Refused as error:
            if error.status in OF_ONE_CLIP:
                raise MediaError("request-refused", error.message, "Does the model take this input?") from error
            raise
        except TrainError as error:
            raise MediaError("no-answer", error.message, "The same command asks again.", retry=True) from error


def messages(question: Question) -> list[dict[str, Any]]:
    """Return a question as an endpoint takes it."""
    parts: list[dict[str, Any]] = []
    for image in question.images():
        url = f"data:image/jpeg;base64,{b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    if (sound := question.wave()) is not None:
        audio = {"data": b64encode(sound).decode(), "format": "wav"}
        parts.append({"type": "input_audio", "input_audio": audio})
    content: Any = [*parts, {"type": "text", "text": question.text}] if parts else question.text
    system = [{"role": "system", "content": question.system}] if question.system else []
    return [*system, {"role": "user", "content": content}]


def open_endpoint(rest: str, asking: Asking, scheme: str) -> Endpoint:
    """Return the describer of `http://HOST/v1#MODEL`; its key is taken from EMO_DESCRIBER_KEY.

    Raises:
        UsageError: It is no such address.
    """
    address, _, model = f"{scheme}:{rest}".rpartition("#")
    if not address or not model:
        raise UsageError(f"{scheme}:{rest} names no model.", "Write http://localhost:8000/v1#MODEL.")
    origin(address)
    key = asking.key or os.environ.get(KEY, "").strip()
    sleep = asking.wait or time.sleep
    chat = HttpChat(address, model, key, asking.timeout_s, sleep, "endpoint", KEY, asking.attempt)
    return Endpoint(chat, asking)
