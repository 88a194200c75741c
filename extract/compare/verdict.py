"""Does my extraction match? Two sides, clip by clip; and where they differ, the likely cause with its evidence.

Two kinds of evidence. From the numbers alone: rounding, scale, offset, order of rows. And by experiment: the recipe of
the side that emo made is run again on a few clips with exactly one thing changed (`rerun.py`), and the change
whose numbers agree with the other side is named. Numbers come first, because they are free; where they explain every
difference, nothing is re-run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.compare.rerun import experiment
from emo.extract.compare.sides import (
    ClipRow,
    Hypothesis,
    NpyFolder,
    Side,
    StoreSide,
    error_of,
    hypothesis,
    measure,
    open_side,
)
from emo.extract.compare.variants import CAUSES
from emo.featstore.errors import EmoError, UsageError
from emo.featstore.page import Arg, Flag, Page, Table, throttle
from emo.featstore.text import counted
from emo.featstore.workspace import Workspace

TOLERANCE = 1e-3  # above what storing in half precision does (3e-4), below what other recipes do
SAMPLE = 64  # clips whose numbers are searched for a cause
LONG = 4000  # rows above which they are not matched one by one
WORST = 5  # clips shown


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two sides.

    Attributes:
        a: Where A is; likewise b.
        tolerance: Largest error at which a clip agrees.
        rows: Clips that both have.
        only_a: Clips that A alone has; likewise only_b.
        recipe: How the recipes of two stores differ, as far as they say.
        hypotheses: Every cause tested.
        cause: A name in `CAUSES`; `None` where nothing is to explain or nothing explains it.
        equal: Whether all common clips agree.
        verdict: All of it in a sentence or two.
        notes: What could not be tested, and why.
    """

    a: str
    b: str
    tolerance: float
    rows: tuple[ClipRow, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    recipe: tuple[str, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    cause: str | None = None
    equal: bool = False
    verdict: str = ""
    notes: tuple[str, ...] = ()

    @property
    def differing(self) -> list[ClipRow]:
        """Common clips that do not agree."""
        return [row for row in self.rows if not row.agrees(self.tolerance)]

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


def compare(
    a: str | Path | Side,
    b: str | Path | Side,
    feature: str | None = None,
    feature_b: str | None = None,
    *,
    workspace: Workspace | None = None,
    tolerance: float = TOLERANCE,
    clips: int = 5,
    device: str = "cpu",
    say: Callable[[str], None] = lambda sentence: None,
) -> Comparison:
    """Compare two sides, and say what the difference comes from.

    Args:
        a: A store, a folder of .npy files, or a side made elsewhere.
        b: Likewise.
        feature: Name of the feature in a store; may be left out where it has one, or the other side's folder its name.
        feature_b: Its name in B, where it is another one there.
        workspace: Says where weights and OpenFace output are.
        tolerance: Largest error at which a clip agrees.
        clips: How many clips may be re-run; 0 looks at the numbers alone.
        device: Where they are re-run, in float32.
        say: Told what is going on.

    Raises:
        UsageError: A side cannot be read, no clip is on both sides, or the widths differ.
        StoreError: The feature is not there, or its name means several.
    """
    with ExitStack() as files:
        sides = open_side(a, feature, b, files), open_side(b, feature_b or feature, a, files)
        if feature_b is not None and isinstance(sides[1], NpyFolder):
            raise UsageError(f"{sides[1].where} is no store, so nothing in it is called {feature_b}.")
        found, rows = _clip_by_clip(sides, tolerance, say)
        hints: tuple[str, ...] = ()
        if clips and not found.equal and not any(each.explains for each in found.hypotheses):
            whole = [row for row in rows if not row.broken]
            try:
                more = experiment(whole, sides, tolerance, clips, workspace, device, say)
            except EmoError as error:
                found = replace(found, notes=(f"Nothing was re-run: {error.message}",))
            else:
                hints = more.hints
                found = replace(found, hypotheses=(*found.hypotheses, *more.tested), notes=more.notes)
        return _judge(found, hints)


def _clip_by_clip(
    sides: tuple[Side, Side], tolerance: float, say: Callable[[str], None]
) -> tuple[Comparison, list[ClipRow]]:
    """Measure every clip that both sides have, and try what the numbers alone can tell.

    Raises:
        UsageError: There is no such clip, or the widths differ.
    """
    names = [dict.fromkeys(side.names()) for side in sides]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        first = [", ".join(list(each)[:3]) or "no clip at all" for each in names]
        raise UsageError(
            f"No clip is on both sides: A ({sides[0].where}) has {first[0]}; B ({sides[1].where}) has {first[1]}."
        )
    rows = []
    for number, name in enumerate(common):
        say(f"comparing clip {number + 1:,} of {len(common):,}")
        rows.append(measure(name, sides[0].get(name), sides[1].get(name)))
    only = [tuple(name for name in names[i] if name not in names[1 - i]) for i in (0, 1)]
    found = Comparison(sides[0].where, sides[1].where, tolerance, tuple(rows), *only, recipe=_recipes(*sides))
    found = replace(found, equal=not found.differing)
    return replace(found, hypotheses=tuple(_in_numbers(found, sides))), rows


def _recipes(a: Side, b: Side) -> tuple[str, ...]:
    """List where the specs of two stores differ."""

    def flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else [(prefix + key, inner)]

    if not (isinstance(a, StoreSide) and isinstance(b, StoreSide)):
        return ()
    one, two = (dict(flat(asdict(side.spec))) for side in (a, b))
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    return tuple(f"{key}: {one.get(key, 'absent')} | {two.get(key, 'absent')}" for key in keys)


# ---- the numbers alone -----------------------------------------------------------------------------------------------


def _in_numbers(found: Comparison, sides: Sequence[Side]) -> Iterator[Hypothesis]:
    """Judge by the numbers of the clips that differ; where none does, of those that are not the same bit by bit."""
    other = found.differing or [row for row in found.rows if row.error]
    for cause, sick in (
        ("not-finite", [row for row in other if any(row.nan)]),
        ("zeros", [row for row in other if row.broken and not any(row.nan)]),
    ):
        if sick:
            marks = [row.nan if cause == "not-finite" else row.zero for row in sick]
            words = f"{sum(bool(a) for a, _ in marks)} clips of A, {sum(bool(b) for _, b in marks)} of B"
            yield Hypothesis(cause, f"{CAUSES[cause]}: {words}", "numbers", len(other), len(sick))
    whole = [row.clip for row in other if not row.broken]
    pairs = [tuple(side.get(name).astype(np.float64) for side in sides) for name in whole[:: len(whole) // SAMPLE + 1]]
    if not pairs:
        return
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    before = [error_of(x, y) for x, y in pairs]

    def test(cause: str, change: str, made: Sequence[NDArray[Any]], target: Sequence[NDArray[Any]] = ys) -> Hypothesis:
        after = [error_of(x, y) for x, y in zip(made, target, strict=True)]
        return hypothesis(cause, change, "numbers", before, after, found.tolerance)

    for letter, rounded, exact in (("B", ys, xs), ("A", xs, ys)):
        if all(np.array_equal(each, _half(each)) for each in rounded):
            made = [_half(each) for each in exact]
            if not all(map(np.array_equal, made, exact)):
                yield test("half-precision", f"all values of {letter} are numbers of float16", made, rounded)
    if found.equal:
        return
    if all(x.shape != y.shape for x, y in pairs):
        yield from _in_rows(xs, ys, test)
        return
    if all(abs(np.linalg.norm(y) - 1) < 1e-2 for y in ys):
        made = [x / max(np.linalg.norm(x), 1e-30) for x in xs]
        yield test("scale", "B is A, each clip divided by its length", made)
    factor = float(np.median([row.scale for row in other if row.scale is not None] or [1.0]))
    if abs(factor - 1) > found.tolerance:
        yield test("scale", f"B is {factor:.4g} times A", [factor * x for x in xs])
    if len(pairs) > 2:
        shifts = np.stack([y.mean(0) - x.mean(0) for x, y in pairs])  # (clips, D)
        others = (shifts.sum(0) - shifts) / (len(pairs) - 1)  # a clip has no say in what is added to it
        made = [x + other for x, other in zip(xs, others, strict=True)]
        yield test("offset", "B is A with one vector added to every row", made)
    if any(1 < max(map(len, pair)) <= LONG for pair in pairs):
        yield test("frame-order", "B has the rows of A in another order", [_matched(x, y) for x, y in pairs])


def _half(array: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float64)


def _in_rows(
    xs: Sequence[NDArray[Any]], ys: Sequence[NDArray[Any]], test: Callable[..., Hypothesis]
) -> Iterator[Hypothesis]:
    """One side has one row where the other has many: is it their mean, or one of them?"""
    letter, one, many = ("B", ys, xs) if len(ys[0]) == 1 else ("A", xs, ys)
    if any(len(each) != 1 for each in one):
        return
    for words, reduced in (
        ("the mean over the rows of the other side", [each.mean(0, keepdims=True) for each in many]),
        ("the first row (CLS) of the other side", [each[:1] for each in many]),
        ("the mean over the rows of the other side but the first", [each[1:].mean(0, keepdims=True) for each in many]),
    ):
        yield test("pooling", f"{letter} is {words}", reduced, one)


def _matched(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows of x, each where the row of y is that it comes nearest to; x itself where that is no permutation."""
    if x.shape != y.shape or len(x) > LONG:
        return x
    nearest = ((x**2).sum(1)[None] - 2 * y @ x.T).argmin(1)  # (T,): squared distances, less what a row has in common
    return x[nearest] if len(set(nearest.tolist())) == len(x) else x


# ---- the verdict -----------------------------------------------------------------------------------------------------


def _judge(found: Comparison, hints: Sequence[str]) -> Comparison:
    """Name the cause: one that explains every clip tested, else one that explains most of it, else none."""
    n, differ = len(found.rows), found.differing
    apart = [(len(found.only_a), "A"), (len(found.only_b), "B")]
    sides = "".join(f" {counted(count, 'clip is', 'clips are')} in {letter} only." for count, letter in apart if count)
    full = [each for each in found.hypotheses if each.explains]
    if found.equal:
        half = next((each for each in full if each.cause == "half-precision"), None)
        why = f"; {half.change}, which is all the difference there is" if half else ""
        text = f"A and B match: all {n:,} common clips agree within {found.tolerance:g}{why}.{sides}"
        return replace(found, cause=half and half.cause, verdict=text)
    text = f"A and B do not match: {len(differ):,} of {n:,} common clips differ.{sides}"
    broken = sum(row.broken for row in differ)
    if 0 < broken < len(differ):
        text += f" {broken:,} of them hold NaN, or nothing but zeros on one side; of the others:"
    # Clips of one encoder lie close together: one vector or factor takes much of any difference away, and says nothing.
    most = [each for each in found.hypotheses if each.explains_most and each.evidence == "re-run"]
    if full:
        best, rest = full[0], [each.change for each in full[1:]]
        text += f" The cause is {best.cause}. {_evidence(best)}."
        if rest:
            text += f" These clips cannot tell it from: {'; '.join(rest)}."
        return replace(found, cause=best.cause, verdict=text)
    if most:
        best = min(most, key=lambda each: each.share or 0.0)
        text += f" The cause is mostly {best.cause}, and something else besides. {_evidence(best)}."
        return replace(found, cause=best.cause, verdict=text)
    text += f" No known cause explains it ({len(found.hypotheses)} tested)."
    if hints:
        what = " or ".join(CAUSES.get(cause, cause) for cause in hints)
        text += f" It is about as large as what {what} would make; nothing else speaks for that."
    if not any(each.evidence == "re-run" for each in found.hypotheses):
        text += " Only the numbers were looked at, which see few causes."
    return replace(found, verdict=text)


def _evidence(each: Hypothesis) -> str:
    change = each.change[0].upper() + each.change[1:]
    if each.after is None:  # NaN and zeros: no inference, they are there
        return f"{change} (seen in {each.agrees} of {each.clips} clips)"
    numbers = f"; error {_short(each.before)} before, at most {each.after:.2g} after"
    if each.evidence == "re-run":
        return f"{change} (re-run on {each.clips} clips, {each.agrees} agree{numbers})"
    where = f"seen in the numbers of {each.agrees} of {each.clips} clips{numbers}"
    return f"{change} ({where}; nothing was re-run, so this is the weaker kind of evidence)"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def compare_page(found: Comparison) -> Page:
    """A comparison for people and for programs.

    The exit code is 0 when every clip that both sides have agrees within the tolerance (clips on one side only do not
    count), and 3 otherwise.
    """
    rows = found.rows
    counts = [
        ["clips", len(rows) + len(found.only_a), len(rows) + len(found.only_b)],
        ["on this side only", len(found.only_a), len(found.only_b)],
        ["with NaN or infinity", *(sum(row.nan[i] > 0 for row in rows) for i in (0, 1))],
        ["all zero", *(sum(row.zero[i] for row in rows) for i in (0, 1))],
    ]
    parts: list[Table | str] = [f"A: {found.a}", f"B: {found.b}", Table("Clips", ("", "A", "B"), counts, ("A", "B"))]
    words = {"cosine": "cosine", "error": "relative error", "scale": "length of B / A", "offset": "mean of B - A"}
    spread = []
    for name, what in words.items():
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if values:
            spread.append([what, *(f"{value:.4g}" for value in (min(values), np.median(values), max(values)))])
    columns: tuple[str, ...] = ("", "least", "median", "largest")
    parts.append(Table(f"{len(rows):,} common clips", columns, spread, columns[1:]))
    worst = sorted(found.differing, key=lambda row: -(math.inf if row.error is None else row.error))[:WORST]
    if worst:
        columns = ("clip", "error", "cosine", "B / A", "rows of A", "rows of B")
        cells = [[row.clip, *map(_short, (row.error, row.cosine, row.scale)), *row.rows] for row in worst]
        parts.append(Table("Worst clips", columns, cells, columns[1:]))
    if found.recipe:
        parts.append("\n".join(["The recipes differ in (A | B):", *(f"  {line}" for line in found.recipe)]))
    if found.hypotheses:
        columns = ("cause", "what was done", "evidence", "clips", "agree", "before", "after")
        order = sorted(
            found.hypotheses,
            key=lambda each: (-each.agrees / each.clips, math.inf if each.after is None else each.after),
        )
        best = {each.cause: each for each in reversed(order)}
        cells = [
            [each.cause, each.change, each.evidence, each.clips, each.agrees, _short(each.before), _short(each.after)]
            for each in order
            if each.explains or best[each.cause] is each
        ]
        title = "What could explain it, the best try of each cause: error before and after the change"
        parts.append(Table(title, columns, cells, columns[3:]))
    return Page(found.to_json(), [*parts, *found.notes], found.verdict, 0 if found.equal else 3)


def compare_command(
    workspace: Workspace | None,
    say: Callable[[str], None],
    a: Annotated[Path, Arg("A store, a folder of .npy files, or anything that emo store import reads.")],
    b: Annotated[Path, Arg("Likewise.")],
    feature: Annotated[str | None, Flag("Name of the feature, where there are several.")] = None,
    feature_b: Annotated[str | None, Flag("Its name in B, where it is another one there.")] = None,
    tolerance: Annotated[float, Flag("Largest relative error at which a clip agrees.")] = TOLERANCE,
    clips: Annotated[int, Flag("Clips that may be extracted again; 0 looks at the numbers alone.")] = 5,
    device: Annotated[str, Flag("Where they are: cpu or cuda.")] = "cpu",
) -> Page:
    """Say whether two extractions match, and if not, what the difference comes from; exit code 3 if not.

    Raises:
        EmoError: As `compare`.
    """
    options = {"workspace": workspace, "tolerance": tolerance, "clips": clips, "device": device}
    return compare_page(compare(a, b, feature, feature_b, **options, say=throttle(say)))  # type: ignore[arg-type]
