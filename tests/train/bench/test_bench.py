"""A bench: its cells are what the heads learn alone, it goes on where it was killed, and says what it left out."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import Workspace
from emo.train.bench import work
from emo.train.bench.ensemble import Route
from emo.train.bench.pages import bench_page, ensemble_page
from emo.train.bench.recipe import cells_of, load_bench, shipped_benches
from emo.train.heads.base import Head
from emo.train.heads.fit import fit_head
from emo.train.heads.objective import Diverged
from emo.train.heads.search import RUNS
from emo.train.metrics.choose import ScoreArgs, scored_page
from emo.train.recipe import load_recipe

Write = Callable[..., Path]
Emo = Callable[..., subprocess.CompletedProcess[str]]
RESULTS = ("leaderboard.csv", "leaderboard.tex", "report.html", "report.md", "metrics.json", "heatmap.png")
CELLS = ("predictions.jsonl", "metrics.json", "recipe.yaml", "run.json", "clips.json")


def silent(sentence: str) -> None:
    """Nobody listens."""


def run(workspace: Workspace, path: Path, **flags: Any) -> Any:
    return bench_page(workspace, silent, str(path), **flags)


def files(folder: Path) -> dict[str, bytes]:
    """The files that must come out the same."""
    found = {name: (folder / name).read_bytes() for name in RESULTS}
    for cell in sorted((folder / "cells").iterdir()):
        found |= {f"{cell.name}/{name}": (cell / name).read_bytes() for name in CELLS if (cell / name).exists()}
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


# ---- what a cell is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["attention", "lf_dnn"])
def test_a_cell_is_what_emo_train_search_makes(workspace: Workspace, write: Write, head: str, tmp_path: Path) -> None:
    """The same draws, the same choice, the same six runs: stacked here in other company than there."""
    protocol = {"folds": 2, "search": 4, "repeats": RUNS, "train_splits": ["train"]}
    run(workspace, write(features=[["aud", "vid"]], heads=[head], protocol=protocol))
    folder = workspace.root / "benches" / "toy" / "cells" / f"aud+vid--{head}"
    sets = ["features=[aud, vid]", "epochs=3", "folds=2", "train_splits=[train]"]
    store, source = open_store(workspace.store_path), open_dataset("toy", workspace.table("toy"))
    fit_head(store, list(source.clips()), source.labels, load_recipe(head, sets), tmp_path / "run", "cpu", search=4)
    mine, alone = (json.loads((each / "search.json").read_text()) for each in (folder, tmp_path / "run"))
    assert mine["configurations"] == alone["configurations"]
    wanted = {row["name"]: row for row in rows_of(tmp_path / "run")}
    got = {row["name"]: row for row in rows_of(folder)}
    assert got.keys() == wanted.keys()
    for name, row in got.items():
        assert row["answer"] == wanted[name]["answer"]
        assert list(row["probabilities"].values()) == pytest.approx([*wanted[name]["probabilities"].values()], abs=1e-5)


def test_stacked_is_one_by_one(workspace: Workspace, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(heads=["attention", "lmf"], features=[["aud", "vid", "txt"]])
    run(workspace, path)
    folder = workspace.root / "benches"
    units: list[int] = []
    fit = work.Shop.fit

    def counted(shop: Any, phase: Any, members: Any) -> Any:
        units.append(len(members))
        return fit(shop, phase, members)

    monkeypatch.setattr(work.Shop, "fit", counted)
    from emo.train.heads.gradient import GradientHead

    monkeypatch.setattr(GradientHead, "units", Head.units)
    monkeypatch.setattr(GradientHead, "fit_unit", Head.fit_all)
    run(workspace, path, name="alone")
    assert set(units) == {1}
    for head in ("attention", "lmf"):
        stacked, alone = (rows_of(folder / name / "cells" / f"aud+vid+txt--{head}") for name in ("toy", "alone"))
        for one, other in zip(stacked, alone, strict=True):
            assert one["answer"] == other["answer"]
            assert [*one["probabilities"].values()] == pytest.approx([*other["probabilities"].values()], abs=1e-4)


def test_a_split_can_choose_in_place_of_folds(workspace: Workspace, write: Write) -> None:
    protocol = {"search": 2, "repeats": 2, "train_splits": ["train"], "val_splits": ["val"]}
    page = run(workspace, write(features=["aud"], heads=["attention"], protocol=protocol, rank_by="test"))
    rows = rows_of(workspace.root / "benches" / "toy" / "cells" / "aud--attention")
    assert {row["split"] for row in rows} == {"val", "test"}  # nothing is said about a clip that was trained on
    assert all(bool(row["folds"]) == (row["split"] == "val") for row in rows)
    (cell,) = page.value["cells"]
    assert cell["clips"] == {"validation": 12, "test": 12}
    with pytest.raises(UsageError, match="rank_by: val has no labelled clips apart from training"):
        run(workspace, write(protocol=protocol, rank_by="val"))


def test_what_must_be_said_is_said_where_a_split_chooses_too(workspace: Workspace, write: Write) -> None:
    with open_store(workspace.store_path).writer() as writer:
        writer.clip("clip_new", "0" * 32)
    with open(workspace.root / "labels.csv", "a") as labels:
        labels.write("clip_new,calm,0.0,test\n")
    protocol = {"search": 1, "repeats": 1, "train_splits": ["train"], "val_splits": ["val"]}
    page = run(workspace, write(features=["aud"], heads=["attention"], protocol=protocol, missing="zeros"))
    notes = " ".join(page.value["notes"])
    assert "1 clip lacks features and was filled with zeros: clip_new." in notes
    assert (
        "Classes of which a model saw no clip in training, and which it hardly answers: calm (1 of 1 model)." in notes
    )


# ---- stopped and gone on ---------------------------------------------------------------------------------------------

KILL = """
import os, signal, sys
from emo.train.bench import ledger
from emo import cli
left = [int(sys.argv.pop(1))]
write = ledger.Ledger.write
def counted(self, *given, **named):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write(self, *given, **named)
ledger.Ledger.write = counted
cli.main()
"""


def test_killed_and_gone_on_is_never_killed(workspace: Workspace, write: Write, emo: Emo) -> None:
    path = write(
        title="Toy",
        heads=["lf_dnn", "mfn"],
        features=[{"name": "a", "features": ["aud"], "frames": ["frm"]}],
        protocol={"folds": 2, "search": 3, "repeats": 1, "train_splits": ["train"]},
    )
    run(workspace, path, name="once")
    stops = (2, 9) if "EMO_HARD" in os.environ else (11,)
    for units in stops:
        words = [sys.executable, "-c", KILL, str(units), "bench", str(path), "--name", "killed"]
        killed = subprocess.run(words, cwd=workspace.root, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (workspace.root / "benches" / "killed" / "report.html").exists()
    records = [*(workspace.root / "benches" / "killed").rglob("search/*"), *workspace.root.rglob("killed/**/runs/*")]
    kept = {record: record.stat().st_mtime_ns for record in records}
    assert len(kept) == 11
    run(workspace, path, name="killed")
    assert all(record.stat().st_mtime_ns == when for record, when in kept.items())  # nothing is trained twice
    wanted, got = (files(workspace.root / "benches" / name) for name in ("once", "killed"))
    assert got.keys() == wanted.keys()
    assert [name for name in wanted if wanted[name] != got[name]] == []


def test_ctrl_c_ends_with_a_sentence_and_what_is_done_is_kept(workspace: Workspace, write: Write) -> None:
    path = write(heads=["attention"], features=["aud"], set={"epochs": 100_000})
    words = [sys.executable, "-m", "emo.cli", "bench", str(path)]
    running = subprocess.Popen(
        words,
        cwd=workspace.root,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    cell = workspace.root / "benches" / "toy" / "bench.yaml"
    while not cell.exists() and running.poll() is None:
        time.sleep(0.05)
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "of 10 models are kept, and the same command goes on" in said
    assert "Traceback" not in said


def test_other_conditions_are_refused(workspace: Workspace, write: Write) -> None:
    run(workspace, write(heads=["knn"], features=["aud"], set={}))
    with pytest.raises(UsageError, match="begun under other conditions: recipe changed"):
        run(workspace, write(heads=[{"head": "knn", "set": {"k": 5}}], features=["aud"], set={}))


def test_a_damaged_record_is_named(workspace: Workspace, write: Write) -> None:
    path = write(heads=["knn"], features=["aud"], set={})
    run(workspace, path)
    record = next((workspace.root / "benches" / "toy").rglob("*.safetensors"))
    record.write_bytes(record.read_bytes()[:40])
    page = run(workspace, path)
    assert page.exit_code == 6
    assert f"{record} is damaged" in page.value["others"][0]["why"]
    assert "Remove it; its models are trained again." in page.value["others"][0]["why"]
    record.unlink()
    assert run(workspace, path).exit_code == 0


def test_a_cell_whose_conditions_are_damaged_is_named_and_the_others_go_on(workspace: Workspace, write: Write) -> None:
    path = write(heads=["knn", "lf_dnn"], features=["aud"], protocol={"folds": 2, "search": 1, "repeats": 1})
    run(workspace, path)
    lost = next(each for each in (workspace.root / "benches" / "toy").rglob("identity.json") if "knn" in str(each))
    lost.write_text("")
    page = run(workspace, path)
    assert (page.exit_code, [cell["head"] for cell in page.value["cells"]]) == (6, ["lf_dnn"])
    assert f"Remove {lost.parent}; its models are trained again." in page.value["others"][0]["why"]


def test_one_run_has_no_standard_deviation_and_what_is_done_is_not_counted_again(
    workspace: Workspace, write: Write
) -> None:
    told: list[str] = []
    path = write(heads=["lf_dnn"], features=["aud"], protocol={"folds": 2, "search": 1, "repeats": 1})
    page = run(workspace, path)
    board = (workspace.root / "benches" / "toy" / "leaderboard.csv").read_text()
    (row,) = csv.DictReader(board.splitlines())
    assert (row["validation_f1_weighted_std"], float(row["validation_f1_weighted_mean"]) > 0) == ("", True)
    assert "±" not in page.verdict
    said = " ".join(each for each in page.parts if isinstance(each, str))
    assert "1 setting drawn per cell, 1 run of the chosen ones" in said
    bench_page(workspace, told.append, str(path))
    assert [each for each in told if "models of the bench" in each] == []


# ---- what is left out ------------------------------------------------------------------------------------------------


def test_trainings_that_are_not_finite_are_named_and_not_averaged(workspace: Workspace, write: Write) -> None:
    wild = {"head": "misa", "name": "wild", "set": {"search": {"lr": [1e30]}}}
    page = run(
        workspace, write(heads=["lf_dnn", wild], features=["aud"], protocol={"folds": 2, "search": 2, "repeats": 1})
    )
    assert [cell["head"] for cell in page.value["cells"]] == ["lf_dnn"]
    (other,) = page.value["others"]
    assert (other["head"], other["status"]) == ("wild", "not finite")
    assert "4 of 4 models of the search" in other["why"]
    assert page.exit_code == 0
    said = (workspace.root / "benches" / "toy" / "leaderboard.csv").read_text()
    assert [row["status"] for row in csv.DictReader(said.splitlines())] == ["ranked", "not finite"]


@pytest.mark.parametrize("never", [False, True])
def test_settings_that_are_not_finite_in_a_run_are_named_and_the_next_are_taken(
    workspace: Workspace, write: Write, monkeypatch: pytest.MonkeyPatch, never: bool
) -> None:
    fit, seen = work.Shop.fit, list[int]()

    def sometimes(shop: Any, phase: Any, members: Any) -> Any:
        seen.extend(member.drawn for member in members if phase.keep and member.drawn not in seen)
        wild = phase.keep and (never or members[0].drawn == seen[0])
        if wild and any((member.seed, member.fold) == (2, 1) for member in members):
            raise Diverged("Training diverged at epoch 1.")
        return fit(shop, phase, members)

    monkeypatch.setattr(work.Shop, "fit", sometimes)
    page = run(workspace, write(heads=["attention"], features=["aud"]))
    if never:
        assert "3 of 12 models of the runs" in page.value["others"][0]["why"]
        assert page.value["cells"] == []
        return
    (cell,) = page.value["cells"]
    assert cell["ran"] == {"models": 8, "diverged": 1}
    times = list(csv.DictReader((workspace.root / "benches/toy/times.csv").read_text().splitlines()))
    assert [each["models"] for each in times] == ["14"]  # 6 of the search, and each once
    assert any("were better, and diverged when trained again" in note for note in cell["notes"])
    board = json.loads((workspace.root / "benches/toy/cells/aud--attention/search.json").read_text())["configurations"]
    assert board[0]["settings"] == cell["settings"]
    assert [row.get("again") for row in board] == [None, None, "1 of 4 trainings were not finite"]


def test_a_head_without_its_frames_and_a_set_without_its_features_are_named(workspace: Workspace, write: Write) -> None:
    sets = ["aud", {"name": "framed", "features": ["aud"], "frames": ["frm"]}, "nowhere"]
    path = write(
        heads=["lf_dnn", "mfn"], features=sets, absent="skip", protocol={"folds": 2, "search": 1, "repeats": 1}
    )
    page = run(workspace, path)
    assert sorted((cell["features"], cell["head"]) for cell in page.value["cells"]) == [
        ("aud", "lf_dnn"),
        ("framed", "lf_dnn"),
        ("framed", "mfn"),
    ]
    why = {(each["features"], each["head"]): each["why"] for each in page.value["others"]}
    assert "reads frames" in why["aud", "mfn"]
    assert "There is no nowhere" in why["nowhere", "lf_dnn"]


# ---- counting, and comparing -----------------------------------------------------------------------------------------


def test_a_dry_run_counts_what_is_trained(workspace: Workspace, write: Write) -> None:
    path = write(heads=["attention", "knn"])
    asked = run(workspace, path, dry_run=True).value
    assert not (workspace.root / "benches").exists()
    # two sets, two folds: three settings and two runs, or of a head without settings two runs
    assert (asked["models"], asked["left"]) == (2 * 2 * (3 + 2) + 2 * 2 * 2, 28)
    run(workspace, path)
    trained = sum(
        len(json.loads(json.loads(row)["record"])["models"]) if path.suffix == ".json" else 0
        for path in (workspace.root / "benches").rglob("search/*.json")
        for row in [path.read_text()]
    )
    times = csv.DictReader((workspace.root / "benches" / "toy" / "times.csv").read_text().splitlines())
    assert sum(int(row["models"]) for row in times) == asked["models"]
    assert trained == 2 * 2 * 3
    after = run(workspace, path, dry_run=True).value
    assert (after["left"], after["seconds"]) == (0, 0)


def test_two_cells_can_be_compared(workspace: Workspace, write: Write, emo: Emo) -> None:
    page = run(workspace, write(heads=["attention", "knn"], features=["aud"]))
    best, other = page.value["cells"]
    cells = workspace.root / "benches" / "toy" / "cells"
    a, b = (str(cells / f"aud--{each['head']}" / "predictions.jsonl") for each in (best, other))
    result = emo("score", "labels.csv#train", "--predictions", a, "--against", b, "--json", cwd=workspace.root)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for key in ("n", "p", "f1_difference", "accuracy_difference"):
        assert found[key] == other["against"][key]
    assert "has seen 60 of these 60 clips in training, each answered by folds that did not train on it" in str(found)


# ---- putting together ------------------------------------------------------------------------------------------------


def test_the_ensemble_never_looks_at_test_labels(workspace: Workspace, write: Write) -> None:
    path = write(heads=["attention", "lf_dnn", "knn"])
    run(workspace, path)
    first = ensemble_page(workspace, silent, str(path))
    folder = workspace.root / "benches" / "toy" / "ensemble"
    choice = (folder / "choice.json").read_bytes()
    assert set(first.value["splits"]) == {"val", "test"}
    said = [row["answer"] for row in rows_of(folder)]

    labels = workspace.root / "labels.csv"
    head, *lines = labels.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    tested = [cell for cell in cells if cell[3] != "train"]
    words = np.random.default_rng(0).permutation([cell[1] for cell in tested])
    for cell, word in zip(tested, words, strict=True):
        cell[1] = str(word)
    labels.write_text("\n".join([head, *map(",".join, cells)]) + "\n")
    second = ensemble_page(workspace, silent, str(path))
    assert (folder / "choice.json").read_bytes() == choice
    assert [row["answer"] for row in rows_of(folder)] == said
    assert second.value["splits"] != first.value["splits"]  # the labels were other ones

    trained = [cell for cell in cells if cell[3] == "train"]
    for cell, word in zip(trained, np.roll([cell[1] for cell in trained], 7), strict=True):
        cell[1] = str(word)
    labels.write_text("\n".join([head, *map(",".join, cells)]) + "\n")
    with pytest.raises(UsageError, match="clips changed"):  # while those of validation do decide
        ensemble_page(workspace, silent, str(path))


def test_an_ensemble_says_what_its_cells_must_say_and_which_clips_are_in_no_number(
    workspace: Workspace, write: Write
) -> None:
    store = open_store(workspace.store_path)
    with store.writer() as writer:
        spec = replace(store.resolve("aud"), name="drawn", profile="tiny")
        for i in range(3, 84):  # the first clips lack it
            media = store.clip_row(f"clip_{i:03d}")[0]
            writer.add(spec, media, np.asarray(store.get("aud", f"clip_{i:03d}").array))
    path = write(features=["vid", "drawn"], heads=["attention"], missing="skip")
    run(workspace, path)
    page = ensemble_page(workspace, silent, str(path))
    drawn = "Features come from the tiny profile (random weights): no number here is an accuracy on people."
    lost = "3 clips that not all cells answer are in no number: clip_000, clip_001, clip_002."
    assert {drawn, lost} <= set(page.value["notes"])
    said = workspace.root / "benches/toy/ensemble/predictions.jsonl"
    table = str(workspace.root / "labels.csv")
    scored = scored_page(ScoreArgs(f"{table}#test", predictions=said), lambda sentence: None)
    assert drawn in scored.value["notes"]


def test_an_ensemble_needs_two_cells(workspace: Workspace, write: Write) -> None:
    with pytest.raises(UsageError, match="has 0 finished cells"):
        ensemble_page(workspace, silent, str(write()))


def test_routing_tells_only_who_has_the_word_instead_of_the_first() -> None:
    way, cells, labels = Route(), ("a", "b", "c"), ("angry", "happy", "sad")
    assert way.tell({"first": 0, "route": [0, 1, 1]}, cells, labels) == "first a; where it says happy or sad: b"
    assert way.tell({"first": 2, "route": [2, 2, 2]}, cells, labels) == "first c; no other has the word after it"


# ---- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("features: [aud]\nheds: [attention]\n", "unknown key heds (did you mean heads?)"),
        ("features: [aud\n", "is not YAML"),
        ("- aud\n", "is not a table"),
        ("# nothing yet\n", "is empty. It has a line `key: value` for each key."),
        (
            "features: [aud]\nheads: [attention]\nepochs: 3\n",
            "epochs is a key of heads. Those of all heads stand under",
        ),
        ("features: [aud]\nheads: [attention]\nprotocol: {fold: 3}\n", "(did you mean protocol.folds?)"),
        ("features: [aud]\nheads: [atention]\n", "Did you mean attention? "),
        ("features: [aud, aud]\nheads: [attention]\n", "features: aud comes several times"),
        ("features: [aud]\nheads: [attention]\nset: {epoch: 3}\n", "no head here has epoch (did you mean epochs?)"),
        ("features: [aud]\nheads: [{head: attention, set: {folds: 3}}]\n", "folds cannot be set for a head"),
        ("features: [aud]\nheads: [{head: attention, set: {hiden: 3}}]\n", "unknown key hiden (did you mean hidden?)"),
        ("features: [aud]\nheads: [attention]\nprotocol: {val_splits: [val]}\n", "val_splits needs train_splits"),
    ],
)
def test_a_wrong_file_is_one_sentence(workspace: Workspace, text: str, said: str) -> None:
    path = workspace.root / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as wrong:
        run(workspace, path)
    assert said in f"{wrong.value.message} {wrong.value.hint}"
    assert "\n" not in wrong.value.message


def test_an_unknown_bench_is_named(emo: Emo, tmp_path: Path) -> None:
    result = emo("bench", "unimodel", cwd=tmp_path)
    assert result.returncode == 2
    assert "Did you mean unimodal?" in result.stderr
    listed = json.loads(emo("bench", "--list", "--json", cwd=tmp_path).stdout)
    assert [each["bench"] for each in listed] == list(shipped_benches()) == ["bimodal", "top-n", "trimodal", "unimodal"]


def test_shipped_benches_are_merbenchs_tables() -> None:
    from emo.featstore.names import known_names

    sizes = {name: len(cells_of(load_bench(name), name)) for name in shipped_benches()}
    assert sizes == {"bimodal": 6, "top-n": 6, "trimodal": 24, "unimodal": 31}
    known = set(known_names())
    for name in shipped_benches():
        bench = load_bench(name)
        assert (bench.protocol.search, bench.protocol.repeats, bench.protocol.folds) == (50, 6, 5)
        names = {choice.name.replace("-FRA", "-UTT") for each in bench.features for choice in each.features}
        names |= {choice.name.replace("-FRA", "-UTT") for each in bench.features for choice in each.frames or ()}
        assert names <= known
    assert {choice.head for choice in load_bench("trimodal").heads} == {
        *("attention", "lf_dnn", "lmf", "tfn", "misa", "mmim", "mult", "ef_lstm", "mfn", "graph_mfn", "mfm", "mctn")
    }


def test_every_key_says_what_it_is() -> None:
    from emo.train.bench.recipe import Bench, FeatureSet, HeadChoice, Protocol

    for keys in (Bench, FeatureSet, HeadChoice, Protocol):
        assert [key for key in keys.model_fields if "Type: " not in keys.text_of(key)] == []
