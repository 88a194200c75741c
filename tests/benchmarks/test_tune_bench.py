"""The scripts that measure tuning and answers run end to end at toy sizes; nothing is asserted about speed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import profiled
import pytest
import torch
from profiled import ADAPTERS, ATTENTION, FORWARD, FROZEN, LOOKUP, NORMS, OPTIMIZER, OTHER, RESIDUAL, ROTARY, STEP

from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.model import Widths
from emo.train.llm.emotion_llama.prompt import build_prompt, instruction
from emo.train.llm.model import LoraArgs

HERE = Path(__file__).resolve().parent
ENDS = {"answers.py": ("P4 Answers about 834 clips", 5), "tune.py": ("P3 LoRA step", 5)}
SMALL = {
    "answers.py": ["--clips=6", "--sample=2", "--captions=4", "--captions-sample=1", "--batch-size=4"],
    "tune.py": ["--clips=8", "--batches=2", "--steps=1", "--rows=1,2,6,8"],
}


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """With one thread, which is enough for toys and does not wait for a second core."""
    command = [sys.executable, str(HERE / script), *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("script", SMALL)
def test_every_row_runs_and_is_written(script: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    words = [*SMALL[script], "--device=cpu", "--rounds=1", "--page", str(page)]
    result = run(script, *words)
    assert result.returncode == 0, result.stderr
    title, rows = ENDS[script]
    text = page.read_text()
    assert f"## {title} (tiny sizes on a CPU: overhead only)" in text
    table = [line.split(" | ") for line in text.split("\n") if line.startswith("| ")][2:]
    assert len(table) == rows
    assert all(float(cells[1]) > 0 for cells in table), "a ratio in every row"
    assert "--page" not in text


def test_memory_in_four_bits_is_said_not_to_be_measured_without_a_gpu(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    words = ["--quantise=nf4", "--device=cpu", "--clips=8", "--batches=2", "--steps=1", "--rows=3"]
    assert run("tune.py", *words, "--page", str(page)).returncode == 0
    table = [line for line in page.read_text().split("\n") if line.startswith("| ")][2:]
    assert [line.split(" | ")[0] for line in table] == ["| bf16"] * 2 + ["| nf4"] * 2
    assert all("not measured: no GPU" in line for line in table[2:])


@pytest.mark.parametrize(
    ("script", "titles"),
    [
        ("tune.py", ("P3 Where the time of a step goes", "P3 Levers of the step")),
        ("answers.py", ("P4 Where the time of answers goes", "P4 Levers of answers")),
    ],
)
def test_a_profile_names_what_takes_the_time_and_every_lever(
    script: str, titles: tuple[str, str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    words = [*SMALL[script], "--profile", "--device=cpu", "--rounds=1", "--page", str(page)]
    result = run(script, *words)
    assert result.returncode == 0, result.stderr
    times, levers = page.read_text().split("\n## ")[1:]
    for title, section in zip(titles, (times, levers), strict=True):
        assert section.startswith(f"{title} (tiny sizes on a CPU: overhead only)")
    rows = [line.split(" | ") for line in times.split("\n") if line.startswith("| ")][2:]
    shares = [float(cells[2].rstrip("%")) for cells in rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.5
    assert any(cells[0] == "| matrix products" and "aten::" in cells[1] for cells in rows)
    rows = [line.split(" | ") for line in levers.split("\n") if line.startswith("| ")][2:]
    assert {cells[1].partition(":")[0] for cells in rows} >= {"yes", "no"}
    lacking = [cells[2] for cells in rows if not cells[1].startswith("yes")]
    assert lacking
    assert all(cell.startswith("at most ") for cell in lacking), "a bound for what emo has not"
    if script == "answers.py":
        assert all(re.match(r"\d+\.\d\dx \(", cells[2]) for cells in rows if cells[1].startswith("yes"))


def event(name: str, start: int, took: float, parent: SimpleNamespace | None = None, **more: int) -> SimpleNamespace:
    """What torch's profiler tells of one operator."""
    told = {"sequence_nr": -1, "thread": 1, "fwd_thread": 0, "device_type": torch.autograd.DeviceType.CPU} | more
    span = SimpleNamespace(start=start)
    return SimpleNamespace(name=name, cpu_parent=parent, time_range=span, self_cpu_time_total=took, **told)


def test_what_runs_backward_belongs_to_the_part_whose_gradient_it_is() -> None:
    layer, norm = event(f"part: {RESIDUAL}", 0, 9), event(f"part: {NORMS}", 1, 9)
    norm.cpu_parent = layer
    back = event("autograd::engine::evaluate_function: MulBackward0", 6, 1, sequence_nr=4, thread=2, fwd_thread=1)
    events = [
        layer,
        norm,
        event("aten::mul", 2, 2, norm, sequence_nr=4),
        event("aten::add", 3, 1, layer, sequence_nr=5),
        event("Optimizer.step#AdamW.step", 9, 1),
        back,
        event("aten::mul", 7, 3, back, thread=2),
        event("aten::add", 8, 2, thread=2),
    ]
    parts = profiled._parts(events, cuda=False)
    assert parts == {(NORMS, OTHER): 0.6, (RESIDUAL, OTHER): 0.1, (STEP, OPTIMIZER): 0.1, ("", OTHER): 0.2}
    seen = profiled.Profile([], {}, None, parts=parts)
    assert profiled.at_most(seen.share(NORMS, RESIDUAL), "the step") == "at most 3.33x: 70.0% of the step"
    assert seen.share(NORMS, STEP, but=(OPTIMIZER,)) == 0.6


def test_every_part_of_a_step_is_marked_and_the_model_is_left_as_it_was() -> None:
    model = build(None, Widths(12, 9), LoraArgs(4, 8, 0.5), profile="tiny").train()
    asked = build_prompt("train_consistent", instruction("emotion", "?", "a"), model.tokenizer)
    batch = model.collate([asked], [[5, 6]], [torch.randn(1, 9, 12)])

    def step() -> None:
        model.loss(batch)[0].backward()

    with profiled.marked(model):
        parts = profiled.profiled(step, "cpu").parts
    assert {part for part, _ in parts} == {"", ADAPTERS, FROZEN, ROTARY, NORMS, RESIDUAL, FORWARD, LOOKUP}
    assert sum(parts.values()) == pytest.approx(1)
    assert {part for part, kind in parts if kind == ATTENTION} == {ROTARY}
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_operators_of_a_layer_and_the_kernels_they_become() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    weight = torch.ones(3, 3)
    assert profiled.operators(lambda: (x @ weight).view(6) * 2) == 4  # 2 products; sum and its 1, two times by 2
    codes = ["def call(): cpp_fused_add_0(); cpp_fused_add_0", "triton_poi_fused_mul_1.run(); triton_red_fused_sum_0"]
    assert profiled.fused_kernels(codes) == [["cpp_fused_add_0"], ["triton_poi_fused_mul_1", "triton_red_fused_sum_0"]]


def test_the_start_of_training_is_held_against_reading_the_file(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    result = run("begin.py", "--device=cpu", "--size=toy", "--rounds=1", "--page", str(page))
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "## P3 Start of training (size toy, CPU)" in text
    table = [line.split(" | ") for line in text.split("\n") if line.startswith("| ")][2:]
    assert [float(cells[1]) for cells in table[:1]] == [1.0]
    whole, *parts = (float(cells[3]) for cells in table[1:])
    assert len(parts) == 4
    assert sum(parts) == pytest.approx(whole, rel=0.01)
