"""Samples of a recipe as conversations for other trainers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.featstore.workspace import Workspace, load_workspace
from emo.train.llm.conversations import conversations_page

WORDS = ("happy", "sad", "angry", "neutral")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "data").mkdir()
    rows = [f"c{i},{WORDS[i % 4]},{'train' if i < 6 else 'test'}" for i in range(8)]
    (tmp_path / "data" / "labels.csv").write_text("name,label,split\n" + "\n".join(rows) + "\n")
    said = "".join(f"c{i},I see {i}.\n" for i in range(8))
    (tmp_path / "data" / "transcripts.csv").write_text("name,text\n" + said)
    for i in range(7):
        (tmp_path / "data" / f"c{i}.mp4").write_bytes(b"x")
    (tmp_path / "emo.toml").write_text('[store]\npath = "f.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n')
    return load_workspace(tmp_path)


@pytest.mark.parametrize("recipe", ["videollama2-tiny", "affectgpt", "tiny"])
def test_samples_of_any_recipe(workspace: Workspace, tmp_path: Path, recipe: str) -> None:
    out = tmp_path / "train.json"
    page = conversations_page(workspace, recipe, out, set_=["validation.holdout=0"])
    rows = json.loads(out.read_text())
    assert page.value["conversations"] == len(rows) == 6  # the split test is not trained on
    first = next(row for row in rows if row["id"] == "c0")
    assert first["videos"] == [first["video"]] == [str(tmp_path / "data" / "c0.mp4")]
    human, gpt = first["conversations"]
    assert (human["from"], gpt["from"]) == ("human", "gpt")
    assert human["value"].startswith("<video>\nPlease ")
    assert human["value"].endswith('The person in the video says: "I see 0.".')
    assert "happy" in gpt["value"]
    assert human["value"].count("<") == 1  # no family's own places


def test_a_sound_file_is_no_video(workspace: Workspace, tmp_path: Path) -> None:
    """VideoLLaMA2 takes another sample, without a word, where a video cannot be read."""
    (tmp_path / "data" / "c0.mp4").rename(tmp_path / "data" / "c0.WAV")
    conversations_page(workspace, "affectgpt", tmp_path / "train.json", set_=["validation.holdout=0"])
    rows = {row["id"]: row for row in json.loads((tmp_path / "train.json").read_text())}
    assert rows["c0"].keys() == {"id", "audio", "audios", "conversations"}
    assert rows["c0"]["audios"] == [rows["c0"]["audio"]] == [str(tmp_path / "data" / "c0.WAV")]
    human = rows["c0"]["conversations"][0]["value"]
    assert human.startswith("<audio>\nPlease ")
    assert human.endswith('The person says: "I see 0.".')
    assert rows["c1"].keys() == {"id", "video", "videos", "conversations"}


def test_the_clips_that_are_held_out(workspace: Workspace, tmp_path: Path) -> None:
    page = conversations_page(
        workspace, "videollama2-tiny", tmp_path / "v.json", set_=["validation.split=test"], part="validation"
    )
    rows = json.loads((tmp_path / "v.json").read_text())
    assert [row["conversations"][1]["value"] for row in rows] == ["angry", "neutral"]
    assert page.value["absent"] == 1
    assert rows[1]["video"] == "c7.mp4"


@pytest.mark.parametrize(
    ("recipe", "more", "says"),
    [
        ("logistic", {}, "tunes a language model"),
        ("tiny", {"part": "test"}, "no part 'test'"),
        ("tiny", {"set_": ["validation.holdout=0"], "part": "validation"}, "no clips for validation"),
    ],
)
def test_what_is_refused(workspace: Workspace, tmp_path: Path, recipe: str, more: dict, says: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=says):
        conversations_page(workspace, recipe, tmp_path / "out.json", **more)
    with pytest.raises(UsageError, match="is no folder"):
        conversations_page(workspace, "tiny", tmp_path / "no" / "out.json")


def test_a_file_that_is_there_is_kept(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "data" / "labels.csv"
    before = out.read_text()
    with pytest.raises(UsageError, match=r"labels\.csv exists already"):
        conversations_page(workspace, "tiny", out)
    assert out.read_text() == before
