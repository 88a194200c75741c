"""Sources of action units and describers, by name."""

from __future__ import annotations

from emo.extract.annotate.describer import Asking, Describer
from emo.featstore.registry import Registry

SOURCES = Registry(
    "source of action units", "emo.unit_sources", {"openface": "emo.extract.annotate.openface:OpenFaceTables"}
)
DESCRIBERS = Registry(
    "describer",
    "emo.describers",
    {
        "offline": "emo.extract.annotate.offline:open_offline",
        "http": "emo.extract.annotate.endpoint:open_endpoint",
        "https": "emo.extract.annotate.endpoint:open_endpoint",
        "replay": "emo.extract.annotate.replay:open_replay",
    },
)


def find_describer(text: str, asking: Asking | None = None) -> Describer:
    """Return a describer from what a person writes.

    Args:
        text: `offline`, `http://localhost:8000/v1#MODEL`, `replay:FILE`, `replay:FILE#MODEL`, or the name of an
            installed package's.
        asking: How it asks.

    Raises:
        UsageError: It is none of these.
    """
    name, _, rest = text.partition(":")
    found: Describer = DESCRIBERS.find(name)(rest, asking or Asking(), name)
    return found
