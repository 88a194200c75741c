"""What each lever of the LoRA step brings, or could bring at most (`tune.py --profile`)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import torch
from profiled import (
    ADAPTERS,
    ATTENTION,
    FROZEN,
    LOOKUP,
    NORMS,
    PRODUCTS,
    RESIDUAL,
    ROTARY,
    STEP,
    Lever,
    Profile,
    at_most,
    fused_kernels,
    lever_table,
)
from record import ratios, record, typed
from torch._inductor.utils import run_and_get_code

from emo.featstore.text import counted

if TYPE_CHECKING:
    from tune import Bench, Row, Seen


def levers_of(rows: Sequence[Row], seen: dict[str, Seen], found: Profile, best: Row) -> list[Lever]:
    """Levers that emo has, with what each brings to the row above; those that it has not, with what is to be had."""

    def brings(start: str) -> str:
        for above, row in pairwise(rows):
            if row.name.startswith(start) and seen[row.name].seconds and seen[above.name].seconds:
                return f"{_gain(seen, row, above):.2f}x the row above"
        return ""

    have, fused = "yes: ", "with `compile: true`"
    outside = "kernels" if found.busy is not None else "operators, the profiler's own included"
    # One pass over the input would at best leave nothing of the adapters, and no sums of gradients at the base.
    adapters = found.share(ADAPTERS) + found.share(FROZEN, but=(PRODUCTS,))
    padding = seen[best.name].padding
    return [
        Lever("image features read, not computed", have + "the store", brings("cached features")),
        Lever("fused causal attention, no mask", have + "SDPA", brings("SDPA")),
        Lever("logits at supervised rows only", have + "model.py", brings("logits")),
        Lever("activations in bf16, RMSNorm as one kernel", have + "build.py", brings("bf16")),
        Lever("fused AdamW, gradients kept", have + "optim.py", brings("emo's loop")),
        *(Lever(row.name, have + "`batch_size`", brings(row.name)) for row in rows if row.name.startswith("batch ")),
        Lever("batches of like length", have + "`sort_by_length`", brings("sorted by length")),
        Lever("compiled layers, one graph for all lengths", have + "`compile: true`", _compiled(rows, seen, best)),
        Lever("RMSNorm and residual sum in one kernel", fused, at_most(found.share(NORMS, RESIDUAL), "the step")),
        Lever("rotary positions in place", fused, at_most(found.share(ROTARY, but=(PRODUCTS, ATTENTION)), "the step")),
        Lever(
            "LoRA with the base in one pass over the input, q and v packed",
            "no: each draws a dropout mask of its own; what is between the products " + fused,
            at_most(adapters, "the step"),
        ),
        Lever(
            "packed sequences instead of padding",
            "no: `sort_by_length` instead",
            at_most(padding, f"the rows of `{best.name}`, which are padding"),
        ),
        Lever(
            "CUDA graph over the micro-batch",
            "no",
            at_most(max(0.0, 1 - found.inside), f"the time, outside of the {outside}"),
        ),
        Lever("optimizer over one flat buffer", "no", at_most(found.share(STEP), "the step")),
        Lever("embeddings of the frozen parts of prompts kept", "no", at_most(found.share(LOOKUP), "the step")),
    ]


def _compiled(rows: Sequence[Row], seen: dict[str, Seen], best: Row) -> str:
    for row in rows:
        if row.compile and seen[row.name].seconds and seen[best.name].seconds:
            return f"{_gain(seen, row, best):.2f}x {best.name}"
    return next((seen[row.name].failed for row in rows if row.compile), "")


def _gain(seen: dict[str, Seen], row: Row, base: Row) -> float:
    """How many times as fast, median of the rounds in which both were visited."""
    both = {name: seen[name].seconds for name in (row.name, base.name)}
    rounds = min(map(len, both.values()))
    return ratios({name: seconds[:rounds] for name, seconds in both.items()}, base.name, row.name)[0]


def compiled_layer(eager: int, codes: Sequence[str]) -> list[str]:
    """What compilation makes of the operators of a layer; nothing where there is nothing to see."""
    kernels = fused_kernels(codes[-2:])
    if len(kernels) < 2:
        return []
    names = "; ".join(", ".join(f"`{name}`" for name in program) for program in kernels)
    return [
        f"A layer forward and backward, products and attention left out: {eager} operators, compiled "
        f"{sum(map(len, kernels))} kernels ({len(kernels[0])} forward, {len(kernels[1])} backward): {names}."
    ]


def measure_profile(bench: Bench, rows: Sequence[Row], seen: dict[str, Seen], where: str) -> None:
    """Visit every row, look into the fastest of emo's, and write both sections; the one of P3 stays as it is."""
    given = bench.given
    layer: list[str] = []
    for row in chain.from_iterable([rows] * given.rounds):
        if not seen[row.name].failed:
            visit = partial(bench.visit, row, seen[row.name], max(given.steps, 12 // row.batch))
            if row.compile and not layer:
                codes = run_and_get_code(visit)[1]
                layer = compiled_layer(bench.layer_operators(), codes)
            else:
                visit()
        print(f"visited: {row.name}  {seen[row.name].failed}", flush=True)
    own = [row for row in rows if row.loop and not row.compile and seen[row.name].seconds] or [rows[-1]]
    best = min(own, key=lambda row: statistics.median(seen[row.name].seconds))
    found = bench.profile(best, given.steps)
    threads = counted(torch.get_num_threads(), "thread")
    toy = f"Toy sizes on a CPU, {threads}: overhead only, and that the script runs; kernels of a GPU differ."
    toys = [] if bench.cuda else [toy]
    words = [*found.words(f"{given.steps} steps of the row `{best.name}`"), *toys]
    record(f"P3 Where the time of a step goes{where}", typed(), found.table, words, given.page)
    told = [
        f"Ratios of samples/s, medians of {given.rounds} rounds, the rows in turn. `At most`: if all that the lever "
        "is about took no time at all, by its share of the profile above; what runs backward counts with what it is "
        "the gradient of.",
        *layer,
        *toys,
    ]
    record(f"P3 Levers of the step{where}", typed(), lever_table(levers_of(rows, seen, found, best)), told, given.page)
    for each in (*found.table, *words):
        print("  ".join(each) if isinstance(each, tuple) else each, flush=True)
