"""Host memory of a long pass: whether it grows with the number of clips (P7).

python tests/benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from one_pass import Memory, make_clips
from record import PAGE, record, typed

TITLE = "P7 Host memory of a long pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=1000, help="generated clips, of different content")
    parser.add_argument("--drawn", type=int, default=50, help="of which so many look and sound different")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = make_clips(None, folder / "data", given.clips // given.drawn, given.drawn)
        toml = '[store]\npath = "all.emo"\n[data.bench]\nroot = "data"\nkind = "folder"\n'
        (folder / "emo.toml").write_text(toml)
        command = [sys.executable, "-m", "emo.cli", "extract", "--profile", "tiny", "--commit-every", "100", "--quiet"]
        process = subprocess.Popen(command, cwd=folder)
        with Memory(process.pid) as memory:
            assert process.wait() == 0
    seen = [gib for _, gib in memory.seen[:-1]] or [memory.most_gib]  # the last one may be half gone
    parts = [seen[len(seen) * i // 4 : max(1, len(seen) * (i + 1) // 4)] or seen for i in range(4)]
    middle = [statistics.median(part) for part in parts]
    rows = [
        (f"{each} quarter of the time", f"{gib:.2f}", f"{gib / middle[1]:.2f}")
        for each, gib in zip(("first", "second", "third", "last"), middle, strict=True)
    ]
    growth = middle[3] / middle[1]
    words = [
        f"`emo extract --profile tiny` over {len(clips):,} generated clips in a process of its own, memory looked at "
        f"twice a second; at most {memory.most_gib:.2f} GiB. Flat, within 10 % from the second quarter to the last: "
        f"{'yes' if growth <= 1.1 else 'no'} ({growth:.2f}).",
        "What limits it now: torch, transformers and onnxruntime themselves, which are most of it. Between the stages "
        "wait a fixed number of clips, not of bytes: a clip holds 37 kB per face and 64 kB per second of sound.",
    ]
    record(TITLE, typed(), [("when", "GiB, median", "second quarter = 1"), *rows], words, given.page)
    for row in (*rows, *words):
        print(row)


if __name__ == "__main__":
    main()
