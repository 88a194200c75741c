"""A frozen causal language model with LoRA that reads rows made of cached features: all that families have in common.

Shapes: B prompts, T rows of the longest one, H width of the language model, C rows of conditioning of a clip.
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from emo.featstore.errors import ModelError, UsageError
from emo.train.llm.cache import roomy_cache
from emo.train.llm.prompt import Prompt
from emo.train.llm.tokenizer import Tokenizer

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
class Batch:
    """Prompts, answers and features as tensors; made by `TunedModel.collate`, on the CPU.

    Attributes:
        ids: Token ids `(B, T)`; the pad id where a row is no token.
        mask: `(B, T)`, whether a row is real.
        slots: Rows of the flattened `(B * T)` that take an embedding from the features.
        sources: Rows of the flattened conditioning `(B * C)` that these embeddings are.
        predictors: Rows of the flattened `(B * T)` whose next id is supervised.
        targets: These ids.
        features: `(B, D)` or `(B, R, D)` each, in the order in which the family wants them.
    """

    ids: Tensor
    mask: Tensor
    slots: Tensor
    sources: Tensor
    predictors: Tensor
    targets: Tensor
    features: tuple[Tensor, ...]

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
        return replace(self, **tensors, features=tuple(do(feature) for feature in self.features))


class TunedModel(nn.Module, ABC):
    """A language model with adapters (`llama_model`, a peft model), and what a family adds to turn features into rows.

    Only adapters and the family's own modules are trainable, all of them float32. Run it under `autocast()` where the
    language model has half precision; the methods below do. A family derives from it, makes its modules behind
    `super().__init__`, and answers `rows`, `slot`, `condition`, `shapes` and `build`.

    Args:
        llm: A causal language model with `model.layers`, `model.norm` and `lm_head`, with SDPA attention.
        tokenizer: Its tokenizer.
        lora: The adapters.
        source: Where the language model came from, for manifests.
        seed: What all fresh weights, and a random language model, were drawn from; for manifests too.

    Raises:
        ModelError: The language model has fewer ids than the tokenizer, or none of the layers that LoRA wants.
    """

    max_context_len: int | None = None  # rows of a prompt that training keeps, the first one and the answer not counted

    def __init__(
        self, llm: PreTrainedModel, tokenizer: Tokenizer, lora: LoraArgs, source: str = "", seed: int = 0
    ) -> None:
        super().__init__()
        embeddings = llm.get_input_embeddings().weight
        if tokenizer.vocab_size > embeddings.shape[0]:
            raise ModelError(
                f"The tokenizer has {tokenizer.vocab_size} ids, the model {source} only {embeddings.shape[0]}.",
                "Use the tokenizer that came with the model.",
            )
        self.llama_model = _adapted(llm, lora, source)
        self.tokenizer, self.lora, self.source, self.seed = tokenizer, lora, source, seed

    # ---- what a family answers ---------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows C of the conditioning of a clip."""

    @property
    def stops(self) -> tuple[tuple[int, ...], ...]:
        """Sequences of ids that end an answer; the end id, unless a family says more."""
        return ((self.tokenizer.eos,),)

    @abstractmethod
    def slot(self, name: str) -> range:
        """Return the rows of the conditioning that a prompt's slot takes."""

    @abstractmethod
    def condition(self, features: Sequence[Tensor]) -> Tensor:
        """Turn features into embeddings `(B, C, H)`."""

    def standardise(self, statistics: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> None:
        """See every utterance vector with mean 0 and deviation 1; mean and deviation are kept with the model.

        Args:
            statistics: Mean and deviation (D,) of each feature in the order of the family, `None` where it has none.

        Raises:
            UsageError: The family cannot.
        """
        raise UsageError("This family of models has no key `standardise`.", "Leave it out of the recipe.")

    @property
    @abstractmethod
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the features of one clip, `(D,)` or `(R, D)` each, in the order in which the family wants them."""

    @abstractmethod
    def build(self) -> dict[str, Any]:
        """Return what two models of the family must share for weights of one to make sense in the other; plain JSON."""

    # ------------------------------------------------------------------------------------------------------------------

    def check(self, clips: int, features: Sequence[Tensor]) -> None:
        """Refuse features of clips that are not what the model was made for.

        Raises:
            ModelError: With both shapes.
        """
        want = [(clips, *shape) for shape in self.shapes]
        got = [tuple(each.shape) for each in features]
        if not want:
            raise ModelError("The prompts have places for features, but the model was made for none.")
        if got != want:
            raise ModelError(f"The model was made for features of shapes {want}, not {got}.")

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
        """Device of the model."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the frozen language model."""
        return self.embeddings.weight.dtype

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Trainable parameters by their official names, in the official order."""
        return [(official_name(name), each) for name, each in self.named_parameters() if each.requires_grad]

    def kept(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that are saved with a model: the trainable ones, and what a family must not lose besides."""
        return self.trainable()

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

    def length(self, prompt: Prompt, answer: Sequence[int] = (), max_context_len: int | None = 0) -> int:
        """Return the rows of a prompt and its answer."""
        rows = sum(len(self.slot(each) if isinstance(each, str) else each) for each in prompt.segments)
        limit = self.max_context_len if max_context_len == 0 else max_context_len
        return (rows if limit is None else min(rows, limit + 1)) + len(answer)

    def collate(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]] | None,
        features: Sequence[Tensor],
        max_context_len: int | None = 0,
        width: int = 0,
        left: bool = False,
    ) -> Batch:
        """Put prompts, answers and features of B clips into one batch.

        Args:
            prompts: From `Family.prompt`.
            answers: From `Family.answer_ids`; `None` where there is nothing to supervise.
            features: In any float type, as the store has them, in the order in which the family wants them.
            max_context_len: Rows of a prompt to keep, the first one not counted; `None` for all, 0 for the model's own.
            width: Least T, beyond the longest row.
            left: Pad on the left, for generation.

        Raises:
            ModelError: The features are not what the widths say.
        """
        if any(prompt.slots for prompt in prompts):
            self.check(len(prompts), features)
        else:
            features = ()
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
            sources.append(i * self.rows + rows[here])
            # A pad piece within an answer is not supervised: the official code cannot tell it from padding. Where the
            # end id stands in for a missing pad piece it is: a model must learn where its answers end.
            said = [j for j, each in enumerate(answer) if each != self.tokenizer.pad or each == self.tokenizer.eos]
            predictors.append(first + len(ids) - 1 + np.asarray(said, np.int64))
            targets.append(np.asarray([answer[j] for j in said], np.int64))
        flat = (torch.from_numpy(np.concatenate(each)) for each in (slots, sources, predictors, targets))
        return Batch(torch.from_numpy(grid), torch.from_numpy(mask), *flat, tuple(features))

    def embed(self, batch: Batch) -> Tensor:
        """Rows `(B, T, H)` that the language model reads; padding is the embedding of the pad id."""
        rows = self.embeddings(batch.ids)
        if not batch.sources.numel():
            return rows
        features = self.condition(batch.features).to(rows.dtype).flatten(0, 1)[batch.sources]
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

    # ---- answers -----------------------------------------------------------------------------------------------------

    def choose(self, logits: Tensor, said: Sequence[Sequence[int]]) -> Tensor:
        """Logits `(B, ids)` of which the largest is the next id; a family may look at the ids that were said."""
        return logits

    def agree(self, ids: Tensor) -> Tensor:
        """The ids that answers go on with; `shard` puts another function here, as its processes must do the same."""
        return ids

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        features: Sequence[Tensor],
        max_new_tokens: int = 500,
        on_ids: Callable[[int, list[int]], None] | None = None,
    ) -> list[list[int]]:
        """Greedy answers: the new ids of each prompt, the end id among them where it was reached.

        `on_ids` is called with the number of a prompt and its ids so far, whenever one is added.

        Finished prompts leave the batch, which ends with the last one. Left padding is zero rows under a mask.
        """
        answers: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        with self._answering():
            hidden, mask, cache = self._prefill(prompts, features)
            for step in range(max_new_tokens):
                logits = self.choose(self.llm.lm_head(hidden[:, -1]).float(), [answers[i] for i in alive])
                ids = self.agree(logits.argmax(-1))  # (alive,)
                for i, each in zip(alive, ids.tolist(), strict=True):
                    answers[i].append(each)
                    if on_ids is not None:
                        on_ids(i, answers[i])
                going = [j for j, i in enumerate(alive) if not self._ended(answers[i])]
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
        self, prompts: Sequence[Prompt], features: Sequence[Tensor], answers: Sequence[Sequence[int]]
    ) -> Tensor:
        """Log-probability of each of L answers to each prompt, `(B, L)` float32 on the CPU.

        The prompt is read once. All answers follow it in one row, each blind to the others, so that no cache is copied.

        Args:
            prompts: From `Family.prompt`.
            features: As in `collate`.
            answers: From `Family.answer_ids`, the end id included, so that no answer is the beginning of another.

        Raises:
            UsageError: An answer is empty.
        """
        if not answers or not all(answers):
            raise UsageError("An answer to be scored has no ids.")
        with self._answering():
            hidden, mask, cache = self._prefill(prompts, features)
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

    def _prefill(self, prompts: Sequence[Prompt], features: Sequence[Tensor]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Read left-padded prompts: hidden rows `(B, T, H)`, mask `(B, T)`, keys and values."""
        batch = self.collate(prompts, None, features, max_context_len=None, left=True).to(self.device)
        rows = self.embed(batch).masked_fill(~batch.mask[..., None], 0)
        cache = roomy_cache(self.llm.config)
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

    def _ended(self, ids: Sequence[int]) -> bool:
        return any(tuple(ids[-len(stop) :]) == stop for stop in self.stops)

    def _logprobs(self, hidden: Tensor) -> Tensor:
        return self.llm.lm_head(hidden).float().log_softmax(-1)

    def _rows(self, prompt: Prompt, max_context_len: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a prompt's rows (pad where there is none), and the rows of the conditioning they take (-1: none)."""
        ids: list[int] = []
        rows: list[int] = []
        for each in prompt.segments:
            if isinstance(each, str):
                slot = self.slot(each)
                ids += [self.tokenizer.pad] * len(slot)
                rows += slot
            else:
                ids += each
                rows += [-1] * len(each)
        limit = self.max_context_len if max_context_len == 0 else max_context_len
        end = None if limit is None else limit + 1
        return np.asarray(ids[:end], np.int64), np.asarray(rows[:end], np.int64)


def official_name(name: str) -> str:
    """Name of a parameter in the official state dict: without peft's `.default`."""
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


def _adapted(llm: PreTrainedModel, lora: LoraArgs, source: str) -> PeftModel:
    """Freeze a language model and put adapters into it."""
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
            adapted = get_peft_model(llm, config)
    except ValueError as error:
        raise ModelError(f"LoRA does not fit the language model {source}: {error}") from error
    if llm.dtype != torch.float32:
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                module.cast_input_dtype_enabled = False  # to float32, from which autocast would cast back
    return adapted
