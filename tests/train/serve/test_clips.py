"""Lists of clips, one clip, its media in parts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from emo.featstore.workspace import Workspace


def listed(page: TestClient, **query: object) -> list[str]:
    return [each["id"] for each in page.get("/api/clips", params=query).json()["clips"]]  # type: ignore[arg-type]


def test_clips_are_listed_in_pages_filtered_and_sorted(page: TestClient) -> None:
    whole = page.get("/api/clips", params={"limit": 200}).json()
    names = [each["id"] for each in whole["clips"]]
    assert whole["total"] == len(names) >= 24
    assert listed(page, limit=5) + listed(page, limit=5, offset=5) == names[:10]
    happy = page.get("/api/clips", params={"label": "happy"}).json()
    assert {each["label"] for each in happy["clips"]} == {"happy"}
    assert happy["total"] == whole["counts"]["label"]["happy"]
    wrong = page.get("/api/clips", params={"disagree": True, "limit": 200}).json()["clips"]
    assert wrong
    assert all(each["label"] != each["prediction"] for each in wrong)
    assert wrong == [each for each in whole["clips"] if each["disagrees"]]
    sure = [each["confidence"] for each in page.get("/api/clips", params={"sort": "-confidence"}).json()["clips"]]
    there = [each for each in sure if each is not None]
    assert there == sorted(there, reverse=True)
    assert sure[: len(there)] == there  # those without come last
    assert listed(page, sort="-name", limit=200) == sorted(names, reverse=True)
    assert listed(page, q="demo_0003") == ["demo_0003"]
    assert listed(page, least=0.5, most=0.2) == []
    assert listed(page, label="purple") == []


def test_a_selection_is_remembered(page: TestClient) -> None:
    made = page.post("/api/select", json={"ids": ["demo_0002", "demo_0001", "nobody"]}).json()
    assert listed(page, selection=made["selection"]) == ["demo_0001", "demo_0002"]
    assert page.get("/api/clips", params={"selection": "other"}).status_code == 404


def test_one_clip_tells_what_it_has_and_why_not(page: TestClient) -> None:
    clip = page.get("/api/clip", params={"id": "demo_0001"}).json()
    assert clip["label"]
    assert clip["media"]
    assert clip["plays"]
    there = {each["key"].partition("@")[0]: each for each in clip["features"]}
    assert there["HL-UTT"]["there"]
    assert there["HL-UTT"]["asked"]
    assert clip["seen"] in ("demo_0001", None)


def test_media_come_in_parts_and_only_by_the_id_of_a_clip(page: TestClient, demo_copy: Workspace) -> None:
    file = (demo_copy.root / "data" / "clips" / "demo_0001.mp4").read_bytes()
    whole = page.get("/api/clip/media", params={"id": "demo_0001"})
    assert whole.content == file
    assert whole.headers["content-type"] == "video/mp4"
    part = page.get("/api/clip/media", params={"id": "demo_0001"}, headers={"range": "bytes=10-99"})
    assert part.status_code == 206
    assert part.content == file[10:100]
    assert (
        page.get("/api/clip/media", params={"id": "demo_0001"}, headers={"range": "bytes=99999999-"}).status_code == 416
    )
    for wrong in ("data/clips/demo_0001.mp4", "../demo_0001", str(demo_copy.root / "emo.toml"), "/etc/passwd", "\0"):
        answer = page.get("/api/clip/media", params={"id": wrong})
        assert answer.status_code == 404, wrong


def test_a_file_that_only_the_store_knows_is_served_only_if_it_is_a_media_file(
    page: TestClient, demo_copy: Workspace, tmp_path: Path
) -> None:
    from emo.featstore.clip import FileId
    from emo.featstore.storage.store import open_store

    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with open_store(demo_copy.store_path).writer() as writer:
        writer.clip("planted", FileId("0" * 32, 6, 1), secret)
    page.get("/api/about")
    assert page.get("/api/clip/media", params={"id": "planted"}).status_code == 404


def test_neighbours_have_labels(page: TestClient) -> None:
    found = page.get("/api/clip/neighbours", params={"id": "demo_0001", "k": 3}).json()
    assert len(found["neighbours"]) == 3
    assert all(each["id"] != "demo_0001" and each["label"] for each in found["neighbours"])
    assert "too few" in found["note"]
    other = page.get("/api/clip/neighbours", params={"id": "demo_0001", "feature": "HL-UTT"}).json()
    assert other["by"].startswith("HL-UTT@")


def test_the_page_names_what_is_random(page: TestClient, demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    about = page.get("/api/about").json()
    assert any("random weights" in note for note in about["notes"])
    assert about["modalities"] == ["audio", "face"]
    assert {path.name for path in (demo[0] / "runs").iterdir()} <= {run["name"] for run in about["runs"]}


@pytest.mark.parametrize("path", ["/", "/static/js/main.js", "/static/page.css", "/openapi.json"])
def test_files_of_the_page_come_with_a_strict_policy(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
