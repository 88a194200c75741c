"""What a long clip costs the encoders of sound: HuBERT over the whole clip, and in chunks of 10 s.

    python tests/benchmarks/long_sound.py

Processor time of one clip and the process's peak memory, at the published size with random weights, on one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

from record import PAGE, record, typed

TITLE = "Long sound"
NAMES = ("HL-UTT", "HL-MERBench-UTT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="random", help="random: the published size; tiny: to try the script out")
    parser.add_argument("--seconds", type=int, nargs="+", default=[30, 60, 120], help="lengths of the clip")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    rows = []
    for name in NAMES:
        for seconds in given.seconds:
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # peak memory is of a whole process
                spent_s, peak_bytes = pool.apply(cost, (name, given.profile, seconds))
            rows.append((name, f"{seconds} s", f"{spent_s:.1f} s", f"{peak_bytes / 2**30:.1f} GiB"))
            print(*rows[-1], sep="  ", flush=True)
    words = [
        "`HL-UTT` attends from every frame to every other, as the published recipe does, so its cost grows faster than "
        "the clip; `HL-MERBench-UTT` folds it into chunks of 10 s. Clips above `max_minutes` (5 by default) are "
        "refused as `too-long`."
    ]
    record(TITLE, typed(), [("feature", "clip", "processor time", "peak memory"), *rows], words, given.page)


def cost(name: str, profile: str, seconds: int) -> tuple[float, int]:
    """Seconds of processor time for a clip, and the most memory that the process has held, in bytes."""
    import numpy as np
    import torch

    from emo.extract.encoders.base import ClipInputs
    from emo.extract.encoders.registry import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder(name, profile)
    encoder.load()
    audio = np.random.default_rng(0).normal(0, 0.1, 16_000 * seconds).astype(np.float32)
    start_s = time.process_time()
    encoder.encode([encoder.prepare(ClipInputs(audio=audio))], ["utt"])
    return time.process_time() - start_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main()
