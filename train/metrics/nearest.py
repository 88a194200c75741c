"""The policy `nearest`: the last word of an answer that is a label or near one, and is not negated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Words that stand for one emotion. `nearest` turns a word into the first member of its first group that the label set
# holds, so the narrow groups come first; a word that is itself a label always stays what it is. `fear`, `contempt` and
# `doubt` are legal answers under Emotion-LLaMA's nine-label prompt, but MER2023 is scored on six. On DFEW's seven,
# worried is fear, contempt is disgust and doubt is surprise.
NEAR_WORDS = (
    ("disgust", "disgusted", "contempt", "contemptuous"),
    ("fear", "fearful", "afraid", "scared"),
    ("excited", "excitement"),
    ("neutral", "calm"),
    ("angry", "anger", "annoyed", "furious", "frustrated", "contempt", "contemptuous", "disgust", "disgusted"),
    ("happy", "happiness", "joy", "joyful", "glad", "pleased", "excited", "excitement"),
    ("sad", "sadness", "sorrow", "sorrowful", "unhappy", "grief"),
    ("worried", "doubt", "doubtful"),
    ("worried", "worry", "anxious", "anxiety", "nervous", "fear", "fearful", "afraid", "scared"),
    ("surprise", "surprised", "amazed", "astonished", "shocked", "doubt", "doubtful"),
)

_TOKENS = re.compile(r"[^\W\d_]+n't|[^\W\d_]+|[.,;:!?()\n–—]")
_NOT_NEGATIONS = re.compile(r"\b(no|without( a| any)?) doubt\b|\bnot (only|just|merely|simply)\b")
_NEGATIONS = frozenset(
    [
        *("not", "no", "never", "neither", "nor", "without", "cannot", "than", "unlike", "opposed", "absence"),
        *("lack", "lacks", "lacking", "hardly", "barely", "scarcely"),
        *("dont", "doesnt", "didnt", "isnt", "wasnt", "arent", "werent", "cant", "wont", "couldnt", "wouldnt"),
    ]
)
_PAIRS = {"instead": "of", "far": "from", "free": "of"}  # negations of two words
_JOINS = frozenset(["or", "nor", "and"])  # the next emotion word is negated together with the last one
_ENDS = frozenset(
    [*".,;:!?()\n–—", "but", "yet", "however", "though", "although", "because", "since", "instead", "and", "while"]
)
_HIDES = frozenset(["hide", "hides", "hiding", "conceal", "suppress", "mask", "disguise", "contain"])  # "cannot hide"
_DENIED = re.compile(r"(is|was|are|were) (not|absent|missing)|(is|was|are|were)n't")  # after the word: "anger is not"


def parse_nearest(answer: str, labels: Sequence[str]) -> str | None:
    """Return the last word that is a label or near one (`NEAR_WORDS`) and not negated, whatever its case.

    A negation (`not`, `no`, `isn't`, `without`, `rather than`, `instead of`, ...) takes away the next emotion word of
    its clause, and those that `or`, `nor` and `and` join to it. A clause ends at a punctuation mark or a word such as
    `but`. English only; `tests/train/metrics/test_nearest.py` lists and counts what this gets wrong.
    """
    table = _near(labels)
    text = _NOT_NEGATIONS.sub(" ", answer.lower().replace("’", "'"))
    tokens = _TOKENS.findall(text)
    gone = _negated(tokens, table)
    return next((table[tokens[i]] for i in reversed(range(len(tokens))) if tokens[i] in table and i not in gone), None)


def _near(labels: Sequence[str]) -> dict[str, str]:
    exact = {label.lower(): label for label in labels}
    table = dict(exact)
    for group in NEAR_WORDS:
        if member := next((exact[word] for word in group if word in exact), None):
            for word in group:
                table.setdefault(word, member)
    return table


def _negated(tokens: Sequence[str], table: Mapping[str, str]) -> set[int]:
    """Return the places of emotion words that a negation takes away."""
    gone: set[int] = set()
    for i, token in enumerate(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        if token in table and _DENIED.match(" ".join(tokens[i + 1 : i + 3])):
            gone.add(i)
        if not (token in _NEGATIONS or token.endswith("n't") or (following and _PAIRS.get(token) == following)):
            continue
        if i and tokens[i - 1] in ("is", "was", "are", "were") and i - 2 in gone:
            continue  # "anger is not ...": it has taken the word before
        first = next((j for j in range(i + 1, len(tokens)) if tokens[j] in table or tokens[j] in _ENDS), None)
        if first is not None and tokens[first] in table and not _HIDES & set(tokens[i:first]):
            gone |= _joined(tokens, first, table)
    return gone


def _joined(tokens: Sequence[str], first: int, table: Mapping[str, str]) -> set[int]:
    """Return a word's place and those of the words joined to it: `anger or fear`, `anger, fear or sadness`."""
    found, at = {first}, first + 1
    while True:
        listed = at  # over ", fear" until a joining word says that this is one list
        while listed + 1 < len(tokens) and tokens[listed] == "," and tokens[listed + 1] in table:
            listed += 2
        listed += listed < len(tokens) and tokens[listed] == ","
        if listed + 1 >= len(tokens) or tokens[listed] not in _JOINS or tokens[listed + 1] not in table:
            return found
        found |= {j for j in range(at, listed + 2) if tokens[j] in table}
        at = listed + 2
