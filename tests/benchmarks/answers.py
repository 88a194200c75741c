"""Answers about MER2023's 834 test3 clips: the official evaluation's way of working against emo's.

    python tests/benchmarks/answers.py            # P4; LLaMA-2-7B's sizes on a GPU, else toys
    python tests/benchmarks/answers.py --profile  # where the time of greedy answers goes, and what each lever brings

A model of random weights never ends an answer by itself. Both ways are therefore made to end each answer where a real
one ends: those of the published run have 2 to 7 ids. The official way is measured on some clips, emo's on all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from emotion_llama import (
    GIB,
    SHORT_PROMPTS,
    OfficialEva,
    OfficialItems,
    Sizes,
    lengths,
    make_clips,
    make_store,
    measured_peak,
    reached,
    roomy,
    talks,
    to_official,
    wait,
)
from profiled import Lever, at_most, lever_table, profiled
from record import PAGE, alternate, ratios, record, typed
from transformers import DynamicCache, PreTrainedConfig

import emo.train.llm.model as modelling
import emo.train.llm.predict as predicting
from emo.train.device import resolve_device
from emo.train.llm.data import Example
from emo.train.llm.emotion_llama.model import EmotionLlama
from emo.train.llm.features import Features
from emo.train.llm.predict import make_prompt, predict, resolve_dtype, start_model
from emo.train.llm.setup import flops_per_token
from emo.train.recipe import family_named, load_recipe

OFFICIAL, GREEDY, LIKELIHOOD = "official evaluation", "emo, greedy", "emo, likelihood of the six words"
OFFICIAL_REASON, GREEDY_REASON = "official, captions", "emo, greedy, captions"
BATCHES = 4  # that each lever is tried on
READ = "features read while the batch before is answered"
SORTED = "prompts of like length together"
LEAVE = "rows that have ended leave the batch"
WORDS = "the prompt is read once for the words of the likelihood"
ROOM, TOLD = "keys and values keep their place, with room for ids to come", "captions"
COMMON = "what all prompts begin with is read once"


@dataclass
class Seen:
    """Seconds per clip of each visit, and the peak of GPU memory."""

    seconds: list[float] = field(default_factory=list)
    memory_bytes: int = 0


class Bench:
    """The model, the clips that it is asked about, and the ways to ask."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.device, self.given = resolve_device(given.device), given
        self.sizes = Sizes.of(self.device)
        recipe = load_recipe("emotion-llama-stage2", [f"llm={self.sizes.llm}", *SHORT_PROMPTS])
        decode = recipe.decode.model_copy(update={"batch_size": given.batch_size})
        self.recipe = recipe.model_copy(update={"dtype": resolve_dtype(recipe.dtype, self.device), "decode": decode})
        said = talks("emotion", given.clips, given.data)
        self.clips = [Example(talk.name, talk.transcript) for talk in said]
        names = [talk.name for talk in said]
        store = make_store(folder / "features.emo", names, self.sizes)
        self.features = Features(store, family_named(self.recipe.family).wanted(self.recipe), names, "error")
        self.model: EmotionLlama = start_model(self.sizes.llm, self.features, self.recipe, self.device).eval()
        self.eva = OfficialEva(self.sizes, self.device)
        self.items = OfficialItems(make_clips(folder, given.videos, self.device), folder, self.sizes, len(names))
        self.ends = {
            "emotion": [answer for _, answer in lengths("emotion", given.clips, given.data)],
            "reason_v2": [answer for _, answer in lengths("reason_v2", given.clips, given.data)],
        }

    def prompt_rows(self) -> int:
        """Rows of all prompts together."""
        recipe, model = self.recipe, self.model
        text = recipe.prompts["emotion"][0]
        asked = (make_prompt(model, recipe, "emotion", text, clip.transcript, recipe.layout) for clip in self.clips)
        return sum(model.length(prompt) for prompt in asked)

    def common_rows(self) -> int:
        """Rows that all prompts begin with, whatever the clip."""
        recipe, model = self.recipe, self.model
        texts = (recipe.prompts["emotion"][0], self.clips[0].transcript)
        first = make_prompt(model, recipe, "emotion", *texts, recipe.layout).segments[0]
        return 0 if isinstance(first, str) else len(first)

    def official(self, task: str, count: int) -> int:
        """Clip by clip: decode, EVA, prompt, `generate` of transformers (eval_emotion.py, minigpt_base.py:426-503)."""
        model, recipe = self.model, self.recipe
        to_official(model, True, "eager")
        text, ends = recipe.prompts[task][0], sorted(self.ends[task])
        for i in range(count):
            end = ends[(2 * i + 1) * len(ends) // (2 * count)]  # short and long ones in the same parts as among all
            pixels, vectors = self.items[i]
            tokens = self.eva(pixels[None].to(self.device))
            prompt = make_prompt(model, recipe, task, text, self.clips[i].transcript, recipe.layout)
            batch = model.collate([prompt], None, [tokens, *vectors[None].unbind(1)], None, left=True)
            batch = batch.to(self.device)
            with torch.no_grad(), model.autocast():
                model.llm.generate(
                    inputs_embeds=model.embed(batch),
                    attention_mask=batch.mask.long(),
                    max_new_tokens=end,  # the official budget is 500, which ends none of these answers
                    do_sample=False,
                    pad_token_id=model.tokenizer.pad,
                ).tolist()
        return count

    def emo(self, policy: str, task: str, count: int, stay: bool = False) -> int:
        """As `emo predict` and `emo score` answer."""
        to_official(self.model, False, "sdpa")
        with ended(self.model, self.ends[task], stay):
            predict(self.model, self.features, self.clips[:count], self.recipe, policy, task)
        return count


@contextlib.contextmanager
def ended(model: EmotionLlama, ends: Sequence[int], stay: bool = False) -> Iterator[None]:
    """Let answers end after so many ids, in the order in which they are begun, whatever the model says.

    With `stay` all of a batch end with its longest, which costs what it would if none left the batch.
    """
    real, coming, eos = model.generate, iter(ends), model.tokenizer.eos

    def generate(prompts: Sequence, *inputs: object) -> list[list[int]]:
        left = [next(coming) for _ in prompts]
        left = [max(left)] * len(left) if stay else left

        def agree(ids: torch.Tensor) -> torch.Tensor:
            nonlocal left
            over = torch.tensor([count == 1 for count in left], device=ids.device)
            left = [count - 1 for count in left if count > 1]
            return torch.where(over, eos, torch.where(ids == eos, eos + 1, ids))

        model.agree = agree
        return real(prompts, *inputs)

    model.generate = generate
    try:
        yield
    finally:
        vars(model).pop("generate")
        vars(model).pop("agree", None)


def make_ways(bench: Bench) -> dict[str, tuple[Callable[[int], int], int]]:
    """What to run, by name, and about how many clips."""
    given = bench.given
    return {
        OFFICIAL: (lambda count: bench.official("emotion", count), given.sample),
        GREEDY: (lambda count: bench.emo("official", "emotion", count), given.clips),
        LIKELIHOOD: (lambda count: bench.emo("likelihood", "emotion", count), given.clips),
        OFFICIAL_REASON: (lambda count: bench.official("reason_v2", count), given.captions_sample),
        GREEDY_REASON: (lambda count: bench.emo("official", "reason_v2", count), given.captions),
    }


def make_table(ways: dict[str, tuple[Callable[[int], int], int]], seen: dict[str, Seen], bench: Bench) -> list:
    table = [("way", "clips/s, ratio", "range", "clips measured", "seconds for all", "peak memory, GiB")]
    for way, (_, count) in ways.items():
        now, base = seen[way], OFFICIAL_REASON if way in (OFFICIAL_REASON, GREEDY_REASON) else OFFICIAL
        if not now.seconds:
            table.append((way, "not yet", "-", f"{count:,}", "-", "-"))
            continue
        visits = min(len(now.seconds), len(seen[base].seconds))
        ratio, least, most = ratios({name: seen[name].seconds[:visits] for name in (way, base)}, base, way)
        cells = ["-", "-"]
        if bench.device.startswith("cuda"):
            cells = [f"{statistics.median(now.seconds) * bench.given.clips:.1f}", f"{now.memory_bytes / GIB:.1f}"]
        table.append((way, f"{ratio:.1f}", f"{least:.1f} to {most:.1f}", f"{count:,}", *cells))
    return table


def make_words(seen: dict[str, Seen], bench: Bench, peak: float | None) -> list[str]:
    given = bench.given
    mean = statistics.mean(bench.ends["emotion"])
    words = [
        f"{given.clips} clips, prompts of {bench.prompt_rows() / given.clips:.0f} rows in the mean. Greedy answers end "
        f"where those of the published run end (mean {mean:.1f} ids, `</s>` included), captions where those of MERR "
        f"fine end (mean {statistics.mean(bench.ends['reason_v2']):.0f}): a random model ends none by itself, and the "
        "official budget of 500 ids only matters to answers without an end. The official way is measured on the clips "
        f"that the table says and reckoned up; emo's features come from the store, {given.batch_size} prompts at "
        "once, sorted by length. Ratios of captions are to the official way of captions. Ways in turn, "
        f"{len(seen[OFFICIAL].seconds)} rounds, after one of two clips or one batch that is not counted.",
        "The official evaluation, written anew: one clip at a time, its first frame decoded and resized, EVA ViT-g in "
        "fp16 with plain attention, LLaMA in fp16 under autocast with eager attention, `generate` of transformers.",
        "That answers do not depend on the batch is shown by tests/train/llm/emotion_llama/test_model.py: the ids "
        "of ragged prompts answered together are those of each one alone, and likelihoods with the shared prompt are "
        "within 1e-4 of one whole pass for each word.",
    ]
    if peak is None:
        return [*words, "Toy sizes on a CPU: overhead, and that every row runs; it says nothing of the goals."]
    if not seen[GREEDY].seconds:
        return words
    seconds = statistics.median(seen[GREEDY].seconds) * given.clips
    gain = statistics.median(seen[OFFICIAL].seconds) * given.clips / seconds
    reading = bench.prompt_rows() * flops_per_token(bench.model) / 2 / peak
    return [
        *words,
        f"Goal 25x, greedy: {reached(gain >= 25)} ({gain:.1f}x). Stretch {given.clips} clips in 15 s: "
        f"{reached(seconds <= 15)} ({seconds:.1f} s).",
        f"What limits it now: reading the prompts. At the measured peak of {peak / 1e12:.0f} TFLOP/s their matrix "
        f"products alone would take {reading:.1f} s, {100 * reading / seconds:.0f} % of the time; no way of batching "
        "goes below that.",
    ]


# ---- where the time goes ---------------------------------------------------------------------------------------------


def gains(bench: Bench, count: int, captions: int) -> dict[str, str]:
    """How many times as fast answers are with each lever as without it, the two in turn."""
    model, given = bench.model, bench.given
    label = partial(bench.emo, "official", "emotion", count)
    words = partial(bench.emo, "likelihood", "emotion", count)
    told = partial(bench.emo, "official", "reason_v2", captions)

    def one_by_one(prompts: Sequence, features: Sequence, answers: Sequence, real: Callable) -> torch.Tensor:
        return torch.cat([real(prompts, features, [each]) for each in answers], 1)

    def plain(config: PreTrainedConfig) -> DynamicCache:
        return DynamicCache(config=config)

    asked = partial(one_by_one, real=model.label_logprobs)
    without = {
        READ: (label, partial(changed, predicting, "ahead", when_asked, label)),
        SORTED: (label, partial(changed, model, "length", lambda _: 0, label)),
        LEAVE: (label, partial(label, stay=True)),
        WORDS: (words, partial(changed, model, "label_logprobs", asked, words)),
        ROOM: (label, partial(changed, modelling, "roomy_cache", plain, label)),
        TOLD: (told, partial(changed, modelling, "roomy_cache", plain, told)),
    }
    found = {}
    for lever, (mine, other) in without.items():
        ratio = ratios(
            alternate({"with": waited(mine, bench), "without": waited(other, bench)}, given.rounds), "without", "with"
        )
        found[lever] = f"{ratio[0]:.2f}x ({ratio[1]:.2f} to {ratio[2]:.2f})"
    return found


def waited(run: Callable[[], object], bench: Bench) -> Callable[[], None]:
    """What is timed: to the end of the GPU's work."""

    def whole() -> None:
        run()
        wait(bench.device)

    return whole


def changed(place: object, name: str, value: object, run: Callable[[], object]) -> None:
    """Run with something else under a name."""
    with patch.object(place, name, value):
        run()


@contextlib.contextmanager
def when_asked(load: Callable[[int], object], start: int, stop: int) -> Iterator[Iterator[tuple[int, object]]]:
    """As `ahead`, but each batch is read when it is wanted."""
    yield ((number, load(number)) for number in range(start, stop))


def reading_share(bench: Bench, run: Callable[[], object]) -> float:
    """Share of the time of answers until their prompts are read, median of some rounds."""
    real, shares, read = bench.model._prefill, [], 0.0

    def prefill(*inputs: object) -> object:
        nonlocal read
        wait(bench.device)
        start = time.perf_counter()
        found = real(*inputs)
        wait(bench.device)
        read += time.perf_counter() - start
        return found

    run()  # warm
    for _ in range(bench.given.rounds):
        read, start = 0.0, time.perf_counter()
        changed(bench.model, "_prefill", prefill, run)
        wait(bench.device)
        shares.append(read / (time.perf_counter() - start))
    return statistics.median(shares)


def measure_profile(bench: Bench, where: str) -> None:
    """Look into one batch of greedy answers, try each lever, and write both sections; the one of P4 stays as it is."""
    given = bench.given
    count = min(given.batch_size, given.clips)
    captions = min(count, given.captions)
    label = partial(bench.emo, "official", "emotion", count)
    tell = partial(bench.emo, "official", "reason_v2", captions)
    reading, reading_told = reading_share(bench, label), reading_share(bench, tell)
    found = profiled(label, bench.device)
    toy = "" if bench.device.startswith("cuda") else " Toy sizes on a CPU: overhead only, and that the script runs."
    words = found.words(f"Greedy answers to {count} clips in one batch")
    record(f"P4 Where the time of answers goes{where}", typed(), found.table, [words[0] + toy], given.page)
    many = min(given.clips, BATCHES * given.batch_size)
    brings = gains(bench, many, captions)
    share = bench.common_rows() * given.clips / bench.prompt_rows()
    # What a graph takes away is the time between kernels, or operators, once the prompts are read.
    between = "the time, between " + ("operators" if found.busy is None else "kernels")
    idle = max(0.0, min(1 - reading, 1 - found.inside))
    idle_told = max(0.0, min(1 - reading_told, 1 - profiled(tell, bench.device).inside))
    levers = [
        Lever(READ, "yes: predict.py", brings[READ]),
        Lever(SORTED, "yes: predict.py", brings[SORTED]),
        Lever(LEAVE, "yes: model.py", brings[LEAVE]),
        Lever(WORDS, "yes: model.py", brings[WORDS]),
        Lever(ROOM, "yes: cache.py", f"{brings[ROOM]}; captions {brings[TOLD]}"),
        Lever(COMMON, "no: a clip's features come next", at_most(share * reading, "the time")),
        Lever("graph-captured decode", "no", f"{at_most(idle, between)}; captions {at_most(idle_told, between)}"),
    ]
    told = [
        f"Each lever against the same without it, in turn: median, least and most of {given.rounds} rounds; {many} "
        f"clips in batches of {given.batch_size}, {captions} of them for captions. `At most`: if what the lever is "
        f"about took no time at all. Reading the prompts is {reading:.0%} of the time of labels, {reading_told:.0%} of "
        "that of captions (medians)." + toy
    ]
    record(f"P4 Levers of answers{where}", typed(), lever_table(levers), told, given.page)
    for each in (*found.table, *words, *lever_table(levers), *told):
        print("  ".join(each) if isinstance(each, tuple) else each, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=834, help="clips to answer")
    parser.add_argument("--sample", type=int, default=24, help="clips that the official way is measured on")
    parser.add_argument("--captions", type=int, default=256, help="clips to describe in words, beside the labels")
    parser.add_argument("--captions-sample", type=int, default=3, help="of these the official way is measured on")
    parser.add_argument("--batch-size", type=int, help="prompts that emo answers together; default by the device")
    parser.add_argument("--rounds", type=int, default=3, help="visits to every way")
    parser.add_argument("--seconds", type=float, default=65, help="begin no visit after so long, but the first ones")
    parser.add_argument("--data", type=Path, help="folder with the real data (see emotion_llama.lengths)")
    parser.add_argument("--videos", type=Path, help="folder of .mp4 files to decode; default: drawn ones, 1280 x 720")
    parser.add_argument("--profile", action="store_true", help="say where the time goes instead, and which levers are")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    begun = time.perf_counter()
    cuda = resolve_device(given.device).startswith("cuda")
    if given.batch_size is None:  # what a prompt leaves in the cache is 0.17 GiB in LLaMA-2-7B
        given.batch_size = 256 if roomy(resolve_device(given.device)) else 128
    where = "" if cuda else " (tiny sizes on a CPU: overhead only)"
    title = f"P4 Answers about 834 clips{where}"
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(given, Path(name))
        if given.profile:
            measure_profile(bench, where)
            return
        peak = measured_peak(bench.device) if cuda else None
        ways = make_ways(bench)
        for way, (run, count) in ways.items():
            run(min(count, 2 if way in (OFFICIAL, OFFICIAL_REASON) else given.batch_size))
        print(f"ready after {time.perf_counter() - begun:.0f} s", flush=True)
        seen = {way: Seen() for way in ways}
        for i in range(given.rounds):
            for way, (run, count) in ways.items():
                if i and time.perf_counter() - begun > given.seconds:
                    continue
                if cuda:
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                run(count)
                wait(bench.device)
                seen[way].seconds.append((time.perf_counter() - start) / count)
                if cuda:
                    seen[way].memory_bytes = torch.cuda.max_memory_allocated()
                table, words = make_table(ways, seen, bench), make_words(seen, bench, peak)
                record(title, typed(), table, words, given.page)
                row = next(each for each in table if each[0] == way)
                print(f"{time.perf_counter() - begun:5.0f} s  {'  '.join(row)}", flush=True)
        print("\n".join(words), flush=True)


if __name__ == "__main__":
    main()
