"""The command line: grammar, exit codes, what goes to stdout and what to stderr, and the whole path as typed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emo.cli import app

COMMANDS = [
    [*([group] if group else []), command.name or command.callback.__name__]
    for group, typer_app in [("", app), *((each.name, each.typer_instance) for each in app.registered_groups)]
    for command in typer_app.registered_commands
]


def emo(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, without a terminal."""
    command = [sys.executable, "-m", "emo.cli", *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100", **(env or {})}
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A small demo workspace, made by `emo demo` itself."""
    folder = tmp_path_factory.mktemp("demo")
    result = emo("demo", "d", "--clips", "4", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "d", result


# ---- grammar ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_and_the_common_flags(words: list[str], tmp_path: Path) -> None:
    result = emo(*words, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"Example: emo {' '.join(words)}" in " ".join(result.stdout.split())
    for flag in ("--quiet", "--debug", "--help"):
        assert flag in result.stdout


def test_help_is_quick(tmp_path: Path) -> None:
    """No heavy import: what `emo --help` loads is listed, not timed."""
    code = (
        "import sys, runpy; sys.argv = ['emo', '--help']\n"
        "try: runpy.run_module('emo.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'zarr', 'sklearn', 'av', 'rich', 'matplotlib', 'onnxruntime'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_unknown_words_are_usage_errors(tmp_path: Path) -> None:
    assert emo("extrakt", cwd=tmp_path).returncode == 2
    assert emo("extract", "--nonsense", cwd=tmp_path).returncode == 2
    assert emo("extract", "--limit", "0", cwd=tmp_path).returncode == 2


def test_an_error_is_one_sentence_and_a_hint_and_no_traceback(tmp_path: Path) -> None:
    result = emo("extract", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("emo: No emo.toml in ")
    assert "emo init" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in emo("extract", "--debug", cwd=tmp_path).stderr


# ---- the whole path --------------------------------------------------------------------------------------------------


def test_the_demo_says_what_it_shows_and_what_it_does_not(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = demo
    assert "it says nothing about accuracy on people" in result.stdout
    assert "tiny profile (random weights)" in result.stdout
    assert (folder / "report" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "accuracy on people" in (folder / "report" / "report.md").read_text()
    for feature in ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448"):
        assert feature in result.stderr


def test_the_demo_finds_a_face_in_every_drawn_clip(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    card = json.loads(emo("store", "info", "--json", cwd=demo[0]).stdout)
    assert {each["feature"].split("@")[0]: (each["ok"], each["failed"]) for each in card["features"]} == dict.fromkeys(
        ("faces", "HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448"), (24, 0)
    )


def test_the_demo_can_be_run_again_but_not_over_another_workspace(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "emo.toml").write_text('[store]\npath = "mine.emo"\n')
    result = emo("demo", ".", cwd=tmp_path)
    assert result.returncode == 2
    assert "not the demo's" in result.stderr
    assert (tmp_path / "emo.toml").read_text() == '[store]\npath = "mine.emo"\n'


def test_extracting_again_does_nothing_and_is_quick(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    started = time.monotonic()
    imports = subprocess.run([sys.executable, "-c", "import emo.extract.session"], cwd=demo[0], check=True)
    start_up_s = time.monotonic() - started
    assert imports.returncode == 0
    started = time.monotonic()
    result = emo("extract", "--json", cwd=demo[0])
    assert time.monotonic() - started < 2 * start_up_s + 2.0
    assert json.loads(result.stdout) | {"seconds": 0} == {
        "clips": 0,
        "features": 0,
        "seconds": 0,
        "interrupted": False,
        "failures": [],
    }


def test_json_is_all_there_is_on_stdout(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = demo[0]
    for words in (
        ["doctor"],
        ["extract", "--dry-run"],
        ["train", "--head", "logistic", "--cached"],
        ["score", "labels.csv#test"],
        ["store", "info"],
        ["store", "ls"],
        ["store", "verify"],
        ["store", "gc"],
        ["store", "compact"],
        ["data", "list"],
        ["data", "check"],
        ["weights", "list"],
    ):
        result = emo(*words, "--json", cwd=folder)
        assert result.returncode == 0, (words, result.stderr)
        json.loads(result.stdout)


def test_cached_training_says_which_features_are_missing(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    shutil.copy(folder / "data/clips/demo_0000.mp4", folder / "data/clips/newcomer.mp4")
    result = emo("train", "--cached", cwd=folder)
    assert result.returncode == 4
    assert "newcomer" in result.stderr
    assert "HL-UTT" in result.stderr
    shutil.rmtree(folder / "demo.emo")
    assert emo("train", "--cached", cwd=folder).returncode == 4


def test_cached_training_opens_no_video_and_loads_no_encoder(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    code = (
        "import sys\n"
        "for name in ('av', 'onnxruntime', 'transformers', 'emo.extract'): sys.modules[name] = None\n"
        "sys.argv = ['emo', 'train', '--head', 'attention', '--cached', '--set', 'epochs=2']\n"
        "from emo.cli import main; main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=demo[0], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_several_features_of_one_name_are_settled_by_profile_or_asked_for(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    assert emo("extract", "--encoders", "mae_340_UTT", "--face", "largest", cwd=folder).returncode == 0
    words = ("train", "--head", "attention", "--cached", "--set", "epochs=2")
    result = emo(*words, cwd=folder)
    assert result.returncode == 2
    choice = result.stderr.split("--set '")[1].split("'")[0]
    assert emo(*words, "--set", choice, cwd=folder).returncode == 0


def test_the_language_model_is_tuned_resumed_and_scored(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    result = emo("train", "--recipe", "tiny", "--cached", "--run", "llm", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    run = json.loads(result.stdout)
    assert (run["kind"], run["status"]) == ("tune", "finished")
    scored = emo("score", "labels.csv#test", "--run", "llm", "--answers", "likelihood", cwd=folder)
    assert scored.returncode == 0, scored.stderr
    assert "The language model is tiny and has random weights" in scored.stdout
    assert (folder / "runs/llm/predictions-likelihood.jsonl").exists()


def test_names_in_a_label_file_may_carry_the_files_suffix(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("name,label\na.mp4,sad\nb.mp4,happy\n")
    (tmp_path / "answers.json").write_text('{"a": "sad", "b": "happy"}')
    result = emo("score", "labels.csv", "--predictions", "answers.json", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["accuracy"] == 1.0


def test_the_version_and_files_that_cannot_be_written(tmp_path: Path) -> None:
    assert emo("--version", cwd=tmp_path).stdout.startswith("emo 0.")
    (tmp_path / "taken").write_text("a file where a folder should be")
    result = emo("demo", "taken/inside", cwd=tmp_path)
    assert result.returncode == 4
    assert "taken" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_same_seed_gives_the_same_run(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = demo[0]
    for run in ("one", "two"):
        words = ("train", "--head", "attention", "--cached", "--set", "epochs=3", "--run", run)
        assert emo(*words, cwd=folder).returncode == 0
    files = sorted(path.name for path in (folder / "runs/one").iterdir() if path.name != "run.json")
    assert any(name.endswith(".safetensors") for name in files)
    for name in files:
        assert (folder / "runs/one" / name).read_bytes() == (folder / "runs/two" / name).read_bytes(), name


def test_damage_is_found_and_repaired(demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    shard = next(path for path in (folder / "demo.emo/features.zarr").glob("HL-UTT@*/*/c/0/0"))
    damaged = bytearray(shard.read_bytes())
    damaged[100] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(damaged)
    result = emo("store", "verify", cwd=folder)
    assert result.returncode == 4
    assert "HL-UTT" in result.stdout
    assert emo("store", "verify", "--repair", cwd=folder).returncode == 0
    assert emo("extract", cwd=folder).returncode == 0
    result = emo("store", "verify", cwd=folder)
    assert result.returncode == 0
    assert "clean" in result.stdout


# ---- score as typed --------------------------------------------------------------------------------------------------


def test_score_reads_labels_from_the_dataset_root(shared: Path, goldens: Path, tmp_path: Path) -> None:
    answers = goldens / "case7_published" / "raw_answers.json"
    if not answers.exists():
        pytest.skip("no case7_published in the goldens folder")
    root = shared / "data" / "mer2023"
    (tmp_path / "emo.toml").write_text(f'[store]\npath = "a.emo"\n[data.MER2023-SEMI]\nroot = "{root}"\n')
    words = ("score", "relative_test3_NCEV.txt", "--predictions", str(answers), "--answers", "official", "--json")
    result = emo(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["f1_weighted"] == pytest.approx(0.9035772132511264, abs=1e-9)


def test_score_of_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "answers.csv").write_text("name,prediction\na,sad\n")
    result = emo("score", "empty.txt", "--predictions", "answers.csv", cwd=tmp_path)
    assert result.returncode == 2
    assert "empty.txt is empty" in result.stderr
    result = emo("score", "nowhere.txt", "--predictions", "answers.csv", cwd=tmp_path)
    assert result.returncode == 2
    assert "nowhere.txt" in result.stderr


def test_init_writes_a_workspace_that_loads(tmp_path: Path) -> None:
    assert emo("init", "study", cwd=tmp_path).returncode == 0
    assert emo("init", "study", cwd=tmp_path).returncode == 2
    result = emo("extract", "--dataset", "MER2023-SEMI", cwd=tmp_path / "study")
    assert result.returncode == 2
    assert "does not exist" in result.stderr
