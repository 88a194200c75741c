"""Nearest neighbours in a store: clips that one feature puts close together, or whose words are alike. Exact, by faiss.

The index over a feature lies in the store's folder `search/`, named by the feature's fingerprint and the number of
the last commit: any commit makes it anew. A store that cannot be written is searched all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets.lookup import clips_of
from emo.featstore.errors import FeatureMissing, StoreError, UsageError
from emo.featstore.page import Arg, Flag, Page, Table
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.index import Array
from emo.featstore.storage.maintain import BESIDE
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import did_you_mean
from emo.featstore.words import FOLDER, grams, words_of
from emo.featstore.workspace import Workspace

GPU_MOST = 2048  # neighbours that faiss finds on a GPU
SHOWN = 60  # letters of a transcript in a table


@dataclass(frozen=True)
class Neighbour:
    """A clip, and the cosine between it and what was asked for."""

    clip: str
    cosine: float


class Neighbourhood:
    """All clips that have an utterance feature, as the store is now: made once, asked as often as one likes.

    It holds a copy of the feature in memory. `version` is the store's of the feature; when that changes, it is out of
    date. Several threads may ask at once.

    Args:
        store: The store.
        feature: One with one row per clip.

    Raises:
        FeatureMissing: The store does not have the feature.
        UsageError: It has more than one row per clip.
    """

    def __init__(self, store: Store, feature: str | EncoderSpec) -> None:
        self.spec = store.resolve(feature) if isinstance(feature, str) else feature
        self.version = store.version(self.spec)
        known = store.clips()
        self._clips = [clip for clip, has in zip(known, store.has(self.spec, known).tolist(), strict=True) if has]
        self._row = {clip: row for row, clip in enumerate(self._clips)}
        self._index = _open_index(store, self.spec, self._clips) if self._clips else None

    def nearest(self, clip_id: str, k: int = 10) -> list[Neighbour]:
        """The clips whose vectors have the largest cosine with that of a clip, the clip itself left out.

        Raises:
            FeatureMissing: The clip does not have the feature.
            UsageError: k is below 1.
        """
        if k < 1:
            raise UsageError(f"{k} neighbours cannot be found.", "Ask for one or more: -k 10.")
        if (row := self._row.get(clip_id)) is None:
            why = f"The store has no {self.spec.key} of {clip_id}."
            hint = f"{did_you_mean(clip_id, self._clips, 0.8)} Run emo extract, or ask for another clip."
            raise FeatureMissing(why, hint.strip())
        query = self._index.reconstruct(row)[None]  # type: ignore[union-attr]  # (1, D)
        return [each for each in _ask(self._index, query, self._clips, k + 1) if each.clip != clip_id][:k]


def nearest(store: Store, clip_id: str, feature: str | EncoderSpec, k: int = 10) -> list[Neighbour]:
    """The nearest clips of one clip, see `Neighbourhood.nearest`, whose errors it raises."""
    return Neighbourhood(store, feature).nearest(clip_id, k)


def nearest_words(clips: Sequence[Clip], text: str, k: int = 10, store: Store | None = None) -> list[Neighbour]:
    """The clips whose transcripts share most words and letter groups with a text, rare ones weighing more; see `words`.

    Args:
        clips: Their transcripts are compared.
        text: The text.
        k: How many clips at most.
        store: Where what was made of the transcripts is kept.

    Raises:
        UsageError: The text has no letters, or no clip has a transcript.
    """
    if k < 1:
        raise UsageError(f"{k} neighbours cannot be found.", "Ask for one or more: -k 10.")
    said = {clip.id: " ".join(clip.transcripts.values()) for clip in clips if clip.transcripts}
    if not said:
        raise UsageError("No clip has a transcript to search in.", "Name the csv under transcripts in emo.toml.")
    cosines, names = words_of(said, store).cosines(text), list(said)
    if cosines is None:
        raise UsageError(f"{text!r} shares no letters with any transcript.", "Ask in the transcripts' language.")
    best = np.argsort(-cosines, kind="stable")[:k].tolist()
    return [Neighbour(names[row], float(cosines[row])) for row in best if cosines[row] > 0]


def nearest_rows(queries: Array, base: Array) -> tuple[Array, Array]:
    """Return cosine and number `(Q,)` of the row of `(B, D)` nearest to each query `(Q, D)`, all of unit length."""
    cosine, rows = nearest_many(queries, base, 1)
    return cosine[:, 0], rows[:, 0]


def nearest_many(queries: Array, base: Array, k: int) -> tuple[Array, Array]:
    """Return cosines and numbers `(Q, k)` of the rows of `(B, D)` nearest to each query `(Q, D)`, all of unit length.

    Exact; on all GPUs where faiss is built for them (`faiss-gpu-cu12`) and sees one.
    """
    import faiss

    index, k = _index(np.ascontiguousarray(base, np.float32)), min(k, len(base))
    if k <= GPU_MOST and getattr(faiss, "get_num_gpus", lambda: 0)():
        index = faiss.index_cpu_to_all_gpus(index)
    cosine, rows = index.search(np.ascontiguousarray(queries, np.float32), k)
    return cosine, rows


def search_page(
    workspace: Workspace,
    clip: Annotated[str | None, Arg("A clip to find neighbours of.")] = None,
    text: Annotated[str | None, Flag("Words to find in transcripts, in place of a clip.")] = None,
    feature: Annotated[str | None, Flag("Which feature decides. Default: the first with one row per clip.")] = None,
    k: Annotated[int, Flag("How many.", "-k")] = 10,
) -> Page:
    """Find the clips that are most like one, by a feature; or whose transcripts are most like a text, by spelling.

    Raises:
        UsageError: Not just one of clip and text is given; or as `nearest`.
    """
    if (clip is None) == (text is None):
        raise UsageError("Say what to search for: a clip, or --text WORDS.")
    clips = list(clips_of(workspace).values())
    known = {each.id: each for each in clips}
    if text is not None:
        kept = open_store(workspace.store_path) if has_store(workspace.store_path) else None
        found, by = nearest_words(clips, text, k, kept), "words"
    else:
        store = open_store(workspace.store_path)
        spec = store.resolve(feature) if feature else _default(store)
        found, by = nearest(store, str(clip), spec, k), spec.key
    rows = [[each.clip, each.cosine, *_told(known.get(each.clip), text or "")] for each in found]
    columns = ("clip", "cosine", "label", "split", "says")
    what = repr(text) if text is not None else str(clip)
    value = [dict(zip(columns, row, strict=True)) for row in rows]
    return Page({"query": what, "by": by, "neighbours": value}, [Table(f"{what}, by {by}", columns, rows, ("cosine",))])


# ---- inside ----------------------------------------------------------------------------------------------------------


def _default(store: Store) -> EncoderSpec:
    for each in store.features():
        if each.spec.rows == 1 and each.ok and each.spec.encoder not in BESIDE:
            return each.spec
    raise FeatureMissing("The store has no utterance feature to search by.", "Run emo extract first.")


def _told(clip: Clip | None, text: str) -> tuple[str, str, str]:
    """Label, split, and of the clip's transcripts the one that is nearest to a text."""
    if clip is None:
        return "", "", ""
    asked = grams(text)
    words = max(clip.transcripts.values(), key=lambda said: (grams(said) & asked).total(), default="")
    emotion = clip.label.emotion if clip.label else None
    return emotion or "", clip.split, words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.maximum(length, 1e-12), dtype=np.float32)


def _index(rows: Array) -> Any:
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return index


def _ask(index: Any, query: Array, names: Sequence[str], k: int) -> list[Neighbour]:
    cosine, rows = index.search(query, min(k, len(names)))
    return [Neighbour(names[row], float(c)) for c, row in zip(cosine[0], rows[0], strict=True)]


def _open_index(store: Store, spec: EncoderSpec, clips: Sequence[str]) -> Any:
    """The index over a feature, rows in the order of `clips`; from the disk where it is of this very state."""
    import faiss

    name = f"{spec.key}.{store.index.number}.faiss"
    with suppress(OSError, StoreError, RuntimeError):  # there is none, or it is damaged
        index = faiss.deserialize_index(np.frombuffer(store.medium.get(f"{FOLDER}/{name}"), np.uint8))
        if (index.ntotal, index.d) == (len(clips), spec.dim):
            return index
    index = _index(_unit(store.utterances(spec, clips)))
    with suppress(OSError, StoreError, RuntimeError):  # a store that is only read, or a full disk: found without
        store.medium.put(f"{FOLDER}/{name}", faiss.serialize_index(index).tobytes())
        for old in store.medium.list(FOLDER):
            if old.startswith(f"{spec.key}.") and old != name:
                store.medium.remove(f"{FOLDER}/{old}")
    return index
