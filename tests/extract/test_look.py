"""Sheets of what features have seen: of drawn clips, of clips that cannot be read, and of failures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emo.extract.demo import generate_clip
from emo.extract.look import look_page, see, sheet
from emo.extract.session import face_config
from emo.featstore.clip import Clip, hash_media
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.workspace import Workspace, load_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One drawn face, and a file that is cut off."""
    root = tmp_path_factory.mktemp("look")
    (root / "data").mkdir()
    generate_clip(root / "data/face.mp4", "happy", seed=3, duration_s=0.6)
    (root / "data/cut.mp4").write_bytes((root / "data/face.mp4").read_bytes()[:4000])
    (root / "emo.toml").write_text('[store]\npath = "a.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n')
    return load_workspace(root)


def test_a_sheet_shows_the_face_where_it_is_and_what_was_cut_out(workspace: Workspace) -> None:
    path = workspace.root / "data/face.mp4"
    seen = see(workspace, Clip("face", path), face_config(workspace).open_detector())
    assert seen.problems == []
    assert seen.chosen is not None
    assert seen.crops is not None
    assert len(seen.crops) == len(seen.chosen.index)
    assert seen.facts["picture"].endswith("per second")
    drawn = np.asarray(sheet(seen)).astype(int)
    assert drawn.shape[1] == 1200
    green = (np.abs(drawn - (0x1A, 0x98, 0x50)).max(axis=2) < 40).any(axis=1)
    assert green[:200].any()  # a box in the frames
    assert green[200:].any()  # the line of the person who was chosen
    blank = sheet(see(workspace, Clip("nowhere"), None))
    assert (np.asarray(blank) == 255).all()


def test_words_on_a_sheet_stand_apart(workspace: Workspace) -> None:
    seen = see(workspace, Clip("face", workspace.root / "data/face.mp4"), face_config(workspace).open_detector())
    drawn = np.asarray(sheet(seen).convert("L"))
    wave = drawn[-12 - 94 : -94]  # the line above the sound: "sound, 0.60 s, loudest sample 0.123"
    people = drawn[-12 - 94 - 12 - 28 : -94 - 12 - 28]  # "who is seen when"
    for line, words in ((wave, 6), (people, 4)):
        inked = np.flatnonzero((line < 220).any(axis=0))
        assert (np.diff(inked) > 3).sum() == words - 1


def test_a_clip_that_cannot_be_read_says_why_beside_the_others(workspace: Workspace, tmp_path: Path) -> None:
    said: list[str] = []
    page = look_page(workspace, said.append, ["face", "cut"], out=tmp_path / "sheets")
    rows = {row["clip"]: row for row in page.value}
    assert not rows["face"]["problems"]
    assert rows["cut"]["problems"]
    assert any(line.startswith("cut: ") for line in map(str, page.parts))
    for row in rows.values():
        assert Image.open(row["file"]).width == 1200
    assert json.loads((tmp_path / "sheets/metrics.json").read_text()) == page.value
    assert "data:image/png" in (tmp_path / "sheets/report.html").read_text()


def test_failures_are_looked_at_with_what_the_extraction_said(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no store yet"):
        look_page(workspace, print, failures=True)
    with pytest.raises(UsageError, match="Name clips, or give --failures"):
        look_page(workspace, print)
    store = Store.create(workspace.store_path)
    with pytest.raises(UsageError, match="No clip has failed"):
        look_page(workspace, print, failures=True)
    path = workspace.root / "data/face.mp4"
    with store.writer() as writer:
        writer.clip("face", hash_media(path), path)
        for name in ("mae_340_UTT", "maeV_399_UTT"):
            spec = EncoderSpec(name, "mae", "face", "utt", 4, 1, "tiny", "seed:0")
            writer.fail(spec, "face", MediaError("no-face", "Nobody is there."))
        writer.fail(replace(spec, name="HL-UTT"), "face", MediaError("no-sound", "Nothing is heard."))
    (row,) = look_page(workspace, print, failures=True, out=tmp_path / "failed").value
    assert row["problems"] == [
        "mae_340_UTT, maeV_399_UTT: no-face: Nobody is there.",
        "HL-UTT: no-sound: Nothing is heard.",
    ]
