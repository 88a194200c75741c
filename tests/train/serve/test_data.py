"""Views over all clips: the matrix, two runs, the map; labels by several people; work in the workspace."""

from __future__ import annotations

import numpy as np
import pytest
from serving import MERR
from starlette.testclient import TestClient

from emo.featstore.clip import Clip
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import Workspace
from emo.train.answers import Prediction
from emo.train.serve.catalogue import Filter, make_catalogue
from emo.train.serve.labels import label_spec, record_of
from emo.train.serve.spread import spread


def test_every_cell_of_the_matrix_counts_the_clips_that_it_opens(page: TestClient) -> None:
    found = page.get("/api/confusion").json()
    assert found["n"] == np.sum(found["counts"]) > 10
    assert "too few" in found["note"]
    for i, label in enumerate(found["labels"]):
        for j, said in enumerate(found["labels"]):
            listed = page.get("/api/clips", params={"label": label, "prediction": said}).json()
            assert listed["total"] == found["counts"][i][j]
    assert found["accuracy"] == pytest.approx(np.trace(found["counts"]) / found["n"])
    bins = found["reliability"]["bins"]
    assert sum(each["n"] for each in bins) == found["n"]
    error = sum(each["n"] * abs(each["accuracy"] - each["confidence"]) for each in bins) / found["n"]
    assert found["reliability"]["ece"] == pytest.approx(error)


def test_two_runs_are_compared_where_both_have_answered(page: TestClient, demo_copy: Workspace, head: str) -> None:
    other = next(each.name for each in (demo_copy.root / "runs").iterdir() if each.name != head)
    found = page.get("/api/compare", params={"differs": other}).json()
    differing = page.get("/api/clips", params={"differs": other, "limit": 200}).json()
    assert differing["total"] == found["answered"] - found["same"] == sum(each["n"] for each in found["pairs"])
    assert all(each["other"] != each["prediction"] for each in differing["clips"])
    assert found["test"]["only_a"] + found["test"]["only_b"] <= differing["total"]
    assert page.get("/api/compare").status_code == 400


def test_the_map_places_every_clip_that_has_the_feature(page: TestClient) -> None:
    found = page.get("/api/map", params={"feature": "HL-UTT"}).json()
    assert len(found["ids"]) == len(found["x"]) == len(found["y"]) == len(found["label"]) >= 24
    assert max(map(abs, found["x"])) == pytest.approx(1)
    assert found["profile"] == "tiny"
    for query in ({"feature": "nothing"}, {"feature": "eva_g_448"}, {"method": "magic"}):
        assert page.get("/api/map", params=query).status_code in (400, 409)


def test_principal_components_are_those_of_a_decomposition() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)) * [9, 5, 1, 1, 1, 1, 1]
    places, told = spread(rows, "pca")
    centred = rows - rows.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    for i in range(2):
        assert abs(np.corrcoef(places[:, i], centred @ axes[i])[0, 1]) == pytest.approx(1, abs=1e-5)
    assert f"{100 * (sizes[:2] ** 2).sum() / (sizes**2).sum():.0f} %" in told
    assert spread(np.ones((4, 1)), "pca")[0].shape == (4, 2)


def test_labels_are_commits_with_a_history_and_agreement_is_live(page: TestClient, demo_copy: Workspace) -> None:
    def give(who: str, clip: str, label: str | None) -> dict[str, object]:
        answer = page.post("/api/labels", json={"clip": clip, "annotator": who, "label": label})
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    for clip, one, two in (("demo_0001", "sad", "sad"), ("demo_0002", "happy", "sad"), ("demo_0005", "happy", "happy")):
        give("ann", clip, one)
        found = give("bob", clip, two)
    pair = next(each for each in found["agreement"] if {each["first"], each["second"]} == {"ann", "bob"})  # type: ignore[attr-defined]
    assert pair["clips"] == 3
    assert pair["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert found["annotators"]["bob"]["clips"] == 3  # type: ignore[index]
    give("ann", "demo_0001", "angry")
    give("ann", "demo_0001", None)
    kept = record_of(open_store(demo_copy.store_path), label_spec("ann"), "demo_0001")
    assert kept is not None
    assert [each["label"] for each in kept["history"]] == ["sad", "angry"]
    assert kept["label"] is None
    assert page.get("/api/clip", params={"id": "demo_0001"}).json()["labels"] == {"bob": "sad"}
    listed = page.get("/api/clips", params={"annotated": True}).json()["clips"]
    assert {each["id"]: each["annotators"] for each in listed} == {"demo_0001": 1, "demo_0002": 2, "demo_0005": 2}


@pytest.mark.parametrize(
    "given",
    [
        {"clip": "nobody", "annotator": "ann", "label": "sad"},
        {"clip": "demo_0001", "annotator": "../ann", "label": "sad"},
        {"clip": "demo_0001", "annotator": "", "label": "sad"},
        {"clip": "demo_0001", "annotator": "ann", "label": "purple"},
        {"clip": "demo_0001", "annotator": "ann"},
        {"clip": "demo_0001", "annotator": "ann", "label": "sad", "lable": "happy"},
    ],
)
def test_a_wrong_label_is_refused(page: TestClient, given: dict[str, str]) -> None:
    answer = page.post("/api/labels", json=given)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


def test_a_record_is_edited_within_its_form_and_keeps_what_it_was(page: TestClient) -> None:
    empty = page.get("/api/record", params={"id": "demo_0003", "annotator": "ann"}).json()
    assert set(empty["fields"]) == set(MERR)
    bad = page.post("/api/record", json={"clip": "demo_0003", "annotator": "ann", "fields": MERR | {"AU_list": ["4"]}})
    assert bad.status_code == 400
    assert "AU_list" in bad.json()["error"]
    for emotion in ("angry", "sad"):
        fields = MERR | {"pseu_emotion": emotion}
        assert (
            page.post("/api/record", json={"clip": "demo_0003", "annotator": "ann", "fields": fields}).status_code
            == 200
        )
    kept = page.get("/api/record", params={"id": "demo_0003", "annotator": "ann"}).json()
    assert kept["record"]["pseu_emotion"] == "sad"
    assert [each["record"]["pseu_emotion"] for each in kept["history"]] == ["angry"]


def test_jobs_are_read_only_and_tell_the_log(page: TestClient, head: str) -> None:
    found = page.get("/api/jobs").json()
    assert {each["status"] for each in found["runs"]} == {"finished"}
    assert found["store"]["clips"] >= 24
    assert page.get("/api/jobs/log", params={"run": head}).json()["lines"]
    assert page.get("/api/jobs/log", params={"run": "../.."}).status_code == 404
    assert page.post("/api/jobs").status_code == 405


def test_columns_filter_and_sort_as_a_plain_loop_does() -> None:
    rng = np.random.default_rng(3)
    words = ["sad", "happy", None]
    clips = {f"c{i:03}": Clip(f"c{i:03}", split=str(rng.choice(["train", "test"])), speaker=None) for i in range(200)}
    catalogue = make_catalogue(clips, None, {"c001": 2})
    said = {name: Prediction(str(w), None, {str(w): float(rng.random())}) for name in clips if (w := rng.choice(words))}
    catalogue.hold("r", said, ["sad", "happy"])
    rows = catalogue.find(Filter(words=(("split", "test"), ("prediction", "sad")), least=0.4, sort="-confidence"), "r")
    sure = {name: max(each.probabilities.values()) for name, each in said.items() if each.probabilities}
    wanted = [
        n for n, c in clips.items() if c.split == "test" and n in said and said[n].answer == "sad" and sure[n] >= 0.4
    ]
    assert [catalogue.ids[row] for row in rows] == sorted(wanted, key=lambda name: -sure[name])
    assert [catalogue.ids[row] for row in catalogue.find(Filter(annotated=True), "r")] == ["c001"]
    for sort in ("prediction", "-prediction"):  # without an answer: last in both directions
        found = [
            said[name].answer if (name := catalogue.ids[row]) in said else ""
            for row in catalogue.find(Filter(sort=sort), "r")
        ]
        known = [each for each in found if each in ("sad", "happy")]
        assert found[: len(known)] == known == sorted(known, reverse=sort.startswith("-"))
