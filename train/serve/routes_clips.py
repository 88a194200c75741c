"""Clips over HTTP: lists, one clip, its media, its timeline, its neighbours."""

from __future__ import annotations

import mimetypes
import secrets
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from emo import __version__
from emo.featstore.annotations import annotators
from emo.featstore.errors import EmoError, FeatureMissing, UsageError
from emo.featstore.storage.store import Store
from emo.train.metrics.labels import too_few
from emo.train.serve.asking import MODALITIES, look
from emo.train.serve.catalogue import WORDS, Filter
from emo.train.serve.desk import SELECTIONS, Desk, NotFound
from emo.train.serve.labels import copies, record_of

MOST = 200  # lines of a page
MOST_IDS = 100_000
TWINS = 20  # other clips of the same content that are named
PLAYED = {".mp4", ".m4v", ".webm", ".mov", ".ogv", ".ogg", ".mp3", ".wav", ".flac", ".m4a", ".aac", ".opus"}
NO_FACES = "The store has no faces of this clip."
Text = Annotated[str, Query(max_length=500)]


class Wanted(BaseModel):
    """Query of a list of clips; a word column that is given empty means that there is none."""

    q: str = Field("", max_length=200, description="Text in the name or a transcript.")
    dataset: str | None = Field(None, max_length=200)
    split: str | None = Field(None, max_length=200)
    speaker: str | None = Field(None, max_length=200)
    label: str | None = Field(None, max_length=200)
    prediction: str | None = Field(None, max_length=200)
    failure: str | None = Field(None, max_length=200)
    disagree: bool = Field(False, description="Only clips whose answer is not their label.")
    differs: str = Field("", max_length=200, description="A run; only clips that it answers otherwise.")
    least: float | None = Field(None, ge=0, le=1, description="Least confidence.")
    most: float | None = Field(None, ge=0, le=1, description="Most confidence.")
    annotated: bool | None = None
    missing: bool | None = Field(None, description="Without a media file.")
    selection: str = Field("", max_length=40, description="Of POST /api/select.")
    run: str | None = Field(None, max_length=200)
    sort: str = Field("order", max_length=40)
    offset: int = Field(0, ge=0)
    limit: int = Field(50, ge=1, le=MOST)

    def filter(self, desk: Desk) -> Filter:
        """Return the filter that is meant.

        Raises:
            NotFound: The selection or the run is not known.
        """
        words = tuple((name, value) for name in WORDS if (value := getattr(self, name)) is not None)
        ids = None
        if self.selection and (ids := desk.selections.get(self.selection)) is None:
            raise NotFound("This selection is forgotten.", "Select again.")
        other = desk.run_name(self.differs) if self.differs else ""
        bounds = (self.least, self.most, self.annotated, self.missing, ids, self.sort)
        return Filter(self.q.strip(), words, self.disagree, other or "", *bounds)


class Selected(BaseModel, extra="forbid"):
    """Clips that were selected on a map."""

    ids: list[Annotated[str, Field(max_length=500)]] = Field(max_length=MOST_IDS)


def router(desk: Desk) -> APIRouter:
    """Return the routes of clips."""
    api = APIRouter(prefix="/api", tags=["clips"])

    @api.get("/about")
    def about(run: str | None = None) -> dict[str, Any]:
        """Describe the workspace, its runs and what the run that is meant can be asked."""
        return _about(desk, run)

    @api.get("/clips")
    def clips(wanted: Annotated[Wanted, Query()]) -> dict[str, Any]:
        """List clips, a page at a time: filtered, sorted, with the counts of each word of each column."""
        chosen = wanted.filter(desk)
        run = desk.run_name(wanted.run) or ""
        catalogue = desk.catalogue(run or None, chosen.other or None)
        rows = catalogue.find(chosen, run)
        shown = rows[wanted.offset : wanted.offset + wanted.limit]
        counts = catalogue.counts(chosen, run, rows)
        found = [catalogue.show(int(row), run) for row in shown]
        if chosen.other:
            other = catalogue.column("prediction", chosen.other)
            for row, each in zip(shown, found, strict=True):
                each["other"] = other.words[other.codes[row]] or None
        return {"total": len(rows), "of": len(catalogue.ids), "run": run, "counts": counts, "clips": found}

    @api.post("/select")
    def select(given: Selected) -> dict[str, Any]:
        """Remember a selection of clips, to list them by."""
        name = secrets.token_urlsafe(8)
        desk.remember(desk.selections, name, frozenset(given.ids), SELECTIONS)
        return {"selection": name, "clips": len(set(given.ids))}

    @api.get("/clip")
    def clip(id: Text, run: str | None = None) -> dict[str, Any]:
        """Return all that is known of one clip, and why what it lacks is missing."""
        return _clip(desk, id, run)

    @api.get("/clip/media")
    def media(id: Text, request: Request) -> FileResponse:
        """Return the media file of a clip, or the part of it that is asked for."""
        path = desk.media(id)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    @api.get("/clip/timeline")
    def timeline(id: Text) -> dict[str, Any]:
        """Return waveform, faces and action units of a clip over time, as far as they are there."""
        return _timeline(desk, id)

    @api.get("/clip/neighbours")
    def neighbours(
        id: Text, feature: Text = "", k: Annotated[int, Query(ge=1, le=50)] = 8, run: str | None = None
    ) -> dict[str, Any]:
        """Return the clips that are nearest to one by a feature (the first that the run reads), with their labels."""
        return _neighbours(desk, id, feature, k, run)

    return api


def _about(desk: Desk, run: str | None) -> dict[str, Any]:
    name = desk.run_name(run)
    store = desk.store
    runs = desk.runs()
    infos = store.features() if store is not None else []
    features = [{"key": each.key, "level": each.spec.level, "modality": each.spec.modality} for each in infos]
    value: dict[str, Any] = {
        "version": __version__,
        "workspace": desk.workspace.root.name,
        "datasets": list(desk.workspace.data),
        "runs": [{"name": each.name, "notes": each.info.get("notes", [])} for each in runs],
        "run": name,
        "features": features,
        "limits": {
            "upload_bytes": desk.limits.upload_bytes,
            "seconds": desk.limits.seconds,
            "pixels": desk.limits.pixels,
        },
        "labels": [],
    }
    if name is not None:
        predictor = desk.predictor(name)
        wanted = {feature["key"] for feature in predictor.features}
        there = {each["modality"] for each in features if each["key"] in wanted}
        words = len(predictor.evidence) > 1  # a language model
        value |= {
            "labels": list(predictor.run.info.get("labels") or []),
            "notes": list(predictor.run.info.get("notes") or []),
            "modalities": [each for each in MODALITIES if each in there or (words and each == "text")],
            "policies": list(predictor.evidence),
            "tasks": ["emotion", "reason"] if words and _can(predictor, "reason") else ["emotion"],
        }
    return value


def _can(predictor: Any, task: str) -> bool:
    try:
        predictor.check("official", task)
    except EmoError:
        return False
    return True


def _clip(desk: Desk, clip_id: str, run: str | None) -> dict[str, Any]:
    clip, store, name = desk.clip(clip_id), desk.store, desk.run_name(run)
    try:
        suffix: str | None = desk.media(clip.id).suffix.lower()
    except NotFound:
        suffix = None
    value: dict[str, Any] = {
        "id": clip.id,
        "dataset": clip.dataset,
        "split": clip.split,
        "label": clip.label.emotion if clip.label else None,
        "valence": clip.label.valence if clip.label else None,
        "speaker": clip.speaker,
        "transcripts": dict(clip.transcripts),
        "annotations": dict(clip.annotations),
        "media": suffix is not None,
        "plays": suffix in PLAYED,
        "heard": [],
        "features": [],
        "twins": [each for each in copies(store, clip.id) if each != clip.id][:TWINS] if store is not None else [],
        "labels": {who: each[clip.id] for who, each in desk.labels().items() if clip.id in each},
        "edits": {who: record_of(store, spec, clip.id) for who, spec in annotators(store).items()},
    }
    wanted = {}
    if name is not None:
        predictor = desk.predictor(name)
        wanted = {feature["key"] for feature in predictor.features}
        value |= {"run": name, "seen": predictor.seen([clip]).get(clip.id)}
    if store is not None:
        value["heard"] = _heard(store, clip.id)
        value["features"] = _features(store, clip.id, wanted)
        value["annotation"] = _annotation(store, clip.id)
    return value


def _features(store: Store, clip_id: str, wanted: set[str]) -> list[dict[str, Any]]:
    """Return which features a clip has, and of each other one why not, with the stage that failed."""
    named = [*copies(store, clip_id), clip_id]  # a copy of what failed is not tried again; its own reason counts most
    whys = {each.feature: each for name in named for each in store.failures(name)}
    rows = []
    for info in store.features():
        has, why = bool(store.has(info.spec, [clip_id])[0]), whys.get(info.key)
        row = {"key": info.key, "modality": info.spec.modality, "level": info.spec.level, "there": has}
        row |= {"profile": info.spec.profile, "asked": info.key in wanted}
        if not has:
            row["why"] = f"{why.kind}: {why.message}" if why else "it was not extracted"
            row["retry"] = why.retry if why else True
        rows.append(row)
    return rows


def _heard(store: Store, clip_id: str) -> list[dict[str, Any]]:
    """Return what recognisers of speech have written down of a clip (`emo transcribe`)."""
    found = []
    for info in store.features(records=True):
        if info.spec.encoder == "asr" and store.has(info.spec, [clip_id])[0]:
            value = store.record(info.spec, clip_id)
            found.append({"by": info.key, "text": value.get("text", ""), "language": value.get("language", "")})
    return found


def _annotation(store: Store, clip_id: str) -> dict[str, Any] | None:
    for info in store.features(records=True):
        if info.spec.encoder == "annotation" and store.has(info.spec, [clip_id])[0]:
            found = store.record(info.spec, clip_id)
            return {"record": info.key, "value": found} if isinstance(found, dict) else None
    return None


def _timeline(desk: Desk, clip_id: str) -> dict[str, Any]:
    clip, store = desk.clip(clip_id), desk.store
    value: dict[str, Any] = {"id": clip.id, "media": None, "faces": None, "curves": None, "why": {}}
    try:
        value["media"] = look(desk, clip)
        if value["media"] is None:
            value["why"]["media"] = "The file is not here."
    except EmoError as error:
        value["why"]["media"] = desk.plain(error.message)
    if store is not None:
        value["faces"] = _faces(store, clip.id)
        value["curves"] = desk.hands.curves(store, clip.id)
    if value["faces"] is None:
        looked = store is not None and any(info.spec.name == "faces" for info in store.features())
        value["why"]["faces"] = NO_FACES if looked else "No feature was extracted that looks for faces."
    if value["curves"] is None:
        value["why"]["curves"] = "There are no action units of this clip."
    return value


def _faces(store: Store, clip_id: str) -> dict[str, Any] | None:
    """Return the chosen face, frame by frame: `times_s`, `boxes` (left, top, right, bottom) and five `landmarks`."""
    for info in store.features():
        if info.spec.name != "faces" or not store.has(info.spec, [clip_id])[0]:
            continue
        table = np.asarray(store.get(info.spec, clip_id).array, np.float64)  # (R, 19)
        names = list(info.spec.recipe["columns"])
        chosen = table[table[:, names.index("chosen")] > 0] if "chosen" in names else table
        if not len(chosen):
            return None
        return {
            "times_s": np.round(chosen[:, 1], 4).tolist(),
            "scores": np.round(chosen[:, 4], 3).tolist(),
            "boxes": np.round(chosen[:, 5:9], 1).tolist(),
            "landmarks": np.round(chosen[:, 9:19], 1).reshape(len(chosen), 5, 2).tolist(),
            "people": len(np.unique(table[:, 2])),
        }
    return None


def _neighbours(desk: Desk, clip_id: str, feature: str, k: int, run: str | None) -> dict[str, Any]:
    clip, store = desk.clip(clip_id), desk.need_store()
    name = desk.run_name(run)
    keys = [each["key"] for each in desk.predictor(name).features] if name else []
    if feature:
        spec = store.resolve(feature)
    else:
        usable = [info.spec for info in store.features() if info.spec.rows == 1]
        usable.sort(key=lambda spec: spec.key not in keys)
        spec = next((each for each in usable if store.has(each, [clip.id])[0]), None)
        if spec is None:
            raise FeatureMissing(f"The store has no utterance feature of {clip.id}.", "Ask about it first.")
    if spec.rows != 1:
        raise UsageError(f"{spec.key} has several rows per clip.", "Name a feature of level utt.")
    known = desk.clips()
    rows = []
    for each in desk.neighbourhood(spec).nearest(clip.id, k):
        other = known.get(each.clip)
        label = other.label.emotion if other is not None and other.label else None
        rows.append(
            {"id": each.clip, "cosine": round(each.cosine, 4), "label": label, "split": other.split if other else ""}
        )
    keys = [info.key for info in store.features() if info.spec.rows == 1]
    few = too_few(store.index.clip_count)
    return {"by": spec.key, "profile": spec.profile, "features": keys, "neighbours": rows, "note": few}
