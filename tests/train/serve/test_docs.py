"""The programs of docs/page.md run as they are written, against a served workspace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from emo.featstore.workspace import Workspace

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs" / "page.md").read_text(), re.DOTALL)


def run(program: str, folder: Path) -> str:
    """Run a program and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def programs() -> dict[str, str]:
    """The programs, by a word that only one of them has."""
    found = {word: [block for block in BLOCKS if word in block] for word in ("urlopen", "open_store")}
    assert all(len(blocks) == 1 for blocks in found.values())
    assert len(BLOCKS) == len(found)  # a new one needs a test
    return {word: block for word, (block,) in found.items()}


def test_the_client_asks_about_the_clips_that_were_answered_wrongly(
    programs: dict[str, str], address: str, tmp_path: Path
) -> None:
    program = programs["urlopen"]
    assert program.count("http://127.0.0.1:7860") == 1
    said = run(program.replace("http://127.0.0.1:7860", address.rstrip("/")), tmp_path).splitlines()
    with urllib.request.urlopen(f"{address}api/clips?disagree=true&sort=-confidence&limit=5") as answer:
        wrong = json.load(answer)["clips"]
    assert len(said) == len(wrong) > 0
    for line, each in zip(said, wrong, strict=True):
        assert line.startswith(f"{each['id']} {each['label']} {each['prediction']} [{{'name': '{each['id']}'")


def test_labels_are_read_from_the_store(
    programs: dict[str, str], address: str, demo_copy: Workspace, tmp_path: Path
) -> None:
    def give(label: str | None) -> None:
        given = json.dumps({"clip": "demo_0004", "annotator": "anna", "label": label}).encode()
        asked = urllib.request.Request(f"{address}api/labels", given, {"content-type": "application/json"})
        with urllib.request.urlopen(asked) as answer:
            assert json.load(answer)["labels"].get("anna") == label

    give("sad")
    program = programs["open_store"]
    assert program.count("emo-demo/demo.emo") == 1
    said = run(program.replace("emo-demo/demo.emo", str(demo_copy.store_path)), tmp_path)
    give(None)  # other tests count labels
    assert "'demo_0004': {'label': 'sad', 'annotator': 'anna', 'at': '" in said
