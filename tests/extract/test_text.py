"""Features of transcripts: no media needed, never of another text than the clip has."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.extract.demo import generate_clip
from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.minilm import MAX_TOKENS, MiniLM
from emo.extract.encoders.registry import load_encoder
from emo.extract.session import ExtractArgs, Outcome, Session, open_session
from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.install import install_command
from emo.featstore.storage.store import Store, open_store
from emo.featstore.transcripts import hash_text, text_of
from emo.featstore.workspace import load_workspace

NAME = "all-MiniLM-L6-v2-UTT"
TOML = """[store]
path = "features.emo"
[data.MER2023-SEMI]
root = "data"
clips = "data/clips"
[extract]
profile = "tiny"
"""
SAID = {"a": "I am glad to see you.", "b": "Go away!", "c": ""}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    generate_clip(path, "happy", seed=0, duration_s=0.4)
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Labels and transcripts of three clips, of which one says nothing; no media."""
    (tmp_path / "data" / "clips").mkdir(parents=True)
    (tmp_path / "emo.toml").write_text(TOML)
    labels = [("name", "discrete", "valence"), ("a", "happy", 2), ("b", "angry", -3), ("c", "neutral", 0)]
    write(tmp_path / "data" / "train-label.csv", labels)
    say(tmp_path, SAID)
    return tmp_path


def write(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def say(work: Path, texts: Mapping[str, str], language: str = "english") -> None:
    write(work / "data" / "transcription.csv", [("name", language), *texts.items()])


def session(work: Path, *encoders: str) -> Session:
    return open_session(load_workspace(work), ExtractArgs(encoders=encoders or ("minilm",)))


def extract(work: Path, *encoders: str) -> Outcome:
    return session(work, *encoders).run()


def vector(work: Path, clip: str) -> np.ndarray:
    return open_store(work / "features.emo").get(NAME, clip).array


def kinds(work: Path) -> dict[tuple[str, str], str]:
    store = open_store(work / "features.emo")
    return {(failure.feature.split("@")[0], failure.clip): failure.kind for failure in store.failures()}


def of_text(text: str) -> np.ndarray:
    encoder = load_encoder(NAME, "tiny")
    return encoder.encode([encoder.prepare(ClipInputs(transcripts={"english": text}))])[0]["utt"].array


# ---- passes ----------------------------------------------------------------------------------------------------------


def test_labels_and_transcripts_are_enough(work: Path) -> None:
    outcome = extract(work)
    assert (outcome.progress.stored, outcome.exit_code) == (2, 0)
    store = open_store(work / "features.emo")
    assert sorted(store.clips()) == ["a", "b", "c"]
    assert store.clip_row("a") == ("clip:a", None, -1, -1)
    assert kinds(work) == {(NAME, "c"): "no-text"}
    for name in ("a", "b"):
        assert np.allclose(vector(work, name), of_text(SAID[name]), atol=1e-6)
        assert np.linalg.norm(vector(work, name)) == pytest.approx(1)
    assert store.verify() == []


def test_the_second_pass_has_nothing_to_do(work: Path) -> None:
    extract(work)
    todo = session(work).plan
    assert (todo.total, todo.absent, todo.done, todo.hopeless, len(todo.jobs)) == (3, 3, 2, 1, 0)


def test_a_transcript_that_has_changed_is_read_again(work: Path) -> None:
    extract(work)
    before = vector(work, "b")
    say(work, SAID | {"a": "I never want to see you again."})
    assert [job.clip.id for job in session(work).plan.jobs] == ["a"]
    extract(work)
    assert np.allclose(vector(work, "a"), of_text("I never want to see you again."), atol=1e-6)
    assert np.array_equal(vector(work, "b"), before)
    assert not session(work).plan.jobs


def test_a_transcript_in_a_language_that_is_not_read_changes_nothing(work: Path) -> None:
    extract(work)
    rows = [("name", "english", "chinese"), *((name, text, "不") for name, text in SAID.items())]
    write(work / "data" / "transcription.csv", rows)
    assert not session(work).plan.jobs


def test_a_transcript_that_comes_later_is_read(work: Path) -> None:
    extract(work)
    say(work, SAID | {"c": "Well."})
    extract(work)
    assert np.allclose(vector(work, "c"), of_text("Well."), atol=1e-6)
    assert kinds(work) == {}


def test_a_transcript_that_is_gone_is_said_at_every_pass(work: Path) -> None:
    extract(work)
    say(work, SAID | {"b": ""})
    for _ in range(2):
        (told,) = (line for line in session(work).says() if "any more" in line)
        assert told.startswith(f"1 clip has no transcript any more, and what {NAME}@")
        assert "stays: b. Training refuses it; `emo store drop" in told
        assert not any("is replaced" in line for line in session(work).says())
        assert {(each.clip, each.kind) for each in extract(work).failures} == {("b", "no-text"), ("c", "no-text")}
    store = Store.open(work / "features.emo")
    store.drop(store.resolve(NAME))
    assert store.features(records=True) == []  # what says of which text it was made goes with it
    extract(work)
    todo = session(work).plan
    assert (todo.done, todo.hopeless, todo.jobs, todo.no_text) == (1, 2, [], {})


def test_an_english_model_does_not_read_chinese(work: Path) -> None:
    say(work, {"a": "你好", "b": "走开", "c": ""}, "chinese")
    assert extract(work).progress.stored == 0
    assert set(kinds(work).values()) == {"no-text"}


def test_other_encoders_take_the_clips_that_have_media(work: Path, clip: Path) -> None:
    shutil.copy(clip, work / "data" / "clips" / "a.mp4")
    (work / "data" / "clips" / "b.mp4").write_bytes(b"no clip at all")
    extract(work, "minilm", "HL-UTT")
    store = open_store(work / "features.emo")
    assert store.has(NAME, ["a", "b", "c"]).tolist() == [True, True, False]
    assert store.has("HL-UTT", ["a", "b", "c"]).tolist() == [True, False, False]
    assert kinds(work) == {("HL-UTT", "b"): "not-media", (NAME, "c"): "no-text"}  # c has no media, so nothing failed
    assert not session(work, "minilm", "HL-UTT").plan.jobs


def test_media_that_come_later_keep_their_text(work: Path, clip: Path) -> None:
    extract(work)
    shutil.copy(clip, work / "data" / "clips" / "a.mp4")
    extract(work)
    row = open_store(work / "features.emo").clip_row("a")
    assert row is not None
    assert not row[0].startswith("clip:")
    assert np.allclose(vector(work, "a"), of_text(SAID["a"]), atol=1e-6)
    (work / "data" / "clips" / "a.mp4").unlink()  # and media that go away
    assert not session(work).plan.jobs
    say(work, SAID | {"a": "Oh."})
    extract(work)
    assert np.allclose(vector(work, "a"), of_text("Oh."), atol=1e-6)


def test_one_file_with_two_transcripts_is_said_and_the_first_is_used(work: Path, clip: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(clip, work / "data" / "clips" / f"{name}.mp4")
    (told,) = extract(work).notes["copy-other-text"].values()  # which one is first may depend on the threads
    assert "is the same file as" in told
    assert "with another transcript" in told
    extract(work)
    run = session(work)
    assert run.plan.other_text == ["b"]
    assert any("another transcript" in line and line.endswith(": b") for line in run.says())
    assert not run.plan.jobs
    assert np.allclose(vector(work, "b"), of_text(SAID["a"]), atol=1e-6)


def test_a_copy_that_comes_later_with_another_transcript_leaves_the_first_one_read(work: Path, clip: Path) -> None:
    shutil.copy(clip, work / "data" / "clips" / "a.mp4")
    extract(work)
    shutil.copy(clip, work / "data" / "clips" / "b.mp4")
    told = "b is the same file as a, with another transcript; that of a is read for both."
    assert extract(work).notes["copy-other-text"] == {"b": told}
    for name in ("a", "b"):
        assert np.allclose(vector(work, name), of_text(SAID["a"]), atol=1e-6)
    assert not session(work).plan.jobs


def test_a_copy_with_another_frame_in_the_table_is_said(work: Path, clip: Path) -> None:
    (work / "emo.toml").write_text(f'{TOML}frame = "frames.csv"\n')
    write(work / "frames.csv", [("name", "frame"), ("a", 1), ("b", 2), ("c", 1)])
    for name in ("a", "b", "c"):
        shutil.copy(clip, work / "data" / "clips" / f"{name}.mp4")
    noted = extract(work, "eva_g_448").notes["copy-other-frame"]
    assert noted.keys() in ({"b"}, {"a", "c"})  # which one is first may depend on the threads
    assert all(each.startswith(f"{name} is the same file as ") for name, each in noted.items())


def test_a_pass_cut_off_between_feature_and_hash_makes_it_again(work: Path) -> None:
    extract(work)
    store = Store.open(work / "features.emo")
    spec = store.resolve(f"{NAME}.text", records=True)
    with store.writer() as writer:
        writer.add_record(spec, "clip:a", hash_text("what it was before"))
    assert [job.clip.id for job in session(work).plan.jobs] == ["a"]


def test_extract_and_train_as_typed(work: Path, emo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    names = [f"{word} {i}" for i in range(6) for word in ("glad", "cross")]
    labels = [(name, "happy" if "glad" in name else "angry", 0) for name in names]
    write(work / "data" / "train-label.csv", [("name", "discrete", "valence"), *labels])
    say(work, {name: f"I am so {name}." for name in names[1:]})
    assert emo("extract", "--dataset", "MER2023-SEMI", "--encoders", "minilm", cwd=work).returncode == 0
    words = ["train", "--cached", "--head", "logistic", "--set", f"features=[{NAME}]", "--set", "folds=2"]
    refused = emo(*words, cwd=work)
    assert refused.returncode != 0
    assert f"{names[0]} (no-text)" in refused.stderr
    trained = emo(*words, "--set", "missing=skip", cwd=work)
    assert trained.returncode == 0, trained.stderr


# ---- the text and the model ------------------------------------------------------------------------------------------


def test_text_of_another_dataset_by_the_same_names_is_said_and_not_trained_on(
    work: Path, emo: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shutil.copytree(work / "data", work / "second")
    write(work / "second" / "transcription.csv", [("name", "english"), ("a", "Who is it?"), ("b", "Nobody.")])
    (work / "emo.toml").write_text(f'{TOML}[data.MER2023]\nroot = "second"\nclips = "second/clips"\n')
    first = ("extract", "--encoders", NAME, "--dataset", "MER2023-SEMI")
    train = ("train", "--cached", "--head", "attention", "--set", f"features=[{NAME}]", "--set", "missing=skip")
    few = (*train, "--set", "folds=2", "--set", "epochs=1")
    assert "another transcript" not in emo(*first, cwd=work).stderr
    assert emo(*few, "--dataset", "MER2023-SEMI", cwd=work).returncode == 0
    assert "MER2023 have another transcript" in emo(*few, "--dataset", "MER2023", cwd=work).stderr
    again = emo("extract", "--encoders", NAME, "--dataset", "MER2023", cwd=work)
    assert "2 clips have other transcripts than the feature in the store was made of" in again.stderr
    refused = emo(*few, "--dataset", "MER2023-SEMI", cwd=work)
    assert refused.returncode == 2
    assert "2 clips of MER2023-SEMI have another transcript than the one that" in refused.stderr
    told = emo("predict", "--cached", "a", "--dataset", "MER2023-SEMI", cwd=work)
    assert "1 clip has another transcript than the one that the features were made of: a." in told.stdout


def test_the_first_language_that_says_something_is_read() -> None:
    said = {"chinese": "不", "text": "No.", "english": " \n"}
    assert text_of(said, ("english", "text")) == "No."
    assert text_of(said | {"english": "Not me. "}, ("english", "text")) == "Not me."
    assert text_of(said, ("french",)) == ""


def test_two_texts_have_two_hashes() -> None:
    one, other = hash_text("I am."), hash_text("I am!")
    assert len(one) == 32
    assert set(one) <= set("0123456789abcdef")
    assert one != other


def test_long_texts_are_cut() -> None:
    encoder = load_encoder(NAME, "tiny")
    item = encoder.prepare(ClipInputs(transcripts={"english": "no " * 400}))
    assert item.payload.shape == (MAX_TOKENS,)


def test_weights_without_their_tokenizer_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_encoder(NAME, weights=str(tmp_path))
    monkeypatch.setattr(MiniLM, "installed", classmethod(lambda cls: None))
    with pytest.raises(WeightsMissing) as caught:
        load_encoder(NAME)
    assert install_command("text") in caught.value.hint


@pytest.mark.skipif(MiniLM.installed() is None, reason="the published files are not installed: extra text")
def test_published_weights_give_what_sentence_transformers_gives() -> None:
    other = pytest.importorskip("sentence_transformers")
    texts = ["How could you!", "No.", "Well, you know, " * 100, "It rains, and I do not mind."]
    encoder = load_encoder(NAME)
    assert set(encoder.load().ignored) == {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    items = [encoder.prepare(ClipInputs(transcripts={"english": text})) for text in texts]
    mine = np.concatenate([each["utt"].array for each in encoder.encode(items)])
    assert np.abs(mine - other.SentenceTransformer(encoder.weights.source).encode(texts)).max() < 1e-6
