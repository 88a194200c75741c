"""Every foreign layout: what goes out comes back to the bit, under another name than emo's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.errors import UsageError
from emo.featstore.interop import LAYOUTS, find_layout, importer
from emo.featstore.interop.exporter import ExportReport, export_features
from emo.featstore.interop.importer import import_features
from emo.featstore.storage.store import Store
from emo.featstore.testing import check_layout

FEATURES = [each for each in LAYOUTS if each != "records"]  # a layout has features, or records
on_features = pytest.mark.parametrize("layout", FEATURES)

# MMSA holds one feature per modality; the others take what they have a place for.
CHOSEN = {"mmsa": {"HL-FRA": "audio", "mae_340_UTT": "vision", "BERT-UTT": "text"}}
TAKES = {
    "emotion-llama": ("HL-UTT", "mae_340_UTT", "maeV_399_UTT"),
    "mertools": ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "BERT-UTT", "HL-FRA"),
    "mmsa": ("HL-FRA", "mae_340_UTT", "BERT-UTT"),
}


def file_of(folder: Path, layout: str) -> Path:
    """A path with a suffix that the layout takes."""
    suffixes = find_layout(layout).suffixes
    return folder / ("out" + (suffixes[0] if suffixes else ""))


def export(source: Any, layout: str, path: Path, **more: Any) -> ExportReport:
    return export_features(source.store, path, layout, CHOSEN.get(layout), source.clips, **more)


def taken(source: Any, layout: str) -> list[Any]:
    return [each for each in source.specs if each.name in TAKES.get(layout, [s.name for s in source.specs])]


def held(source: Any, layout: str, spec: Any) -> list[str]:
    """Clips whose record must arrive: all that have it; MMSA takes only clips that have all."""
    needed = taken(source, layout) if layout == "mmsa" else [spec]
    return [clip.id for clip in source.clips if all(source.has(each, clip.id) for each in needed)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_contract_that_anybody_can_run(layout: str, tmp_path: Path) -> None:
    check_layout(find_layout(layout), tmp_path, CHOSEN.get(layout))


@on_features
def test_what_goes_out_comes_back_to_the_bit(layout: str, source: Any, target: Store, tmp_path: Path) -> None:
    path = file_of(tmp_path, layout)
    report = export(source, layout, path)
    assert {each.feature for each in report.features} == {each.key for each in taken(source, layout)}
    back = import_features(target, path)
    assert (back.layout, back.rejected) == (layout, [])
    assert {each.name for each in back.features} == {each.name for each in report.features}
    for spec in taken(source, layout):
        clips = held(source, layout, spec)
        assert [clip.id for clip in source.clips if target.has(spec.name, [clip.id])[0]] == clips
        assert (target.resolve(spec.name).level, target.resolve(spec.name).rows) == (spec.level, spec.rows)
        for clip in clips:
            here, there = source.store.get(spec, clip), target.get(spec.name, clip)
            assert (there.array.dtype, there.array.shape) == (here.array.dtype, here.array.shape)
            assert there.array.tobytes() == here.array.tobytes()
            if find_layout(layout).keeps_times:
                assert (there.t0_s, there.hop_s) == (here.t0_s, here.hop_s)


@on_features
def test_what_has_no_place_there_is_named(layout: str, source: Any, tmp_path: Path) -> None:
    report = export_features(source.store, file_of(tmp_path, layout), layout, CHOSEN.get(layout), source.clips)
    gone = [] if layout in CHOSEN else [each for each in source.specs if each not in taken(source, layout)]
    assert list(report.left_out) == [each.key for each in gone]
    assert all(each.key in report.left_out[each.key] for each in gone)


@on_features
def test_an_imported_feature_never_passes_for_an_extracted_one(
    layout: str, source: Any, target: Store, tmp_path: Path
) -> None:
    path = file_of(tmp_path, layout)
    export(source, layout, path)
    import_features(target, path, declared="HuBERT, last layer")
    for info in target.features():
        spec = info.spec
        assert spec.profile == "imported"
        assert spec.weights == "unknown"
        assert spec.recipe["imported_from"] == str(path)
        assert (spec.recipe["layout"], spec.recipe["declared"]) == (layout, "HuBERT, last layer")
        assert spec.fingerprint not in {each.fingerprint for each in source.specs}


@on_features
def test_a_second_import_reads_a_sample_and_takes_nothing(
    layout: str, source: Any, target: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, layout)
    export(source, layout, path)
    first = import_features(target, path)

    reads: list[Any] = []
    monkeypatch.setattr(importer, "SAMPLE", 2)
    monkeypatch.setattr(importer, "matrix", lambda record, matrix=importer.matrix: reads.append(0) or matrix(record))
    commits = target.info()["commits"]
    again = import_features(Store.open(target.path), path)
    assert [(each.new, each.present) for each in again.features] == [(0, each.new) for each in first.features]
    assert (again.clips, target.info()["commits"]) == (first.clips, commits)
    assert 0 < len(reads) <= 2 * len(again.features)
    assert not [note for note in again.notes if "earlier import" in note]


@on_features
def test_an_interrupted_import_goes_on_where_it_committed(
    layout: str, source: Any, target: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, layout)
    export(source, layout, path)
    monkeypatch.setattr(importer, "COMMIT_CLIPS", 1)
    monkeypatch.setattr(importer, "SAY_EVERY", 1)
    said: list[str] = []

    def stop(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features(target, path, say=stop)
    held_before = sum(info.ok for info in target.features())
    assert held_before >= 3
    report = import_features(target, path)
    assert sum(each.present for each in report.features) == held_before
    whole = import_features(Store.create(tmp_path / "whole.emo"), path)
    assert [each.new + each.present for each in report.features] == [each.new for each in whole.features]


@on_features
def test_an_export_is_there_whole_or_not_at_all(
    layout: str, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "exports"
    path = file_of(folder, layout)
    reads = []
    get = Store.get

    def failing(self: Store, feature: Any, clip: str) -> Any:
        reads.append(clip)
        if len(reads) > 3:
            raise KeyboardInterrupt
        return get(self, feature, clip)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", failing)
        with pytest.raises(KeyboardInterrupt):
            export(source, layout, path)
    assert list(folder.iterdir()) == []
    export(source, layout, path)
    with pytest.raises(UsageError, match=r"out.* exists already\. Choose another path"):
        export(source, layout, path)
    assert [each.name for each in folder.iterdir()] == [path.name]


@on_features
def test_values_survive_where_records_differ_in_dtype(layout: str, source: Any, target: Store, tmp_path: Path) -> None:
    """A frame feature whose values once exceed float16 is kept as float32 for that clip alone."""
    if "HL-FRA" not in TAKES.get(layout, ["HL-FRA"]):
        pytest.skip("no place for frames")
    large = (np.arange(18, dtype=np.float32) * 1e5 + 0.3).reshape(3, 6)
    with source.store.writer() as writer:
        writer.add(source.frames, f"{0:032x}", large)
    path = file_of(tmp_path, layout)
    export(source, layout, path)
    import_features(target, path)
    for clip in held(source, layout, source.frames):
        here, there = source.store.get(source.frames, clip).array, target.get("HL-FRA", clip).array
        assert (here == there).all()
        if find_layout(layout).keeps_dtypes:
            assert here.dtype == there.dtype


@on_features
def test_an_export_in_another_dtype_is_in_that_dtype(layout: str, source: Any, target: Store, tmp_path: Path) -> None:
    report = export(source, layout, path := file_of(tmp_path, layout), dtype="float16")
    assert {each.dtype for each in report.features} == {"float16"}
    assert {dtype for each in import_features(target, path).features for dtype in each.dtypes} == {"float16"}
    with pytest.raises(UsageError, match="no dtype 'int8' for features"):
        export(source, layout, tmp_path / path.name.replace("out", "other"), dtype="int8")
