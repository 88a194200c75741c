"""P5: MERBench's protocol for one head, one model after the other against all trained together.

python tests/benchmarks/heads.py

On a GPU the sizes are MER2023's; without one there are fewer clips. A model and its batches are never smaller than
MERBench's.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from record import PAGE, alternate, record, typed
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from emo.train.features import Stream, StreamShape
from emo.train.heads.attention import Attention, merbench_attention
from emo.train.heads.base import Fold, Targets
from emo.train.heads.folds import make_folds
from emo.train.heads.layers import Linear
from emo.train.heads.objective import one_thread
from emo.train.heads.search import Draw, draw
from emo.train.metrics.labels import weighted_f1
from emo.train.recipe import load_recipe

TITLE = "P5 Heads: 50 settings x 5 folds x 100 epochs"
EPOCHS, CLASSES, STREAMS = 100, 6, 3
GOAL, GOAL_CPU, STRETCH = 20, 6, 100
PEERS, ALONE, LONG = "MERBench's way", "emo, one by one", "emo, all together"


class Samples(Dataset[Any]):
    """One clip at a time from arrays in main memory, as MERBench's loader has them."""

    def __init__(self, streams: list[np.ndarray], emotion: np.ndarray, valence: np.ndarray) -> None:
        self.streams, self.emotion, self.valence = streams, emotion, valence

    def __len__(self) -> int:
        return len(self.emotion)

    def __getitem__(self, i: int) -> tuple[list[np.ndarray], int, float]:
        return [stream[i] for stream in self.streams], int(self.emotion[i]), float(self.valence[i])


def collate(batch: list[tuple[list[np.ndarray], int, float]]) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    streams = [torch.FloatTensor(np.array([row[0][k] for row in batch])) for k in range(STREAMS)]
    return streams, torch.LongTensor([row[1] for row in batch]), torch.FloatTensor([row[2] for row in batch])


class Bench:
    """The data, the 250 models, and the ways to train them."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.device = given.device
        rng = np.random.default_rng(0)
        emotion = rng.integers(CLASSES, size=given.clips)
        centre = rng.normal(size=(STREAMS, CLASSES, given.dim)) * 0.3
        rows = [(centre[k][emotion] + rng.normal(size=(given.clips, given.dim))) for k in range(STREAMS)]
        self.rows = [each.astype(np.float32) for each in rows]
        self.targets = Targets(emotion, emotion - 2.5)
        self.recipe = load_recipe("attention", [f"folds={given.folds}"])
        self.draws = draw(self.recipe, given.configurations)
        self.seeds = sorted({each.seed for each in self.draws})
        self.folds = {seed: make_folds(emotion, given.folds, seed) for seed in self.seeds}
        widths: dict[int, list[Draw]] = {}
        for each in self.draws:
            widths.setdefault(each.settings["hidden"], []).append(each)
        self.sample = [each for same in widths.values() for each in same[: given.sample]]
        self.data = Attention.prepare([Stream(str(k), each) for k, each in enumerate(self.rows)], self.device)
        self.samples = Samples(self.rows, emotion, self.targets.valence)

    def parts(self, each: Draw, count: int | None = None) -> Iterator[tuple[int, Fold]]:
        """The seed and the part of the first folds of a draw."""
        everyone = np.arange(len(self.targets.emotion))
        for fold, val in enumerate(self.folds[each.seed][:count]):
            truth = self.targets.emotion[val]

            def measure(out: Any, truth: np.ndarray = truth) -> float:
                return weighted_f1(truth, out.logits.argmax(axis=1), CLASSES)

            yield 1000 * each.seed + fold, Fold(np.delete(everyone, val), val, measure, lambda epoch: None)

    def head(self, each: Draw, seed: int, epochs: int) -> Attention:
        recipe = each.recipe.model_copy(update={"epochs": epochs})
        shapes = [StreamShape(rows.shape[1]) for rows in self.rows]
        return Attention(recipe, shapes, CLASSES, True, self.device, seed)

    def peers(self) -> None:
        """MERBench: a DataLoader per model, batches of 32 collated clip by clip, Adam, a look at the held-out fold."""
        for each in self.sample:
            for _, part in self.parts(each, 1):
                settings = each.settings
                dims = [(rows.shape[1], False) for rows in self.rows]
                net = merbench_attention(dims, settings["hidden"], settings["dropout"], CLASSES, True).to(self.device)
                adam = torch.optim.Adam(net.parameters(), lr=settings["lr"], weight_decay=1e-5)
                loaders = [
                    DataLoader(self.samples, 32, sampler=SubsetRandomSampler(rows.tolist()), collate_fn=collate)
                    for rows in (part.train, part.val)
                ]
                for training, loader in zip((True, False), loaders, strict=True):
                    net.train(training)
                    said, truths = [], []
                    for streams, emotion, valence in loader:
                        streams = [stream.to(self.device) for stream in streams]
                        emotion, valence = emotion.to(self.device), valence.to(self.device)
                        with torch.set_grad_enabled(training):
                            out = net(streams)
                            loss = F.cross_entropy(out.logits, emotion) + F.mse_loss(out.valence.squeeze(1), valence)
                        if training:
                            adam.zero_grad()
                            loss.backward()
                            adam.step()
                        else:
                            said.append(out.logits.cpu().numpy())
                            truths.append(emotion.cpu().numpy())
                weighted_f1(np.concatenate(truths), np.concatenate(said).argmax(axis=1), CLASSES)
        self.wait()

    def alone(self) -> None:
        """emo: the same models, one after the other."""
        for each in self.sample:
            for seed, part in self.parts(each, 1):
                head = self.head(each, seed, 1)
                head.fit(self.data, self.targets, part.train, part.val, part.measure, part.on_epoch)
        self.wait()

    def together(self, epochs: int) -> None:
        """emo: all models."""
        pairs = [(each, *pair) for each in self.draws for pair in self.parts(each)]
        heads = [self.head(each, seed, epochs) for each, seed, _ in pairs]
        Attention.fit_all(heads, self.data, self.targets, [part for *_, part in pairs], keep=False)
        self.wait()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def arithmetic(self) -> tuple[int, int]:
        """FLOP of all matrix products, and parameters that an optimizer step changes, both per epoch of all models."""
        products = moved = 0
        for each in self.draws:
            net = self.head(each, 0, 1).net
            linear = [module for module in net.modules() if isinstance(module, Linear)]
            first = {id(encoder.linear_1) for encoder in net.encoders}  # their inputs want no gradient
            forward = sum(2 * module.weight.numel() for module in linear)
            step = sum((4 if id(module) in first else 6) * module.weight.numel() for module in linear)
            for _, part in self.parts(each):
                products += step * len(part.train) + forward * len(part.val)
                moved += sum(p.numel() for p in net.parameters()) * -(-len(part.train) // 32)
        return products, moved

    def speeds(self) -> tuple[float, float]:
        """FLOP per second of a large float32 product, and bytes per second of a large copy, on this device."""
        size = 8192 if self.device == "cuda" else 2048
        a = torch.randn(size, size, device=self.device)
        big = torch.empty(2**30 if self.device == "cuda" else 2**26, device=self.device)
        product = self._best(lambda: a @ a)
        return 2 * size**3 / product, 2 * 4 * big.numel() / self._best(big.clone)

    def adam(self) -> float:
        """Seconds of one thread per value that Adam changes, where the values stay in a core's cache."""
        values = torch.zeros(2**16, requires_grad=True)
        values.grad = torch.ones_like(values)
        optimizer = torch.optim.Adam([values], lr=1e-3, weight_decay=1e-5, fused=True)
        with one_thread():
            return self._best(lambda: [optimizer.step() for _ in range(50)]) / 50 / values.numel()

    def _best(self, run: Callable[[], object]) -> float:
        def once() -> float:
            start = perf_counter()
            run()
            self.wait()
            return perf_counter() - start

        return min(once() for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    on_gpu = parser.parse_known_args()[0].device == "cuda"
    parser.add_argument("--clips", type=int, default=3373 if on_gpu else 640, help="labelled clips")
    parser.add_argument("--dim", type=int, default=1024, help="columns of each of the three features")
    parser.add_argument("--configurations", type=int, default=50, help="settings drawn")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6 if on_gpu else 1, help="epochs of all together that are timed")
    parser.add_argument("--sample", type=int, default=1, help="settings of each width that are trained one by one")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    bench = Bench(given)
    models = given.configurations * given.folds
    ways: dict[str, Callable[[], None]] = {
        PEERS: bench.peers,
        "one thread": one_thread()(bench.peers),  # of networks this small often the faster; the faster one counts
        ALONE: bench.alone,
        "no epoch": lambda: bench.together(0),  # the models are made, and nothing is trained
        LONG: lambda: bench.together(given.epochs),
    }
    whole: dict[str, list[float]] = {PEERS: [], ALONE: [], LONG: []}  # seconds that the protocol would take, per round
    for i in range(given.rounds):
        times = {way: seconds[0] for way, seconds in alternate(ways, 1, warm=int(i == 0)).items()}
        peers = min(times[PEERS], times["one thread"])
        whole[PEERS].append(peers / len(bench.sample) * models * EPOCHS)
        whole[ALONE].append(times[ALONE] / len(bench.sample) * models * EPOCHS)
        epoch = (times[LONG] - times["no epoch"]) / given.epochs
        whole[LONG].append(times["no epoch"] + EPOCHS * epoch)
        print(
            f"round {i + 1}: " + "; ".join(f"{way} {whole[PEERS][-1] / whole[way][-1]:.1f}x" for way in whole),
            flush=True,
        )

    def speed(way: str, base: str) -> list[float]:
        return sorted(b / w for b, w in zip(whole[base], whole[way], strict=True))

    columns = ["way", "speed", "range of the rounds", "against emo, one by one"]
    rows = [[way, *(f"{statistics.median(speed(way, base)):.1f}" for base in (PEERS, PEERS, ALONE))] for way in whole]
    for row, way in zip(rows, whole, strict=True):
        row[2] = f"{speed(way, PEERS)[0]:.1f} to {speed(way, PEERS)[-1]:.1f}"
        if bench.device == "cuda":
            row.append(f"{statistics.median(whole[way]) / 60:.1f} min")
        print("  ".join(row), flush=True)
    columns += ["whole protocol"] if bench.device == "cuda" else []
    words = limits(bench, whole, given, models)
    for paragraph in words:
        print(paragraph, flush=True)
    title = TITLE if bench.device == "cuda" else f"{TITLE} (on a CPU)"
    record(title, typed(), [columns, *rows], words, given.page)


def limits(bench: Bench, whole: dict[str, list[float]], given: argparse.Namespace, models: int) -> list[str]:
    """What was timed, whether the goal is met, and what stands in the way of more."""
    products, moved = bench.arithmetic()
    flops, copied = bench.speeds()
    ours, peers = statistics.median(whole[LONG]), statistics.median(whole[PEERS])
    got, reachable = peers / ours, peers / (products / flops * EPOCHS)
    goal = GOAL if bench.device == "cuda" else GOAL_CPU
    share = f"{products / flops * EPOCHS / ours:.0%}"
    words = [
        f"{models} models ({given.configurations} settings of MERBench's ranges, {given.folds} folds), three features "
        f"of {given.dim} columns, {given.clips:,} clips, batch 32, Adam, float32, the held-out fold answered after "
        f"every epoch. One by one: {len(bench.sample)} settings, as many of each width, one fold and one epoch timed, "
        f"and multiplied to {models} models and {EPOCHS} epochs; an epoch costs the same every time. Together: all "
        f"{models} models; making them is counted once, what {given.epochs} epoch(s) take beyond that is multiplied. "
        f"{given.rounds} rounds after one that is not counted, the ways in turn; medians. MERBench's way has a "
        "DataLoader, batches collated clip by clip and its features in main memory; its answers to three test sets "
        "after every epoch are left out, and of all CPU threads or one the faster counts, both in its favour.",
        f"Goal {goal}x: {'met' if got >= goal else 'missed'}.",
    ]
    if bench.device == "cuda":
        words[-1] += f" Stretch {STRETCH}x on an H200: {'met' if got >= STRETCH else 'missed'}."
        adam = 7 * 4 * moved / copied * EPOCHS / ours
        limit = (
            f"What limits it now: the matrix products alone, at the speed of a large float32 product here, are {share} "
            "of its time, and Adam's seven passes over weights, gradients and moments, at the speed of a large copy, "
            f"{adam:.0%}: every model has weights of its own, and 32 clips use each of them once per step."
        )
    else:
        cores = torch.get_num_threads()
        adam = moved * bench.adam() / cores
        floor = (products / flops + adam) * EPOCHS
        limit = (
            f"What limits it now: the matrix products alone, at the speed of a large float32 product here ({cores} "
            f"threads), are {share} of its time, and Adam alone, on values that stay in a core's cache, "
            f"{adam * EPOCHS / ours:.0%}: every model has weights of its own, and 32 clips use each of them once per "
            f"step. A run that did nothing but these would be {peers / floor:.1f} times as fast as MERBench's way "
            f"({reachable:.1f} without Adam), which is the most that this machine can give"
            + (f": {goal}x is out of reach." if peers / floor < goal else ".")
            + f" Load of the machine at the end, mean of 5 minutes: {os.getloadavg()[1]:.1f}."
        )
    return [*words, limit]


if __name__ == "__main__":
    main()
