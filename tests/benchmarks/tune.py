"""Emotion-LLaMA's LoRA step: from the official loop's way of working to emo's own loop, one lever after the other.

    python tests/benchmarks/tune.py                 # P3; LLaMA-2-7B's sizes on a GPU, else toys
    python tests/benchmarks/tune.py --quantise nf4  # P7: memory of the step, with the base in bf16 and in 4 bits
    python tests/benchmarks/tune.py --profile       # where the time of the best row goes, and what each lever brings

Weights and features are random. The rows are visited in turn, round by round, until the time is over; the section is
written anew after every visit, so that nothing is lost where the script is stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from emotion_llama import (
    GIB,
    SHORT_PROMPTS,
    OfficialEva,
    OfficialItems,
    Sizes,
    clear,
    make_clips,
    make_store,
    measured_peak,
    official_loader,
    official_loss,
    reached,
    roomy,
    talks,
    to_official,
    wait,
)
from levers import measure_profile
from profiled import Profile, marked, operators, profiled
from record import PAGE, ratios, record, typed
from torch import Tensor, nn

from emo.train.device import resolve_device
from emo.train.llm.distributed import World, ahead
from emo.train.llm.emotion_llama.model import EmotionLlama
from emo.train.llm.emotion_llama.prompt import encode_answer
from emo.train.llm.model import Batch
from emo.train.llm.optim import adamw, parameter_groups
from emo.train.llm.predict import make_prompt, resolve_dtype
from emo.train.llm.setup import MFU_DEFINITION, flops_per_token, prepare
from emo.train.llm.tune import take_step
from emo.train.recipe import load_recipe

DATASHEET = 989e12  # FLOP/s in bf16, dense, of H100 SXM and H200 (NVIDIA's data sheets)
CONTEXT_GIB = 0.7  # that CUDA itself takes on a card, beside torch's memory
CARDS_GIB = (24, 16)


@dataclass(frozen=True)
class Row:
    """One way of making the step.

    Attributes:
        name: First column of the table.
        eva: Decode a frame and run the image encoder for every sample; else read its tokens from the store.
        attention: `eager` under a dense mask, or `sdpa`.
        every_logit: Logits at all rows, or at supervised ones only.
        official: fp16 with loss scaling and a norm of many kernels; else bf16 and one kernel.
        loop: The optimizer and the step of emo's own loop.
    """

    name: str
    eva: bool = True
    attention: str = "eager"
    every_logit: bool = True
    official: bool = True
    loop: bool = False
    batch: int = 1
    sort: bool = False
    compile: bool = False
    recompute: bool = False


def levers(batches: Sequence[int]) -> list[Row]:
    """From the official loop to emo's, each row with one lever more than the row above."""
    rows = [Row("official loop")]

    def add(name: str, **change: Any) -> None:
        rows.append(replace(rows[-1], name=name, **change))

    add("cached features", eva=False)
    add("SDPA, causal, no mask", attention="sdpa")
    add("logits at supervised rows", every_logit=False)
    add("bf16, fused norm", official=False)
    add("emo's loop: fused AdamW", loop=True)
    for size in batches:
        add(f"batch {size}", batch=size)
    add(f"sorted by length, batch {rows[-1].batch}", sort=True)
    best = rows[-1]
    rows.append(replace(best, name=f"the same, recomputing activations, batch {best.batch}", recompute=True))
    rows.append(replace(best, name=f"torch.compile, without recomputing, batch {best.batch}", compile=True))
    return rows


@dataclass
class Seen:
    """What the visits to a row have shown.

    Attributes:
        seconds: Per sample, one entry for each visit.
        tokens: Rows that are no padding, per sample.
        padding: Share of padding.
        memory_bytes: Peak of the tensors, what is not this row's own left out.
        reserved_bytes: What torch has taken from the device at most.
        failed: Why there is no more to see.
    """

    seconds: list[float] = field(default_factory=list)
    tokens: float = 0.0
    padding: float = 0.0
    memory_bytes: int = 0
    reserved_bytes: int = 0
    failed: str = ""


class Bench:
    """Model, store and data, and the ways to make a step with them."""

    def __init__(self, given: argparse.Namespace, folder: Path, quantise: str | None = None) -> None:
        self.device, self.given, self.folder, self.quantise = resolve_device(given.device), given, folder, quantise
        self.sizes = Sizes.of(self.device)
        said = talks("reason_v2", given.clips, given.data)
        store = make_store(folder / "features.emo", [talk.name for talk in said], self.sizes)
        annotations = folder / "answers.json"
        table = {talk.name: {"smp_reason_caption": talk.answer, "text": talk.transcript or "a"} for talk in said}
        annotations.write_text(json.dumps(table), encoding="utf-8")
        sets = [f"llm={self.sizes.llm}", f"quantise={quantise or 'null'}", f"data.reason_v2=[{annotations}]"]
        sets += ["init_from=null", "validation.split=null", "validation.holdout=0", "accumulate=1", *SHORT_PROMPTS]
        recipe = load_recipe("emotion-llama-stage2", sets)
        recipe = recipe.model_copy(update={"dtype": resolve_dtype(recipe.dtype, self.device)})
        self.training = prepare(store, [], recipe, self.device, World(), {}, ())
        self.model: EmotionLlama = self.training.model
        self.eva: OfficialEva | None = None
        self.videos: list[Path] = []

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def visit(self, row: Row, seen: Seen, steps: int) -> None:
        """Make some steps in a row's way, after some that are not counted."""
        training, model = self.training, self.model
        if self.quantise is None:
            to_official(model, row.official, row.attention)
        model.recompute(row.recompute)
        training.sampler = replace(
            training.sampler, batch_size=row.batch, by_length=row.sort, pool=8 if row.sort else 1
        )
        if row.eva and self.eva is None:
            self.eva = OfficialEva(self.sizes, self.device)
            self.videos = make_clips(self.folder, self.given.videos, self.device)
        self.scaler = torch.amp.GradScaler(self.device.partition(":")[0], enabled=self.cuda and row.official)
        clear(self.device)
        try:
            self._start(row)
            with self._compiled(row.compile):
                self._run(row, seen, steps, warm=3 if row.compile else 1)
        except torch.cuda.OutOfMemoryError:
            seen.failed = "does not fit"
        except torch._dynamo.exc.TorchDynamoException as error:
            seen.failed = f"failed: {type(error).__name__}"
        if self.cuda:
            elsewhere = 0 if row.eva or self.eva is None else self.eva.memory_bytes
            seen.memory_bytes = max(seen.memory_bytes, torch.cuda.max_memory_allocated() - elsewhere)
            seen.reserved_bytes = max(seen.reserved_bytes, torch.cuda.max_memory_reserved() - elsewhere)
        training.optimizer.state.clear()

    def profile(self, row: Row, steps: int) -> Profile:
        """What some steps in a row's way spend their time on; the row has been visited."""
        self.visit(row, Seen(), 1)
        self._start(row)
        made = self._made(row, 1 + steps)
        next(made)  # the optimizer makes its moments
        with marked(self.model):
            return profiled(lambda: list(made), self.device)

    def layer_operators(self) -> int:
        """How many operators a decoder layer calls forward and backward, products and attention left out."""
        given: list[Any] = []
        layer = self.model.train().llm.model.layers[0]
        hook = layer.register_forward_pre_hook(lambda _, *inputs: given.append(inputs), with_kwargs=True)
        self.model.loss(self.training.load(0)[0][2].to(self.device))
        hook.remove()
        ((rows,), named) = given[0]
        rows = rows.detach().requires_grad_()
        with self.model.autocast():
            return operators(lambda: layer(rows, **named))

    def _start(self, row: Row) -> None:
        """Fresh gradients and optimizer."""
        training, named = self.training, self.model.trainable()
        for parameter in training.parameters:
            parameter.grad = torch.zeros_like(parameter) if row.loop else None
        make = adamw if row.loop else _plain_adamw
        training.optimizer = make(named, training.recipe.lr, training.recipe.weight_decay)

    def _run(self, row: Row, seen: Seen, steps: int, warm: int) -> None:
        start, samples, tokens, rows = 0.0, 0, 0, 0
        for i, (batch, size) in enumerate(self._made(row, warm + steps), 1):
            if i > warm:
                samples, tokens, rows = samples + size, tokens + batch.real_tokens, rows + batch.ids.numel()
            elif i == warm:
                wait(self.device)
                start = time.perf_counter()
        wait(self.device)
        seen.seconds.append((time.perf_counter() - start) / samples)
        seen.tokens, seen.padding = tokens / samples, 1 - tokens / rows

    def _made(self, row: Row, steps: int) -> Iterator[tuple[Batch, int]]:
        """Make steps, and tell of each what it was made of."""
        training = self.training
        if row.eva:
            items = OfficialItems(self.videos, self.folder, self.sizes, steps)
            for step, (pixels, vectors) in enumerate(official_loader(items, self.device)):
                batch = self._with_eva(step, pixels, vectors)
                self._official_step(row, batch)
                yield batch, 1
            return
        with ahead(training.load, 0, steps) as windows:
            for step, window in windows:
                if row.loop:
                    take_step(training, step, window, training.recipe.lr)
                else:
                    self._official_step(row, window[0][2])
                yield window[0][2], len(window[0][1])

    # ---- the official way --------------------------------------------------------------------------------------------

    def _with_eva(self, step: int, pixels: Tensor, vectors: Tensor) -> Batch:
        """Tokenise and encode in the main process, as minigpt_base.py does."""
        (sample,) = self.training.sampler.batches(step)[0]
        model, recipe = self.model, self.training.recipe
        assert self.eva is not None
        prompt = make_prompt(model, recipe, sample.task, sample.text, sample.transcript, recipe.layout)
        answer = encode_answer(sample.answer, model.tokenizer, recipe.max_txt_len, recipe.end_sym)
        tokens = self.eva(pixels.to(self.device, non_blocking=True))
        return model.collate([prompt], [answer], [tokens, *vectors.unbind(1)])

    def _official_step(self, row: Row, batch: Batch) -> None:
        """base_task.py:161-275: loss scaling, optimizer, the loss read in every step."""
        loss = self._loss(row, batch.to(self.device))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.training.optimizer)
        self.scaler.update()
        self.training.optimizer.zero_grad()
        loss.item()

    def _loss(self, row: Row, batch: Batch) -> Tensor:
        model = self.model
        if not row.every_logit:
            total, supervised = model.loss(batch)
            return total / supervised
        if row.attention == "eager":
            return official_loss(model, batch)
        with model.autocast():
            logits = model.llm(inputs_embeds=model.embed(batch), use_cache=False).logits
        return F.cross_entropy(logits.float()[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())

    @contextlib.contextmanager
    def _compiled(self, wanted: bool) -> Iterator[None]:
        if wanted:
            self.model.compile_layers()
        try:
            yield
        finally:
            for layer in self.model.llm.model.layers:
                layer._compiled_call_impl = None  # torch keeps the graph for the next visit


def _plain_adamw(named: Sequence[tuple[str, nn.Parameter]], lr: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(named, weight_decay), lr=lr)


# ---- P3 --------------------------------------------------------------------------------------------------------------


def speed_table(rows: Sequence[Row], seen: dict[str, Seen], bench: Bench, peak: float | None) -> list[tuple[str, ...]]:
    """Ratios everywhere; what is absolute only of a GPU."""
    ways = ("way, each with what is above it", "samples/s, ratio", "range", "real tokens/s")
    table: list[tuple[str, ...]] = [(*ways, "MFU of measured peak", "MFU of data sheet", "peak memory, GiB")]
    base = rows[0].name
    flops = flops_per_token(bench.model)
    for row in rows:
        now = seen[row.name]
        if not now.seconds:
            table.append((row.name, now.failed or "not yet", *["-"] * 5))
            continue
        ratio, least, most = gain(seen, row, base)
        cells = [f"{ratio:.2f}", f"{least:.2f} to {most:.2f}", "-", "-", "-", "-"]
        if peak:
            speed = now.tokens / statistics.median(now.seconds)
            shares = (f"{100 * speed * flops / each:.0f} %" for each in (peak, DATASHEET))
            cells[2:] = [f"{speed:,.0f}", *shares, f"{now.memory_bytes / GIB:.1f}"]
        table.append((row.name, *cells))
    return table


def gain(seen: dict[str, Seen], row: Row, base: str) -> tuple[float, float, float]:
    """How many times as many samples a second as the base, round by round: median, least and most."""
    rounds = min(len(seen[row.name].seconds), len(seen[base].seconds))
    return ratios({name: seen[name].seconds[:rounds] for name in (row.name, base)}, base, row.name)


def speed_words(rows: Sequence[Row], seen: dict[str, Seen], bench: Bench, peak: float | None) -> list[str]:
    done = [row for row in rows if seen[row.name].seconds]
    best = min(done, key=lambda row: statistics.median(seen[row.name].seconds))
    now, times = seen[best.name], gain(seen, best, rows[0].name)[0]
    what = "real captions of MERR fine" if bench.given.data else "the tables in emotion_llama.py, drawn from MERR fine"
    words = [
        f"Lengths of prompts and answers: {what}; {now.tokens:.0f} rows per sample in the best row. One sample is one "
        f"question about one clip. Each visit is {bench.given.steps} steps or more behind some that are not counted; "
        f"{len(seen[rows[0].name].seconds)} rounds, the rows in turn; medians of each round's ratio. Weights and "
        "features are random.",
        "The official loop, written anew: batch 1, the first frame decoded and resized by six workers, EVA ViT-g in "
        "fp16 with plain attention, LLaMA in fp16 under autocast with loss scaling, eager attention under a mask, "
        "logits at every row, AdamW over lists; no activation recomputation of the language model, as in its "
        "configuration. That it keeps the hidden states of all layers is left out.",
    ]
    if peak is None:
        words.append("Toy sizes on a CPU: this shows overhead and that every row runs, and says nothing of the goals.")
        return words
    speed = now.tokens / statistics.median(now.seconds)
    flops = flops_per_token(bench.model)
    mfu = speed * flops / DATASHEET
    words += [
        f"MFU: {MFU_DEFINITION}: {flops / 1e9:.1f} GFLOP per token; {peak / 1e12:.0f} TFLOP/s measured in this run "
        f"with a product of 8192 x 8192 matrices, {DATASHEET / 1e12:.0f} on the data sheet of H100 and H200.",
        f"Goal 10x samples/s: {reached(times >= 10)} ({times:.1f}x, {best.name}). Stretch 14,000 real tokens/s: "
        f"{reached(speed >= 14_000)} ({speed:,.0f}). Stretch 50 % MFU of the data sheet: {reached(mfu >= 0.5)} "
        f"({100 * mfu:.0f} %). `emo train` prints tokens/s and MFU with every report.",
        f"What limits it now: in the best row the matrix products at their measured peak would take "
        f"{100 * speed * flops / peak:.0f} % of the time, and {100 * now.padding:.0f} % of the rows are padding. The "
        "rest is what runs between the products (rotation, activation, dropout and adapters, residual sums), "
        "attention, projections and optimizer.",
    ]
    return words


# ---- P7 --------------------------------------------------------------------------------------------------------------


@dataclass
class Memory:
    """A row of P7: what is visited, what was seen, and which cards hold it."""

    row: Row
    seen: Seen = field(default_factory=Seen)
    fits: dict[int, bool] = field(default_factory=dict)
    why: str = ""


def memory_rows(batches: Sequence[int]) -> list[Row]:
    base = Row("", eva=False, attention="sdpa", every_logit=False, official=False, loop=True, sort=True)
    plain = [replace(base, name=f"batch {size}", batch=size) for size in (1, *batches[:2])]
    again = [replace(base, name=f"batch {size}, recompute", batch=size, recompute=True) for size in (1, *batches)]
    return [*plain, *again]


def holds(bench: Bench, row: Row, card_gib: int) -> bool:
    """Whether the step runs within the memory of a smaller card."""
    total, seen = torch.cuda.get_device_properties(0).total_memory, Seen()
    torch.cuda.set_per_process_memory_fraction((card_gib - CONTEXT_GIB) * GIB / total)
    try:
        bench.visit(row, seen, 2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return not seen.failed


def measure_memory(given: argparse.Namespace, folder: Path, title: str) -> None:
    """Visit every row with the base in bf16 and then in 4 bits, and write the section anew after each."""
    cuda = resolve_device(given.device).startswith("cuda")
    rows = chosen(memory_rows([int(each) for each in given.batches.split(",")]), given.rows)
    table = {(how, row.name): Memory(row) for how in ("bf16", "nf4") for row in rows}
    if not cuda or not find_spec("bitsandbytes"):
        for (how, _), each in table.items():
            if how == "nf4":
                each.why = "not measured: " + ("bitsandbytes is not installed" if cuda else "no GPU")
    for how in ("bf16", "nf4"):
        if all(each.why for (base, _), each in table.items() if base == how):
            continue
        (folder / how).mkdir()
        bench = Bench(given, folder / how, None if how == "bf16" else how)
        for row in rows:
            each = table[how, row.name]
            bench.visit(row, each.seen, max(given.steps, 12 // row.batch))
            if cuda:
                small = not each.seen.failed
                each.fits = {card: small and holds(bench, row, card) for card in CARDS_GIB}
            record(title, typed(), memory_table(table, cuda), memory_words(cuda), given.page)
            print("  ".join(memory_cells(how, each, table, cuda)), flush=True)
        del bench
        clear(resolve_device(given.device))


def memory_cells(how: str, each: Memory, table: dict[tuple[str, str], Memory], cuda: bool) -> tuple[str, ...]:
    now, base = each.seen, next(iter(table.values())).seen.seconds
    if not now.seconds:
        return how, each.row.name, each.why or now.failed or "not yet", *["-"] * 5
    cells = [f"{statistics.median(base) / statistics.median(now.seconds):.2f}", "-", "-", "-", "-", "-"]
    if cuda:
        speed = now.tokens / statistics.median(now.seconds)
        fits = ("yes" if each.fits.get(card) else "no" for card in CARDS_GIB)
        cells[1:] = [f"{speed:,.0f}", f"{now.memory_bytes / GIB:.1f}", f"{now.reserved_bytes / GIB:.1f}", *fits]
    return how, each.row.name, *cells


def memory_table(table: dict[tuple[str, str], Memory], cuda: bool) -> list[tuple[str, ...]]:
    header = ("base", "step", "samples/s, ratio", "real tokens/s", "tensors at their peak, GiB", "taken by torch, GiB")
    cells = [memory_cells(how, each, table, cuda) for (how, _), each in table.items()]
    return [(*header, *(f"runs in {card} GiB" for card in CARDS_GIB)), *cells]


def memory_words(cuda: bool) -> list[str]:
    words = [
        "The step of emo's own loop: LoRA of rank 64 on q and v; adapters, projections and AdamW in fp32; `batch_size` "
        "as in the row, `recompute: true` where it says so, `quantise: nf4` for the second base. A step runs in a "
        "smaller card's memory if it does so when torch may take no more than that card has, less "
        f"{CONTEXT_GIB} GiB for CUDA itself."
    ]
    if not cuda:
        return [*words, "Toy sizes on a CPU: memory is not measured, and the goals are not looked at."]
    return [
        *words,
        "What limits it now: in bf16 the frozen weights alone are 12.6 GiB; without recomputation the activations come "
        "next. 4-bit weights are made bf16 again in every product of every pass, which large batches hide.",
    ]


# ---- the run ---------------------------------------------------------------------------------------------------------


def chosen(rows: list[Row], wanted: str | None) -> list[Row]:
    """The rows whose numbers are given, the first one always: it is what the others are compared with."""
    if wanted is None:
        return rows
    numbers = {0, *(int(each) for each in wanted.split(","))}
    return [row for i, row in enumerate(rows) if i in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", help="numbers of the rows to visit, as 0,5,9; row 0 is always among them")
    parser.add_argument("--batches", help="batch sizes to try, as 4,8,16; default by the device's memory")
    parser.add_argument("--steps", type=int, default=4, help="least steps of a visit; small batches make more")
    parser.add_argument("--rounds", type=int, default=3, help="visits to every row")
    parser.add_argument("--seconds", type=float, default=100, help="begin no visit after so long, but the first ones")
    parser.add_argument("--clips", type=int, default=512, help="clips to take samples from")
    parser.add_argument("--data", type=Path, help="folder with the real data (see emotion_llama.lengths)")
    parser.add_argument("--videos", type=Path, help="folder of .mp4 files to decode; default: drawn ones, 1280 x 720")
    parser.add_argument("--quantise", choices=["nf4"], help="measure memory instead, in bf16 and so (P7)")
    parser.add_argument("--profile", action="store_true", help="say where the time goes instead, and what levers bring")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    begun = time.perf_counter()
    if given.batches is None:
        given.batches = "4,8,16,32" if roomy(resolve_device(given.device)) else "4,8,16"
    where = "" if resolve_device(given.device).startswith("cuda") else " (tiny sizes on a CPU: overhead only)"
    with tempfile.TemporaryDirectory() as name:
        if given.quantise:
            measure_memory(given, Path(name), f"P7 Memory of the LoRA step{where}")
            return
        bench = Bench(given, Path(name))
        if given.profile:
            rows = chosen(levers([int(each) for each in given.batches.split(",")]), given.rows)
            measure_profile(bench, rows, {row.name: Seen() for row in rows}, where)
            return
        peak = measured_peak(bench.device) if bench.cuda else None
        print(f"ready after {time.perf_counter() - begun:.0f} s", flush=True)
        rows = chosen(levers([int(each) for each in given.batches.split(",")]), given.rows)
        seen = {row.name: Seen() for row in rows}
        for i, row in enumerate(chain.from_iterable([rows] * given.rounds)):
            late = time.perf_counter() - begun > given.seconds
            if (late and i >= len(rows)) or seen[row.name].failed:
                continue
            bench.visit(row, seen[row.name], max(given.steps, 12 // row.batch))
            table, words = speed_table(rows, seen, bench, peak), speed_words(rows, seen, bench, peak)
            record(f"P3 LoRA step{where}", typed(), table, words, given.page)
            passed = time.perf_counter() - begun
            print(f"{passed:5.0f} s  {'  '.join(next(each for each in table if each[0] == row.name))}", flush=True)
        print("\n".join(words), flush=True)


if __name__ == "__main__":
    main()
