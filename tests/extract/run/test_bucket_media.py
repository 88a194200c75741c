"""Clips and labels in a bucket: found, extracted, resumed and refused as those on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("obstore", reason="media in a bucket need the extra `cloud`")
pytest.importorskip("moto", reason="the S3 of these tests is moto's")

from buckets import Front, served

from emo.extract.demo import EMOTIONS, generate_clip
from emo.extract.run.plan import Shard, plan
from emo.extract.session import ExtractArgs, Session, open_session
from emo.featstore import fetch
from emo.featstore.address import Url
from emo.featstore.datasets import mirror, open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.storage import bucket
from emo.featstore.storage.mediums import open_medium
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import DataTable, load_workspace

ROOT = "s3://bucket/data"
TOML = '[store]\npath = {store}\n[data.folder]\nroot = {root}\n[extract]\nprofile = "tiny"\nencoders = ["HL-UTT"]\n'


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    monkeypatch.setenv("EMO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(bucket, "PATIENCE_S", (0.0,) * 3)
    with served() as (endpoint, found):
        names = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        mirror.mirrored.cache_clear()
        fetch._medium.cache_clear()
        yield found
    mirror.mirrored.cache_clear()


def session(folder: Path, root: str, store: str = "mine.emo") -> Session:
    folder.mkdir(exist_ok=True)
    (folder / "emo.toml").write_text(TOML.format(store=f'"{store}"', root=f'"{root}"'))
    mirror.mirrored.cache_clear()
    return open_session(load_workspace(folder), ExtractArgs(workers=1))


def test_clips_in_a_bucket_give_what_clips_on_a_disk_give(front: Front, tmp_path: Path) -> None:
    medium, data = open_medium(ROOT), tmp_path / "data"
    data.mkdir()
    for i in range(3):
        generate_clip(data / f"clip_{i}.mp4", list(EMOTIONS)[i], seed=i)
    (data / "labels.csv").write_text("name,label\nclip_0,happy\nclip_1,sad\nclip_2,happy\n")
    (data / "broken.mp4").write_bytes(b"no video")
    for path in data.iterdir():
        medium.put(path.name, path.read_bytes())
    far, near = session(tmp_path / "far", ROOT), session(tmp_path / "near", str(data))
    assert (far.plan.total, len(far.plan.jobs)) == (near.plan.total, len(near.plan.jobs)) == (4, 4)
    front.asked.clear()
    progress = far.run().progress
    near.run()
    read = [path for method, path in front.asked if method == "GET" and path.endswith("clip_1.mp4")]
    assert len(read) == 1, "a clip is read once"
    assert (progress.stored, dict(progress.failed)) == (3, {"not-media": 1}), "a broken clip costs itself alone"
    here, there = open_store(tmp_path / "near" / "mine.emo"), open_store(tmp_path / "far" / "mine.emo")
    for i in range(3):
        one, other = here.get("HL-UTT", f"clip_{i}"), there.get("HL-UTT", f"clip_{i}")
        assert one.media == other.media
        assert np.array_equal(one.array, other.array)
    assert there.clip_row("clip_0")[1] == f"{ROOT}/clip_0.mp4"  # type: ignore[index]

    front.asked.clear()
    assert session(tmp_path / "far", ROOT).plan.jobs == []
    assert not any(path.endswith(".mp4") for _, path in front.asked), "a resume reads no media"
    table = load_workspace(tmp_path / "far").table()
    check = open_dataset(table.name, table).check()
    assert (check.present, check.labelled) == (4, 3)

    medium.put("clip_1.mp4", (data / "clip_2.mp4").read_bytes())
    medium.remove("clip_0.mp4")
    changed = session(tmp_path / "far", ROOT).plan
    assert ([job.clip.id for job in changed.jobs], changed.absent) == (["clip_1"], 1)


def test_a_clip_that_cannot_be_fetched_fails_alone_and_is_tried_again(front: Front, tmp_path: Path) -> None:
    medium = open_medium(ROOT)
    for i in range(2):
        generate_clip(tmp_path / "one.mp4", list(EMOTIONS)[i], seed=i)
        medium.put(f"a/clip_{i}.mp4", (tmp_path / "one.mp4").read_bytes())
    work = session(tmp_path / "w", ROOT, "s3://bucket/mine.emo")
    front.fault = lambda method, path: "500" if path.endswith("clip_0.mp4") else ""
    progress = work.run().progress
    assert (progress.stored, dict(progress.failed)) == (1, {"unreadable": 1})
    front.fault = lambda method, path: ""
    again = session(tmp_path / "w", ROOT, "s3://bucket/mine.emo")
    assert [job.clip.id for job in again.plan.jobs] == ["clip_0"]
    assert again.run().progress.stored == 1
    assert open_store("s3://bucket/mine.emo").verify() == []


def test_shards_of_a_bucket_are_disjoint_and_complete_without_reading(front: Front, tmp_path: Path) -> None:
    medium = open_medium(ROOT)
    for i in range(20):
        medium.put(f"c{i}.wav", bytes([i // 2]) * 100)
    table = load_table(tmp_path)
    clips = list(open_dataset(table.name, table).clips())
    assert all(isinstance(clip.media, Url) for clip in clips)
    front.asked.clear()
    parts = [set(plan(None, clips, [], shard=Shard(k, 3)).clips) for k in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(clip.id for clip in clips)
    assert all(
        {f"c{i}", f"c{i + 1}"} <= part or not {f"c{i}", f"c{i + 1}"} & part for part in parts for i in range(0, 20, 2)
    )
    assert front.asked == []


def load_table(folder: Path) -> DataTable:
    (folder / "emo.toml").write_text(TOML.format(store='"mine.emo"', root=f'"{ROOT}"'))
    return load_workspace(folder).table()


def test_a_root_with_nothing_in_it_is_refused(front: Front, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is nothing at s3://bucket/data"):
        session(tmp_path / "w", ROOT)
