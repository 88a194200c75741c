"""What half precision costs: features computed under autocast against the same weights in float32.

python tests/benchmarks/half.py
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from record import PAGE, record, typed

from emo.extract.demo import generate_clip
from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.registry import load_encoder
from emo.extract.media.container import open_media
from emo.extract.media.faces import FaceConfig
from emo.extract.media.follow import FaceTracker

FEATURES = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")


def inputs(path: Path, faces: int) -> ClipInputs:
    """What one decode of a clip offers, the first faces only."""
    tracker = FaceTracker(FaceConfig().open_detector(), FaceConfig(), path.name)
    with open_media(path) as media:
        frames = list(media.frames())
        for frame in frames:
            tracker.feed(frame)
        return ClipInputs(audio=media.audio(), faces=tracker.finish().choose().crops[:faces], frame=frames[0].rgb)


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", choices=("tiny", "random"), default="random")
    parser.add_argument("--clip", type=Path, help="a video; a generated one by default")
    parser.add_argument("--faces", type=int, default=100 if cuda else 4)
    parser.add_argument("--dtypes", default="float16,bfloat16" if cuda else "bfloat16")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    device, rows = "cuda:0" if cuda else "cpu", []
    with tempfile.TemporaryDirectory() as name:
        if given.clip is None:
            given.clip = Path(name) / "clip.mp4"
            generate_clip(given.clip, "happy", 0)
        seen = inputs(given.clip, given.faces)
    for feature in FEATURES:
        full = load_encoder(feature, given.profile, device=device)
        full.load()
        item = full.prepare(seen)
        (exact,) = full.encode([item], full.levels[:1])
        for dtype in given.dtypes.split(","):
            half = load_encoder(feature, given.profile, device=device, dtype=dtype)
            half.use(copy.deepcopy(full._model))
            (found,) = half.encode([item], full.levels[:1])
            a, b = (next(iter(each.values())).array.astype(np.float64) for each in (exact, found))
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            error = np.linalg.norm(a - b) / np.linalg.norm(a)
            rows.append((feature, dtype, f"{cosine.min():.6f}", f"{error:.1e}"))
            print("  ".join(rows[-1]), flush=True)
    sizes = "True sizes" if given.profile == "random" else "Tiny networks"
    words = [
        f"{sizes}, random weights, one clip. Norms, tokens and tables stay float32. Real weights have larger "
        "activations in a few channels: read this as the least cost. A GPU computes in float16 by default; "
        "`--dtype float32` turns it off.",
        "What limits it now: the residual stream is float32 for the vision models, so that only products are rounded.",
    ]
    title = "P1 What half precision costs" + ("" if cuda else " (on a CPU)")
    head = ("feature", "computed in", "least cosine of a row", "relative error")
    record(title, typed(), [head, *rows], words, given.page)


if __name__ == "__main__":
    main()
