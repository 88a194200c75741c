"""Fields of annotations that people write anew on the page come out of `emo annotate export`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import LOCAL, MERR, Idle
from starlette.testclient import TestClient

from emo.extract.annotate.pages import export_page
from emo.featstore.annotations import ANNOTATION, edit_spec, edited_annotations
from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import Workspace
from emo.train.serve import desk as module
from emo.train.serve import labels
from emo.train.serve.app import make_app
from emo.train.serve.desk import Desk

BESIDE = {"caption": "A frown.", "scene": "a room", "frames": 20, "label_from": "rules", "of": "0"}


@pytest.fixture
def given(few: Workspace) -> Workspace:
    """The workspace with made annotations of c0, c1 and c2, whose captions differ."""
    spec = record_spec(ANNOTATION, "annotation", "none")
    with open_store(few.store_path).writer() as writer:
        for i in range(3):
            more = {"smp_reason_caption": f"A frown and a low voice, {i} times."}
            writer.add_record(spec, writer.name_clip(f"c{i}"), {**MERR, **BESIDE, **more})
    return few


@pytest.fixture
def notes(given: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(module, "FRESH_S", -1.0)
    desk = Desk(given, Idle(given.root))
    with TestClient(make_app(desk), base_url=LOCAL) as client:
        yield client
    desk.close()


def edit(notes: TestClient, who: str, clip: str, **fields: Any) -> None:
    """Edit fields as the page does: it shows a person the record, and sends back all of it."""
    shown = notes.get("/api/record", params={"id": clip, "annotator": who}).json()["record"]
    answer = notes.post("/api/record", json={"clip": clip, "annotator": who, "fields": {**shown, **fields}})
    assert answer.status_code == 200, answer.text


def export(given: Workspace, out: Path, **flags: Any) -> tuple[Page, dict[str, Any]]:
    page = export_page(open_store(given.store_path), flags.pop("form", "merr"), out, **flags)
    return page, json.loads(out.read_text())


def test_the_newest_edit_of_each_field_is_exported_and_the_records_that_carry_some_are_counted(
    notes: TestClient, given: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(f"2026-01-0{day}T00:00:00+00:00" for day in range(1, 9))
    monkeypatch.setattr(labels, "now", lambda: next(times))
    edit(notes, "ann", "c0", text="Not now!", pseu_emotion="sad")
    edit(notes, "bob", "c0", text="No, no!")  # saw what was made, so the label is not of his hand
    edit(notes, "ann", "c0", smp_reason_caption="She frowns.")
    edit(notes, "bob", "c1", text="Oh?")
    edit(notes, "bob", "c1", text="No!")  # as it was made
    page, written = export(given, tmp_path / "out.json")
    assert written["c0"] == {**MERR, "text": "No, no!", "pseu_emotion": "sad", "smp_reason_caption": "She frowns."}
    assert written["c1"] == {**MERR, "smp_reason_caption": "A frown and a low voice, 1 times."}
    assert page.value["edited"] == {"c0": {"text": "bob", "pseu_emotion": "ann", "smp_reason_caption": "ann"}}
    assert page.verdict.endswith("3 of 3 annotations written to " + f"{tmp_path / 'out.json'}; 1 carry edits.")


def test_units_and_their_phrases_are_taken_from_one_hand(
    notes: TestClient, given: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(f"2026-01-0{day}T00:00:00+00:00" for day in range(1, 9))
    monkeypatch.setattr(labels, "now", lambda: next(times))
    edit(notes, "ann", "c0", AU_list=["AU04", "AU15"], visual_prior_list=["Frowns furrowed", "Lip corners down"])
    edit(notes, "bob", "c0", visual_prior_list=["Brows lowered"])
    _, written = export(given, tmp_path / "out.json")
    assert (written["c0"]["AU_list"], written["c0"]["visual_prior_list"]) == (["AU04"], ["Brows lowered"])


def test_a_clip_that_only_a_person_has_annotated_is_exported_where_its_form_allows(
    notes: TestClient, given: Workspace, tmp_path: Path
) -> None:
    edit(notes, "ann", "c5", **MERR)
    page, written = export(given, tmp_path / "fine.json")
    assert written["c5"] == MERR
    assert set(page.value["edited"]["c5"].values()) == {"ann"}
    page, written = export(given, tmp_path / "coarse.json", form="coarse")
    assert set(written) == {"c0"}  # the coarse captions of the others are the same words
    assert page.value["dropped"]["no coarse caption"]["names"] == ["c5"]


def test_edits_alone_are_annotations_too_but_no_others_of_a_name(few: Workspace, tmp_path: Path) -> None:
    store = open_store(few.store_path)
    with pytest.raises(UsageError, match="has no annotations"):
        edited_annotations(store)
    value = {"record": MERR, "annotator": "ann", "at": "2026-01-01T00:00:00+00:00", "history": []}
    with store.writer() as writer:  # as pages of an earlier version wrote it, without what was changed
        writer.add_record(edit_spec("ann"), writer.name_clip("c4"), value)
    found, who = edited_annotations(store)
    assert found["c4"]["text"] == "No!"
    assert set(who["c4"]) == set(MERR)
    with pytest.raises(UsageError, match="has no annotations"):
        edited_annotations(store, "annotation@1234")
