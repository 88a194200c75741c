"""Puts tracks of one person together: across short gaps by place, across cuts and long gaps by look.

A wrong join is worse than a short track. Nobody is joined with somebody who is seen at the same time; nothing is joined
that could as well belong to another; crops without a pattern (a dark or blurred patch) have no look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache

import numpy as np

from emo.extract.media.align import face_mask
from emo.extract.media.detect import iou
from emo.extract.media.faces import FaceTrack

# Measured on the crops of 22 tracks of real clips: other people are alike by 0.85 at most, by 0.74 at most with colours
# within 0.03; the first and last third of one track by 0.42 to 0.99, half of them by 0.85 or more.
ALIKE = 0.8
"""Likeness, in [-1, 1], from which two tracks show one person, wherever they are."""
ALIKE_IN_PLACE = 0.5
"""The same for a face that comes back within `GAP_S` where it was, in the same shot."""
MARGIN = 0.1
"""So much more alike than anybody else."""
COLOUR = 0.03
"""Largest difference of the mean shares of red, green and blue; twice that within a shot, where the head may turn."""
GAP_S = 1.0
NEAR = 0.3
"""Least overlap with the place where a face was last seen, or with where it should be by now."""
PATTERN = 4.0
"""Least standard deviation of brightness, of 255, that a look needs."""
N_LOOKS = 8
"""Crops of a track that are compared."""
FINE, CELL, BINS = 4, 4, 8  # see `_look`


def join(tracks: Sequence[FaceTrack], shots: Sequence[int]) -> list[FaceTrack]:
    """Put the tracks of one person together.

    Args:
        tracks: In order of appearance.
        shots: The number of each one's shot.

    Returns:
        In order of appearance; frames in which somebody is out of sight are absent from the joined track.
    """
    if len(tracks) < 2:
        return list(tracks)
    together = _together(tracks)
    best, typical, colour = _likeness(tracks)
    group = np.arange(len(tracks))
    place = _place(tracks, np.asarray(shots))
    place[together | (best < ALIKE_IN_PLACE) | (colour > 2 * COLOUR)] = 0
    for a, b in sorted(zip(*np.nonzero(place >= NEAR), strict=True), key=lambda ab: _gap_s(tracks, *ab)):
        rivals = (together[a] & (place[:, b] > place[a, b] / 2)) | (together[b] & (place[a] > place[a, b] / 2))
        _unite(group, together, a, b, rivals)
    look = np.where(together | (colour > COLOUR), -1, typical)
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


def _place(tracks: Sequence[FaceTrack], shots: np.ndarray) -> np.ndarray:
    """How well the start of track b continues the end of track a, `(N, N)` in [0, 1]: overlap of their boxes.

    Either stands still, or one of them moves on as it did.
    """
    place = np.zeros((len(tracks), len(tracks)))
    for a, b in zip(*np.nonzero(shots[:, None] == shots[None]), strict=True):
        ended, begun = tracks[a], tracks[b]
        if 0 < _gap_s(tracks, a, b) <= GAP_S:
            steps = int(begun.index[0] - ended.index[-1])
            here = np.stack([ended.boxes[-1], ended.boxes[-1] + steps * _speed(ended, -1)])
            there = np.stack([begun.boxes[0], begun.boxes[0] - steps * _speed(begun, 0)])
            place[a, b] = max(iou(here, there[:1]).max(), iou(here[:1], there).max())
    return place


def _speed(track: FaceTrack, at: int) -> np.ndarray:
    """Movement of the box from frame to frame, `(2 x 2,)`, without its growth, at one end of a track."""
    part = slice(-5, None) if at else slice(None, 5)
    boxes, index = track.boxes[part], track.index[part]
    step = (boxes[-1] - boxes[0]) / max(1, index[-1] - index[0])
    return np.tile((step[:2] + step[2:]) / 2, 2)


def _likeness(tracks: Sequence[FaceTrack]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How alike tracks are, `(N, N)` each.

    Returns:
        Likeness of the most alike pair of crops; its mean over crops, each with the one most like it;
        difference of colour.
    """
    patterns, colours = zip(*(_look(track.crops) for track in tracks), strict=True)
    stacked = np.concatenate(patterns)
    starts = np.cumsum([0, *(len(each) for each in patterns[:-1])])
    pairs = stacked @ stacked.T  # (all crops, all crops)
    rows = np.maximum.reduceat(pairs, starts, axis=1)  # each crop with the most alike one of each track
    best = np.maximum.reduceat(rows, starts, axis=0)
    mean = np.add.reduceat(rows, starts, axis=0) / np.array([len(each) for each in patterns])[:, None]
    colour = np.stack(colours)
    return best, (mean + mean.T) / 2, np.abs(colour[:, None] - colour[None]).max(axis=2)


def _look(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patterns of some crops, `(n, D)` of length 1, or 0 where there is none, and their mean colour, `(3,)`, sum 1.

    A pattern is made of histograms of the directions of edges in 7 x 7 cells of 4 x 4 pixels of a quarter of the size
    (Dalal and Triggs, 2005): light and shade change brightness more than they change these.
    """
    chosen = crops[np.unique(np.linspace(0, len(crops) - 1, N_LOOKS).round().astype(int))]
    side = crops.shape[1] // FINE
    small = chosen[:, : side * FINE, : side * FINE].reshape(len(chosen), side, FINE, side, FINE, 3).mean(axis=(2, 4))
    inside = _inside(crops.shape[1])
    grey = small.mean(axis=3)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right) * inside
    turn = np.arctan2(down, right) / (2 * np.pi) % 1 * BINS  # in [0, BINS]
    whole = np.floor(turn)
    n = side // CELL
    edges = []
    for number in range(BINS):  # an edge counts for the two directions that it lies between
        share = np.where(whole % BINS == number, 1 - (turn - whole), 0)
        share += np.where((whole + 1) % BINS == number, turn - whole, 0)
        part = (strength * share)[:, : n * CELL, : n * CELL]
        edges.append(part.reshape(len(chosen), n, CELL, n, CELL).sum(axis=(2, 4)))
    cells = np.stack(edges, axis=3)
    pattern = np.sqrt(cells / (cells.sum(axis=3, keepdims=True) + 1e-3))
    pattern = (pattern - pattern.mean(axis=3, keepdims=True)).reshape(len(chosen), -1)
    pattern[grey[:, inside].std(axis=1) < PATTERN] = 0
    colour = small[:, inside].mean(axis=(0, 1)) + 1e-6
    return pattern / np.maximum(np.linalg.norm(pattern, axis=1, keepdims=True), 1e-6), colour / colour.sum()


@lru_cache(maxsize=8)
def _inside(size: int) -> np.ndarray:
    """Which pixels of a crop of a quarter of the size lie within the face, away from its border, bool."""
    side = size // FINE
    whole = face_mask(size, 0.7 * size / 112)[: side * FINE, : side * FINE]
    inside = np.pad(whole.reshape(side, FINE, side, FINE).all(axis=(1, 3)), 1)
    return inside[1:-1, 1:-1] & inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2]


def _merged(parts: Sequence[FaceTrack]) -> FaceTrack:
    if len(parts) == 1:
        return parts[0]
    return FaceTrack(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(FaceTrack)))
