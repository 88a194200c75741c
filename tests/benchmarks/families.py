"""LoRA steps of AffectGPT and VideoLLaMA2 from cached features, against their own way, with encoders in every step.

    python tests/benchmarks/families.py      # Qwen's sizes on a GPU, else toys; under ten minutes on one GPU

Weights and media are random. The ways take turns; a row that needs a GPU says so where there is none.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emotion_llama import official_loss
from record import PAGE, alternate, ratios, record, typed
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from emo.extract.encoders.base import Encoder, Prepared
from emo.extract.encoders.registry import load_encoder
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.train.device import resolve_device
from emo.train.llm.build import build
from emo.train.llm.features import Features
from emo.train.llm.model import Batch, LoraArgs, TunedModel
from emo.train.llm.optim import adamw
from emo.train.llm.predict import make_prompt
from emo.train.llm.setup import flops_per_token, peak_flops
from emo.train.llm.tokenizer import Tokenizer
from emo.train.recipe import family_named, load_recipe

GIB = 2**30
NOT_HERE = "not measured: no GPU"
QWEN = {  # config.json of Qwen2-7B-Instruct and Qwen2.5-7B-Instruct, but for the names of their tokens
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
}
# recipe -> samples of a step, changes of the recipe
RECIPES: dict[str, tuple[int, tuple[str, ...]]] = {
    "affectgpt": (8, ()),
    "videollama2-mer2024": (2, ("init_from=null", "recompute=true")),
    "videollama2-24gb": (2, ("init_from=null", "quantise=null")),
}


@dataclass
class Bench:
    """One family's model, encoders and stored clips."""

    name: str
    model: TunedModel
    encoders: list[Encoder]
    features: Features
    items: dict[str, list[Prepared]]
    recipe: Any
    size: int
    memory: dict[str, int]

    def batch(self, names: list[str], features: list[Tensor]) -> Batch:
        family = family_named(self.recipe.family)
        text = self.recipe.prompts["emotion"][0]
        prompt = make_prompt(self.model, self.recipe, "emotion", text, "I see.", self.recipe.layout)
        answer = family.answer_ids(self.recipe, family.clean_answer("happy", "emotion"), self.model.tokenizer)
        return self.model.collate([prompt] * len(names), [answer] * len(names), features)

    def names(self) -> list[str]:
        return list(self.features.names)[: self.size]

    def cached(self) -> Batch:
        """Features of the store."""
        read = [torch.from_numpy(each) for each in self.features.batch(self.names())]
        return self.batch(self.names(), read)

    def encoded(self) -> Batch:
        """Features of the encoders, on the device that trains, sample by sample."""
        rows: list[list[Tensor]] = [[] for _ in self.encoders]
        for name in self.names():
            for i, encoder in enumerate(self.encoders):
                level = encoder.levels[-1]
                rows[i].append(torch.from_numpy(encoder.encode([self.items[name][i]], [level])[0][level].array))
        return self.batch(self.names(), [torch.stack(each) for each in rows])

    def step(self, way: str) -> None:
        """One optimizer step; the reference's loss has a dense mask and logits at every row."""
        device = self.model.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        batch = (self.cached() if way == CACHED else self.encoded()).to(device)
        if way == CACHED:
            total, count = self.model.loss(batch)
            loss = total / count
        else:
            loss = official_loss(self.model, batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.tokens = batch.real_tokens
        if device.type == "cuda":
            torch.cuda.synchronize()
            self.memory[way] = max(self.memory.get(way, 0), torch.cuda.max_memory_allocated())

    def start(self) -> None:
        self.model.train()
        self.model.recompute(self.recipe.recompute)
        self.optimizer = adamw(self.model.trainable(), self.recipe.lr, self.recipe.weight_decay)


CACHED, ENCODED = "emo: cached features", "every sample through its encoders, mask, logits at every row"


def language_model(device: str) -> Callable[[Any], TunedModel]:
    """Make a family's model on Qwen's sizes with random weights; on a CPU on the tiny one."""

    def make(assemble: Callable[[PreTrainedModel, Tokenizer, str], TunedModel]) -> TunedModel:
        if not device.startswith("cuda"):
            return build(assemble, None, profile="tiny")
        with torch.device(device):
            config = Qwen2Config(**QWEN, tie_word_embeddings=False)
            llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        return assemble(llm.eval(), Tokenizer.bytes(), "random")

    return make


def fill(store: Path, encoders: list[Encoder], clips: int) -> tuple[Store, dict[str, list[Prepared]]]:
    """Clips of random media in a store, and what the encoders would be given of each."""
    items: dict[str, list[Prepared]] = {}
    rng = np.random.default_rng(0)
    with open_store(store, create=True).writer() as writer:
        for i in range(clips):
            items[f"c{i}"] = [each.prepare(each.sample(24, seed=i)) for each in encoders]
            writer.clip(f"c{i}", f"{i:032x}")
            for each in encoders:
                spec = each.spec(each.levels[-1])
                writer.add(spec, f"{i:032x}", rng.normal(size=(spec.rows or 1, spec.dim)).astype(np.float32))
    return open_store(store), items


def make_bench(name: str, device: str, folder: Path, clips: int) -> Bench:
    size, changes = RECIPES[name]
    recipe = load_recipe(name, list(changes))
    recipe = recipe.model_copy(update={"batch_size": size})
    cuda = device.startswith("cuda")
    profile, dtype = ("random", "float16") if cuda else ("tiny", "float32")
    encoders = [load_encoder(each, profile, device=device, dtype=dtype) for each in recipe.feature_names()]
    store, items = fill(folder / f"{name}.emo", encoders, max(clips, size))
    family = family_named(recipe.family)
    features = Features(store, family.wanted(recipe), list(items), "error")
    lora = LoraArgs(recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.targets)
    model = language_model(device)(
        lambda llm, tokenizer, source: family.assemble(recipe, llm, tokenizer, features.specs, lora, source, 0)
    )
    made = Bench(name, model, encoders, features, items, recipe, size, {})
    made.start()
    return made


def rows_of(name: str, device: str, folder: Path, clips: int, rounds: int) -> list[tuple[str, ...]]:
    """Rows of one recipe: what is absolute only of a GPU."""
    bench = make_bench(name, device, folder, clips)
    times = alternate({way: lambda way=way: bench.step(way) for way in (ENCODED, CACHED)}, rounds)
    peak, found = peak_flops(device), []
    for way in (ENCODED, CACHED):
        ratio, least, most = ratios(times, ENCODED, way)
        cells = [NOT_HERE] * 3
        if device.startswith("cuda"):
            speed = bench.tokens / statistics.median(times[way])
            mfu = f"{100 * speed * flops_per_token(bench.model) / peak:.0f} %" if peak else "-"
            cells = [f"{speed:,.0f}", mfu, f"{bench.memory[way] / GIB:.1f}"]
        found.append((f"{name}, batch {bench.size}", way, f"{ratio:.2f}", f"{least:.2f} to {most:.2f}", *cells))
    return found


def reads(folder: Path, clips: int, rounds: int) -> list[tuple[str, ...]]:
    """Batches of four from the store against files of their own that numpy maps, at true sizes."""
    shapes = {"before the connector": (16 * 729, 1152), "connected": (1352, 3584), "sound": (1496, 768)}
    table, rng = [], np.random.default_rng(0)
    for what, (rows, dim) in shapes.items():
        spec = EncoderSpec(what.replace(" ", "-"), "any", "frame", "tokens", dim, rows, "random", "seed:0")
        with open_store(folder / "reads.emo", create=True).writer() as writer:
            for i in range(clips):
                array = rng.standard_normal((rows, dim), np.float32)
                writer.clip(f"c{i}", f"{i:032x}")
                writer.add(spec, f"{i:032x}", array)
                np.save(folder / f"{spec.name}-{i}.npy", array.astype(np.float16))
        store, out = open_store(folder / "reads.emo"), np.zeros((4, rows, dim), np.float16)

        def ours(store: Store = store, spec: EncoderSpec = spec, out: np.ndarray = out) -> None:
            for i in range(0, clips, 4):
                store.read_into(spec.key, [f"c{j}" for j in range(i, i + 4)], out)

        def theirs(spec: EncoderSpec = spec, out: np.ndarray = out) -> None:
            for i in range(0, clips, 4):
                for j in range(4):
                    out[j] = np.load(folder / f"{spec.name}-{i + j}.npy")

        times = alternate({"npy": theirs, "store": ours}, rounds)
        ratio, least, most = ratios(times, "npy", "store")
        size = 2 * rows * dim / 1e6
        cells = (f"{size:.1f} MB", f"{size:.1f} GB", f"{ratio:.2f}", f"{least:.2f} to {most:.2f}")
        table.append((what, f"({rows}, {dim})", *cells))
        for path in folder.glob("*.npy"):
            path.unlink()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=8, help="in the store; a multiple of four")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    device, start = resolve_device(given.device), time.monotonic()
    header = ("recipe", "way", "samples/s, ratio", "range", "real tokens/s", "MFU of data sheet", "peak memory, GiB")
    table, toys = [header], "" if device.startswith("cuda") else " (tiny sizes on a CPU: overhead only)"
    with tempfile.TemporaryDirectory() as folder:
        for name in given.recipes.split(","):
            table += rows_of(name, device, Path(folder), given.clips, given.rounds)
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
        read = reads(Path(folder), given.clips, given.rounds)
    words = [
        f"{given.rounds} rounds after one that is not counted, the ways in turn; medians of each round's ratio. "
        "Weights and media are random. The slower way runs the frozen encoders on every sample of every step, as the "
        "references do, and has a dense mask and logits at every row; media are decoded already in both.",
        f"The whole script took {time.monotonic() - start:.0f} s.",
    ]
    record(f"P14 LoRA step of AffectGPT and VideoLLaMA2{toys}", typed(), table, words, given.page)
    header = ("feature of VideoLLaMA2", "shape", "a clip", "1,000 clips", "batches/s against .npy files", "range")
    words = [
        "Batches of four clips in half precision at true sizes, into memory that is there; files in the page cache."
    ]
    record("P14 Reading the tokens of VideoLLaMA2", typed(), [header, *read], words, given.page)


if __name__ == "__main__":
    main()
