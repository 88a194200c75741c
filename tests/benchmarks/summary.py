"""The head of docs/benchmarks.md: one line per goal, made of the numbers that the sections hold.

python tests/benchmarks/summary.py

`record.record` does it whenever a section is written. A goal whose section is not there is "not measured".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
UNKNOWN = "not measured"
TABLE = "| goal | asked | found |\n| --- | --- | --- |\n"
INTRO = """# Benchmarks

Every section is written by the script that it names, which replaces it when it is run again (the `bench-` targets of
the Makefile), and this table is made of the sections by `tests/benchmarks/summary.py`. Speed is given as a ratio of two
ways measured side by side in one run; absolute times count only from a GPU. What is not in a section has not been
measured. Peers' ways of working are written anew from their published code, except where a section ran their own.

"""


class Goal(NamedTuple):
    """A line of the table.

    Attributes:
        name: As `P1`; empty where the line above has the same.
        asked: What was asked for.
        found: `(section, pattern, words)`: the first match of the pattern in the section fills the words. A section
            that is not there, or a pattern that is not in it, is not measured.
    """

    name: str
    asked: str
    found: tuple[tuple[str, str, str], ...]


P1, P2, P3, P4 = "P1 The pass on a GPU", "P2 The pass on a CPU", "P3 LoRA step", "P4 Answers about 834 clips"
P5, P6 = "P5 Heads: 50 settings x 5 folds x 100 epochs", "P6 Reading random batches from the store"
P7, BLAZE = "P7 Memory of the LoRA step", "P2 The pass on a CPU, faces by blazeface"
SAVES = "P1 What decoding on a GPU could save"
HALF, FLAT = "P1 What half precision costs (on a CPU)", "P7 Host memory of a long pass"
START, GROW = "P8 Start-up", "P8, P9 Stores of many clips"
P10, P11 = "P10 A bench: 12 heads x 3 feature sets x 50 settings x 5 folds", "P11 Annotating many clips"
P12, RAY = "P12 The page under load", "A Ray cluster of 1 to 8 workers"
MERBENCH, BEGIN = "P5 Heads: MERBench's own script", "P3 Start of training"
BEGIN_CPU = f"{BEGIN} (size small, CPU)"
WHERE3, WHERE4 = "P3 Where the time of a step goes", "P4 Where the time of answers goes"
DECODES, ONCE = r"every program decoding for itself \| ([\d.]+)", r"faces cut out once \| ([\d.]+)"
EPOCHS = r"\| emo, all together \| ([\d.]+)"
FITS = r"\| {} \| ([^|]+?) \| (?:[^|]+\| ){{{}}}yes \|"

GOALS = (
    Goal("P1", "the pass on one H200: 10x the peers' clips/s", (
        (P1, DECODES, r"\1x as every program decodes for itself"), (P1, ONCE, r"\1x where faces are cut out once"))),
    Goal("", "the GPU busy 85 % of the time", ((P1, r"85 % of the wall time: (\w+) \((\d+ ?%)", r"\1: \2"),)),
    Goal("", "half precision between the blocks, or compiled blocks, of the ViTs", ()),
    Goal("", "pictures decoded by the GPU, as an option", (
        (SAVES, r"would be ([\d.]+) times as fast at most", r"not offered: \1x at most, where workers limit it"),)),
    Goal("", "`tests/extract/test_gpu.py` passes on a GPU", ()),
    Goal("", "what half precision costs", (
        (HALF, r"(?s)\A(?=.*\| float16 \|)", "least cosine of a row in float16 {float16}"),
        (HALF, r"(?s)\A(?=.*\| bfloat16 \|)", "in bfloat16 {bfloat16} (true sizes, random weights, on a CPU)"))),
    Goal("P2", "the same on 2 CPU cores, tiny encoders: 3x", (
        (P2, DECODES, r"\1x"), (P2, ONCE, r"\1x where faces are cut out once"))),
    Goal("", "the same with faces by BlazeFace: 10x; 5x where faces are cut out once", (
        (BLAZE, DECODES, r"\1x"), (BLAZE, ONCE, r"\1x where faces are cut out once"),
        (BLAZE, r"emo with centerface takes ([\d.]+) times as", r"CenterFace takes \1 times the processor time"))),
    Goal("", "every clip decoded once", ((P2, r"Files opened per clip: ([\d.]+)\.", r"opened \1 times per clip"),)),
    Goal("P3", "LoRA step on one H200: 10x samples/s", ((P3, r"Goal 10x samples/s: (\w+) \(([\d.]+x)", r"\1: \2"),)),
    Goal("", "14,000 real tokens/s", ((P3, r"14,000 real tokens/s: (\w+) \(([\d,]+)\)", r"\1: \2"),)),
    Goal("", "50 % MFU", (
        (P3, r"50 % MFU of the data sheet: (\w+) \((\d+ %)\)", r"\1: \2 of the data sheet"),
        (P3, r"at their measured peak would take (\d+ %)", r"\1 of the measured peak"))),
    Goal("", "where its time goes, kernel by kernel, and what each lever brings", (
        (WHERE3, r"By kind: ([^;]+?%)\.", r"\1"),)),
    Goal("", "to the first step, LLaMA-2's size: 1.3x of reading the weights once", (
        (BEGIN, r"LLaMA-2's size: (\w+) \(([\d.]+x cold, [\d.]+x warm)", r"\1: \2"),
        (BEGIN_CPU, r"size: not measured; ([\d.]+x cold and [\d.]+x warm)", r"not measured; \1, small, on a CPU"))),
    Goal("P4", "834 answers on one H200: 25x", ((P4, r"Goal 25x, greedy: (\w+) \(([\d.]+x)\)", r"\1: \2"),)),
    Goal("", "in 15 s", ((P4, r"clips in 15 s: (\w+) \(([\d.]+ s)\)", r"\1: \2"),)),
    Goal("", "where its time goes, kernel by kernel", ((WHERE4, r"By kind: ([^;]+?%)\.", r"\1"),)),
    Goal("P5", "50 settings x 5 folds x 100 epochs: 20x, 100x on an H200", ((P5, EPOCHS, r"\1x"),)),
    Goal("", "6x on 2 CPU cores", (
        (f"{P5} (on a CPU)", EPOCHS, r"\1x"),
        (f"{P5} (on a CPU)", r"would be ([\d.]+) times as fast", r"a run without anything else would have \1x"))),
    Goal("", "one head and its folds against MERBench's own script, on a CPU", (
        (MERBENCH, r"publish it, takes ([\d.]+) times", r"\1x"),
        (MERBENCH, r"\| does not run here \|", "it does not run here"))),
    Goal("P6", "batches from the store: 0.8 of a raw memmap", (
        (P6, r"0\.8 of np\.memmap: (\w+) \(([\d.]+) and ([\d.]+)\)", r"\1: \2 (vectors) and \3 (EVA)"),)),
    Goal("", "0.8 of a copy (vectors), 0.95 (EVA)", (
        (P6, r"utterances \w+ \(([\d.]+) of its speed\), EVA \w+ \(([\d.]+)\)", r"\1 and \2"),
        (P6, r"as training has them \w+ \(([\d.]+)\)", r"vectors as training has them \1"))),
    Goal("P7", "extraction within 6 GiB, flat", (
        (FLAT, r"at most ([\d.]+ GiB)", r"\1 with tiny networks"), (FLAT, r"last: (\w+ \([\d.]+\))", r"flat: \1"))),
    Goal("", "the same at true sizes", ()),
    Goal("", "training step in 24 GB; in 16 GB", (
        (P7, FITS.format("bf16", 4), r"reached: bf16, \1"), (P7, FITS.format("bf16", 5), r"reached: bf16, \1"))),
    Goal("", "the same in 4 bits", (
        (P7, FITS.format("nf4", 4), r"reached: \1"), (P7, FITS.format("nf4", 5), r"reached: \1"))),
    Goal("", "4 bits against bf16: speed, memory, and the loss on the tiny goldens", ()),
    Goal("P8", "`emo --help` in 0.2 s", ((START, r"\| emo --help .*\| ([\d.]+ s), goal [\d.]+ s: (\w+)", r"\2: \1"),)),
    Goal("", "100,000 clips: what is left in 2 s", (
        (GROW, r"100,000 clips in ([\d.]+ s) \(goal 2 s: (\w+)", r"\2: \1"),)),
    Goal("", "1,000,000 clips: in 10 s", ((GROW, r"1,000,000 clips in ([\d.]+ s) \(goal 10 s: (\w+)", r"\2: \1"),)),
    Goal("", "`emo store info` on 100,000 clips in 0.5 s", (
        (START, r"\| emo store info, .*\| ([\d.]+ s), goal [\d.]+ s: (\w+)", r"\2: \1"),)),
    Goal("P9", "cost per clip at 100,000 clips within 10 % of that at 1,000; at 1,000,000", (
        (GROW, r"\| write \| [\d.]+ \| ([\d.]+) \| ([\d.]+)", r"write \1 and \2"),
        (GROW, r"\| load every vector \| [\d.]+ \| ([\d.]+) \| ([\d.]+)", r"load \1 and \2"))),
    Goal("P10", "12 heads x 3 feature sets x 50 settings x 5 folds against one by one", (
        (f"{P10} (on a CPU)", r"\| all \|  \| ([\d.]+)", r"\1x on one CPU core, extrapolated"),
        (f"{P10} (on a CPU)", r"\| heads of single rows \|  \| ([\d.]+)", r"\1x for the heads that are stacked"),
        (P10, r"\| all \|  \| ([\d.]+)", r"\1x on a GPU"))),
    Goal("P11", "cost per clip of annotating 10,000 clips within 10 % of 1,000; 0.9 of an endpoint's ideal", (
        (P11, r"per clip at 10,000 clips: ([\d.]+) of", r"cost \1"),
        (P11, r"64 at once, .*: caption, verdict \|.*\| ([\d.]+) \| \d+ \|", r"\1 of the ideal with 64 at once"),
        (P11, r"which is ([\d.]+) of what threads reach", r"\1 of what a bare client's threads reach"),
        (P11, r"64 at once, .*: frame, sound, caption \|.*\| ([\d.]+) \| \d+ \|", r"\1 where clips must be decoded"),
        (P11, r" 8 at once, .*: frame, sound, caption \|.*\| ([\d.]+) \| \d+ \|", r"\1 of theirs with 8"))),
    Goal("P12", "the page over 100,000 clips, 50 users: 95th percentile below 300 ms", (
        (P12, r"\| all \| [\d,]+ \| \d+ ms \| (\d+ ms)", r"\1"),
        (P12, r"\| clips \| [\d,]+ \| \d+ ms \| (\d+ ms)", r"lists \1"))),
    Goal("", "first paint below 1 s", ((P12, r"First paint of the list in headless Chromium: (\d+ ms)", r"\1"),)),
    Goal("P13", "8 workers of a Ray cluster", ((RAY, r"\| 8 \| [\d,]+ \| [\d.]+ \| (\d+%)", r"efficiency \1"),)),
)  # fmt: skip


def summarised(text: str) -> str:
    """The document with its head made anew; as it is where it has no such table."""
    if TABLE not in text:
        return text
    body = text[text.find("\n## ") + 1 :] if "\n## " in text else ""
    sections = {part.partition("\n")[0]: part for part in re.split(r"^## ", body, flags=re.MULTILINE)[1:]}
    lines = [f"| {goal.name} | {goal.asked} | {_found(goal, sections)} |" for goal in GOALS]
    return INTRO + TABLE + "\n".join(lines).replace("|  |", "| |") + "\n\n" + body


def _found(goal: Goal, sections: dict[str, str]) -> str:
    said = []
    for title, pattern, words in goal.found:
        section = sections.get(title, "")
        if match := re.search(pattern, section):
            said.append(match.expand(words).format_map(_least(section)))
    return "; ".join(said) or UNKNOWN


def _least(section: str) -> dict[str, str]:
    """The least cosine of each number format in the section on half precision."""
    rows = re.findall(r"\| (\w+16) \| ([\d.]+) \|", section)
    return {name: min(value for each, value in rows if each == name) for name, _ in rows}


if __name__ == "__main__":
    PAGE.write_text(summarised(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
