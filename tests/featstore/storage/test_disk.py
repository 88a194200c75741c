"""A disk that is full or fails loses nothing that was committed."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.errors import StoreError, StoreFull
from emo.featstore.storage.store import Store

CALLS = ("write", "fsync", "mkdir", "rename", "link", "open")


@pytest.mark.parametrize(
    ("call", "code"), [("write", errno.EDQUOT), *((call, code) for call in CALLS for code in (errno.ENOSPC, errno.EIO))]
)
def test_whatever_call_fails_the_committed_stays_and_a_retry_completes(
    lab: Any, store: Store, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.fill(store, [1])
    path = store.path
    real, left = getattr(os, call), 0

    def fail(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    failures = 0
    for allowed in range(100):
        left = allowed
        writer = Store.open(path).writer()
        monkeypatch.setattr(os, call, fail)
        try:
            lab.put(writer, 2)
            writer.commit()
            break
        except StoreError as error:
            said = error
        finally:
            monkeypatch.undo()
        failures += 1
        assert isinstance(said, StoreFull) == (code != errno.EIO)
        assert "Everything committed is intact" in said.hint
        seen = Store.open(path)
        assert lab.contents(seen) in (lab.expected([1]), lab.expected([1, 2]))  # the last fsync comes after the link
        assert seen.verify() == []
        writer.abandon()
    assert failures >= 1, f"the protocol never calls os.{call}"
    lab.put(writer, 3)  # the same writer goes on
    writer.close()
    store.refresh()
    store.gc()
    assert lab.contents(Store.open(path)) == lab.expected([1, 2, 3])
    assert store.verify() == []


def test_a_writer_goes_on_when_there_is_space_again(lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, space = os.write, 500

    def write(fd: int, data: Any) -> int:
        nonlocal space
        if space <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(fd, data[:space])  # the last write before the disk is full takes only a part
        space -= done
        return done

    writer = store.writer()

    def put_all(clips: range) -> None:
        for i in clips:
            lab.put(writer, i)
        writer.commit()

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreFull, match=r"No space left on device \(writing to the store .*free some space"):
        put_all(range(100))
    monkeypatch.undo()
    assert not list(store.path.glob("writers/*/*-*")), "what was given up takes no space"
    work = store.work(lab.specs, [(f"c{i}", lab.media(i)) for i in range(5)])
    assert all(len(media) == 5 for media in work.values())
    put_all(range(5))
    writer.close()
    expected = lab.expected(range(5))
    assert {key: value for key, value in lab.contents(store).items() if key in expected} == expected


def test_a_full_disk(lab: Any, small_disk: Path) -> None:
    spec = lab.spec("BIG", "utt", 8192, 1)  # 32 KiB each: some 30 fit
    store = Store.create(small_disk / "a.emo")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200 << 10))
    array = np.random.default_rng(0).normal(size=(1, 8192)).astype(np.float32)
    writer = store.writer(commit_every=4)

    def fill() -> None:
        for i in range(100):
            writer.clip(f"c{i}", lab.media(i))
            writer.add(spec, lab.media(i), array + i)

    with pytest.raises(StoreFull):
        fill()
    seen = Store.open(store.path)
    kept = [clip for clip in seen.clips() if seen.has(spec, [clip])[0]]
    assert len(kept) >= 8
    assert seen.verify() == []
    ballast.unlink()
    clip = f"c{len(kept)}"
    writer.add(spec, lab.media(len(kept)), array + len(kept))
    writer.close()
    seen.refresh()
    for i, name in enumerate([*kept, clip]):
        assert (seen.get(spec, name).array == array + i).all()
    assert seen.verify() == []


def test_a_store_on_a_read_only_disk_can_be_read_and_not_written(lab: Any, small_disk: Path) -> None:
    lab.fill(Store.create(small_disk / "a.emo"), range(4), commit_every=2)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    store = Store.open(small_disk / "a.emo")
    assert lab.contents(store) == lab.expected(range(4))
    assert len(store.utterances("HL-UTT", store.clips())) == 4
    assert store.verify() == []
    assert store.info()["clips"] == 4
    for write in (store.writer, store.compact, lambda: Store.create(small_disk / "b.emo")):
        with pytest.raises(StoreError, match="Read-only file system"):
            write()


def test_a_store_that_cannot_be_written_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StoreError, match=r"Read-only file system .*check the disk and its permissions"):
        store.writer()
    with pytest.raises(StoreError, match="Read-only file system"):
        Store.create(store.path.parent / "b.emo")
