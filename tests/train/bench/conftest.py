"""A small workspace of real files: clips with labels in two splits, a store of utterance and frame features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import Workspace, load_workspace

EMOTIONS = ("angry", "happy", "sad")
TRAINED, TESTED = 60, 24
FEATURES = {
    "aud": ("audio", 6, "utt"),
    "vid": ("video", 5, "utt"),
    "txt": ("text", 4, "utt"),
    "frm": ("audio", 3, "frame"),
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Features that tell the emotion, not too well."""
    rng = np.random.default_rng(5)
    names = [f"clip_{i:03d}" for i in range(TRAINED + TESTED)]
    emotion = rng.integers(len(EMOTIONS), size=len(names))
    lines = ["name,label,valence,split"]
    for i, name in enumerate(names):
        split = "train" if i < TRAINED else "val" if i < TRAINED + TESTED // 2 else "test"
        lines.append(f"{name},{EMOTIONS[emotion[i]]},{emotion[i] - 1.0},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "emo.toml").write_text('[store]\npath = "features.emo"\n[data.toy]\nroot = "."\nkind = "folder"\n')
    store = open_store(tmp_path / "features.emo", create=True)
    with store.writer() as writer:
        for name in names:
            writer.clip(name, media_of(name))
        for feature, (modality, dim, level) in FEATURES.items():
            spec = EncoderSpec(feature, "fake", modality, level, dim, 1 if level == "utt" else None, "paper", "seed:0")
            centre = rng.normal(size=(len(EMOTIONS), dim))
            for i, name in enumerate(names):
                rows = centre[emotion[i]] + rng.normal(size=(1 if level == "utt" else 12 + i % 5, dim))
                hop = 0.04 if level == "frame" else None
                writer.add(spec, media_of(name), rows.astype(np.float32), hop_s=hop)
    return load_workspace(tmp_path / "emo.toml")


def media_of(clip_id: str) -> str:
    return hashlib.blake2b(clip_id.encode(), digest_size=16).hexdigest()


@pytest.fixture
def write(workspace: Workspace) -> Callable[..., Path]:
    """Write a small bench into the workspace."""

    def made(name: str = "toy", **keys: Any) -> Path:
        table: dict[str, Any] = {"features": ["aud", {"name": "both", "features": ["aud", "vid"]}]}
        table |= {"heads": ["attention", "lf_dnn", "knn"], "set": {"epochs": 3}}
        table |= {"protocol": {"folds": 2, "search": 3, "repeats": 2, "train_splits": ["train"]}}
        path = workspace.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(table | keys))
        return path

    return made
