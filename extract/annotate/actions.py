"""Action units, the phrases that name them, the rules by which some of them stand for an emotion: data, not code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from emo.featstore.errors import UsageError
from emo.featstore.text import did_you_mean

# Columns of OpenFace 2.0 (Baltrusaitis et al. 2018): intensities from 0 to 5, and 0 or 1 for presence, which only AU28
# has alone. They come from separate predictors and can disagree.
INTENSITIES = tuple(f"AU{n:02}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45))
PRESENCES = (*INTENSITIES[:-1], "AU28", "AU45")
SPEECH_AND_BLINK = ("AU25", "AU26", "AU45")
CODE = re.compile(r"AU\d\d")
PROFILES = ("merr-2024", "facs")
LANGUAGES = ("en", "zh")


@cache
def _data(name: str) -> Mapping[str, Any]:
    import yaml

    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))


def action_units() -> Mapping[str, Any]:
    """Return what is known of each action unit, by its code: name, phrases by profile and language."""
    return _data("actions")


def phrases_of(unit: str, profile: str = "merr-2024", language: str = "en") -> Sequence[str]:
    """Return the phrases that name an action unit; none for AU45 in MERR's profile.

    Raises:
        UsageError: There is no such profile, or it has no phrases in this language.
    """
    if profile not in PROFILES:
        raise UsageError(f"There is no profile of phrases {profile!r}.", f"Profiles: {', '.join(PROFILES)}.")
    found = action_units().get(unit, {}).get(profile, {})
    if language not in found and unit in action_units():
        raise UsageError(f"Profile {profile} has no phrases in {language!r}.", "Profile facs has en and zh.")
    return found.get(language, ())


@cache
def unit_of() -> Mapping[str, str]:
    """Return the action unit of every phrase of every profile, by the phrase in lower case."""
    return {
        phrase.lower(): unit
        for unit, known in action_units().items()
        for profile in PROFILES
        for words in known[profile].values()
        for phrase in words
    }


def label_words() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return the words by which a caption names each emotion, by language."""
    return _data("labels")


def rules(table: str = "merr-2024") -> Mapping[str, Sequence[str]]:
    """Return the action units of each label's rule, in the order that decides ties.

    Raises:
        UsageError: There is no such table.
    """
    known = _data("rules")
    if table not in known:
        hint = f"Tables: {', '.join(known)}. {did_you_mean(table, known)}"
        raise UsageError(f"There is no table of rules {table!r}.", hint.strip())
    return known[table]
