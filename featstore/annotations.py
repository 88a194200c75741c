"""Annotations that a store holds as records: those of `emo annotate run` and `import`, and what people wrote anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store

ANNOTATION = "annotation"  # name of the records
EDITED = "human-annotation"  # kind of the records that people wrote, each `{record, changed, annotator, at, history}`
NAME = re.compile(r"[\w.-]{1,40}")  # of a person
TOGETHER = ("AU_list", "visual_prior_list")  # fields of which each entry of one belongs to that of the other
BY_HAND = {"caption": "", "scene": "", "frames": None, "label_from": "person"}  # what such a record says no more of


def annotations_of(store: Store, record: str = ANNOTATION) -> dict[str, dict[str, Any]]:
    """Return the annotations of a store by clip, in the order of names; those that are out of date are left out.

    Raises:
        UsageError: There are none.
        StoreError: Several kinds are meant; the message says how they differ.
    """
    try:
        found = store.records(store.resolve(record, records=True))
    except FeatureMissing as error:
        hint = "Run `emo annotate run` or `emo annotate import` first."
        raise UsageError(f"{store.path} has no annotations.", hint) from error
    return {clip: value for clip, value in sorted(found.items()) if "failed" not in value}


# ---- what people wrote -----------------------------------------------------------------------------------------------


def check_name(annotator: str) -> str:
    """Return the name of a person who annotates.

    Raises:
        UsageError: That is no name for one.
    """
    if not NAME.fullmatch(annotator):
        raise UsageError("An annotator's name has 1 to 40 letters, digits, dots, - or _.", "Choose another name.")
    return annotator


def edit_spec(annotator: str) -> EncoderSpec:
    """Return the recipe of the annotations that one person has written anew; raises as `check_name`."""
    return record_spec(f"{ANNOTATION}.{check_name(annotator)}", EDITED, "none")


def annotators(store: Store | None, kind: str = EDITED) -> dict[str, EncoderSpec]:
    """Return who has made records of a kind, with the recipe of theirs."""
    infos = store.features(records=True) if store is not None else []
    return {each.spec.name.partition(".")[2]: each.spec for each in infos if each.spec.encoder == kind}


def edited_annotations(
    store: Store, record: str = ANNOTATION
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, str]]]:
    """Return the annotations of a store with the newest edit of each field, whoever made it.

    A clip that only people have annotated is there too, without what no field of theirs says.

    Returns:
        Annotations by clip, in the order of names; and by clip the fields that are now other than they were made, each
        with who wrote it.

    Raises:
        UsageError: There are none, nor any edits.
        StoreError: As `annotations_of`.
    """
    edits: dict[str, list[Mapping[str, Any]]] = {}
    for spec in annotators(store).values():
        for clip, value in store.records(spec).items():
            edits.setdefault(clip, []).append(value)
    try:
        made = annotations_of(store, record)
    except UsageError:
        if not edits or record != ANNOTATION:
            raise
        made = {}
    found: dict[str, dict[str, Any]] = dict(made)
    who: dict[str, dict[str, str]] = {}
    for clip, mine in edits.items():
        own = made.get(clip, BY_HAND)
        written = sorted((each for value in mine for each in _steps(value, own)), key=lambda step: step[0])
        newest = {name: (value, person) for _, person, fields in written for name, value in fields.items()}
        other = {name: said for name, said in newest.items() if name not in own or said[0] != own[name]}
        if other:
            found[clip] = {**own, **{name: value for name, (value, _) in other.items()}}
            who[clip] = {name: person for name, (_, person) in other.items()}
    return dict(sorted(found.items())), who


def _steps(value: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield what a person has written of one clip, step by step: when, who, and the fields that were changed."""
    before: Mapping[str, Any] = made
    for step in (*value["history"], value):
        record = step["record"]
        changed = set(step.get("changed", [name for name in record if record[name] != before.get(name)]))
        changed |= set(TOGETHER) if changed & set(TOGETHER) else set()
        yield step["at"], step["annotator"], {name: record[name] for name in record if name in changed}
        before = record
