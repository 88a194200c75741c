"""Comparing features that are made without weights, or of no media: what is run again, and what is said instead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest

from emo.extract.compare.verdict import compare
from emo.extract.media.container import open_media
from emo.extract.session import ExtractArgs, open_session
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.workspace import load_workspace

TOML = """[store]
path = "own.emo"
[data.real]
root = "data"
kind = "folder"
[extract]
profile = "tiny"
"""
SAID = {"sample_00002422": "I am glad to see you.", "sample_00003462": "Go away!"}
MINILM = "all-MiniLM-L6-v2-UTT"


@pytest.fixture(scope="module")
def work(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real clips and what might be said in them."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "emo.toml").write_text(TOML)
    (folder / "data").mkdir()
    for name in SAID:
        shutil.copy(shared / f"data/mer2023/clips/{name}.mp4", folder / "data")
    rows = "".join(f"{name},{text}\n" for name, text in SAID.items())
    (folder / "data/transcription.csv").write_text(f"name,english\n{rows}")
    return folder


def extract(work: Path, encoder: str) -> Path:
    outcome = open_session(load_workspace(work), ExtractArgs(device="cpu", encoders=(encoder,))).run()
    assert not outcome.failures
    return work / "own.emo"


def keep_hashes_beside(path: Path) -> Path:
    """Give a store the table of hashes that emo kept beside a text feature before it had records."""
    store = Store.open(path)
    spec = EncoderSpec(f"{MINILM}.text", "text-hash", "text", "utt", 8, 1, "tiny", "none")
    with store.writer() as writer:
        for name in SAID:
            writer.add(spec, store.clip_row(name)[0], np.ones((1, 8), np.float32))
    return path


def save(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


# ---- transcripts -----------------------------------------------------------------------------------------------------


def test_text_features_are_compared_by_their_values(work: Path, tmp_path: Path) -> None:
    store = extract(work, "minilm")
    rows = {name: Store.open(store).get(MINILM, name).array for name in SAID}
    found = compare(store, save(tmp_path / "same", rows), MINILM)
    assert (found.equal, len(found.rows)) == (True, 2)
    assert compare(store, save(tmp_path / "twice", {n: 2 * row for n, row in rows.items()}), MINILM).cause == "scale"


@pytest.mark.parametrize(
    ("feature", "why"),
    [
        (MINILM, "is made of transcripts, and emo knows no variants of that to try."),
        (f"{MINILM}.text", "is a table that a pass keeps beside the features, and no feature."),
    ],
)
def test_of_text_no_variants_are_tried_and_it_says_so(feature: str, why: str, work: Path, tmp_path: Path) -> None:
    store = extract(work, "minilm")
    rng = np.random.default_rng(0)
    if feature.endswith(".text"):  # stores of schema 1 keep the hashes of texts as such a table
        shutil.copytree(store, tmp_path / "old.emo")
        store = keep_hashes_beside(tmp_path / "old.emo")
    spec = Store.open(store).resolve(feature)
    found = compare(store, save(tmp_path / "theirs", {name: rng.normal(size=spec.dim) for name in SAID}), feature)
    assert (found.equal, found.cause) == (False, None)
    assert "Only the numbers were looked at" in found.verdict
    assert found.notes == (f"Nothing was re-run: {spec.key} {why}",)


def test_the_hashes_of_texts_do_not_count_as_a_feature(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "own.emo", ignore_errors=True)
    store = keep_hashes_beside(extract(tmp_path, "minilm"))
    assert len(Store.open(store).features()) == 2
    assert compare(store, store).equal  # nobody said which feature


# ---- without a network -----------------------------------------------------------------------------------------------


def egemaps(samples: np.ndarray) -> np.ndarray:
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return smile.process_signal(samples.astype(np.float32), 16_000).to_numpy()[0]


def sound(path: Path) -> np.ndarray:
    """16 kHz mono, as emo decodes it."""
    with open_media(path) as media:
        return media.audio()


def sound_at_its_own_rate(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(audio=0)])


@pytest.mark.skipif(find_spec("opensmile") is None, reason="opensmile is not installed: extra egemaps")
@pytest.mark.parametrize(
    ("verdict", "make"),
    [
        ("match", lambda path: egemaps(sound(path))),
        ("resampler", lambda path: egemaps(sound_at_its_own_rate(path))),
        (None, lambda path: egemaps(np.clip(sound(path) * 30, -1, 1))),
    ],
)
def test_what_is_computed_without_a_network_is_run_again(
    verdict: str | None, make: Callable[[Path], np.ndarray], work: Path, tmp_path: Path
) -> None:
    theirs = save(tmp_path / "theirs", {name: make(work / f"data/{name}.mp4") for name in SAID})
    found = compare(extract(work, "egemaps"), theirs, "egemaps")
    assert found.notes == ()
    if verdict == "match":
        assert found.equal, found.verdict
        return
    assert (found.equal, found.cause) == (False, verdict), found.verdict
    changes = [each.change for each in found.hypotheses if each.evidence == "re-run"]
    assert any("resampl" in each for each in changes)
    assert not any("computed in bfloat16" in each for each in changes)
