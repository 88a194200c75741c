"""What challenges are handed in as: written, checked, refused; and 20,000 rows of it in seconds."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.train.challenges import submit
from emo.train.challenges.registry import challenge_named, challenge_names
from emo.train.challenges.submit import submit_command
from emo.train.metrics.words import read_set_answers
from emo.train.testing import check_challenge

Emo = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[3]
NAMES = [f"sample_{n:08d}" for n in range(6)]
WORDS = ("neutral", "angry", "happy", "sad", "worried", "surprise")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("name\n" + "".join(f"{name}\n" for name in NAMES))
    rows = [f"{name},{word},{n - 2.5}\n" for n, (name, word) in enumerate(zip(NAMES, WORDS, strict=True))]
    Path("said.csv").write_text("name,prediction,valence\n" + "".join(rows))
    return tmp_path


def asked(track: str, challenge: str = "mer2025", **flags: object) -> Page:
    given = {"candidates": "list.csv"} | flags
    if "check" not in given:
        given.setdefault("predictions", Path("said.csv"))
    return submit_command(lambda sentence: None, challenge, track, **given)  # type: ignore[arg-type]


def refused(track: str, challenge: str = "mer2025", **flags: object) -> str:
    with pytest.raises(UsageError) as error:
        asked(track, challenge, **flags)
    return f"{error.value.message} {error.value.hint}"


def table(path: str | Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(Path(path).read_text(encoding="utf-8"))))


@pytest.mark.parametrize("name", challenge_names())
def test_the_contract_of_a_challenge(name: str) -> None:
    check_challenge(name)


# ---- written -----------------------------------------------------------------------------------------------------


def test_emotions_are_written_in_the_order_of_the_list(here: Path) -> None:
    page = asked("track1")
    assert table("submission.csv") == [["name", "discrete"], *map(list, zip(NAMES, WORDS, strict=True))]
    assert page.value["rows"] == 6
    assert "The list has 6 clips, and the organisers' has 20,000." in page.parts
    assert not page.value["problems"]
    assert page.exit_code == 0
    assert not asked("semi", check=Path("submission.csv")).exit_code


def test_a_valence_is_written_where_the_track_wants_one_and_left_out_where_it_is_not_known() -> None:
    asked("multi", "MER2023", out=Path("a.csv"))
    assert table("a.csv")[1] == [NAMES[0], "neutral", "-2.5"]
    Path("bare.csv").write_text("name,prediction\n" + "".join(f"{name},sad\n" for name in NAMES))
    assert "6 of 6 predictions give no valence" in refused("noise", "mer2023", predictions=Path("bare.csv"))
    asked("semi", "mer2023", predictions=Path("bare.csv"), out=Path("b.csv"))
    assert table("b.csv")[0] == ["name", "discrete"]


def test_sets_of_words_are_written_as_the_scorers_read_them() -> None:
    answers = ["[\"don't know\", 'sad']", "Happy, left out, happy", "", "[]", "calm", "['a',\n 'b']"]
    rows = [{"name": name, "openset": answer} for name, answer in zip(NAMES, answers, strict=True)]
    Path("sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked("fg", predictions=Path("sets.jsonl"))
    with np.load("submission-openset.npz") as archive:
        assert archive["filenames"].tolist() == NAMES
        wanted = [answers[0], "['happy', 'left out']", "[]", "[]", "['calm']", "['a', 'b']"]
        assert archive["fileitems"].tolist() == wanted
    asked("ov", "mer2024", predictions=Path("submission-openset.npz"))
    same = [read_set_answers(Path(each)).said for each in ("submission-openset.npz", "predict-openset.csv")]
    assert same[0] == same[1]
    asked("fg", "mer2026", predictions=Path("sets.jsonl"), out=Path("answer.zip"))
    with zipfile.ZipFile("answer.zip") as archive:
        assert archive.namelist() == ["answer.csv"]
        assert archive.read("answer.csv").decode().startswith("name,openset\n")


def test_descriptions_are_one_line_each() -> None:
    rows = [{"name": name, "reason": 'He says "no",\nand smiles.'} for name in NAMES]
    Path("why.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked("des", predictions=Path("why.jsonl"))
    assert table("submission.csv")[6] == [NAMES[5], 'He says "no", and smiles.']


def test_rows_of_one_name_are_told_apart_by_their_two_descriptions() -> None:
    rows = [["x", "d1", "d2"], ["x", "d3", "d4"], ["y", "d5", "d6"]]
    Path("pairs.csv").write_text("name,a1,a2\n" + "".join(",".join(row) + "\n" for row in rows))
    Path("p.csv").write_text("name,a1,a2,preference\nx,d3,d4,a2\nx,d1,d2,a1\ny,d5,d6,a2\n")
    asked("prefer", "mer2026", candidates="pairs.csv", predictions=Path("p.csv"))
    wanted = [[*row, said] for row, said in zip(rows, ("a1", "a2", "a2"), strict=True)]
    assert table("answer.csv") == [["name", "a1", "a2", "preference"], *wanted]
    Path("short.csv").write_text("name,preference\nx,a1\nx,a2\ny,a2\n")
    told = refused("prefer", "mer2026", candidates="pairs.csv", predictions=Path("short.csv"), out=Path("b.csv"))
    assert "line 3 gives x another answer" in told
    assert "no run is asked" in refused(
        "prefer", "mer2026", candidates="pairs.csv", predictions=None, out=Path("b.csv")
    )


def test_what_is_not_published_is_said_with_every_file() -> None:
    page = asked("des", predictions=None, run=None, check=Path("said.csv"))
    assert any(part.startswith("Not confirmed: ") for part in page.parts if isinstance(part, str))
    page = asked("semi")
    assert not any(str(part).startswith("Not confirmed: ") for part in page.parts)


# ---- refused -----------------------------------------------------------------------------------------------------


def test_nothing_is_written_where_a_clip_has_no_prediction() -> None:
    Path("few.csv").write_text("name,prediction\n" + f"{NAMES[1]},sad\nanother,happy\n")
    told = refused("semi", predictions=Path("few.csv"))
    assert f"5 of 6 clips have no row: {NAMES[0]}" in told
    assert not Path("submission.csv").exists()


def test_an_answer_that_is_no_label_is_not_made_one_without_a_word() -> None:
    Path("odd.csv").write_text("name,prediction\n" + "".join(f"{name},He is joyful\n" for name in NAMES))
    told = refused("semi", predictions=Path("odd.csv"))
    assert "6 of 6 predictions give no discrete" in told
    assert "--answers nearest or official" in told
    page = asked("semi", predictions=Path("odd.csv"), answers="official")
    assert any("6 of 6 answers are no discrete and are written as neutral" in str(part) for part in page.parts)


def test_a_submission_that_is_there_is_not_overwritten() -> None:
    asked("semi")
    before = Path("submission.csv").read_bytes()
    assert "submission.csv exists" in refused("semi")
    assert Path("submission.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"run": "r"}, "--run and --predictions"),
        ({"check": Path("said.csv"), "predictions": Path("said.csv")}, "Leave --run, --predictions and --out out"),
        ({"candidates": "list.csv", "split": "test"}, "--candidates and --split"),
        ({"answers": "maybe"}, "Unknown answer policy 'maybe'"),
        ({"out": Path("a.npz")}, "Its files end in .csv or .zip"),
        ({"candidates": None}, "--candidates FILE, the organisers' list"),
        ({"candidates": "nowhere.csv"}, "nowhere.csv"),
        ({"predictions": Path("nowhere.csv")}, "nowhere.csv does not exist"),
    ],
)
def test_flags_that_mean_nothing_are_one_sentence(flags: dict[str, object], says: str) -> None:
    assert says in refused("semi", **flags)


def test_unknown_challenges_and_tracks_name_those_there_are() -> None:
    assert "mer2023, mer2024, mer2025, mer2026" in refused("semi", "mer2022")
    assert "Its tracks: semi, fg, des" in refused("sem1")
    assert "it scores personality" in refused("track4")
    with pytest.raises(UsageError, match="--track is missing"):
        submit_command(print, "mer2025")
    with pytest.raises(UsageError, match="--challenge is missing"):
        submit_command(print, None, "semi")


def test_a_dataset_of_the_workspace_has_the_list(here: Path) -> None:
    (here / "d").mkdir()
    (here / "d" / "track_all_candidates.csv").write_text(Path("list.csv").read_text())
    (here / "d" / "track1_test_dis.csv").write_text(f"name,discrete\n{NAMES[0]},sad\n")  # a truth that came later
    Path("emo.toml").write_text('[data.MER2025]\nroot = "d"\n')
    page = asked("semi", candidates=None)
    assert page.value["rows"] == 6
    assert (
        asked("semi", candidates=None, split="test-track1", predictions=Path("said.csv"), out=Path("b.csv")).value[
            "rows"
        ]
        == 1
    )


# ---- checked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kinds", "says"),
    [
        ("name,emotion\n{0},sad\n", {"column", "missing"}, "lacks the column discrete; the form is name,discrete."),
        ("discrete\nsad\n", {"column"}, "lacks the column name"),
        (",name,discrete\n0,{0},sad\n", {"column", "missing"}, "has a column too many"),
        ("Name,discrete\n{0},sad\n", {"column"}, "lacks the column name"),
        ("name,discrete\n{0},Sad\n", {"value", "missing"}, "line 2 ({0}): 'Sad' is none of neutral"),
        ("name,discrete\n{0},sad\n{0},happy\n", {"duplicate", "missing"}, "1 name is in more than one row: {0}"),
        ("name,discrete\n{0}.mp4,sad\n", {"extra", "missing"}, "1 of them would be without suffixes"),
        ("name,discrete\n{0},sad,1\n{1},sad\n", {"row", "missing"}, "line 2 has not as many fields as the header (2)"),
        ("name,discrete\n ,sad\n", {"name", "extra", "missing"}, "line 2 has no name"),
        ("name,discrete\n", {"missing"}, "6 of 6 clips have no row"),
        ("id,label\n{0},sad\n", {"column"}, "lacks the columns name, discrete"),
        ("name;discrete\n{0};sad\n", {"column"}, "Its columns are separated by ';', and must be by commas."),
    ],
)
def test_everything_that_is_wrong_with_a_file_is_named(text: str, kinds: set[str], says: str) -> None:
    Path("theirs.csv").write_text(text.format(*NAMES))
    page = asked("semi", check=Path("theirs.csv"))
    found = page.value["problems"]
    assert {each.kind for each in found} == kinds - ({"extra"} if "name" in kinds else set())
    assert says.format(*NAMES) in " ".join(each.sentence for each in found)
    assert page.exit_code == submit.WRONG
    assert "is not a submission for track semi of mer2025" in page.verdict


def test_without_a_list_the_number_of_rows_is_held_against_the_published_one() -> None:
    asked("semi")
    page = asked("semi", candidates=None, check=Path("submission.csv"))
    assert [each.kind for each in page.value["problems"]] == ["rows"]
    assert "6 rows, and the organisers' list has 20,000" in page.value["problems"][0].sentence


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"filenames": np.array(["a"]), "fileitems": np.array(["x", "y"])}, "1 filenames and 2 fileitems"),
        ({"filenames": np.array(["a"]), "fileitems": np.array([1.5])}, "no lists of texts but <U1 (1,) and float64"),
        ({"filenames": np.array(["a"]), "fileitems": np.array([None])}, "no npz of the text arrays"),
        ({"names": np.array(["a"])}, "no npz of the text arrays"),
    ],
)
def test_archives_of_another_form_are_one_sentence(arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez("theirs-openset.npz", **arrays)
    assert says in refused("fg", check=Path("theirs-openset.npz"))
    assert says in refused("fg", predictions=Path("theirs-openset.npz"))


def test_a_zip_of_something_else_is_one_sentence() -> None:
    with zipfile.ZipFile("two.zip", "w") as archive:
        archive.writestr("a.csv", "name,discrete\n")
        archive.writestr("b.csv", "name,discrete\n")
    assert "two.zip holds a.csv, b.csv, not one csv" in refused("semi", check=Path("two.zip"))
    Path("torn.zip").write_bytes(Path("two.zip").read_bytes()[:60])
    assert "torn.zip is no zip that can be read" in refused("semi", check=Path("torn.zip"))
    Path("bytes.csv").write_bytes(b"\xff\xfe")
    assert "bytes.csv is not UTF-8" in refused("semi", check=Path("bytes.csv"))
    Path("empty.csv").write_text("\n")
    assert "empty.csv is empty" in refused("semi", check=Path("empty.csv"))


def test_an_answer_file_that_says_two_things_of_one_clip_is_refused() -> None:
    np.savez("both.npz", filenames=np.array([*NAMES, NAMES[0]]), fileitems=np.array(["a"] * 6 + ["b"]))
    assert f"gives clip {NAMES[0]} another answer" in refused("fg", predictions=Path("both.npz"))


# ---- as typed ----------------------------------------------------------------------------------------------------


def test_the_command_writes_20_000_rows_in_seconds(emo: Emo, here: Path) -> None:
    names = [f"samplenew3_{n:08d}" for n in range(20_000)]
    Path("all.csv").write_text("name\n" + "".join(f"{name}\n" for name in names))
    Path("answers.csv").write_text(
        "name,answer\n" + "".join(f"{name},\"['sad', 'word{n % 900}']\"\n" for n, name in enumerate(names))
    )
    start = time.perf_counter()
    words = ("submit", "--challenge", "mer2025", "--track", "fg", "--candidates", "all.csv")
    done = emo(*words, "--predictions", "answers.csv", "--json", cwd=here)
    checked = emo(*words, "--check", "submission-openset.npz", cwd=here)
    taken = time.perf_counter() - start
    assert done.returncode == checked.returncode == 0, done.stderr + checked.stderr
    assert json.loads(done.stdout)["rows"] == 20_000
    assert "is a submission for track fg of mer2025: 20,000 rows." in " ".join(checked.stdout.split())
    assert taken < 30


def test_the_list_of_tracks_and_the_document_name_every_track() -> None:
    page = submit_command(print)
    text = (ROOT / "docs" / "submit.md").read_text(encoding="utf-8")
    for each in page.value:
        track = challenge_named(each["challenge"]).track(each["track"])
        files = ", ".join(f"`{form.file}`" for form in track.forms)
        state = "stated" if not track.doubts else "in part"
        row = f"| {each['challenge']} | `{track.name}` | {files} | `{','.join(each['columns'])}` | {state} |"
        assert row in text, row
        for doubt in track.doubts:
            assert doubt in text.replace("\n", " "), doubt
