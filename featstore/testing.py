"""Contracts of the ground floor, to be run by whoever writes a plug-in: plain functions that raise `AssertionError`.

from emo.featstore.testing import check_dataset, check_layout, check_medium

def test_my_medium(tmp_path):
    check_medium(lambda: MyMedium(tmp_path / "a.emo"))

def test_my_dataset(tmp_path):
    check_dataset(open_table(DataTable("mine", make_some_files(tmp_path)), CARDS["mine"]))

def test_my_layout(tmp_path):
    check_layout(LAYOUT, tmp_path)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.clip import Clip, Label
from emo.featstore.datasets.base import Dataset
from emo.featstore.errors import EmoError, StoreCorrupt, StoreError, UsageError
from emo.featstore.interop.base import Found, Layout
from emo.featstore.interop.exporter import ExportReport, export_features
from emo.featstore.interop.importer import import_features
from emo.featstore.spec import RECORD_LEVEL, EncoderSpec
from emo.featstore.storage.medium import Medium
from emo.featstore.storage.reader import Feature
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store

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
    assert (len(mapped), mapped[2:4].tobytes(), mapped[-3:].tobytes()) == (10, b"cd", b"hij")
    whole = mapped[:]
    assert (whole.dtype.name, whole.tobytes(), whole.flags.writeable) == ("uint8", b"abcdefghij", False)
    medium.put("search/empty", b"")
    assert len(medium.map("search/empty")) == 0
    assert medium.get_range("search/empty", 0, 5) == b""
    assert sorted(medium.list("search")) == ["a", "empty"], "nothing temporary is left beside them"
    assert medium.list("search", after="a") == ["empty"]
    assert medium.list("search", after="empty") == medium.list("nowhere") == []
    assert (
        list(medium.in_parallel(lambda name: medium.get(f"search/{name}"), ["a", "empty"] * 20))
        == [b"abcdefghij", b""] * 20
    )
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
    files = [clip.media for clip in clips if isinstance(clip.media, Path)]
    assert all(each.is_file() for each in files), "media that is absent is None"
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
    assert check.size_bytes == sum(each.stat().st_size for each in files) or len(files) < len(present)


# ---- layouts --------------------------------------------------------------------------------------------------------


def _spec(name: str, modality: str, level: str, dim: int, rows: int | None) -> EncoderSpec:
    return EncoderSpec(name, "tiny", modality, level, dim, rows, "tiny", "seed:0")


class SampleStore:
    """A store of seven clips as an extraction leaves it: not every clip has each of the six features and the record.

    Attributes:
        store: The store.
        specs: Its features.
        answers: Its one kind of records.
        clips: The clips as a dataset tells them.
    """

    audio = _spec("HL-UTT", "audio", "utt", 16, 1)
    face = _spec("mae_340_UTT", "face", "utt", 16, 1)
    video = _spec("maeV_399_UTT", "face", "utt", 16, 1)
    text = _spec("BERT-UTT", "text", "utt", 8, 1)
    frames = _spec("HL-FRA", "audio", "frame", 6, None)
    tokens = _spec("eva_g_448", "frame", "tokens", 4, 5)
    specs = (audio, face, video, text, frames, tokens)
    answers = record_spec("tiny.answer", "describer", "seed:0", prompt="What does the person feel?", profile="tiny")
    values = ({"mood": "fröhlich 高兴", "sure": 0.25}, "", None, [1, [True]], "one\u2028line", 0)
    splits = ("train_corpus", "train_corpus", "val_corpus", "test3", "test3", "test3", "test3")
    emotions = ("happy", "sad", "neutral", "angry", "worried", "surprise", "happy")
    clips = tuple(
        Clip(
            f"clip ü{i}" if i == 6 else f"sample_0000{i}",
            split=split,
            label=Label(emotion, valence=i - 2.5),
            transcripts={"english": f"Sentence {i}, with a comma."} if i != 4 else {},
        )
        for i, (split, emotion) in enumerate(zip(splits, emotions, strict=True))
    )

    def __init__(self, path: Path) -> None:
        self.store = Store.create(path)
        rng = np.random.default_rng(0)
        with self.store.writer() as writer:
            for i, clip in enumerate(self.clips):
                media = f"{i:032x}"
                writer.clip(clip.id, media)
                for each in self.specs:
                    if self.has(each, clip.id):
                        array = rng.normal(size=(each.rows or 2 + i, each.dim)).astype(np.float32)
                        writer.add(each, media, array, *((0.01 * i, 0.02) if each.level == "frame" else (0.0, None)))
                if self.has(self.answers, clip.id):
                    writer.add_record(self.answers, media, self.values[i])

    def has(self, spec: EncoderSpec, clip: str) -> bool:
        """Clip 5 has no face, clip 3 no tokens, clip 6 no answer."""
        lacking = {"sample_00005": (self.face, self.video), "sample_00003": (self.tokens,), "clip ü6": (self.answers,)}
        return spec not in lacking.get(clip, ())


def check_layout(layout: Layout, folder: Path, features: Mapping[str, str | None] | None = None) -> None:
    """Check that a layout reads again what it writes, to the bit, and leaves nothing half done or unsaid.

    Args:
        layout: To check; it need not be registered.
        folder: An empty folder to work in.
        features: Features of `SampleStore` to export, and their names there; all that have a place there if `None`.
    """
    source = SampleStore(folder / "source.emo")
    path = folder / f"out{''.join(layout.suffixes[:1])}"
    _check_whole_or_absent(layout, source, path, features)
    before = set(folder.iterdir())
    report = export_features(source.store, path, layout, features, source.clips)
    assert set(folder.iterdir()) - before == {path}, "nothing is written beside the path"
    assert _raises(lambda: export_features(source.store, path, layout, features), UsageError), "nothing is replaced"
    target = Store.create(folder / "target.emo")
    _check_round_trip(layout, source, report, target)
    _check_second_import(layout, target, path)
    _check_damage(layout, target, path)
    if not layout.records:
        _check_dtypes(layout, source, folder, features)


def _check_whole_or_absent(
    layout: Layout, source: SampleStore, path: Path, features: Mapping[str, str | None] | None
) -> None:
    class Stopping(Store):
        """A store whose reading is interrupted after three clips."""

        left = 3

        def _count(self) -> None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1

        def get(self, feature: str | EncoderSpec, clip_id: str) -> Feature:
            self._count()
            return super().get(feature, clip_id)

        def record(self, record: str | EncoderSpec, clip_id: str) -> Any:
            self._count()
            return super().record(record, clip_id)

    before = set(path.parent.iterdir())
    stopping = Stopping.open(source.store.path)
    assert _raises(lambda: export_features(stopping, path, layout, features, source.clips), KeyboardInterrupt), (
        "what is written is read from the store by clip"
    )
    assert set(path.parent.iterdir()) == before, "an interrupted export leaves nothing"


def _check_round_trip(layout: Layout, source: SampleStore, report: ExportReport, target: Store) -> None:
    back = import_features(target, report.path, layout, declared="in my words")
    assert (back.layout, back.rejected) == (layout.name, [])
    assert {each.name for each in back.features} == {each.name for each in report.features}
    gone = [source.store.resolve(each.feature, layout.records) for each in report.features]
    assert gone, "an export has features"
    for here in gone:
        there = target.resolve(here.name, layout.records)
        needed = gone if layout.whole_clips else [here]
        clips = [clip.id for clip in source.clips if all(source.has(each, clip.id) for each in needed)]
        assert [clip.id for clip in source.clips if target.has(there, [clip.id])[0]] == clips
        assert (there.level, there.rows) == (here.level, here.rows)
        assert (there.profile, there.weights) == ("imported", "unknown"), "it never passes for an extracted one"
        assert there.fingerprint != here.fingerprint
        origin = [there.recipe[each] for each in ("imported_from", "layout", "declared")]
        assert origin == [report.path, layout.name, "in my words"]
        for clip in clips:
            _check_same(layout, source.store, here, target, there, clip)


def _check_same(layout: Layout, store: Store, here: EncoderSpec, target: Store, there: EncoderSpec, clip: str) -> None:
    if here.level == RECORD_LEVEL:
        assert target.record(there, clip) == store.record(here, clip)
        return
    mine, theirs = store.get(here, clip), target.get(there, clip)
    assert (theirs.array.dtype, theirs.array.shape) == (mine.array.dtype, mine.array.shape)
    assert theirs.array.tobytes() == mine.array.tobytes(), f"{here.key} of {clip} came back as other numbers"
    if layout.keeps_times:
        assert (theirs.t0_s, theirs.hop_s) == (mine.t0_s, mine.hop_s)


def _check_second_import(layout: Layout, target: Store, path: Path) -> None:
    def read(place: Any) -> Any:
        raise AssertionError("a record was read again")

    def find(path: Path, files: ExitStack) -> Found | None:
        found = layout.find(path, files)
        return found and replace(found, sources=[replace(each, read=read) for each in found.sources])

    commits = target.info()["commits"]
    again = import_features(target, path, replace(layout, find=find), declared="in my words")
    assert not any(each.new or each.failed for each in again.features), "what is there is not imported again"
    assert all(each.present for each in again.features)
    assert target.info()["commits"] == commits


def _check_damage(layout: Layout, target: Store, path: Path) -> None:
    """Cut files off: what is imported is as it was, and whatever is not is named, or all of it is refused in words."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in {each.suffix: each for each in files}.values():
        whole = file.read_bytes()
        for part in range(5):
            file.write_bytes(whole[: len(whole) * part // 5])
            cut = Store.create(target.path.with_name(f"cut{file.suffix}{part}.emo"))
            try:
                report = import_features(cut, path, layout, declared="in my words")
            except EmoError:
                continue
            lacking = _lacking(layout, target, cut)
            assert report.rejected or not lacking, f"{file.name} was cut off, and nothing was said of {lacking}"
        file.write_bytes(whole)


def _lacking(layout: Layout, whole: Store, cut: Store) -> list[str]:
    """Return what a store lacks of another, after checking that they agree in the rest."""
    lacking = []
    for info in whole.features(layout.records):
        for clip in whole.clips():
            if not whole.has(info.spec, [clip])[0]:
                continue
            if cut.status(info.spec, clip) == "ok":
                _check_same(layout, whole, info.spec, cut, info.spec, clip)
            else:
                lacking.append(f"{info.key} of {clip}")
    return lacking


def _check_dtypes(layout: Layout, source: SampleStore, folder: Path, features: Mapping[str, str | None] | None) -> None:
    path = folder / f"half{''.join(layout.suffixes[:1])}"
    assert _raises(lambda: export_features(source.store, path, layout, features, dtype="int8"), UsageError)
    report = export_features(source.store, path, layout, features, source.clips, dtype="float16")
    assert {each.dtype for each in report.features} == {"float16"}
    back = import_features(Store.create(folder / "half.emo"), path, layout)
    assert {dtype for each in back.features for dtype in each.dtypes} == {"float16"}


def _raises(call: Callable[[], object], kind: type[BaseException]) -> bool:
    try:
        call()
    except kind:
        return True
    return False
