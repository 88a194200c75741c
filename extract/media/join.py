"""Puts tracks of one person together: across short gaps by place, across cuts and long gaps by look.

A wrong join is worse than a short track. Nobody is joined with somebody who is seen at the same time; nothing is joined
that could as well belong to another; crops without a pattern (a dark or blurred patch) have no look. A look is the
pattern of the face and the colours of face, hair and clothes, as far as they are in the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from emo.extract.media.align import face_mask
from emo.extract.media.detect import iou
from emo.extract.media.faces import FaceTrack

# Measured on 18 people of real clips: others are alike by 0.58 at most; the first and the last third of one track by
# 0.56 to 0.90, half of them by 0.70 or more.
ALIKE = 0.7
"""Likeness, in [-1, 1], from which two tracks show one person, wherever they are."""
ALIKE_IN_PLACE = 0.5
"""The same for the most alike crops of a face that comes back within `GAP_S` where it was, in the same shot."""
MARGIN = 0.1
"""So much more alike than anybody else."""
BARE = 0.15
"""So much more alike must they be where only one of hair and clothes has the same colour."""
DRESS = 0.08
"""Largest difference of the colours of face, hair and clothes, of 1. In place, one of hair and clothes will do, and may
differ by twice as much: where one of them is looked for there may be background."""
GAP_S = 1.0
NEAR = 0.3
"""Least overlap with the place where a face was last seen, or with where it should be by now."""
WIDE = 2.0
"""Between neighbouring frames, boxes grown so many times overlap: a head may move by its own width."""
PATTERN = 4.0
"""Least standard deviation of brightness, of 255, that a look needs."""
N_LOOKS = 8
"""Crops of a track that are compared."""
FINE, CELL, BINS = 4, 4, 8  # see `_patterns`
PLACES = np.array([(0.25, 0.3, 0.75, 0.8), (0.15, -0.3, 0.85, -0.05), (-0.3, 1.15, 1.3, 1.6)])
"""Areas of face, hair and clothes: left, top, right, bottom in widths and heights of the face's box."""
FACE, WORN = 0, slice(1, None)


@dataclass(frozen=True, eq=False)
class Part:
    """A track of one shot.

    Attributes:
        track: The track.
        shot: Number of its shot.
        dress: Colours, `(n, 3, 3)`, from frames in which the face was detected; see `dress`.
    """

    track: FaceTrack
    shot: int
    dress: np.ndarray


def dress(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Colours of face, hair and clothes, `(3, 3)` float32 in [0, 1]; NaN where most of one is outside of the frame."""
    colours = np.full((len(PLACES), 3), np.nan, np.float32)
    corner, extent = box[:2], box[2:] - box[:2]
    for number, (left, top, right, bottom) in enumerate(PLACES):
        x, y = corner[:, None] + extent[:, None] * (np.linspace(left, right, 8), np.linspace(top, bottom, 8))
        x, y = x[(x >= 0) & (x < rgb.shape[1])].astype(int), y[(y >= 0) & (y < rgb.shape[0])].astype(int)
        if len(x) * len(y) >= 24:
            colours[number] = np.median(rgb[y[:, None], x], axis=(0, 1)) / 255
    return colours


def join(parts: Sequence[Part]) -> list[FaceTrack]:
    """Put the tracks of one person together.

    Args:
        parts: In order of appearance.

    Returns:
        In order of appearance; frames in which somebody is out of sight are absent from the joined track.
    """
    tracks = [part.track for part in parts]
    if len(parts) < 2:
        return tracks
    together = _together(tracks)
    best, typical = _likeness(tracks)
    group = np.arange(len(parts))
    place = _place(parts)
    place[together | (best < ALIKE_IN_PLACE)] = 0
    for a, b in sorted(zip(*np.nonzero(place >= NEAR), strict=True), key=lambda ab: _gap_s(tracks, *ab)):
        rivals = (together[a] & (place[:, b] > place[a, b] / 2)) | (together[b] & (place[a] > place[a, b] / 2))
        _unite(group, together, a, b, rivals)
    worn = np.stack([np.median(part.dress, axis=0) for part in parts])  # (N, 3, 3)
    unlike = np.abs(worn[:, None] - worn[None]).max(axis=-1)  # (N, N, 3), NaN where unknown
    both, one = (each.reduce(unlike[..., WORN], axis=-1) <= DRESS for each in (np.fmax, np.fmin))
    look = np.where(both, typical, typical - BARE)
    look[together | ~one | (unlike[..., FACE] > DRESS)] = -1
    np.fill_diagonal(look, -1)
    pairs = [(a, b) for a, b in zip(*np.nonzero(look >= ALIKE), strict=True) if a < b]
    for a, b in sorted(pairs, key=lambda ab: -look[ab]):
        least = look[a, b] - MARGIN
        others = (group != group[a]) & (group != group[b])
        rivals = others & (((look[b] > least) & (look[a] < ALIKE)) | ((look[a] > least) & (look[b] < ALIKE)))
        _unite(group, together, a, b, rivals)
    people = [[tracks[i] for i in np.flatnonzero(group == first)] for first in dict.fromkeys(group.tolist())]
    return [_merged(sorted(each, key=lambda track: int(track.index[0]))) for each in people]


def _unite(group: np.ndarray, together: np.ndarray, a: int, b: int, rivals: np.ndarray) -> None:
    """Make one group of those of two tracks, unless there are rivals or some of them are seen together."""
    one, other = group == group[a], group == group[b]
    if not rivals.any() and not together[np.ix_(one, other)].any():
        group[one | other] = min(group[a], group[b])


def _together(tracks: Sequence[FaceTrack]) -> np.ndarray:
    """Which tracks share a time, `(N, N)` bool: they show different people. A track is no company to itself."""
    first, last = (np.array([track.index[at] for track in tracks]) for at in (0, -1))
    shared = (first[:, None] <= last[None]) & (first[None] <= last[:, None])
    np.fill_diagonal(shared, False)
    return shared


def _gap_s(tracks: Sequence[FaceTrack], a: int, b: int) -> float:
    return float(tracks[b].time_s[0] - tracks[a].time_s[-1])


def _place(parts: Sequence[Part]) -> np.ndarray:
    """How well the start of track b continues the end of track a, `(N, N)` in [0, 1]: overlap of their boxes.

    Either stands still, or one of them moves on as it did.
    """
    tracks, shots = [part.track for part in parts], np.array([part.shot for part in parts])
    place = np.zeros((len(tracks), len(tracks)))
    for a, b in zip(*np.nonzero(shots[:, None] == shots[None]), strict=True):
        ended, begun = tracks[a], tracks[b]
        if 0 < _gap_s(tracks, a, b) <= GAP_S:
            steps = int(begun.index[0] - ended.index[-1])
            here = np.stack([ended.boxes[-1], ended.boxes[-1] + steps * _speed(ended, -1)])
            there = np.stack([begun.boxes[0], begun.boxes[0] - steps * _speed(begun, 0)])
            last, first = np.median(parts[a].dress[-3:], axis=0), np.median(parts[b].dress[:3], axis=0)
            unlike = np.abs(last - first).max(axis=1)
            if unlike[FACE] <= DRESS and not np.fmin.reduce(unlike[WORN]) > 2 * DRESS:
                wide = WIDE if steps == 1 else 1.0
                here, there = _grown(here, wide), _grown(there, wide)
                place[a, b] = max(iou(here, there[:1]).max(), iou(here[:1], there).max())
    return place


def _grown(boxes: np.ndarray, times: float) -> np.ndarray:
    """Boxes `(N, 4)` of so many times the width and height around the same centres."""
    more = (boxes[:, 2:] - boxes[:, :2]) * (times - 1) / 2
    return np.concatenate([boxes[:, :2] - more, boxes[:, 2:] + more], axis=1)


def _speed(track: FaceTrack, at: int) -> np.ndarray:
    """Movement of the box from frame to frame, `(2 x 2,)`, without its growth, at one end of a track."""
    part = slice(-5, None) if at else slice(None, 5)
    boxes, index = track.boxes[part], track.index[part]
    step = (boxes[-1] - boxes[0]) / max(1, index[-1] - index[0])
    return np.tile((step[:2] + step[2:]) / 2, 2)


def _likeness(tracks: Sequence[FaceTrack]) -> tuple[np.ndarray, np.ndarray]:
    """How alike tracks are, `(N, N)` each: their most alike crops; the mean of all, each with the one most like it."""
    patterns = [_patterns(track.crops) for track in tracks]
    stacked = np.concatenate(patterns)
    starts = np.cumsum([0, *(len(each) for each in patterns[:-1])])
    rows = np.maximum.reduceat(stacked @ stacked.T, starts, axis=1)  # each crop with the most alike one of each track
    best = np.maximum.reduceat(rows, starts, axis=0)
    mean = np.add.reduceat(rows, starts, axis=0) / np.array([len(each) for each in patterns])[:, None]
    return best, (mean + mean.T) / 2


def _patterns(crops: np.ndarray) -> np.ndarray:
    """Patterns of some of the crops, `(n, D)` of length 1, or 0 where there is none.

    A pattern is made of histograms of the directions of edges in cells of 4 x 4 pixels of a quarter of the size (Dalal
    and Triggs, 2005): light and shade change brightness more than they change these.
    """
    chosen = crops[np.unique(np.linspace(0, len(crops) - 1, N_LOOKS).round().astype(int))]
    side, n = crops.shape[1] // FINE, crops.shape[1] // FINE // CELL
    small = chosen[:, : side * FINE, : side * FINE].reshape(len(chosen), side, FINE, side, FINE, 3)
    grey = small.mean(axis=(2, 4, 5), dtype=np.float32)
    inside = _inside(crops.shape[1])
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right) * inside
    turn = np.arctan2(down, right) / (2 * np.pi) % 1 * BINS  # in [0, BINS]
    edges = []
    for number in range(BINS):  # an edge counts for the two directions that it lies between
        off = np.abs(turn - number)
        part = strength * np.maximum(0, 1 - np.minimum(off, BINS - off))
        edges.append(part[:, : n * CELL, : n * CELL].reshape(len(chosen), n, CELL, n, CELL).sum(axis=(2, 4)))
    cells = np.stack(edges, axis=3)
    pattern = np.sqrt(cells / (cells.sum(axis=3, keepdims=True) + 1e-3))
    pattern = (pattern - pattern.mean(axis=3, keepdims=True)).reshape(len(chosen), -1)
    pattern[grey[:, inside].std(axis=1) < PATTERN] = 0
    return pattern / np.maximum(np.linalg.norm(pattern, axis=1, keepdims=True), 1e-6)


@lru_cache(maxsize=8)
def _inside(size: int) -> np.ndarray:
    """Which pixels of crops of a quarter of the size lie within the face, away from its border, bool."""
    side = size // FINE
    whole = face_mask(size, 0.7 * size / 112)[: side * FINE, : side * FINE]
    inside = np.pad(whole.reshape(side, FINE, side, FINE).all(axis=(1, 3)), 1)
    return inside[1:-1, 1:-1] & inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2]


def _merged(parts: Sequence[FaceTrack]) -> FaceTrack:
    if len(parts) == 1:
        return parts[0]
    members = {each.name: [getattr(part, each.name) for part in parts] for each in fields(FaceTrack)}
    return FaceTrack(**{name: None if found[0] is None else np.concatenate(found) for name, found in members.items()})
