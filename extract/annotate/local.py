"""Describers that run on this machine: image-text, audio-text and text models of transformers, by its auto classes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from emo.extract.annotate.describer import RATE, Asking, Question
from emo.extract.device import resolve_device
from emo.extract.encoders.pretrained import quiet
from emo.extract.weights import Weights, find_weights
from emo.featstore.errors import EmoError, MediaError, ModelError, UsageError
from emo.featstore.sources.chat import Reply
from emo.featstore.sources.packages import installed

NEEDS = {"scene": "image", "voice": "sound", "caption": "", "verify": ""}  # of a question; others show whole clips
LACKS = {"image": ("see", "frames=0"), "audio": ("hear", "sound=false")}


@dataclass
class LocalModel:
    """A model of Hugging Face's form, asked one question at a time.

    It sees and hears what an endpoint would be sent: the JPEG and the WAV file.

    Attributes:
        weights: Where it is.
        config: Of transformers, which says what the model can take.
        asking: How it is asked; a temperature of 0 takes the most probable answer.
    """

    weights: Weights
    config: Any
    asking: Asking
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _loaded: tuple[Any, Any] | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """Name of the model, and the beginning of the hash of its files."""
        return f"{Path(self.weights.source).name}@{self.weights.hash[:12]}"

    @property
    def remote(self) -> bool:
        """An answer costs seconds that nobody wants to spend twice."""
        return True

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of input beside text that it can take: `image`, `sound`."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

        sees = self.config.model_type in SEEING
        hears = any(getattr(self.config, name, None) is not None for name in ("audio_config", "encoder_config"))
        return (*(["image"] if sees else []), *(["sound"] if hears else []))

    def decoding(self) -> Mapping[str, Any]:
        """Return the settings of the sampling; how precisely numbers are computed is the device's."""
        asking = self.asking
        return {"temperature": asking.temperature, "seed": asking.seed, "max_tokens": asking.max_tokens}

    def answers(self, kind: str) -> bool:
        """A question about the frame needs a model that sees, one about the sound a model that hears."""
        return NEEDS[kind] in ("", *self.takes) if kind in NEEDS else bool(self.takes)

    def describe(self, question: Question) -> Reply:
        """Ask the model.

        Raises:
            MediaError: It cannot answer about this clip.
            ModelError: It cannot be loaded.
            UsageError: It has no template for what is shown, hears at another rate, or there is no such device.
        """
        shown = _shown(question)
        able = {"sound": "audio", "image": "image"}
        if wrong := {part["type"] for part in shown} - {able[each] for each in self.takes}:
            verb, flag = LACKS[min(wrong)]
            raise UsageError(f"{self.id} cannot {verb}.", f"Ask it without: --set {flag}.")
        with self._lock:
            if self._loaded is None:
                resolve_device(self.asking.device)  # one that is not there is asked nothing, so no request is counted
            self.asking.attempt()
            self._loaded = self._loaded or self._load()
            try:
                return self._generate(question, shown, *self._loaded)
            except EmoError:
                raise
            except Exception as error:
                sentence = f"{self.id} failed: {type(error).__name__}: {str(error).strip()[:200]}"
                hint = "Where memory ran out, choose a smaller model or --max-tokens."
                raise MediaError("no-answer", sentence, hint, retry=True) from error

    def _generate(self, question: Question, shown: list[dict[str, Any]], processor: Any, model: Any) -> Reply:
        import torch

        inputs = {
            name: each.to(model.device, model.dtype if each.is_floating_point() else None)
            for name, each in self._inputs(question, shown, processor).items()
        }
        length, asking = int(inputs["input_ids"].shape[1]), self.asking
        longest = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and length + asking.max_tokens > longest:
            sentence = f"A question of {length} tokens and an answer of {asking.max_tokens}: {self.id} takes {longest}."
            raise MediaError("too-long-question", sentence, "Lower --max-tokens, or shorten the prompt.")
        sampling: dict[str, Any] = {"do_sample": False}
        if asking.temperature > 0:
            sampling = {"do_sample": True, "temperature": asking.temperature}
        with quiet(), torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(asking.seed)
            out = model.generate(**inputs, max_new_tokens=asking.max_tokens, **sampling)
        said = out[0, length:]
        ends = model.generation_config.eos_token_id
        ended = len(said) > 0 and int(said[-1]) in (ends if isinstance(ends, list) else [ends])
        text = str(processor.decode(said, skip_special_tokens=True))
        return Reply(text, len(said) >= asking.max_tokens and not ended, (length, len(said)))

    def _inputs(self, question: Question, shown: list[dict[str, Any]], processor: Any) -> Any:
        """Return the tensors of a question, by the model's own chat template."""
        from jinja2 import TemplateError

        template = getattr(processor, "chat_template", None)
        if template is None and shown:
            raise UsageError(f"{self.id} comes without a chat template, which says where a picture goes.", WHOLE)
        if template is None:
            return processor("\n".join(each for each in (question.system, question.text) if each), return_tensors="pt")

        def filled(system: str, text: str) -> Any:
            content: Any = [*shown, {"type": "text", "text": text}] if self.takes else text
            first: Any = [{"type": "text", "text": system}] if self.takes else system
            messages = [{"role": "system", "content": first}] if system else []
            messages.append({"role": "user", "content": content})
            options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            return processor.apply_chat_template(messages, **options)

        try:
            return filled(question.system, question.text)
        except TemplateError:  # Gemma's, for one, has no role of a system
            return filled("", f"{question.system}\n{question.text}".strip())

    def _load(self) -> tuple[Any, Any]:
        import torch
        import transformers

        name = "AutoModelForCausalLM"
        if self.takes:
            name = "AutoModelForMultimodalLM" if "sound" in self.takes else "AutoModelForImageTextToText"
        where = resolve_device(self.asking.device)
        options: dict[str, Any] = {"dtype": torch.float32 if where.type == "cpu" else "auto"}
        path, words = self.weights.path, _gguf(self.weights)
        path = path.parent if words else path
        try:
            with quiet():
                tool = transformers.AutoProcessor if self.takes else transformers.AutoTokenizer
                processor = tool.from_pretrained(path, **words)
                model = getattr(transformers, name).from_pretrained(path, **options, **words).eval().to(where)
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"The describer {self.weights.source} cannot be loaded: {said}", WHOLE) from error
        rate = getattr(getattr(processor, "feature_extractor", None), "sampling_rate", RATE)
        if rate != RATE:
            raise UsageError(f"{self.id} hears at {rate} Hz, and emo reads sound at {RATE} Hz.", "Take another model.")
        return processor, model


WHOLE = "A whole folder of the model is needed: weights, config, tokenizer, processor and chat template."


def _shown(question: Question) -> list[dict[str, Any]]:
    """Return what is shown beside the text, decoded from what an endpoint would be sent."""
    import wave

    from PIL import Image

    parts: list[dict[str, Any]] = []
    for image in question.images():
        parts.append({"type": "image", "image": Image.open(BytesIO(image)).convert("RGB")})
    if (sound := question.wave()) is not None:
        with wave.open(BytesIO(sound)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        parts.append({"type": "audio", "audio": samples.astype(np.float32) / 32768})
    return parts


def _gguf(weights: Weights) -> dict[str, str]:
    return {"gguf_file": weights.path.name} if weights.path.suffix == ".gguf" else {}


def open_local(rest: str, asking: Asking, name: str) -> LocalModel:
    """Return the describer of `hf:MODEL`: a folder, a .gguf file, a Hugging Face id, or a model that a package brings.

    Raises:
        UsageError: It names no model, or transformers does not know its kind.
        WeightsMissing: It is not there.
    """
    if not rest:
        raise UsageError(f"{name}: names no model.", "Write hf:FOLDER, hf:Qwen/Qwen2-VL-2B-Instruct or hf:smollm2.")
    from transformers import AutoConfig

    weights = find_weights(installed(rest) or rest)
    words = _gguf(weights)
    try:
        config = AutoConfig.from_pretrained(weights.path.parent if words else weights.path, **words)
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{rest} is no model that transformers knows: {said}", WHOLE) from error
    return LocalModel(weights, config, asking)
