"""The challenges by name: emo's own, and those that installed packages add."""

from __future__ import annotations

from emo.featstore.registry import Registry
from emo.train.challenges.base import Challenge

CHALLENGES = {
    "mer2023": "emo.train.challenges.mer2023:MER2023",
    "mer2024": "emo.train.challenges.mer2024:MER2024",
    "mer2025": "emo.train.challenges.mer2025:MER2025",
    "mer2026": "emo.train.challenges.mer2026:MER2026",
}
_challenges = Registry("challenge", "emo.challenges", CHALLENGES, "emo.train.challenges.base:Challenge")
challenge_names = _challenges.names
all_challenges = _challenges.all


def challenge_named(name: str) -> Challenge:
    """Return a challenge; case does not count.

    Raises:
        UsageError: There is none of that name, or an installed package's cannot be loaded.
    """
    found: Challenge = _challenges.find(name.strip().lower())
    return found
