"""`emo store compare` against what other tools keep: every layout that can be imported, read where it lies."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from emo.extract.compare.verdict import compare
from emo.featstore.errors import UsageError
from emo.featstore.interop import layout_names
from emo.featstore.interop.exporter import export_features
from emo.featstore.interop.there import open_foreign
from emo.featstore.testing import SampleStore

MMSA = {"HL-UTT": "audio", "mae_340_UTT": "vision", "BERT-UTT": "text"}
WRITTEN = {  # layout -> what is written, names of features there
    "emotion-llama": ("tree", dict.fromkeys(("HL-UTT", "mae_340_UTT", "maeV_399_UTT"))),
    "mertools": ("features", {"HL-UTT": "chinese-hubert-large", "mae_340_UTT": None}),
    "hdf5": ("a.h5", None),
    "hdf5-packed": ("a.hdf5", None),
    "mmsa": ("a.pkl", MMSA),
    "safetensors": ("a.safetensors", None),
    "parquet": ("a.parquet", None),
}
THEIRS = {"mertools": "chinese-hubert-large-UTT", "mmsa": "audio"}  # where HL-UTT has another name there


def test_every_layout_is_tried() -> None:
    assert {*WRITTEN, "records"} == set(layout_names())


@pytest.mark.parametrize("layout", WRITTEN)
def test_a_layout_is_compared_without_an_import(layout: str, tmp_path: Path) -> None:
    source = SampleStore(tmp_path / "source.emo")
    name, features = WRITTEN[layout]
    export_features(source.store, tmp_path / name, layout, features, source.clips)
    before = sorted(tmp_path.rglob("*"))
    theirs = THEIRS.get(layout, "HL-UTT")
    found = compare(tmp_path / "source.emo", tmp_path / name, "HL-UTT", theirs, clips=0)
    assert found.equal, found.verdict
    assert len(found.rows) >= 4
    other = compare(tmp_path / "source.emo", tmp_path / name, "mae_340_UTT", theirs, clips=0)
    assert not other.equal
    assert sorted(tmp_path.rglob("*")) == before


def test_two_trees_of_other_tools_are_compared_as_well(tmp_path: Path) -> None:
    source = SampleStore(tmp_path / "source.emo")
    export_features(source.store, tmp_path / "tree", "emotion-llama", None, source.clips)
    export_features(source.store, tmp_path / "a.h5", "hdf5", None, source.clips)
    assert compare(tmp_path / "tree", tmp_path / "a.h5", "HL-UTT", clips=0).equal


def test_which_feature_is_meant_has_to_be_said(tmp_path: Path) -> None:
    source = SampleStore(tmp_path / "source.emo")
    export_features(source.store, tmp_path / "a.h5", "hdf5", ["HL-UTT", "BERT-UTT"], source.clips)
    export_features(source.store, tmp_path / "HL-UTT.h5", "hdf5", ["HL-UTT"], source.clips)
    with ExitStack() as files:
        with pytest.raises(UsageError, match=r"a\.h5 holds .*BERT-UTT.*no say of which is meant"):
            open_foreign(tmp_path / "a.h5", files)
        with pytest.raises(UsageError, match="there is none called mae"):
            open_foreign(tmp_path / "a.h5", files, "mae")
        assert open_foreign(tmp_path / "HL-UTT.h5", files).feature == "HL-UTT"
    assert compare(tmp_path / "source.emo", tmp_path / "HL-UTT.h5", clips=0).equal  # the file has the feature's name
    with pytest.raises(UsageError, match="does not exist"):
        compare(tmp_path / "source.emo", tmp_path / "gone.h5", "HL-UTT", clips=0)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "features" / "x-UTT").mkdir(parents=True)
    np.save(tmp_path / "features" / "x-UTT" / "a.npy", np.array(["text"]))
    with ExitStack() as files, pytest.raises(UsageError, match=r"a of .*features x-UTT: It holds"):
        open_foreign(tmp_path / "features", files).get("a")


def test_as_typed(emo: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    source = SampleStore(tmp_path / "source.emo")
    export_features(source.store, tmp_path / "tree", "emotion-llama", None, source.clips)
    result = emo("store", "compare", "source.emo", "tree", "--feature", "HL-UTT", "--clips", "0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
