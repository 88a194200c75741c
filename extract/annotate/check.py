"""`emo annotate check` and `stats`: is a file of annotations of MERR's form, and what does it hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from emo.extract.annotate.merr import CAPTIONS, FIELDS, Entries, Tally, faults, oddities, read_merr, words_of
from emo.extract.annotate.select import Selection, select
from emo.featstore.document import Picture, write_page
from emo.featstore.page import Arg, Flag, Page, Table
from emo.featstore.text import some_of

SHOWN = 9  # action units of a label in a table, as in the counts that were published with MERR


def check_page(file: Annotated[Path, Arg("A JSON file of MERR's form, coarse or fine.")]) -> Page:
    """Hold a file of annotations against the form of MERR's 4,487 fine records, and count what it holds.

    A fault is what a reader may fail on: the command then exits with 6. What is only worth a look is a warning.
    """
    entries = read_merr(file)
    wrong: dict[str, list[str]] = {}
    odd: dict[str, list[str]] = {}
    for reason, names in (("comes twice", entries.twice), ("is no object", entries.strange)):
        if names:
            wrong[reason] = list(names)
    tally = Tally()
    for name, record in entries.records.items():
        found = faults(record, entries.form)
        for each in found:
            wrong.setdefault(each, []).append(name)
        if not found:
            tally.add(record, entries.form)
            for each in oddities(record, entries.form):
                odd.setdefault(each, []).append(name)
    bad = {name for names in wrong.values() for name in names}
    value = {
        "file": str(file),
        "form": entries.form,
        "fields": list(FIELDS[entries.form]),
        "records": len(entries.records),
        "good": sum(tally.labels.values()),
        "faults": {reason: {"records": len(names), "names": names} for reason, names in wrong.items()},
        "warnings": {reason: {"records": len(names), "names": names} for reason, names in odd.items()},
        **tally.to_json(),
    }
    parts: list[Table | str] = []
    for title, found_in in (("Faults", wrong), ("Worth a look", odd)):
        rows = [[reason, len(names), some_of(names, 3)] for reason, names in found_in.items()]
        parts += [Table(title, ("what", "records", "for example"), rows, ("records",))] if rows else []
    verdict = f"{file}: {len(entries.records):,} {entries.form} records, " + (
        f"{len(bad):,} of them not of MERR's form." if bad else "all of MERR's form."
    )
    return Page(value, [*parts, *_counts(tally)], verdict, 6 if bad else 0)


def _counts(tally: Tally) -> list[Table | str]:
    """Return what records hold, as tables."""
    if not tally.labels:
        return []
    phrases = [[unit, _listed(count.most_common())] for unit, count in sorted(tally.phrases.items())]
    labels = [
        [label, count, _listed(tally.units[label].most_common(SHOWN))] for label, count in tally.labels.most_common()
    ]
    low, high = tally.indices or (0, 0)
    return [
        Table("Labels", ("label", "records", "AUs in AU_list, with how often each occurs"), labels, ("records",)),
        Table("Phrases", ("AU", "phrases, with how often each occurs"), phrases),
        f"{len(tally.sounds):,} different sound phrases; the commonest: {_listed(tally.sounds.most_common(3))}",
        f"peak_index from {low} to {high}; {tally.broken_lines:,} captions hold line breaks",
    ]


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return "; ".join(f"{word} {count}" for word, count in counts)


# ---- statistics ------------------------------------------------------------------------------------------------------


def stats_page(
    file: Annotated[Path, Arg("A JSON file of MERR's form, coarse or fine.")],
    report: Annotated[Path | None, Flag("Write numbers, page and pictures into this folder.")] = None,
) -> Page:
    """Show labels, action units per label, lengths and variety of the texts of a file of annotations."""
    entries = read_merr(file)
    good = {name: each for name, each in entries.records.items() if not faults(each, entries.form)}
    tally = Tally()
    for record in good.values():
        tally.add(record, entries.form)
    texts = _texts(entries, good)
    lost, drops = _drops(entries, good)
    value = {
        "file": str(file),
        "form": entries.form,
        "records": len(good),
        "left_out": len(entries.records) - len(good) + len(entries.twice) + len(entries.strange),
        "left_out_by_reason": lost,
        "export_drops": drops,
        **tally.to_json(),
        "texts": {name: text_figures(words) for name, words in texts.items()},
    }
    columns = ("text", "records", "empty", "words, median", "words, 5 to 95 %", "distinct-1", "distinct-2", "repeated")
    rows = [
        [
            name,
            found["records"],
            found["empty"],
            f"{found['words']['median']:.0f}",
            f"{found['words']['low']:.0f} to {found['words']['high']:.0f}",
            found["distinct_1"],
            found["distinct_2"],
            found["repeated"],
        ]
        for name, found in value["texts"].items()
    ]
    table = Table("Texts", columns, rows, columns[1:])
    verdict = f"{file}: {len(good):,} {entries.form} records of {len(tally.labels)} labels"
    if value["left_out"]:
        verdict += f"; {value['left_out']:,} not of MERR's form are left out (emo annotate check names them)"
    rows = [[f"left out: {why}", count] for why, count in lost.items()]
    rows += [[f"an export drops: {why}", count] for why, count in drops.items()]
    dropped = [Table("Drops", ("why", "records"), rows, ("records",))] if rows else []
    page = Page(value, [*_counts(tally)[:2], table, *dropped, *_counts(tally)[2:]], verdict + ".")
    if report is not None:
        write_page(page, report, f"Annotations of {file.name}", _pictures(tally, texts, file.name))
    return page


def _drops(entries: Entries, good: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many records are not of the form, and how many of the others an export drops, by reason."""
    lost = Counter(each for record in entries.records.values() for each in faults(record, entries.form)[:1])
    lost.update({"comes twice": len(entries.twice), "is no object": len(entries.strange)})
    dropped = select(good, Selection(entries.form))[1]
    return dict((+lost).most_common()), {reason: len(names) for reason, names in dropped.items()}


def _texts(entries: Entries, good: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    names = (CAPTIONS[entries.form], "audio_prior_list", "text")
    return {name: [str(record[name]) for record in good.values()] for name in names}


def text_figures(texts: Sequence[str]) -> dict[str, Any]:
    """Return lengths and variety of texts.

    `distinct_n` is the number of different n-grams over the number of n-grams of all texts together (Li et al. 2016);
    it falls with the size of a set, so compare sets of like size. `repeated` counts texts that another text equals.
    """
    split = [words_of(text) for text in texts]
    lengths = np.array([len(each) for each in split] or [0])
    low, median, high = np.percentile(lengths, [5, 50, 95]).tolist()
    same = Counter(" ".join(each) for each in split if each)
    return {
        "records": len(texts),
        "empty": sum(not each for each in split),
        "words": {"low": low, "median": median, "high": high},
        "distinct_1": _distinct(split, 1),
        "distinct_2": _distinct(split, 2),
        "repeated": sum(count for count in same.values() if count > 1),
    }


def _distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _pictures(tally: Tally, texts: Mapping[str, Sequence[str]], foot: str) -> list[Picture]:
    from emo.extract.annotate.pictures import bars_png, grid_png, lengths_png

    labels = [label for label, _ in tally.labels.most_common()]
    units = sorted(tally.phrases)
    share = [[tally.units[label][unit] / tally.labels[label] for unit in units] for label in labels]
    caption = next(iter(texts))
    lengths = [len(words_of(text)) for text in texts[caption]]
    return [
        Picture("labels.png", "Records by label", bars_png(dict(tally.labels.most_common()), "records", foot)),
        Picture("units.png", "AUs named per 100 records of a label", grid_png(labels, units, share, foot)),
        Picture("lengths.png", f"Words of {caption}", lengths_png(lengths, "words", foot)),
    ]
