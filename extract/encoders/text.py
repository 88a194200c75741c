"""Text models of Hugging Face: BERT and its relatives, in Chinese and English; sentence encoders.

Recipe `merbench`: MERBench's `extract_text_huggingface.py`: the sum of the last four hidden states, without the special
tokens, which it finds with a sentence that it encodes and decodes; nothing is cut. Recipe `modern`: the last hidden
state without special tokens, texts cut to what the model can read. A clip without words fails as `no-text`; MERBench
writes zeros there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Prepared
from emo.extract.encoders.pretrained import Pretrained
from emo.extract.encoders.tokens import STATED, Bytes, Tokens, read_tokens
from emo.extract.run.batching import alike
from emo.featstore.errors import MediaError
from emo.featstore.transcripts import text_of

PADDING = 1.25  # texts share a forward pass when the longest is at most this much longer than the shortest
_XLNET = {"d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 64}


class Text(Pretrained):
    """A text model of the catalog."""

    family = "text"
    modality = "text"
    needs = "text"
    budget: ClassVar[Mapping[str, float]] = {"cpu": 4096, "cuda": 65_536}  # tokens
    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "tokens": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "merbench": {"take": (-4, -3, -2, -1), "probe": True, "cut": False},
        "modern": {"take": (-1,), "probe": False, "cut": True},
    }
    small: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bert": {"vocab_size": 260},
        "electra": {"vocab_size": 260, "embedding_size": 16},
        "roberta": {"vocab_size": 260, "pad_token_id": 1},
        "xlm-roberta": {"vocab_size": 260, "pad_token_id": 1},
        "albert": {"vocab_size": 260, "embedding_size": 16},
        "deberta": {
            "vocab_size": 260,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": ["c2p", "p2c"],
        },
        "deberta-v2": {
            "vocab_size": 260,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
        "xlnet": {"vocab_size": 260, **_XLNET},
        "t5": {"vocab_size": 260, "d_model": 32, "num_layers": 4, "num_heads": 4, "d_kv": 8, "d_ff": 64},
    }
    spare: ClassVar[Mapping[str, str]] = {r"pooler\..*": "the feature does not pass it"}
    ignore = (
        (r"(.*\.)?embeddings\.position_ids", "the numbers of the positions"),
        (r"(.*\.)?pooler\..*", "the feature does not pass it"),
        (r"(discriminator_predictions|generator_\w+|lm_loss|predictions|sop_classifier|lm_predictions)\..*", "a head"),
        (r"(decoder\..*|mask_emb)", "not on the way of the feature"),
    )
    probe: bool = False  # whether special tokens are found by MERBench's sentence
    special: bool = False  # whether special tokens are kept
    cut: bool = True  # whether a text that is too long is cut, or fails

    def configure(self, config: Any) -> dict[str, Any]:
        sizes = super().configure(config)
        self._tokens: Tokens = Bytes() if self.weights is None else read_tokens(self.weights.path, self.full)
        self._trim = self._tokens.probe() if self.probe else None
        if self.weights is not None and not (self.weights.path / STATED).is_file():
            self.notes.append(f"{self.weights.source} holds no {STATED}: the library's usual tokenizer is taken.")
        return sizes

    def network(self) -> type[nn.Module]:
        if self.full.model_type == "t5":
            from transformers import T5EncoderModel

            return T5EncoderModel
        return super().network()

    @property
    def longest(self) -> int | None:
        """Most tokens that the model has positions for; `None` where positions are relative."""
        full = self.full
        relative = full.model_type in ("xlnet", "t5", "bloom", "falcon")
        most = None if relative else getattr(full, "max_position_embeddings", None)
        return most - full.pad_token_id - 1 if most and full.model_type in ("roberta", "xlm-roberta") else most

    def recipe(self, level: str) -> dict[str, Any]:
        kept = "special tokens kept" if self.special else "special tokens left out"
        mine = {
            "tokens": self._tokens.hash,
            "probe": self.probe,
            "special": self.special,
            "trim": list(self._trim) if self._trim else kept,
            "cut": self.longest if self.cut else self.cut,
            "pool": "mean over tokens" if level == "utt" else None,
        }
        return {**super().recipe(level), **mine}

    @classmethod
    def sample(cls, size: int, seed: int = 0) -> ClipInputs:
        words = super().sample(size, seed).transcripts["english"]
        return ClipInputs(transcripts={cls.languages[0]: words})

    def prepare(self, inputs: ClipInputs) -> Prepared:
        spoken = text_of(inputs.transcripts, self.languages)
        raw = next((text for each in self.languages if spoken in (text := inputs.transcripts.get(each, ""))), "")
        ids, kept = self.tokenize(raw) if raw else ([], range(0))
        if not kept:
            have = ", ".join(inputs.transcripts)
            want = " or ".join(each for each in self.languages if each != "text")
            raise MediaError(
                "no-text", f"The clip has no words in {want}{f', its transcript is {have}' if have else ''}."
            )
        if self.longest is not None and len(ids) > self.longest:
            raise MediaError(
                "bad-input", f"The transcript has {len(ids)} tokens, and {self.name} reads {self.longest}."
            )
        payload = torch.tensor([ids, [int(i in kept) for i in range(len(ids))]]).T.contiguous()
        return Prepared(payload, float(len(ids)))

    def tokenize(self, text: str) -> tuple[list[int], range]:
        """Ids of a text, and which of them the feature keeps."""
        ids, special = self._tokens.encode(text)
        if self.cut and self.longest is not None and len(ids) > self.longest:
            last = len(ids) - special[1]
            ids = ids[: self.longest - special[1]] + ids[last:]
        if self._trim is not None:
            start, end = self._trim
            return ids, range(len(ids))[start:end]
        return ids, range(len(ids)) if self.special else range(special[0], len(ids) - special[1])

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """Ids (B, L) of each group of texts, padded with zeros to the right, and their lengths (B,)."""
        return self.pad([item.payload[:, 0] for item in batch], self.groups(batch))

    def groups(self, batch: Sequence[Prepared]) -> list[list[int]]:
        """Which texts share a forward pass, by their numbers in the batch."""
        return alike([len(item.payload) for item in batch], PADDING, self.max_cost)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        results: list[Tensor] = [torch.empty(0)] * len(batch)
        with self.computing() as model:
            for group, ids, lengths in zip(self.groups(batch), tensors[::2], tensors[1::2], strict=True):
                mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]  # (B, L)
                output = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
                for i, rows in zip(group, self.summed(output), strict=True):
                    kept = batch[i].payload[:, 1].nonzero()[:, 0]  # on the host: the device need not wait
                    results[i] = rows[int(kept[0]) : int(kept[-1]) + 1]
        return results
