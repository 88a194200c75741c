"""Foreign layouts, in and out: one file per layout, all under one contract (`base.Layout`).

A layout is one file and one line here. An installed package adds its own by the same line:

    [project.entry-points."emo.layouts"]
    mine = "package.module:LAYOUT"
"""

from __future__ import annotations

from emo.featstore.errors import UsageError
from emo.featstore.interop.base import Layout
from emo.featstore.registry import Registry

# Of two that find the same number of features the first is meant: Emotion-LLaMA's tree is one of MERTools' folders too.
LAYOUTS = {
    "emotion-llama": "emo.featstore.interop.emotion_llama:LAYOUT",
    "mertools": "emo.featstore.interop.mertools:LAYOUT",
    "hdf5": "emo.featstore.interop.hdf5:LAYOUT",
    "hdf5-packed": "emo.featstore.interop.hdf5:PACKED",
    "mmsa": "emo.featstore.interop.mmsa:LAYOUT",
    "safetensors": "emo.featstore.interop.safetensors:LAYOUT",
    "parquet": "emo.featstore.interop.parquet:LAYOUT",
    "records": "emo.featstore.interop.records:LAYOUT",
}
_layouts = Registry("layout", "emo.layouts", LAYOUTS)
layout_names = _layouts.names


def usable_layouts() -> tuple[list[Layout], list[str]]:
    """Return all layouts, and a sentence for each of an installed package that cannot be used."""
    found, broken = [], []
    for name in layout_names():
        try:
            found.append(find_layout(name))
        except UsageError as error:
            broken.append(error.message)
    return found, broken


def find_layout(layout: str | Layout) -> Layout:
    """Return the layout of this name; a layout itself is returned as it is.

    Raises:
        UsageError: There is none, or an installed package's cannot be used.
    """
    if isinstance(layout, Layout):
        return layout
    found = _layouts.find(layout)
    if not isinstance(found, Layout) or found.name != layout:
        raise UsageError(f"Layout {layout} is no Layout of that name, but {found!r}.", "Mend its package or remove it.")
    return found
