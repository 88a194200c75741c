"""`frame = "peak"` in emo.toml: encoders of whole images see the frame that the records of peaks name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emo.extract.annotate.openface import OpenFaceTables
from emo.extract.annotate.peak import PeakOptions
from emo.extract.doctor import diagnose
from emo.extract.session import ExtractArgs, open_session
from emo.featstore.clip import hash_media
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace

TOML = '[store]\npath = "s.emo"\n[data.mine]\nroot = "clips"\nkind = "folder"\n[extract]\nprofile = "tiny"\n'
ARGS = ExtractArgs(encoders=("eva_g_448",), device="cpu", workers=1)


@pytest.fixture
def folder(tmp_path: Path, write_media: Callable[..., Path]) -> Path:
    (tmp_path / "clips").mkdir()
    write_media(tmp_path / "clips/a.mp4", audio_s=0)
    write_media(tmp_path / "clips/b.mp4", audio_s=0, n_frames=12)
    (tmp_path / "emo.toml").write_text(TOML)
    return tmp_path


def choose(folder: Path, frame: str) -> None:
    (folder / "emo.toml").write_text(f'{TOML}frame = "{frame}"\n')


def peaks(folder: Path, options: PeakOptions, **indices: int) -> str:
    spec = options.spec(OpenFaceTables(Path("openface")).spec(("frame", "AU04_r")))
    with open_store(folder / "s.emo", create=True).writer() as writer:
        for clip, index in indices.items():
            file = hash_media(folder / f"clips/{clip}.mp4")
            writer.clip(clip, file, folder / f"clips/{clip}.mp4")
            writer.add_record(spec, file.media, {"index": index})
    return spec.fingerprint


def test_the_frame_of_the_record_is_seen_under_another_fingerprint(folder: Path) -> None:
    first = open_session(load_workspace(folder), ARGS)
    first.run()
    fingerprint = peaks(folder, PeakOptions(), a=7, b=3)
    choose(folder, "peak")
    peak = open_session(load_workspace(folder), ARGS)
    assert peak.specs[0].fingerprint != first.specs[0].fingerprint
    assert peak.specs[0].recipe["media"]["frame"] == f"peak:{fingerprint}"
    peak.run()
    store = open_store(folder / "s.emo")
    times = [store.get(spec, clip).t0_s for spec in (first.specs[0], peak.specs[0]) for clip in ("a", "b")]
    assert times == pytest.approx([0, 0, 7 / 25, 3 / 25], abs=1e-3)


def test_a_feature_is_made_anew_where_its_record_names_another_frame(folder: Path) -> None:
    peaks(folder, PeakOptions(), a=7, b=3)
    choose(folder, "peak")
    session = open_session(load_workspace(folder), ARGS)
    session.run()
    assert open_session(load_workspace(folder), ARGS).plan.jobs == []
    peaks(folder, PeakOptions(), a=2)
    again = open_session(load_workspace(folder), ARGS)
    assert [job.clip.id for job in again.plan.jobs] == ["a"]
    again.run()
    store = open_store(folder / "s.emo")
    assert [store.get(session.specs[0], clip).t0_s for clip in "ab"] == pytest.approx([2 / 25, 3 / 25], abs=1e-3)
    assert open_session(load_workspace(folder), ARGS).plan.jobs == []


def test_a_clip_without_a_peak_fails_and_is_tried_again(folder: Path) -> None:
    fingerprint = peaks(folder, PeakOptions(), a=7)
    choose(folder, f"peak@{fingerprint[:8]}")
    outcome = open_session(load_workspace(folder), ARGS).run()
    assert [(each.clip, each.kind, each.retry) for each in outcome.failures] == [("b", "no-frame-index", True)]
    peaks(folder, PeakOptions(), b=1)
    assert open_session(load_workspace(folder), ARGS).run().failures == ()


def test_without_records_or_with_several_kinds_it_says_what_to_do(folder: Path) -> None:
    choose(folder, "peak")
    with pytest.raises(UsageError, match="there is no store yet"):
        open_session(load_workspace(folder), ARGS)
    open_store(folder / "s.emo", create=True)
    with pytest.raises(UsageError, match="Run `emo annotate run` first"):
        open_session(load_workspace(folder), ARGS)
    peaks(folder, PeakOptions(), a=1)
    peaks(folder, PeakOptions(smooth=3), a=2)
    with pytest.raises(UsageError, match='frame = "peak@FINGERPRINT"'):
        open_session(load_workspace(folder), ARGS)


def test_the_doctor_does_not_look_for_a_file_of_that_name(folder: Path) -> None:
    choose(folder, "peak")
    assert not [each for each in diagnose(load_workspace(folder)) if "table of frames" in each.what]
