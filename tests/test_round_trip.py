"""A tree for Emotion-LLaMA, made by one workspace and trained on by another that has nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emo.featstore.storage.store import open_store

Emo = Callable[..., subprocess.CompletedProcess[str]]
ROLES = ("mae_340_UTT", "maeV_399_UTT", "HL-UTT")
SHORT = ("epochs=1", "steps_per_epoch=2", "validation.holdout=0", "warmup_steps=1")
# The published stage 1, but for the language model and its start, its annotations, and how long it goes on.
STAGE1 = (*SHORT, "llm=tiny", "init_from=null", "data.emotion=[clips]", "data.reason=[]", "tasks={emotion: 1.0}")
STAGE1 += ("validation.split=null",)


@pytest.fixture(scope="module")
def there(
    emo: Emo, demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """The workspace that exports, the tree, and what the export said."""
    folder = tmp_path_factory.mktemp("round")
    shutil.copytree(demo[0], folder / "first")
    words = ("store", "export", str(folder / "tree"), "--layout", "emotion-llama", "--dataset", "demo")
    result = emo(*words, cwd=folder / "first")
    assert result.returncode == 0, result.stderr
    return folder / "first", folder / "tree", result.stdout


@pytest.fixture(scope="module")
def here(emo: Emo, there: tuple[Path, Path, str]) -> tuple[Path, str]:
    """The workspace that has the tree alone, and what the import said."""
    _, tree, _ = there
    folder = tree.parent
    made = emo("init", "second", "--clips", "tree", "--kind", "emotion-llama", cwd=folder)
    assert made.returncode == 0, made.stderr
    result = emo("store", "import", "../tree", cwd=folder / "second")
    assert result.returncode == 0, result.stderr
    return folder / "second", result.stdout


def test_the_tree_has_all_that_its_loader_opens(there: tuple[Path, Path, str]) -> None:
    _, tree, said = there
    assert {each.name for each in tree.iterdir()} == {
        *ROLES,
        "first_frames",
        "train_NCEV.txt",
        "test_NCEV.txt",
        "transcription_en_all.csv",
    }
    assert "first_frames has the first frames of 24 of 24 listed clips." in said
    assert len(list((tree / "first_frames").glob("*.png"))) == 24


@pytest.fixture(scope="module")
def whole(emo: Emo, here: tuple[Path, str]) -> tuple[str, subprocess.CompletedProcess[str]]:
    """The second workspace with its tokens, as the import says how: what a training said before, and the extraction."""
    workspace, _ = here
    early = emo("train", "--cached", "--recipe", "tiny", cwd=workspace)
    assert early.returncode != 0
    words = ("extract", "--dataset", "clips", "--encoders", "eva_g_448", "--profile", "tiny")
    return early.stderr, emo(*words, cwd=workspace)


def test_what_the_import_says_comes_next_works_and_gives_the_tokens_to_the_bit(
    there: tuple[Path, Path, str], here: tuple[Path, str], whole: tuple[str, subprocess.CompletedProcess[str]]
) -> None:
    workspace, said = here
    assert "24 first frames" in said
    assert "`emo extract --dataset NAME --encoders eva_g_448` computes them." in " ".join(said.split())
    early, computed = whole
    assert "eva_g_448" in early
    assert computed.returncode == 0, computed.stderr
    before, after = open_store(there[0] / "demo.emo"), open_store(next(workspace.glob("*.emo")))
    for name in ("eva_g_448", *ROLES):
        for clip in before.clips():
            assert (before.get(name, clip).array == after.get(name, clip).array).all(), (name, clip)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("recipe", "keys"), [("tiny", SHORT), ("emotion-llama-stage1", STAGE1)], ids=["tiny", "stage1"]
)
def test_it_trains_and_is_scored(emo: Emo, here: tuple[Path, str], recipe: str, keys: tuple[str, ...]) -> None:
    workspace, _ = here
    sets = [word for key in keys for word in ("--set", key)]
    trained = emo("train", "--cached", "--recipe", recipe, "--run", recipe, *sets, "--json", cwd=workspace)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["n_train"] == 18
    words = ("score", "test_NCEV.txt", "--run", recipe, "--answers", "likelihood", "--json")
    scored = emo(*words, cwd=workspace)
    assert scored.returncode == 0, scored.stderr
    assert (json.loads(scored.stdout)["n"], json.loads(scored.stdout)["missing"]) == (6, 0)


def test_a_picture_serves_whole_frames_and_nothing_else(emo: Emo, here: tuple[Path, str]) -> None:
    workspace, _ = here
    words = ("extract", "--dataset", "clips", "--encoders", "HL-UTT,eva_g_448", "--profile", "tiny", "--limit", "2")
    result = emo(*words, cwd=workspace)
    assert result.returncode == 0, result.stderr  # hopeless, and known to be
    store = open_store(next(workspace.glob("*.emo")))
    assert {each.kind for each in store.failures()} == {"picture-only"}
    assert "there is no sound and no other frame" in store.failures()[0].message
