"""The measuring scripts of the pass run end to end at toy sizes; nothing is asserted about speed or memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def test_the_pass_is_held_against_the_peers_way(measure: Callable[..., str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    found = measure("one_pass.py", "--count=2", "--copies=2", "--rounds=1", f"--trace={trace}")
    for part in ("## P2 The pass on a CPU", "4 clips", "| — faces found and cut out |", "Files opened per clip: 1.00."):
        assert part in found
    assert "HL-UTT 1.00000" in found
    assert str(tmp_path) not in found
    assert any(event.get("name") == "decode" for event in json.loads(trace.read_text()))


def test_memory_of_a_pass_is_watched(measure: Callable[..., str]) -> None:
    found = measure("memory.py", "--clips=6", "--drawn=3")
    assert "over 6 generated clips" in found
    assert "| last quarter of the time |" in found


def test_the_cost_of_half_precision_is_near_nothing_at_toy_sizes(measure: Callable[..., str]) -> None:
    found = measure("half.py", "--profile=tiny", "--dtypes=float16,bfloat16")
    assert "Tiny networks" in found
    for feature in ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448"):
        assert f"| {feature} | float16 | " in found
