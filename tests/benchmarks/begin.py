"""From `emo train --cached --recipe ...` to the first step, against reading the weight files once.

    python tests/benchmarks/begin.py                # LLaMA-2-7B's sizes on a GPU, else a smaller model
    python tests/benchmarks/begin.py --size llama2  # the true sizes: 13 GB of files, and twice that in memory on a CPU

Whole processes, in turn, with the files in the page cache and without. Weights are random, in float16 as published.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emotion_llama import Sizes, make_store
from huggingface_hub import save_torch_state_dict
from record import PAGE, record, typed
from transformers import LlamaConfig, LlamaForCausalLM

from emo.extract.encoders.eva import PAPER, TINY
from emo.featstore.labels import MER2023_LABELS
from emo.train.device import resolve_device
from emo.train.llm.build import SIZES
from emo.train.llm.tokenizer import Tokenizer

TITLE = "P3 Start of training"
GOAL = 1.3
GIB = 2**30
MODELS: dict[str, dict[str, Any]] = {
    "llama2": SIZES["random"],
    "small": SIZES["random"] | {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 12},
    "toy": {**SIZES["tiny"], "vocab_size": 260},
}
READ, EMO = "reading the files once", "emo train, to the first step"
STAGES = (
    "imports",
    "weights of the language model",
    "a batch and two answers tried, as every training does",
    "data, adapters and the rest",
)
CLIPS = 40
CHILD = Path(__file__).resolve().with_name("first_step.py")


# ---- the ways --------------------------------------------------------------------------------------------------------


class Bench:
    """A workspace with a language model on the disk, and the ways to look at it."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work
        self.files = write_model(work / "llm", MODELS[given.size])
        self.bytes = sum(path.stat().st_size for path in self.files)
        toy = given.size == "toy"
        names = [f"clip_{i:03d}" for i in range(CLIPS)]
        make_store(work / "features.emo", names, Sizes("", TINY if toy else PAPER, 16 if toy else 1024), records=4)
        rows = {name: {"emo": MER2023_LABELS[i % len(MER2023_LABELS)], "val": -10} for i, name in enumerate(names)}
        (work / "data").mkdir()
        np.savez(work / "data" / "label-6way.npz", train_corpus=np.array(rows, object))  # type: ignore[arg-type]
        tables = '[store]\npath = "features.emo"\n[data.MER2023]\nroot = "data"\n'
        (work / "emo.toml").write_text(f"{tables}[weights]\nmine = {json.dumps(str(work / 'llm'))}\n", encoding="utf-8")
        self.parts: dict[str, list[list[float]]] = {"cold": [], "warm": []}
        self.runs = 0

    def read(self, state: str) -> float:
        """Seconds that reading every byte takes, into memory that is used again."""
        into = memoryview(bytearray(16 * 2**20))
        start = time.perf_counter()
        for path in self.files:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(into):
                    pass
        return time.perf_counter() - start

    def train(self, state: str) -> float:
        """Seconds from the start of the process to its first step."""
        self.runs += 1
        sets = [
            "llm=mine",
            "init_from=null",
            "batch_size=1",
            "decode.batch_size=2",
            f"lora={{r: {self.rank}, alpha: 16, targets: [q_proj, v_proj]}}",
        ]
        sets += [f"dtype={self.given.dtype}"]
        words = ["train", "--cached", "--recipe", "tiny", "--run", f"r{self.runs}", "--device", self.given.device]
        words += [word for pair in sets for word in ("--set", pair)]
        start = time.time()
        command = [sys.executable, str(CHILD), *words]
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr or done.stdout)
        marks = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
        whole, imports = marks["step"] - start, marks["imported"] - start
        weights, tried = marks["loaded"] - marks["loading"], marks["tried"] - marks["trying"]
        self.parts[state].append([imports, weights, tried, whole - imports - weights - tried])
        return whole

    @property
    def rank(self) -> int:
        return 4 if self.given.size == "toy" else 64

    def cool(self) -> float:
        """Drop the files from the page cache as far as the system does so; the share of their pages that stays."""
        for path in self.files:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return resident(self.files)


def write_model(folder: Path, sizes: dict[str, Any]) -> list[Path]:
    """A Hugging Face folder of a LLaMA in float16, of which a block of random numbers is every weight."""
    tokenizer = Tokenizer.bytes()
    config = LlamaConfig(
        max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False, **sizes
    )
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in LlamaForCausalLM(config).state_dict().items()}
    block = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    folder.mkdir()
    state = {
        name: block.repeat(-(-shape.numel() // len(block)))[: shape.numel()].view(shape).clone()
        for name, shape in shapes.items()
    }
    save_torch_state_dict(state, folder, max_shard_size="10GB")  # as LLaMA-2-7B's own
    config.architectures, config.dtype = ["LlamaForCausalLM"], "float16"
    config.save_pretrained(folder)
    tokenizer.save(folder)
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())  # pages that are not on the disk cannot be dropped
    return files


def resident(files: Sequence[Path]) -> float:
    """Share of the files' pages that lie in the page cache (mincore)."""
    libc, pages, held = ctypes.CDLL(None, use_errno=True), 0, 0
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    for path in files:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view,
        ):
            count = -(-len(view) // mmap.PAGESIZE)
            seen = (ctypes.c_ubyte * count)()
            if libc.mincore(ctypes.addressof(ctypes.c_char.from_buffer(view)), len(view), seen):
                raise OSError(ctypes.get_errno(), "mincore failed")
            pages, held = pages + count, held + int((np.frombuffer(seen, np.uint8) & 1).sum())
    return held / pages


# ---- the table -------------------------------------------------------------------------------------------------------


def measure(bench: Bench, rounds: int) -> tuple[dict[tuple[str, str], list[float]], float]:
    """Seconds by state and way, and the largest share of pages that stayed where they had been dropped."""
    ways: dict[str, Callable[[str], float]] = {READ: bench.read, EMO: bench.train}
    times: dict[tuple[str, str], list[float]] = {(state, way): [] for state in ("cold", "warm") for way in ways}
    stayed = 0.0
    bench.train("warm")  # modules compiled
    bench.parts["warm"].clear()
    for i in range(rounds):
        for way, run in ways.items():
            stayed = max(stayed, bench.cool())
            times["cold", way].append(run("cold"))
        bench.read("warm")
        for way, run in ways.items():
            times["warm", way].append(run("warm"))
        said = ", ".join(f"{state} {times[state, EMO][-1] / times[state, READ][-1]:.2f}" for state in ("cold", "warm"))
        print(f"round {i + 1}: {said} times the reading", flush=True)
    return times, stayed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", choices=MODELS, help="of the language model; default: llama2 on a GPU, else small")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"], help="as the recipe's key")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder",
        type=Path,
        help="where weights are written, on a disk and not in memory; default: for temporary files",
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    cuda = resolve_device(given.device).startswith("cuda")
    given.size = given.size or ("llama2" if cuda else "small")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        bench = Bench(given, Path(name))
        times, stayed = measure(bench, given.rounds)
    record(
        TITLE + ("" if cuda and given.size == "llama2" else f" (size {given.size}, {'GPU' if cuda else 'CPU'})"),
        typed(),
        *told(bench, times, stayed),
        given.page,
    )


def told(
    bench: Bench, times: dict[tuple[str, str], list[float]], stayed: float
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Table and sentences; printed too."""
    rows = [("what", "cold", "range", "warm", "range")]
    ratio: dict[str, float] = {}

    def cells(values: dict[str, list[float]]) -> tuple[str, ...]:
        return tuple(
            cell
            for each in values.values()
            for cell in (f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}")
        )

    rows.append((READ, *cells({state: [1.0] for state in bench.parts})))
    whole = {s: [a / b for a, b in zip(times[s, EMO], times[s, READ], strict=True)] for s in bench.parts}
    ratio = {state: statistics.median(each) for state, each in whole.items()}
    rows.append((EMO, *cells(whole)))
    for i, stage in enumerate(STAGES):
        part = {s: [p[i] / b for p, b in zip(bench.parts[s], times[s, READ], strict=True)] for s in bench.parts}
        rows.append((f"— {stage}", *cells(part)))
    slow = max(range(len(STAGES)), key=lambda i: statistics.median(part[i] for part in bench.parts["warm"]))
    words = [
        f"Times relative to reading the {bench.bytes / GIB:.2f} GiB of weight files once, by one thread into memory "
        "that is used again. "
        f"Whole processes in turn, {bench.given.rounds} rounds; to the moment at which the first step begins with its "
        "batch. Warm: the files have just been read. Cold: their pages were dropped (posix_fadvise), of which at most "
        f"{stayed:.0%} stayed (mincore); the program's own files stay in the cache, and a disk may have a cache of its "
        "own.",
        f"Language model of size {bench.given.size}, random weights in float16, LoRA of rank {bench.rank}, number "
        f"format `{bench.given.dtype}`"
        + (
            "."
            if bench.given.dtype != "auto" or torch.cuda.is_available()
            else ": float32 on a CPU, so that every weight is converted and takes twice the memory."
        ),
        f"Goal {GOAL}x at LLaMA-2's size: "
        + (
            ("met" if ratio["cold"] <= GOAL else "missed") + f" ({ratio['cold']:.2f}x cold, {ratio['warm']:.2f}x warm)."
            if bench.given.size == "llama2"
            else f"not measured; {ratio['cold']:.2f}x cold and {ratio['warm']:.2f}x warm at this size."
        ),
        f"What limits it now: {STAGES[slow]}, where the files are in the page cache.",
    ]
    for row in rows:
        print("  ".join(row))
    print(*words, sep="\n")
    return rows, words


if __name__ == "__main__":
    main()
