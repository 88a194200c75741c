"""README.md, followed in order: a laptop's workspace, then one of MER2023's form under the tiny profile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from following import ROOT, follow, lines
from typer.testing import CliRunner

from emo.cli import app
from emo.extract.annotate.actions import INTENSITIES, PRESENCES, rules
from emo.extract.demo import generate_clip
from emo.featstore.sources.packages import installed
from emo.featstore.storage.store import open_store

WORDS = ("happy", "sad", "angry")
SPLITS = {"train_corpus": range(12), "test1": range(12, 15), "test3": range(15, 18)}
ALL = [f"sample_{330 + index:08d}" for index in range(18)]  # sample_00000338 is a clip of the page
OURS = '[data.MER2023-SEMI]\nroot = "data"\naus = "openface"\n[extract]\nprofile = "tiny"\n'

RECORD = {
    "AU_list": ["AU04"],
    "visual_prior_list": ["Frowns furrowed"],
    "audio_prior_list": "and his tone sounds negative.",
    "peak_index": "7",
    "peak_AU_list": ["AU01", "AU04"],
    "pseu_emotion": "angry",
    "text": "I was trying to be quiet.",
    "smp_reason_caption": "A man frowns and sounds angry.",
}

SKIPPED = {
    "make demo": "it installs; tests/test_cli.py looks at the demo",
    "make test": "this suite",
    "pip install -e '.[pocket,offline]'": "it installs",
    "emo serve --open": "a server, which does not end; tests/train/serve asks one",
    "emo predict interview.mp4 --model http://localhost:8000/v1#Qwen2.5-Omni-7B": "a server with that model",
    "emo store copy mine.emo s3://bucket/mine.emo": "a bucket; tests/featstore/storage has one",
    "emo train --cached --recipe emotion-llama-stage1 --set lora.r=32": "LLaMA-2 and a GPU; tests/test_round_trip.py "
    "trains that recipe with a tiny model",
    "emo weights import checkpoint_best.pth --run official": "a file of 7 billion parameters; tests/test_tuning.py "
    "imports a small one",
}


SHORTENED = {
    "emo train --head attention --search 50 --cached": (
        "emo train --head attention --search 2 --cached --set epochs=2",
        "50 settings take minutes",
    ),
    "emo bench trimodal --dry-run": (
        "emo bench trimodal --dry-run --set heads=[attention,lf_dnn] --set protocol.search=2",
        "it times steps of twelve heads under 50 settings",
    ),
}


def _typed(*words: str) -> None:
    result = CliRunner().invoke(app, [*words, "--quiet"])
    assert result.exit_code == 0, f"{words} {result.output} {result.exception}"


def _index(i: int) -> int:
    """Number of a clip's emotion among MER2023's."""
    return {"angry": 1, "happy": 2, "sad": 3}[WORDS[i % 3]]


def _clips(start: Path) -> None:
    """Somebody's folder of clips, and a new one beside."""
    folder = start.parent / "my-clips"
    folder.mkdir()
    rows = ["name,label,split"]
    for i, name in enumerate(ALL):
        generate_clip(folder / f"{name}.mp4", WORDS[i % 3], i, duration_s=0.5)
        rows.append(f"{name},{WORDS[i % 3]},{'train' if i in SPLITS['train_corpus'] else 'test'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(folder / f"{ALL[0]}.mp4", folder / "new.mp4")


def _mer2023(here: Path) -> None:
    """The reader has corrected emo.toml, and has MER2023's files: here they are drawn."""
    data = here / "data"
    (data / "clips").mkdir(parents=True)
    for name in ALL:
        shutil.copy(here.parents[2] / "my-clips" / f"{name}.mp4", data / "clips" / f"{name}.mp4")
    corpora = {split: {ALL[i]: {"emo": _index(i), "val": -10} for i in part} for split, part in SPLITS.items()}
    np.savez(data / "label-6way.npz", **{split: np.array(rows, object) for split, rows in corpora.items()})
    said = "".join(f"{name},你好,Here is number {i}.\n" for i, name in enumerate(ALL))
    (data / "transcription-engchi-polish.csv").write_text("name,chinese,english\n" + said, encoding="utf-8")
    listed = "".join(f"{ALL[i]} 20 {WORDS[i % 3]} -10\n" for i in SPLITS["test3"])
    (data / "relative_test3_NCEV.txt").write_text(listed)
    (here / "emo.toml").write_text(OURS)


def _one_face(here: Path) -> None:
    """Whoever tried another rule of faces drops what it made, so that a name means one feature again."""
    store = open_store(here / "features.emo")
    for each in store.features():
        if "largest" in json.dumps(dict(each.spec.recipe)):
            _typed("store", "drop", each.spec.key)


def _bench(here: Path) -> None:
    (here / "mine.yaml").write_text(
        "dataset: MER2023-SEMI\nfeatures: [HL-UTT, HL-MERBench-UTT]\nheads: [logistic, lf_dnn]\nset: {epochs: 2}\n"
        "protocol: {train_splits: [train_corpus], folds: 2, search: null, repeats: 1}\n"
    )


def _answers(here: Path) -> None:
    rows = {ALL[i]: f"He smiles: {WORDS[i % 3]}" for i in SPLITS["test3"]}
    (here / "answers.json").write_text(json.dumps(rows))


def _two_runs(here: Path) -> None:
    for name in ("a", "b"):
        _typed("train", "--cached", "--head", "logistic", "--run", name)


def _candidates(here: Path) -> None:
    (here / "track_all_candidates.csv").write_text("name\n" + "".join(f"{ALL[i]}\n" for i in SPLITS["test3"]))


def _seen(here: Path) -> None:
    """The one feature of the bench's second set that no line above has made."""
    _typed("extract", "--encoders", "eva02_base_patch14_224-UTT")


def _interview(here: Path) -> None:
    shutil.copy(here / "data/clips" / f"{ALL[0]}.mp4", here / "interview.mp4")


def _new_clips(here: Path) -> None:
    (here / "new-clips").mkdir()
    for name in ("one", "two"):
        shutil.copy(here / "interview.mp4", here / "new-clips" / f"{name}.mp4")


def _published(here: Path) -> None:
    """The published tree, and a copy of the store as it is before anything is imported."""
    shutil.copytree(here / "features.emo", here / "mine.emo")
    _typed("store", "export", "features_of_MER2023-SEMI", "--layout", "emotion-llama", "--dataset", "MER2023-SEMI")


def _theirs(here: Path) -> None:
    (here / "theirs").mkdir()
    shutil.copytree(here / "features_of_MER2023-SEMI" / "HL-UTT", here / "theirs" / "HL-UTT")


def _merr(here: Path) -> None:
    """Annotations of the form of MERR's, of clips to train on; tables of action units beside."""
    made = {ALL[i]: RECORD for i in SPLITS["train_corpus"]}
    (here / "MERR_fine_grained.json").write_text(json.dumps(made))
    (here / "openface").mkdir()
    for name in ALL:
        (here / "openface" / f"{name}.csv").write_text(_units())


def _units() -> str:
    """A table of OpenFace in which a smile is strongest at frame 7."""
    rows = [["frame", "success", *(f"{unit}_r" for unit in INTENSITIES), *(f"{unit}_c" for unit in PRESENCES)]]
    for i in range(20):
        strength = max(0.0, 3.0 - abs(i - 7))
        smile = dict.fromkeys(rules()["happy"], strength)
        rows.append([str(i + 1), "1", *(str(smile.get(unit, 0.0)) for unit in INTENSITIES)])
        rows[-1] += [str(int(smile.get(unit, 0.0) > 0)) for unit in PRESENCES]
    return "\n".join(",".join(row) for row in rows) + "\n"


BEFORE: dict[str, Callable[[Path], None]] = {
    "emo init --pocket my-study --data ../my-clips": _clips,
    "emo doctor": _mer2023,
    "emo extract --shard 3/8": _one_face,
    "emo bench trimodal --dry-run": _seen,
    "emo bench mine.yaml": _bench,
    "emo submit --challenge mer2025 --track semi --run a --candidates track_all_candidates.csv": _candidates,
    "emo score relative_test3_NCEV.txt --predictions answers.json --answers official --json": _answers,
    "emo score relative_test3_NCEV.txt --run a --against b": _two_runs,
    "emo predict interview.mp4": _interview,
    "emo predict new-clips/ --csv answers.csv": _new_clips,
    "emo store import features_of_MER2023-SEMI": _published,
    "emo store compare mine.emo theirs/HL-UTT --feature HL-UTT": _theirs,
    "emo data leaks --list MERR_fine_grained.json": _merr,
}


@pytest.mark.timeout(1800)
def test_every_block_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed("whisper-base") is None:
        pytest.skip("the packages of extra offline are not installed, which the page installs")
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "work").mkdir()
    told = lines(ROOT / "README.md")
    said = dict(follow(told, tmp_path / "work", SKIPPED, BEFORE, SHORTENED))
    assert said.keys() == {line for line in told if not line.startswith("cd ")} - SKIPPED.keys()
    assert "clips have features of" in said["emo store import features_of_MER2023-SEMI"]
    assert "no leak" in said["emo data leaks --list MERR_fine_grained.json"]
