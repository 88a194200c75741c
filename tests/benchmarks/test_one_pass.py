"""The measuring scripts of the pass run end to end at toy sizes; nothing is asserted about speed or memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from emo.extract.media import tflite


def test_the_pass_is_held_against_the_peers_way(measure: Callable[..., str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    found = measure("one_pass.py", "--count=2", "--copies=2", "--rounds=1", f"--trace={trace}")
    for part in ("## P2 The pass on a CPU", "4 clips", "| — faces found and cut out |", "Files opened per clip: 1.00."):
        assert part in found
    assert "HL-UTT 1.00000" in found
    assert str(tmp_path) not in found
    assert "emo's faces by centerface" in found
    assert any(event.get("name") == "decode" for event in json.loads(trace.read_text()))


@pytest.mark.skipif(not tflite.installed(), reason=f"needs ai-edge-litert and: {tflite.INSTALL}")
def test_two_detectors_are_held_against_each_other(measure: Callable[..., str], shared: Path, tmp_path: Path) -> None:
    clips = shared / "data" / "mer2023" / "clips"
    found = measure("one_pass.py", f"--clips={clips}", "--count=1", "--copies=1", "--rounds=1", "--detector=blazeface")
    for part in (
        "## P2 The pass on a CPU, faces by blazeface",
        "| emo with centerface |",
        "In processor time",
        "found as emo finds them",
        "emo's faces by blazeface, the peers' by centerface",
    ):
        assert part in found
    found = measure("faces.py", f"--clips={clips}", "--count=1", f"--look={tmp_path / 'look'}")
    for part in ("| CenterFace | 3 of 3 |", "| BlazeFace, full-range, and mesh | 3 of 3 |", "in 60 (100.0%)"):
        assert part in found
    assert not (tmp_path / "look").exists()  # they agree on this clip


@pytest.mark.skipif(not tflite.installed(), reason=f"needs ai-edge-litert and: {tflite.INSTALL}")
def test_what_decoding_takes_of_a_workers_time(measure: Callable[..., str], shared: Path) -> None:
    found = measure("decoding.py", f"--clips={shared / 'data' / 'mer2023' / 'clips'}", "--count=1", "--rounds=1")
    for part in ("| all that a worker does, faces found by a GPU |", "1 clip, tiny", "times as fast at most"):
        assert part in found


def test_memory_of_a_pass_is_watched(measure: Callable[..., str]) -> None:
    found = measure("memory.py", "--clips=6", "--drawn=3")
    assert "over 6 generated clips" in found
    assert "| last quarter of the time |" in found


def test_the_cost_of_half_precision_is_near_nothing_at_toy_sizes(measure: Callable[..., str]) -> None:
    found = measure("half.py", "--profile=tiny", "--dtypes=float16,bfloat16")
    assert "Tiny networks" in found
    for feature in ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448"):
        assert f"| {feature} | float16 | " in found
