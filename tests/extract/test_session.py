"""From emo.toml and flags to encoders: whose weights are used, and what is said where they are not."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from emo.extract.doctor import diagnose
from emo.extract.encoders.registry import load_encoder
from emo.extract.session import ExtractArgs, Session, open_session
from emo.extract.weights import find_weights
from emo.featstore.errors import UsageError, WeightsMissing
from emo.featstore.meant import as_set
from emo.featstore.workspace import load_workspace, write_starter

TOML = '[data.mine]\nroot = "data"\nkind = "folder"\n[extract]\nprofile = "tiny"\n'


def workspace(folder: Path) -> Path:
    (folder / "data").mkdir()
    (folder / "data/a.mp4").write_bytes(b"never opened")
    (folder / "emo.toml").write_text(TOML)
    return folder


def session(folder: Path, **request: Any) -> Session:
    return open_session(load_workspace(folder), ExtractArgs(**request))


def test_weights_in_emo_toml_are_used_under_profile_tiny_or_it_is_said(tmp_path: Path) -> None:
    folder = workspace(tmp_path)
    toml = (folder / "emo.toml").read_text()
    encoder = load_encoder("mae_340_UTT", "tiny", seed=5)
    encoder.load()
    with encoder.computing() as model:
        save_file(model.state_dict(), folder / "mae.safetensors")

    def weights(value: str, **request: Any) -> Session:
        (folder / "emo.toml").write_text(f'{toml}[weights]\n"mae_340_UTT" = "{value}"\n')
        return session(folder, encoders=("mae_340_UTT",), dry_run=True, **request)

    used = weights("mae.safetensors")
    assert used.specs[0].weights == find_weights(folder / "mae.safetensors").hash
    assert not any("random weights" in line for line in used.says())
    with pytest.raises(WeightsMissing, match="no weights at"):
        weights("nowhere.pth")
    toml = toml.replace('"tiny"', '"paper"')
    drawn = weights("mae.safetensors", profile="tiny")
    assert drawn.specs[0].weights == "seed:0"
    assert "not used under profile tiny: [weights] of mae_340_UTT" in drawn.says()


def test_a_clip_above_the_limit_fails_for_good_and_the_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with wave.open(str(tmp_path / "data" / "long.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-9000, 9000, 3 * 16_000, dtype=np.int16).tobytes())
    (tmp_path / "emo.toml").write_text(f"{TOML}max_minutes = 0.04\n")  # 2.4 s
    found = session(tmp_path, encoders=("HL-UTT",)).run()
    ((failure,), key) = found.failures, found.failures[0].feature
    assert (failure.kind, failure.retry, found.exit_code, found.progress.stored) == ("too-long", False, 0, 0)
    assert "max_minutes under [extract] in emo.toml" in failure.message
    assert "HL-MERBench-UTT" in failure.message
    (tmp_path / "emo.toml").write_text(f"{TOML}max_minutes = 0.06\n")
    again = session(tmp_path, encoders=("HL-UTT",), retry_failed=True)
    assert [spec.key for spec in again.specs] == [key]
    found = again.run()
    assert (found.failures, found.progress.stored) == ((), 1)


def test_the_published_model_is_none_for_profile_tiny(tmp_path: Path) -> None:
    folder = workspace(tmp_path)
    with open(folder / "emo.toml", "a") as file:
        file.write('[weights]\n"HL-UTT" = "TencentGameMate/chinese-hubert-large"\n')
    made = session(folder, encoders=("HL-UTT",), dry_run=True)
    assert made.specs[0].weights == "seed:0"
    assert any("not used under profile tiny: [weights] of HL-UTT" in sentence for sentence in made.says())


def test_a_workspace_as_init_writes_it_runs_under_profile_tiny_without_any_weights(tmp_path: Path) -> None:
    write_starter(tmp_path, "mine", "data", kind="folder")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.mp4").write_bytes(b"never opened")
    text = (tmp_path / "emo.toml").read_text()
    (tmp_path / "emo.toml").write_text(text.replace('profile = "paper"', 'profile = "tiny"'))
    made = session(tmp_path, dry_run=True)
    assert {spec.weights for spec in made.specs} == {"seed:0"}
    assert any("not used under profile tiny: [weights] of HL-UTT, mae_340_UTT" in sentence for sentence in made.says())
    findings = {each.area: each for each in diagnose(load_workspace(tmp_path))}
    assert (findings["weights"].status, findings["weights"].what) == ("ok", "The tiny profile needs none")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("audio_track = 2", "HL-UTT"),
        ('sound_tail = "trim"', "HL-UTT"),
        ('face = "largest"', "mae_340_UTT"),
        ("faces_every = 3", "mae_340_UTT"),
        ('frame = "middle"', "eva_g_448"),
    ],
)
def test_of_two_recipes_of_one_name_emo_toml_means_the_one_that_it_makes(line: str, name: str, tmp_path: Path) -> None:
    folder = workspace(tmp_path)
    usual, plain = session(folder, encoders=(name,), dry_run=True).specs[0], load_workspace(folder).extract
    (folder / "emo.toml").write_text(TOML + line + "\n")
    other, changed = session(folder, encoders=(name,), dry_run=True).specs[0], load_workspace(folder).extract
    assert usual.key != other.key
    assert as_set(plain, [usual, other]) == [usual]
    assert as_set(changed, [usual, other]) == [other]


def test_a_folder_without_clips_is_no_pass_that_is_done(tmp_path: Path) -> None:
    (workspace(tmp_path) / "data/a.mp4").unlink()
    with pytest.raises(UsageError, match="mine holds no clip"):
        session(tmp_path, encoders=("HL-UTT",))


def test_a_dry_run_says_what_a_thousand_clips_take(tmp_path: Path) -> None:
    encoders = ("siglip-so400m-384-FRA", "beats-iter3-FRA", "HL-UTT", "HL-MERBench-FRA")
    made = session(workspace(tmp_path), encoders=encoders, profile="random", dry_run=True)
    page = made.plan_page()
    size = {key.partition("@")[0]: each for key, each in page.value["bytes_per_1000_clips"].items()}
    assert size == {
        "siglip-so400m-384-FRA": 1000 * 16 * 729 * 1152 * 2,
        "beats-iter3-FRA": 1000 * 1496 * 768 * 2,
        "HL-UTT": 1000 * 1024 * 4,
        "HL-MERBench-FRA": None,
    }
    (words,) = page.parts
    assert "29.18 GB and more" in words
    assert "HL-MERBench-FRA" in words
