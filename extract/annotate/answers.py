"""Is an answer of a model one: checks that need no second model, each of which ends in a typed failure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

from emo.extract.annotate.actions import label_words
from emo.featstore.errors import MediaError
from emo.featstore.sources.chat import Reply

GRAM = 6  # words in a row by which an answer repeats the prompt
REPEATED = 0.6  # share of the answer's word groups that are the prompt's
ECHOED = 0.9  # share of the prompt's word groups that an echo holds
LONGEST = 4000  # letters of an answer that is one
# What refusals of common models begin with or hold; only the first sentences are looked at.
REFUSALS = re.compile(
    r"\bI(?:'m| am) (?:sorry|unable|not able)\b|\b(?:sorry|unfortunately),? (?:but )?I (?:can|am|do)"
    r"|\bI (?:can(?:no|')t|cannot|do(?: no|n')t|won't|am not able to) "
    r"(?:assist|help|provide|analy[sz]e|see|view|hear|listen|identify|describe|process|fulfil|comply|access)"
    r"|\bas an AI\b|\bagainst (?:my|our) (?:guidelines|policy|policies)\b"
    r"|(?:抱歉|对不起|很遗憾)[,，]?\s*(?:我|但)|我(?:无法|不能|没办法)(?:提供|分析|查看|看到|听|识别|描述|协助|回答)|作为(?:一个|一名)?(?:AI|人工智能)",
    re.IGNORECASE,
)
WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")
THINKS = re.compile(r"<(?:think|thinking|thought|reasoning)>|\[THINK\]", re.IGNORECASE)  # Magistral has brackets
THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]", re.IGNORECASE)
HEAD = 200  # letters of an answer in which a refusal stands
QUOTED = re.compile(r"[\"“「].*?(?:[\"”」]|$)", re.DOTALL)
YES, NO = re.compile(r"\W*(yes\b|是|对|符合)", re.I), re.compile(r"\W*(no\b|否|不)", re.I)


def check_answer(reply: Reply, *, asked: str, filled: str = "") -> str:
    """Return an answer without what the model thought aloud before it, and without blanks around it.

    Args:
        reply: The answer, and how it ended.
        asked: What was asked, without the clip's clues.
        filled: What was asked, with them.

    Raises:
        MediaError: `empty-answer`, `cut-off-answer`, `refused`, `repeats-prompt` or `too-long-answer`.
    """
    if reply.filtered:
        raise MediaError("refused", f"A filter of the endpoint has broken the answer off: {_end(reply.text)!r}.")
    plain = _spoken(reply.text).strip()
    if reply.cut:
        raise MediaError("cut-off-answer", f"The answer ends at the limit of tokens: {_end(plain)!r}.", "Raise it.")
    if not plain:
        raise MediaError("empty-answer", "The model said nothing.")
    if refuses(plain):
        raise MediaError("refused", f"The model refuses: {plain[:120]!r}.")
    if len(plain) > LONGEST:
        raise MediaError("too-long-answer", f"The answer has {len(plain):,} letters; {LONGEST:,} are the most.")
    if repeats(plain, asked) or (filled and holds(plain, filled)):
        raise MediaError("repeats-prompt", f"The model repeats what it is asked: {plain[:120]!r}.")
    return plain


def _spoken(text: str) -> str:
    """Answer behind the thoughts: chat templates may open `<think>` themselves, so that a reply holds its end only."""
    said = THOUGHT.split(text)[-1]
    if THINKS.search(said):
        raise MediaError("cut-off-answer", "The model thinks aloud and comes to no answer.", "Let it say more.")
    return said


def refuses(text: str) -> bool:
    """Say whether an answer begins with a refusal; what it quotes is not its own."""
    return bool(REFUSALS.search(QUOTED.sub(" ", text[:HEAD])))


def repeats(text: str, asked: str) -> bool:
    """Say whether most of an answer is what was asked: its groups of six words (or Chinese characters) in a row."""
    mine, given = _grams(text), _known_grams(asked)
    return bool(mine) and sum(map(given.__contains__, mine)) >= REPEATED * len(mine)


def holds(text: str, asked: str) -> bool:
    """Say whether an answer holds nearly all of what was asked, as an echo does."""
    mine = set(_grams(text))
    given = _grams(asked) if mine else []
    return bool(given) and sum(map(mine.__contains__, given)) >= ECHOED * len(given)


def _grams(text: str) -> list[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return list(zip(*(words[i:] for i in range(GRAM)), strict=False))


@lru_cache(maxsize=64)
def _known_grams(asked: str) -> frozenset[tuple[str, ...]]:
    return frozenset(_grams(asked))


def check_label(caption: str, label: str, quoted: Sequence[str] = ()) -> None:
    """Refuse a caption that names another emotion and not its own.

    Args:
        caption: The caption.
        label: Its label.
        quoted: Texts in it that are no words of the caption's own, such as what the person says.

    Raises:
        MediaError: `contradicts-label`.
    """
    plain = caption.lower()
    for each in quoted:
        if each.strip():
            plain = plain.replace(each.strip().lower(), " ")
    found = [name for name, words in emotion_names().items() if words.search(plain)]
    if found and label in label_words() and label not in found:
        sentence = f"The caption speaks of {', '.join(found)} and not of {label}: {_end(caption)!r}."
        raise MediaError("contradicts-label", sentence)


@cache
def emotion_names() -> Mapping[str, re.Pattern[str]]:
    """Return what names each emotion: an English word of its own, or a Chinese one anywhere."""
    return {
        name: re.compile("|".join([rf"\b(?:{'|'.join(words['en'])})\b", *map(re.escape, words["zh"])]))
        for name, words in label_words().items()
    }


def check_verdict(text: str) -> None:
    """Read a second model's verdict.

    Raises:
        MediaError: `not-verified` where it is no, `unclear-verdict` where it is neither yes nor no.
    """
    if NO.match(text):
        raise MediaError("not-verified", f"The second model does not agree: {text.strip()[:120]!r}.")
    if not YES.match(text):
        raise MediaError("unclear-verdict", f"The second model says neither yes nor no: {text.strip()[:120]!r}.")


def _end(text: str) -> str:
    return ("..." if len(text) > 100 else "") + " ".join(text.split())[-100:]
