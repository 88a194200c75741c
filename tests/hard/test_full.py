"""A disk that is full at any page: a sentence, nothing committed is lost, and with room again the same work goes on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest
from damage import in_child, try_all
from small_runs import LABELS, STREAMS, TINY, make_workspace
from small_store import contents, make

SHORT, LONG = 5, 200  # sizes of the disk, from none to enough
PAGE = 4096  # bytes: the disk is full at each of them
Work = Callable[[], Any]  # does it, or goes on with it, and returns what must come of it


def extraction(root: Path) -> tuple[Work, Work]:
    """Two features of three clips, in commits of one clip; what stays is the store."""
    from emo.extract.demo import generate_clip
    from emo.extract.session import ExtractArgs, open_session
    from emo.featstore.storage.store import Store, has_store
    from emo.featstore.workspace import load_workspace

    (root / "data").mkdir()
    for i in range(3):
        generate_clip(root / "data" / f"c{i}.mp4", "happy", i, 0.3 + 0.05 * i, size=(96, 72))
    text = '[store]\npath = "s.emo"\n[data.folder]\nroot = "data"\n[extract]\nprofile = "tiny"\n'
    (root / "emo.toml").write_text(text + 'encoders = ["HL-UTT", "eva_g_448"]\n')

    def work() -> Any:
        assert open_session(load_workspace(root), ExtractArgs(workers=1, commit_every=1)).run().exit_code == 0
        return {key: value.shape for key, value in rows().items()}

    def rows() -> dict[Any, Any]:
        if not has_store(root / "s.emo"):
            return {}
        store = Store.open(root / "s.emo")
        assert store.verify() == []
        keys = [(info.key, clip) for info in store.features() for clip in store.clips()]
        return {key: store.get(*key).array for key in keys if store.has(key[0], [key[1]])[0]}

    def kept() -> Any:
        return {key: value.shape for key, value in rows().items()}

    return work, kept


def compaction(root: Path) -> tuple[Work, Work]:
    """A store of several segments made one."""
    from emo.featstore.storage.store import Store

    make(root / "s.emo")

    def kept() -> Any:
        assert Store.open(root / "s.emo").verify() == []
        return contents(root / "s.emo")

    def work() -> Any:
        Store.open(root / "s.emo").compact()
        return kept()

    return work, kept


def export(root: Path) -> tuple[Work, Work]:
    """A store written as another tool's files: all of them, or no folder."""
    from emo.featstore.interop.exporter import export_features
    from emo.featstore.storage.store import Store

    make(root / "s.emo")

    def work() -> Any:
        shutil.rmtree(root / "out", ignore_errors=True)
        export_features(Store.open(root / "s.emo"), root / "out", "mertools")
        return files(root / "out")

    def kept() -> Any:
        assert Store.open(root / "s.emo").verify() == []
        return files(root / "out")

    return work, kept


def head(root: Path) -> tuple[Work, Work]:
    """A head of two members, trained anew."""
    from emo.featstore.storage.store import open_store
    from emo.train.heads.fit import fit_head
    from emo.train.recipe import make_recipe
    from emo.train.runs import check

    workspace, clips = make_workspace(root)
    recipe = make_recipe({"head": "attention", "features": list(STREAMS[:2]), "folds": 2, "epochs": 2})

    def work() -> Any:
        shutil.rmtree(root / "runs", ignore_errors=True)
        fit_head(open_store(workspace.store_path), clips[:18], LABELS, recipe, root / "runs" / "r", "cpu")
        check(root / "runs" / "r")
        return weights(root / "runs")

    return work, lambda: {}


def tuning(root: Path) -> tuple[Work, Work]:
    """Three steps of a language model, a checkpoint after each, gone on with where there is one."""
    from emo.featstore.storage.store import open_store
    from emo.train.llm.tune import tune
    from emo.train.recipe import load_recipe

    workspace, clips = make_workspace(root)
    recipe = load_recipe("tiny", (*TINY, "validation.holdout=0"))

    def work() -> Any:
        known = (root / "runs/r/run.json").exists()
        if not known:
            shutil.rmtree(root / "runs", ignore_errors=True)
        tune(open_store(workspace.store_path), clips[:18], recipe, root / "runs/r", "cpu", resume=known)
        return weights(root / "runs")

    return work, lambda: {}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name.endswith(".safetensors")}


KINDS = {"extraction": extraction, "compaction": compaction, "export": export, "head": head, "tuning": tuning}


def free_pages(root: Path) -> int:
    return int(os.statvfs(root).f_bavail * os.statvfs(root).f_frsize // PAGE)


def child(kind: str, disk: Path, trials: int) -> None:
    """Leave so many pages of the disk, work, make room, go on; with more and more of them."""
    import torch

    from emo.featstore.errors import EmoError

    torch.set_num_threads(1)
    damage.LIMIT_S = 600.0  # a trial trains twice, perhaps beside other work
    root, ballast = disk / "w", disk / "ballast"
    root.mkdir()
    work, kept = KINDS[kind](root)
    first, before = files(root), free_pages(disk)
    truth = work()
    needed = before - free_pages(disk) + 60  # more than in the end is needed meanwhile

    def damaged(number: int) -> str:
        ballast.unlink(missing_ok=True)
        shutil.rmtree(root)
        for name, data in first.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        pages = needed * number // max(1, trials - 1)
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free_pages(disk) - pages) * PAGE)
        return f"{kind} with {free_pages(disk)} pages"

    def once(number: int) -> str:
        was = kept()
        try:
            if not same(work(), truth):
                return "another result"
        except EmoError as error:
            if "space" not in str(error).lower():
                return f"untold: {error}"
            now = kept()
            if any(key not in now for key in was):
                return "something is lost"
            ballast.unlink()
            return "refused" if same(work(), truth) else "gone on, it is not what an uninterrupted run gives"
        return "same"

    try_all(trials, damaged, once)


def same(a: Any, b: Any) -> bool:
    return bool(a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a))


@pytest.fixture
def disk(tmpfs: Callable[[int], Path]) -> Path:
    """A disk of 64 MiB in memory."""
    return tmpfs(64)


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_disk_there_is_a_sentence_and_the_work_goes_on(kind: str, hard: bool, disk: Path) -> None:
    trials = LONG if hard else SHORT
    ends = in_child(__file__, kind, disk, trials, trials=trials)
    assert ends["refused"] > trials // 10
    assert ends["same"] > 0
    print(f"{kind}: {dict(ends)}")


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
