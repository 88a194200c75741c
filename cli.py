"""The `emo` command: parse, call, draw. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import json as jsonlib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import typer.core
import typer.main

from emo import __version__

TOP: dict[str, tuple[str, str, str]] = {  # command -> the function that makes its page, an example, what it does
    "score": (
        "emo.train.metrics.choose:score_command",
        "emo score relative_test3_NCEV.txt --predictions answers.json --answers strict",
        "Score predictions against labels by the published definitions.",
    ),
    "submit": (
        "emo.train.challenges.submit:submit_command",
        "emo submit --challenge mer2025 --track semi --run mine",
        "Write what a track of a challenge is handed in as, or check such a file.",
    ),
    "doctor": ("emo.extract.doctor:doctor_command", "emo doctor", "Say what is here, what is missing, what to do."),
    "init": ("emo.extract.pocket:init_page", "emo init my-study", "Write a commented emo.toml."),
    "transcribe": (
        "emo.extract.transcribe:transcribe_page",
        "emo transcribe --dataset DFEW",
        "Write down what is said in clips whose dataset does not tell.",
    ),
}


class Top(typer.core.TyperGroup):
    """All commands. Those of TOP are imported when one of them is asked for, not when they are listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        after = own.index("train") + 1
        return [*own[:after], *TOP, *own[after:]]

    def get_command(self, ctx: Any, name: str) -> Any:
        return typer.core.TyperCommand(name, help=TOP[name][2]) if name in TOP else super().get_command(ctx, name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in TOP:
            return args[0], _made(args[0], *TOP[args[0]][:2]), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Top,
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A feature store and head trainer for multimodal emotion recognition.",
    epilog="A workspace is a folder with an emo.toml; commands find it upwards from the current folder.",
)


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
            except KeyboardInterrupt as stopped:
                usual = "interrupted; what is committed is safe, the same command goes on"
                print(f"emo: {stopped or usual}", file=sys.stderr)
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

    _speak_any_language()
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


def _speak_any_language() -> None:
    """Make sure that no file name and no label stops the command, whatever the locale.

    In a locale that is not UTF-8, names of files would be read as other letters than the label files have: the command
    starts again in Python's UTF-8 mode. A terminal or file that cannot hold a letter gets its number instead.
    """
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8" and "PYTHONUTF8" not in os.environ:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# ---- drawing ---------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    """A message for people: stderr, silenced by --quiet."""
    if not STATE["quiet"]:
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _show(page: Any, json: bool = False) -> None:
    """Draw what a command has to say, for a program or for a person; then its exit code."""
    _draw(page, json)
    if page.exit_code:
        raise typer.Exit(page.exit_code)


def _draw(page: Any, json: bool = False) -> None:
    if json:

        def plain(thing: Any) -> Any:
            return dataclasses.asdict(thing) if dataclasses.is_dataclass(thing) else str(thing)

        letters = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        text = jsonlib.dumps(page.value, ensure_ascii=not letters, default=plain)
        print(text.encode(errors="backslashreplace").decode())
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for part in page.parts:
            if isinstance(part, str):
                console.print(part, markup=False, soft_wrap=True)
            else:
                console.print(_table(part))
        if page.verdict:
            console.print(page.verdict, style="bold", markup=False, soft_wrap=True)


def _table(given: Any) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    look: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "pad_edge": False}
    table = Table(title=Text(given.title), box=box.SIMPLE_HEAD, **look)
    for column in given.columns:
        table.add_column(column, justify="right" if column in given.numbers else "left", overflow="fold")
    for row in given.rows:
        table.add_row(*[Text(f"{cell:.4f}" if isinstance(cell, float) else str(cell)) for cell in row])
    return table


def _workspace(needed: bool = True) -> Any:
    from emo.featstore.errors import UsageError
    from emo.featstore.workspace import find_workspace, load_workspace

    try:
        path = find_workspace()
    except UsageError:
        if needed:
            raise
        return None
    return load_workspace(path)  # one that is there and wrong is never done without


def _store() -> Any:
    from emo.featstore.storage.store import open_store

    return open_store(_workspace().store_path)


def _weights_of_language_models() -> Any:
    from emo.train.recipe import family_weights

    return family_weights()


# ---- extract ---------------------------------------------------------------------------------------------------------


@command(app, example="emo extract --dataset MER2023-SEMI")
def extract(
    dataset: Annotated[str | None, typer.Option(help="A [data.NAME] table of emo.toml.")] = None,
    split: Annotated[str | None, typer.Option(help="Only clips of this split.")] = None,
    encoders: Annotated[str | None, typer.Option(help="Features, or @sets of them, separated by commas.")] = None,
    level: Annotated[str | None, typer.Option(help="utt, frame or tokens. Default: the encoder's own.")] = None,
    profile: Annotated[str | None, typer.Option(help="paper or tiny (random: true sizes, for timing).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:0,cuda:1.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    face: Annotated[
        str | None, typer.Option(help="Who counts, of several people: prominent, largest, longest, central, talking.")
    ] = None,
    audio_track: Annotated[
        int | None, typer.Option(min=1, help="Of several sound tracks, the one to read; the first is 1.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N clips that are present.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="One part of several, as 3/8, while other processes take the others.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads or processes that decode. Default: one per core.")
    ] = None,
    commit_every: Annotated[int, typer.Option(min=1, help="Clips per commit (and at least every 30 s).")] = 200,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed for good.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Write a timeline, for ui.perfetto.dev in a browser.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    json: Json = False,
) -> None:
    """Run all encoders over a dataset once and keep their features in the store."""
    from emo.extract.run.plan import Shard
    from emo.extract.session import ExtractArgs

    names = tuple(each.strip() for each in encoders.split(",") if each.strip()) if encoders else None
    what = {"dataset": dataset, "split": split, "encoders": names, "level": level, "face": face, "limit": limit}
    what |= {"shard": Shard.parse(shard) if shard else None}
    how = {"profile": profile, "device": device, "dtype": dtype, "workers": workers, "commit_every": commit_every}
    how["audio_track"] = audio_track
    request = ExtractArgs(**what, **how, retry_failed=retry_failed, trace=trace, dry_run=dry_run)  # type: ignore[arg-type]
    _show(_extract(_workspace(), request), json)


def _extract(workspace: Any, request: Any) -> Any:
    """Run one pass and draw its progress; the page of its outcome."""
    from emo.extract.session import open_session

    session = open_session(workspace, request)
    for line in session.says():
        _say(line)
    if request.dry_run:
        return session.plan_page()
    outcome = _watch(session)
    done = outcome.progress
    if done.stopping:
        _say(f"stopped; {done.done:,} clips are committed, run the same command to go on")
    elif session.plan.jobs:
        _say(f"done: {done.stored:,} features of {done.done:,} clips stored in {session.store_path}")
    else:
        _say("nothing to do")
    if words := session.job.trace.says():
        _say(words)
    return outcome.page()


def _watch(session: Any) -> Any:
    """Draw the progress of a running pass."""
    import threading

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from emo.extract.run.interrupt import interruptible

    if not session.plan.jobs:
        return session.run()
    console = Console(stderr=True, quiet=STATE["quiet"])
    finished = threading.Event()
    columns = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()]

    def draw() -> None:
        with Bar(*columns, console=console, refresh_per_second=4, transient=True) as bar:
            task = bar.add_task("", total=len(session.plan.jobs))
            while not finished.wait(0.25):
                state = session.job.progress
                failed = ", ".join(f"{kind} {n}" for kind, n in list(state.failed.items()))
                words = f"{state.clips_per_s:.1f} clips/s, {state.times_real_time:.0f}x real time"
                bar.update(task, completed=state.done, description=words + (f"; failed: {failed}" if failed else ""))

    drawer = threading.Thread(target=draw, daemon=True)
    with interruptible(session.job, _say, lambda: console.show_cursor(True)):
        drawer.start()
        try:
            return session.run()
        finally:
            finished.set()
            drawer.join()


# ---- train and score -------------------------------------------------------------------------------------------------


@command(app, example="emo train --head attention --cached")
def train(
    head: Annotated[str | None, typer.Option(help="MERBench's (attention, lf_dnn, misa ...), logistic or knn.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Name of a recipe, or a YAML file.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A [data.NAME] table of emo.toml.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Never touch media or encoders.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value above the recipe; may be repeated.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    resume: Annotated[str | None, typer.Option(help="Name of a run to go on with.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="A difference to accept with --resume.")] = None,
    search: Annotated[
        int | None, typer.Option(min=1, help="Of a head: draw N settings, train all, run the best six times.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    help_recipe: Annotated[
        str | None, typer.Option(help="Print this recipe with what every key means, and train nothing.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a head, or tune a language model, on cached features."""
    if help_recipe:
        from emo.train.recipe_text import explain

        print(explain(help_recipe), end="")
        return
    from emo.train.session import TrainArgs, features_to_extract, run_page
    from emo.train.session import train as train_it

    workspace = _workspace()
    args = TrainArgs(recipe, head, tuple(set_ or ()), run, resume, tuple(force or ()))
    chosen = args.chosen(workspace)
    if not cached and not resume and (features := features_to_extract(chosen)):
        from emo.extract.session import ExtractArgs

        made = _extract(workspace, ExtractArgs(dataset=dataset, encoders=features))
        if made.exit_code == 130:
            raise typer.Exit(130)
        if not json:
            _draw(made)
    how = {"resume": bool(resume), "force": args.force, "search": search}
    result = train_it(workspace, chosen, dataset, resume or run, device, _say, **how)
    if result is None:  # one of several processes, of which the first speaks
        return
    _show(run_page(result), json)
    _say(f"run: {result.run.path}")


@command(app, example="emo predict clip.mp4 --task reason")
def predict(
    clips: Annotated[list[str], typer.Argument(help="Names of clips, media files, or lists of names.")],
    run: Annotated[str | None, typer.Option(help="Run to ask. Default: the newest.")] = None,
    task: Annotated[str, typer.Option(help="emotion, or of a language model reason.")] = "emotion",
    answers: Annotated[str, typer.Option(help="official (free text) or likelihood (of every label).")] = "official",
    transcript: Annotated[str | None, typer.Option(help="What is said in the one clip that is named.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The [data.NAME] table that clips and lists are of.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Never touch media or encoders.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
) -> None:
    """Ask a trained run about clips; what they lack is extracted first."""
    from emo.featstore.datasets.lookup import find_clips
    from emo.train.predictor import open_predictor

    workspace = _workspace()
    predictor = open_predictor(workspace, run, device)
    asked = find_clips(workspace, clips, transcript, predictor.store, dataset)
    predictor.check(answers, task, transcript)
    if not cached and (needs := predictor.needs(asked)):
        from emo.extract.session import ExtractArgs

        what = {"clips": needs.clips, "encoders": needs.encoders, "exactly": needs.keys, "profile": needs.profile}
        if _extract(workspace, ExtractArgs(**what, device=device)).exit_code == 130:
            raise typer.Exit(130)
    found = predictor.predict(asked, answers, task, keep=transcript is None)
    _show(predictor.page(asked, found, task), json)


# ---- demo ------------------------------------------------------------------------------------------------------------


@command(app, example="emo demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder of the demo's workspace.")] = Path("emo-demo"),
    clips: Annotated[int, typer.Option(min=4, help="Clips per emotion.")] = 12,
    pocket: Annotated[Path | None, typer.Option(help="The labelled clips of this folder, by real networks.")] = None,
    kind: Annotated[str, typer.Option(help="With --pocket: reader of the clips, see `emo data list`.")] = "folder",
) -> None:
    """Run the whole path on generated clips, offline, in a few minutes; or on clips of your own."""
    if pocket is not None:
        _pocket_demo(folder, pocket, kind)
        return
    from emo.extract.demo import generate_workspace
    from emo.extract.session import ExtractArgs
    from emo.train.metrics.choose import ScoreArgs, scored_page
    from emo.train.recipe import load_recipe
    from emo.train.session import train as train_it

    _say(f"1/6  drawing faces and voices in {folder}")
    generate_workspace(folder, clips)
    os.chdir(folder)
    _say("2/6  emo extract")
    _show(_extract(_workspace(), ExtractArgs()))
    _say("3/6  emo train --head attention --cached --set standardise=true")
    train_it(_workspace(), load_recipe("attention", ["standardise=true"]), say=_say)
    _say("4/6  emo score labels.csv#test --report report")
    _show(scored_page(ScoreArgs("labels.csv#test", report=Path("report")), _say))
    _say("5/6  emo train --recipe tiny --cached")
    train_it(_workspace(), load_recipe("tiny"), say=_say)
    _say("6/6  emo score labels.csv#test --answers likelihood --report report-llm")
    likely = ScoreArgs("labels.csv#test", report=Path("report-llm"), options={"answers": "likelihood"})
    _show(scored_page(likely, _say))
    shows = "the whole path works, from mp4 to score, on drawn faces and synthetic voices with small random encoders"
    print(f"This shows that {shows}; it says nothing about accuracy on people.")
    _say(f"reports: {Path('report').resolve()}, {Path('report-llm').resolve()}")


def _pocket_demo(folder: Path, root: Path, kind: str) -> None:
    """Run the whole path on somebody's labelled clips with small real networks."""
    from emo.extract.pocket import HEAD, start_pocket
    from emo.extract.session import ExtractArgs
    from emo.train.recipe import load_recipe
    from emo.train.session import run_page
    from emo.train.session import train as train_it

    _say(f"1/3  {start_pocket(folder, root, kind)}")
    os.chdir(folder)
    _say("2/3  emo extract")
    made = _extract(_workspace(), ExtractArgs())
    _draw(made) if made.exit_code != 130 else _show(made)
    _say("3/3  emo train --cached")
    if (trained := train_it(_workspace(), load_recipe(HEAD), say=_say)) is not None:
        _show(run_page(trained))


# ---- commands that are one function of a lower layer -----------------------------------------------------------------

PAGES: dict[str, dict[str, tuple[str, str]]] = {  # group -> command -> the function that makes its page, an example
    "store": {
        "info": ("emo.featstore.cards:store_card", "emo store info"),
        "ls": ("emo.featstore.cards:store_list", "emo store ls HL-UTT"),
        "import": ("emo.featstore.interop.pages:import_command", "emo store import features --layout mertools"),
        "export": ("emo.featstore.interop.pages:export_command", "emo store export tree --layout emotion-llama"),
        "compare": (
            "emo.extract.compare.verdict:compare_command",
            "emo store compare mine.emo theirs/HL-UTT --feature HL-UTT",
        ),
        "search": ("emo.featstore.search:search_page", "emo store search sample_00000338 --feature HL-UTT"),
        "verify": ("emo.featstore.cards:store_health", "emo store verify"),
        "gc": ("emo.featstore.cards:store_cleaned", "emo store gc"),
        "compact": ("emo.featstore.cards:store_compacted", "emo store compact && emo store gc"),
    },
    "data": {
        "list": ("emo.featstore.cards:known_datasets", "emo data list"),
        "check": ("emo.featstore.cards:data_check", "emo data check MER2023-SEMI"),
        "counts": ("emo.featstore.datasets.counts:counts_page", "emo data counts MER2023-SEMI"),
        "leaks": ("emo.featstore.datasets.leaks:leaks_command", "emo data leaks --list MERR_fine_grained.json"),
        "ledger": (
            "emo.train.metrics.ledger:ledger_page",
            "emo data ledger reproduction.md --run emotion-llama-avt=report",
        ),
    },
    "bench": {
        "run": ("emo.train.bench.pages:bench_page", "emo bench run unimodal --dry-run"),
        "ensemble": ("emo.train.bench.pages:ensemble_page", "emo bench ensemble trimodal"),
    },
    "run": {
        "list": ("emo.train.runs:list_page", "emo run list"),
        "verify": ("emo.train.runs:verify_page", "emo run verify"),
    },
    "weights": {
        "list": ("emo.extract.weights_page:weights_page", "emo weights list"),
        "pull": ("emo.extract.weights_page:pulled_page", "emo weights pull HL-UTT"),
        "check": ("emo.extract.weights_page:weights_check_page", "emo weights check"),
        "import": ("emo.train.session:imported_page", "emo weights import checkpoint_best.pth --run official"),
        "export": ("emo.train.session:exported_page", "emo weights export official official.pth --form official"),
    },
    "annotate": {
        "run": ("emo.extract.annotate.pages:run_page", "emo annotate run --dataset MER2023-SEMI"),
        "status": ("emo.extract.annotate.pages:status_page", "emo annotate status"),
        "peek": ("emo.extract.annotate.pages:peek_page", "emo annotate peek sample_00000338"),
        "export": ("emo.extract.annotate.pages:export_page", "emo annotate export --form merr --out MERR_mine.json"),
        "agree": ("emo.train.metrics.agree:agree_page", "emo annotate agree mine.json MERR_fine_grained.json"),
        "check": ("emo.extract.annotate.check:check_page", "emo annotate check MERR_fine_grained.json"),
        "stats": ("emo.extract.annotate.check:stats_page", "emo annotate stats MERR_fine_grained.json --report stats"),
    },
}
GROUPS = {
    "store": "Look after the feature store.",
    "data": "Datasets: what they are, what is here.",
    "bench": "Many heads on many features by one protocol: emo bench FILE (or --list) means emo bench run FILE.",
    "run": "Runs: what was trained here, and whether its files are whole.",
    "weights": "Model weights: what is here, fetch, check, exchange.",
    "annotate": "Annotations as MERR has them: made from clips, checked, exported.",
}


USUAL = {"bench": "run"}  # group -> the command that is meant where the first word is none


class Pages(typer.core.TyperGroup):
    """A group whose commands are imported when one of them is asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        usual = USUAL.get(str(self.name))
        if usual and args and args[0] not in (*self.list_commands(ctx), "--help"):
            args = [usual, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(PAGES[str(self.name)])

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in PAGES[str(self.name)]:
            return None
        return _made(name, *PAGES[str(self.name)][name])


def _made(name: str, where: str, example: str) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    command(alone, name, example=example)(_drawn(where))
    return typer.main.get_command(alone)


def _drawn(where: str) -> Callable[..., None]:
    """Make a command of a function that gives a page: marked parameters become flags and arguments."""
    module, _, name = where.partition(":")
    function = getattr(import_module(module), name)
    parameters = inspect.signature(function, eval_str=True).parameters
    fill = {
        "store": _store,
        "workspace": lambda: _workspace(needed=type(None) not in get_args(parameters["workspace"].annotation)),
        "say": lambda: _say,
        "others": _weights_of_language_models,
    }

    def run(*, json: bool, **given: Any) -> None:
        filled = {name: make() for name, make in fill.items() if name in parameters}
        _show(function(**filled, **given), json)

    flags = [
        parameter.replace(annotation=_option(parameter.annotation), kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in parameters.values()
        if parameter.name not in fill
    ]
    json = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    run.__signature__ = inspect.Signature([*flags, json])  # type: ignore[attr-defined]
    run.__doc__ = inspect.cleandoc(function.__doc__).split("\n\n")[0]
    return run


def _option(annotation: Any) -> Any:
    from emo.featstore.page import Arg

    kind, mark = get_args(annotation)
    if isinstance(mark, Arg):
        return Annotated[kind, typer.Argument(help=mark.help)]
    return Annotated[kind, typer.Option(*([mark.name] if mark.name else []), help=mark.help, min=mark.least)]


for _name, _help in GROUPS.items():
    app.add_typer(typer.Typer(cls=Pages, no_args_is_help=True, rich_markup_mode=None, help=_help), name=_name)

if __name__ == "__main__":
    main()
