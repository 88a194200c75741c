"""Records as JSON lines, in and out: whole, cut off, and written by somebody else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.featstore.interop.exporter import export_features
from emo.featstore.interop.importer import import_features
from emo.featstore.interop.pages import import_page
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store
from emo.featstore.testing import SampleStore

KEY = SampleStore.answers.key


def test_every_line_says_what_it_is(source: SampleStore, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    report = export_features(source.store, path, "records")
    assert [(each.feature, each.clips, each.lacking, each.dtype) for each in report.features] == [(KEY, 6, 1, "json")]
    head, *lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert (head["record"], head["clips"], head["fingerprint"]) == ("tiny.answer", 6, source.answers.fingerprint)
    assert head["spec"]["recipe"]["prompt"] == "What does the person feel?"
    assert lines[0] == {
        "record": "tiny.answer",
        "clip": "sample_00000",
        "value": {"mood": "fröhlich 高兴", "sure": 0.25},
    }
    assert [line["value"] for line in lines] == list(source.values)


def test_what_made_them_is_remembered_and_they_never_pass_for_ones_made_here(
    source: SampleStore, target: Store, tmp_path: Path
) -> None:
    export_features(source.store, tmp_path / "a.jsonl", "records")
    report = import_features(target, tmp_path / "a.jsonl")
    assert (report.layout, report.rejected) == ("records", [])
    (kept,) = target.features(records=True)
    assert (kept.spec.encoder, kept.spec.profile, kept.ok) == ("describer", "imported", 6)
    assert source.answers.fingerprint in kept.spec.recipe["declared"]
    assert "What does the person feel?" in kept.spec.recipe["declared"]
    asked = target.work([source.answers], [("sample_00000", f"{0:032x}")])
    assert asked == {KEY: {f"{0:032x}"}}, "an import does not stand in for a recipe of one's own"


def test_one_kind_of_several_under_another_name(source: SampleStore, target: Store, tmp_path: Path) -> None:
    other = record_spec("other", "asr", "m")
    with source.store.writer() as writer:
        writer.add_record(other, f"{0:032x}", "said")
    export_features(source.store, tmp_path / "a.jsonl", "records", {"other": "theirs"})
    assert '"record": "tiny.answer"' not in (tmp_path / "a.jsonl").read_text()
    import_features(target, tmp_path / "a.jsonl", names={"theirs": "mine"})
    assert target.records("mine") == {"sample_00000": "said"}


def test_a_line_that_is_lost_damaged_or_no_record_is_named(source: SampleStore, target: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    export_features(source.store, path, "records")
    lines = path.read_text().split("\n")
    lines[2] = lines[2][:-5]
    lines[3] = '{"record": "tiny.answer", "clip": "a/b", "value": 1}'
    lines[4] = '{"record": "tiny.answer", "clip": "sample_00003", "value": NaN}'
    lines[5] = '{"record": "tiny.answer", "value": 1}'
    path.write_text("\n".join(lines[:6]))
    report = import_features(target, path)
    kinds = {(each.kind, each.name) for each in report.rejected}
    assert kinds == {
        ("no-record", "line 3"),
        ("no-record", "line 6"),
        ("bad-name", "a/b"),
        ("truncated", "tiny.answer"),
        ("no-json", "sample_00003"),
    }
    assert target.records("tiny.answer") == {"sample_00000": source.values[0]}
    assert import_page(report).exit_code == 3


def test_a_file_cut_between_two_lines_is_noticed(source: SampleStore, target: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    export_features(source.store, path, "records")
    path.write_text("\n".join(path.read_text().split("\n")[:5]) + "\n")
    (said,) = import_features(target, path).rejected
    assert said.sentence == "The file holds 4 of its 6 records."


def test_any_tool_can_write_them(target: Store, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    lines = ['{"record": "mood", "clip": "c1", "value": "calm"}', '{"record": "mood", "clip": "c2", "value": 2}']
    path.write_text("\n\n".join(lines))
    report = import_features(target, path, declared="by hand")
    assert report.rejected == []
    assert target.records("mood") == {"c1": "calm", "c2": 2}
    other = tmp_path / "other.jsonl"
    other.write_text('{"name": "c1", "text": "hello"}\n')
    with pytest.raises(UsageError, match=r"looked for .*each line with record, clip and value"):
        import_features(target, other)


def test_what_an_export_of_records_cannot_do_is_a_sentence(source: SampleStore, target: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Nothing was exported\. The store has no records\."):
        export_features(target, tmp_path / "a.jsonl", "records")
    with pytest.raises(UsageError, match="JSON values, which have no dtype"):
        export_features(source.store, tmp_path / "a.jsonl", "records", dtype="float16")
    assert not (tmp_path / "a.jsonl").exists()


def test_the_commands_name_and_carry_them(
    source: SampleStore, tmp_path: Path, emo: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "emo.toml").write_text('[store]\npath = "source.emo"\n[data.folder]\nroot = "."\n')
    (tmp_path / "back").mkdir()
    (tmp_path / "back/emo.toml").write_text('[store]\npath = "back.emo"\n[data.folder]\nroot = "."\n')

    def run(*words: str, folder: Path = tmp_path) -> str:
        done = emo(*words, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "tiny.answer" in run("store", "info")
    listed = {row["clip"]: row["records"] for row in json.loads(run("store", "ls", "--json"))}
    assert (listed["sample_00000"], listed["clip ü6"]) == ([KEY], [])
    named = json.loads(run("store", "ls", "tiny.answer", "--json"))
    assert len(named) == 6
    assert "tiny.answer" in run("store", "ls")
    run("store", "export", "answers.jsonl", "--layout", "records")
    run("store", "import", "../answers.jsonl", folder=tmp_path / "back")
    assert Store.open(tmp_path / "back/back.emo").records("tiny.answer", ["sample_00002", "sample_00005"]) == {
        "sample_00002": None,
        "sample_00005": 0,
    }
