"""Meaning of one cell of a table: a name, a label word, a split, or nothing at all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# What people and programs write for "not annotated": pandas, R, spreadsheets, annotation tools, and by hand.
_WRITTEN = """
nan | null | none | nil | na | n/a | n.a. | #n/a | #na | <na> | nat | undefined | missing | unknown | unk | <unk>
unlabeled | unlabelled | unannotated | not annotated | not available | not labeled | not labelled | no label | nolabel
tbd | todo | #value! | #ref! | #null! | #name? | #div/0! | (null) | (none) | (blank) | (empty) | <none> | <null> | \\n
[] | {} | '' | "" | 未知 | 无 | 空 | 未标注 | 无标注
"""
MISSING = frozenset(word.strip() for line in _WRITTEN.strip().split("\n") for word in line.split(" | "))
_NO_LETTER = re.compile(r"[-_.?*/~–—−…·]+")  # dashes, dots, question marks: a cell that says nothing
# A word of a split's name that says that nobody trains on it: test3, tests, val, validation, dev, eval, held-out, ...
_HELD_OUT = re.compile(
    r"test.*|tst|val(id(ation|ate)?)?(set|data)?|dev(el(opment)?)?(set|data)?|eval(uation)?(set|data)?|heldout|held|holdout"
    r"|hold|unseen|测试.*|验证.*|开发集?|评估.*|评测.*|留出.*"
)
_CODES = frozenset("012")  # 0 trains, 1 tests; or 0 trains, 1 validates, 2 tests


@lru_cache(maxsize=10_000)  # the cells of a long list say the same few things
def visible(text: str) -> str:
    """Text in NFKC without what nobody sees: byte-order marks, zero-width signs, controls, blanks around it; runs of
    blanks (no-break and full-width ones too) are one."""
    text = "".join(
        c
        for c in unicodedata.normalize("NFKC", text)
        if unicodedata.category(c) not in ("Cf", "Cc", "Cs") or c.isspace()
    )
    return " ".join(text.split())


def is_missing(text: str, classes: Iterable[str] = ()) -> bool:
    """Say whether a cell means "not annotated": empty, `nan`, `NA`, `None`, `null`, `-`, `?`, `unknown` and such.

    Args:
        text: The cell.
        classes: Words that the dataset declares as classes: one of them is a class, whatever it looks like.
    """
    word = visible(text).casefold()
    if word and word in {visible(each).casefold() for each in classes}:
        return False
    return _says_nothing(word)


@lru_cache(maxsize=10_000)
def _says_nothing(word: str) -> bool:
    return (
        not word
        or re.sub("[_-](?=[a-z])", " ", word) in MISSING
        or word in MISSING
        or _NO_LETTER.fullmatch(word) is not None
    )


def label_word(text: str, classes: Iterable[str] = ()) -> str | None:
    """The class that a cell names, `None` for "not annotated".

    Words that differ by case, by invisible signs or by their width are one class, and so are `0` and `0.0`.
    """
    return _label_word(text, tuple(classes))


@lru_cache(maxsize=10_000)
def _label_word(text: str, classes: tuple[str, ...]) -> str | None:
    if is_missing(text, classes):
        return None
    word = visible(text).lower()
    return re.sub(r"(?<=\d)\.0+", "", word) if re.fullmatch(r"[-+]?\d+\.0+", word) else word


def cell_text(text: str) -> str | None:
    """Return the text of a cell without invisible signs; `None` for "not annotated"."""
    return None if not text or is_missing(text) else visible(text)


def split_name(text: str) -> str:
    """Split name as it is compared: `test3_corpus`, `test3` and `Test3` are one; so are `train_corpus` and `train`."""
    return visible(text).lower().removesuffix("_corpus")


def held_out(split: str, splits: Iterable[str] = ("0", "1", "2")) -> bool:
    """Say whether a split is held out unless a recipe asks for it: `test3`, `val`, `dev`, `eval`, `held_out`, ...

    Args:
        split: Its name.
        splits: All splits of the dataset. They decide about numbers: where they are `0` and `1`, or `0`, `1` and `2`,
            only `0` is trained on; in a set of other numbers (folds 1 to 5) none is held out.
    """
    name = split_name(split)
    if name in _CODES:
        named = {split_name(each) for each in splits} - {""}
        return name != "0" and "0" in named and named <= _CODES
    words = re.findall(r"[^\W\d_]+", name)
    return not any(word.startswith("train") for word in words) and any(map(_HELD_OUT.fullmatch, words))
