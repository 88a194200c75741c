"""heads.py and peer_heads.py run end to end at toy sizes; nothing is asserted about speed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().with_name("heads.py")


def test_heads_writes_its_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    toy = ("--clips", "40", "--dim", "8", "--configurations", "4", "--folds", "2", "--sample", "1", "--rounds", "1")
    command = [sys.executable, str(SCRIPT), "--device", "cpu", *toy, "--page", str(page)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "round 1: MERBench's way 1.0x" in result.stdout
    text = page.read_text()
    for part in ("## P5 Heads", "| emo, all together |", "8 models (4 settings", "Goal 6x: ", "What limits it now"):
        assert part in text
    assert " min |" not in text  # absolute times only from a GPU


# A stand-in for a checkout of MERTools: it reads, asks and says what the real one does, and trains nothing.
STAND_IN = {
    "config.py": "PATH_TO_LABEL = {'MER2023': '/nowhere'}\nPATH_TO_FEATURES = {'MER2023': '/nowhere'}\n",
    "toolkit/dataloader/mer2023.py": """
import random

class MER2023:
    def random_split_indexes(self, whole_num, num_folder):
        raise AssertionError("folds are drawn without a seed")
""",
    "main-release.py": """
import argparse
import os
import numpy as np
import torch
from omegaconf import OmegaConf
from thop import profile
import config
from toolkit.dataloader.mer2023 import MER2023

parser = argparse.ArgumentParser()
for name in ("model", "feat_type", "dataset", "hyper_path", "audio_feature", "text_feature", "video_feature"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--epochs", type=int, required=True)
args = parser.parse_args()
torch.cuda.set_device(0)
assert OmegaConf.load(args.hyper_path)[args.model]["grad_clip"] == -1.0
corpora = np.load(config.PATH_TO_LABEL[args.dataset], allow_pickle=True)
names = list(corpora["train_corpus"].tolist())
for split in ("test1", "test2", "test3"):
    names_there = corpora[f"{split}_corpus"].tolist()
    assert {"emo", "val"} == set(names_there[next(iter(names_there))])
for feature in (args.audio_feature, args.text_feature, args.video_feature):
    for name in names:
        row = np.load(os.path.join(config.PATH_TO_FEATURES[args.dataset], feature, name + ".npy"))
        assert row.squeeze().shape == (8,)
folds = MER2023().random_split_indexes(len(names), 5)
held_out = [row for _, part in folds for row in part]
assert len(folds) == 5 and sorted(held_out) == list(range(len(names)))
assert all(sorted(train + part) == list(range(len(names))) for train, part in folds)
net = torch.nn.Linear(8, 6).cuda()
net(torch.zeros(2, 8).cuda())
print("save results in ./saved-trimodal/result/cv_features:A_dataset:MER2023_f1:0.4321_acc:0.5_val:1.0_1.npz")
""",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "MERTools"
    for name, text in STAND_IN.items():
        path = folder / "MERBench" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


TOY = ("--clips", "40", "--tests", "3", "3", "4", "--dim", "8", "--epochs", "1", "--rounds", "1")


def test_their_own_script_runs_on_what_emo_exported(measure: Callable[..., str], checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    found = measure("peer_heads.py", "--mertools", str(checkout), *TOY)
    table = [line.split(" | ") for line in found.split("\n") if line.startswith("| ")][2:]
    assert [cells[0] for cells in table] == [
        "| emo train", "| MERBench", "| MERBench, one thread", "| MERBench, one thread, test sets of one batch"
    ]  # fmt: skip
    assert table[0][1] == "1.00"
    assert all(float(cells[1]) > 0 and float(cells[2]) > 0 for cells in table)
    assert [cells[3] for cells in table[1:]] == ["0.4321 |"] * 3
    assert "`python tests/benchmarks/peer_heads.py --mertools MERTools --clips 40" in found
    assert sorted(checkout.rglob("*")) == before, "the checkout stays as it is"


def test_where_their_script_does_not_run_the_section_says_why(measure: Callable[..., str], checkout: Path) -> None:
    (checkout / "MERBench" / "config.py").write_text("import a_package_of_theirs\n")
    found = measure("peer_heads.py", "--mertools", str(checkout), *TOY)
    assert "| MERBench | does not run here |" in found
    assert "It ends so: ModuleNotFoundError: No module named 'a_package_of_theirs'" in found
