"""Shards: parts of a dataset for several processes, disjoint and complete whatever has happened before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emo.extract.demo import EMOTIONS, generate_clip
from emo.extract.run.executor import Executor, Local
from emo.extract.run.plan import Shard, plan
from emo.extract.session import ExtractArgs, open_session
from emo.extract.testing import check_executor
from emo.featstore.clip import Clip, hash_media
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import open_store
from emo.featstore.transcripts import LANGUAGES
from emo.featstore.workspace import load_workspace

Emo = Callable[..., subprocess.CompletedProcess[str]]
TOML = '[data.folder]\nroot = "data"\n[extract]\nprofile = "tiny"\nencoders = ["HL-UTT", "mae_340_UTT"]\n'


WORDS = ("there", "lacks", "hopeless", "again", "changed", "new")  # what is to be said of each clip


def files(folder: Path, n: int, size: Callable[[int], int] = lambda i: 5000 + i) -> list[Clip]:
    """Clips whose files hold noise, which is enough to plan."""
    rng = np.random.default_rng(5)
    clips = []
    for i in range(n):
        path = folder / f"clip_{i:03d}.mp4"
        path.write_bytes(rng.bytes(size(i)))
        clips.append(Clip(path.stem, media=path))
    return clips


def parts(clips: Sequence[Clip], of: int) -> list[set[str]]:
    return [set(plan(None, clips, [], shard=Shard(k, of)).clips) for k in range(1, of + 1)]


@pytest.mark.parametrize("of", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [lambda i: 5000 + i, lambda i: 20_000], ids=["of many sizes", "of one size"])
def test_shards_are_disjoint_complete_and_of_like_size(tmp_path: Path, of: int, size: Callable[[int], int]) -> None:
    clips = files(tmp_path, 200, size)
    found = parts(clips, of)
    assert sorted(name for part in found for name in part) == [clip.id for clip in clips]
    assert max(map(len, found)) < 2 * 200 / of or of == 1
    assert parts(clips[::-1], of) == found


def test_a_renamed_file_stays_and_copies_stay_together(tmp_path: Path) -> None:
    clips = files(tmp_path, 30)
    before = parts(clips, 3)
    renamed = [Clip(f"other_{clip.id}", media=clip.media.rename(tmp_path / f"other_{clip.id}.mp4")) for clip in clips]  # type: ignore[union-attr]
    assert parts(renamed, 3) == [{f"other_{name}" for name in part} for part in before]
    copies = [
        Clip(f"copy_{clip.id}", media=Path(shutil.copy(clip.media, tmp_path / f"copy_{clip.id}.mp4")))
        for clip in renamed
    ]  # type: ignore[arg-type]
    twins = parts([*copies, *renamed], 3)
    assert all(
        {name.replace("copy_", "") for name in part if "copy_" in name} == part - {n for n in part if "copy_" in n}
        for part in twins
    )


def test_clips_without_a_file_have_shards_too() -> None:
    found = [{i for i in range(100) if Shard(k, 4).holds(Clip(f"clip_{i}"))} for k in (1, 2, 3, 4)]
    assert sorted(i for part in found for i in part) == list(range(100))
    assert Shard(1, 4).holds(Clip("gone", media=Path("nowhere.mp4"))) == Shard(1, 4).holds(Clip("gone"))


def test_a_limit_counts_before_the_shards(tmp_path: Path) -> None:
    clips = files(tmp_path, 20)
    planned = [plan(None, clips, [], limit=7, shard=Shard(k, 3)) for k in (1, 2, 3)]
    assert sorted(name for each in planned for name in each.clips) == [clip.id for clip in clips[:7]]
    assert {each.total for each in planned} == {20}
    assert all(len(each.clips) + each.elsewhere == 7 for each in planned)


@pytest.mark.parametrize("text", ["", "3", "3/", "/8", "0/8", "9/8", "a/b", "-1/8", "1/0", "3/8/2", "1" * 30 + "/8"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="shard"):
        Shard.parse(text)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with seven clips, one of them a copy of another, and one run over all of them in `one.emo`."""
    folder = tmp_path_factory.mktemp("shards") / "w"
    (folder / "data").mkdir(parents=True)
    (folder / "emo.toml").write_text(TOML + '[store]\npath = "one.emo"\n')
    for number, emotion in enumerate(EMOTIONS):
        generate_clip(folder / "data" / f"clip {number}.mp4", emotion, seed=number, duration_s=0.4 + 0.12 * number)
    shutil.copy(folder / "data" / "clip 3.mp4", folder / "data" / "copy of 3.mp4")
    assert open_session(load_workspace(folder), ExtractArgs()).run().exit_code == 0
    (folder / "emo.toml").write_text(TOML + '[store]\npath = "shards.emo"\n')
    return folder


def test_three_processes_with_a_shard_each_are_one_run(space: Path, emo: Emo) -> None:
    """As a Slurm array starts them: all at once, into a store that is not there yet."""
    shares = []
    for k in (1, 2, 3):
        said = emo("extract", "--shard", f"{k}/3", "--dry-run", "--json", cwd=space)
        assert said.returncode == 0, said.stderr
        assert f"shard {k}/3: " in said.stderr
        shares.append(json.loads(said.stdout))
    assert sum(each["share"] for each in shares) == sum(each["to_do"] for each in shares) == 7
    assert not (space / "shards.emo").exists()
    command = [sys.executable, "-m", "emo.cli", "extract", "--json", "--workers", "1", "--commit-every", "1", "--shard"]
    children = [
        subprocess.Popen([*command, f"{k}/3"], cwd=space, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for k in (1, 2, 3)
    ]
    ended = [(child.communicate(timeout=300), child.returncode) for child in children]
    assert [code for _, code in ended] == [0, 0, 0], ended
    assert [json.loads(said[0])["clips"] for said, _ in ended] == [each["share"] for each in shares]
    store, one = open_store(space / "shards.emo"), open_store(space / "one.emo")
    assert store.verify() == []
    assert sorted(store.clips()) == sorted(one.clips())
    assert {each.key for each in store.features()} == {each.key for each in one.features()}
    assert store.failures() == []
    for feature in one.features():
        for clip in one.clips():
            a, b = store.get(feature.key, clip), one.get(feature.key, clip)
            assert (a.t0_s, a.hop_s) == (b.t0_s, b.hop_s)
            assert np.abs(a.array - b.array).max() <= 1e-5 * np.abs(b.array).max()
    assert not open_session(load_workspace(space), ExtractArgs()).plan.jobs
    after = [open_session(load_workspace(space), ExtractArgs(shard=Shard(k, 3))).plan for k in (1, 2, 3)]
    assert [len(each.clips) for each in after] == [each["share"] for each in shares]  # whatever is done already
    assert not any(each.jobs for each in after)


def test_the_local_executor_keeps_the_contract(space: Path, tmp_path: Path) -> None:
    request = ExtractArgs(workers=1, encoders=("HL-MERBench-UTT",), limit=3)
    jobs = open_session(load_workspace(space), request).plan.jobs

    def make() -> Executor:
        return open_session(load_workspace(space), request).executor

    check_executor(make, open_store(tmp_path / "new.emo", create=True), jobs)


def test_the_local_executor_is_stopped_with_what_is_committed(space: Path, tmp_path: Path) -> None:
    run = open_session(load_workspace(space), ExtractArgs(workers=1, commit_every=1, encoders=("HL-MERBench-UTT",)))
    executor: Executor = Local(run.job)
    executor.stop()
    store = open_store(tmp_path / "new.emo", create=True)
    assert executor.run(store, run.plan.jobs, {}) == []
    assert executor.progress.done == 0
    assert store.clips() == []


def test_a_limit_counts_clips_with_media_where_any_feature_needs_it(tmp_path: Path) -> None:
    text = EncoderSpec("t", "t", "text", "utt", 4, 1, "tiny", "seed:0", recipe={LANGUAGES: ["text"]})
    sound = EncoderSpec("s", "s", "audio", "utt", 4, 1, "tiny", "seed:0")
    clips = [*(Clip(f"absent{i}", transcripts={"text": "words"}) for i in range(5)), *files(tmp_path, 3)]
    assert plan(None, clips, [text, sound], limit=2).clips == ["clip_000", "clip_001"]
    assert plan(None, clips, [text], limit=2).clips == ["absent0", "absent1"]
    assert len(plan(None, clips, [text, sound]).clips) == 8


@pytest.mark.parametrize(
    "also", [[], [EncoderSpec("t", "t", "text", "utt", 4, 1, "tiny", "seed:0", recipe={LANGUAGES: ["text"]})]]
)
def test_what_is_left_is_wanted_less_what_is_there_less_what_failed_for_good(
    tmp_path: Path, also: list[EncoderSpec]
) -> None:
    """Decided by numbers; and clip by clip where features are made of transcripts."""
    sound, face = (EncoderSpec(name, name, "audio", "utt", 4, 1, "tiny", "seed:0") for name in "sf")
    clips = [replace(clip, id=name) for name, clip in zip(WORDS, files(tmp_path, 6), strict=True)]
    store = open_store(tmp_path / "a.emo", create=True)
    with store.writer() as writer:
        for clip in clips[:5]:
            assert clip.media is not None
            file = hash_media(clip.media)
            writer.clip(clip.id, file, clip.media)
            for spec in (sound, *also, *([face] if clip.id in ("there", "changed") else [])):
                writer.add(spec, file.media, np.ones((1, 4), np.float32))
            if clip.id in ("hopeless", "again"):
                writer.fail(face, clip.id, MediaError("no-face", "None.", retry=clip.id == "again"))
    assert clips[4].media is not None
    clips[4].media.write_bytes(b"other")
    for retry, jobs in ((False, ["lacks", "again", "changed", "new"]), (True, [*WORDS[1:]])):
        found = plan(store, [*clips, Clip("absent")], [sound, face, *also], retry_failed=retry, limit=6)
        assert [job.clip.id for job in found.jobs] == jobs
        assert [job.file is None for job in found.jobs] == [name in ("changed", "new") for name in jobs]
        assert (found.total, found.absent, found.done, found.hopeless) == (7, 1, 1, 5 - len(jobs))
        assert found.clips == [*WORDS]
