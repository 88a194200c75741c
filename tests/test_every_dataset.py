"""Three drawn clips in the form of each publisher's tree, from the files to a score by the three usual commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from emo.cli import app
from emo.extract.demo import generate_clip

SUBTITLES = "name,chinese,english\na,你好,Hello\nb,再见,Goodbye\nc,是,Yes\n"
WORDS = ("happy", "sad", "happy")  # of the clips, of which the last is tested on
VALENCES = (0.8, -0.6, 0.4)
SINGLE = "EmoLabel_DataSplit/{}(single-labeled)/set_1.csv"


@dataclass(frozen=True)
class Tree:
    """A dataset as it is laid out.

    Attributes:
        texts: Tables by their path under the root.
        media: Where the three clips lie.
        score: What `emo score` is told.
        head: What is trained.
        said: Measure that must be in the score.
        labels: Rows of `label.npz` by split, where it has one.
    """

    texts: Mapping[str, str]
    media: tuple[str, str, str]
    score: tuple[str, ...]
    head: tuple[str, ...] = ("logistic",)
    said: str = "f1_weighted"
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _mer2025(train: str, test: str, columns: str, values: tuple[str, str]) -> Tree:
    rows = "".join(f"{name},{word}{value}\n" for name, word, value in zip("ab", WORDS, values, strict=False))
    texts = {train: columns + rows, test: "name,discrete\nc,happy\n", "subtitle_chieng.csv": SUBTITLES}
    return Tree(texts, ("video/a.mp4", "video/b.mp4", "video/c.mp4"), (test,))


def _sentiment(folder: str) -> Tree:
    """Numbers in place of words: a head that learns them, and MMSA's measures."""
    rows = [{"emo": 0, "val": value} for value in VALENCES]
    names = ("v1_1", "v2_1", "v3_1")
    labels = {"train": dict(zip(names[:2], rows, strict=False)), "test": {names[2]: rows[2]}}
    texts = {"transcription-engchi-polish.csv": SUBTITLES.replace("\na", "\nv1_1")}
    media = (f"{folder}/v1_1.mp4", f"{folder}/v2_1.mp4", f"{folder}/v3_1.mp4")
    score = ("label.npz#test", "--metric", "sentiment")
    return Tree(texts, media, score, ("lf_dnn", "--set", "epochs=2", "--set", "folds=2"), "regression", labels)


TREES = {
    "MER2024": Tree(
        {
            "label-disdim.csv": "name,discrete,valence\na,happy,0.8\nb,sad,-0.6\n",
            "reference-semi.csv": "name,discrete\nc,happy\n",
            "transcription-merge.csv": SUBTITLES,
        },
        ("video-labeled/a.mp4", "video-labeled/b.mp4", "video-unlabeled/c.mp4"),
        ("reference-semi.csv",),
    ),
    "MER2025": _mer2025("track1_train_disdim.csv", "track1_test_dis.csv", "name,discrete,valence\n", (",0.8", ",-0.6")),
    "MER2026": _mer2025("track1_train.csv", "track1_test.csv", "name,discrete\n", ("", "")),
    "DFEW": Tree(
        {SINGLE.format("train"): "video_name,label\n1,1\n2,2\n", SINGLE.format("test"): "video_name,label\n3,1\n"},
        tuple(f"Clip/original/part_1/{number}.mp4" for number in (1, 2, 3)),  # type: ignore[arg-type]
        ("data", "--protocol", "dfew", "--fold", "1"),
        said="folds",
    ),
    "CMU-MOSEI": _sentiment("subvideo"),
    "SIMSv2": _sentiment("video"),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three talking faces."""
    folder = tmp_path_factory.mktemp("drawn")
    paths = [folder / f"{index}.mp4" for index in range(3)]
    for index, path in enumerate(paths):
        generate_clip(path, WORDS[index], index, duration_s=0.6)
    return paths


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in this process, in the current folder, and returns what it printed."""

    def command(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--quiet"])
        assert result.exit_code == 0, f"{words} {result.output} {result.exception}"
        return result.stdout

    monkeypatch.setenv("COLUMNS", "100")
    return command


@pytest.mark.parametrize("name", TREES)
def test_the_three_commands(
    name: str, drawn: list[Path], run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, root = TREES[name], tmp_path / "data"
    for path, text in tree.texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    for source, path in zip(drawn, tree.media, strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / path)
    if tree.labels:
        corpora = {f"{split}_corpus": rows for split, rows in tree.labels.items()}
        np.savez(root / "label.npz", **{each: np.array(rows, object) for each, rows in corpora.items()})
    (tmp_path / "emo.toml").write_text(f'[data."{name}"]\nroot = "data"\n[extract]\nprofile = "tiny"\n')
    monkeypatch.chdir(tmp_path)

    extracted = json.loads(run("extract", "--profile", "tiny", "--json"))
    assert extracted["failures"] == []
    trained = json.loads(run("train", "--cached", "--head", *tree.head, "--json"))
    assert trained["n_train"] == 2
    score = json.loads(run("score", *tree.score, "--json"))
    assert (score["n"], score["missing"]) == (1, 0)
    assert tree.said in score
