"""Captions that say nearly the same: by the cosine of sentence vectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from emo.featstore.errors import UsageError

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
BATCH = 64  # texts that share a forward pass
BLOCK = 512  # texts that are compared with all before them at once
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def embedder() -> Embed:
    """Return what gives sentence vectors (N, D): MiniLM, of emo's extra `text`, which reads English.

    Raises:
        WeightsMissing: Its files are not installed.
    """
    from emo.extract.encoders.base import ClipInputs
    from emo.extract.encoders.registry import load_encoder

    encoder = load_encoder("minilm", "paper")
    level = encoder.level_of("minilm")

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        if any(len(CHINESE.findall(text)) > len(text) / 4 for text in texts):
            raise UsageError(
                "Near captions are found by a model that reads English, and some are Chinese.", "Drop --near."
            )
        inputs = [encoder.prepare(ClipInputs(transcripts={"english": text})) for text in texts]
        order = iter(sorted(range(len(inputs)), key=lambda i: inputs[i].cost))  # texts of one length share a pass
        rows: dict[int, NDArray[np.float32]] = {}
        while batch := list(islice(order, BATCH)):
            found = encoder.encode([inputs[i] for i in batch], [level])
            rows |= {i: each[level].array[0] for i, each in zip(batch, found, strict=True)}
        return np.stack([rows[i] for i in range(len(texts))])

    return embed


def near_pairs(rows: NDArray[np.float32], near: float) -> Iterator[tuple[int, int]]:
    """Yield each text that is as near as this to one before it that is kept, with the nearest of those.

    Args:
        rows: Vectors (N, D).
        near: Least cosine.
    """
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    kept = np.zeros(len(rows), bool)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        cosines = block @ rows[: start + len(block)].T  # (BLOCK, all up to its end)
        for i, cosine in enumerate(cosines, start):
            among = np.where(kept[:i], cosine[:i], -np.inf)
            best = int(among.argmax()) if i else 0
            if i and among[best] >= near:
                yield i, best
            else:
                kept[i] = True
