"""A score as rows to print and as a report folder: metrics.json, report.md, confusion.png."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from emo.train.runs import write_atomic, write_json
from emo.train.score import Score, too_few

Row = tuple[str, ...]


def verdict(score: Score) -> str:
    """One line that says how it went."""
    line = f"F1 {score.f1_weighted:.4f} (weighted), accuracy {score.accuracy:.4f}, UAR {score.uar:.4f}"
    if score.combined is not None:
        line += f", combined {score.combined:.4f}"
    of = f" of {score.n + score.missing:,}" if score.missing else ""
    return f"{line} over {score.n}{of} clips, policy {score.policy}."


def remarks(score: Score) -> list[str]:
    """What must be said beside the numbers, one sentence each: answers, clips and predictions that did not count."""
    told = "counted as neutral" if score.policy == "official" else "counted as wrong"
    lines = [f"{score.unparsed} of {score.n} answers could not be parsed" + (f", {told}." if score.unparsed else ".")]
    if score.unparsed:
        some = list(score.unparsed_examples.items())[:3]
        lines[0] += " For example: " + "; ".join(f"{name} answered {answer!r}" for name, answer in some) + "."
    if score.missing:
        lines.append(f"{score.missing} labelled clips have no prediction and are in no number here.")
    if score.extra:
        lines.append(f"{score.extra} predictions are for clips without a label here and were ignored.")
    if sum(row["support"] > 0 for row in score.per_class.values()) < 2:
        lines.append("All clips carry one label, so this is no measure of telling emotions apart.")
    if few := too_few(score.n):
        lines.append(few)
    return lines


def summary_rows(score: Score) -> list[Row]:
    """`(name, number)` rows of the whole score."""
    numbers = {
        "clips": score.n,
        "accuracy (WAR)": score.accuracy,
        "precision, weighted": score.precision_weighted,
        "recall, weighted": score.recall_weighted,
        "F1, weighted": score.f1_weighted,
        "F1, macro": score.f1_macro,
        "UAR": score.uar,
        "valence MSE": score.mse,
        "combined": score.combined,
    }
    return [(name, _text(value)) for name, value in numbers.items() if value is not None]


def class_rows(score: Score) -> list[Row]:
    """Header and one row per label: precision, recall, F1, clips, unparsed answers."""
    header: Row = ("label", "precision", "recall", "f1", "support", "unparsed")
    return [header, *((label, *(_text(row[key]) for key in header[1:])) for label, row in score.per_class.items())]


def confusion_rows(score: Score) -> list[Row]:
    """Header and one row per true label; a last column holds unparsed answers where there are any."""
    labels, counts = _columns(score)
    return [
        ("truth \\ answer", *labels),
        *((label, *map(str, row)) for label, row in zip(score.labels, counts.tolist(), strict=True)),
    ]


def write_report(score: Score, folder: Path, title: str = "Score", notes: Sequence[str] = ()) -> list[Path]:
    """Write metrics.json, report.md and confusion.png into a folder.

    Args:
        score: What to report.
        folder: Made if absent; files of an earlier report are replaced.
        title: Heading of text and picture.
        notes: Further sentences that must stand beside the numbers, such as the features' profile.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sentences = list(dict.fromkeys([*notes, *remarks(score)]))
    lines = [f"# {title}", "", verdict(score), "", *(f"- {sentence}" for sentence in sentences), ""]
    lines += [*_markdown([("measure", "value"), *summary_rows(score)]), ""]
    lines += ["## Per class", "", *_markdown(class_rows(score)), ""]
    lines += [
        "## Confusion matrix",
        "",
        *_markdown(confusion_rows(score)),
        "",
        "![confusion matrix](confusion.png)",
        "",
    ]
    files = [folder / "metrics.json", folder / "report.md", folder / "confusion.png"]
    write_json(files[0], score.to_json() | {"notes": sentences})
    write_atomic(files[1], "\n".join(lines))
    write_atomic(files[2], confusion_png(score, title, notes[0] if notes else ""))
    return files


def confusion_png(score: Score, title: str, note: str = "") -> bytes:
    """The confusion matrix as a PNG: counts, shaded by the share of each true class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, counts = _columns(score)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (C, C or C + 1)
    side = 1.6 + 0.72 * len(labels)
    figure = Figure(figsize=(side + 1.2, side * len(score.labels) / len(labels) + 1.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(share):
        ink = "white" if value > 0.55 else "#b0b7c3" if counts[row, column] == 0 else "#1b2533"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=11)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(score.labels)), [f"{label} ({row['support']})" for label, row in score.per_class.items()])
    axes.set_xlabel("answer")
    axes.set_ylabel("truth (clips)")
    axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(score.labels) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"{title}\nweighted F1 {score.f1_weighted:.4f}   accuracy {score.accuracy:.4f}   UAR {score.uar:.4f}",
        fontsize=11,
        loc="left",
    )
    if note:
        figure.supxlabel(note, fontsize=7.5, color="#5a6472", wrap=True)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _columns(score: Score) -> tuple[tuple[str, ...], np.ndarray]:
    """Column names and counts, with unparsed answers as a last column unless the policy has given them a class."""
    counts = np.array(score.confusion)
    lost = np.array([[score.per_class[label]["unparsed"]] for label in score.labels], dtype=counts.dtype)
    if not lost.any():
        return score.labels, counts
    return (*score.labels, "unparsed"), np.hstack([counts, lost])


def _markdown(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
