"""The pictures of a score as PNG, SVG and PDF: confusion matrix, classes with their intervals, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from emo.featstore.text import whole_text
from emo.train.metrics.compare import Intervals
from emo.train.metrics.labels import Score

INK, SOFT, LINE, BLUE, PALE = "#1b2533", "#5a6472", "#e4e8ee", "#2f6db5", "#b9cfe8"
Forms = dict[str, bytes]  # of one picture, by suffix: png, svg, pdf
WIDTH_IN = 7.5  # of all pictures, so that they stand one below the other


def columns_of(score: Score) -> tuple[tuple[str, ...], np.ndarray]:
    """Column names and counts, with unparsed answers as a last column unless the policy has given them a class."""
    counts = np.array(score.confusion)
    lost = np.array([[score.per_class[label]["unparsed"]] for label in score.labels], dtype=counts.dtype)
    if not lost.any():
        return score.labels, counts
    return (*score.labels, "unparsed"), np.hstack([counts, lost])


def confusion_forms(score: Score, foot: str) -> Forms:
    """The confusion matrix: clips and per cent of each true class, which shades it; `foot` says below of what it is."""
    labels, counts = columns_of(score)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (C, C or C + 1)
    cell_in = min(0.9, (WIDTH_IN - 1.6) / len(labels))
    figure, axes = _figure(cell_in * len(score.labels) + 1.5)
    axes.imshow(share, cmap=_blues(), vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(share):
        ink = "white" if value > 0.55 else "#b0b7c3" if counts[row, column] == 0 else INK
        said = f"{counts[row, column]:,}" + (f"\n{value:.0%}" if counts[row, column] and len(labels) < 12 else "")
        axes.text(column, row, said, ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(labels)), labels, rotation=0 if len(labels) < 9 else 90)
    axes.set_yticks(range(len(score.labels)), [f"{label} ({row['support']})" for label, row in score.per_class.items()])
    axes.set_xlabel("answer (in a cell: clips, and their share of the true class)")
    axes.set_ylabel("truth (clips)")
    axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(score.labels) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    line = f"weighted F1 {score.f1_weighted:.4f}   accuracy {score.accuracy:.4f}   UAR {score.uar:.4f}"
    return _forms(figure, axes, line, foot)


def classes_forms(score: Score, intervals: Intervals, foot: str) -> Forms:
    """F1 and recall per class with their 95 % intervals."""
    labels = list(score.labels)
    figure, axes = _figure((0.62 if len(labels) < 9 else 0.4) * len(labels) + 1.5)
    for offset, name, colour, of in ((-0.19, "F1", BLUE, intervals.f1), (0.19, "recall", PALE, intervals.recall)):
        shown = [(i + offset, of[label]) for i, label in enumerate(labels) if label in of]
        places = [at for at, _ in shown]
        axes.barh(places, [each.value for _, each in shown], height=0.34, color=colour, label=name, zorder=2)
        ends = [[each.low for _, each in shown], [each.high for _, each in shown]]
        axes.hlines(places, *ends, color=INK, linewidth=1, zorder=3)
        axes.plot([*ends[0], *ends[1]], [*places, *places], "|", color=INK, markersize=5, zorder=3)
    axes.set_yticks(range(len(labels)), [f"{label} ({score.per_class[label]['support']})" for label in labels])
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color=LINE, zorder=0)
    axes.tick_params(length=0)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, labelcolor=SOFT)
    return _forms(figure, axes, "lines: the middle 95 % of resampled clips", foot)


def reliability_forms(found: Mapping[str, Any], foot: str) -> Forms:
    """Share of right answers against confidence, and how many answers there are of each."""
    figure, (axes, below) = _figure(5.4, rows=[3, 1])
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    bins = found["bins"]
    x, y = ([each[key] for each in bins] for key in ("confidence", "accuracy"))
    axes.plot(x, y, color=BLUE, linewidth=2, marker="o", markersize=6, zorder=3, clip_on=False)  # whole at 0 too
    axes.vlines(x, y, x, color=PALE, linewidth=4, zorder=2)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share that is right")
    below.bar(x, [each["n"] for each in bins], width=0.05, color=PALE, zorder=2)
    below.set_ylabel("answers")
    below.set_xlabel("probability of the answer")
    for each in (axes, below):
        each.set_xlim(0, 1.02)
        each.grid(color=LINE, zorder=0)
        each.tick_params(length=0)
    below.grid(visible=False, axis="x")
    return _forms(figure, axes, f"expected calibration error {found['ece']:.4f} over {found['n']:,} answers", foot)


def grid_png(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], head: str, foot: str) -> bytes:
    """Numbers of a table `(R, C)`, shaded from the least to the most; NaN stays blank."""
    figure, axes = _figure(0.42 * len(rows) + 1.9)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    width = high - low or 1.0
    axes.imshow((values - low) / width, cmap=_blues(), vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        said = f"{value:.3f}" if np.isfinite(value) else "–"
        ink = "white" if np.isfinite(value) and (value - low) / width > 0.55 else INK
        axes.text(column, row, said, ha="center", va="center", color=ink, fontsize=8)
    short = [each if len(each) < 40 else each[:39] + "…" for each in rows]
    axes.set_xticks(range(len(columns)), columns, rotation=0 if len(columns) < 7 else 90)
    axes.set_yticks(range(len(rows)), short)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    return _png(figure, axes, head, foot)


def _blues() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("quiet", ["#f6f8fb", "#7fa9d6", "#1d4f8f"])


def _figure(height_in: float, rows: list[int] | None = None) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=200, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    if rows is None:
        axes = figure.add_subplot()
    else:
        axes = figure.subplots(len(rows), 1, sharex=True, height_ratios=rows)
    for each in np.atleast_1d(axes):
        each.spines[:].set_visible(False)
        each.tick_params(colors=INK, labelsize=9.5)
        each.xaxis.label.set(color=SOFT, size=9.5)
        each.yaxis.label.set(color=SOFT, size=9.5)
    return figure, axes


def _png(figure: Any, axes: Any, head: str, foot: str) -> bytes:
    return _forms(figure, axes, head, foot, ("png",))["png"]


def _forms(figure: Any, axes: Any, head: str, foot: str, suffixes: Sequence[str] = ("png", "svg", "pdf")) -> Forms:
    """The bytes of a picture by suffix; the same picture gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    axes.set_title(head, fontsize=9.5, loc="left", color=SOFT, pad=10)
    for each in figure.findobj(Text):
        each.set_parse_math(False)  # a dollar sign in a label is no formula
    plain = whole_text(foot).replace("$", r"\$")
    figure.supxlabel(plain, fontsize=7, color=SOFT, wrap=True, x=0.01, ha="left")
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    found = {}
    with rc_context({"svg.hashsalt": "emo"}):
        for suffix in suffixes:
            buffer = BytesIO()
            figure.savefig(buffer, format=suffix, metadata=undated[suffix])
            found[suffix] = buffer.getvalue()
    return found
