"""Tokenizers of model folders: one contract for SentencePiece files, for transformers' own, and for bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from emo.featstore.errors import EmoError, ModelError
from emo.featstore.files import digest
from emo.featstore.reading import read_json

PROBE = "今天天气真好"  # extract_text_huggingface.py of MERBench finds the special tokens with it
STATED = "tokenizer_config.json"
FILES = (  # what a tokenizer can be made of
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    STATED,
    "special_tokens_map.json",
    "added_tokens.json",
    "spm.model",
)
LLAMA = {"llama", "baichuan"}  # transformers 5 reads their bare tokenizer.model wrongly: no start token, other merges


class Tokens(ABC):
    """Text to ids. `hash` says which tokenizer it is."""

    hash: str

    @abstractmethod
    def encode(self, text: str) -> tuple[list[int], tuple[int, int]]:
        """Ids with special tokens, and how many of those are at the start and at the end."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens in their own spelling."""

    def probe(self) -> tuple[int, int | None]:
        """Return where the words of a text begin and end among its ids, as MERBench finds it.

        The smallest start of 0 to 2 whose tail reads as the probe or begins with it; then the end (`None`, -1 or -2)
        that makes it equal. Where none does, because the vocabulary cannot spell the probe, special tokens are counted.
        """
        ids, special = self.encode(PROBE)
        for start in range(3):
            tail = self.decode(ids[start:]).replace(" ", "")
            if tail == PROBE:
                return start, None
            if tail.startswith(PROBE):
                for end in (-1, -2):
                    if self.decode(ids[start:end]).replace(" ", "") == PROBE:
                        return start, end
        return special[0], -special[1] or None


class Bytes(Tokens):
    """Bytes between a start and an end token; goes with random weights."""

    hash = "bytes"
    START, END, FIRST = 1, 2, 4

    def encode(self, text: str) -> tuple[list[int], tuple[int, int]]:
        return [self.START, *(self.FIRST + byte for byte in text.encode()), self.END], (1, 1)

    def decode(self, ids: list[int]) -> str:
        names = {self.START: "<s>", self.END: "</s>"}
        words = [names[each].encode() if each in names else bytes([each - self.FIRST]) for each in ids]
        return b"".join(words).decode(errors="replace")


class SentencePieces(Tokens):
    """A LLaMA tokenizer: SentencePiece's own pieces after the start token, where it has one."""

    def __init__(self, file: Path, start: bool, hash_: str) -> None:
        from sentencepiece import SentencePieceProcessor

        self.hash = hash_
        self._model = SentencePieceProcessor()
        self._model.LoadFromSerializedProto(file.read_bytes())
        self._start = [self._model.bos_id()] if start else []

    def encode(self, text: str) -> tuple[list[int], tuple[int, int]]:
        return [*self._start, *self._model.EncodeAsIds(text)], (len(self._start), 0)

    def decode(self, ids: list[int]) -> str:
        leading = [self._model.IdToPiece(each) for each in ids[:1] if each in self._start]
        return "".join(leading) + self._model.DecodeIds(ids[len(leading) :])


class FolderTokens(Tokens):
    """A tokenizer as transformers reads it from the folder."""

    def __init__(self, tokenizer: Any, hash_: str) -> None:
        self.hash = hash_
        self._tokenizer = tokenizer

    def encode(self, text: str) -> tuple[list[int], tuple[int, int]]:
        found = self._tokenizer(text, return_special_tokens_mask=True)
        ids, marks = list(found["input_ids"]), list(found["special_tokens_mask"])
        first = next((i for i, mark in enumerate(marks) if not mark), len(marks))
        last = next((i for i, mark in enumerate(reversed(marks)) if not mark), 0)
        return ids, (first, last)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)


def read_tokens(folder: Path, config: Any) -> Tokens:
    """The tokenizer of a model's folder.

    Raises:
        ModelError: The folder holds none, or a damaged one.
    """
    files = [folder / name for name in FILES if (folder / name).is_file()]
    hash_ = digest(b"".join(each.name.encode() + b"\0" + digest(each.read_bytes()).encode() + b"\n" for each in files))
    pieces = folder / "tokenizer.model"
    try:
        stated = _stated(folder)
        if pieces in files and config.model_type in LLAMA:
            return SentencePieces(pieces, stated.get("add_bos_token", True), hash_)
        from transformers import AutoTokenizer

        return FolderTokens(AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True), hash_)
    except EmoError:
        raise
    except Exception as error:  # the libraries raise nothing more definite
        message = f"{folder} holds no tokenizer that can be read: {type(error).__name__}: {error}."
        raise ModelError(message, "Fetch the model's whole folder again.") from error


def _stated(folder: Path) -> dict[str, Any]:
    file = folder / STATED
    stated = read_json(file) if file.is_file() else {}
    if not isinstance(stated, dict) or not isinstance(stated.get("add_bos_token", True), bool):
        raise ModelError(f"{file} does not say how texts begin.", "Fetch the model's whole folder again.")
    return stated
