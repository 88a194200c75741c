"""A dataset and a layout are one file and one line: a stranger's package adds both, and every command knows them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.extract.demo import generate_clip
from emo.featstore.errors import EmoError
from emo.featstore.interop.npy import read_npy
from emo.featstore.storage.store import open_store

FILE = """
import json
from pathlib import Path

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.datasets.base import Card, LabelledFolder
from emo.featstore.datasets.lists import Listed
from emo.featstore.interop.base import Found, Layout, Record, Rejected, Source, bad, kept_name, sort_places

CARDS = {
    "SMILE": Card(
        name="SMILE",
        about="Smiles, by the first letter of the file.",
        how_to_get="From nobody.",
        tree="h1.mp4",
        licence="None",
        labels=("happy", "sad"),
        counts={"test": 3},
        classes={"test": (2, 1)},
    )
}


class Smile(LabelledFolder):
    folders = ()
    pool = "spare"

    def read_listed(self):
        words = {"h": "happy", "s": "sad"}
        return {name: Listed("test", Label(words[name[0]])) for name in self._media.files if name[0] in words}, []


def open_table(table, card):
    return Smile(table, card)


def find(path, files):
    paths = sorted(path.glob("*.hex")) if path.is_dir() else []
    if not paths:
        return None
    sources, rejected = [], []
    for each in paths:
        count, *rows = [line.split(" ") for line in each.read_text().splitlines()] or [["0"]]
        if len(rows) != int(count[0]) or not rows:
            rejected.append(Rejected(path.name, each.name, "truncated", f"{len(rows)} of {count[0]} lines."))
        places, unusable = sort_places(each.stem, [(clip_of(row[0]), row[1:]) for row in rows])
        sources.append(Source(each.stem, places, read, each.stem))
        rejected += unusable
    return Found(sources, rejected)


def clip_of(word):
    try:
        return bytes.fromhex(word).decode()
    except ValueError:
        return ""  # which sort_places rejects


def read(words):
    try:
        dtype, shape, data = words
        return Record(np.frombuffer(bytes.fromhex(data), dtype).reshape(json.loads(shape)))
    except (ValueError, TypeError) as error:
        raise bad("truncated", str(error)) from error


def write(path, export):
    path.mkdir()
    for feature in export.features:
        lines = [f"{len(feature.clips)}\\n"]
        for clip, record in feature:
            shape = json.dumps(record.array.shape, separators=(",", ":"))
            lines.append(f"{clip.encode().hex()} {record.array.dtype} {shape} {record.array.tobytes().hex()}\\n")
        (path / f"{feature.name}.hex").write_text("".join(lines))
    return []


def utterances_only(spec, name):
    if spec.level != "utt":
        from emo.featstore.errors import UsageError

        raise UsageError(f"{spec.key} is no utterance.")
    return kept_name(spec, name)


LAYOUT = Layout("hex", "files *.hex", find, utterances_only, write)
"""
LINES = """[emo.datasets]
SMILE = smile_pack
broken-set = smile_pack
[emo.layouts]
hex = smile_pack:LAYOUT
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with the file and what an installer writes beside it."""
    site = tmp_path_factory.mktemp("site")
    info = site / "smile_pack-1.0.dist-info"
    info.mkdir()
    (site / "smile_pack.py").write_text(FILE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smile-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(LINES)
    return site


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with clips of that dataset."""
    work = tmp_path_factory.mktemp("work")
    (work / "data").mkdir()
    for seed, name in enumerate(("h1", "h2", "s1", "x1")):
        generate_clip(work / f"data/{name}.mp4", "happy", seed=seed, duration_s=0.4)
    toml = '[store]\npath = "own.emo"\n[data.SMILE]\nroot = "data"\n[extract]\nprofile = "tiny"\n'
    (work / "emo.toml").write_text(toml + 'encoders = ["HL-UTT"]\n')
    return work


@pytest.fixture
def run(emo: Run, site: Path, work: Path) -> Callable[..., Any]:
    """Runs a command and returns what its JSON says."""
    env = {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}

    def run(*words: str, code: int = 0) -> Any:
        done = emo(*words, "--json", cwd=work, env=env)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def test_every_command_knows_the_dataset(run: Callable[..., Any]) -> None:
    card = {card["name"]: card for card in run("data", "list")}["SMILE"]
    assert (card["about"], card["labels"]) == ("Smiles, by the first letter of the file.", ["happy", "sad"])
    (check,) = run("data", "check")
    assert (check["name"], check["listed"], check["present"], check["labelled"]) == ("SMILE", 3, 4, 3)
    assert [(each["name"], each["published"]) for each in check["splits"]] == [("test", 3), ("spare", None)]
    (counts,) = run("data", "counts", "SMILE")
    assert (counts["result"], counts["splits"][0]["labels"]) == ("equal", {"happy": 2, "sad": 1})
    plan = run("extract", "--dataset", "SMILE", "--split", "test", "--dry-run")
    assert plan["listed"] == 3


def test_a_broken_package_is_a_sentence_and_hides_no_other(emo: Run, site: Path, work: Path) -> None:
    env = {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}
    listed = emo("data", "list", cwd=work, env=env)
    assert listed.returncode == 0
    assert "SMILE" in listed.stdout
    assert "The package of dataset broken-set has no CARDS['broken-set']" in " ".join(listed.stdout.split())


def test_every_command_knows_the_layout(run: Callable[..., Any], work: Path, tmp_path: Path) -> None:
    (tmp_path / "HL-UTT").mkdir()
    vectors = {name: np.arange(4, dtype=np.float32) + i for i, name in enumerate(("h1", "s1"))}
    for name, vector in vectors.items():
        np.save(tmp_path / f"HL-UTT/{name}.npy", vector)
    run("store", "import", str(tmp_path), "--layout", "mertools")
    report = run("store", "export", str(tmp_path / "out"), "--layout", "hex")
    assert (report["layout"], report["clips"]) == ("hex", 2)
    (file,) = (tmp_path / "out").iterdir()
    file.rename(file.with_name("back-UTT.hex"))
    report = run("store", "import", str(tmp_path / "out"))
    assert (report["layout"], report["features"][0]["new"]) == ("hex", 2)
    store = open_store(work / "own.emo")
    for name in vectors:
        assert (
            store.get("back-UTT", name).array[0].tolist()
            == read_npy(str(tmp_path / f"HL-UTT/{name}.npy")).array.tolist()
        )


def test_its_contracts_run_from_the_package(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    import smile_pack  # type: ignore[import-not-found]

    from emo.featstore.datasets import open_dataset
    from emo.featstore.testing import check_dataset, check_layout
    from emo.featstore.workspace import DataTable

    for name in ("h1", "s1", "x1"):
        (tmp_path / f"{name}.mp4").write_bytes(b"...")
    check_dataset(open_dataset("SMILE", DataTable("SMILE", tmp_path)))
    (tmp_path / "layout").mkdir()
    check_layout(smile_pack.LAYOUT, tmp_path / "layout")


def test_a_layout_that_breaks_the_contract_is_found_out(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    import smile_pack

    from emo.featstore.testing import check_layout

    good = smile_pack.LAYOUT

    def zeros(words: Any) -> Any:
        record = smile_pack.read(words)
        return record._replace(array=record.array * 0)

    def reading_zeros(path: Path, files: Any) -> Any:
        found = good.find(path, files)
        return found and replace(found, sources=[replace(each, read=zeros) for each in found.sources])

    def hushing(path: Path, files: Any) -> Any:
        found = good.find(path, files)
        return found and replace(found, rejected=[])

    def renaming(spec: Any, name: str | None) -> str:
        return str(good.name_there(spec, name)).lower()

    def tidying(path: Path, export: Any) -> Any:
        good.write(path, export)
        (path.parent / "index.txt").write_text("beside")
        return []

    wrong = {"find": (reading_zeros, hushing), "name_there": (renaming,), "write": (tidying,)}
    for part, functions in wrong.items():
        for function in functions:
            folder = tmp_path / function.__name__
            folder.mkdir()
            with pytest.raises((AssertionError, EmoError)):
                check_layout(replace(good, **{part: function}), folder)
