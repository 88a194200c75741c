"""An encoder is one file and one line: a stranger's package adds one, and every command and the contract know it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from emo.extract.demo import generate_clip

ENCODER = '''
import numpy as np
import torch
from torch import nn

from emo.extract.encoders.base import Encoder, Prepared, Variant, check_audio
from emo.featstore.sources.hub import Source


class Smile(Encoder):
    """`smile_UTT`: how loud each of sixteen parts of a clip is, and one layer on that."""

    name = "smile_UTT"
    names = {"utt": "smile_UTT"}
    family = "smile"
    modality = "audio"
    needs = "audio"
    source = Source("one layer on loudness", file="smile.pth", ask="from its authors")
    budget = {"cpu": 64}  # clips
    parts = 16

    def configure(self, config):
        return config or {"width": 8}

    @property
    def dim(self):
        return self.config["width"]

    def recipe(self, level):
        return {"parts": self.parts, "arch": self.config}

    def build(self):
        return nn.Linear(self.parts, self.dim)

    def adapt(self, state, expected):
        return state, {}, []

    def loudness(self, part):
        return np.sqrt((part**2).mean())

    def prepare(self, inputs):
        audio = check_audio(inputs.audio, 1600, "Smile")
        values = [self.loudness(part) for part in np.array_split(audio, self.parts)]
        return Prepared(torch.tensor(values, dtype=torch.float32)[None], 1.0)

    def collate(self, batch):
        return [self.join([item.payload for item in batch])]

    def run(self, tensors, batch):
        with self.computing() as model:
            return list(model(tensors[0]).float().split(1))

    def variants(self):
        yield Variant("loudness", "peaks in place of means", self.twin(loudness=lambda part: np.abs(part).max()))
        yield from super().variants()
'''
PROGRAM = """
import contextlib, io, json, sys
import numpy as np
import torch
import typer
from emo.cli import app

def run(*words):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            code = app([*words, "--json"], standalone_mode=False) or 0
        except (typer.Exit, SystemExit) as stop:
            code = getattr(stop, "exit_code", getattr(stop, "code", 1))
    return code, json.loads(out.getvalue())

found = {"list": run("weights", "list"), "doctor": run("doctor"), "extract": run("extract", "--encoders", "smile")}
found["ls"] = run("store", "ls", "smile")

from emo.extract.encoders.registry import load_encoder
from emo.extract.media.container import open_media
from emo.extract.testing import CONTRACT

encoder = load_encoder("smile", "tiny")
for name in ("a", "b"):
    with open_media(f"data/{name}.mp4") as media:
        peaks = [np.abs(part).max() for part in np.array_split(media.audio(), 16)]
    with encoder.computing() as model:
        np.save(f"theirs/{name}.npy", model(torch.tensor(peaks)[None]).numpy())
found["compare"] = run("store", "compare", "own.emo", "theirs", "--feature", "smile")
for promise in CONTRACT:
    promise(type(encoder))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command says where a package `smile` is installed beside emo, and nothing else is changed."""
    folder = tmp_path_factory.mktemp("plugin")
    site, work = folder / "site", folder / "work"
    info = site / "smile-1.0.dist-info"
    for each in (info, work / "data", work / "theirs"):
        each.mkdir(parents=True)
    (site / "smile.py").write_text(ENCODER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[emo.encoders]\nsmile_UTT smile = smile:Smile\n")
    for seed, name in enumerate(("a", "b")):
        generate_clip(work / f"data/{name}.mp4", "happy", seed=seed, duration_s=0.6)
    toml = '[store]\npath = "own.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n'
    (work / "emo.toml").write_text(toml + '[extract]\nprofile = "tiny"\nencoders = ["smile_UTT"]\n')
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    result = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_weights_list_says_what_it_needs_and_whom_to_ask(found: dict[str, Any]) -> None:
    row = {row["name"]: row for row in found["list"][1]}["smile_UTT"]
    assert (row["about"], row["status"]) == ("one layer on loudness", "not configured")
    assert row["how"] == "Get smile.pth by hand from its authors."


def test_doctor_counts_its_bytes(found: dict[str, Any]) -> None:
    code, page = found["doctor"]
    disk = next(each["what"] for each in page["findings"] if each["area"] == "disk")
    assert "2 clips x 32 bytes" in disk  # 8 numbers of 4 bytes
    assert "not counting" not in disk
    assert code == 0


def test_extract_stores_it_and_the_store_knows_its_alias(found: dict[str, Any]) -> None:
    code, outcome = found["extract"]
    assert (code, outcome["features"], outcome["failures"]) == (0, 2, [])
    assert found["ls"][0] == 0


def test_compare_names_the_variant_that_it_declares(found: dict[str, Any]) -> None:
    code, comparison = found["compare"]
    assert (code, comparison["cause"]) == (3, "loudness"), comparison["verdict"]
    assert "peaks in place of means" in comparison["verdict"]
