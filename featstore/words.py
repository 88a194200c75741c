"""Transcripts by their spelling: words and letter groups as hashed tf-idf rows, made once for all transcripts.

It compares spelling, not meaning; any language will do. What is made of a set of transcripts lies in the store's folder
`search/`, named by their digest; other transcripts make another file in its place.
"""

from __future__ import annotations

import io
import json
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import numpy as np

from emo.featstore.datasets.tables import DAMAGE
from emo.featstore.errors import StoreError
from emo.featstore.storage.store import Store

FOLDER = "search"  # in the store
COLUMNS = 1024  # that words and letter groups are hashed into
MADE = 1  # raised by whoever changes the numbers below


@dataclass(frozen=True)
class Words:
    """Sparse rows of unit length, one per transcript.

    Attributes:
        starts: `(N + 1,)`: transcript i owns entries `starts[i]:starts[i + 1]`.
        columns: Column of each entry, `(E,)`.
        weights: Weight of each entry, `(E,)`.
        codes: Hashes of all words and letter groups, `(G,)`, ascending.
        spread: Transcripts that each of them is in, `(G,)`.
    """

    starts: np.ndarray[Any, Any]
    columns: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]
    codes: np.ndarray[Any, Any]
    spread: np.ndarray[Any, Any]

    def cosines(self, text: str) -> np.ndarray[Any, Any] | None:
        """Return the cosine of a text with each transcript, `(N,)`; `None` where it shares nothing with any."""
        asked = np.zeros(COLUMNS, np.float32)
        known = grams(text)
        place = np.searchsorted(self.codes, sorted(known))
        for code, at in zip(sorted(known), place.tolist(), strict=True):
            if at < len(self.codes) and self.codes[at] == code:
                _add(asked, code, known[code], int(self.spread[at]), len(self.starts) - 1)
        if not asked.any():
            return None
        told = np.cumsum(self.weights * asked[self.columns], dtype=np.float64)
        whole = np.concatenate([[0.0], told])
        return np.asarray(whole[self.starts[1:]] - whole[self.starts[:-1]]) / float(np.linalg.norm(asked))


def grams(text: str) -> Counter[int]:
    """Hashes of words, and of groups of two and three letters, which serve languages without spaces; how often each."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(c if c.isalnum() else " " for c in plain).split()
    found = Counter(f"w:{word}" for word in words)
    for word in words:
        for size in (2, 3):
            found.update(word[i : i + size] for i in range(len(word) - size + 1))
    return Counter({zlib.crc32(gram.encode()): n for gram, n in found.items()})


def words_of(said: Mapping[str, str], store: Store | None = None) -> Words:
    """Return the rows of transcripts by clip, kept in a store where there is one that can be written."""
    if store is None:
        return _made(said)
    digest = blake2b(json.dumps([MADE, *said.items()]).encode(), digest_size=8).hexdigest()
    name = f"words.{digest}.npz"
    with suppress(StoreError, *DAMAGE):  # there is none, or it is damaged
        kept = np.load(io.BytesIO(store.medium.get(f"{FOLDER}/{name}")))
        return Words(**{each.name: kept[each.name] for each in fields(Words)})
    found, paper = _made(said), io.BytesIO()
    np.savez(paper, **vars(found))
    with suppress(OSError, StoreError):  # a store that is only read, or a full disk: found without
        store.medium.put(f"{FOLDER}/{name}", paper.getvalue())
        for old in store.medium.list(FOLDER):
            if old.startswith("words.") and old != name:
                store.medium.remove(f"{FOLDER}/{old}")
    return found


def _made(said: Mapping[str, str]) -> Words:
    counts = [grams(text) for text in said.values()]
    spread = Counter(code for each in counts for code in each)
    starts, columns, weights = [0], [], []
    for each in counts:
        row = np.zeros(COLUMNS, np.float32)
        for code, n in each.items():
            _add(row, code, n, spread[code], len(counts))
        there = np.flatnonzero(row)
        columns.append(there.astype(np.uint16))
        weights.append(row[there] / max(float(np.linalg.norm(row)), 1e-12))
        starts.append(starts[-1] + len(there))
    codes = np.array(sorted(spread), np.uint32)
    many = np.array([spread[code] for code in codes.tolist()], np.int64)
    return Words(np.array(starts), np.concatenate(columns), np.concatenate(weights), codes, many)


def _add(row: np.ndarray[Any, Any], code: int, count: int, spread: int, total: int) -> None:
    """Add a word that is `count` times in a text, and in `spread` of all transcripts."""
    weight = (1 + np.log(count)) * np.log((1 + total) / spread)
    row[code % COLUMNS] += weight if code & 0x80000000 else -weight
