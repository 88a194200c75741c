"""Two ways to find faces, on real clips: how many are found, whether they are the same, and what following them costs.

    python tests/benchmarks/faces.py --clips FOLDER [--look FOLDER]

Nobody has marked the faces of these clips: agreement of the detectors is counted, and `--look` draws every frame in
which they disagree (CenterFace green, BlazeFace red), to be looked at.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from record import PAGE, record, typed

from emo.extract.media import blazeface
from emo.extract.media.blazeface import NETWORKS, BlazeFace
from emo.extract.media.container import Frame, open_media
from emo.extract.media.detect import Detector, iou
from emo.extract.media.faces import FaceConfig, FaceTrack
from emo.extract.media.follow import FaceTracker

PROBES = 3  # frames of a clip
SAME = 0.5  # overlap of two boxes of one face
START = 0.5  # least score that starts a track


def frames_of(path: Path, chosen: set[int] | None = None) -> Iterator[Frame]:
    """Frames of a clip, all or those of some numbers."""
    with open_media(path) as media:
        for frame in media.frames():
            if chosen is None or frame.index in chosen:
                yield frame


def probes_of(path: Path) -> list[Frame]:
    """Three evenly spaced frames."""
    with open_media(path) as media:
        count = media.info.n_frames
    return list(frames_of(path, {int((i + 0.5) * count / PROBES) for i in range(PROBES)}))


def detectors() -> dict[str, Detector]:
    """Every detector by name; BlazeFace with each of its networks."""
    made: dict[str, Detector] = {"CenterFace": FaceConfig().open_detector()}
    kept = blazeface.NETWORK
    for name in NETWORKS:
        blazeface.NETWORK = name
        made[f"BlazeFace, {name}, and mesh"] = BlazeFace()
    blazeface.NETWORK = kept
    return made


def probe(detector: Detector, frames: list[Frame]) -> tuple[int, int, float]:
    """Frames with a face, faces, and milliseconds of one core per frame."""
    start = time.process_time()
    found = [[face for face in detector.begin_frame(frame)() if face.score >= START] for frame in frames]
    spent_s = time.process_time() - start
    return sum(map(bool, found)), sum(map(len, found)), 1000 * spent_s / len(frames)


def follow(path: Path, detector: Detector, config: FaceConfig) -> tuple[FaceTrack, float]:
    """The chosen person of a clip, and seconds of one core for decoding and following."""
    start = time.process_time()
    tracker = FaceTracker(detector, config, path.name)
    for frame in frames_of(path):
        tracker.feed(frame)
    return tracker.finish().choose(), time.process_time() - start


def draw(folder: Path, path: Path, boxes: dict[int, tuple[np.ndarray | None, np.ndarray | None]]) -> None:
    """Pictures of frames with both boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames_of(path, set(boxes)):
        image = Image.fromarray(frame.rgb)
        for box, colour in zip(boxes[frame.index], ("lime", "red"), strict=True):
            if box is not None:
                ImageDraw.Draw(image).rectangle(box.tolist(), outline=colour, width=3)
        image.save(folder / f"{path.stem}_{frame.index:04}.jpg")


def agreement(one: FaceTrack, other: FaceTrack) -> tuple[int, int, int, set[int]]:
    """Frames in which both have the person, in which one alone has, in which the boxes agree; those that do not."""
    here = {int(index): box for index, box in zip(one.index, one.boxes, strict=True)}
    there = {int(index): box for index, box in zip(other.index, other.boxes, strict=True)}
    both = sorted(set(here) & set(there))
    apart = {index for index in both if iou(here[index][None], there[index][None])[0, 0] <= SAME}
    alone = set(here) ^ set(there)
    return len(both), len(alone), len(both) - len(apart), apart | alone


def track_box(track: FaceTrack, index: int) -> np.ndarray | None:
    """Box of a track in one frame, where the person is seen."""
    at = np.flatnonzero(track.index == index)
    return track.boxes[at[0]] if len(at) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of mp4 files")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--look", type=Path, help="draw every frame in which the two disagree into this folder")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    clips = sorted(given.clips.glob("*.mp4"))[: given.count]
    frames = [frame for path in clips for frame in probes_of(path)]
    probe(made := FaceConfig().open_detector(), frames[:1])  # what is loaded at the first call is not counted
    rows = []
    for name, detector in detectors().items():
        probe(detector, frames[:1])
        seen, faces, ms = probe(detector, frames)
        rows.append((name, f"{seen} of {len(frames)}", str(faces), f"{ms:.1f} ms", ""))
    config = FaceConfig(detector=BlazeFace.name)
    blaze = config.open_detector()
    spent, both, alone, same, seen_by = [0.0, 0.0], 0, 0, 0, [0, 0]
    for path in clips:
        (one, first_s), (other, second_s) = follow(path, made, FaceConfig()), follow(path, blaze, config)
        spent = [spent[0] + first_s, spent[1] + second_s]
        seen_by = [seen_by[0] + len(one.index), seen_by[1] + len(other.index)]
        counts = agreement(one, other)
        both, alone, same = both + counts[0], alone + counts[1], same + counts[2]
        if given.look and counts[3]:
            draw(given.look, path, {i: (track_box(one, i), track_box(other, i)) for i in counts[3]})
        print(path.name, *counts[:3], len(counts[3]), f"{first_s:.2f} s {second_s:.2f} s", flush=True)
    for name, seconds, seen in zip(("CenterFace", "BlazeFace"), spent, seen_by, strict=True):
        speed = f"{len(clips) / seconds:.2f} clips/s of a core"
        rows.append((f"{name}: decoding and following", f"{seen} frames", "", "", speed))
    words = [
        f"{len(frames)} probe frames, {PROBES} of each of {len(clips)} clips; a face counts from a score of {START}. "
        "Times are of one core, in processor time, and other programs were running: the ratio says more than they do.",
        f"Following through all frames: of {both} frames in which both have the chosen person, the boxes agree at IoU "
        f"{SAME} in {same} ({same / max(1, both):.1%}); in {alone} frames one of the two alone has the person. "
        f"BlazeFace and its mesh take {spent[1] / spent[0]:.2f} of CenterFace's time, decoding included.",
        "How far the crops lie from OpenFace's own was not measured: there is no OpenFace output for these clips.",
    ]
    table = [("detector", "found", "faces", "per frame", "speed"), *rows]
    record("Faces: CenterFace and BlazeFace", typed(), table, words, given.page)
    for row in (*table, *words):
        print(row, flush=True)


if __name__ == "__main__":
    main()
