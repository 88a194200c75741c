"""How long a command takes before it does anything: whole processes, in turn with an interpreter that does nothing.

python tests/benchmarks/start.py
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from growth import clip_id, extend, grown_clips, grown_specs, touch
from record import PAGE, alternate, ratios, record, typed

from emo.featstore.storage.store import Store

NOTHING = "python -c pass"
NUMPY = "python -c 'import numpy'"
SHOWN = 5  # imports named per command
EMO = [sys.executable, "-m", "emo.cli"]


def process(command: list[str], cwd: Path) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)

    return run


def slowest_imports(command: list[str], cwd: Path) -> str:
    """What takes the most time to import, each without what it imports itself."""
    traced = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]], cwd=cwd, check=True, capture_output=True, text=True
    )
    lines = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", traced.stderr)
    spent: dict[str, int] = {}
    for own, module in lines:
        top = ".".join(module.split(".")[:2]) if module.startswith("emo.") else module.split(".")[0]
        spent[top] = spent.get(top, 0) + int(own)
    total = sum(spent.values())
    most = sorted(spent, key=lambda name: -spent[name])[:SHOWN]
    return ", ".join(f"{name} {spent[name] / total:.0%}" for name in most)


def asked(work: Path, count: int, dim: int) -> Path:
    """Make a workspace of labelled clips with one trained head."""
    work.mkdir()
    (work / "media").mkdir()
    extend(Store.create(work / "a.emo"), touch(grown_clips(work, 0, count)), dim)
    words = ("happy", "sad", "angry", "neutral")
    rows = "".join(f"{clip_id(i)},{words[i % len(words)]}\n" for i in range(count))
    (work / "media" / "labels.csv").write_text("name,emotion\n" + rows, encoding="utf-8")
    (work / "emo.toml").write_text('[store]\npath = "a.emo"\n[data.mine]\nroot = "media"\nkind = "folder"\n')
    features = ", ".join(spec.name for spec in grown_specs(dim))
    head = [*EMO, "train", "--head", "logistic", "--cached", "--set", f"features=[{features}]"]
    subprocess.run(head, cwd=work, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=100_000, help="clips of the store that is looked at")
    parser.add_argument("--asked", type=int, default=5_031, help="clips of the dataset of which one is asked about")
    parser.add_argument("--dim", type=int, default=8, help="columns of each of its four features")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "media").mkdir()
        extend(Store.create(work / "a.emo"), touch(grown_clips(work, 0, given.clips)), given.dim)
        (work / "emo.toml").write_text('[store]\npath = "a.emo"\n', encoding="utf-8")
        info = f"emo store info, {given.clips:,} clips"
        few, predict = (f"emo {each}, {given.asked:,} clips" for each in ("store info", "predict CLIP by a head"))
        asking = asked(work / "asked", given.asked, given.dim)
        commands = {
            NOTHING: ([sys.executable, "-c", "pass"], work),
            NUMPY: ([sys.executable, "-c", "import numpy"], work),
            "emo --help": ([*EMO, "--help"], work),
            info: ([*EMO, "store", "info"], work),
            few: ([*EMO, "store", "info"], asking),
            predict: ([*EMO, "predict", clip_id(0)], asking),
        }
        times = alternate({way: process(*each) for way, each in commands.items()}, given.rounds)
        imports = {way: slowest_imports(*commands[way]) for way in ("emo --help", info, predict)}
    goals = {"emo --help": 0.2, info: 0.5, few: 0.25, predict: 0.4}
    rows = []
    for way, seconds in times.items():
        middle, least, most = ratios(times, way, NUMPY)
        took, goal = median(seconds), goals.get(way)
        said = f"{took:.2f} s, goal {goal} s: {'met' if took < goal else 'missed'}" if goal else ""
        rows.append((way, f"{middle:.1f}", f"{least:.1f} to {most:.1f}", said))
    header = ("whole process", f"ratio to {NUMPY}", "range of the ratio", "median against the goal")
    words = [
        f"{given.rounds} processes each, in turn, files in the page cache and modules compiled. The store has four "
        "features of every clip, committed every 200 clips and not compacted; what is predicted is in the store, and "
        "the run has answered it.",
        f"What limits it now: `emo --help`, imports ({imports['emo --help']}); `emo store info`, imports "
        f"({imports[info]}), then the snapshot of the journal; `emo predict`, imports ({imports[predict]}), then the "
        "list of all clips.",
    ]
    record("P8 Start-up", typed(), [header, *rows], words, given.page)
    for row in (header, *rows):
        print("  ".join(row))
    print(*words, sep="\n")


if __name__ == "__main__":
    main()
