"""What a GPU that decodes pictures could take off the processor: how much of a worker's time that is, on real clips.

    python tests/benchmarks/decoding.py --clips FOLDER [--rounds 3]

A worker of the pass reads a clip, decodes it, converts its colours, finds and follows faces, cuts them out and prepares
the inputs of four encoders. Only the second could be done elsewhere. Where a GPU finds the faces, that is a larger part
of the rest: the network's answers are kept from a first run, and given again without computing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
from record import PAGE, alternate, ratios, record, typed

from emo.extract.encoders.registry import load_encoder
from emo.extract.media.blazeface import BlazeFace
from emo.extract.media.detect import CenterFace, Detector, OnnxNetwork
from emo.extract.media.faces import FaceConfig
from emo.extract.run.decode import ClipDecoder
from emo.featstore.clip import Clip
from emo.featstore.text import counted

FEATURES = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")
BARE = "pictures decoded, and nothing done with them"
KEPT = "all that a worker does, faces found by a GPU"
CENTER = "all that a worker does, CenterFace on the processor"
BLAZE = "all that a worker does, BlazeFace on the processor"


class Kept:
    """A network whose answers cost nothing: those that it gave when the same frames were first looked at."""

    ahead = 0

    def __init__(self, network: OnnxNetwork) -> None:
        self.network, self.given = network, list[np.ndarray]()
        self.again: Iterator[np.ndarray] | None = None

    def begin(self, small: np.ndarray) -> Callable[[], np.ndarray]:
        """Answer from memory, or compute and keep."""
        if self.again is not None:
            found = next(self.again)
        else:
            self.given.append(found := self.network.begin(small)())
        return lambda: found


def decode_only(clips: list[Path]) -> None:
    """Decode every picture, on one thread as a worker does."""
    for path in clips:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "SLICE"
            for _ in container.decode(stream):
                pass


def work(clips: list[Path], detector: Detector, config: FaceConfig) -> None:
    """Prepare the inputs of all encoders."""
    encoders = {name: load_encoder(name, "tiny") for name in FEATURES}
    decoder = ClipDecoder(encoders, config, "first", detector)
    for path in clips:
        done = decoder.decode(Clip(path.stem, path), path, FEATURES)
        assert not done.failed, done.failed


def work_again(clips: list[Path], network: Kept) -> None:
    """The same, with what the network has said before."""
    network.again = iter(network.given)
    work(clips, CenterFace(min_score=network.network.min_score, network=network), FaceConfig())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of mp4 files")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    clips = sorted(given.clips.glob("*.mp4"))[: given.count]
    center, blaze = FaceConfig(), FaceConfig(detector=BlazeFace.name)
    kept = Kept(OnnxNetwork(center.keep_score))
    work(clips, CenterFace(min_score=center.keep_score, network=kept), center)
    ways = {
        BARE: partial(decode_only, clips),
        KEPT: partial(work_again, clips, kept),
        CENTER: partial(work, clips, center.open_detector(), center),
        BLAZE: partial(work, clips, blaze.open_detector(), blaze),
    }
    times = alternate(ways, given.rounds, clock=time.process_time)
    rows, gains = [("processor time", "decoding alone, share", "at most so many times as fast without it")], {}
    for way in (KEPT, CENTER, BLAZE):
        share, least, most = ratios(times, BARE, way)
        gains[way] = 1 / (1 - share)
        rows.append((way, f"{100 * share:.0f} % ({100 * least:.0f} to {100 * most:.0f} %)", f"{gains[way]:.2f}"))
    words = [
        f"{counted(len(clips), 'clip')}, tiny networks that compute nothing here, one thread, {given.rounds} rounds "
        "after one that is not counted, in turn. Decoding alone is FFmpeg's, with the pictures thrown away. With faces "
        "found by a GPU, CenterFace's answers are given from memory; its input is made on the processor in any case.",
        "What limits it: a decoder on a GPU gives the same pictures in the same form, which must be copied back; "
        "colours are converted and faces cut out as before. A pass that its workers limit "
        f"would be {gains[KEPT]:.2f} times as fast at most. emo has no such option; its pixels would need a "
        "fingerprint of their own, or be shown equal on a GPU.",
    ]
    record("P1 What decoding on a GPU could save", typed(), rows, words, given.page)
    for row in (*rows, *words):
        print(row, flush=True)


if __name__ == "__main__":
    main()
