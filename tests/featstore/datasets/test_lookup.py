"""How a user names clips: names, media files, lists; and what is said of a name that nobody knows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emo.featstore.clip import hash_media
from emo.featstore.datasets import lookup
from emo.featstore.datasets.lookup import changed_files, changed_note, clips_of, find_clips, named_clips
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import Store
from emo.featstore.workspace import Workspace, load_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    media = tmp_path / "data" / "clips"
    media.mkdir(parents=True)
    for name in ("anna", "boris", "chen"):
        (media / f"{name}.mp4").write_bytes(name.encode())
    (tmp_path / "data" / "labels.csv").write_text(
        "name,label,split\nanna,sad,train\nboris,happy,test1\nghost,sad,test1\n"
    )
    (tmp_path / "data" / "transcripts.csv").write_text("name,english\nanna,I am fine.\n")
    (tmp_path / "emo.toml").write_text('[data.own]\nroot = "data"\nkind = "folder"\n')
    return load_workspace(tmp_path)


def test_a_name_is_a_clip_with_all_that_its_dataset_knows(workspace: Workspace) -> None:
    (clip,) = find_clips(workspace, ["anna"])
    assert (clip.id, clip.split, clip.transcripts) == ("anna", "train", {"english": "I am fine."})
    assert find_clips(workspace, ["anna.mp4"]) == [clip]
    (ghost,) = find_clips(workspace, ["ghost"])  # listed without a media file
    assert ghost.media is None


def test_a_file_of_a_dataset_is_that_clip_and_another_file_is_named_by_its_content(
    workspace: Workspace, tmp_path: Path
) -> None:
    (clip,) = find_clips(workspace, [str(tmp_path / "data/clips/anna.mp4")])
    assert clip.id == "anna"
    (tmp_path / "anna.mp4").write_bytes(b"somebody else of that name")
    (other,) = find_clips(workspace, [str(tmp_path / "anna.mp4")])
    assert other.id.startswith("anna@")
    assert other.media == tmp_path / "anna.mp4"
    (tmp_path / "anna.mp4").write_bytes(b"the file has changed")
    assert find_clips(workspace, [str(tmp_path / "anna.mp4")])[0].id not in ("anna", other.id)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "anna\nboris\n\n"),
        ("list.csv", "name,what\nanna.mp4,x\nboris.mp4,y\n"),
        ("NCEV.txt", "anna 35 sad -1.1\nboris 40 happy -10\n"),
    ],
)
def test_lists_of_names(workspace: Workspace, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [clip.id for clip in find_clips(workspace, [str(tmp_path / name), "anna"])] == ["anna", "boris"]


def test_a_split_of_the_datasets_own_labels(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    assert [clip.id for clip in find_clips(workspace, ["labels.csv#test1"])] == ["boris", "ghost"]


def test_an_unknown_name_is_told_with_its_nearest(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'borris' is no clip of the workspace and no media file") as caught:
        find_clips(workspace, ["anna", "borris"])
    assert "Did you mean boris?" in caught.value.hint
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UsageError, match=r"empty.txt is empty"):
        find_clips(workspace, [str(tmp_path / "empty.txt")])


def test_a_path_that_does_not_exist_is_called_so(workspace: Workspace, tmp_path: Path) -> None:
    for word in (str(tmp_path / "nothing.mp4"), "nowhere/nothing", "nothing.MTS"):
        with pytest.raises(UsageError, match=r"There is no file .*nothing") as caught:
            find_clips(workspace, [word])
        assert "path" in caught.value.hint


def test_a_transcript_belongs_to_one_clip(workspace: Workspace) -> None:
    (clip,) = find_clips(workspace, ["anna"], "Oh my.")
    assert clip.transcripts == {"text": "Oh my."}
    with pytest.raises(UsageError, match="One transcript cannot be that of 2 clips"):
        find_clips(workspace, ["anna", "boris"], "Oh my.")


def test_names_that_no_dataset_lists_stay_names(workspace: Workspace) -> None:
    assert [(clip.id, clip.media) for clip in named_clips(workspace, ["stranger"])] == [("stranger", None)]


def test_a_file_that_was_written_again_is_read_to_tell_whether_it_is_another(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, store = clips_of(workspace).values(), Store.create(tmp_path / "s.emo")
    files = {clip.id: clip.media for clip in clips if isinstance(clip.media, Path)}
    with store.writer() as writer:
        for name, file in files.items():
            writer.clip(name, hash_media(file), file)
    assert changed_note(store, clips) == ""
    files["anna"].write_bytes(b"ANNA")  # of the same size
    os.utime(files["boris"], ns=(1, 1))  # copied, say: the same bytes
    files["chen"].write_bytes(b"longer than before")
    assert changed_files(store, clips).others == ["anna", "chen"]
    assert changed_note(store, clips).startswith("2 clips have other files now than the one that the features")
    monkeypatch.setattr(lookup, "READ_BYTES", 4)  # as much as anna has
    found = changed_files(store, clips)
    assert (found.others, found.unread) == (["anna", "chen"], ["boris"])
    assert "1 file was written again in the same size" in changed_note(store, clips)
    for file in files.values():
        file.unlink()
    assert changed_note(store, clips) == ""


def test_a_clip_without_a_file_that_takes_the_features_of_a_file_elsewhere_is_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    clips, store = clips_of(workspace).values(), Store.create(tmp_path / "s.emo")
    theirs = tmp_path / "theirs.mp4"  # of another dataset, which has a clip of this name
    theirs.write_bytes(b"theirs")
    with store.writer() as writer:
        writer.clip("ghost", hash_media(theirs), theirs)
    told = changed_note(store, clips)
    assert told.startswith("1 clip without a media file has the features of a file elsewhere, by name alone: ghost")
    assert f"those of {theirs}." in told
    theirs.unlink()  # it may have been its own, once
    assert changed_note(store, clips) == ""
