"""Judges that answer a prompt: an OpenAI-compatible endpoint, a local model, or a recording of either."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.featstore.errors import ModelError, UsageError
from emo.featstore.sources.chat import Chat, HttpChat, Recorded
from emo.featstore.sources.http import origin
from emo.train.device import resolve_device

MAX_NEW_TOKENS = 512


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
        origin(f"{kind}:{name}")  # says what is wrong with an address before anything is read
        chat = HttpChat(f"{kind}:{name}", model, os.environ.get("EMO_JUDGE_KEY", "").strip())
    else:
        raise UsageError(f"{text!r} is no judge.", "Judges: proxy, http://HOST/v1#MODEL, hf:MODEL, replay:FILE.")
    return chat if cache is None else Recorded(cache, chat)
