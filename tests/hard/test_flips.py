"""Single bits flipped in what a store and a run keep: `verify` finds each of them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from damage import in_child, try_all
from small_runs import checkpoint, head, make_workspace, tune
from small_store import make

SHORT, LONG = 30, 2500  # flips of each kind
Finds = Callable[[], bool]


def segments(root: Path) -> tuple[list[Path], Finds]:
    """Numbers and records of a store, without the documents that describe them."""
    make(root / "s.emo")
    return [p for p in (root / "s.emo/features.zarr").rglob("*") if p.is_file() and p.name != "zarr.json"], store(root)


def journals(root: Path) -> tuple[list[Path], Finds]:
    """Commits of a store."""
    make(root / "s.emo")
    return sorted((root / "s.emo/journal").glob("*.jsonl")), store(root)


def store(root: Path) -> Finds:
    from emo.featstore.errors import EmoError
    from emo.featstore.storage.store import Store

    def finds() -> bool:
        try:
            return bool(Store.open(root / "s.emo").verify())
        except EmoError as error:
            return bool(error.message)

    return finds


def runs(root: Path) -> tuple[list[Path], Finds]:
    """A trained head, and a tuned language model."""
    workspace, clips = make_workspace(root)
    head(workspace, clips, root / "runs/head")
    tune(workspace, clips, root / "runs/tune")
    sealed = [path.parent for path in (root / "runs").rglob("digests.json")]
    return [p for folder in sealed for p in folder.iterdir() if p.is_file()], pages(workspace)


def checkpoints(root: Path) -> tuple[list[Path], Finds]:
    """The checkpoints of a tuning that was stopped."""
    workspace, clips = make_workspace(root)
    checkpoint(workspace, clips, root / "runs/run")
    return [p for p in (root / "runs/run/checkpoints").rglob("*") if p.is_file()], pages(workspace)


def pages(workspace: Any) -> Finds:
    from emo.train.run_pages import verify_page

    return lambda: verify_page(workspace).exit_code == 6


KINDS = {"segments": segments, "journals": journals, "runs": runs, "checkpoints": checkpoints}


def child(kind: str, root: Path, trials: int) -> None:
    """Flip a bit, verify, flip it back; again and again."""
    import torch

    torch.set_num_threads(1)
    files, finds = KINDS[kind](root)
    files = [path for path in files if path.stat().st_size]
    assert len(files) > 1
    assert not finds(), "it cries wolf"
    undo: tuple[Path, bytes] | None = None

    def damaged(number: int) -> str:
        nonlocal undo
        with suppress(TypeError):
            path, data = undo  # type: ignore[misc]
            path.write_bytes(data)
        dice = random.Random(f"{kind} {number}")
        path = dice.choice(files)
        whole = path.read_bytes()
        undo = path, whole
        at, bit = dice.randrange(len(whole)), dice.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        return f"bit {bit} of byte {at} of {path.relative_to(root)}"

    def once(number: int) -> str:
        return "refused" if finds() else "verify sees nothing"

    try_all(trials, damaged, once)


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found(kind: str, hard: bool, tmp_path: Path) -> None:
    trials = LONG if hard else SHORT
    assert in_child(__file__, kind, tmp_path, trials, trials=trials) == {"refused": trials}


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
