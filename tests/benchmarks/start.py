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

from growth import extend, grown_clips, touch
from record import PAGE, alternate, ratios, record, typed

from emo.featstore.storage.store import Store

NOTHING = "python -c pass"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=100_000, help="clips of the store that is looked at")
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
        commands = {
            NOTHING: [sys.executable, "-c", "pass"],
            "python -c 'import numpy'": [sys.executable, "-c", "import numpy"],
            "emo --help": [*EMO, "--help"],
            info: [*EMO, "store", "info"],
        }
        times = alternate({way: process(each, work) for way, each in commands.items()}, given.rounds)
        imports = {way: slowest_imports(commands[way], work) for way in ("emo --help", info)}
    goals = {"emo --help": 0.2, info: 0.5}
    rows = []
    for way, seconds in times.items():
        middle, least, most = ratios(times, way, NOTHING)
        took, goal = median(seconds), goals.get(way)
        said = f"{took:.2f} s, goal {goal} s: {'met' if took < goal else 'missed'}" if goal else ""
        rows.append((way, f"{middle:.1f}", f"{least:.1f} to {most:.1f}", said))
    header = ("whole process", f"ratio to {NOTHING}", "range of the ratio", "median against the goal")
    words = [
        f"{given.rounds} processes each, in turn, files in the page cache. The store has four features of every clip, "
        "committed every 200 clips and not compacted.",
        f"What limits it now: `emo --help`, imports ({imports['emo --help']}); `emo store info`, the replay of the "
        f"journal, a commit of 200 clips at a time, then imports ({imports[info]}).",
    ]
    record("P8 Start-up", typed(), [header, *rows], words, given.page)
    for row in (header, *rows):
        print("  ".join(row))
    print(*words, sep="\n")


if __name__ == "__main__":
    main()
