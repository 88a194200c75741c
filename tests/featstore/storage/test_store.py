"""The store's questions and answers."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import FileId
from emo.featstore.errors import FeatureMissing, MediaError, StoreCorrupt, StoreError, UsageError
from emo.featstore.looking import looking
from emo.featstore.storage import reader
from emo.featstore.storage.store import Store, open_store


def test_what_was_written_is_read_with_its_times_and_origin(lab: Any, store: Store) -> None:
    lab.fill(store, range(10), commit_every=3)
    for seen in (store, Store.open(store.path), pickle.loads(pickle.dumps(store))):
        assert lab.contents(seen) == lab.expected(range(10))
    feature = store.get("HL-FRA", "c4")
    assert (feature.spec, feature.clip, feature.media) == (lab.frame, "c4", lab.media(4))
    assert feature.times_s == pytest.approx(0.04 + 0.02 * np.arange(len(feature.array)))
    assert store.get("HL-UTT", "c4").times_s is None


def test_utterances_come_in_the_order_asked_for(lab: Any, store: Store) -> None:
    lab.fill(store, range(10), commit_every=3)
    order = [7, 0, 7, 3]
    found = store.utterances("HL-UTT", [f"c{i}" for i in order])
    assert found.dtype == np.float32
    assert (found == np.concatenate([lab.record(lab.utt, lab.media(i)) for i in order])).all()
    assert store.utterances("HL-UTT", []).shape == (0, 8)


def test_read_into_fills_the_callers_buffer_in_the_order_asked_for(lab: Any, store: Store) -> None:
    lab.fill(store, range(10), commit_every=3)
    order = [7, 0, 7, 3]
    buffer = np.full((6, 5, 6), np.nan, np.float32)
    store.read_into("eva_g_448", [f"c{i}" for i in order], buffer[1:5])
    for row, i in zip(buffer[1:5], order, strict=True):
        assert (row == lab.stored(lab.tokens, lab.media(i))).all()
    assert np.isnan(buffer[[0, 5]]).all()
    with pytest.raises(UsageError, match=r"\(4, 5, 7\) does not fit .* needs \(4, 5, 6\)"):
        store.read_into("eva_g_448", ["c0"] * 4, np.empty((4, 5, 7)))
    with pytest.raises(UsageError, match="differ in length"):
        store.read_into("HL-FRA", ["c0", "c1", "c2"], np.empty((3, 1, 4)))


def test_a_store_of_many_segments_needs_few_open_files(lab: Any, store: Store) -> None:
    lab.fill(store, range(60), commit_every=1)  # 60 segments of each feature
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
from emo.featstore.storage.store import Store
store = Store.open(sys.argv[1])
ids = [f"c{i}" for i in range(60)]
print(store.utterances("HL-UTT", ids).shape, sum(len(store.get("eva_g_448", i).array) for i in ids), store.verify())
"""
    said = subprocess.run([sys.executable, "-c", script, str(store.path)], capture_output=True, text=True)
    assert said.stdout.split("\n")[0] == "(60, 8) 300 []", said.stderr


def test_missing_clips_are_an_error_that_lists_them_unless_a_policy_is_named(lab: Any, store: Store) -> None:
    with store.writer() as writer:
        lab.put(writer, 0)
        lab.put(writer, 1, [lab.frame])
        writer.clip("c2", lab.media(2))
        writer.fail(lab.utt, "c2", MediaError("no-audio", "c2 has no sound."))
    clips = ["c1", "c0", "c2", "c3"]
    with pytest.raises(FeatureMissing) as caught:
        store.utterances("HL-UTT", clips)
    assert "3 of 4 clips have no HL-UTT@" in str(caught.value)
    assert "c1 (not extracted), c2 (no-audio), c3 (unknown)" in str(caught.value)
    with pytest.raises(FeatureMissing, match=r"40 of 40 .*x0 .* and 35 more"):
        store.utterances("HL-UTT", [f"x{i}" for i in range(40)])
    truth = lab.record(lab.utt, lab.media(0))
    assert (store.utterances("HL-UTT", clips, missing="skip") == truth).all()
    zeros = store.utterances("HL-UTT", clips, missing="zeros")
    assert (zeros[1] == truth).all()
    assert not zeros[[0, 2, 3]].any()
    assert store.has("HL-UTT", clips).tolist() == [False, True, False, False]
    with pytest.raises(UsageError, match="error, skip, zeros"):
        store.utterances("HL-UTT", clips, missing="nan")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="level tokens"):
        store.utterances("eva_g_448", ["c0"])
    for read in (lambda: store.get("HL-UTT", "c3"), lambda: store.read_into("eva", ["c3"], np.empty((1, 5, 6)))):
        with pytest.raises(FeatureMissing, match="c3"):
            read()
    other = replace(lab.utt, profile="paper")
    with pytest.raises(FeatureMissing, match=r"other recipes of HL-UTT are: HL-UTT@.*tiny"):
        store.get(other, "c0")


def test_work_is_wanted_less_ok_less_failed_for_good(lab: Any, store: Store) -> None:
    again, hopeless = MediaError("no-space", "Full.", retry=True), MediaError("not-media", "Text.")
    with store.writer() as writer:
        lab.put(writer, 0, [lab.utt])
        writer.fail(lab.utt, lab.media(1), again)
        writer.fail(lab.utt, lab.media(2), hopeless)
    clips = [(f"c{i}", lab.media(i)) for i in range(4)]
    media = [lab.media(i) for i in range(4)]
    assert store.work([lab.utt], clips) == {lab.utt.key: {media[1], media[3]}}
    assert store.work([lab.utt], clips, retry_failed=True) == {lab.utt.key: set(media[1:])}
    assert store.work([lab.frame], clips) == {lab.frame.key: set(media)}
    assert [store.status(lab.utt, each) for each in media] == ["ok", "failed", "failed", "missing"]
    assert store.status(lab.utt, "c0") == "ok"


def test_the_same_media_under_two_ids_is_computed_once(lab: Any, store: Store) -> None:
    clips = [("a", lab.media(1)), ("b", lab.media(1))]
    assert store.work([lab.utt], clips) == {lab.utt.key: {lab.media(1)}}
    with store.writer() as writer:
        for clip, media in clips:
            writer.clip(clip, media)
        writer.add(lab.utt, lab.media(1), lab.record(lab.utt, lab.media(1)))
    a, b = store.utterances("HL-UTT", ["a", "b"])
    assert (a == b).all()
    assert store.features()[0].ok == 1


def test_ok_overrides_failed_and_a_later_failure_hides_nothing(lab: Any, store: Store) -> None:
    error = MediaError("no-face", "No face in any frame.")
    for step in ("fail", "ok", "fail"):
        with store.writer() as writer:
            writer.clip("c1", lab.media(1))
            if step == "ok":
                lab.put(writer, 1, [lab.utt])
            else:
                writer.fail(lab.utt, "c1", error)
        if step == "fail" and not store.has("HL-UTT", ["c1"])[0]:
            (failure,) = store.failures()
            assert (failure.clip, failure.media, failure.kind, failure.retry) == ("c1", lab.media(1), "no-face", False)
            assert failure.message == "No face in any frame."
    assert store.status(lab.utt, "c1") == "ok"
    assert store.failures() == []
    assert store.features()[0].failed == 0


def test_the_latest_of_two_records_wins(lab: Any, store: Store) -> None:
    for version in (1, 2):
        with store.writer() as writer:
            lab.put(writer, 1, [lab.utt], version)
    assert (store.get("HL-UTT", "c1").array == lab.record(lab.utt, lab.media(1), 2)).all()
    assert store.verify() == []


def test_a_listed_clip_without_a_file_can_fail_too(lab: Any, store: Store) -> None:
    with store.writer() as writer:
        writer.fail(lab.utt, "gone", MediaError("absent", "There is no such file.", retry=True))
    (failure,) = store.failures()
    assert (failure.clip, failure.media, store.status(lab.utt, "gone")) == ("gone", "", "failed")
    with store.writer() as writer:
        writer.clip("gone", lab.media(3))
    assert store.failures() == []
    assert store.status(lab.utt, "gone") == "missing"


def test_new_content_at_the_same_path_is_a_new_version(lab: Any, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "c1.mp4"
    path.write_bytes(b"old")
    with store.writer() as writer:
        writer.clip("c1", lab.media(1), path)
        writer.add(lab.utt, lab.media(1), lab.record(lab.utt, lab.media(1)))
        writer.fail(lab.frame, "c1", MediaError("truncated", "It ends early."))
    path.write_bytes(b"new content")
    with store.writer() as writer:
        writer.clip("c1", lab.media(2), path)
    assert store.work([lab.utt], [("c1", lab.media(2))]) == {lab.utt.key: {lab.media(2)}}
    assert not store.has("HL-UTT", ["c1"])[0]
    assert store.failures() == []  # the file that failed is no more


def test_a_clip_id_that_names_another_file_is_refused(lab: Any, store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with store.writer() as writer:
        writer.clip("c1", lab.media(1), tmp_path / "a")
        writer.clip("c1", lab.media(1), tmp_path / "b")  # moved, same content: fine
        with pytest.raises(StoreError, match=r"c1 already names another file: .*/b, not .*/a.*one store per dataset"):
            writer.clip("c1", lab.media(2), tmp_path / "a")
        with pytest.raises(StoreError, match=r"c1 already names another file: .*/b, not content without a file"):
            writer.clip("c1", lab.media(2))
    late = Store.open(store.path).writer()
    with store.writer() as writer:
        writer.clip("c2", lab.media(3), tmp_path / "a")
    late.clip("c2", lab.media(4), tmp_path / "b")
    with pytest.raises(StoreError, match="c2 already names another file"):  # found when the other commit is replayed
        late.close()
    assert Store.open(store.path).clip_row("c2")[:2] == (lab.media(3), str(tmp_path / "a"))  # type: ignore[index]


def test_a_media_hash_is_remembered_while_size_and_time_stay(lab: Any, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ein Clip mit Umlaut ü.mp4"
    path.write_bytes(b"bytes")
    assert store.file_of(path) is None
    with store.writer() as writer:
        writer.clip("c1", lab.media(1), path)
    found = Store.open(store.path).file_of(os.path.relpath(path))
    assert store.file_of(path) == found
    assert found.media == lab.media(1)
    os.utime(path, ns=(0, 1))
    assert store.file_of(path) is None
    path.unlink()
    assert store.file_of(path) is None


def test_files_are_told_by_one_state_of_the_store_though_another_comes_while_they_are_looked_at(
    lab: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another process compacts: media have other numbers then."""
    files = [(f"c{i}", tmp_path / f"{i}") for i in range(3)]
    for _, path in files:
        path.touch()
    other = Store.create(tmp_path / "b.emo")
    for each, order in ((store, files), (other, files[::-1])):
        with each.writer() as writer:
            for clip, path in order:
                writer.clip(clip, FileId(lab.media(int(clip[1])), 0, path.stat().st_mtime_ns), path)
                writer.add(lab.utt, lab.media(int(clip[1])), lab.record(lab.utt, lab.media(1)))

    @contextmanager
    def slowly(paths: Any) -> Iterator[Any]:
        with looking(paths) as (texts, looked):
            yield texts, lambda: (setattr(store, "_index", other.index), looked())[1]

    monkeypatch.setattr(reader, "looking", slowly)
    found = store.files_of(files)
    assert [each and each.media for each in found] == [lab.media(i) for i in range(3)]
    store._index = None
    assert store.lacking([lab.utt], files) == {}
    store._index = None
    assert store.lacking([lab.utt, lab.frame], files) == dict(enumerate(found))


def test_nothing_new_makes_no_commit(lab: Any, store: Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for _ in range(3):
        with store.writer() as writer:
            writer.clip("c1", lab.media(1), tmp_path / "x")
    assert store.info()["commits"] == 1
    with store.writer() as writer:
        lab.put(writer, 2)
        writer.fail(lab.utt, "c1", MediaError("no-audio", "Silent."))
        for _ in range(3):
            writer.commit()
    assert store.info()["commits"] == 2


def test_commits_come_by_count_by_time_and_at_the_end(lab: Any, store: Store) -> None:
    other = Store.open(store.path)

    def seen() -> int:
        other.refresh()
        return len(other.clips())

    with store.writer(commit_every=2) as writer:
        lab.put(writer, 0, [lab.utt])
        assert seen() == 0
        lab.put(writer, 1, [lab.utt])
        assert seen() == 2
        lab.put(writer, 2, [lab.utt])
        assert seen() == 2
    assert seen() == 3
    with store.writer(commit_every_s=0) as writer:
        lab.put(writer, 3, [lab.utt])
        assert seen() == 4
    with pytest.raises(StoreError, match="closed"):
        lab.put(writer, 4)


def test_an_exception_inside_the_writer_gives_up_what_is_not_committed(lab: Any, store: Store) -> None:
    def interrupted() -> None:
        with store.writer() as writer:
            lab.put(writer, 0)
            writer.commit()
            lab.put(writer, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lab.contents(Store.open(store.path)) == lab.expected(range(1))
    assert os.listdir(store.path / "writers") == []
    assert store.gc().size_bytes == 0


@pytest.mark.parametrize(
    ("spec", "array", "said"),
    [
        ("utt", np.zeros((1, 9)), r"float64 \(1, 9\), not float \(1, 8\)"),
        ("utt", np.zeros(8), r"\(8,\)"),
        ("utt", np.zeros((2, 8)), r"\(2, 8\)"),
        ("utt", np.zeros((1, 8), int), "int64"),
        ("frame", np.zeros((0, 4)), r"\(0, 4\), not float \(T, 4\)"),
        ("tokens", np.zeros((4, 6)), r"\(5, 6\)"),
        ("utt", np.full((1, 8), np.nan), "not finite"),
        ("utt", np.full((1, 8), 1e300), "not finite"),
        ("tokens", np.full((5, 6), np.inf), "not finite"),
        ("tokens", np.full((5, 6), -np.inf, np.float16), "not finite"),
        ("tokens", np.full((5, 6), np.nan, np.float16), "not finite"),
        ("tokens", -np.full((5, 6), np.nan, np.float16), "not finite"),
    ],
)
def test_an_array_that_is_not_the_feature_is_refused(
    lab: Any, store: Store, spec: str, array: np.ndarray, said: str
) -> None:
    with store.writer() as writer:
        with pytest.raises(StoreError, match=said):
            writer.add(getattr(lab, spec), lab.media(1), array)
        lab.put(writer, 2)
    assert lab.contents(store) == lab.expected([2])


def test_utt_is_float32_and_the_rest_float16_while_finite(lab: Any, store: Store) -> None:
    with store.writer() as writer:
        for i, value in enumerate((1.0, 65504.0, 1e5)):
            writer.clip(f"c{i}", lab.media(i))
            for spec in lab.specs:
                writer.add(spec, lab.media(i), np.full((spec.rows or 2, spec.dim), value, np.float64))
    dtypes = [[store.get(spec, f"c{i}").array.dtype.name for i in range(3)] for spec in lab.specs]
    assert dtypes == [["float32"] * 3, ["float16", "float16", "float32"], ["float16", "float16", "float32"]]
    assert store.get(lab.tokens, "c2").array.max() == 1e5


def test_every_float16_that_is_finite_is_kept_as_it_is(lab: Any, store: Store) -> None:
    every = np.arange(1 << 16, dtype="u2").view(np.float16)
    finite = every[np.isfinite(every)][:, None]
    spec = lab.spec("all", "frame", 1, None)
    with store.writer() as writer:
        writer.clip("c1", lab.media(1))
        writer.add(spec, lab.media(1), finite)
    found = store.get(spec, "c1").array
    assert found.dtype == np.float16
    assert found.tobytes() == finite.tobytes()


def test_the_first_clip_that_names_the_media_is_its_clip_while_it_means_that(
    lab: Any, store: Store, tmp_path: Path
) -> None:
    one, two = lab.media(1), lab.media(2)
    with store.writer() as writer:
        for clip, media in (("a", one), ("b", two), ("c", one)):
            writer.clip(clip, FileId(media, 1, 1), tmp_path / clip)
    assert [store.clip_of(media) for media in (one, two, lab.media(3))] == ["a", "b", None]
    with store.writer() as writer:
        writer.clip("a", FileId(two, 2, 2), tmp_path / "a")
    for seen in (store, Store.open(store.path)):
        assert [seen.clip_of(media) for media in (one, two)] == ["c", "a"]
    with store.writer() as writer:
        writer.clip("c", FileId(two, 3, 3), tmp_path / "c")
    assert store.clip_of(one) is None


def test_utterances_follow_what_is_committed_meanwhile(lab: Any, store: Store) -> None:
    lab.fill(store, range(2))
    assert len(store.utterances("HL-UTT", ["c0", "c1"])) == 2
    with store.writer() as writer:
        writer.clip("again", lab.media(1))  # no new record
    truth = [lab.record(lab.utt, lab.media(i))[0] for i in range(3)]
    assert (store.utterances("HL-UTT", ["again", "c0"]) == truth[1::-1]).all()
    with store.writer() as writer:
        lab.put(writer, 2, [lab.utt])
        lab.put(writer, 3, [lab.frame])
    found = store.utterances("HL-UTT", ["c2", "c3", "again"], missing="zeros")
    assert (found == [truth[2], np.zeros(8), truth[1]]).all()
    with store.writer() as writer:
        lab.put(writer, 2, [replace(lab.utt, profile="paper")])
    with pytest.raises(StoreError, match="means 2 features"):  # a name is not remembered longer than it is clear
        store.utterances("HL-UTT", ["c2"])


def test_a_version_changes_with_the_records_of_its_feature_and_with_what_clips_mean(lab: Any, store: Store) -> None:
    lab.fill(store, range(3))
    seen = [(store.version(lab.utt), store.version(lab.tokens))]

    def commit(write: Any) -> tuple[bool, bool]:
        """Commit, and say which versions have changed."""
        with store.writer() as writer:
            write(writer)
        seen.append((store.version(lab.utt), store.version(lab.tokens)))
        return seen[-1][0] != seen[-2][0], seen[-1][1] != seen[-2][1]

    media = lab.media(1)
    assert commit(lambda writer: writer.add(lab.utt, media, lab.record(lab.utt, media))) == (True, False)
    assert commit(lambda writer: writer.clip("c1", FileId(media, 5, 5))) == (False, False)  # the same content
    assert commit(lambda writer: writer.clip("c1", FileId(lab.media(2), 5, 5))) == (True, True)
    assert commit(lambda writer: writer.clip("new", FileId(lab.media(2), 5, 5))) == (True, True)
    store.compact()
    store.refresh()
    assert store.version(lab.utt) not in [utt for utt, _ in seen]


def test_what_is_counted_and_what_failed_are_those_of_the_newest_commit(lab: Any, store: Store) -> None:
    lab.fill(store, range(3))
    before = store.features()
    before.clear()  # a list of the caller's own
    counts = {each.key: each.ok for each in store.features()}
    with Store.open(store.path).writer() as other:
        for i, name in ((7, "c7"), (8, "c8")):
            other.clip(name, FileId(lab.media(i), 1, 1))
            other.fail(lab.utt, name, MediaError("no-face", f"None in {name}."))
        other.clip("c9", FileId(lab.media(9), 1, 1))
        other.add(lab.utt, lab.media(9), lab.record(lab.utt, lab.media(9)))
    assert {each.key: each.ok for each in store.features()} == counts
    store.refresh()
    assert {each.key: each.ok for each in store.features()} == counts | {lab.utt.key: counts[lab.utt.key] + 1}
    assert next(each.failed for each in store.features() if each.key == lab.utt.key) == 2
    for name in ("c7", "c8", "c0", "nobody"):
        assert store.failures(name) == [each for each in store.failures() if each.clip == name]
    assert [each.message for each in store.failures("c7")] == ["None in c7."]


def test_two_recipes_of_one_name_live_side_by_side(lab: Any, store: Store) -> None:
    paper = replace(lab.utt, profile="paper")
    with store.writer() as writer:
        lab.put(writer, 0, [lab.utt])
        writer.add(paper, lab.media(0), np.ones((1, 8)))
    with pytest.raises(StoreError, match=f"{lab.utt.key}.*\n.*{paper.key}"):
        store.get("HL-UTT", "c0")
    assert (store.get(paper.key, "c0").array == 1).all()
    assert (store.get(lab.utt, "c0").array == lab.record(lab.utt, lab.media(0))).all()


def test_opening_says_what_is_wrong(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match=r"no feature store at .*none\.emo\. Run `emo extract`"):
        Store.open(tmp_path / "none.emo")
    with pytest.raises(StoreError, match="exists already"):
        Store.create(store.path)
    meta = store.path / "emo.json"
    text = meta.read_text()
    meta.write_text(text.replace('"schema": 2', '"schema": 3'))
    with pytest.raises(StoreError, match=r"schema 3; this emo reads 1 to 2\. Install a newer emo"):
        Store.open(store.path)
    for damage in ("", "{}", "[]", text[:-1]):
        meta.write_text(damage)
        with pytest.raises(StoreCorrupt, match=r"emo\.json is damaged"):
            Store.open(store.path)
    assert open_store(tmp_path / "new" / "b.emo", create=True).clips() == []
    assert open_store(tmp_path / "new" / "b.emo", create=True).clips() == []
    assert os.listdir(tmp_path / "new") == ["b.emo"]


def test_reading_writes_nothing(lab: Any, store: Store) -> None:
    lab.fill(store, range(3))
    paths = [store.path, *store.path.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    seen = Store.open(store.path)
    assert lab.contents(seen) == lab.expected(range(3))
    assert seen.verify() == []
    assert seen.info()["clips"] == 3
    seen.utterances("HL-UTT", seen.clips())
    assert {path: path.stat().st_mtime_ns for path in [store.path, *store.path.rglob("*")]} == before
    for path in paths:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_a_store_can_be_moved(lab: Any, store: Store, tmp_path: Path) -> None:
    lab.fill(store, range(3))
    shutil.move(store.path, tmp_path / "moved.emo")
    assert lab.contents(Store.open(tmp_path / "moved.emo")) == lab.expected(range(3))


def test_twenty_thousand_clips(lab: Any, store: Store) -> None:
    """A smoke test without a stopwatch: many rows are written, replayed, asked for and read in one go."""
    n, spec = 20_000, lab.spec("x", "utt", 1, 1)
    with store.writer(commit_every=5000, commit_every_s=1e9) as writer:
        for i in range(n):
            writer.clip(f"c{i}", lab.media(i))
            writer.add(spec, lab.media(i), np.full((1, 1), i, np.float32))
    seen = Store.open(store.path)
    clips = [f"c{i}" for i in reversed(range(n))]
    assert (seen.utterances(spec, clips)[:, 0] == np.arange(n)[::-1]).all()
    assert seen.work([spec], [(clip, lab.media(i)) for i, clip in enumerate(seen.clips())]) == {spec.key: set()}
    assert seen.info()["commits"] == 4
