"""A small workspace, a trained head, a tuned language model and a tuning that was stopped, each with how it is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
STREAMS = ("mae_340_UTT", "maeV_399_UTT", "HL-UTT")
TINY = ("seed=7", "epochs=1", "steps_per_epoch=3", "batch_size=4", "log_every=1", "decode.max_new_tokens=4")
TINY += ("lora.r=4", "lora.targets=[q_proj, v_proj]", "validation.every=2", "checkpoint.every_steps=1")
Read = Callable[[Path], Any]


def make_workspace(root: Path) -> tuple[Any, list[Any]]:
    """A workspace with a store of four features and 24 clips, the last six of which nobody is trained on."""
    from emo.featstore.clip import Clip, Label
    from emo.featstore.spec import EncoderSpec
    from emo.featstore.storage.store import open_store
    from emo.featstore.workspace import load_workspace

    (root / "data").mkdir()
    (root / "emo.toml").write_text('[store]\npath = "f.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n')
    rng = np.random.default_rng(3)
    specs = [EncoderSpec("eva_g_448", "eva", "frame", "tokens", 8, 9, "tiny", "seed:0")]
    specs += [EncoderSpec(name, "any", "face", "utt", 6, 1, "tiny", "seed:0") for name in STREAMS]
    clips = [Clip(f"c{i:02d}", split="train" if i < 18 else "test", label=Label(LABELS[i % 6])) for i in range(24)]
    with open_store(root / "f.emo", create=True).writer() as writer:
        for i, clip in enumerate(clips):
            writer.clip(clip.id, f"{i:032x}")
            for spec in specs:
                writer.add(spec, f"{i:032x}", rng.normal(size=(spec.rows or 1, spec.dim)).astype(np.float32))
    return load_workspace(root / "emo.toml"), clips


def answers(workspace: Any, clips: list[Any], policies: tuple[str, ...], folder: Path) -> Any:
    """All that a run says of clips: answers, numbers, and which clips it has seen."""
    from emo.train.predictor import open_predictor

    said = []
    for policy in policies:
        predictor = open_predictor(workspace, folder.name, "cpu")
        found = predictor.predict(clips, policy)
        rows = [(name, each.answer, each.valence, each.probabilities) for name, each in sorted(found.items())]
        said.append((rows, sorted(predictor.seen(clips).items())))
    return said


def head(workspace: Any, clips: list[Any], run: Path) -> Read:
    """A head of six members, which has answered every clip but the last six."""
    from emo.featstore.storage.store import open_store
    from emo.train.heads.fit import fit_head
    from emo.train.recipe import make_recipe

    recipe = make_recipe({"head": "attention", "features": list(STREAMS[:2]), "folds": 3, "epochs": 2})
    fit_head(open_store(workspace.store_path), clips[:18], LABELS, recipe, run, "cpu")
    return partial(answers, workspace, clips, ("strict",))


def tune(workspace: Any, clips: list[Any], run: Path) -> Read:
    """A tiny language model, which keeps the answers that it has given."""
    from emo.featstore.storage.store import open_store
    from emo.train.llm.tune import tune as train
    from emo.train.recipe import load_recipe

    train(open_store(workspace.store_path), clips[:18], load_recipe("tiny", TINY), run, "cpu")
    answers(workspace, clips[:20], ("official", "likelihood"), run)
    return partial(answers, workspace, clips, ("official", "likelihood"))


def checkpoint(workspace: Any, clips: list[Any], run: Path) -> Read:
    """A tuning that was stopped after two of three steps, and is resumed."""
    from emo.featstore.storage.store import open_store
    from emo.train.llm import tune as module
    from emo.train.recipe import load_recipe

    store, recipe = open_store(workspace.store_path), load_recipe("tiny", TINY)

    def stop(progress: Any) -> None:
        if getattr(progress, "step", 0) == 3:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        module.tune(store, clips[:18], recipe, run, "cpu", stop)
    assert not (run / "digests.json").exists()

    def read(folder: Path) -> Any:
        module.tune(store, clips[:18], None, folder, "cpu", resume=True)
        return answers(workspace, clips, ("likelihood",), folder)

    return read
