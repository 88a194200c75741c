"""The one pass: every clip decoded once, failures recorded one by one, killed and resumed without loss."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from emo.extract.demo import EMOTIONS, generate_clip
from emo.extract.encoders.base import Prepared
from emo.extract.media import picture
from emo.extract.run import decode, pipeline
from emo.extract.session import ExtractArgs, Session, open_session
from emo.featstore import fetch
from emo.featstore.errors import ModelError, StoreFull, UsageError, WeightsMissing
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import load_workspace

FEATURES = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")
TOML = """[store]
path = "demo.emo"
[data.demo]
root = "data"
kind = "folder"
{data}[extract]
profile = "tiny"
{extract}"""
TOLERANCE = 1e-5  # of a feature against itself in other company, relative to its largest value


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six generated clips of different lengths, made once."""
    folder = tmp_path_factory.mktemp("clips")
    for number, emotion in enumerate(EMOTIONS):
        generate_clip(folder / f"clip {number}.mp4", emotion, seed=number, duration_s=0.4 + 0.12 * number)
    return folder


def workspace(folder: Path, clips: Path, *, data: str = "", extract: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(clips, folder / "data")
    (folder / "emo.toml").write_text(TOML.format(data=data, extract=extract))
    return folder


def session(folder: Path, **request: Any) -> Session:
    return open_session(load_workspace(folder), ExtractArgs(**request))


def values(store: Store) -> dict[tuple[str, str], np.ndarray]:
    """Every feature of every clip, by feature name and clip."""
    found = {}
    for feature in store.features():
        for clip in store.clips():
            if store.has(feature.key, [clip])[0]:
                found[feature.spec.name, clip] = store.get(feature.key, clip).array
    return found


@pytest.fixture(scope="session")
def finished(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after an uninterrupted pass over the six clips."""
    folder = workspace(tmp_path_factory.mktemp("finished") / "w", clips)
    outcome = session(folder).run()
    assert not outcome.failures, outcome.failures
    assert outcome.progress.media_s == pytest.approx(sum(0.4 + 0.12 * number for number in range(6)), abs=0.5)
    return folder


def test_a_pass_stores_every_feature_of_every_clip(finished: Path) -> None:
    store = open_store(finished / "demo.emo")
    clips = [f"clip {number}" for number in range(6)]
    assert sorted(store.clips()) == clips
    for feature in FEATURES:
        assert store.has(feature, clips).all()
        spec = store.resolve(feature)
        assert spec.profile == "tiny"
        assert spec.weights == "seed:0"
        assert store.get(feature, clips[0]).array.shape == (spec.rows, spec.dim)
    table = store.get("faces", clips[0])
    assert table.array.dtype == np.float32  # half precision would move landmarks by pixels
    assert table.array[:, 3].all()  # one person: every row is the chosen one's
    assert store.verify() == []
    recorded = store.info()["environments"]
    assert recorded[0]["dtype"] == "float32"
    assert "mae_340_UTT" in recorded[0]["batch"]


def test_every_clip_is_opened_and_decoded_once(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()
    decoded: Counter[str] = Counter()
    real_open, real_convert = av.open, picture.Rgb.__call__

    def counting(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened[Path(getattr(file, "name", str(file)).removeprefix("file:")).name] += 1
        return real_open(file, *args, **kwargs)

    def convert(*args: Any) -> Any:
        decoded["frames"] += 1
        return real_convert(*args)

    monkeypatch.setattr(av, "open", counting)
    monkeypatch.setattr(picture.Rgb, "__call__", convert)
    run = session(workspace(tmp_path / "w", clips))
    assert len(run.specs) == 4
    outcome = run.run()
    assert outcome.progress.stored == 24
    assert opened == {f"clip {number}.mp4": 1 for number in range(6)}
    frames = sum(round(25 * (0.4 + 0.12 * number)) for number in range(6))
    assert decoded["frames"] == frames


def test_processes_give_what_threads_give(finished: Path, clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    (folder / "data" / "text.mp4").write_text("this is not a video\n")
    run = session(folder, workers=2)
    run.job.options = replace(run.job.options, processes=True)
    outcome = run.run()
    assert {(f.clip, f.kind, f.retry) for f in outcome.failures} == {("text", "not-media", False)}
    same_values(open_store(folder / "demo.emo"), open_store(finished / "demo.emo"))


@pytest.mark.parametrize("processes", [False, True])
def test_faces_found_on_a_device_are_the_same(finished: Path, clips: Path, tmp_path: Path, processes: bool) -> None:
    folder = workspace(tmp_path / "w", clips)
    run = session(folder, workers=2, encoders=("mae_340_UTT",))
    run.job.options = replace(run.job.options, processes=processes, detect_on=torch.device("cpu"))
    assert not run.run().failures
    mine, theirs = open_store(folder / "demo.emo"), open_store(finished / "demo.emo")
    for number in range(6):
        table, other = (store.get("faces", f"clip {number}").array for store in (mine, theirs))
        np.testing.assert_allclose(table, other, rtol=0, atol=1e-2)  # pixels


def test_a_decoding_process_that_dies_costs_its_clip_alone(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    folder = workspace(tmp_path / "w", clips)
    run = session(folder, workers=3, encoders=("HL-UTT",))
    run.job.options = replace(run.job.options, processes=True)
    run.job.encoders["HL-UTT"].prepare = importlib.import_module("deadly").Deadly(  # type: ignore[method-assign]
        run.job.encoders["HL-UTT"]
    )
    outcome = run.run()
    assert [(f.clip, f.kind, f.retry) for f in outcome.failures] == [("clip 5", "crash", True)]
    assert "made the process that worked on it die twice." in outcome.failures[0].message
    assert outcome.progress.stored == 5


DEADLY = """
import os, signal

class Deadly:
    def __init__(self, encoder):
        self.encoder, self.kind = encoder, type(encoder)

    def __call__(self, inputs):
        if len(inputs.audio) > 15_000:  # on the longest clip, as a crash in a codec would
            os.kill(os.getpid(), signal.SIGKILL)
        return self.kind.prepare(self.encoder, inputs)
"""


def test_the_trace_shows_every_stage_of_every_clip(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    session(folder, trace=folder / "trace.json").run()
    events = json.loads((folder / "trace.json").read_text())
    spans = [event for event in events if event["ph"] == "X"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {event["tid"] for event in spans} == set(rows)
    assert min(event["dur"] for event in spans) >= 0
    assert sorted(e["args"]["clip"] for e in spans if e["name"] == "decode") == [f"clip {n}" for n in range(6)]
    for name in FEATURES:
        assert sum(e["args"]["clips"] for e in spans if (e["name"], rows[e["tid"]]) == (name, "device cpu")) == 6
    assert {"hash", "faces", "frames", "prepare", "write"} <= {event["name"] for event in spans}


def test_a_trace_that_cannot_be_written_is_said_first(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trace cannot be written to .*nowhere"):
        session(workspace(tmp_path / "w", clips), trace=tmp_path / "nowhere" / "t.json")


def test_nothing_is_left_to_do_and_no_media_is_read(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any) -> None:
        raise AssertionError("a resume read media")

    monkeypatch.setattr(fetch, "hash_media", forbidden)
    monkeypatch.setattr(decode, "open_media", forbidden)
    again = session(finished)
    assert (again.plan.done, again.plan.jobs) == (6, [])
    assert again.run().exit_code == 0


def test_one_more_encoder_runs_alone(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(finished, folder)
    more = session(folder, encoders=("HL-UTT", "HL-MERBench-UTT"))
    assert len(more.plan.jobs) == 6
    assert more.run().progress.stored == 6


def test_the_two_hubert_recipes_live_side_by_side(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(finished, folder)
    session(folder, encoders=("HL-MERBench-UTT",)).run()
    store = open_store(folder / "demo.emo")
    one, other = store.utterances("HL-UTT", ["clip 0"]), store.utterances("HL-MERBench-UTT", ["clip 0"])
    assert np.abs(one - other).max() > 1e-3


def test_another_rule_or_frame_is_another_feature(finished: Path) -> None:
    def keys(**request: Any) -> dict[str, str]:
        return {spec.name: spec.key for spec in session(finished, **request).specs}

    usual, other = keys(), keys(face="largest")
    assert usual["mae_340_UTT"] != other["mae_340_UTT"]
    assert usual["HL-UTT"] == other["HL-UTT"]
    toml = finished / "emo.toml"
    text = toml.read_text()
    try:
        toml.write_text(text + 'frame = "middle"\n')
        assert keys()["eva_g_448"] != usual["eva_g_448"]
        assert keys()["mae_340_UTT"] == usual["mae_340_UTT"]
    finally:
        toml.write_text(text)


def test_frame_level_has_times(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(finished, folder)
    session(folder, encoders=("mae_340_UTT", "HL-UTT"), level="frame").run()
    store = open_store(folder / "demo.emo")
    faces = store.get("mae_340_FRA", "clip 3")
    assert faces.hop_s == pytest.approx(1 / 25)
    assert faces.array.mean(axis=0) == pytest.approx(store.get("mae_340_UTT", "clip 3").array[0], abs=2e-3)
    assert store.get("HL-FRA", "clip 3").hop_s == pytest.approx(0.02)


def test_a_feature_does_not_depend_on_its_neighbours(finished: Path, clips: Path, tmp_path: Path) -> None:
    """Budget 1: every clip alone. The finished store: as many clips in a batch as fit."""
    folder = workspace(tmp_path / "w", clips)
    run = session(folder)
    for encoder in run.job.devices[0]:
        encoder.max_cost = 1.0
    run.run()
    together, alone = values(open_store(finished / "demo.emo")), values(open_store(folder / "demo.emo"))
    assert together.keys() == alone.keys()
    for which, value in together.items():
        half = 2e-3 if value.dtype == np.float16 else 0.0  # one step of the stored precision
        assert np.abs(value - alone[which]).max() <= (TOLERANCE + half) * np.abs(value).max(), which


def test_the_same_media_under_two_names_is_computed_once(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    shutil.copy(folder / "data" / "clip 0.mp4", folder / "data" / "twin.mp4")
    outcome = session(folder).run()
    assert outcome.progress.done == 7
    assert outcome.progress.stored == 6 * 4
    store = open_store(folder / "demo.emo")
    for feature in FEATURES:
        assert (store.get(feature, "twin").array == store.get(feature, "clip 0").array).all()


# ---- what fails, fails alone -----------------------------------------------------------------------------------------


def test_every_bad_clip_becomes_a_typed_row_and_the_pass_goes_on(clips: Path, tmp_path: Path, write_media: Any) -> None:
    folder = workspace(tmp_path / "w", clips)
    data = folder / "data"
    whole = (data / "clip 1.mp4").read_bytes()
    (data / "text.mp4").write_text("this is not a video\n" * 50)
    (data / "empty.mp4").write_bytes(b"")
    (data / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    write_media(data / "silent.mp4", audio_s=0)
    write_media(data / "sound only.m4a", n_frames=0)
    write_media(data / "blip.mp4", audio_s=0.02, rate=16_000)
    write_media(data / "Grüße 你好.mp4", n_frames=1, size=(66, 50))
    outcome = session(folder).run()
    kinds: dict[str, dict[str, str]] = {}
    for failure in outcome.failures:
        kinds.setdefault(failure.clip, {})[failure.feature.split("@")[0]] = failure.kind
        assert failure.message
        assert not failure.retry
    everything = set(FEATURES)
    assert kinds["text"] == dict.fromkeys(everything, "not-media")
    assert kinds["empty"] == dict.fromkeys(everything, "empty")
    assert kinds["cut"] == dict.fromkeys(everything, "truncated")
    faceless = {"mae_340_UTT": "no-face", "maeV_399_UTT": "no-face"}
    assert kinds["silent"] == {"HL-UTT": "no-audio", **faceless}
    assert kinds["sound only"] == dict.fromkeys(everything - {"HL-UTT"}, "no-video")
    assert kinds["Grüße 你好"] == faceless
    assert outcome.exit_code == 0  # every clip is stored or known to be hopeless
    store = open_store(folder / "demo.emo")
    assert store.has("HL-UTT", [f"clip {number}" for number in range(6)]).all()
    assert store.has("eva_g_448", ["silent", "Grüße 你好"]).all()
    assert store.has("HL-UTT", ["sound only"]).all()

    again = session(folder)
    assert again.plan.jobs == []
    assert again.plan.hopeless == len(kinds)
    assert len(session(folder, retry_failed=True).plan.jobs) == len(kinds)


def test_a_file_that_vanished_can_be_tried_again(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    run = session(folder)
    moved = (folder / "data" / "clip 2.mp4").rename(tmp_path / "away.mp4")
    outcome = run.run()
    assert {(f.clip, f.kind, f.retry) for f in outcome.failures} == {("clip 2", "unreadable", True)}
    assert outcome.exit_code == 3
    moved.rename(folder / "data" / "clip 2.mp4")
    outcome = session(folder).run()
    assert (outcome.progress.stored, outcome.exit_code) == (4, 0)


def test_a_file_that_changes_while_it_is_read_is_read_again(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    run = session(folder, limit=1)
    path, other = folder / "data" / "clip 0.mp4", (folder / "data" / "clip 3.mp4").read_bytes()
    real = run.job.decoder.decode

    def exchange(*args: Any) -> Any:
        found = real(*args)
        path.write_bytes(other)
        return found

    run.job.decoder.decode = exchange  # type: ignore[method-assign]
    run.run()
    again = session(folder, limit=1)
    assert len(again.plan.jobs) == 1
    again.run()
    store = open_store(folder / "demo.emo")
    session(folder).run()
    store.refresh()
    assert (store.get("HL-UTT", "clip 0").array == store.get("HL-UTT", "clip 3").array).all()


def test_a_changed_file_that_cannot_be_read_is_not_a_success(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    session(folder).run()
    os.utime(folder / "data" / "clip 0.mp4", ns=(0, 1))
    run = session(folder)
    assert len(run.plan.jobs) == 1
    (folder / "data" / "clip 0.mp4").unlink()
    outcome = run.run()
    assert {(f.clip, f.kind) for f in outcome.failures} == {("clip 0", "unreadable")}
    assert outcome.exit_code == 3


def test_failures_of_clips_that_were_not_asked_for_do_not_count(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    (folder / "data" / "labels.csv").write_text("name,emotion,split\nclip 0,sad,train\nclip 1,sad,test\n")
    break_and_run = session(folder, split="test")
    break_encoder(break_and_run, "HL-UTT", 0, RuntimeError("boom"))
    assert break_and_run.run().exit_code == 3
    outcome = session(folder, split="train").run()
    assert (outcome.failures, outcome.exit_code) == ((), 0)


def test_one_encoders_fault_is_not_the_others(clips: Path, tmp_path: Path) -> None:
    run = session(workspace(tmp_path / "w", clips), limit=1)

    def broken(*args: Any) -> None:
        raise ValueError("a bug")

    run.job.encoders["eva_g_448"].prepare = broken  # type: ignore[method-assign]
    run.job.decoder.detector.begin = broken  # type: ignore[union-attr, method-assign]
    outcome = run.run()
    assert {f.feature.split("@")[0] for f in outcome.failures} == {"eva_g_448", "mae_340_UTT", "maeV_399_UTT"}
    assert {(f.kind, f.retry) for f in outcome.failures} == {("internal", True)}
    assert outcome.progress.stored == 1


def test_a_lost_device_ends_the_pass(clips: Path, tmp_path: Path) -> None:
    run = session(workspace(tmp_path / "w", clips))
    break_encoder(run, "HL-UTT", 0, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(ModelError, match="illegal memory access"):
        run.run()


def break_encoder(run: Session, name: str, above: float, answer: Any) -> list[int]:
    """Make an encoder fail on clips that cost more than so much; returns the sizes of the batches it was offered."""
    encoder = run.job.encoders[name]
    real, sizes = encoder.run, []

    def run_(tensors: Sequence[torch.Tensor], batch: Sequence[Prepared]) -> Sequence[torch.Tensor]:
        sizes.append(len(batch))
        if any(prepared.cost > above for prepared in batch):
            if isinstance(answer, Exception):
                raise answer
            return [answer for _ in batch]
        return real(tensors, batch)

    encoder.run = run_  # type: ignore[method-assign]
    return sizes


def test_a_batch_that_fails_is_halved_until_the_culprit_stands_alone(clips: Path, tmp_path: Path) -> None:
    run = session(workspace(tmp_path / "w", clips))
    sizes = break_encoder(run, "HL-UTT", 15_000, RuntimeError("CUDA out of memory"))
    outcome = run.run()
    assert max(sizes) > 1
    assert [(f.clip, f.kind, f.retry) for f in outcome.failures] == [("clip 5", "out-of-memory", True)]
    assert outcome.progress.stored == 23


def test_values_that_are_not_finite_are_a_failure(clips: Path, tmp_path: Path) -> None:
    run = session(workspace(tmp_path / "w", clips))
    break_encoder(run, "HL-UTT", 0, torch.full((1, 64), torch.nan))
    outcome = run.run()
    assert Counter(f.kind for f in outcome.failures) == {"not-finite": 6}
    assert outcome.progress.stored == 18


def test_a_full_disk_ends_the_pass_and_loses_nothing_committed(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace(tmp_path / "w", clips)
    session(folder, limit=2).run()
    before = values(open_store(folder / "demo.emo"))
    real = pipeline.Writer.add

    def full(self: Any, spec: Any, *args: Any, **kwargs: Any) -> None:
        if spec.name == "eva_g_448":
            raise StoreFull("No space left on the disk.", "Free some space.")
        real(self, spec, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.Writer, "add", full)
        with pytest.raises(StoreFull):
            session(folder).run()
    store = open_store(folder / "demo.emo")
    assert store.verify() == []
    after = values(store)
    assert all((after[which] == value).all() for which, value in before.items())
    assert session(folder).run().exit_code == 0


# ---- interrupted -----------------------------------------------------------------------------------------------------


def same_values(store: Store, other: Store) -> None:
    left, right = values(store), values(other)
    assert left.keys() == right.keys()
    for which, value in left.items():
        half = 2e-3 if value.dtype == np.float16 else 0.0
        assert np.abs(value - right[which]).max() <= (TOLERANCE + half) * np.abs(value).max(), which


def test_stop_commits_what_is_under_way(finished: Path, clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    run = session(folder, workers=1)
    real = run.job._prepare

    def prepare(*args: Any) -> Any:
        run.job.stop()
        return real(*args)

    run.job._prepare = prepare  # type: ignore[method-assign]
    outcome = run.run()
    assert outcome.exit_code == 130
    assert 0 < outcome.progress.done < 6
    rest = session(folder)
    assert len(rest.plan.jobs) == 6 - outcome.progress.done
    rest.run()
    same_values(open_store(folder / "demo.emo"), open_store(finished / "demo.emo"))


KILLED = """
import sys
from pathlib import Path
from emo.extract.session import ExtractArgs, open_session
from emo.featstore.workspace import load_workspace
open_session(load_workspace(Path(sys.argv[1])), ExtractArgs(workers=1, commit_every=1)).run()
"""


@pytest.mark.parametrize("commits", [1, 2, 4])
def test_killed_and_resumed_equals_uninterrupted(finished: Path, clips: Path, tmp_path: Path, commits: int) -> None:
    folder = workspace(tmp_path / "w", clips)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
    deadline = time.monotonic() + 60
    while len(list((folder / "demo.emo/journal").glob("0*.jsonl"))) < commits and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    rest = session(folder)
    assert open_store(folder / "demo.emo").clips()  # the killed run was not for nothing
    assert len(rest.plan.jobs) < 6 or commits == 1
    assert rest.run().exit_code == 0
    store = open_store(folder / "demo.emo")
    assert store.verify() == []
    same_values(store, open_store(finished / "demo.emo"))


def test_ctrl_c_before_the_first_clip_is_no_success(clips: Path, tmp_path: Path) -> None:
    run = session(workspace(tmp_path / "w", clips))
    run.job.stop()
    outcome = run.run()
    assert (outcome.progress.done, outcome.exit_code) == (0, 130)


# ---- requests --------------------------------------------------------------------------------------------------------


def test_openface_crops_take_the_detectors_place(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips, data='faces = "faces"\n')
    crops = np.random.default_rng(0).integers(0, 255, (9, 112, 112, 3), dtype=np.uint8)
    for number in range(5):
        home = folder / "faces" / f"clip {number}"
        home.mkdir(parents=True)
        np.save(home / f"clip {number}.npy", crops)
    run = session(folder, encoders=("mae_340_UTT",))
    assert run.specs[0].recipe["media"]["faces"]["source"] == "openface"
    outcome = run.run()
    assert [(f.clip, f.kind) for f in outcome.failures] == [("clip 5", "no-face")], outcome.failures
    store = open_store(folder / "demo.emo")
    assert (store.get("mae_340_UTT", "clip 0").array == store.get("mae_340_UTT", "clip 1").array).all()


def test_another_openface_run_is_another_feature_and_changes_no_other(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    session(folder, encoders=("HL-UTT", "mae_340_UTT")).run()
    toml = folder / "emo.toml"
    text = toml.read_text()
    for run, value in (("first", 10), ("second", 200)):
        home = folder / run / "clip 0"
        home.mkdir(parents=True)
        np.save(home / "clip 0.npy", np.full((4, 112, 112, 3), value, np.uint8))
        toml.write_text(text.replace('kind = "folder"\n', f'kind = "folder"\nfaces = "{run}"\n'))
        again = session(folder, encoders=("HL-UTT", "mae_340_UTT"), limit=1).run()
        assert again.progress.stored == 1  # MAE; the sound has not changed
        assert session(folder, encoders=("HL-UTT", "mae_340_UTT"), limit=1).plan.jobs == []
    store = open_store(folder / "demo.emo")
    keys = [each.key for each in store.features() if each.spec.name == "mae_340_UTT"]
    arrays = [store.get(key, "clip 0").array for key in keys]
    assert len(arrays) == 3
    assert all(np.abs(a - b).max() > 1e-3 for a, b in combinations(arrays, 2))
    assert len([each for each in store.features() if each.spec.name == "HL-UTT"]) == 1


def test_a_table_of_frames_chooses_the_frame(finished: Path, clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips, extract='frame = "frames.csv"\n')
    (folder / "frames.csv").write_text("name,frame\nclip 0,0\nclip 1,6\nclip 2,5000\nclip 3,3\nclip 4,0\n")
    outcome = session(folder).run()
    # What the table lacks, or has wrong, concerns the whole-image encoder alone.
    assert sorted((f.clip, f.feature.split("@")[0], f.kind) for f in outcome.failures) == [
        ("clip 2", "eva_g_448", "no-frame-index"),
        ("clip 5", "eva_g_448", "no-frame-index"),
    ]
    chosen, first = open_store(folder / "demo.emo"), open_store(finished / "demo.emo")
    assert (chosen.get("eva_g_448", "clip 0").array == first.get("eva_g_448", "clip 0").array).all()
    moved = chosen.get("eva_g_448", "clip 1")
    assert np.abs(moved.array.astype(np.float32) - first.get("eva_g_448", "clip 1").array).max() > 1e-2
    assert moved.t0_s == pytest.approx(6 / 25)
    assert first.get("eva_g_448", "clip 1").t0_s == 0.0


def test_uneven_frames_have_no_hop(tmp_path: Path) -> None:
    assert decode.even_hop_s(np.arange(5) / 25) == pytest.approx(0.04)
    assert decode.even_hop_s(np.array([0.0, 0.04, 0.2])) is None
    assert decode.even_hop_s(np.array([0.0])) is None


def test_an_id_that_names_another_file_fails_alone(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    session(folder, limit=1).run()
    other = folder / "other"
    shutil.copytree(folder / "data", other)
    shutil.copy(other / "clip 5.mp4", other / "clip 0.mp4")  # the same id, other content, another place
    (folder / "emo.toml").write_text((folder / "emo.toml").read_text().replace('"data"', '"other"'))
    outcome = session(folder).run()
    assert {(f.clip, f.kind) for f in outcome.failures} == {("clip 0", "id-taken")}
    assert outcome.progress.stored == 20
    assert outcome.exit_code == 3


def test_a_dry_run_writes_and_fetches_nothing(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    assert len(session(folder, dry_run=True).plan.jobs) == 6
    assert not (folder / "demo.emo").exists()
    (folder / "emo.toml").write_text(
        (folder / "emo.toml").read_text() + '[weights]\n"HL-UTT" = "nobody/nothing"\n"mae_340_UTT" = "nowhere.pth"\n'
    )
    with pytest.raises(WeightsMissing, match=r"(?s)2 encoders lack their weights.*would fetch it.*nowhere\.pth"):
        session(folder, dry_run=True, profile="paper", encoders=("HL-UTT", "mae_340_UTT"))


def test_a_limit_counts_clips_that_are_present(clips: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "w", clips)
    (folder / "data" / "labels.csv").write_text("name,emotion\nmissing,sad\nclip 3,happy\n")
    run = session(folder, limit=2)
    assert [job.clip.id for job in run.plan.jobs] == ["clip 3", "clip 0"]
    assert run.plan.absent == 1


def test_requests_that_make_no_sense_say_so(finished: Path) -> None:
    with pytest.raises(UsageError, match="more than once"):
        session(finished, encoders=("HL-UTT", "hubert"))
    with pytest.raises(UsageError, match="no level"):
        session(finished, encoders=("eva_g_448",), level="frame")
    with pytest.raises(UsageError, match="no level"):
        session(finished, level="word")
    with pytest.raises(UsageError, match="Did you mean"):
        session(finished, encoders=("HLUTT",))
    with pytest.raises(UsageError, match="no split"):
        session(finished, split="test9")
    with pytest.raises(UsageError, match="demo"):
        session(finished, dataset="MER2023")
