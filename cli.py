"""The `emo` command: parse, call, draw. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json as jsonlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from emo import __version__

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A feature store and head trainer for multimodal emotion recognition.",
    epilog="A workspace is a folder with an emo.toml; commands find it upwards from the current folder.",
)


def _group(name: str, help_: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=help_)
    app.add_typer(group, name=name)
    return group


store_app = _group("store", "Look after the feature store.")
data_app = _group("data", "Datasets: what they are, what is here.")
weights_app = _group("weights", "Model weights: what is here, fetch, check.")
STATE = {"quiet": False, "debug": False}


@app.callback()
def about(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(f"emo {__version__}")
        raise typer.Exit


def command(group: typer.Typer, name: str | None = None, *, example: str) -> Callable[[Any], Any]:
    """Register a command: with an example in its help, and with the flags that every command has."""
    common = {
        "quiet": Annotated[bool, typer.Option("--quiet", help="Print results only.")],
        "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
    }

    def register(function: Any) -> Any:
        @functools.wraps(function)
        def run(*, quiet: bool, debug: bool, **given: Any) -> Any:
            STATE.update(quiet=quiet, debug=debug)
            try:
                return function(**given)
            except KeyboardInterrupt:
                print("emo: interrupted; what is committed is safe, the same command goes on", file=sys.stderr)
                raise typer.Exit(130) from None

        signature = inspect.signature(function, eval_str=True)
        flags = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=t) for n, t in common.items()
        ]
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *flags])  # type: ignore[attr-defined]
        group.command(name, epilog=f"Example: {example}")(run)
        return function

    return register


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Entry point: one clear sentence and an exit code for whatever goes wrong."""
    from emo.featstore.errors import EmoError

    try:
        app()
    except EmoError as error:
        if STATE["debug"]:
            raise
        print(f"emo: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"     {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `emo ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if STATE["debug"]:
            raise
        print(f"emo: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(4)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def _out():
    from rich.console import Console

    return Console(highlight=False)


def _say(text: str) -> None:
    """A message for people: stderr, silenced by --quiet."""
    if not STATE["quiet"]:
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _emit_json(value: Any) -> None:
    def plain(thing: Any) -> Any:
        return dataclasses.asdict(thing) if dataclasses.is_dataclass(thing) else str(thing)

    print(jsonlib.dumps(value, ensure_ascii=False, default=plain))


def _result(json: bool, value: Any, text: str) -> None:
    """What a command has to say: for a program or for a person."""
    if json:
        _emit_json(value)
    else:
        _out().print(text, markup=False, soft_wrap=True)


def _table(title: str, columns: list[str], rows: list[list[Any]], numbers: tuple[str, ...] = ()) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(f"{cell:.4f}" if isinstance(cell, float) else str(cell)) for cell in row])
    _out().print(table)


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


def _workspace():
    from emo.featstore.workspace import find_workspace, load_workspace

    return load_workspace(find_workspace())


def _store():
    from emo.featstore.store import open_store

    return open_store(_workspace().store_path)


# ---- workspace -------------------------------------------------------------------------------------------------------


@command(app, example="emo init my-study")
def init(folder: Annotated[Path, typer.Argument(help="Folder of the new workspace.")] = Path()) -> None:
    """Write a commented emo.toml."""
    from emo.featstore.workspace import write_starter

    _say(f"wrote {write_starter(folder)}; correct the paths in it, then run `emo doctor`")


@command(app, example="emo doctor")
def doctor(json: Json = False) -> None:
    """Say what is here, what is missing and what to do about it."""
    from emo.extract.doctor import diagnose
    from emo.featstore.errors import UsageError
    from emo.featstore.workspace import find_workspace, load_workspace

    try:
        findings = diagnose(load_workspace(find_workspace()))
    except UsageError as error:
        findings = diagnose(None, error)
    if json:
        _emit_json({"findings": findings})
    else:
        rows = [[finding.status, finding.area, f"{finding.what} {finding.do}".strip()] for finding in findings]
        _table("emo doctor", ["", "area", "what, and what to do"], rows)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


# ---- extract ---------------------------------------------------------------------------------------------------------


@command(app, example="emo extract --dataset MER2023-SEMI")
def extract(
    dataset: Annotated[str | None, typer.Option(help="A [data.NAME] table of emo.toml.")] = None,
    split: Annotated[str | None, typer.Option(help="Only clips of this split.")] = None,
    encoders: Annotated[str | None, typer.Option(help="Features, separated by commas.")] = None,
    level: Annotated[str | None, typer.Option(help="utt, frame or tokens. Default: the encoder's own.")] = None,
    profile: Annotated[str | None, typer.Option(help="paper or tiny (random: true sizes, for timing).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:0,cuda:1.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    face: Annotated[
        str | None, typer.Option(help="Who counts, of several people: prominent, largest, longest, central, talking.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N clips that are present.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads. Default: one per core.")] = None,
    commit_every: Annotated[int, typer.Option(min=1, help="Clips per commit (and at least every 30 s).")] = 200,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed for good.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    json: Json = False,
) -> None:
    """Run all encoders over a dataset once and keep their features in the store."""
    from emo.extract.session import Request

    names = tuple(each.strip() for each in encoders.split(",") if each.strip()) if encoders else None
    given = (
        dataset,
        split,
        names,
        level,
        profile,
        device,
        dtype,
        face,
        limit,
        retry_failed,
        workers,
        commit_every,
        dry_run,
    )
    if code := _extract(_workspace(), Request(*given), dry_run=dry_run, json=json):
        raise typer.Exit(code)


def _extract(workspace: Any, request: Any, *, dry_run: bool = False, json: bool = False, silent: bool = False) -> int:
    """Run one pass, draw its progress and (unless `silent`) print its outcome; the exit code."""
    from emo.extract.session import open_session

    session = open_session(workspace, request)
    for line in session.says():
        _say(line)
    if dry_run:
        if json:
            todo = session.plan
            _emit_json({"listed": todo.total, "absent": todo.absent, "done": todo.done, "to_do": len(todo.jobs)})
        return 0
    outcome = _watch(session)
    if json:
        _emit_json(outcome.to_json())
    elif outcome.failures and not silent:
        rows = [[*numbers, "yes" if retry else "no", text] for *numbers, retry, text in outcome.by_kind()]
        _table("What failed", ["kind", "clips", "features", "retry helps", "for example"], rows, ("clips", "features"))
    done = outcome.progress
    if done.stopping:
        _say(f"stopped; {done.done:,} clips are committed, run the same command to go on")
    elif session.plan.jobs:
        _say(f"done: {done.stored:,} features of {done.done:,} clips stored in {session.store_path}")
    else:
        _say("nothing to do")
    return outcome.exit_code


def _watch(session: Any) -> Any:
    """Draw the progress of a running pass; Ctrl-C once finishes what is under way, twice stops at once."""
    import signal
    import threading

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    job = session.job

    def interrupt(number: int, frame: Any) -> None:
        if job.progress.stopping:
            console.show_cursor(True)
            os._exit(130)  # what is committed is safe, the rest is invisible; threads need not agree to it
        job.stop()
        _say("finishing the clips under way; Ctrl-C again stops at once (committed clips stay)")

    console = Console(stderr=True, quiet=STATE["quiet"])
    # A scheduler's SIGTERM is a Ctrl-C too.
    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    finished = threading.Event()
    columns = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()]

    def draw() -> None:
        with Bar(*columns, console=console, refresh_per_second=4, transient=True) as bar:
            task = bar.add_task("", total=len(session.plan.jobs))
            while not finished.wait(0.25):
                state = job.progress
                failed = ", ".join(f"{kind} {n}" for kind, n in list(state.failed.items()))
                words = f"{state.clips_per_s:.1f} clips/s, {state.times_real_time:.0f}x real time"
                bar.update(task, completed=state.done, description=words + (f"; failed: {failed}" if failed else ""))

    drawer = threading.Thread(target=draw, daemon=True)
    if session.plan.jobs:
        drawer.start()
    try:
        return session.run()
    finally:
        finished.set()
        if session.plan.jobs:
            drawer.join()
        for each, handler in before.items():
            signal.signal(each, handler)


# ---- train and score -------------------------------------------------------------------------------------------------


@command(app, example="emo train --head attention --cached")
def train(
    head: Annotated[str | None, typer.Option(help="attention, attention-mer2023 or logistic.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Name of a recipe, or a YAML file.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A [data.NAME] table of emo.toml.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Never touch media or encoders.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value above the recipe; may be repeated.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    resume: Annotated[str | None, typer.Option(help="Name of a run to go on with.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="A difference to accept with --resume.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
) -> None:
    """Train a head, or tune a language model, on cached features."""
    from emo.train.heads.base import load_recipe
    from emo.train.session import feature_names
    from emo.train.session import train as train_it

    workspace = _workspace()
    name = recipe or head or (None if resume else workspace.recipe or "attention")
    chosen = load_recipe(name, [*([f"head={head}"] if head and head != name else []), *(set_ or [])]) if name else None
    if chosen is not None and not cached and (features := feature_names(chosen)):
        from emo.extract.session import Request

        if _extract(workspace, Request(dataset=dataset, encoders=features), silent=json) == 130:
            raise typer.Exit(130)
    going_on = {"resume": bool(resume), "force": force or ()}
    result = train_it(workspace, chosen, dataset, resume or run, device, _now_and_then(), **going_on)
    if json:
        score_json = result.validation.to_json() if result.validation else None
        _emit_json({"run": str(result.run.path), **result.run.info, "validation": score_json})
    elif result.validation is not None:
        _draw_score("Validation", result.validation, result.notes)
    else:
        _out().print("\n".join(result.notes), markup=False, soft_wrap=True)
    _say(f"run: {result.run.path}")


def _now_and_then(every_s: float = 5.0) -> Callable[[str], None]:
    """Print a sentence, but not more often than every few seconds."""
    last = {"at_s": -every_s}

    def say(sentence: str) -> None:
        if time.monotonic() - last["at_s"] >= every_s:
            last["at_s"] = time.monotonic()
            _say(sentence)

    return say


@command(app, example="emo score relative_test3_NCEV.txt --predictions answers.json --answers strict")
def score(
    labels: Annotated[str, typer.Argument(help="Truth: text list, csv, or npz#split; also looked up in the dataset.")],
    run: Annotated[str | None, typer.Option(help="Run whose predictions to score. Default: the newest.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="csv, jsonl or json with predictions or answers.")] = None,
    answers: Annotated[str, typer.Option(help="official, strict, nearest or likelihood.")] = "official",
    require_all: Annotated[bool, typer.Option("--require-all", help="Refuse if a clip has no prediction.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write metrics, text and picture into this folder.")] = None,
    json: Json = False,
) -> None:
    """Score predictions against labels by the published definitions."""
    from emo.featstore.datasets import find_labels
    from emo.featstore.tables import read_labels
    from emo.train.answers import read_predictions
    from emo.train.report import write_report
    from emo.train.score import score as score_them
    from emo.train.session import answers as answers_of

    truth = read_labels(find_labels(labels))
    if predictions is not None:
        found, notes, origin = read_predictions(predictions), [], predictions.name
    else:
        source, found = answers_of(_workspace(), run, list(truth), answers)
        notes, origin = list(source.info["notes"]), source.name
        _say(f"run {source.name}: answers for {len(found):,} of {len(truth):,} clips; the others are not in the store")
    result = score_them(truth, found, answers, allow_missing=not require_all)
    if report is not None:
        write_report(result, report, f"{labels}, {origin}", notes)
        _say(f"report: {report}")
    if json:
        _emit_json({**result.to_json(), "notes": notes})
    else:
        _draw_score(f"{labels}", result, notes)


def _draw_score(title: str, score: Any, notes: Any = ()) -> None:
    from emo.train.report import class_rows, confusion_rows, remarks, summary_rows, verdict

    _table(title, ["", "value"], [list(row) for row in summary_rows(score)], ("value",))
    header, *rows = class_rows(score)
    _table("Per class", list(header), [list(row) for row in rows], tuple(header[1:]))
    header, *rows = confusion_rows(score)
    _table("Confusion (rows: truth)", list(header), [list(row) for row in rows], tuple(header[1:]))
    for line in dict.fromkeys([*remarks(score), *notes]):
        _out().print(line, markup=False, soft_wrap=True)
    _out().print(verdict(score), style="bold", markup=False, soft_wrap=True)


# ---- demo ------------------------------------------------------------------------------------------------------------


@command(app, example="emo demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder of the demo's workspace.")] = Path("emo-demo"),
    clips: Annotated[int, typer.Option(min=4, help="Clips per emotion.")] = 12,
) -> None:
    """Run the whole path on generated clips, offline, in a few minutes."""
    from emo.extract.generate import generate_workspace
    from emo.extract.session import Request
    from emo.train.heads.base import load_recipe
    from emo.train.session import train as train_it

    _say(f"1/4  drawing faces and voices in {folder}")
    generate_workspace(folder, clips)
    os.chdir(folder)
    _say("2/4  emo extract")
    if code := _extract(_workspace(), Request()):
        raise typer.Exit(code)
    _say("3/4  emo train --head attention --cached --set standardise=true")
    train_it(_workspace(), load_recipe("attention", ["standardise=true"]), say=_now_and_then())
    _say("4/4  emo score labels.csv#test --report report")
    score("labels.csv#test", report=Path("report"))
    shows = "the whole path works, from mp4 to score, on drawn faces and synthetic voices with small random encoders"
    _out().print(f"This shows that {shows}; it says nothing about accuracy on people.", soft_wrap=True)
    _say(f"report: {Path('report').resolve()}")


# ---- store -----------------------------------------------------------------------------------------------------------


@command(store_app, "info", example="emo store info")
def store_info(json: Json = False) -> None:
    """Print the card of the store: features, recipes in words, counts, failures."""
    card = _store().info()
    if json:
        _emit_json(card)
        return
    rows = [
        [each["feature"], each["profile"], each["ok"], each["failed"], each["rows"], _size(each["size_bytes"])]
        for each in card["features"]
    ]
    columns = ["feature", "profile", "ok", "failed", "rows", "size"]
    title = f"{card['path']}: {card['clips']:,} clips; failures: {card['failures'] or 'none'}"
    _table(title, columns, rows, tuple(columns[2:]))
    for profile, words in {each["profile"]: each["meaning"] for each in card["features"]}.items():
        _out().print(f"{profile}: {words}", markup=False)


@command(store_app, "ls", example="emo store ls HL-UTT")
def store_ls(
    feature: Annotated[str | None, typer.Argument(help="Only clips of this feature.")] = None, json: Json = False
) -> None:
    """List clips, and which features they have."""
    store = _store()
    keys = [store.resolve(feature).key] if feature else [each.key for each in store.features()]
    clips = store.clips()
    has = {key: store.has(key, clips) for key in keys}
    failed = {(each.feature, each.clip): each.kind for each in store.failures()}
    rows = [
        [clip, *("yes" if has[key][i] else failed.get((key, clip), "-") for key in keys)]
        for i, clip in enumerate(clips)
    ]
    if feature:
        rows = [row for row in rows if row[1] == "yes"]
    if json:
        kept = [[key for key, mark in zip(keys, row[1:], strict=True) if mark == "yes"] for row in rows]
        _emit_json([{"clip": row[0], "features": each} for row, each in zip(rows, kept, strict=True)])
    else:
        names = [key.partition("@")[0] for key in keys]
        _table(f"{len(rows):,} clips", ["clip", *(names if len(set(names)) == len(names) else keys)], rows)


@command(store_app, "verify", example="emo store verify")
def store_verify(
    repair: Annotated[bool, typer.Option("--repair", help="Forget what is damaged, so that it is made again.")] = False,
    json: Json = False,
) -> None:
    """Re-read every byte and compare it with its checksum."""
    store = _store()
    problems = store.repair() if repair else store.verify()
    lines = [f"{each.where}: {each.what} {each.hint}" for each in problems]
    if repair and problems:
        lines.append("The store has forgotten what is damaged; extract again to make it anew.")
    clean = f"{store.path} is clean: every record is as it was committed"
    _result(json, {"clean": not problems, "problems": problems}, "\n".join(lines) or clean)
    if problems and not repair:
        raise typer.Exit(4)


@command(store_app, "gc", example="emo store gc")
def store_gc(json: Json = False) -> None:
    """Remove what no commit names: remains of killed runs, replaced segments."""
    report = _store().gc()
    what = f"{report.segments} segments, {report.journals} journal files, {report.leftovers} left-overs"
    _result(json, report, f"removed {what}: {_size(report.size_bytes)}")


@command(store_app, "compact", example="emo store compact && emo store gc")
def store_compact(json: Json = False) -> None:
    """Merge many small segments into few large ones."""
    report = _store().compact()
    _result(json, report, f"merged {report.merged} segments into {report.written}; `emo store gc` frees the space")


# ---- data ------------------------------------------------------------------------------------------------------------


@command(data_app, "list", example="emo data list")
def data_list(json: Json = False) -> None:
    """List the datasets that emo can read: what they are, how to get them, their terms."""
    from emo.featstore.datasets import DATASETS, card

    cards = [card(name) for name in DATASETS]
    _result(json, cards, "\n".join(each.text() for each in cards))


@command(data_app, "check", example="emo data check MER2023-SEMI")
def data_check(
    dataset: Annotated[str | None, typer.Argument(help="A [data.NAME] table; default: all of them.")] = None,
    json: Json = False,
) -> None:
    """Say how many clips are listed, present, labelled, and what is wrong."""
    from emo.featstore.datasets import open_dataset

    workspace = _workspace()
    tables = [workspace.table(dataset)] if dataset or len(workspace.data) < 2 else list(workspace.data.values())
    checks = [open_dataset(table.name, table).check() for table in tables]
    if json:
        _emit_json(checks)
        return
    for check in checks:
        rows = [*check.counts().items(), ("size on disk", _size(check.size_bytes))]
        _table(check.name, ["clips", "number"], [list(row) for row in rows], ("number",))
        splits = [[s.name, s.listed, s.present, "" if s.published is None else s.published] for s in check.splits]
        _table("Splits", ["split", "listed", "present", "published"], splits, ("listed", "present", "published"))
        for problem in check.problems:
            _out().print(f"problem: {problem}", markup=False, soft_wrap=True)


# ---- weights ---------------------------------------------------------------------------------------------------------


@command(weights_app, "list", example="emo weights list")
def weights_list(json: Json = False) -> None:
    """List the weights that are known or configured, and how to get them."""
    from emo.extract.pull import list_weights

    rows = list_weights(_workspace())
    if json:
        _emit_json(rows)
        return
    cells = [[r.name, r.status, _size(r.size_bytes), r.value, r.how or r.about] for r in rows]
    _table("Weights", ["name", "status", "size", "configured", "what it is, or how to get it"], cells, ("size",))


@command(weights_app, "pull", example="emo weights pull HL-UTT")
def weights_pull(
    name: Annotated[str, typer.Argument(help="A name of `emo weights list`, or a Hugging Face id.")],
    dest: Annotated[Path | None, typer.Option(help="Folder. Default: the Hugging Face cache.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Another hub's address.")] = None,
    token: Annotated[str | None, typer.Option(help="Hugging Face token for gated models.")] = None,
) -> None:
    """Fetch weights; a fetch that was cut off goes on where it stopped."""
    from emo.extract.pull import pull
    from emo.featstore.errors import UsageError

    try:
        workspace = _workspace()
    except UsageError:
        workspace = None  # an id can be fetched anywhere
    say = _now_and_then(2.0)

    def show(file: str, done: int, total: int | None) -> None:
        say(f"{file}: {_size(done)}" + (f" of {_size(total)}" if total else ""))

    print(pull(name, dest, workspace=workspace, endpoint=endpoint, token=token, on_progress=show))


@command(weights_app, "check", example="emo weights check")
def weights_check(json: Json = False) -> None:
    """Look into the headers of every configured weight without loading it."""
    from emo.extract.pull import check_weights

    checks = check_weights(_workspace())
    if json:
        _emit_json([{"name": name, **vars(found)} for name, found in checks])
    else:
        cells = [[name, found.status, f"{found.what} {found.do}"] for name, found in checks]
        _table("Weights", ["name", "status", "what, and what to do"], cells)
    if any(found.status not in ("ok", "unchecked") for _, found in checks):
        raise typer.Exit(5)


if __name__ == "__main__":
    main()
