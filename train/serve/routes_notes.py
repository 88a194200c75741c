"""Annotating over HTTP: labels by several people, agreement, and fields of MERR records. Each action is a commit."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from emo.featstore.annotations import ANNOTATION, annotators, edit_spec
from emo.featstore.errors import UsageError
from emo.featstore.labels import MER2023_LABELS
from emo.featstore.storage.store import open_store
from emo.train.serve.desk import Desk
from emo.train.serve.labels import agreement, check_label, label_spec, once, record_of, write
from emo.train.serve.routes_clips import Text

Who = Annotated[str, Field(min_length=1, max_length=40)]


class Given(BaseModel, extra="forbid"):
    """A label that somebody gives a clip; `None` takes it back."""

    clip: str = Field(max_length=500)
    annotator: Who
    label: str | None = Field(max_length=200)


class Edit(BaseModel, extra="forbid"):
    """Fields of a MERR record that somebody writes anew."""

    clip: str = Field(max_length=500)
    annotator: Who
    fields: dict[str, Any] = Field(max_length=20)


def router(desk: Desk) -> APIRouter:
    """Return the routes of annotations."""
    api = APIRouter(prefix="/api", tags=["annotate"])

    @api.get("/labels")
    def labels() -> dict[str, Any]:
        """Return the label set, who has labelled how many clips, and the agreement of every two."""
        return {"labels": _labels(desk), **_given(desk, desk.labels())}

    @api.post("/labels")
    def label(given: Annotated[Given, Body()]) -> dict[str, Any]:
        """Give a clip a label, or take it back; the one before is kept in its history."""
        clip, spec = desk.clip(given.clip), label_spec(given.annotator)
        check_label(given.label, _labels(desk))
        with desk.writing:
            store = _store(desk)
            with desk.own_commit(store, clip.id):
                new = write(store, spec, clip, {"label": given.label, "annotator": given.annotator})
            seen = desk.labels()
        mine = {who: each[clip.id] for who, each in seen.items() if clip.id in each}
        return {"clip": clip.id, "value": new, "labels": mine, **_given(desk, seen)}

    @api.get("/record")
    def record(id: Text, annotator: Text) -> dict[str, Any]:
        """Return the MERR record of a clip as somebody has edited it, else as `emo annotate run` made it."""
        return _record(desk, id, annotator)

    @api.post("/record")
    def edit(given: Annotated[Edit, Body()]) -> dict[str, Any]:
        """Write a MERR record of a clip anew; one that is not of MERR's form is refused."""
        clip, spec = desk.clip(given.clip), edit_spec(given.annotator)
        fields = desk.hands.fields()["fine"]
        if strange := sorted(set(given.fields) - set(fields)):
            raise UsageError(f"A record has no field {strange[0][:60]!r}.", f"Fields: {', '.join(fields)}.")
        if wrong := desk.hands.faults(given.fields):
            raise UsageError(f"The record is not of MERR's form: {'; '.join(wrong)}.", "Mend these fields.")
        with desk.writing:
            store = _store(desk)
            seen = _record(desk, clip.id, given.annotator)["record"]
            changed = [name for name in fields if given.fields[name] != seen.get(name)]
            with desk.own_commit(store, clip.id):
                value = {"record": given.fields, "changed": changed, "annotator": given.annotator}
                new = write(store, spec, clip, value)
        return {"clip": clip.id, "record": given.fields, "history": new["history"]}

    return api


def _given(desk: Desk, labels: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return who has labelled how many clips, and the agreement of every two; copies of a file are one clip."""
    given = once(labels, desk.store)
    counts = {who: {"clips": len(each), "labels": dict(Counter(each.values()))} for who, each in given.items()}
    return {"annotators": counts, "agreement": agreement(given)}


def _record(desk: Desk, clip_id: str, annotator: str) -> dict[str, Any]:
    clip, store = desk.clip(clip_id), desk.store
    mine = record_of(store, edit_spec(annotator), clip.id)
    made = None
    for info in store.features(records=True) if store is not None else ():
        if info.spec.encoder == "annotation" and info.spec.name == ANNOTATION:
            made = made or record_of(store, info.spec, clip.id)
    made = made if isinstance(made, dict) and "failed" not in made else None
    fields = desk.hands.fields()["fine"]
    value = mine["record"] if mine else {name: made[name] for name in fields if name in made} if made else {}
    others = [who for who, spec in annotators(store).items() if record_of(store, spec, clip.id)]
    return {
        "clip": clip.id,
        "fields": fields,
        "record": value,
        "faults": desk.hands.faults(value) if value else [],
        "history": mine["history"] if mine else [],
        "annotators": others,
    }


def _store(desk: Desk) -> Any:
    return desk.store or open_store(desk.workspace.store_path, create=True)


def _labels(desk: Desk) -> list[str]:
    """Return the labels that may be given: the run's, and those of the datasets."""
    name = desk.run_name()
    own = list(desk.predictor(name).run.info.get("labels") or []) if name else []
    words = [word for word in desk.catalogue().columns["label"].words if word]
    return list(dict.fromkeys([*own, *words])) or list(MER2023_LABELS)
