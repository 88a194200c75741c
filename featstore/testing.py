"""Contracts of the ground floor, to be run by whoever writes a plug-in: plain functions that raise `AssertionError`.

from emo.featstore.testing import check_dataset, check_medium

def test_my_medium(tmp_path):
    check_medium(lambda: MyMedium(tmp_path / "a.emo"))

def test_my_dataset(tmp_path):
    check_dataset(open_table(DataTable("mine", make_some_files(tmp_path)), CARDS["mine"]))
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from emo.featstore.datasets.base import Dataset
from emo.featstore.errors import StoreCorrupt, StoreError, UsageError
from emo.featstore.storage.medium import Medium

FOLDERS = ("journal", "features.zarr", "writers")


def check_medium(make: Callable[[], Medium]) -> None:
    """Check that a medium keeps what the store relies on.

    Args:
        make: Returns a medium of one and the same place, where there is nothing yet, each time a new object.
    """
    _check_create(make)
    _check_files(make())
    _check_exclusive_create(make)
    _check_lease(make)


def _check_create(make: Callable[[], Medium]) -> None:
    medium = make()
    assert not medium.exists("emo.json")
    medium.create(FOLDERS, {"features.zarr/zarr.json": b"{}", "emo.json": b"[]"})
    assert all(make().exists(each) for each in FOLDERS), "folders are there, though empty"
    assert make().get("emo.json") == b"[]"
    assert _raises(lambda: make().create(FOLDERS, {"emo.json": b"other"}), StoreError)
    assert make().get("emo.json") == b"[]", "what is there stays as it is"


def _check_files(medium: Medium) -> None:
    medium.put("search/a", b"0123456789")
    medium.put("search/a", b"abcdefghij")
    assert medium.get("search/a") == b"abcdefghij"
    assert (medium.get_range("search/a", 2, 3), medium.get_range("search/a", 8, 99)) == (b"cde", b"ij")
    mapped = medium.map("search/a")
    assert (mapped.dtype.name, mapped.tobytes(), mapped.flags.writeable) == ("uint8", b"abcdefghij", False)
    medium.put("search/empty", b"")
    assert medium.map("search/empty").size == 0
    assert sorted(medium.list("search")) == ["a", "empty"], "nothing temporary is left beside them"
    assert medium.list("nowhere") == []
    assert medium.owns("search/a")
    assert medium.modified("search/a") > 0
    for gone in (medium.get, medium.map, medium.modified, lambda name: medium.get_range(name, 0, 1)):
        assert _raises(lambda call=gone: call("search/none"), FileNotFoundError)  # type: ignore[misc]
    for outside in ("../x", "/x", "search/../../x"):
        assert _raises(lambda name=outside: medium.get(name), StoreCorrupt)  # type: ignore[misc]
    assert medium.remove("search/a") == 10
    assert medium.remove("search/a") == 0, "another process may have removed it"
    medium.remove("search")
    assert not medium.exists("search")


def _check_exclusive_create(make: Callable[[], Medium]) -> None:
    medium = make()
    assert medium.put_new("journal/1", b"one", "a")
    assert not medium.put_new("journal/1", b"two", "b")
    assert not medium.put_new("journal/2", b"two", "b", keep=lambda: False)
    assert [medium.list("journal"), medium.get("journal/1")] == [["1"], b"one"]
    for number in range(2, 12):
        won: list[int] = []

        def race(mine: int, number: int = number, won: list[int] = won) -> None:
            if make().put_new(f"journal/{number}", f"{mine}".encode() * 1000, f"w{mine}"):
                won.append(mine)

        racers = [threading.Thread(target=race, args=(each,)) for each in range(4)]
        for each in racers:
            each.start()
        for each in racers:
            each.join()
        assert len(won) == 1, f"{len(won)} writers created one file"
        assert medium.get(f"journal/{number}") == f"{won[0]}".encode() * 1000


def _check_lease(make: Callable[[], Medium]) -> None:
    medium = make()
    lease, other = medium.lease(), make().lease()
    assert lease.name != other.name
    assert len(lease.name) == 32
    assert make().leases() == {lease.name, other.name}
    built = lease.scratch.output("segment/c/0/0")
    built.write(b"rows")
    assert built.finish() == 4
    assert not medium.exists("features.zarr/segment")
    lease.place("segment", "features.zarr/segment")
    medium.sync("features.zarr")
    assert make().get("features.zarr/segment/c/0/0") == b"rows"
    swept = make().sweep()
    assert swept.alive == {lease.name, other.name}, "both are alive"
    assert not swept.ended
    assert not swept.sizes
    lease.close()
    other.close()
    assert make().leases() == set()
    assert make().sweep().sizes == ()
    assert medium.get("features.zarr/segment/c/0/0") == b"rows", "what was placed outlives its lease"


def check_dataset(dataset: Dataset) -> None:
    """Check that a dataset, opened on files that it can read, keeps what the rest of emo relies on."""
    clips = list(dataset.clips())
    assert clips, "a dataset to check needs clips"
    assert list(dataset.clips()) == clips, "reading twice gives the same"
    assert len({clip.id for clip in clips}) == len(clips), "a clip's id is its own"
    assert {clip.dataset for clip in clips} == {dataset.name}
    assert {clip.split for clip in clips} <= {*dataset.splits, dataset.pool}
    assert all(clip.media is None or clip.media.is_file() for clip in clips), "media that is absent is None"
    assert all(text.strip() for clip in clips for text in clip.transcripts.values()), "an empty transcript is absent"
    words = {clip.label.emotion for clip in clips if clip.label is not None and clip.label.emotion is not None}
    assert words <= set(dataset.labels)
    members: dict[str, list[str]] = {}
    for clip in clips:
        members.setdefault(clip.split, []).append(clip.id)
    assert {split: list(ids) for split, ids in dataset.members().items()} == members
    for split in dataset.splits:
        assert dataset.find_split(split.upper()) == split
    assert _raises(lambda: dataset.find_split("no such split"), UsageError)
    assert dataset.find_file("../../x") is None, "no file is looked for outside of the root"
    check = dataset.check()
    present = [clip for clip in clips if clip.media is not None]
    assert (check.present, check.labelled + check.unlabelled) == (len(present), len(present))
    assert check.size_bytes == sum(clip.media.stat().st_size for clip in present if clip.media is not None)


def _raises(call: Callable[[], object], kind: type[Exception]) -> bool:
    try:
        call()
    except kind:
        return True
    return False
