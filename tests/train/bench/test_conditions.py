"""A bench goes on only under the conditions that it was begun under, and from records that are what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo.featstore.errors import EmoError, UsageError
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import Workspace
from emo.train.bench.pages import bench_page, ensemble_page

Write = Callable[..., Path]


def silent(sentence: str) -> None:
    """Nobody listens."""


def run(workspace: Workspace, path: Path) -> Any:
    return bench_page(workspace, silent, str(path))


def test_other_values_of_a_feature_are_noticed(workspace: Workspace, write: Write) -> None:
    """Under the same names and recipes: every model would learn something else."""
    path = write(heads=["attention"])
    run(workspace, path)
    store = open_store(workspace.store_path)
    feature = next(info for info in store.features() if info.spec.level == "utt")
    clip = store.clips()[0]
    other = store.get(feature.key, clip).array + 1
    with store.writer() as writer:
        writer.add(feature.spec, str(store.clip_row(clip)[0]), other)
    with pytest.raises(UsageError, match="feature values changed"):
        run(workspace, path)


@pytest.mark.parametrize("phase", ["search", "runs"])
def test_a_record_with_another_number_is_damaged(workspace: Workspace, write: Write, phase: str) -> None:
    path = write(heads=["attention"])
    run(workspace, path)
    record = next(iter(sorted((workspace.root / "benches").rglob(f"{phase}/[!.]*"))))
    data = bytearray(record.read_bytes())
    at = data.index(b"metric") + 12 if phase == "search" else len(data) - 3
    data[at] ^= 1
    record.write_bytes(data)
    (failed,) = [each for each in run(workspace, path).value["others"] if "is damaged" in each["why"]]
    assert record.name in failed["why"]


def test_a_key_that_is_given_for_a_head_is_not_drawn(workspace: Workspace, write: Write) -> None:
    path = write(heads=[{"head": "attention", "name": "mine", "set": {"dropout": 0.45}}])
    run(workspace, path)
    found = [yaml.safe_load(each.read_text()) for each in (workspace.root / "benches").rglob("recipe.yaml")]
    assert found
    assert all(each["dropout"] == 0.45 for each in found)


def test_an_ensemble_refuses_cells_of_other_conditions(workspace: Workspace, write: Write) -> None:
    path = write(heads=["attention", "knn"])
    run(workspace, path)
    cell = next((workspace.root / "benches").rglob("predictions.jsonl"))
    whole = cell.read_bytes()
    cell.write_bytes(b"\n".join(whole.split(b"\n")[:-3]) + b"\n")
    with pytest.raises(EmoError, match=r"predictions\.jsonl"):
        ensemble_page(workspace, silent, str(path))
    cell.write_bytes(whole)
    ensemble_page(workspace, silent, str(path))
    with pytest.raises(UsageError, match="protocol changed"):
        ensemble_page(
            workspace, silent, str(write(heads=["attention", "knn"], protocol={"folds": 3, "search": 3, "repeats": 2}))
        )
