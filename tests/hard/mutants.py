"""Mutation testing: a drawn sample of small changes to the code of some modules, which their tests should notice.

cosmic-ray makes the changes, in a copy of the committed tree. `python tests/hard/mutants.py [GROUP ...] [--count N]`
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0  # for the tests of one mutant


class Group(NamedTuple):
    """Modules, and the tests that should notice a change of them."""

    modules: tuple[str, ...]
    tests: str


STORE_TESTS = "tests/featstore/storage --ignore=tests/featstore/storage/test_crash.py"
STORE_TESTS += " --ignore=tests/featstore/storage/test_machine.py --ignore=tests/featstore/storage/test_disk.py"
METRIC_TESTS = " ".join(f"tests/train/metrics/test_{name}.py" for name in ("metrics", "labels", "compare", "valence"))
GROUPS = {
    "prompt": Group(
        ("train/llm/emotion_llama/prompt.py", "train/llm/prompt.py"), "tests/train/llm/emotion_llama/test_prompt.py"
    ),
    "metrics": Group(
        tuple(f"train/metrics/{name}.py" for name in ("classification", "compare", "valence", "labels")), METRIC_TESTS
    ),
    "storage": Group(
        tuple(
            f"featstore/storage/{name}.py" for name in ("index", "journal", "segment", "writer", "reader", "maintain")
        ),
        STORE_TESTS,
    ),
    "preprocess": Group(("extract/media/preprocess.py",), "tests/extract/media/test_preprocess.py"),
    "data": Group(("train/llm/data.py",), "tests/train/llm/test_data.py"),
}


def sample(name: str, group: Group, count: int, folder: Path) -> None:
    """Try `count` mutants of a group, and print how many were noticed and which were not."""
    tree, database, settings = folder / "tree", folder / f"{name}.sqlite", folder / f"{name}.toml"
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {group.tests}"
    settings.write_text(
        f"[cosmic-ray]\nmodule-path = {json.dumps(group.modules)}\ntimeout = {LIMIT_S}\nexcluded-modules = []\n"
        f'test-command = {json.dumps(command)}\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    environment = os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}

    def cosmic_ray(step: str) -> None:
        words = [sys.executable, "-m", "cosmic_ray.cli", step, str(settings), str(database)]
        subprocess.run(words, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)

    cosmic_ray("init")
    with sqlite3.connect(database) as table:
        order = "module_path, start_pos_row, start_pos_col, operator_name, occurrence"
        found = table.execute(f"select job_id, operator_name from mutation_specs order by {order}").fetchall()
        jobs = [job for job, operator in found if "BitOr" not in operator]  # `|` is of annotations
        kept = set(random.Random(name).sample(jobs, min(count, len(jobs))))
        for job in {job for job, _ in found} - kept:
            table.execute("delete from mutation_specs where job_id = ?", (job,))
            table.execute("delete from work_items where job_id = ?", (job,))
    start_s = time.monotonic()
    cosmic_ray("exec")
    with sqlite3.connect(database) as table:
        found = table.execute("select test_outcome, diff from work_results").fetchall()
    killed = sum(outcome == "KILLED" for outcome, _ in found)
    print(f"{name}: {len(jobs)} possible, {len(found)} tried, {killed} noticed, {time.monotonic() - start_s:.0f} s")
    for outcome, diff in found:
        if outcome != "KILLED":
            print(*(line for line in (diff or outcome).splitlines() if line[:1] in "+-@"), sep="\n", flush=True)


def main() -> None:
    """Read the arguments, copy the tree, and try each group; first without a mutant, which must pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=list(GROUPS))
    parser.add_argument("--count", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        packed = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder / "tree", filter="data")
        (folder / "emo").symlink_to(folder / "tree", target_is_directory=True)
        for name in given.groups:
            tests = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *GROUPS[name].tests.split()]
            environment = os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
            subprocess.run(tests, cwd=folder / "tree", env=environment, check=True, stdout=subprocess.DEVNULL)
            sample(name, GROUPS[name], given.count, folder)


if __name__ == "__main__":
    main()
