"""From the action units of a frame to a label and to phrases: a table of rules, and a draw that a seed decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emo.extract.annotate.actions import SPEECH_AND_BLINK, phrases_of, rules
from emo.featstore.errors import UsageError
from emo.featstore.files import digest

NEUTRAL = "neutral"


@dataclass(frozen=True)
class Matching:
    """When a rule fits, and what is said of the units that it finds.

    Of several rules that fit, the one with the most active units wins; of equal ones, the one of which the larger share
    is active; then the one whose active units are stronger on average; then the one that stands first in the table.

    Attributes:
        table: Rules of the labels, see `rules.yaml`.
        share: Least share of a rule's units that are active.
        strength: Least mean intensity of the rule's units, over those that have one (OpenFace: 0 to 5).
        profile: Phrases, see `actions.yaml`.
        language: Of the phrases.
        seed: Of the draw among the phrases of a unit.
        leave_out: Units that no rule may use, as they do not count for the frame: while somebody speaks, AU25 alone
            would fit the rule of doubt.
    """

    table: str = "merr-2024"
    share: float = 0.5  # as MER-Factory; MERR's own thresholds are not published
    strength: float = 0.8  # likewise
    profile: str = "merr-2024"
    language: str = "en"
    seed: int = 0
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules(self.table)
        phrases_of("AU01", self.profile, self.language)
        if not 0 < self.share <= 1:
            raise UsageError(f"{self.share} is no share of a rule.", "It is a number above 0, up to 1.")
        if not 0 <= self.strength < float("inf"):
            raise UsageError(f"{self.strength} is no mean intensity.", "It is a number from 0 up; OpenFace's go to 5.")

    def recipe(self) -> dict[str, Any]:
        """Return everything that changes what is found."""
        return asdict(self)


def fitting_rules(active: Iterable[str], units: Mapping[str, float], matching: Matching) -> list[str]:
    """Return the labels whose rules fit, the best first; none where the face is neutral.

    Args:
        active: Units that are active.
        units: Intensities of the units that have one.
        matching: When a rule fits.
    """
    there = set(active)
    found = []
    for place, (label, rule) in enumerate(rules(matching.table).items()):
        rule = [unit for unit in rule if unit not in matching.leave_out]
        inside = [unit for unit in rule if unit in there]
        if not inside or len(inside) < matching.share * len(rule):
            continue
        known = [units[unit] for unit in rule if unit in units]
        if known and _mean(known) < matching.strength:
            continue
        strong = [units[unit] for unit in inside if unit in units]
        found.append((-len(inside), -len(inside) / len(rule), -_mean(strong or [0.0]), place, label))
    return [each[-1] for each in sorted(found)]


def _mean(values: Sequence[float]) -> float:
    return float(sum(values)) / len(values)


def pseudo_label(active: Iterable[str], units: Mapping[str, float], matching: Matching) -> str:
    """Return the label that the action units of a frame stand for; `neutral` where no rule fits."""
    return next(iter(fitting_rules(active, units, matching)), NEUTRAL)


def named_units(active: Sequence[str], label: str, table: str = "merr-2024") -> list[str]:
    """Return the active units that speak for a label: of a neutral face all but speech and blinks."""
    if label in rules(table):
        return [unit for unit in active if unit in rules(table)[label]]
    return [unit for unit in active if unit not in SPEECH_AND_BLINK]


def phrases(units: Iterable[str], media: str, matching: Matching) -> list[str]:
    """Return a phrase per unit: drawn by the seed and the clip's content, so that no other clip changes the draw.

    Units without a phrase in the profile (AU45) get their code.
    """
    return [_drawn(unit, phrases_of(unit, matching.profile, matching.language), media, matching.seed) for unit in units]


def _drawn(unit: str, known: Sequence[str], media: str, seed: int) -> str:
    if not known:
        return unit
    return known[int(digest(f"{seed} {media} {unit}".encode()), 16) % len(known)]
