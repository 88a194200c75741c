"""Sources of action units and describers, by name."""

from __future__ import annotations

from pathlib import Path

from emo.extract.annotate.describer import Asking, Describer
from emo.extract.annotate.units import UnitSource
from emo.featstore.errors import UsageError
from emo.featstore.registry import Registry
from emo.featstore.storage.store import Store

SOURCES = Registry(
    "source of action units",
    "emo.unit_sources",
    {
        "openface": "emo.extract.annotate.openface:open_tables",
        "mesh": "emo.extract.annotate.mesh_units:open_mesh",
        "pyfeat": "emo.extract.annotate.pyfeat:open_pyfeat",
    },
)
DESCRIBERS = Registry(
    "describer",
    "emo.describers",
    {
        "offline": "emo.extract.annotate.offline:open_offline",
        "http": "emo.extract.annotate.endpoint:open_endpoint",
        "https": "emo.extract.annotate.endpoint:open_endpoint",
        "hf": "emo.extract.annotate.local:open_local",
        "local": "emo.extract.annotate.local:open_local",
        "replay": "emo.extract.annotate.replay:open_replay",
    },
)


def find_units(text: str, face: int | None = None, store: Store | None = None) -> UnitSource:
    """Return a source of action units from what a person writes.

    Args:
        text: A folder of OpenFace's tables, `mesh`, `pyfeat`, `pyfeat:FOLDER`, or the name of an installed package's
            with its own words behind a colon.
        face: Which face, of several.
        store: The workspace's, where there is one.

    Raises:
        UsageError: It is none of these.
    """
    name, _, rest = text.partition(":")
    known = name in SOURCES.names() and not Path(text).is_dir()
    found: UnitSource = SOURCES.find(name if known else "openface")(rest if known else text, face, store)
    return found


def find_describer(text: str, asking: Asking | None = None) -> Describer:
    """Return a describer from what a person writes.

    Args:
        text: `offline`, `http://localhost:8000/v1#MODEL`, `hf:MODEL`, `replay:FILE`, `replay:FILE#MODEL`, or the name
            of an installed package's.
        asking: How it asks.

    Raises:
        UsageError: It is none of these.
    """
    name, _, rest = text.partition(":")
    try:
        make = DESCRIBERS.find(name)
    except UsageError as error:
        if name in DESCRIBERS.names():
            raise
        forms = "Write http://HOST/v1#MODEL for an endpoint, hf:MODEL for one in this process, or replay:FILE."
        raise UsageError(f"{text!r} names no model.", f"{forms} {error.hint or ''}".strip()) from error
    found: Describer = make(rest, asking or Asking(), name)
    return found
