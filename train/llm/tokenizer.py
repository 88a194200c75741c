"""Text to ids and back, for LLaMA-2 exactly as the official tokenizer of transformers 4.30 does it.

The text is cut at literal `<s>` and `</s>`, which become the ids of begin and end; each stretch between them is encoded
on its own. For LLaMA-2 that is SentencePiece itself (`[` behind `<s>` is 518): tokenizers that current libraries make
of the bare `tokenizer.model` differ in the places where two spaces meet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.files import digest
from emo.featstore.install import install_command
from emo.featstore.reading import read_json, read_text

BEGIN, END = "<s>", "</s>"
PAD = "$$"  # base_model.py:172-211 takes this piece of the vocabulary for padding: 3997 in LLaMA-2's
FILES = ("tokenizer.model", "tokenizer.json")
SLOW = ("vocab.json", "merges.txt")  # of GPT-2's kind, before it is converted to a tokenizer.json
BYTE_SPECIALS = ("<unk>", BEGIN, END, PAD)


@dataclass(frozen=True)
class Chat:
    """Form of conversations, as the folder of a tokenizer says it.

    Attributes:
        template: Jinja template of a conversation.
        tokens: Named special tokens that a template may use: `bos_token`, `eos_token`, ...
    """

    template: str | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)


class Tokenizer:
    """A tokenizer with the four ids that the model needs to know by name.

    Args:
        encode: Stretch of text without special ids -> ids.
        decode: Ids without special ones -> text.
        piece: Text of a piece -> its id, or `None`.
        file: File name and bytes that make this tokenizer again.
        vocab_size: Number of ids.
        bos: Id that begins a sequence.
        eos: Id that ends an answer.
        unk: Id of the unknown piece, if there is one.
        chat: What a folder says of conversations, if anything.

    Attributes:
        pad: Id of the piece `$$`, else of `eos`. It is padding only where nothing looks.
        fingerprint: 32 hex digits over the file's bytes and the named ids.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        piece: Callable[[str], int | None],
        file: tuple[str, bytes],
        vocab_size: int,
        bos: int,
        eos: int,
        unk: int | None,
        chat: Chat | None = None,
    ) -> None:
        self._encode, self._decode, self._file = encode, decode, file
        chat = chat or Chat()
        self.vocab_size, self.bos, self.eos, self.unk = vocab_size, bos, eos, unk
        pad = piece(PAD)
        self.pad = eos if pad is None else pad
        self.special = frozenset(each for each in (unk, bos, eos, self.pad) if each is not None)
        self.chat_template, self.named_tokens = chat.template, dict(chat.tokens)
        named = json.dumps([bos, eos, unk, self.pad]).encode()
        self.fingerprint = digest(file[1] + named)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read a Hugging Face folder: `tokenizer.model`, `tokenizer.json`, or `vocab.json` with `merges.txt`.

        Raises:
            WeightsMissing: It has neither.
            ModelError: The file cannot be read.
        """
        folder = Path(folder)
        model, fast = (folder / name for name in FILES)
        if model.is_file():
            try:
                return cls.from_file(model)
            except ModelError:
                if not fast.is_file():  # Llama 3 calls a file of another kind tokenizer.model
                    raise
        if fast.is_file():
            return cls.from_file(fast)
        if all((folder / name).is_file() for name in SLOW):
            return _from_tokenizers(_converted(folder), _named_ids(folder), str(folder), _chat(folder))
        raise WeightsMissing(
            f"{folder} has no tokenizer: none of {', '.join(FILES)}.", "Put the model's own file there."
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.model` (SentencePiece), a `tokenizer.json`, or the tokenizer inside a `.gguf`.

        Raises:
            WeightsMissing: There is no such file.
            ModelError: It cannot be read.
        """
        path = Path(path)
        if not path.is_file():
            raise WeightsMissing(f"There is no tokenizer at {path}.")
        if path.suffix == ".gguf":
            return _from_gguf(path)
        if path.suffix == ".json":
            return _from_tokenizers(path.read_bytes(), _named_ids(path.parent), str(path), _chat(path.parent))
        return _from_sentencepiece(path.read_bytes(), str(path), _chat(path.parent))

    @classmethod
    def bytes(cls) -> Tokenizer:
        """One id per byte of UTF-8 behind `<unk>`, `<s>`, `</s>` and `$$`: 260 ids, nothing to download."""
        from tokenizers import pre_tokenizers

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {piece: i for i, piece in enumerate((*BYTE_SPECIALS, *alphabet))}
        return _from_tokenizers(_byte_level(vocab, [], digits=False), (BEGIN, END, "<unk>"), "the byte tokenizer")

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Ids of a text. Literal `<s>` and `</s>` become one id each; nothing else is added unless `bos`."""
        ids = [self.bos] if bos else []
        for part in re.split(f"({BEGIN}|{END})", text):
            if part in (BEGIN, END):
                ids.append(self.bos if part == BEGIN else self.eos)
            elif part:
                ids += self._encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special ones left out: unknown, begin, end and the pad piece."""
        return self._decode([each for each in ids if each < self.vocab_size and each not in self.special])

    def save(self, folder: Path) -> None:
        """Write the tokenizer's file into a folder, so that `from_folder` finds it."""
        name, data = self._file
        (folder / name).write_bytes(data)
        if name == "tokenizer.json":
            named = {"bos_token_id": self.bos, "eos_token_id": self.eos, "unk_token_id": self.unk}
            named |= {"chat_template": self.chat_template} if self.chat_template else {}
            table = {"tokenizer_class": "PreTrainedTokenizerFast", **named, **self.named_tokens}
            (folder / "tokenizer_config.json").write_text(json.dumps(table), encoding="utf-8")


def _from_sentencepiece(data: bytes, where: str, chat: Chat | None = None) -> Tokenizer:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise ModelError(f"{where} is no SentencePiece model.", "Fetch the file again.") from error
    unk = model.unk_id()

    def piece(text: str) -> int | None:
        found = model.piece_to_id(text)
        return None if found == unk else found

    return Tokenizer(
        model.encode,
        model.decode,
        piece,
        ("tokenizer.model", data),
        model.get_piece_size(),
        model.bos_id(),
        model.eos_id(),
        unk,
        chat,
    )


def _from_tokenizers(data: bytes, named: tuple[Any, Any, Any], where: str, chat: Chat | None = None) -> Tokenizer:
    """`named`: begin, end, unknown, each as a piece or an id; unknown may be `None`."""
    import tokenizers

    try:
        model = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises nothing more precise
        raise ModelError(f"{where} is no tokenizer.json: {error}.", "Fetch the file again.") from error
    model.no_padding()
    model.no_truncation()
    bos, eos, unk = (model.token_to_id(each) if isinstance(each, str) else each for each in named)
    if eos is None:
        raise ModelError(f"{where} names no token that ends an answer.", "Its folder needs a tokenizer_config.json.")
    return Tokenizer(
        lambda text: model.encode(text, add_special_tokens=False).ids,
        lambda ids: model.decode(ids, skip_special_tokens=False),
        model.token_to_id,
        ("tokenizer.json", model.to_str().encode()),
        model.get_vocab_size(),
        eos if bos is None else bos,
        eos,
        unk,
        chat,
    )


def _table(path: Path) -> dict[str, Any]:
    """Return a JSON object that may be absent."""
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except UsageError as error:
        raise ModelError(error.message, "Fetch the file again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a JSON object.", "Fetch the file again.")
    return found


def _chat(folder: Path) -> Chat:
    """Return the chat template of a folder (chat_template.jinja, else tokenizer_config.json) and its named tokens."""
    table, file = _table(folder / "tokenizer_config.json"), folder / "chat_template.jinja"
    template = read_text(file) if file.is_file() else table.get("chat_template")
    if isinstance(template, list):  # several by name, as `{"name": ..., "template": ...}`
        named = [each for each in template if isinstance(each, Mapping)]
        template = next((each.get("template") for each in named if each.get("name") == "default"), None)
    tokens = {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = table.get(key)
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            tokens[key] = value
    return Chat(template if isinstance(template, str) else None, tokens)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from warning of a config.json whose type it does not know."""
    from transformers.utils import logging

    said = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(said)


def _converted(folder: Path) -> bytes:
    """Return the tokenizer.json of a folder that has a vocabulary and merges, as transformers makes it."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return bytes(found.backend_tokenizer.to_str(), "utf-8")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{folder} holds no tokenizer that can be read: {first}.", "Fetch the folder again."
        ) from error


def _named_ids(folder: Path) -> tuple[Any, Any, Any]:
    """Begin, end and unknown as a Hugging Face folder names them: by token, else by id."""
    tables = [_table(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json")]

    def find(role: str, default: str) -> Any:
        for table in tables:
            for key in (f"{role}_token", f"{role}_token_id"):
                value = table.get(key)
                value = value.get("content") if isinstance(value, Mapping) else value
                value = value[0] if isinstance(value, list) and value else value
                if value is not None:
                    return value
        return default

    return find("bos", BEGIN), find("eos", END), find("unk", "<unk>")


def _byte_level(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], digits: bool) -> bytes:
    """A GPT-2 tokenizer; `digits` splits numbers into digits first, as SmolLM's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    model = Tokenizer(models.BPE(dict(vocab), list(merges)))
    levels = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    model.pre_tokenizer = pre_tokenizers.Sequence([*levels, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    model.decoder = decoders.ByteLevel()
    return model.to_str().encode()


def _from_gguf(path: Path) -> Tokenizer:
    """The tokenizer that a .gguf carries: SentencePiece pieces with scores (`llama`), or GPT-2 merges (`gpt2`)."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError(
            f"Reading {path.name} needs the package gguf.", f"Install it: {install_command('pocket')}."
        ) from error
    try:
        fields = GGUFReader(path).fields
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is no GGUF file: {error}.", "Fetch the file again.") from error

    def read(key: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.ggml.{key}")
        return default if field is None else field.contents()

    kind, pieces = read("model"), read("tokens")
    if kind == "llama":
        return _from_sentencepiece(_piece_model(pieces, read("scores"), read("token_type")), str(path))
    pre = read("pre", "default")
    if kind != "gpt2" or pre not in ("default", "gpt-2", "smollm"):
        raise ModelError(
            f"The tokenizer in {path} ({kind}, {pre}) is of a kind that emo does not know.",
            "Put the model's tokenizer.json beside the file.",
        )
    merges = [tuple(each.split(" ", 1)) for each in read("merges") or ()]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    named = (read("bos_token_id"), read("eos_token_id"), read("unknown_token_id"))
    return _from_tokenizers(_byte_level(vocab, merges, digits=pre == "smollm"), named, str(path))


def _piece_model(pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> bytes:
    """SentencePiece's own file from a table of pieces; GGUF takes the numbers of its piece types from there."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for piece, score, kind in zip(pieces, scores, kinds, strict=True):
        proto.pieces.add(piece=piece, score=score, type=int(kind))
    proto.trainer_spec.model_type = 2  # BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return proto.SerializeToString()
