"""Published figures, what it takes to run each, and what emo got: a page that a command writes and nobody edits.

Rows are taken from places that can be cited, a README or a paper's abstract, and from the report that emo began with.
Figures that were only reported in threads, or that nobody could check, are left out; a posted confusion matrix can be
checked: its scores follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.errors import UsageError
from emo.featstore.files import write_atomic
from emo.featstore.page import Arg, Flag, Page
from emo.featstore.reading import read_json
from emo.featstore.text import some_of

README = "Emotion-LLaMA, README.md"
ABSTRACT = "arXiv 2304.08981, abstract"
ENCODERS = "weights of the four encoders"
F1 = ("F1, weighted", "f1_weighted")
NONE = ""  # published by nobody: a row of emo's own


@dataclass(frozen=True)
class Figure:
    """A published figure.

    Attributes:
        id: To name it by.
        task: Data set and part.
        system: What was measured.
        metric: Its name; the same word can mean another metric elsewhere.
        key: Where a report's metrics.json has it, with dots.
        value: As published, with all its digits; shares of 1. `NONE` for a row of emo's own.
        source: Where it was published.
        needs: What it takes to run it.
        n: Clips that it is over, where that is known.
    """

    id: str
    task: str
    system: str
    metric: str
    key: str
    value: str
    source: str
    needs: str
    n: int | None = None


def _rows(
    task: str, metric: tuple[str, str], source: str, needs: str, *rows: tuple[str, str, str], n: int | None = None
) -> list[Figure]:
    """Figures of one kind from (id, system, value)."""
    return [Figure(id_, task, system, *metric, value, source, needs, n) for id_, system, value in rows]


def _overlaps(*rows: tuple[str, str, str]) -> list[Figure]:
    """EMER's two figures from (system, clue, label)."""
    judged = "overlap, 1 to 10, judged by gpt-3.5-turbo-16k-0613 (retired)"
    needs = "EMER, descriptions by this model, a judge (another judge's figures are others)"
    return [
        Figure(
            f"emer-{system.lower()}-{kind}",
            "EMER, 100 clips",
            system,
            f"{kind} {judged}",
            f"{kind}_overlap.mean",
            value,
            README,
            needs,
            100,
        )
        for system, *values in rows
        for kind, value in zip(("clue", "label"), values, strict=True)
    ]


FIGURES: tuple[Figure, ...] = (
    *(
        figure
        for source, rows in (
            (README, [("emotion-llama-avt", "Emotion-LLaMA, audio + video + text", "0.9036")]),
            ("the report that emo began with", [("reproduction-avt", "the same, reproduced", "0.8999")]),
            (README, [("emotion-llama-av", "Emotion-LLaMA, audio + video", "0.8905")]),
        )
        for figure in _rows(
            "MER2023-SEMI test3",
            F1,
            source,
            f"MER2023 (EULA), LLaMA-2-7B-chat, MiniGPT-v2, {ENCODERS}, MERR, pseudo labels",
            *rows,
            n=834,
        )
    ),
    *_rows(
        "MER2023-SEMI test3",
        F1,
        README,
        "MER2023 (EULA), this model and its encoders",
        ("vat-av", "VAT, audio + video", "0.8911"),
        ("fbp", "FBP", "0.8855"),
        ("transformer-avt", "Transformer, audio + video + text", "0.8853"),
        ("baseline-av", "MER2023 baseline, audio + video", "0.8675"),
        ("baseline-avt", "MER2023 baseline, audio + video + text", "0.8640"),
        n=834,
    ),
    *_rows(
        "MER2023-SEMI test3",
        F1,
        README,
        "MER2023 (EULA), weights of this encoder",
        ("hubert", "audio: HuBERT", "0.8511"),
        ("vggish", "audio: VGGish", "0.5481"),
        ("wav2vec2", "audio: wav2vec 2.0", "0.4028"),
        ("videomae", "video: VideoMAE", "0.6068"),
        ("mae", "video: MAE", "0.5547"),
        ("resnet", "video: ResNet", "0.4132"),
        ("macbert", "text: MacBERT", "0.4632"),
        ("bert", "text: BERT", "0.4360"),
        ("roberta", "text: RoBERTa", "0.4061"),
        n=834,
    ),
    *(
        figure
        for task, n, values in (
            ("MER2023-MULTI test1", 411, ("0.7757", "0.82", "0.5707")),
            ("MER2023-NOISE test2", 412, ("0.6982", "1.12", "0.4182")),
        )
        for key, metric, source, value in zip(
            ("f1_weighted", "mse", "combined"),
            ("F1, weighted", "valence MSE", "F1 - MSE / 4"),
            (ABSTRACT, ABSTRACT, f"{ABSTRACT}; derived"),
            values,
            strict=True,
        )
        for figure in _rows(
            task,
            (metric, key),
            source,
            "MER2023 (EULA), the baseline's encoders",
            (f"baseline-{task.split()[1]}-{key}", "MER2023 baseline", value),
            n=n,
        )
    ),
    *_rows(
        "MER2024-NOISE",
        F1,
        README,
        f"MER2024 (EULA), LLaMA-2-7B-chat, {ENCODERS}",
        ("noise-sztu-cmu", "SZTU-CMU (Emotion-LLaMA + Conv-Attention)", "0.8530"),
        ("noise-emotion-llama", "Emotion-LLaMA", "0.8452"),
    ),
    *_rows(
        "MER2024-SEMI",
        F1,
        "arXiv 2409.04447, abstract",
        "MER2024 (EULA), this team's features",
        ("semi-sixth", "sixth place", "0.8825"),
    ),
    *(
        figure
        for key, metric, value in (
            ("accuracy", "set accuracy", "0.5818"),
            ("recall", "set recall", "0.4978"),
            ("score", "mean of set accuracy and recall", "0.5398"),
        )
        for figure in _rows(
            "MER2024-OV, the scorer's example",
            (metric, key),
            "MERTools, MER2024/README.md",
            "check-openset.csv, predict-openset.csv and openset-synonym.zip of MERTools",
            (f"openset-example-{key}", "answers shipped with it", value),
            n=332,
        )
    ),
    *(
        figure
        for key, values in (("uar", ("0.4559", "0.5627", None)), ("war", ("0.5937", "0.6583", "0.7668")))
        for task, source, needs, id_, system, value in zip(
            ("DFEW set 1, zero-shot", "DFEW", "DFEW, supervised"),
            (f"{README}; its author found less in 2026", "R1-Omni, README.md", "S4D, abstract"),
            (f"DFEW (on request), LLaMA-2-7B-chat, {ENCODERS}", *["DFEW (on request), weights of this model"] * 2),
            ("dfew-emotion-llama", "dfew-r1-omni", "dfew-s4d"),
            ("Emotion-LLaMA", "R1-Omni 0.5B, in-domain", "S4D, video only"),
            values,
            strict=True,
        )
        if value is not None
        for figure in _rows(task, (key.upper(), f"mean.{key}"), source, needs, (f"{id_}-{key}", system, value))
    ),
    *_rows(
        "MER2023-SEMI test3",
        F1,
        "emo",
        "label-6way.npz and the transcripts of MER2023 (MERTools)",
        ("text-minilm", "text: MiniLM on English transcripts, logistic regression", NONE),
        n=834,
    ),
    *(
        figure
        for id_, system, value, source in (
            ("matrix-stage2", "stage 2", "0.9036", "Emotion-LLaMA, save_checkpoint/stage2/result/MER2023.txt"),
            ("matrix-merr", "stage 1 on MERR's coarse records", "0.8177", "Emotion-LLaMA, issue 93"),
            ("matrix-pseudo", "stage 1 on pseudo labels", "0.8912", "Emotion-LLaMA, issue 93"),
            ("matrix-user", "what a user got", "0.6367", "Emotion-LLaMA, issue 69"),
        )
        for figure in _rows(
            "Posted confusion matrices, MER2023-SEMI test3: the scorer alone",
            F1,
            source,
            "the matrix",
            (id_, system, value),
            n=834,
        )
    ),
    *(
        figure
        for level, value in (("level1", "0.5546"), ("level2", "0.4246"))
        for figure in _rows(
            "MER2026-OV, the scorer's example",
            (f"emotion wheels, F at level {level[-1]}", f"levels.{level}.f"),
            "MERTools, its code on its example",
            "check-openset.csv, predict-openset.csv and wheel_mapping.npz of MERTools",
            (f"wheel-{level}", "answers shipped with it", value),
        )
    ),
    *_overlaps(
        ("VideoChat-Text", "6.42", "3.94"),
        ("Video-LLaMA", "6.64", "4.89"),
        ("Video-ChatGPT", "6.95", "5.74"),
        ("PandaGPT", "7.14", "5.51"),
        ("VideoChat-Embed", "7.15", "5.65"),
        ("Valley", "7.24", "5.77"),
        ("Emotion-LLaMA", "7.83", "6.25"),
    ),
)


def write_ledger(path: Path, runs: Mapping[str, Path]) -> str:
    """Write the page of all published figures, with what the given reports obtained.

    Args:
        path: The page to write, such as docs/reproduction.md.
        runs: By `Figure.id`: a report folder (`emo score --report`), or its metrics.json: the only source of values.
            Its `how`, where it has one, is told.

    Returns:
        The text written.

    Raises:
        UsageError: An unknown id; a report that is absent, lacks the metric, or is over another number of clips.
    """
    by_id = {figure.id: figure for figure in FIGURES}
    if strange := [each for each in runs if each not in by_id]:
        raise UsageError(f"The ledger has no row {strange[0]!r}.", f"Rows: {some_of(list(by_id), 100)}.")
    found = {id_: _obtained(by_id[id_], report) for id_, report in runs.items()}
    lines = [
        "# Reproduction",
        "",
        "Written by a command from the published figures in `train/metrics/ledger.py` and from the reports of runs; no "
        "value is typed in by hand. Shares of 1, unless the metric says otherwise.",
    ]
    for task in dict.fromkeys(figure.task for figure in FIGURES):
        lines += [
            "",
            f"## {task}",
            "",
            "| system | metric | published | emo | source | row |",
            "|---|---|---|---|---|---|",
        ]
        for figure in (each for each in FIGURES if each.task == task):
            got = found[figure.id][0] if figure.id in found else f"not run: needs {figure.needs}"
            cells = (figure.system, figure.metric, figure.value or "-", got, figure.source, f"`{figure.id}`")
            lines.append(f"| {' | '.join(cells)} |")
        for figure in (each for each in FIGURES if each.task == task and each.id in found):
            if found[figure.id][1]:
                lines += ["", f"`{figure.id}`: {' '.join(found[figure.id][1])}"]
    text = "\n".join([*lines, ""])
    write_atomic(path, text)
    return text


def ledger_page(
    path: Annotated[Path, Arg("The page to write, such as docs/reproduction.md.")],
    run: Annotated[list[str] | None, Flag("ROW=REPORT: a folder of `emo score --report`; may be repeated.")] = None,
    reports: Annotated[Path | None, Flag("Folder of reports, ROW.json each, such as docs/reports.")] = None,
) -> Page:
    """Write the page of published figures, with what reports of emo obtained beside each.

    Raises:
        UsageError: Not of the form ROW=REPORT; or as `write_ledger`.
    """
    given: dict[str, Path] = {}
    runs = {file.stem: file for file in sorted(reports.glob("*.json"))} if reports else {}
    for pair in run or ():
        row, equals, report = pair.partition("=")
        if not equals or row in given:
            raise UsageError(f"--run {pair!r} is not one ROW=REPORT.", "For example: --run emotion-llama-avt=report.")
        given[row] = Path(report)
    runs |= given
    write_ledger(path, runs)
    return Page(
        {"path": str(path), "rows": len(FIGURES), "obtained": sorted(runs)},
        [f"{path}: {len(FIGURES)} published figures, {len(runs)} of them obtained"],
    )


def _obtained(figure: Figure, report: Path) -> tuple[str, list[str]]:
    """A report's value of a figure, to as many digits, and the sentences that must stand beside it."""
    file = report / "metrics.json" if report.is_dir() else report
    try:
        metrics: Any = read_json(file)
        owner = value = metrics
        for part in figure.key.split("."):
            owner, value = value, value[part]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{file} has no {figure.key}, which row {figure.id} is about.",
            "Give a folder that emo score --report wrote.",
        ) from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise UsageError(f"{file}: {figure.key} is no number but {value!r}.")
    if figure.n is not None and metrics.get("n") != figure.n:
        raise UsageError(f"{file} is over {metrics.get('n')} clips where row {figure.id} is over {figure.n}.")
    text = f"{value:.{len(figure.value.partition('.')[2]) or 4}f}"
    if "judge" in owner:
        spread = "unknown" if owner["spread"] is None else f"{owner['spread']:.2f}"
        text += f" by {owner['judge']} ({' '.join(owner['prompts'])}; repeats {owner['repeats']}, spread {spread})"
    how = [f"Obtained by {metrics['how']}."] if metrics.get("how") else []
    return text, [*how, *(metrics.get("notes") or [])]
