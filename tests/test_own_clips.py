"""docs/your-own-clips.md, followed literally: 240 spoken sentences of four actors, one of whom is tested on."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from following import ROOT, blocks, lines

from emo.featstore.storage.store import open_store

PAGE = ROOT / "docs" / "your-own-clips.md"
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # third field of a name
ACTORS = {"21": "train", "22": "train", "23": "train", "24": "test"}  # seventh field

Emo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def study(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace as the page has it, beside a folder of sound files with a table of labels."""
    folder = tmp_path_factory.mktemp("own")
    clips = folder / "my-clips"
    clips.mkdir()
    rows = [("name", "label", "split", "speaker")]
    for path in sorted((shared / "data" / "ravdess_speech_16k").glob("*.flac")):
        fields = path.stem.split("-")
        if fields[6] in ACTORS:
            shutil.copy(path, clips / path.name)
            rows.append((path.name, EMOTIONS[int(fields[2]) - 1], ACTORS[fields[6]], fields[6]))
    with open(clips / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    shutil.copy(shared / "data" / "ravdess_speech_16k" / "03-01-05-01-01-01-01.flac", clips / "new.flac")
    (folder / "study").mkdir()
    (folder / "study" / "emo.toml").write_text(blocks(PAGE, "toml")[0])
    return folder / "study"


def test_the_page_works_as_it_stands(study: Path, emo: Emo) -> None:
    said = {}
    for line in lines(PAGE):
        if line.startswith("sbatch "):  # one task of the array, as Slurm would start it
            line = shlex.split(line)[-1].replace("$SLURM_ARRAY_TASK_ID", "3")
        name, *words = shlex.split(line)
        assert name == "emo"
        result = emo(*words, cwd=study)
        assert result.returncode == 0, f"{line} {result.stdout} {result.stderr}"
        said[words[0] if words[0] not in ("data", "store") else f"{words[0]} {words[1]}"] = result.stdout
    assert "240" in said["data counts"]
    assert "no number here is an accuracy on people" in said["score"]
    assert "60 clips" in said["score"]
    assert (study / "report" / "report.html").exists()
    assert "new" in said["predict"]
    assert said["store search"].count("03-01-") == 6  # the clip, and five that are like it
    assert "no leak" in said["data leaks"]
    score = json.loads((study / "report" / "metrics.json").read_text())
    assert (score["n"], score["missing"]) == (60, 0)
    assert set(score["labels"]) <= set(EMOTIONS)


def test_what_a_clip_has_not_is_absent_and_not_zero(study: Path, emo: Emo) -> None:
    """A sound file has no face: that is recorded with its reason, and training on it refuses or leaves it out."""
    result = emo("extract", "--encoders", "HL-UTT,mae_340_UTT", "--limit", "5", cwd=study)
    assert result.returncode == 0, result.stderr  # hopeless, and known to be
    store = open_store(study / "features.emo")
    assert {(each.feature.split("@")[0], each.kind) for each in store.failures()} == {("mae_340_UTT", "no-video")}
    assert len(store.failures()) == 5
    refused = emo("train", "--head", "logistic", "--cached", "--set", "features=[HL-UTT, mae_340_UTT]", cwd=study)
    assert refused.returncode == 4
    assert "mae_340_UTT" in refused.stderr
