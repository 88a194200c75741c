"""The command line: grammar, exit codes, what goes to stdout and what to stderr, and the whole path as typed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emo import __version__
from emo.cli import PAGES, TOP, app
from emo.featstore.storage.store import open_store

Demo = tuple[Path, subprocess.CompletedProcess[str]]
Emo = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = [[each.name or each.callback.__name__] for each in app.registered_commands]
COMMANDS += [[name] for name in TOP]
COMMANDS += [[group, name] for group, pages in PAGES.items() for name in pages]


# ---- grammar ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_and_the_common_flags(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"Example: emo {' '.join(words)}" in " ".join(result.output.split())
    for flag in ("--quiet", "--debug", "--help"):
        assert flag in result.output


def test_unknown_words_are_usage_errors(emo: Emo, tmp_path: Path) -> None:
    assert emo("extrakt", cwd=tmp_path).returncode == 2
    assert emo("extract", "--nonsense", cwd=tmp_path).returncode == 2
    assert emo("extract", "--limit", "0", cwd=tmp_path).returncode == 2


def test_a_slip_names_the_command_that_was_meant(emo: Emo, tmp_path: Path) -> None:
    for words, meant in (
        (["extrakt"], "emo extract"),
        (["store", "lss"], "emo store ls"),
        (["ls"], "emo store ls"),
        (["runs", "list"], "emo run list"),
    ):
        result = CliRunner().invoke(app, words)
        assert f"`{meant}`" in getattr(result.exception, "hint", ""), words
    assert "Did you mean `emo store ls`?" in emo("store", "lss", cwd=tmp_path).stderr
    assert CliRunner().invoke(app, ["store", "ls", "-h"]).output.startswith("Usage:")


def test_an_error_is_one_sentence_and_a_hint_and_no_traceback(emo: Emo, tmp_path: Path) -> None:
    result = emo("extract", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("emo: No emo.toml in ")
    assert "emo init" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in emo("extract", "--debug", cwd=tmp_path).stderr


# ---- the whole path --------------------------------------------------------------------------------------------------


def test_the_demo_says_what_it_shows_and_what_it_does_not(demo: Demo) -> None:
    folder, result = demo
    assert "it says nothing about accuracy on people" in result.stdout
    assert "tiny profile (random weights)" in result.stdout
    assert (folder / "report" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "accuracy on people" in (folder / "report" / "report.md").read_text()
    for feature in ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448"):
        assert feature in result.stderr


def test_the_demo_finds_a_face_in_every_drawn_clip(emo: Emo, demo: Demo) -> None:
    card = json.loads(emo("store", "info", "--json", cwd=demo[0]).stdout)
    assert {each["feature"].split("@")[0]: (each["ok"], each["failed"]) for each in card["features"]} == dict.fromkeys(
        ("faces", "HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448"), (24, 0)
    )


def test_the_demo_can_be_run_again_but_not_over_another_workspace(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "emo.toml").write_text('[store]\npath = "mine.emo"\n')
    result = emo("demo", ".", cwd=tmp_path)
    assert result.returncode == 2
    assert "not the demo's" in result.stderr
    assert (tmp_path / "emo.toml").read_text() == '[store]\npath = "mine.emo"\n'


def test_extracting_again_does_nothing_and_is_quick(emo: Emo, demo: Demo) -> None:
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
        "notes": {},
    }


def test_json_is_all_there_is_on_stdout(emo: Emo, demo: Demo) -> None:
    folder = demo[0]
    for words in (
        ["doctor"],
        ["extract", "--dry-run"],
        ["train", "--head", "logistic", "--cached"],
        ["score", "labels.csv#test"],
        ["predict", "demo_0000"],
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
        assert result.returncode == 0, f"{words} {result.stderr}"
        json.loads(result.stdout)


def test_a_run_answers_a_track_of_a_challenge(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    run = next((demo[0] / "runs").glob("attention*")).name
    out = tmp_path / "submission.csv"
    words = (
        "submit",
        "--challenge",
        "mer2026",
        "--track",
        "cross",
        "--candidates",
        "labels.csv#test",
        "--out",
        str(out),
    )
    result = emo(*words, "--run", run, cwd=demo[0])
    assert result.returncode == 0, result.stderr
    answers = json.loads(emo("predict", "labels.csv#test", "--run", run, "--json", cwd=demo[0]).stdout)["answers"]
    assert out.read_text() == "name,discrete\n" + "".join(f"{each['name']},{each['answer']}\n" for each in answers)
    assert f"{run} has seen none of these clips in training." in " ".join(result.stdout.split())
    assert emo(*words[:7], "--check", str(out), cwd=demo[0]).returncode == 0


def test_cached_training_says_which_features_are_missing(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    shutil.copy(folder / "data/clips/demo_0000.mp4", folder / "data/clips/newcomer.mp4")
    result = emo("train", "--cached", cwd=folder)
    assert result.returncode == 4
    assert "newcomer" in result.stderr
    assert "HL-UTT" in result.stderr
    shutil.rmtree(folder / "demo.emo")
    assert emo("train", "--cached", cwd=folder).returncode == 4


def test_cached_training_opens_no_video_and_loads_no_encoder(demo: Demo) -> None:
    code = (
        "import sys\n"
        "for name in ('av', 'onnxruntime', 'transformers', 'emo.extract'): sys.modules[name] = None\n"
        "sys.argv = ['emo', 'train', '--head', 'attention', '--cached', '--set', 'epochs=2']\n"
        "from emo.cli import main; main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=demo[0], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_list_of_commands_holds_whole_sentences(emo: Emo, tmp_path: Path) -> None:
    lists = [emo(*words, cwd=tmp_path).stdout.partition("Commands:")[2] for words in (["-h"], ["store", "-h"])]
    said = " ".join(" ".join(lists).split())
    assert "..." not in said
    assert "Run all encoders over a dataset once and keep their features in the store." in said


def test_several_features_of_one_name_are_settled_by_emo_toml_or_asked_for(
    emo: Emo, demo: Demo, tmp_path: Path
) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    assert emo("extract", "--encoders", "mae_340_UTT", "--face", "largest", cwd=folder).returncode == 0
    words = ("train", "--head", "attention", "--cached", "--set", "epochs=2")
    settled = emo(*words, "--run", "settled", cwd=folder)
    assert settled.returncode == 0, settled.stderr
    assert "of 2 in the store, the one that [extract] in emo.toml describes" in settled.stderr
    with open(folder / "emo.toml", "a") as file:  # which now describes neither
        file.write('face = "longest"\n')
    result = emo(*words, cwd=folder)
    assert result.returncode == 2
    choice = result.stderr.split("--set '")[1].split("'")[0]
    assert emo(*words, "--set", choice, cwd=folder).returncode == 0


def test_predict_extracts_what_a_new_video_lacks_and_answers(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    shutil.copy(folder / "data/clips/demo_0000.mp4", tmp_path / "interview.mp4")
    with open(tmp_path / "interview.mp4", "ab") as file:
        file.write(b"\0\0\0\x08free")  # another file of the same content for people: an empty box at its end
    trained = emo("train", "--head", "logistic", "--cached", "--run", "head", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    asked = ("predict", str(tmp_path / "interview.mp4"), "--run", "head")
    refused = emo(*asked, "--cached", cwd=folder)
    assert refused.returncode == 3
    assert "its features are not in the store" in refused.stdout
    said = json.loads(emo(*asked, "--json", cwd=folder).stdout)
    (answer,) = said["answers"]
    assert answer["name"].startswith("interview@")
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    again = emo(*asked, "--json", "--cached", cwd=folder)  # now it is in the store
    assert json.loads(again.stdout)["answers"] == [answer]
    known = emo("predict", "demo_0000", "--run", "head", cwd=folder)
    assert known.returncode == 0
    assert "tiny profile (random weights)" in known.stdout
    (folder / "emo.toml").write_text((folder / "emo.toml").read_text() + 'face = "largest"\n')
    with open(tmp_path / "interview.mp4", "ab") as file:
        file.write(b"\0\0\0\x08free")
    changed = emo(*asked, cwd=folder)  # what would be extracted now is not what the run was trained on
    assert changed.returncode == 2
    assert "cannot be made with what emo.toml says now" in changed.stderr


def test_a_folder_is_answered_into_a_table(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    result = emo("predict", "data/clips", "--csv", str(tmp_path / "answers.csv"), "--json", cwd=demo[0])
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0].startswith("name,answer,p_")
    assert [line.split(",")[0] for line in lines[1:]] == [f"demo_{n:04d}" for n in range(24)]
    empty = emo("predict", str(tmp_path), cwd=demo[0])
    assert empty.returncode == 2
    assert "holds no video or sound file" in empty.stderr


def test_a_head_takes_those_of_its_features_that_are_there_and_says_so(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    for name in ("mae_340_UTT", "maeV_399_UTT"):
        assert emo("store", "drop", name, cwd=folder).returncode == 0
    words = ("train", "--head", "attention", "--cached", "--set", "epochs=2")
    refused = emo(*words, cwd=folder)  # what emo.toml extracts is only not there yet
    assert (refused.returncode, "emo extract --encoders mae_340_UTT,maeV_399_UTT" in refused.stderr) == (4, True)
    text = (folder / "emo.toml").read_text()
    (folder / "emo.toml").write_text(
        re.sub(r"(?m)^\[extract\]\n(encoders.*\n)?", '[extract]\nencoders = ["HL-UTT"]\n', text)
    )
    taken = emo(*words, cwd=folder)
    assert taken.returncode == 0, taken.stderr
    assert "no mae_340_UTT, maeV_399_UTT, which attention names; it takes what is there: HL-UTT." in taken.stderr


def test_a_training_that_cannot_begin_leaves_no_run(emo: Emo, demo: Demo) -> None:
    before = sorted(path.name for path in (demo[0] / "runs").iterdir())
    wrong = ("--set", "features=[{name: eva_g_448, pool: none}]")
    assert emo("train", "--head", "attention", "--cached", *wrong, cwd=demo[0]).returncode == 2
    assert emo("train", "--head", "mult", "--cached", cwd=demo[0]).returncode == 4
    missing = ("--set", "data.emotion=[{file: nowhere.txt}]")
    result = emo("train", "--recipe", "tiny", "--cached", *missing, cwd=demo[0])
    assert result.returncode == 2
    assert "nowhere.txt" in result.stderr
    assert sorted(path.name for path in (demo[0] / "runs").iterdir()) == before


def test_predict_says_what_is_wrong_with_what_it_is_given(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    (tmp_path / "text.mp4").write_text("no video at all")
    assert emo("train", "--head", "logistic", "--cached", "--run", "head", cwd=folder).returncode == 0
    result = emo("predict", str(tmp_path / "text.mp4"), "demo_0000", "--run", "head", cwd=folder)
    assert result.returncode == 3
    assert "no answer about text@" in result.stdout
    assert "is a text, not a clip" in result.stdout
    assert "demo_0000" in result.stdout  # the other clip keeps its answer
    result = emo("predict", "demo_9999", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert "is no clip of the workspace" in result.stderr
    result = emo("predict", "demo_0000", "--run", "head", "--task", "reason", cwd=folder)
    assert result.returncode == 2
    assert "is a head, which knows no task reason" in result.stderr


def test_features_go_out_as_another_tools_tree_and_come_back(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    tree = tmp_path / "features_of_demo"
    out = emo("store", "export", str(tree), "--layout", "emotion-llama", cwd=demo[0])
    assert out.returncode == 0, out.stderr
    (tmp_path / "w").mkdir()
    root = demo[0] / "data"
    (tmp_path / "w" / "emo.toml").write_text(
        f'[store]\npath = "a.emo"\n[data.demo]\nroot = "{root}"\nkind = "folder"\n'
    )
    for new in (72, 0):  # the second time there is nothing left to do
        back = emo("store", "import", str(tree), "--json", cwd=tmp_path / "w")
        assert back.returncode == 0, back.stderr
        assert sum(each["new"] for each in json.loads(back.stdout)["features"]) == new
    theirs, ours = open_store(tmp_path / "w" / "a.emo"), open_store(demo[0] / "demo.emo")
    for name in ("HL-UTT", "mae_340_UTT", "maeV_399_UTT"):
        assert theirs.resolve(name).profile == "imported"
        assert np.array_equal(theirs.utterances(name, ours.clips()), ours.utterances(name, ours.clips()))
    trained = emo("train", "--head", "logistic", "--cached", cwd=tmp_path / "w")
    assert trained.returncode == 0, trained.stderr
    assert "imported: how it was done emo cannot say" in trained.stdout
    same = emo("store", "compare", str(demo[0] / "demo.emo"), str(tree / "HL-UTT"), "--feature", "HL-UTT", cwd=demo[0])
    assert same.returncode == 0, same.stdout
    assert "A and B match" in same.stdout


def test_labels_of_other_clips_than_the_stores_show_both_sides(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    assert emo("train", "--head", "logistic", "--cached", "--run", "head", cwd=folder).returncode == 0
    (folder / "other.csv").write_text("name,label\na,sad\nb,happy\nc,sad\nd,sad\n")
    result = emo("score", "other.csv", "--run", "head", cwd=folder)
    assert result.returncode == 2
    assert "a, b, c and 1 more" in result.stderr
    assert "The store has, for instance, demo_0000, " in result.stderr
    assert (folder / "runs" / "head" / "missing.txt").read_text() == "a\nb\nc\nd\n"


def test_a_report_says_how_its_answers_were_made_and_goes_into_a_paper(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    run = next((demo[0] / "runs").glob("attention*")).name
    folder = tmp_path / "report"
    done = emo("score", "labels.csv#test", "--run", run, "--report", str(folder), cwd=demo[0])
    assert done.returncode == 0, done.stderr
    made = json.loads((folder / "metrics.json").read_text())["made"]
    assert made["command"] == f"emo score 'labels.csv#test' --run {run} --report {folder}"
    assert (made["what"], made["seed"], made["dataset"]) == ("attention", "0", "demo")
    assert made["features"].startswith("HL-UTT@")
    assert "Trained on train (18)" in made["clips"]
    assert f"emo {__version__}" in made["software"]
    tex = (folder / "tables.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") >= 5
    assert r"truth \textbackslash{} answer" in tex
    assert (folder / "confusion.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "confusion.svg").read_text().startswith("<?xml")
    html = (folder / "report.html").read_text()
    assert f'href="{(demo[0] / "data/clips").as_uri()}/demo_' in html
    assert "Confusion in per cent of the true class" in html


def test_two_runs_are_compared(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    for run, head in (("a", "logistic"), ("b", "attention")):
        words = ("--head", head, "--run", run, "--cached", *(["--set", "epochs=2"] if head == "attention" else []))
        assert emo("train", *words, cwd=folder).returncode == 0
    words = ("score", "labels.csv#test", "--run", "a", "--against")
    found = json.loads(emo(*words, "b", "--json", cwd=folder).stdout)
    assert (found["a"], found["b"], found["n"]) == ("a", "b", 6)
    assert 0 <= found["p"] <= 1
    shown = emo(*words, "runs/b/predictions.jsonl", "--report", "both", cwd=folder)
    assert (folder / "both" / "report.html").exists()
    assert shown.returncode == 0, shown.stderr
    assert "McNemar's exact test" in shown.stdout
    assert "no number here is an accuracy on people" in shown.stdout


def test_flags_of_score_are_heard_or_refused(emo: Emo, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("name,label\na,sad\nb,happy\n")
    (tmp_path / "answers.json").write_text('{"a": "sad", "b": "happy"}')
    words = ("score", "labels.csv", "--predictions", "answers.json")
    for flags, said in (
        (("--wheels", "w.npz"), "--wheels is for --metric emotion-wheel, hit-rate"),
        (("--metric", "openset", "--self-test", "3"), "--self-test is for --metric emer"),
        (("--metric", "typo"), "There is no metric 'typo'"),
        (("--metric", "hit-rate"), "Metric hit-rate needs --wheels"),
        (("--against", "answers.json", "--metric", "sentiment"), "do not go together"),
        (("--fold", "1"), "--fold belongs to a protocol"),
        (("--run", "r"), "--run and --predictions do not go together"),
    ):
        result = emo(*words, *flags, cwd=tmp_path)
        assert result.returncode == 2, flags
        assert said in result.stderr, flags


def test_a_list_is_found_in_the_datasets_root_and_its_strangers_are_named(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(demo[0], folder)
    (folder / "data" / "some.txt").write_text("demo_0000\nstranger\n")
    assert emo("train", "--head", "knn", "--cached", "--run", "head", cwd=folder).returncode == 0
    result = emo("predict", "some.txt", "--run", "head", cwd=folder)
    assert result.returncode == 3
    assert "no answer about stranger" in result.stdout
    result = emo("predict", "demo_0000", "--run", "head", "--transcript", "hello", cwd=folder)
    assert result.returncode == 2
    assert "reads no transcript" in result.stderr
    result = emo("store", "search", "demo_0000", "-k", "0", cwd=folder)
    assert result.returncode == 2
    shown = json.loads(emo("store", "search", "demo_0000", "-k", "3", "--json", cwd=folder).stdout)
    assert len(shown["neighbours"]) == 3


def test_a_workspace_that_is_wrong_is_never_done_without(emo: Emo, tmp_path: Path) -> None:
    """Fetching by id needs no workspace; one that is there and cannot be read is said all the same."""
    (tmp_path / "emo.toml").write_text("[store\n")
    result = emo("weights", "pull", "HL-UTT", cwd=tmp_path)
    assert result.returncode == 2
    assert "emo.toml is not valid TOML" in result.stderr


def test_names_in_a_label_file_may_carry_the_files_suffix(emo: Emo, demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("name,label\na.mp4,sad\nb.mp4,happy\n")
    (tmp_path / "answers.json").write_text('{"a": "sad", "b": "happy"}')
    result = emo("score", "labels.csv", "--predictions", "answers.json", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["accuracy"] == 1.0


def test_the_version_and_files_that_cannot_be_written(emo: Emo, tmp_path: Path) -> None:
    assert emo("--version", cwd=tmp_path).stdout.startswith("emo 0.")
    (tmp_path / "taken").write_text("a file where a folder should be")
    result = emo("demo", "taken/inside", cwd=tmp_path)
    assert result.returncode == 4
    assert "taken" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_same_seed_gives_the_same_run(emo: Emo, demo: Demo) -> None:
    folder = demo[0]
    for run in ("one", "two"):
        words = ("train", "--head", "attention", "--cached", "--set", "epochs=3", "--run", run)
        assert emo(*words, cwd=folder).returncode == 0
    digests = [json.loads((folder / "runs" / run / "digests.json").read_text()) for run in ("one", "two")]
    for each in digests:
        each.pop("run.json")  # name and time of the run
    assert digests[0] == digests[1]
    named = {"run.json", "digests.json"}
    files = sorted(path.name for path in (folder / "runs/one").iterdir() if path.name not in named)
    assert any(name.endswith(".safetensors") for name in files)
    for name in files:
        assert (folder / "runs/one" / name).read_bytes() == (folder / "runs/two" / name).read_bytes(), name


def test_damage_is_found_and_repaired(emo: Emo, demo: Demo, tmp_path: Path) -> None:
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


def test_score_reads_labels_from_the_dataset_root(emo: Emo, shared: Path, goldens: Path, tmp_path: Path) -> None:
    answers = goldens / "case7_published" / "raw_answers.json"
    if not answers.exists():
        pytest.skip("no case7_published in the goldens folder")
    root = shared / "data" / "mer2023"
    (tmp_path / "emo.toml").write_text(f'[store]\npath = "a.emo"\n[data.MER2023-SEMI]\nroot = "{root}"\n')
    words = ("score", "relative_test3_NCEV.txt", "--predictions", str(answers), "--answers", "official", "--json")
    result = emo(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["f1_weighted"] == pytest.approx(0.9035772132511264, abs=1e-9)


def test_score_of_nothing_says_so(emo: Emo, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "answers.csv").write_text("name,prediction\na,sad\n")
    result = emo("score", "empty.txt", "--predictions", "answers.csv", cwd=tmp_path)
    assert result.returncode == 2
    assert "empty.txt is empty" in result.stderr
    result = emo("score", "nowhere.txt", "--predictions", "answers.csv", cwd=tmp_path)
    assert result.returncode == 2
    assert "nowhere.txt" in result.stderr


def test_init_writes_a_workspace_that_loads(emo: Emo, tmp_path: Path) -> None:
    assert emo("init", "study", cwd=tmp_path).returncode == 0
    assert emo("init", "study", cwd=tmp_path).returncode == 2
    result = emo("extract", "--dataset", "MER2023-SEMI", cwd=tmp_path / "study")
    assert result.returncode == 2
    assert "does not exist" in result.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_a_character_gets_its_number_and_no_traceback(
    emo: Emo, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "emo.toml").write_text('[data.mine]\nroot = "."\nkind = "folder"\n')
    (tmp_path / "labels.csv").write_text("name,label\n空,高兴\n", encoding="utf-8")
    (tmp_path / "空.mp4").write_bytes(b"")
    env = {"PYTHONIOENCODING": encoding}
    for words in (
        ["data", "counts"],
        ["data", "counts", "--json"],
        ["data", "check"],
        ["data", "check", "--dataset", "空"],
    ):
        done = emo(*words, cwd=tmp_path, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (2 if "空" in words else 0)


def test_json_of_any_label_is_json_in_any_encoding(emo: Emo, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("name,label\n空,fröhlich\nb,高兴\n", encoding="utf-8")
    (tmp_path / "p.csv").write_text("name,prediction\n空,fröhlich\nb,高兴\n", encoding="utf-8")
    words = ("score", "truth.csv", "--predictions", "p.csv", "--json")
    plain = emo(*words, cwd=tmp_path)
    assert json.loads(plain.stdout)["labels"] == ["fröhlich", "高兴"]
    for encoding in ("ascii", "latin-1"):
        found = emo(*words, cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
        assert (found.returncode, found.stderr) == (0, "")
        assert json.loads(found.stdout) == json.loads(plain.stdout)


def test_a_locale_of_other_letters_finds_clips_by_their_names(emo: Emo, tmp_path: Path) -> None:
    """Where the locale is Latin-1, Python would read the name of a Chinese file as other letters than its label's."""
    locale = tmp_path / "locales" / "en_US.ISO-8859-1"
    locale.parent.mkdir()
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(locale)], capture_output=True
    )
    if not made or not locale.exists():
        pytest.skip("localedef cannot make a Latin-1 locale here")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "空.mp4").write_bytes(b"")
    (tmp_path / "clips" / "labels.csv").write_text("name,label\n空,高兴\n", encoding="utf-8")
    (tmp_path / "emo.toml").write_text('[store]\npath = "f.emo"\n[data.mine]\nroot = "clips"\nkind = "folder"\n')
    env = {"LOCPATH": str(locale.parent), "LC_ALL": "en_US.ISO-8859-1"}
    found = emo("data", "counts", "--json", cwd=tmp_path, env=env)
    assert found.returncode == 0, found.stderr
    (counts,) = json.loads(found.stdout)
    assert (counts["splits"][0]["present"], counts["splits"][0]["labels"]) == (1, {"高兴": 1})


def test_in_a_locale_of_ascii_a_folder_of_chinese_names_is_begun_and_read(emo: Emo, tmp_path: Path) -> None:
    (tmp_path / "片段").mkdir()
    (tmp_path / "片段" / "空.mp4").write_bytes(b"")
    (tmp_path / "片段" / "labels.csv").write_text("name,label\n空,高兴\n", encoding="utf-8")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    begun = emo("init", "study", "--clips", "片段", cwd=tmp_path, env=env)
    assert begun.returncode == 0, begun.stderr
    found = emo("data", "counts", "--json", cwd=tmp_path / "study", env=env)
    (counts,) = json.loads(found.stdout)
    assert (counts["splits"][0]["present"], counts["splits"][0]["labels"]) == (1, {"高兴": 1})
