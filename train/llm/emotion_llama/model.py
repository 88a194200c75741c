"""Emotion-LLaMA on cached tensors: a frozen LLaMA with LoRA, and projections for image tokens and utterance vectors.

Names of parameters are those of the official state dict (minigpt_v2.py:68-116), but for peft's `.default`. Shapes: B
prompts, T rows of the longest one, H width of the language model, C rows of conditioning: image groups, streams, CLS.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from emo.featstore.errors import ModelError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.train.llm.emotion_llama.prompt import Prompt
from emo.train.llm.emotion_llama.tokenizer import LlamaTokenizer

GROUP = 4  # patches that become one token, minigpt_v2.py:102-104
MAX_CONTEXT_LEN = 3800  # minigpt_v2.py; rows of a prompt that training keeps, BOS and answer not counted
IGNORED = -100


@dataclass(frozen=True)
class LoraArgs:
    """Low-rank adapters of the language model.

    Attributes:
        r: Rank.
        alpha: The product of the two matrices is scaled by `alpha / r`.
        dropout: On the adapter's input, in training.
        targets: Names of the linear layers that get one.
    """

    r: int = 64
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True)
class Widths:
    """Sizes of what the store feeds in.

    Attributes:
        tokens_dim: Width of an image token; 0 where there are none.
        tokens_rows: Image tokens of a clip, CLS included; 0 where there are none.
        streams: `(feature name, width)` of each utterance vector, in the order of `feats_llama_proj1` and on:
            face MAE, VideoMAE, audio.
        group: Patches that become one token of the language model.
    """

    tokens_dim: int = 0
    tokens_rows: int = 0
    streams: tuple[tuple[str, int], ...] = ()
    group: int = GROUP

    def __post_init__(self) -> None:
        if (self.tokens_dim == 0) != (self.tokens_rows == 0) or self.group < 1 or self.tokens_rows == 1:
            raise ModelError(
                f"Image tokens of shape ({self.tokens_rows}, {self.tokens_dim}) in groups of {self.group}?"
            )
        if self.tokens_rows and (self.tokens_rows - 1) % self.group:
            raise ModelError(
                f"{self.tokens_rows - 1} patches do not divide into groups of {self.group}.",
                "Use an image encoder of another resolution, or another group size.",
            )

    @classmethod
    def from_specs(cls, tokens: EncoderSpec | None, streams: Sequence[EncoderSpec], group: int = GROUP) -> Widths:
        """Sizes as the store has them.

        Raises:
            ModelError: Token rows that vary, a stream with several rows, or patches that do not divide into groups.
        """
        if tokens is not None and (tokens.level != "tokens" or not tokens.rows):
            raise ModelError(f"{tokens.name} has no fixed number of token rows.", "Use a feature of level tokens.")
        if several := [spec.name for spec in streams if spec.level != "utt"]:
            raise ModelError(f"{', '.join(several)}: more than one row per clip.", "Use features of level utt.")
        pairs = tuple((spec.name, spec.dim) for spec in streams)
        return cls(tokens.dim, tokens.rows or 0, pairs, group) if tokens else cls(streams=pairs, group=group)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Widths:
        """Inverse of `to_json`."""
        return cls(**{**table, "streams": tuple((str(name), int(dim)) for name, dim in table["streams"])})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self) | {"streams": [list(pair) for pair in self.streams]}

    @property
    def groups(self) -> int:
        """Image rows R of the conditioning."""
        return max(self.tokens_rows - 1, 0) // self.group

    @property
    def rows(self) -> int:
        """Rows C of the conditioning: image groups, streams, CLS."""
        return self.groups + len(self.streams) + (self.tokens_rows > 0)

    def slot(self, name: str) -> range:
        """Rows of the conditioning that a prompt's slot takes."""
        return {"patches": range(self.groups), "features": range(self.groups, self.rows), "all": range(self.rows)}[name]


@dataclass(frozen=True)
class Batch:
    """Prompts, answers and features as tensors; made by `EmotionLlama.collate`, on the CPU.

    Attributes:
        ids: Token ids `(B, T)`; the pad id where a row is no token.
        mask: `(B, T)`, whether a row is real.
        slots: Rows of the flattened `(B * T)` that take an embedding from the features.
        sources: Rows of the flattened conditioning `(B * C)` that these embeddings are.
        predictors: Rows of the flattened `(B * T)` whose next id is supervised.
        targets: These ids.
        tokens: Image tokens `(B, R, D)`, CLS first, or `None`.
        streams: Utterance vectors `(B, D)`, in the order of the widths.
    """

    ids: Tensor
    mask: Tensor
    slots: Tensor
    sources: Tensor
    predictors: Tensor
    targets: Tensor
    tokens: Tensor | None
    streams: tuple[Tensor, ...]

    @property
    def supervised(self) -> int:
        """Number of ids that the loss is summed over."""
        return self.targets.numel()

    @property
    def real_tokens(self) -> int:
        """Number of rows that are no padding."""
        return int(self.mask.sum())

    @property
    def labels(self) -> Tensor:
        """`(B, T)`: supervised ids at their own places, `IGNORED` elsewhere."""
        labels = torch.full_like(self.ids, IGNORED)
        labels.view(-1)[self.predictors + 1] = self.targets
        return labels

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, as torch's DataLoader asks for it."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, do: Any) -> Batch:
        tensors = {name: do(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors, streams=tuple(do(stream) for stream in self.streams))


class EmotionLlama(nn.Module):
    """The model: `llama_model` (peft), `llama_proj`, `feats_llama_proj1..`, `cls_tk_llama_proj`.

    Only adapters and projections are trainable, all of them float32. Run it under `autocast()` where the language model
    has half precision; the methods below do.

    Args:
        llm: A causal language model of LLaMA's build, with SDPA attention.
        tokenizer: Its tokenizer.
        widths: Sizes of the features.
        lora: The adapters.
        source: Where the language model came from, for manifests.
        seed: What adapters and projections, and a random language model, were drawn from; for manifests too.

    Raises:
        ModelError: The language model has fewer ids than the tokenizer, or none of the layers that LoRA wants.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: LlamaTokenizer,
        widths: Widths,
        lora: LoraArgs,
        source: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        embeddings = llm.get_input_embeddings().weight
        if tokenizer.vocab_size > embeddings.shape[0]:
            raise ModelError(
                f"The tokenizer has {tokenizer.vocab_size} ids, the model {source} only {embeddings.shape[0]}.",
                "Use the tokenizer that came with the model.",
            )
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets),
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=source,
        )
        llm.requires_grad_(False)
        llm.name_or_path = source  # else peft warns that the two differ
        try:
            with warnings.catch_warnings():
                # peft asks for an attribute that transformers has renamed
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                self.llama_model = get_peft_model(llm, config)
        except ValueError as error:
            raise ModelError(f"LoRA does not fit the language model {source}: {error}") from error
        if llm.dtype != torch.float32:
            for module in self.llama_model.modules():
                if isinstance(module, LoraLayer):
                    module.cast_input_dtype_enabled = False  # to float32, from which autocast would cast back
        self.tokenizer, self.widths, self.lora = tokenizer, widths, lora
        self.source, self.seed = source, seed
        hidden = embeddings.shape[1]
        if widths.tokens_rows:
            self.llama_proj = nn.Linear(widths.group * widths.tokens_dim, hidden)
        for i, (_, dim) in enumerate(widths.streams, 1):
            setattr(self, f"feats_llama_proj{i}", nn.Linear(dim, hidden))
        if widths.tokens_rows:
            self.cls_tk_llama_proj = nn.Linear(widths.tokens_dim, hidden)
        self.to(embeddings.device)

    @property
    def llm(self) -> PreTrainedModel:
        """The language model, adapters inside."""
        return self.llama_model.get_base_model()

    @property
    def embeddings(self) -> nn.Module:
        """Embeddings of the language model's ids."""
        return self.llm.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the frozen language model."""
        return self.embeddings.weight.dtype

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Trainable parameters by their official names, in the official order."""
        return [(official_name(name), each) for name, each in self.named_parameters() if each.requires_grad]

    def autocast(self) -> AbstractContextManager[Any]:
        """Half precision for adapters and projections where the language model has it."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def recompute(self, wanted: bool = True) -> None:
        """Keep only the input of every decoder layer for the backward pass, which computes the rest again; or not."""
        for layer in self.llm.model.layers:  # as `GradientCheckpointingLayer` of transformers has it
            layer.gradient_checkpointing = wanted
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def compile_layers(self) -> None:
        """Compile the decoder layers for training; answers go without. All layers and lengths share one graph."""
        for layer in self.llm.model.layers:
            layer.compile(dynamic=True)

    # ---- from prompts and features to rows ---------------------------------------------------------------------------

    def length(self, prompt: Prompt, answer: Sequence[int] = (), max_context_len: int | None = MAX_CONTEXT_LEN) -> int:
        """Rows of a prompt and its answer."""
        rows = sum(len(self.widths.slot(each) if isinstance(each, str) else each) for each in prompt.segments)
        return (rows if max_context_len is None else min(rows, max_context_len + 1)) + len(answer)

    def collate(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]] | None,
        tokens: Tensor | None,
        streams: Sequence[Tensor],
        max_context_len: int | None = MAX_CONTEXT_LEN,
        width: int = 0,
        left: bool = False,
    ) -> Batch:
        """Put prompts, answers and features of B clips into one batch.

        Args:
            prompts: From `build_prompt`.
            answers: From `encode_answer`; `None` where there is nothing to supervise.
            tokens: `(B, R, D)` in any float type, as the store has them; `None` where the widths have none.
            streams: `(B, D)` each, in the order of the widths.
            max_context_len: Rows of a prompt to keep, the first one (BOS) not counted; `None` for all.
            width: Least T, beyond the longest row.
            left: Pad on the left, for generation.

        Raises:
            ModelError: The features are not what the widths say.
        """
        if any(prompt.slots for prompt in prompts):
            self._check(len(prompts), tokens, streams)
        else:
            tokens, streams = None, ()
        answers = answers if answers is not None else [()] * len(prompts)
        pairs = [self._rows(prompt, max_context_len) for prompt in prompts]
        lengths = [len(ids) + len(answer) for (ids, _), answer in zip(pairs, answers, strict=True)]
        width = max(width, *lengths)
        grid = np.full((len(prompts), width), self.tokenizer.pad, np.int64)
        mask = np.zeros(grid.shape, bool)
        slots, sources, predictors, targets = [], [], [], []
        for i, ((ids, rows), answer) in enumerate(zip(pairs, answers, strict=True)):
            start = width - lengths[i] if left else 0
            first = i * width + start  # in the flattened grid
            grid[i, start : start + lengths[i]] = np.concatenate([ids, np.asarray(answer, np.int64)])
            mask[i, start : start + lengths[i]] = True
            here = np.flatnonzero(rows >= 0)
            slots.append(first + here)
            sources.append(i * self.widths.rows + rows[here])
            # A pad piece within an answer is not supervised: the official code cannot tell it from padding.
            said = [j for j, each in enumerate(answer) if each != self.tokenizer.pad]
            predictors.append(first + len(ids) - 1 + np.asarray(said, np.int64))
            targets.append(np.asarray([answer[j] for j in said], np.int64))
        flat = (torch.from_numpy(np.concatenate(each)) for each in (slots, sources, predictors, targets))
        return Batch(torch.from_numpy(grid), torch.from_numpy(mask), *flat, tokens, tuple(streams))

    def condition(self, tokens: Tensor | None, streams: Sequence[Tensor]) -> Tensor:
        """Features to embeddings `(B, C, H)`: image groups, streams, CLS.

        Args:
            tokens: `(B, R, D)`, CLS first, `ln_vision` applied.
            streams: `(B, D)` each.
        """
        parts = [
            getattr(self, f"feats_llama_proj{i}")(each.float())[:, None]  # (B, 1, H)
            for i, each in enumerate(streams, 1)
        ]
        if tokens is not None:
            tokens = tokens.float()
            grouped = tokens[:, 1:].reshape(len(tokens), self.widths.groups, -1)  # neighbours in raster order
            parts = [self.llama_proj(grouped), *parts, self.cls_tk_llama_proj(tokens[:, :1])]
        return torch.cat(parts, dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """Rows `(B, T, H)` that the language model reads; padding is the embedding of the pad id."""
        rows = self.embeddings(batch.ids)
        if not batch.sources.numel():
            return rows
        features = self.condition(batch.tokens, batch.streams).to(rows.dtype).flatten(0, 1)[batch.sources]
        rows.flatten(0, 1).index_copy_(0, batch.slots, features)
        return rows

    # ---- training ----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """`loss`, so that wrappers such as DDP see it."""
        return self.loss(batch)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Sum of the cross entropy over supervised ids, and their number.

        Padding is on the right and attention causal: no real row sees it, so no mask is passed and the fused kernel
        applies. Logits exist at supervised rows only.
        """
        with self.autocast():
            hidden = self.llm.model(inputs_embeds=self.embed(batch), use_cache=False).last_hidden_state
            logits = self.llm.lm_head(hidden.flatten(0, 1)[batch.predictors])  # (supervised, ids)
        return F.cross_entropy(logits.float(), batch.targets, reduction="sum"), batch.supervised

    def loss_reference(self, batch: Batch, reduction: str = "mean") -> Tensor:
        """The loss as the official code computes it (modeling_llama.py): mask, logits everywhere.

        Args:
            batch: For `none` as wide as the longest prompt and the longest answer together, because of what follows.
            reduction: `mean` over supervised ids; or `none`: per sample the mean over *all* rows, where those that are
                not supervised count as 0.
        """
        with self.autocast():
            logits = self.llm(inputs_embeds=self.embed(batch), attention_mask=batch.mask.long(), use_cache=False).logits
        logits, labels = logits.float()[:, :-1].flatten(0, 1), batch.labels[:, 1:]
        loss = F.cross_entropy(logits, labels.flatten(), reduction=reduction, ignore_index=IGNORED)
        return loss if reduction == "mean" else loss.view(labels.shape).mean(1)

    # ---- answers -----------------------------------------------------------------------------------------------------

    def agree(self, ids: Tensor) -> Tensor:
        """The ids that answers go on with; `shard` puts another function here, as its processes must do the same."""
        return ids

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], tokens: Tensor | None, streams: Sequence[Tensor], max_new_tokens: int = 500
    ) -> list[list[int]]:
        """Greedy answers: the new ids of each prompt, the end id among them where it was reached.

        Finished prompts leave the batch, which ends with the last one. Left padding is zero rows under a mask, as in
        minigpt_base.py:426-503.
        """
        answers: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        with self._answering():
            hidden, mask, cache = self._prefill(prompts, tokens, streams)
            for step in range(max_new_tokens):
                ids = self.agree(self.llm.lm_head(hidden[:, -1]).float().argmax(-1))  # (alive,)
                for i, each in zip(alive, ids.tolist(), strict=True):
                    answers[i].append(each)
                going = [j for j, i in enumerate(alive) if answers[i][-1] != self.tokenizer.eos]
                if not going or step + 1 == max_new_tokens:
                    break
                if len(going) < len(alive):
                    kept = torch.tensor(going, device=ids.device)
                    cache.batch_select_indices(kept)
                    ids, mask, alive = ids[kept], mask[kept], [alive[j] for j in going]
                mask = F.pad(mask, (0, 1), value=True)
                hidden = self.llm.model(
                    inputs_embeds=self.embeddings(ids)[:, None],
                    attention_mask=mask,
                    position_ids=mask.sum(-1, keepdim=True) - 1,
                    **self._with(cache),
                ).last_hidden_state
        return answers

    @torch.no_grad()
    def label_logprobs(
        self,
        prompts: Sequence[Prompt],
        tokens: Tensor | None,
        streams: Sequence[Tensor],
        answers: Sequence[Sequence[int]],
    ) -> Tensor:
        """Log-probability of each of L answers to each prompt, `(B, L)` float32 on the CPU.

        The prompt is read once. All answers follow it in one row, each blind to the others, so that no cache is copied.

        Args:
            prompts: From `build_prompt`.
            tokens: As in `collate`.
            streams: As in `collate`.
            answers: From `encode_answer`, the end id included, so that no answer is the beginning of another.

        Raises:
            UsageError: An answer is empty.
        """
        if not answers or not all(answers):
            raise UsageError("An answer to be scored has no ids.")
        with self._answering():
            hidden, mask, cache = self._prefill(prompts, tokens, streams)
            first = torch.tensor([answer[0] for answer in answers], device=self.device)
            total = self._logprobs(hidden[:, -1])[:, first]  # (B, L)
            owner = [i for i, answer in enumerate(answers) for _ in answer[1:]]  # (Q,) which answer a row belongs to
            if not owner:
                return total.cpu()
            given = torch.tensor([each for answer in answers for each in answer[:-1]], device=self.device)
            wanted = torch.tensor([each for answer in answers for each in answer[1:]], device=self.device)
            places = torch.tensor([j for answer in answers for j in range(len(answer) - 1)], device=self.device)
            of = torch.tensor(owner, device=self.device)
            own = (of[:, None] == of) & (places[:, None] >= places)  # (Q, Q)
            batch, queries = len(prompts), len(owner)
            seen = torch.cat([mask[:, None].expand(-1, queries, -1), own.expand(batch, -1, -1)], -1)  # (B, Q, T + Q)
            hidden = self.llm.model(
                inputs_embeds=self.embeddings(given).expand(batch, -1, -1),
                attention_mask=seen[:, None],
                position_ids=mask.sum(-1, keepdim=True) + places,
                **self._with(cache),
            ).last_hidden_state
            rest = self._logprobs(hidden).gather(-1, wanted.expand(batch, -1)[..., None])[..., 0]  # (B, Q)
            return total.index_add(1, of, rest).cpu()

    # ---- inside ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """No dropout, and half precision where the language model has it."""
        training = self.training
        self.eval()
        try:
            # What `compile_layers` has made is for training: the growing cache would have it made again and again.
            with torch.compiler.set_stance("force_eager"), self.autocast():
                yield
        finally:
            self.train(training)

    def _prefill(
        self, prompts: Sequence[Prompt], tokens: Tensor | None, streams: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, DynamicCache]:
        """Read left-padded prompts: hidden rows `(B, T, H)`, mask `(B, T)`, keys and values."""
        batch = self.collate(prompts, None, tokens, streams, max_context_len=None, left=True).to(self.device)
        rows = self.embed(batch).masked_fill(~batch.mask[..., None], 0)
        cache = DynamicCache(config=self.llm.config)
        hidden = self.llm.model(
            inputs_embeds=rows,
            attention_mask=batch.mask,
            position_ids=(batch.mask.cumsum(-1) - 1).clamp(min=0),
            **self._with(cache),
        ).last_hidden_state
        return hidden, batch.mask, cache

    def _with(self, cache: DynamicCache) -> dict[str, Any]:
        """Keys and values of what has been read, by the name that this version of transformers gives them."""
        name = "cache" if "cache" in inspect.signature(self.llm.model.forward).parameters else "past_key_values"
        return {name: cache, "use_cache": True}

    def _logprobs(self, hidden: Tensor) -> Tensor:
        return self.llm.lm_head(hidden).float().log_softmax(-1)

    def _rows(self, prompt: Prompt, max_context_len: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a prompt's rows (pad where there is none), and the rows of the conditioning they take (-1: none)."""
        ids: list[int] = []
        rows: list[int] = []
        for each in prompt.segments:
            if isinstance(each, str):
                slot = self.widths.slot(each)
                ids += [self.tokenizer.pad] * len(slot)
                rows += slot
            else:
                ids += each
                rows += [-1] * len(each)
        end = None if max_context_len is None else max_context_len + 1
        return np.asarray(ids[:end], np.int64), np.asarray(rows[:end], np.int64)

    def _check(self, clips: int, tokens: Tensor | None, streams: Sequence[Tensor]) -> None:
        w = self.widths
        want = [(clips, w.tokens_rows, w.tokens_dim)] if w.tokens_rows else []
        want += [(clips, dim) for _, dim in w.streams]
        got = [tuple(each.shape) for each in (*([] if tokens is None else [tokens]), *streams)]
        if not want:
            raise ModelError("The prompts have places for features, but the model was made for none.")
        if got != want:
            raise ModelError(f"The model was made for features of shapes {want}, not {got}.")


def official_name(name: str) -> str:
    """Name of a parameter in the official state dict: without peft's `.default`."""
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
