"""Which annotations are kept, and why each other one is dropped: contradictions, duplicates, too many of a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from emo.extract.annotate.actions import rules
from emo.extract.annotate.answers import check_label, refuses
from emo.extract.annotate.merr import CAPTIONS, words_of
from emo.extract.annotate.near import Embed, near_pairs
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.files import digest

NEUTRAL = "neutral"


@dataclass(frozen=True)
class Selection:
    """Rules by which annotations are dropped, in this order.

    Attributes:
        form: `fine` or `coarse`: which caption is looked at.
        strict: Drop what contradicts itself: a caption that refuses or names another emotion, a label that no active
            unit speaks for, an annotation without action units.
        near: Drop captions as near as this to one that is kept (cosine of their text embeddings); `None` drops only
            those of the same words.
        neutral: Most neutral clips, as a share of the others; drawn by the seed. `None` keeps all.
        cap: Most clips of each label, drawn by the seed.
        seed: Of the draws, which depend on nothing but it and the clip's name.
        table: Rules of the labels.
    """

    form: str = "fine"
    strict: bool = True
    near: float | None = None
    neutral: float | None = None
    cap: int | None = None
    seed: int = 0
    table: str = "merr-2024"

    def __post_init__(self) -> None:
        rules(self.table)
        if self.form not in CAPTIONS:
            raise UsageError(f"There is no form {self.form!r}.", f"Forms: {', '.join(CAPTIONS)}.")
        if self.near is not None and not 0 < self.near <= 1:
            raise UsageError(f"{self.near} is no nearness.", "It is a cosine above 0, up to 1; 0.95 is a start.")
        if (self.cap is not None and self.cap < 1) or (self.neutral is not None and self.neutral < 0):
            raise UsageError("A cap must be 1 or more, and a share of neutral clips 0 or more.")


def select(
    annotations: Mapping[str, Mapping[str, Any]], chosen: Selection, embed: Embed | None = None
) -> tuple[dict[str, Mapping[str, Any]], dict[str, list[str]]]:
    """Return the annotations that are kept, in their order, and the names that are dropped, by reason.

    Args:
        annotations: By clip.
        chosen: What is dropped.
        embed: Gives text embeddings (N, D), where `near` is set.
    """
    dropped: dict[str, list[str]] = {}
    kept: dict[str, Mapping[str, Any]] = {}
    for name, value in annotations.items():
        reason = _contradiction(value, chosen) if chosen.strict else ""
        if not value[CAPTIONS[chosen.form]].strip():  # imported from a file of the other grain
            reason = f"no {chosen.form} caption"
        if reason:
            dropped.setdefault(reason, []).append(name)
        else:
            kept[name] = value
    for name, first in _same(kept, chosen, embed):
        dropped.setdefault("near another caption" if chosen.near else "same words as another", []).append(name)
        assert first != name
        del kept[name]
    for label, most in _limits(kept, chosen).items():
        mine = sorted((name for name, each in kept.items() if each["pseu_emotion"] == label), key=_draw(chosen.seed))
        for name in mine[most:]:
            dropped.setdefault(f"more {label} than wanted", []).append(name)
            del kept[name]
    return kept, dropped


def _contradiction(value: Mapping[str, Any], chosen: Selection) -> str:
    """Return why an annotation contradicts itself; empty where it does not."""
    caption, label = value[CAPTIONS[chosen.form]], value["pseu_emotion"]
    if not value["AU_list"]:
        in_rule = label in rules(chosen.table) and value["peak_AU_list"]
        return "no active unit speaks for the label" if in_rule else "no action unit"
    if refuses(caption):
        return "the caption is a refusal"
    if chosen.form == "fine":
        try:
            check_label(caption, label, [value["text"], value["audio_prior_list"], value.get("scene", "")])
        except MediaError:
            return "the caption names another emotion"
    return ""


def _same(kept: Mapping[str, Mapping[str, Any]], chosen: Selection, embed: Embed | None) -> Iterator[tuple[str, str]]:
    """Yield names whose caption another before them has, with that one."""
    names = list(kept)
    texts = [kept[name][CAPTIONS[chosen.form]] for name in names]
    first: dict[str, str] = {}
    alone: list[int] = []
    for i, (name, text) in enumerate(zip(names, texts, strict=True)):
        words = " ".join(words_of(text))
        if words in first:
            yield name, first[words]
        else:
            first[words] = name
            alone.append(i)
    if chosen.near is None or embed is None or not alone:
        return
    for i, nearest in near_pairs(embed([texts[i] for i in alone]), chosen.near):
        yield names[alone[i]], names[alone[nearest]]


def _limits(kept: Mapping[str, Mapping[str, Any]], chosen: Selection) -> dict[str, int]:
    labels = [each["pseu_emotion"] for each in kept.values()]
    limits = dict.fromkeys(dict.fromkeys(labels), chosen.cap) if chosen.cap is not None else {}
    if chosen.neutral is not None and NEUTRAL in labels:
        others = sum(min(labels.count(each), chosen.cap or len(labels)) for each in set(labels) - {NEUTRAL})
        limits[NEUTRAL] = min(limits.get(NEUTRAL) or len(labels), round(chosen.neutral * others))
    return {label: most for label, most in limits.items() if most is not None}


def _draw(seed: int) -> Callable[[str], str]:
    return lambda name: digest(f"{seed} {name}".encode())
