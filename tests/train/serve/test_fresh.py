"""What is kept in memory between two requests, and that what is shown is the newest all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving import CLIPS, LOCAL, SPEC, Idle, add_clips
from starlette.testclient import TestClient

from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import MediaError
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import Workspace
from emo.train.features import checksums_of, media_of
from emo.train.predictor import Predictor
from emo.train.serve import desk as module
from emo.train.serve.app import make_app
from emo.train.serve.catalogue import Filter, Known, make_catalogue
from emo.train.serve.desk import Desk
from emo.train.serve.labels import agreement, label_spec, once, write
from emo.train.serve.routes_clips import _features


@pytest.fixture
def fresh(few: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk over six clips that looks for new commits at each request."""
    monkeypatch.setattr(module, "FRESH_S", -1.0)
    made = Desk(few, Idle(few.root))
    yield made
    made.close()


def shown(desk: Desk, **wanted: Any) -> list[str]:
    catalogue = desk.catalogue()
    return [catalogue.ids[row] for row in catalogue.find(Filter(**wanted), "")]


def other(desk: Desk) -> Store:
    """The store as another process has it open."""
    return open_store(desk.workspace.store_path)


def test_a_commit_of_somebody_else_is_in_the_next_answer(fresh: Desk) -> None:
    assert shown(fresh) == CLIPS
    assert shown(fresh, words=(("failure", "no-face"),)) == []
    assert shown(fresh, annotated=True) == []
    first = fresh.catalogue()
    write(other(fresh), label_spec("eve"), Clip("c3"), {"label": "sad", "annotator": "eve"})
    assert shown(fresh, annotated=True) == ["c3"]
    assert fresh.labels() == {"eve": {"c3": "sad"}}
    with other(fresh).writer() as writer:
        writer.fail(SPEC, "c9", MediaError("no-face", "None."))
    assert fresh.catalogue().known is first.known  # what datasets say is not brought into columns again
    add_clips(other(fresh), "c7")
    assert shown(fresh) == [*CLIPS, "c7"]
    assert fresh.catalogue().known is not first.known


def test_a_label_given_here_needs_no_new_catalogue_unless_somebody_else_was_there_too(fresh: Desk) -> None:
    before, store = fresh.catalogue(), fresh.need_store()

    def give(clip: str, label: str | None) -> None:
        with fresh.own_commit(store, clip):
            write(store, label_spec("ann"), Clip(clip), {"label": label, "annotator": "ann"})

    give("c1", "sad")
    assert fresh.catalogue() is before
    assert shown(fresh, annotated=True) == ["c1"]
    give("c1", None)
    assert fresh.catalogue() is before
    assert shown(fresh, annotated=True) == []
    with fresh.own_commit(store, "c2"):
        write(other(fresh), label_spec("eve"), Clip("c5"), {"label": "sad", "annotator": "eve"})
        write(store, label_spec("ann"), Clip("c2"), {"label": "sad", "annotator": "ann"})
    assert fresh.catalogue() is not before
    assert shown(fresh, annotated=True) == ["c2", "c5"]


def test_copies_of_a_file_share_a_label_that_counts_once(fresh: Desk) -> None:
    store = other(fresh)
    with store.writer() as writer:
        writer.clip("copy", FileId(f"{1:032x}", 1, 1))  # the content of c1
    assert "copy" in shown(fresh)
    before = fresh.catalogue()
    for who, word in (("ann", "sad"), ("bob", "happy")):
        for clip in ("c1", "c2"):
            with fresh.own_commit(fresh.need_store(), clip):
                write(fresh.need_store(), label_spec(who), Clip(clip), {"label": word, "annotator": who})
    assert fresh.catalogue() is before
    assert shown(fresh, annotated=True) == ["c1", "c2", "copy"]
    given = once(fresh.labels(), fresh.store)
    assert given == {"ann": {"c1": "sad", "c2": "sad"}, "bob": {"c1": "happy", "c2": "happy"}}
    assert agreement(given)[0]["clips"] == 2


def test_neighbours_are_found_in_memory_until_their_feature_changes(fresh: Desk) -> None:
    held = fresh.neighbourhood(SPEC)
    assert [each.clip for each in held.nearest("c0", 2)] == ["c1", "c2"]
    write(other(fresh), label_spec("eve"), Clip("c3"), {"label": "sad", "annotator": "eve"})
    assert fresh.neighbourhood(SPEC) is held  # a label is no vector
    add_clips(other(fresh), "c1000")
    assert "c1000" in [each.clip for each in fresh.neighbourhood(SPEC).nearest("c0", 6)]


def test_runs_are_those_that_lie_there_now(fresh: Desk) -> None:
    def put(name: str, **said: Any) -> None:
        folder = fresh.workspace.root / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps(said))

    assert fresh.runs() == []
    put("one", status="running")
    assert fresh.runs() == []
    put("one", status="finished", finished_at="2026-01-02")
    put("two", status="finished", finished_at="2026-01-03")
    first = fresh.runs()
    assert [run.name for run in first] == ["two", "one"]
    assert all(again is run for again, run in zip(fresh.runs(), first, strict=True))  # not read again
    (fresh.workspace.root / "runs" / "two" / "run.json").unlink()
    assert [run.name for run in fresh.runs()] == ["one"]


def test_answers_are_those_of_the_run_that_has_the_name_now(fresh: Desk) -> None:
    folder = fresh.workspace.root / "runs" / "one"

    def put(word: str, at: str) -> None:
        folder.mkdir(parents=True)
        said = {"status": "finished", "finished_at": at, "kind": "head", "labels": ["happy", "sad"], "clips": {}}
        (folder / "run.json").write_text(json.dumps(said))
        rows = [{"name": name, "answer": word, "probabilities": {word: 1.0}} for name in CLIPS]
        (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def answers() -> list[str]:
        column = fresh.catalogue("one").column("prediction", "one")
        return sorted({column.words[code] for code in column.codes})

    put("happy", "2026-01-02")
    first = fresh.predictor("one")
    assert fresh.predictor("one") is first
    assert answers() == ["happy"]
    shutil.rmtree(folder)
    put("sad", "2026-01-03")
    assert fresh.predictor("one") is not first
    assert answers() == ["sad"]
    rows = [{"name": "c0", "answer": "happy", "probabilities": {"happy": 1.0}}]  # another process has answered
    (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert answers() == ["", "happy"]


def put_head(desk: Desk, name: str, word: str, at: str) -> None:
    """Write the folder of a finished head that has answered all clips with one word, from the features of now."""
    folder, store = desk.workspace.root / "runs" / name, desk.need_store()
    folder.mkdir(parents=True)
    said = {"status": "finished", "finished_at": at, "kind": "head", "labels": ["happy", "sad"], "members": []}
    (folder / "run.json").write_text(json.dumps(said | {"dataset": "few", "features": [{"key": SPEC.key}]}))
    seen = {"train": CLIPS[:1], "media": media_of(store, CLIPS), "made": checksums_of(store, [SPEC.key], CLIPS)}
    (folder / "clips.json").write_text(json.dumps(seen))
    rows = [{"name": name, "answer": word, "probabilities": {word: 1.0}} for name in CLIPS]
    (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_an_answer_counts_as_none_while_the_features_are_others_than_it_was_given_on(fresh: Desk) -> None:
    put_head(fresh, "one", "happy", "2026-01-02")
    put_head(fresh, "two", "sad", "2026-01-01")
    api = TestClient(make_app(fresh), base_url=LOCAL)

    def listed() -> tuple[list[str], list[str]]:
        """Clips with an answer, and those that have none because they were made anew."""
        lines = api.get("/api/clips").json()["clips"]
        assert all((line["prediction"] is None) is (line["confidence"] is None) for line in lines)
        answered = [line["id"] for line in lines if line["prediction"]]
        return answered, [line["id"] for line in lines if line.get("outdated")]

    def set_vector(name: str, vector: np.ndarray) -> None:
        with other(fresh).writer() as writer:
            writer.add(SPEC, other(fresh).clip_row(name)[0], vector)  # type: ignore[index]

    before = np.asarray(fresh.need_store().get(SPEC.key, "c1").array)
    assert listed() == (CLIPS, [])
    set_vector("c1", -before)
    assert listed() == (["c0", "c2", "c3", "c4", "c5"], ["c1"])
    found = api.get("/api/confusion").json()
    assert (found["n"], found["unanswered"], found["outdated"], found["reliability"]["n"]) == (5, 1, 1, 5)
    found = api.get("/api/compare", params={"differs": "two"}).json()
    assert (found["answered"], found["outdated"]) == (5, 1)
    assert api.get("/api/clips", params={"disagree": True}).json()["total"] == 2  # c3 and c5
    with other(fresh).writer() as writer:  # the file of c2 was replaced by another
        writer.clip("c2", FileId(f"{77:032x}", 1, 1))
    assert listed() == (["c0", "c3", "c4", "c5"], ["c1", "c2"])
    with other(fresh).writer() as writer:
        writer.clip("c2", FileId(f"{2:032x}", 1, 1))
    set_vector("c1", before)
    assert listed() == (CLIPS, [])


def test_answers_are_compared_with_their_features_only_when_these_have_changed(
    fresh: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_head(fresh, "one", "happy", "2026-01-02")
    asked: list[Any] = []
    kept, outdated = Predictor.kept, Predictor.outdated

    def look(self: Predictor, clips: Sequence[Clip]) -> set[str]:
        asked.append([clip.id for clip in clips])
        return outdated(self, clips)

    monkeypatch.setattr(Predictor, "kept", lambda self: asked.append("kept") or kept(self))
    monkeypatch.setattr(Predictor, "outdated", look)
    for _ in range(3):
        fresh.catalogue("one")
    write(other(fresh), label_spec("eve"), Clip("c3"), {"label": "sad", "annotator": "eve"})
    fresh.catalogue("one")
    assert asked == ["kept", CLIPS]
    for number in (1, 4):
        with other(fresh).writer() as writer:
            writer.add(SPEC, f"{number:032x}", np.ones((1, 4), np.float32))
        catalogue = fresh.catalogue("one")
    assert asked == ["kept", CLIPS, ["c1"], ["c4"]]  # what the run has answered is not read again
    assert np.flatnonzero(catalogue.outdated("one")).tolist() == [1, 4]


def test_a_run_that_does_not_say_what_it_was_trained_on_any_more_has_no_answers(fresh: Desk) -> None:
    put_head(fresh, "one", "happy", "2026-01-02")
    (fresh.workspace.root / "runs" / "one" / "clips.json").write_text("[]")
    assert np.isnan(fresh.catalogue("one").answers["one"].confidence).all()


def test_a_clip_that_failed_in_two_ways_is_found_by_each(fresh: Desk) -> None:
    other_spec = replace(SPEC, name="mesh_UTT", encoder="mesh")
    with other(fresh).writer() as writer:
        for name in ("c8", "c9"):
            writer.name_clip(name)
        writer.fail(SPEC, "c9", MediaError("no-text", "None."))
        writer.fail(other_spec, "c9", MediaError("no-video", "None."))
        writer.fail(other_spec, "c8", MediaError("no-video", "None."))
    assert shown(fresh, words=(("failure", "no-text"),)) == ["c9"]
    assert sorted(shown(fresh, words=(("failure", "no-video"),))) == ["c8", "c9"]
    assert shown(fresh, words=(("failure", ""),)) == CLIPS
    catalogue, every = fresh.catalogue(), Filter()
    counts = catalogue.counts(every, "", catalogue.find(every, ""))["failure"]
    assert counts == {"": 6, "no-text": 1, "no-video": 2}
    assert catalogue.show(catalogue.known.row["c9"], "")["failure"] == "no-text, no-video"


def test_a_copy_of_a_clip_that_failed_says_why(fresh: Desk) -> None:
    with other(fresh).writer() as writer:
        for name in ("c10", "copy"):
            writer.clip(name, FileId(f"{10:032x}", 1, 1))
        writer.fail(SPEC, "c10", MediaError("no-face", "c10.mp4 shows no face."))
    assert shown(fresh, words=(("failure", "no-face"),)) == ["c10", "copy"]
    assert [each["why"] for each in _features(fresh.need_store(), "copy", set())] == ["no-face: c10.mp4 shows no face."]


def test_words_are_found_as_a_plain_loop_finds_them() -> None:
    texts = ["It is so.", "", "ISSO", "a\0b so", "Straße, so so", "is", "İs"]
    clips = {f"n{i}": Clip(f"n{i}", transcripts={"english": text}) for i, text in enumerate(texts)}
    known = Known.of(clips)
    for asked in ("so", "is", "n", "n3", "SS", "is so", "6 i", "zzz", ".", "a"):
        plain = [asked.casefold() in f"{name} {text}".casefold() for name, text in zip(clips, texts, strict=True)]
        assert known.holding(asked).tolist() == plain, asked
    assert not known.holding("\0").any()
    assert not Known.of({}).holding("a").any()


def test_counts_and_orders_do_not_outlive_the_column_that_they_are_of() -> None:
    clips = {f"c{i}": Clip(f"c{i}", split="ab"[i % 2]) for i in range(4)}
    catalogue = make_catalogue(clips, None, {"c2": 3})
    sorted_, labelled = Filter(sort="-annotators"), Filter(annotated=True)
    assert [catalogue.ids[row] for row in catalogue.find(sorted_, "")] == ["c2", "c0", "c1", "c3"]
    assert catalogue.counts(labelled, "", catalogue.find(labelled, ""))["split"] == {"a": 1}
    catalogue.annotators[1] = 5
    catalogue.forget()
    assert [catalogue.ids[row] for row in catalogue.find(sorted_, "")] == ["c1", "c2", "c0", "c3"]
    assert catalogue.counts(labelled, "", catalogue.find(labelled, ""))["split"] == {"a": 1, "b": 1}
