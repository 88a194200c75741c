"""Places of vectors in the plane: two principal components, or UMAP where it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import numpy as np

METHODS = ["pca", *(["umap"] if find_spec("umap") else [])]
MOST_UMAP = 20_000  # points; more take minutes
SEED = 0


def spread(rows: np.ndarray, method: str) -> tuple[np.ndarray, str]:
    """Return places (N, 2) of rows (N, D), each axis within -1 and 1, and a sentence on how they came about.

    Args:
        rows: Vectors.
        method: One of `METHODS`.
    """
    rows = np.asarray(rows, np.float32)
    if method == "umap" and len(rows) <= MOST_UMAP:
        places = import_module("umap").UMAP(random_state=SEED).fit_transform(rows)
        told = "UMAP (McInnes et al. 2018), seed 0: distances between far groups mean nothing."
    else:
        places, share = _components(rows)
        told = f"Two principal components, which hold {100 * share:.0f} % of the variance."
    places = places - places.mean(axis=0)
    return places / np.maximum(np.abs(places).max(axis=0), 1e-12), told


def _components(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return projections on the two directions of most variance (N, 2), and the share of the variance they hold."""
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # ascending
    best = vectors[:, ::-1][:, :2]
    best = best * np.sign(best[np.abs(best).argmax(axis=0), range(best.shape[1])])  # one of two mirror images
    if best.shape[1] < 2:
        best = np.column_stack([best, np.zeros(len(best))])
    total = max(float(values.sum()), 1e-12)
    return centred @ best.astype(np.float32), float(values[::-1][:2].sum()) / total
