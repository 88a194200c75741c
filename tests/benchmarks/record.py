"""How ways are timed against each other, and where a measurement goes: one section of docs/benchmarks.md, with its
command, hardware, versions and date."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from summary import PAGE, summarised

from emo.featstore import install
from emo.featstore.text import counted

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # whole processes find their modules compiled, as a user's do


def alternate(
    ways: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time several ways in turn, A B A B, so that what the machine does besides falls on all of them.

    Args:
        ways: What to run, by name. Work on a GPU must be waited for inside (`torch.cuda.synchronize`).
        rounds: Times that each way is counted.
        warm: Rounds before that, which are not counted.
        clock: What is read before and after: the time that passes, or this process's share of the processors.

    Returns:
        Seconds of each way, one per round.
    """
    times: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(warm + rounds):
        for way, run in ways.items():
            start = clock()
            run()
            if i >= warm:
                times[way].append(clock() - start)
    return times


def ratios(times: Mapping[str, Sequence[float]], way: str, base: str) -> tuple[float, float, float]:
    """Time of `way` divided by that of `base`, round by round: median, least and most."""
    found = sorted(mine / other for mine, other in zip(times[way], times[base], strict=True))
    return statistics.median(found), found[0], found[-1]


def typed() -> str:
    """The command that is running, as it is typed in the root of a checkout; of folders outside, the last name."""
    words, values = [], iter(sys.argv[1:])
    for word in values:
        flag, _, value = word.partition("=")
        if flag in ("--page", "--work"):  # where things are written does not matter
            if not value:
                next(values)
            continue
        value = value or word
        words.append(word.removesuffix(value) + Path(value).name if os.path.isabs(value) else word)
    return shlex.join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *words])


def record(
    title: str, command: str, table: Sequence[Sequence[str]], words: Sequence[str] = (), page: Path = PAGE
) -> None:
    """Write a section, in place of an earlier one of the same title, and the table of the goals anew.

    Args:
        title: Heading.
        command: What was typed, in the root of a checkout.
        table: Header and rows.
        words: Paragraphs below the table.
        page: The document, which must exist.
    """
    header, *rows = table
    lines = [f"## {title}", "", f"`{command}`", "", f"{datetime.now(UTC):%Y-%m-%d}; {hardware()}; {versions()}.", ""]
    lines += ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    for paragraph in words:
        lines += ["", paragraph]
    section = sealed("\n".join(lines) + "\n")
    text = page.read_text(encoding="utf-8")
    old = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if old.search(text):
        text = old.sub(lambda found: section + ("\n" if found.end() < len(text) else ""), text, count=1)
    else:
        text = text.rstrip("\n") + "\n\n" + section
    page.write_text(summarised(text), encoding="utf-8")


def sealed(section: str) -> str:
    """A section with a last line that says its hash, in place of an earlier one: what is written by hand is noticed."""
    text = re.sub(r"<!-- sealed \w+ -->\s*\Z", "", section).rstrip("\n")
    return f"{text}\n\n<!-- sealed {hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"


def hardware() -> str:
    """Processor, its cores that this process may use, memory, and GPU if there is one."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {counted(cores or 1, 'CPU core')}, {memory:.0f} GiB"
    return f"{counted(cores or 1, 'core')} of {_processor()}, {memory:.0f} GiB, no GPU"


def versions(*more: str) -> str:
    """Return the versions of emo, Python and what computes."""
    packages = install.versions("torch", "transformers", "numpy", *more)
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {version}" for name, version in packages.items())]
    )


def _processor() -> str:
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()
