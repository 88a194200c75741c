"""EMER's clue overlap and label overlap: a judge reads the true and the predicted description of a clip.

The protocol is that of EMER's evaluation (AffectGPT, evaluation.py): one question per clip for clues; for labels three,
of which two draw the emotion words from the texts. Its judge, gpt-3.5-turbo-16k-0613, is retired, and the questions are
put here in emo's own words, so no number compares with a published one: score the baselines again with the same judge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np

from emo.featstore.datasets.tables import by_clip, normal_name, read_csv
from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.train.answers import ANSWER_COLUMNS, NAMES, Answers, Prediction, read_answers, read_predictions
from emo.train.metrics.base import Metric, Option, Sample, Say
from emo.train.metrics.compare import deviation
from emo.train.metrics.judges import Chat, find_chat
from emo.train.metrics.labels import shared_clips, too_few

T = TypeVar("T")
KINDS = ("clue", "label")
TITLE = "Descriptions"  # of the table of scores
LANGUAGES = ("zh", "en")
COLUMNS = {"zh": ("chi_reasons", "chinese", "reasons", "reason"), "en": ("eng_reasons", "english", "reasons", "reason")}
ASIDE = ("emotions", "subtitles")  # in EMER's files beside the description
LOWEST, HIGHEST = 1, 10
EXAMPLES = 3
APART = 3.0  # points that the true description must be above another clip's for a judge to be one

# prompt id -> text. A changed text needs a new id: the id stands beside every number.
PROMPTS = {
    "emer-clue-zh-1": (
        "比较对同一人物的两段描述。先分别概括《真实描述》和《预测描述》中与情感状态有关的线索，再判断两者线索的重叠程度："
        "重叠越多，分数越高，范围为1到10。\n只按此格式回答：'分数'：数值；'原因'：一句话\n\n"
        "《真实描述》：{truth}\n\n《预测描述》：{said}\n"
    ),
    "emer-clue-en-1": (
        "Compare two descriptions of the same person. First sum up what each of them, the true and the predicted one, "
        "says about the person's emotional state; then judge how far these clues overlap: the more, the higher the "
        "score, from 1 to 10.\nAnswer in this form only: 'score': number; 'reason': one sentence\n\n"
        "True description: {truth}\n\nPredicted description: {said}\n"
    ),
    "emer-words-zh-1": (
        "从描述中找出人物最可能的情感状态，只写情感词，用逗号分开。\n\n"
        "描述：他面带笑容，其实心里很焦虑\n情感词：焦虑\n\n描述：{text}\n情感词："
    ),
    "emer-words-en-1": (
        "Which emotional states is the person described here most likely in? Write emotion words only, separated by "
        "commas.\n\nDescription: He wears a smile, but inside he is anxious\nWords: anxious\n\n"
        "Description: {text}\nWords:"
    ),
    "emer-label-zh-1": (
        "比较一个人物的《真实情感》和《预测情感》，判断两者的重叠程度：重叠越多，分数越高，范围为1到10。\n"
        "只按此格式回答：'分数'：数值；'原因'：一句话\n\n《真实情感》：{truth}\n\n《预测情感》：{said}\n"
    ),
    "emer-label-en-1": (
        "Compare the true and the predicted emotions of a person and judge how far they overlap: the more, the higher "
        "the score, from 1 to 10.\nAnswer in this form only: 'score': number; 'reason': one sentence\n\n"
        "True emotions: {truth}\n\nPredicted emotions: {said}\n"
    ),
}

_NAMED = re.compile(r"(?:score|分数|得分)[\s'\"’”」*]*(?:is|为|是|[:：=])?[\s'\"‘“「*]*(-?\d+(?:\.\d+)?)", re.I)
_BARE = re.compile(r"\s*['\"‘“*]*(-?\d+(?:\.\d+)?)(?:\s*/\s*10|分)?['\"’”*]*\s*(?:[.。;；,，:：\n].*)?", re.S)
_LISTED = re.compile(r"\s*\d+[.)、]\s*[^\s\d]")  # "1. The person ...": a list, not a score


# ---- texts -----------------------------------------------------------------------------------------------------------


def read_descriptions(path: Path, language: str | None = None) -> dict[str, str]:
    """Read true descriptions by clip name, from EMER's csv files (v1: `names,reasons`; v2: `name,chinese,english`).

    Args:
        path: The file; any other than a csv is read as a file of predictions.
        language: Which column, where there are two; Chinese, as published, if `None`.

    Raises:
        UsageError: It is no such file, or names a clip twice.
    """
    if path.suffix.lower() != ".csv":
        return {name: each.answer for name, each in read_predictions(path).items()}
    columns = (*COLUMNS[language or "zh"], *(COLUMNS["en"] if language is None else ()), *ANSWER_COLUMNS)
    found: dict[str, str] = {}
    for row in read_csv(path, [NAMES, columns]):
        name, text = normal_name(row.fields[NAMES[0]]), row.fields[columns[0]]
        if found.setdefault(name, text) != text:
            raise UsageError(f"{path} line {row.line} describes {name} another way than before.", "Keep one of them.")
    return by_clip(found)


def language_of(texts: Mapping[str, str]) -> str:
    """`zh` if most of the letters are Chinese, else `en`."""
    text = "".join(texts.values())
    chinese = sum("一" <= letter <= "鿿" for letter in text)
    return "zh" if 2 * chinese > sum(letter.isalpha() for letter in text) else "en"


# ---- judges ----------------------------------------------------------------------------------------------------------


def parse_score(reply: str) -> float | None:
    """The score of a reply: the one that it names, or the number that it begins with; `None` if it has no clear one.

    EMER's own parser took the first digit of anything. Rejected here: nothing, prose, the first line of a numbered
    list, two different scores, and numbers outside 1 to 10.
    """
    named = {float(number) for number in _NAMED.findall(reply)}
    if len(named) == 1:
        value = named.pop()
    elif not named and not _LISTED.match(reply) and (bare := _BARE.fullmatch(reply)):
        value = float(bare[1])
    else:
        return None
    return value if LOWEST <= value <= HIGHEST else None


@dataclass(frozen=True)
class Judgement:
    """Judgement of one clip.

    Attributes:
        score: `None` if no reply had one.
        raw: The last reply.
    """

    score: float | None
    raw: str


@dataclass(frozen=True)
class Judge:
    """A model with prompts.

    Attributes:
        chat: The model.
        language: Of prompts and texts.
    """

    chat: Chat
    language: str

    def prompts(self, kind: str) -> list[str]:
        """Ids of the prompts that a kind of judgement needs."""
        return [f"emer-{each}-{self.language}-1" for each in (("clue",) if kind == "clue" else ("words", "label"))]

    def __call__(self, kind: str, truth: str, said: str, seed: int) -> Judgement:
        """Judge one clip."""
        *words, question = (PROMPTS[each] for each in self.prompts(kind))
        for prompt in words:
            truth, said = (self.chat.reply(prompt.format(text=text), seed) for text in (truth, said))
        raw = self.chat.reply(question.format(truth=truth, said=said), seed)
        return Judgement(parse_score(raw), raw)


@dataclass(frozen=True)
class Judged:
    """A judged number, which means nothing without the rest of this.

    Attributes:
        mean: Over clips, and over repeats.
        per_repeat: Mean over clips of each repeat.
        spread: Standard deviation of these; `None` for one repeat.
        n: Clips with a score in every repeat.
        rejected: Replies without a clear score, whose clips are left out.
        rejected_examples: Some of them, by clip.
        judge: Id of the model.
        prompts: Ids of the prompts.
        repeats: How often each clip was judged.
        scale: Of the scores.
    """

    mean: float
    per_repeat: list[float]
    spread: float | None
    n: int
    rejected: int
    rejected_examples: dict[str, str]
    judge: str
    prompts: list[str]
    repeats: int
    scale: str = f"{LOWEST}-{HIGHEST}"


def judge_all(
    judge: Judge,
    kind: str,
    pairs: Mapping[str, tuple[str, str]],
    repeats: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Judged:
    """Judge (true, predicted) descriptions by clip name.

    Raises:
        UsageError: No clip has a score; or as the judge.
    """
    scores: dict[str, list[float]] = {}
    rejected: list[tuple[str, str]] = []
    for done, (name, (truth, said)) in enumerate(pairs.items(), 1):
        found = [judge(kind, truth, said, seed) for seed in range(repeats)]
        rejected += [(name, each.raw) for each in found if each.score is None]
        values = [each.score for each in found if each.score is not None]
        if len(values) == repeats:
            scores[name] = values
        if on_progress is not None:
            on_progress(done, len(pairs))
    examples = {name: raw[:200] for name, raw in rejected[:EXAMPLES]}
    if not scores:
        raise UsageError(
            f"{judge.chat.id} gave no clear score for any of {len(pairs)} clips; it said {rejected[0][1][:200]!r}."
        )
    table = np.array(list(scores.values()))  # (N, repeats)
    means = table.mean(axis=0)
    return Judged(
        mean=float(table.mean()),
        per_repeat=means.tolist(),
        spread=deviation(means),
        n=len(scores),
        rejected=len(rejected),
        rejected_examples=examples,
        judge=judge.chat.id,
        prompts=judge.prompts(kind),
        repeats=repeats,
    )


def shuffled(texts: Mapping[str, str]) -> dict[str, str]:
    """Each clip with the description of the clip half the list further on."""
    names = list(texts)
    return {name: texts[names[(i + max(1, len(names) // 2)) % len(names)]] for i, name in enumerate(names)}


def self_test(truth: Mapping[str, str], rate: Callable[[Mapping[str, tuple[str, str]]], T]) -> dict[str, T]:
    """Scores that a judge gives the truth for the truth, and for the truth of other clips.

    Args:
        truth: Descriptions by clip name, two at least.
        rate: The score of (true, predicted) pairs.
    """
    if len(truth) < 2:
        raise UsageError("A self-test needs the descriptions of two clips or more.")
    others = shuffled(truth)
    return {
        "same": rate({name: (text, text) for name, text in truth.items()}),
        "shuffled": rate({name: (text, others[name]) for name, text in truth.items()}),
    }


# ---- the offline proxy -----------------------------------------------------------------------------------------------

PROXY = "token-overlap-1"


def token_overlap(pairs: Mapping[str, tuple[str, str]]) -> float:
    """Mean over clips of how much of two descriptions' tokens is shared, 0 to 1: no judge, and no stand-in for one.

    Dice's coefficient with tokens weighted by how rare they are among the true descriptions, so that phrases common to
    all say nothing. A token is a word, or two neighbouring Chinese characters.
    """
    sides = [(_tokens(truth), _tokens(said)) for truth, said in pairs.values()]
    seen: dict[str, int] = {}
    for truth, _ in sides:
        for token in truth:
            seen[token] = seen.get(token, 0) + 1

    def weight(tokens: set[str]) -> float:
        return sum(math.log((1 + len(sides)) / seen.get(token, 1)) for token in sorted(tokens))

    shares = [2 * weight(a & b) / both if (both := weight(a) + weight(b)) else 0.0 for a, b in sides]
    return float(np.mean(shares))


def _tokens(text: str) -> set[str]:
    words = set(re.findall(r"[a-z]+", text.lower()))
    return words | {run[i : i + 2] for run in re.findall(r"[一-鿿]+", text) for i in range(max(1, len(run) - 1))}


# ---- the page --------------------------------------------------------------------------------------------------------


def emer_page(
    truth: Mapping[str, str],
    predictions: Mapping[str, str],
    chat: Chat | None,
    kinds: Sequence[str] = KINDS,
    repeats: int = 1,
    test_clips: int = 0,
    allow_missing: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Page:
    """Score descriptions by a judge, or without one by the proxy, which then is all that is told.

    Args:
        truth: Descriptions by clip name.
        predictions: Likewise.
        chat: The judge's model; `None` for the proxy.
        kinds: `clue`, `label`.
        repeats: How often each clip is judged.
        test_clips: Of the truth, for a self-test of the judge before; 0 for none.
        allow_missing: Score the clips that have a prediction although others have none.
        on_progress: Called after every clip.

    Raises:
        UsageError: As `shared_clips`; the two sides are in different languages; or as the judge.
    """
    if repeats < 1 or not set(kinds) <= set(KINDS):
        raise UsageError(f"There is nothing to judge: kinds {', '.join(kinds)}, {repeats} repeats.")
    names, missing = shared_clips([name for name, text in truth.items() if text], predictions, allow_missing)
    pairs = {name: (truth[name], predictions[name]) for name in names}
    language = language_of({name: pair[0] for name, pair in pairs.items()})
    if (other := language_of({name: pair[1] for name, pair in pairs.items()})) != language:
        raise UsageError(
            f"The truth is in {language} and the predictions are in {other}.", f"Give the truth in {other}."
        )
    counts = {"n": len(names), "missing": len(missing), "extra": sum(name not in truth for name in predictions)}
    lines = [f"{len(missing)} descriptions have no prediction and are in no number here."] if missing else []
    if few := too_few(len(names)):
        lines.append(few)
    some = {name: truth[name] for name in names[:test_clips]}
    if chat is None:
        page = _proxy_page(pairs, some)
    else:
        page = _judged_page(Judge(chat, language), kinds, pairs, some, repeats, on_progress)
    value = {**page.value, **counts, "language": language, "notes": []}
    return replace(page, value=value, parts=[*page.parts, *lines])


def _proxy_page(pairs: Mapping[str, tuple[str, str]], some: Mapping[str, str]) -> Page:
    share = token_overlap(pairs)
    tests = self_test(some, token_overlap) if some else {}
    rows = [("shared tokens, 0 to 1", share), *((f"self-test: {what}", each) for what, each in tests.items())]
    return Page(
        {"metric": PROXY, PROXY: share, "scale": "0-1", "self_test": tests or None},
        [
            Table(TITLE, ("", "value"), rows, ("value",)),
            "No judge was asked: this is a share of common tokens, and no figure of EMER's.",
        ],
        f"Shared tokens {share:.4f} ({PROXY}, a proxy) over {len(pairs)} clips.",
    )


def _judged_page(
    judge: Judge,
    kinds: Sequence[str],
    pairs: Mapping[str, tuple[str, str]],
    some: Mapping[str, str],
    repeats: int,
    on_progress: Callable[[int, int], None] | None,
) -> Page:
    lines = ["Judges differ: compare only numbers of the same judge and prompts, and score the baselines again."]
    tests: dict[str, dict[str, Judged]] = {}
    for kind in kinds if some else ():
        found = tests[kind] = self_test(some, lambda each, kind=kind: judge_all(judge, kind, each, repeats))  # type: ignore[misc]
        if found["same"].mean - found["shuffled"].mean < APART:
            lines.append(f"Self-test failed for {kind} overlap: this judge hardly tells the truth from other clips'.")
    results = {kind: judge_all(judge, kind, pairs, repeats, on_progress) for kind in kinds}
    named = {f"{kind} overlap": each for kind, each in results.items()}
    for name, each in named.items():
        if each.rejected:
            lines.append(
                f"{name}: {each.rejected} replies had no clear score, and their clips are left out. For example: "
                + "; ".join(f"{clip}: {raw!r}" for clip, raw in each.rejected_examples.items())
            )
    told = [
        f"{name} {each.mean:.2f}" + ("" if each.spread is None else f" (spread {each.spread:.2f})")
        for name, each in named.items()
    ]
    asked = [prompt for each in results.values() for prompt in each.prompts]
    named |= {f"self-test, {kind}: {what}": each for kind, of in tests.items() for what, each in of.items()}
    columns = ("", "mean", "spread", "repeats", "clips", "judge", "prompts")
    rows = [
        (
            name,
            each.mean,
            "unknown" if each.spread is None else each.spread,
            each.repeats,
            each.n,
            each.judge,
            " ".join(each.prompts),
        )
        for name, each in named.items()
    ]
    return Page(
        {
            "metric": "emer",
            **{f"{kind}_overlap": asdict(each) for kind, each in results.items()},
            "self_test": {kind: {w: asdict(each) for w, each in of.items()} for kind, of in tests.items()} or None,
        },
        [Table(f"{TITLE}, {LOWEST} to {HIGHEST}", columns, rows, columns[1:5]), *lines],
        f"{', '.join(told)} of {HIGHEST}, judged by {judge.chat.id} with {' '.join(asked)}, "
        f"{repeats} repeat{'s' if repeats > 1 else ''}, {len(pairs)} clips.",
    )


def _language(text: str) -> str:
    if text not in LANGUAGES:
        raise ValueError(f"languages are {', '.join(LANGUAGES)}")
    return text


@dataclass(frozen=True, kw_only=True)
class Emer(Metric):
    """EMER's clue and label overlap, by a judge."""

    name = "emer"
    task = "description"
    about = "clue and label overlap of descriptions, by a judge"

    judge: Annotated[str, Option("proxy, URL#MODEL, hf:MODEL or replay:FILE.", "proxy")]
    cache: Annotated[Path | None, Option("Where the judge's replies are kept.", "FILE", Path)] = None
    repeats: Annotated[int, Option("How often the judge sees each clip.", "3", int)] = 1
    self_test: Annotated[int, Option("Clips on which the judge is tried first.", "20", int)] = 0
    language: Annotated[str | None, Option("zh or en.", "zh", _language)] = None

    def truth(self, path: Path) -> Mapping[str, str]:
        return read_descriptions(path, self.language)

    def read(self, path: Path, column: str | None = None) -> Answers:
        languages = LANGUAGES if self.language is None else (self.language,)
        own = tuple(dict.fromkeys(column for language in languages for column in COLUMNS[language]))
        others = [column for columns in COLUMNS.values() for column in columns if column not in own]
        return read_answers(path, column, own, (*ASIDE, *others))

    def score(
        self,
        truth: Mapping[str, str],
        said: Mapping[str, Prediction],
        allow_missing: bool = False,
        say: Say | None = None,
    ) -> Page:
        return emer_page(
            truth,
            {name: each.answer for name, each in said.items()},
            None if self.judge == "proxy" else find_chat(self.judge, self.cache),
            repeats=self.repeats,
            test_clips=self.self_test,
            allow_missing=allow_missing,
            on_progress=None if say is None else lambda done, total: say(f"{done} of {total} clips judged"),
        )

    def page(self, found: Page, title: str, notes: Sequence[str] = ()) -> Page:
        table, *lines = found.parts
        assert isinstance(table, Table)
        parts = [replace(table, title=f"{title}: {table.title}"), *lines, *notes]
        return replace(found, value=found.value | {"notes": list(notes)}, parts=parts)

    @classmethod
    def sample(cls, folder: Path) -> Sample:
        texts = {"a": "He laughs aloud.", "b": "She cries at home.", "c": "He shouts and runs."}
        path = folder / "truth.csv"
        path.write_text("names,reasons\n" + "".join(f"{name},{text}\n" for name, text in texts.items()))
        return Sample(path, {name: Prediction(text) for name, text in texts.items()}, {"judge": "proxy"})
