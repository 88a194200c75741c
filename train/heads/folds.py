"""Which clips are held out together: folds by speaker, dialogue and session where they are known. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from emo.featstore.clip import Clip

FoldBy = Literal["speaker", "random"]
# What must not be on both sides of a fold: all that is known, or the first of these that leaves something to hold out.
SHARED = (
    ("speaker", "dialogue", "session"),
    ("speaker", "dialogue"),
    ("speaker", "session"),
    ("speaker",),
    ("dialogue", "session"),
    ("dialogue",),
    ("session",),
)
MOST = 0.8  # of the clips in one group: more leaves too little to train on when it is held out


@dataclass(frozen=True)
class Groups:
    """Clips that stay on one side of every fold.

    Attributes:
        of: Group number of each clip `(N,)`; `None` where every clip stands alone.
        by: What the clips of a group share, such as `("speaker", "session")`; empty where nothing is known or wanted.
        note: What must stand beside a validation score; empty where nothing is known of the clips.
    """

    of: np.ndarray | None = None
    by: tuple[str, ...] = ()
    note: str = ""

    def __len__(self) -> int:
        return 0 if self.of is None else len(np.unique(self.of))

    def take(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the group numbers of some of the clips."""
        return None if self.of is None else self.of[rows]


def group_clips(clips: Sequence[Clip], fold_by: FoldBy = "speaker") -> Groups:
    """Group clips by who speaks, and by the dialogue and the session that they are cut from, as far as that is known.

    A clip of which nothing is known stands alone. Where one group would hold nearly all clips (a cast that talks in
    every dialogue), less is kept together, and the note says what.
    """
    known = [name for name in SHARED[0] if any(getattr(clip, name) for clip in clips)]
    if not known:
        return Groups()
    if fold_by == "random":
        return Groups(note=f"Folds are random: clips of one {' or '.join(known)} may be in several folds.")
    for names in SHARED:
        by = tuple(name for name in names if name in known)
        of = _components(clips, by)
        count, largest = len(np.unique(of)), int(np.bincount(of).max())
        if by and count > 1 and largest <= MOST * len(clips):
            lost = [name for name in known if name not in by]
            note = f"Folds keep clips of one {' and one '.join(by)} together ({count} groups)"
            note += f", but not those of one {' or '.join(lost)}." if lost else "."
            alone = sum(not any(getattr(clip, name) for name in by) for clip in clips)
            note += f" {alone} clips name none." if alone else ""
            return Groups(of, by, note)
    return Groups(note=f"Folds are random: nearly all clips share one {' or '.join(known)}, so validation is too good.")


def _components(clips: Sequence[Clip], by: Sequence[str]) -> np.ndarray:
    """Group number of each clip `(N,)`: clips that share any of the values are in one group."""
    parent = list(range(len(clips)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, clip in enumerate(clips):
        for name in by:
            if value := getattr(clip, name):
                a, b = root(first.setdefault((name, value), i)), root(i)
                parent[max(a, b)] = min(a, b)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(i), len(numbers)) for i in range(len(clips))], dtype=np.int64)


def make_folds(
    emotion: np.ndarray, folds: int, seed: int, stratify: bool = True, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Split positions `0..N-1` into folds, as a pure function of the seed.

    Without groups sizes differ by one at most; with `stratify` the clips of each emotion do too. With groups every
    group is in one fold, and sizes are as equal as dealing out the largest groups first makes them.

    Shape:
        emotion: `(N,)` class indices, N >= folds. groups: `(N,)` group numbers, of which there are at least `folds`.
    """
    rng = np.random.default_rng([seed, folds])
    if groups is None:
        order = rng.permutation(len(emotion))
        if stratify:
            order = order[np.argsort(emotion[order], kind="stable")]
        return [np.sort(order[fold::folds]) for fold in range(folds)]  # dealt like cards
    classes = np.unique(emotion, return_inverse=True)[1] if stratify else np.zeros(len(emotion), dtype=np.int64)
    numbers, of = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(numbers), classes.max() + 1))
    np.add.at(counts, (of, classes), 1)
    share = counts / counts.sum(axis=0)  # (groups, classes): what part of a class's clips each group has
    held, sizes, fold_of = np.zeros((folds, share.shape[1])), np.zeros(folds), np.zeros(len(numbers), dtype=np.int64)
    order = rng.permutation(len(numbers))
    for group in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        # The fold with least of the group's classes, as sums of squares grow; of such folds the smallest.
        fold = np.lexsort((sizes, np.round(held @ share[group], 12)))[0]
        fold_of[group] = fold
        held[fold] += share[group]
        sizes[fold] += counts[group].sum()
    return [np.flatnonzero(fold_of[of] == fold) for fold in range(folds)]
