"""Answers about clips as a page: what was said, how many clips have no answer, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from emo.featstore.page import Page, Table
from emo.featstore.text import some_of
from emo.train.answers import Prediction

KIND = re.compile(r"([a-z][a-z-]+): ")  # of a recorded failure, in front of its message


def answers_page(
    who: str, names: Sequence[str], said: Mapping[str, Prediction], why: Mapping[str, str], task: str = "emotion"
) -> Page:
    """Draw answers about clips; exit code 3 where there is none about some of them.

    Args:
        who: Title of the table.
        names: All clips that were named.
        said: Answers by clip.
        why: Why the others have none.
        task: What was asked.
    """
    rows, texts, value = [], [], []
    for name in names:
        if (found := said.get(name)) is None:
            value.append({"name": name, "answer": None, "why": why[name]})
            continue
        row: dict[str, Any] = {"name": name, "answer": found.answer}
        row |= {} if found.valence is None else {"valence": found.valence}
        row |= {} if found.probabilities is None else {"probabilities": found.probabilities}
        value.append(row)
        best = "" if not found.probabilities else max(found.probabilities.values())
        rows.append([name, found.answer or "(nothing)", best])
        texts.append(f"{name}: {found.answer or '(it says nothing)'}")
    with_numbers = any(row[2] != "" for row in rows)
    columns = ("clip", "answer", "probability") if with_numbers else ("clip", "answer")
    table = Table(who, columns, [row if with_numbers else row[:2] for row in rows], ("probability",))
    parts: list[Table | str] = [] if not rows else [table] if task == "emotion" else texts
    silent = {name: why[name] for name in names if name not in said}
    return Page({"task": task, "answers": value}, [*parts, *silence(silent, len(names))], exit_code=3 if silent else 0)


def silence(why: Mapping[str, str], total: int) -> list[str]:
    """Return how many of all clips have no answer, and why: a line by kind of failure.

    Args:
        why: By clip without an answer.
        total: All clips that were asked about.
    """
    kinds: dict[str, dict[str, str]] = {}
    for name, reason in why.items():
        kind = KIND.match(reason)
        kinds.setdefault(kind[1] if kind else reason, {})[name] = reason
    lines = []
    for kind, each in sorted(kinds.items(), key=lambda of: -len(of[1])):
        reason = next(iter(each.values()))
        if len(set(each.values())) > 1:  # messages of one kind differ in the clip that they name
            reason = f"{kind}; for example {reason.removeprefix(f'{kind}: ')}"
        lines.append(f"no answer about {some_of(each, 3)}: {reason}")
    return [*lines, f"{len(why):,} of {total:,} clips have no answer."] if len(why) > 1 else lines
