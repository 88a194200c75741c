"""P10: a whole bench, 12 heads x 3 feature sets x 50 settings x 5 folds, against the same models one by one.

python tests/benchmarks/bench.py

Widths, batches and lengths are real. On a CPU a bench of this size takes weeks, so a few steps of a few units of every
cell are timed, in turn with the same heads trained alone, and multiplied to all steps, epochs and models.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from record import PAGE, record, typed

from emo.featstore.clip import Clip, Label
from emo.featstore.spec import EncoderSpec
from emo.train.bench.estimate import unit_s
from emo.train.bench.ledger import Ledger
from emo.train.bench.plan import Phase, plan_search
from emo.train.bench.recipe import Protocol
from emo.train.bench.work import Shop
from emo.train.features import Inputs, Stream
from emo.train.heads.base import Targets
from emo.train.heads.folds import Groups
from emo.train.heads.material import Material
from emo.train.heads.objective import one_thread
from emo.train.recipe import load_recipe

TITLE = "P10 A bench: 12 heads x 3 feature sets x 50 settings x 5 folds"
ROWS = ("attention", "lf_dnn", "lmf", "tfn", "misa", "mmim")
FRAMES = ("mult", "ef_lstm", "mfn", "graph_mfn", "mfm", "mctn")
SETS = ((1024, 1024, 768), (1024, 4096, 768), (768, 768, 512))  # columns of sound, text and video
LENGTHS = (200, 16, 100)  # rows per clip of four seconds: 50 Hz, words, 25 Hz
CLIPS, CLASSES, EPOCHS = 3373, 6, 100
MODALITIES = ("audio", "text", "video")


@dataclass
class Cell:
    """One head on one set, and the units of its search that are timed."""

    head: str
    set: int
    shop: Shop
    phase: Phase
    units: Sequence[Sequence[int]]
    clock: Callable[[], float]

    def seconds(self, together: bool, scale: float, units: int | None = None) -> float:
        """Estimate what all models of the cell take, from all its units or the first ones; `scale`: of its clips."""
        each = []
        for unit in self.units[:units]:
            if together:
                each.append(unit_s(self.shop, self.phase, unit, warm=False, clock=self.clock) / len(unit))
            else:
                each.append(unit_s(self.shop, self.phase, unit[:1], warm=False, clock=self.clock))
        return statistics.mean(each) * len(self.phase.members) * scale


def material(dims: Sequence[int], frames: bool, clips: int) -> Material:
    """Make features that tell the emotion; of a frame head a few clips stand for all."""
    rng = np.random.default_rng(0)
    emotion = rng.integers(CLASSES, size=clips)
    streams = []
    for dim, length, modality in zip(dims, LENGTHS, MODALITIES, strict=True):
        counts = rng.integers(length // 2, length * 2, size=clips) if frames else np.ones(clips, dtype=np.int64)
        centre = rng.normal(size=(CLASSES, dim)).astype(np.float32) * 0.3
        rows = np.repeat(centre[emotion], counts, axis=0) + rng.normal(size=(counts.sum(), dim)).astype(np.float32)
        streams.append(Stream(modality, rows, np.cumsum([0, *counts]) if frames else None, modality))
    specs = tuple(
        EncoderSpec(m, "fake", m, "frame" if frames else "utt", d, None if frames else 1, "random", "seed:0")
        for m, d in zip(MODALITIES, dims, strict=True)
    )
    names = tuple(f"clip{i}" for i in range(clips))
    labels = tuple(f"emotion{i}" for i in range(CLASSES))
    shown = tuple(
        Clip(name, split="train", label=Label(labels[e], e - 2.5)) for name, e in zip(names, emotion, strict=True)
    )
    targets, everyone = Targets(emotion, emotion - 2.5), np.arange(clips)
    return Material(labels, shown, Inputs(names, tuple(streams), specs), targets, everyone, everyone[:0], Groups())


def make_cells(given: argparse.Namespace) -> list[Cell]:
    cells = []
    clock = time.perf_counter if given.device == "cuda" else time.process_time
    for number, dims in enumerate(SETS[: given.sets]):
        for names, frames in ((ROWS, False), (FRAMES, True)):
            data = material(dims, frames, given.few_clips if frames else given.clips)
            for name in [each for each in names if each in given.heads]:
                sets = [f"features=[{', '.join(MODALITIES)}]", f"folds={given.folds}", f"epochs={EPOCHS}"]
                recipe = load_recipe(name, sets)
                if name == "tfn":
                    recipe = recipe.model_copy(update={"search": recipe.search | {"hidden": (given.tfn,)}})
                shop = Shop.open(data, name, given.device, Ledger(Path("nowhere")))
                _, phase = plan_search(data, recipe, Protocol(search=given.settings, folds=given.folds))
                parts = shop.units(phase).parts
                count = min(1 if frames or name == "tfn" else given.units, len(parts))
                cells.append(
                    Cell(name, number, shop, phase, [parts[i * len(parts) // count] for i in range(count)], clock)
                )
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--heads", nargs="+", default=[*ROWS, *FRAMES])
    parser.add_argument("--sets", type=int, default=len(SETS) if cuda else 1, help="that are timed, of three")
    parser.add_argument("--settings", type=int, default=50, help="drawn per cell")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=CLIPS, help="of the heads that read one row per clip")
    parser.add_argument("--few-clips", type=int, default=160, help="of the heads that read frames; time is scaled")
    parser.add_argument("--tfn", type=int, default=64, help="width of tfn; at 128 it has 275 million weights")
    parser.add_argument("--units", type=int, default=2, help="of a cell that are timed, spread over its settings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    cells = make_cells(given)
    times: dict[str, dict[str, list[float]]] = {way: {} for way in ("together", "alone")}  # way -> head -> per round
    once: dict[str, float] = {}
    with one_thread():
        for i in range(given.rounds + 1):  # one that is not counted
            found = {way: dict.fromkeys((cell.head for cell in cells), 0.0) for way in times}
            for cell in cells:
                scale = given.clips / len(cell.shop.material.clips)
                units = None if i else 1
                if any(len(unit) > 1 for unit in cell.units) or cell.head in ROWS:
                    found["alone"][cell.head] += cell.seconds(False, scale, units)
                    found["together"][cell.head] += cell.seconds(True, scale, units)
                    continue
                # A head that is never stacked is trained by the same lines either way.
                if (key := f"{cell.head} {cell.set}") not in once:
                    once[key] = cell.seconds(True, scale)
                for way in times:
                    found[way][cell.head] += once[key]
            if i:
                for way, each in found.items():
                    for head, seconds in each.items():
                        times[way].setdefault(head, []).append(seconds)
            print(f"round {i}: {sum(found['alone'].values()) / sum(found['together'].values()):.2f}x", flush=True)
    write(given, cells, times)


def write(given: argparse.Namespace, cells: Sequence[Cell], times: dict[str, dict[str, list[float]]]) -> None:
    rows = []
    whole = {way: [sum(rounds) for rounds in zip(*each.values(), strict=True)] for way, each in times.items()}
    read = [head for head in times["alone"] if head in ROWS]
    part = {way: [sum(rounds) for rounds in zip(*(each[h] for h in read), strict=True)] for way, each in times.items()}
    share = statistics.median(whole["together"])
    for head in times["alone"]:
        pair = times["alone"][head], times["together"][head]
        sizes = [len(unit) for cell in cells if cell.head == head for unit in cell.units]
        stack = f"{min(sizes)} to {max(sizes)}"
        rows.append([head, stack, *ratio(*pair), f"{statistics.median(times['together'][head]) / share:.1%}"])
    if read:
        row = sum(statistics.median(times["together"][head]) for head in read) / share
        rows.append(["heads of single rows", "", *ratio(part["alone"], part["together"]), f"{row:.1%}"])
    rows.append(["all", "", *ratio(whole["alone"], whole["together"]), "100 %"])
    columns = ["head", "models in a stack", "times as fast as one by one", "range of the rounds", "share of the bench"]
    models = len(times["alone"]) * len(SETS) * given.settings * given.folds
    columns_of = "; ".join(", ".join(map(str, each)) for each in SETS[: given.sets])
    clock = "wall time" if given.device == "cuda" else "processor time, as others used the machine too"
    words = [
        f"""{models:,} models: {len(SETS)} feature sets, {given.settings} settings of each head's own search,
        {given.folds} folds, {EPOCHS} epochs, batch 32, {given.clips:,} clips, random numbers as features. Both ways are
        emo's: one by one, each model alone; and the bench, in which models of one shape are stacked.""",
        f"""Extrapolated: of the sets {given.sets} was timed (columns of sound, text, video: {columns_of}), and of every
        cell {given.units} units (of tfn and of each frame head one), over two steps ({clock}); alone the first model of
        each. That was multiplied to all steps, epochs and models. The heads that read frames had {given.few_clips}
        clips, which changes no step; they are trained by the same lines either way, and were timed once, before the
        rounds. tfn was timed at width {given.tfn} alone: at its other width, 128, one model with Adam takes 4 GB.
        Writing records is not in these times. {given.rounds} rounds after a shorter one that is not counted, the ways
        in turn; medians.""",
        """What limits it now: on a CPU matrix products and Adam, of which every model has its own; and six of the
        twelve heads step through frames one model at a time.""",
    ]
    words = [" ".join(each.split()) for each in words]
    title = TITLE if given.device == "cuda" else f"{TITLE} (on a CPU)"
    record(title, typed(), [columns, *rows], words, given.page)
    for row in (columns, *rows):
        print("  ".join(row))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> list[str]:
    """Median and range of the rounds' ratios."""
    found = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return [f"{statistics.median(found):.2f}", f"{found[0]:.2f} to {found[-1]:.2f}"]


if __name__ == "__main__":
    main()
