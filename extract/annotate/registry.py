"""Sources of action units, by name."""

from __future__ import annotations

from emo.featstore.registry import Registry

SOURCES = Registry(
    "source of action units", "emo.unit_sources", {"openface": "emo.extract.annotate.openface:OpenFaceTables"}
)
