"""A bench on a Ray cluster: its files are those of one process, byte by byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.workspace import Workspace
from emo.train.bench.pages import bench_page

FILES = ("predictions.jsonl", "metrics.json", "recipe.yaml", "clips.json", "leaderboard.csv", "report.md")


def files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for name in FILES for each in folder.rglob(name)}


@pytest.mark.timeout(300)
def test_a_cluster_trains_the_cells_of_one_process(
    ray_cluster: Any, workspace: Workspace, write: Callable[..., Path]
) -> None:
    path = write(heads=["attention", "knn"])
    bench_page(workspace, lambda sentence: None, str(path), device="cpu")
    folder = workspace.root / "benches" / "toy"
    truth = files(folder)
    assert len([name for name in truth if name.endswith("predictions.jsonl")]) == 4
    shutil.move(folder, workspace.root / "one")
    said: list[str] = []
    bench_page(workspace, said.append, str(path), device="cpu", ray=ray_cluster.address)
    assert files(folder) == truth
    assert "3 workers on 3 nodes of the cluster" in said
    said.clear()
    bench_page(workspace, said.append, str(path), device="cpu", ray=ray_cluster.address)
    assert not any("workers" in sentence for sentence in said), "what is trained is not dealt again"
