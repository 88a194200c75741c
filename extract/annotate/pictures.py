"""The pictures of annotations, as PNG bytes: bars, a grid of shares, a histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

INK, SOFT, LINE, BLUE = "#1b2533", "#5a6472", "#e4e8ee", "#2f6db5"  # as the pictures of a score
WIDTH_IN = 7.5


def bars_png(counts: Mapping[str, int], what: str, foot: str) -> bytes:
    """Draw a bar per name, with its count."""
    figure, axes = _figure(0.34 * len(counts) + 1.2)
    places = range(len(counts))
    axes.barh(places, list(counts.values()), height=0.7, color=BLUE, zorder=2)
    for place, count in zip(places, counts.values(), strict=True):
        axes.text(count, place, f" {count:,}", va="center", color=SOFT, fontsize=9)
    axes.set_yticks(places, list(counts))
    axes.invert_yaxis()
    axes.set_xlabel(what)
    axes.grid(axis="x", color=LINE, zorder=0)
    return _png(figure, foot)


def grid_png(rows: Sequence[str], columns: Sequence[str], share: Sequence[Sequence[float]], foot: str) -> bytes:
    """Draw shares in [0, 1] as a grid `(rows, columns)`, in percent in each cell that has any."""
    figure, axes = _figure(0.42 * len(rows) + 1.2)
    values = np.asarray(share, float).reshape(len(rows), len(columns))
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if value >= 0.005:
            ink = "white" if value > 0.6 else INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("per 100 records of the label")
    return _png(figure, foot)


def lengths_png(lengths: Sequence[int], what: str, foot: str) -> bytes:
    """Draw how many texts have which length."""
    figure, axes = _figure(3.0)
    axes.hist(lengths, bins=min(40, max(lengths, default=1) + 1), color=BLUE, zorder=2)
    axes.set_xlabel(what)
    axes.set_ylabel("records")
    axes.grid(axis="y", color=LINE, zorder=0)
    return _png(figure, foot)


def _figure(height_in: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    return figure, axes


def _png(figure: Any, foot: str) -> bytes:
    from matplotlib.text import Text

    figure.supxlabel(foot, fontsize=7, color=SOFT, x=0.01, ha="left")
    for each in figure.findobj(Text):
        each.set_parse_math(False)  # a dollar sign in a name is no formula
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
