"""The pocket workspace: what it holds on this machine, and the whole path with no hub within reach."""

from __future__ import annotations

import csv
import json
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.extract import pocket, weights_page
from emo.extract.encoders.registry import find_encoder
from emo.extract.pocket import pocket_encoders, write_pocket
from emo.featstore.errors import UsageError
from emo.featstore.sources import packages
from emo.featstore.workspace import load_workspace
from emo.train.recipe import family_weights, load_recipe

RATE = 16_000
OFFLINE = {"HF_HUB_OFFLINE": "1"} | dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:9")


def test_the_workspace_is_read_by_emo_and_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pocket(Path("study"), Path("films"), "folder", "blazeface")
    workspace = load_workspace(tmp_path / "study")
    assert workspace.data["clips"].root == tmp_path / "films"
    assert workspace.extract.profile == "paper"
    assert list(workspace.extract.encoders) == pocket_encoders()
    assert [find_encoder(name).name for name in pocket_encoders()] == pocket_encoders()
    assert load_recipe(workspace.recipe).feature_names() == ("whisper-base-stats-UTT",)
    with pytest.raises(UsageError, match="exists already"):
        write_pocket(Path("study"))


def test_encoders_join_where_they_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "WHERE_INSTALLED", (("eGeMAPS_UTT", lambda: None), ("nobody_UTT", lambda: True)))
    assert pocket_encoders() == ["whisper-base-stats-UTT", "all-MiniLM-L6-v2-UTT"]


def test_the_hub_is_asked_for_all_of_the_pocket(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(source: Any, target: Any, **options: Any) -> Path:
        asked.append(source.hub)
        return Path("/cache") / source.hub

    monkeypatch.setattr(weights_page, "fetch", fetch)
    page = weights_page.pulled_page(None, family_weights(), lambda sentence: None, "@pocket")
    assert asked == [model.hub for model in packages.PACKAGES.values() if model.hub]  # the face networks have none
    assert [row["name"] for row in page.value][-1] == "smollm2"


def test_the_recipe_reads_what_the_workspace_makes() -> None:
    recipe = load_recipe("pocket")
    assert recipe.feature_names() == ("whisper-base-stats-UTT",)
    assert recipe.llm in packages.PACKAGES
    assert recipe.standardise


@pytest.mark.skipif(packages.installed("whisper-base") is None, reason="Whisper-base is not installed: extra offline")
def test_the_whole_path_without_a_hub(
    tmp_path: Path, emo: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """High and low tones, four each: `emo demo --pocket`, then `emo predict`."""
    (tmp_path / "clips").mkdir()
    rows, t = [("name", "label")], np.arange(RATE // 2) / RATE
    for i in range(8):
        kind = ("high", "low")[i % 2]
        sound = 0.4 * np.sin(2 * np.pi * (600 if i % 2 == 0 else 120) * (1 + 0.02 * i) * t) * (1 + np.sin(20 * t)) / 2
        with wave.open(str(tmp_path / "clips" / f"c{i}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((sound * 32767).astype("<i2").tobytes())
        rows.append((f"c{i}", kind))
    with open(tmp_path / "clips" / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    home = {"HF_HOME": str(tmp_path / "hub"), **OFFLINE}
    result = emo("demo", "here", "--pocket", "clips", cwd=tmp_path, env=home)
    assert result.returncode == 0, result.stderr
    run = next((tmp_path / "here" / "runs").iterdir())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["validation"]["f1_weighted"] == 1.0  # tones of an octave and more apart
    said = emo("predict", "../clips/c0.wav", "--json", cwd=tmp_path / "here", env=home)
    assert json.loads(said.stdout)["answers"][0]["answer"] == "high", said.stderr


def test_init_for_a_folder_says_what_the_folder_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    (tmp_path / "films").mkdir()
    pocket.init_page(said.append, Path("study"), clips=Path("films"))
    table = load_workspace(tmp_path / "study").data["clips"]
    assert (table.root, table.kind) == (tmp_path / "films", "folder")
    assert "no video or sound file" in said[0]
    assert "no labels.csv" in said[1]
    said.clear()
    pocket.init_page(said.append, Path("other"), pocket=True, clips=Path("nowhere"))
    assert "nowhere is not there yet" in said[0]
