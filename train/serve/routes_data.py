"""Views over all clips: the confusion matrix, reliability, two runs side by side, the map of a feature."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.featstore.text import counted
from emo.train.answers import Prediction
from emo.train.metrics.labels import class_scores, too_few
from emo.train.serve.catalogue import NONE, Answers, Catalogue
from emo.train.serve.desk import Desk
from emo.train.serve.routes_clips import Text, Wanted
from emo.train.serve.spread import METHODS, spread

BINS = 10
MOST_POINTS = 100_000
RESAMPLES = 500  # of the bootstrap: a page that is looked at waits for it


def router(desk: Desk) -> APIRouter:
    """Return the routes of views over all clips."""
    api = APIRouter(prefix="/api", tags=["data"])

    @api.get("/confusion")
    def confusion(wanted: Annotated[Wanted, Query()]) -> dict[str, Any]:
        """Count labels by answers of the run, over the clips that are wanted; with its reliability."""
        run, catalogue, rows = _wanted(desk, wanted)
        return _confusion(catalogue, run, rows)

    @api.get("/compare")
    def compare(wanted: Annotated[Wanted, Query()]) -> dict[str, Any]:
        """Compare the run with another (`differs`) on the labelled clips that both have answered."""
        if not wanted.differs:
            raise UsageError("Two runs are compared: name the other one.", "Add differs=RUN.")
        other = desk.run_name(wanted.differs) or ""
        run, catalogue, rows = _wanted(desk, wanted.model_copy(update={"differs": ""}), other)
        return _compare(catalogue, run, other, rows)

    @api.get("/map")
    def points(
        feature: Text = "", method: Text = "pca", run: str | None = None, dataset: str | None = None
    ) -> dict[str, Any]:
        """Place all clips that have a feature in the plane, by its two principal components or by UMAP."""
        if method not in METHODS:
            raise UsageError(f"There is no method {method[:40]!r}.", f"Known: {', '.join(METHODS)}.")
        return _map(desk, feature, method, run, dataset)

    return api


def _wanted(desk: Desk, wanted: Wanted, *others: str) -> tuple[str, Catalogue, np.ndarray]:
    chosen = wanted.filter(desk)
    run = desk.run_name(wanted.run) or ""
    catalogue = desk.catalogue(run or None, chosen.other or None, *others)
    return run, catalogue, catalogue.find(chosen, run)


def _words(catalogue: Catalogue, name: str, run: str, rows: np.ndarray) -> np.ndarray:
    column = catalogue.column(name, run)
    return np.array(column.words, dtype=object)[column.codes[rows]]


def _confusion(catalogue: Catalogue, run: str, rows: np.ndarray) -> dict[str, Any]:
    held: Answers | None = catalogue.answers.get(run)
    order = {word: i for i, word in enumerate(held.labels)} if held is not None else {}
    columns = [catalogue.column(name, run) for name in ("label", "prediction")]
    all_words = sorted(
        {*columns[0].words, *columns[1].words} - {NONE}, key=lambda word: (order.get(word, len(order)), word)
    )
    place = {word: i for i, word in enumerate(all_words)}
    truth, said = (np.array([place.get(w, -1) for w in each.words])[each.codes[rows]] for each in columns)
    both = (truth >= 0) & (said >= 0)
    size = len(all_words)
    counts = np.bincount(size * truth[both] + said[both], minlength=size * size).reshape(size, size)
    there = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    names, counts = [all_words[i] for i in there], counts[np.ix_(there, there)]
    support, hits, n = counts.sum(axis=1), np.diag(counts), int(both.sum())
    precision, recall, f1 = class_scores(counts, support)
    sure = held.confidence[rows] if held is not None else np.full(len(rows), np.nan)
    return {
        "run": run,
        "labels": names,
        "counts": counts.tolist(),
        "n": n,
        "unanswered": int(((truth >= 0) & (said < 0)).sum()),
        "outdated": int((catalogue.outdated(run)[rows] & (truth >= 0)).sum()),
        "accuracy": float(hits.sum() / n) if n else None,
        "f1_weighted": float(f1 @ support / n) if n else None,
        "per_class": [
            {"label": w, "precision": float(p), "recall": float(r), "f1": float(f), "n": int(s)}
            for w, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        ],
        "reliability": _reliability(sure[both], (truth == said)[both]),
        "note": too_few(n),
    }


def _reliability(sure: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    """Return share of right answers by confidence, and the expected calibration error (Naeini et al. 2015)."""
    known = ~np.isnan(sure)
    sure, right = sure[known], right[known]
    if not len(sure):
        return None
    at = np.minimum((sure * BINS).astype(int), BINS - 1)
    sizes, sums, hits = (np.bincount(at, weights, BINS) for weights in (None, sure, right))
    rows, error = [], 0.0
    for number in np.flatnonzero(sizes).tolist():
        n = int(sizes[number])
        confidence, accuracy = float(sums[number] / n), float(hits[number] / n)
        error += abs(confidence - accuracy) * n / len(sure)
        rows.append({"from": number / BINS, "n": n, "confidence": confidence, "accuracy": accuracy})
    return {"bins": rows, "n": len(sure), "ece": float(error)}


def _compare(catalogue: Catalogue, run: str, other: str, rows: np.ndarray) -> dict[str, Any]:
    from emo.train.metrics.compare import compare

    truth = _words(catalogue, "label", run, rows)
    one, two = _words(catalogue, "prediction", run, rows), _words(catalogue, "prediction", other, rows)
    both = (one != NONE) & (two != NONE)
    known = both & (truth != NONE)
    value: dict[str, Any] = {
        "run": run,
        "other": other,
        "answered": int(both.sum()),
        "same": int((one == two)[both].sum()),
        "outdated": int((catalogue.outdated(run) | catalogue.outdated(other))[rows].sum()),
        "n": int(known.sum()),
        "note": too_few(int(known.sum())),
        "test": None,
    }
    pairs: dict[tuple[str, str], int] = {}
    for a, b in zip(one[both], two[both], strict=True):
        if a != b:
            pairs[a, b] = pairs.get((a, b), 0) + 1
    value["pairs"] = [{"one": a, "two": b, "n": n} for (a, b), n in sorted(pairs.items(), key=lambda each: -each[1])]
    if known.any():
        names = [catalogue.ids[row] for row in rows[known]]
        labels = {name: Label(word) for name, word in zip(names, truth[known], strict=True)}
        said = [{name: Prediction(word) for name, word in zip(names, each[known], strict=True)} for each in (one, two)]
        value["test"] = compare(labels, *said, policy="strict", resamples=RESAMPLES).to_json()
    return value


def _map(desk: Desk, feature: str, method: str, run: str | None, dataset: str | None) -> dict[str, Any]:
    store, name = desk.need_store(), desk.run_name(run)
    usable = [info.spec for info in store.features() if info.spec.rows == 1 and info.ok > 2]
    if feature:
        spec = store.resolve(feature)
    elif usable:
        spec = usable[0]
    else:
        raise UsageError("The store has no utterance feature of at least three clips.", "Run emo extract first.")
    if spec.rows != 1:
        raise UsageError(f"{spec.key} has several rows per clip.", "Name a feature of level utt.")
    catalogue = desk.catalogue(name)
    ids = [each for each in catalogue.ids if dataset is None or catalogue.clips[each].dataset == dataset]
    ids = [each for each, has in zip(ids, store.has(spec, ids), strict=True) if has][:MOST_POINTS]
    if len(ids) < 3:
        raise UsageError(f"{spec.key} of only {counted(len(ids), 'clip')} is here.", "A map takes three.")
    key = (spec.fingerprint, store.index.number, method, dataset)
    if key not in desk.cache:
        desk.remember(desk.cache, key, spread(store.utterances(spec, ids), method), 8)
    places, told = desk.cache[key]
    rows = catalogue.rows_of(ids)
    label, said = catalogue.columns["label"], catalogue.column("prediction", name or "")
    return {
        "feature": spec.key,
        "profile": spec.profile,
        "features": [each.key for each in usable],
        "methods": METHODS,
        "method": method,
        "told": told,
        "ids": ids,
        "x": np.round(places[:, 0].astype("f8"), 4).tolist(),
        "y": np.round(places[:, 1].astype("f8"), 4).tolist(),
        "words": {"label": label.words, "prediction": said.words},
        "label": label.codes[rows].tolist(),
        "prediction": said.codes[rows].tolist(),
    }
