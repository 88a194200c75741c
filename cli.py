"""The `emo` command: parse, call, draw. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import functools
import inspect
import io
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
    "extract": (
        "emo.extract.pages:extract_page",
        "emo extract --dataset MER2023-SEMI",
        "Run all encoders over a dataset once and keep their features in the store.",
    ),
    "train": (
        "emo.train.pages:train_page",
        "emo train --head attention --cached",
        "Train a head, or tune a language model, on cached features.",
    ),
    "predict": (
        "emo.train.pages:predict_page",
        "emo predict clip.mp4 --task reason",
        "Ask a trained run about clips; what they lack is extracted first.",
    ),
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
    "look": (
        "emo.extract.look:look_page",
        "emo look sample_00000338",
        "Draw what the features of clips have seen: frames, faces, crops, sound.",
    ),
    "transcribe": (
        "emo.extract.transcribe:transcribe_page",
        "emo transcribe --dataset DFEW",
        "Write down what is said in clips whose dataset does not tell.",
    ),
}


class Light:
    """A command that loads pydantic, by which typer judges all values, for texts alone that are to be something else.

    It takes as long to load as numpy, and most commands are given texts and flags.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            param.process_value = functools.partial(_processed, param)
        return params


def _processed(param: Any, ctx: Any, value: Any) -> Any:
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if kind is None:  # another version of typer
        return type(param).process_value(param, ctx, value)
    values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if (not values and param.required) or (kind not in (str, list[str]) and any(type(each) is str for each in values)):
        return type(param).process_value(param, ctx, value)
    if param.multiple or param.nargs == -1:
        value = values
    return value if param.callback is None else param.callback(ctx, param, value)


class Command(Light, typer.core.TyperCommand):
    """One command."""


class Group(Light, typer.core.TyperGroup):
    """Commands of which a slip of the hand names the nearest, in whatever group that is."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise _no_command(ctx, args, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with a whole sentence each, wrapped, where click would cut it at the end of the line."""
        shown = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(limit=400)) for name, each in shown])


def _no_command(ctx: Any, args: list[str], known: list[str]) -> Exception:
    from emo.featstore.errors import UsageError
    from emo.featstore.text import nearest

    group = "" if ctx.parent is None else f"{ctx.info_name} "
    elsewhere = [f"{other} {args[0]}" for other, pages in PAGES.items() if args[0] in pages]
    if meant := nearest(args[0], known, 0.6):
        elsewhere = [" ".join([group + meant, *args[1:2]]).strip()] if meant in PAGES else [group + meant, *elsewhere]
    hint = f"Did you mean `emo {'` or `emo '.join(elsewhere[:3])}`?" if elsewhere else f"There are {', '.join(known)}."
    return UsageError(f"There is no command `emo {group}{args[0]}`.", hint)


class Top(Group):
    """All commands. Those of TOP are imported when one of them is asked for, not when they are listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*TOP, *super().list_commands(ctx)]

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
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A feature store and head trainer for multimodal emotion recognition.",
    epilog="A workspace is a folder with an emo.toml; commands find it upwards from the current folder.",
)


STATE = {"quiet": False, "debug": False, "json": False}


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
                print(f"emo: {str(stopped) or usual}", file=sys.stderr)
                raise typer.Exit(130) from None

        signature = inspect.signature(function, eval_str=True)
        flags = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=t) for n, t in common.items()
        ]
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *flags])  # type: ignore[attr-defined]
        group.command(name, cls=Command, epilog=f"Example: {example}")(run)
        return function

    return register


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Entry point: one clear sentence and an exit code for whatever goes wrong."""
    from emo.featstore.errors import EmoError
    from emo.featstore.processors import tell_libraries

    _speak_any_language()
    tell_libraries(os.environ)
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
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    """A message for people: stderr, silenced by --quiet."""
    if not STATE["quiet"]:
        from emo.featstore.screen import say

        say(text)


def _show(page: Any, json: bool = False) -> None:
    """Draw what a command has to say; then its exit code."""
    from emo.featstore.screen import draw

    draw(page, json)
    if page.exit_code:
        raise typer.Exit(page.exit_code)


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


def _extract(show: bool = False, **what: Any) -> None:
    """Run one pass, for a page that needs its features: `featstore.page.Extract`."""
    from emo.extract.pages import run_pass
    from emo.extract.session import ExtractArgs
    from emo.featstore.screen import draw

    made = run_pass(_workspace(), ExtractArgs(**what), _say, STATE["quiet"])
    if made.exit_code == 130:
        raise typer.Exit(130)
    if show and not STATE["json"]:
        draw(made)


def _ask(*given: Any) -> Any:
    """Show clips to a model and ask it, for a page that needs answers: `featstore.inquiry.Ask`."""
    from emo.extract.annotate.ask import ask

    return ask(*given)


def _first_frame(*given: Any) -> None:
    """Write the first frame of a clip, for layouts that have pictures: `featstore.interop.base.Export`."""
    from emo.extract.media.still import save_first_frame

    save_first_frame(*given)


def _annotation_files(recipe: Any) -> Any:
    from emo.train.recipe import annotation_files

    return annotation_files(recipe)


@command(app, example="emo serve --open")
def serve(
    run: Annotated[str | None, typer.Option(help="Run to ask. Default: the newest.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; all but the loopback need --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 7860,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    token: Annotated[str | None, typer.Option(envvar="EMO_TOKEN", help="Secret that every request must have.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Show a page: ask a run about clips, and walk through the data."""
    _serve(_workspace(), run, host, port, token, device, open_)


def _serve(
    workspace: Any,
    run: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    device: str = "auto",
    open_: bool = False,
) -> None:
    import webbrowser

    from emo.extract.hands import Hands

    _need_page()
    from emo.train.serve.app import serve as serve_it
    from emo.train.serve.desk import Desk

    desk = Desk(workspace, Hands(workspace.root, None if device == "auto" else device), run, device)
    desk.run_name()  # which says that there is none of this name
    serve_it(desk, host, port, token, _say, webbrowser.open if open_ else None)


def _need_page() -> None:
    from emo.featstore.install import need

    need("The page", "serve", "fastapi", "uvicorn", "python_multipart")


# ---- demo ------------------------------------------------------------------------------------------------------------


@command(app, example="emo demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder of the demo's workspace.")] = Path("emo-demo"),
    clips: Annotated[int, typer.Option(min=4, help="Clips per emotion.")] = 12,
    pocket: Annotated[Path | None, typer.Option(help="The labelled clips of this folder, by real networks.")] = None,
    kind: Annotated[str, typer.Option(help="With --pocket: reader of the clips, see `emo data list`.")] = "folder",
    serve: Annotated[bool, typer.Option("--serve", help="End in the page, see `emo serve`.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve: of the page.")] = 7860,
) -> None:
    """Run the whole path on generated clips, offline, in a few minutes; or on clips of your own."""
    if serve:
        _need_page()
    run = _pocket_demo(folder, pocket, kind) if pocket is not None else _drawn_demo(folder, clips)
    if serve:
        _serve(_workspace(), run, port=port)


def _drawn_demo(folder: Path, clips: int) -> str | None:
    """Run the whole path on generated clips; the name of the head's run."""
    from emo.extract.demo import generate_workspace
    from emo.extract.pages import run_pass
    from emo.extract.session import ExtractArgs
    from emo.featstore.errors import UsageError
    from emo.train.metrics.choose import ScoreArgs, scored_page
    from emo.train.recipe import load_recipe
    from emo.train.session import train as train_it

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", "Name a folder for the demo; it is made if it is not there.")
    _say(f"1/6  drawing faces and voices in {folder}")
    generate_workspace(folder, clips)
    os.chdir(folder)
    _say("2/6  emo extract")
    _show(run_pass(_workspace(), ExtractArgs(), _say, STATE["quiet"]))
    _say("3/6  emo train --head attention --cached --set standardise=true")
    trained = train_it(_workspace(), load_recipe("attention", ["standardise=true"]), say=_say)
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
    return trained.run.name if trained is not None else None


def _pocket_demo(folder: Path, root: Path, kind: str) -> str | None:
    """Run the whole path on somebody's labelled clips with small real networks; the name of the run."""
    from emo.extract.pocket import HEAD, start_pocket
    from emo.train.recipe import load_recipe
    from emo.train.session import run_page
    from emo.train.session import train as train_it

    _say(f"1/3  {start_pocket(folder, root, kind)}")
    os.chdir(folder)
    _say("2/3  emo extract")
    _extract(show=True)
    _say("3/3  emo train --cached")
    if (trained := train_it(_workspace(), load_recipe(HEAD), say=_say)) is not None:
        _show(run_page(trained))
    return trained.run.name if trained is not None else None


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
        "drop": ("emo.featstore.cards:store_dropped", "emo store drop HL-UTT@9f2c1ab4 && emo store gc"),
        "gc": ("emo.featstore.cards:store_cleaned", "emo store gc"),
        "compact": ("emo.featstore.cards:store_compacted", "emo store compact && emo store gc"),
        "copy": ("emo.featstore.cards:store_copied", "emo store copy mine.emo s3://bucket/mine.emo"),
    },
    "data": {
        "list": ("emo.featstore.cards:known_datasets", "emo data list"),
        "check": ("emo.featstore.cards:data_check", "emo data check MER2023-SEMI"),
        "counts": ("emo.featstore.datasets.counts:counts_page", "emo data counts MER2023-SEMI"),
        "leaks": ("emo.featstore.datasets.leaks:leaks_command", "emo data leaks --list MERR_fine_grained.json"),
        "conversations": (
            "emo.train.llm.conversations:conversations_page",
            "emo data conversations emotion-llama-stage2 train.json",
        ),
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
        "list": ("emo.train.run_pages:list_page", "emo run list"),
        "show": ("emo.train.run_pages:show_page", "emo run show mine"),
        "compare": ("emo.train.run_pages:compare_page", "emo run compare mine other"),
        "drop": ("emo.train.run_pages:drop_page", "emo run drop mine"),
        "verify": ("emo.train.run_pages:verify_page", "emo run verify"),
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
        "import": ("emo.extract.annotate.imported:import_page", "emo annotate import MERR_fine_grained.json"),
        "export": ("emo.extract.annotate.pages:export_page", "emo annotate export --form merr --out MERR_mine.json"),
        "agree": ("emo.train.metrics.agree:agree_page", "emo annotate agree mine.json MERR_fine_grained.json"),
        "units": ("emo.extract.annotate.correlate:units_page", "emo annotate units --first aus --second mesh-aus"),
        "check": ("emo.extract.annotate.check:check_page", "emo annotate check MERR_fine_grained.json"),
        "stats": ("emo.extract.annotate.check:stats_page", "emo annotate stats MERR_fine_grained.json --report stats"),
    },
}
GROUPS = {
    "store": "Look after the feature store.",
    "data": "Datasets: what they are, what is here.",
    "bench": "Many heads on many features by one protocol: emo bench FILE (or --list) means emo bench run FILE.",
    "run": "Runs: what was trained here, how two differ, and whether their files are whole.",
    "weights": "Model weights: what is here, fetch, check, exchange.",
    "annotate": "Annotations as MERR has them: made from clips, checked, exported.",
}


USUAL = {"bench": "run"}  # group -> the command that is meant where the first word is none


class Pages(Group):
    """A group whose commands are imported when one of them is asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        usual = USUAL.get(str(self.name))
        if usual and args and args[0] not in (*self.list_commands(ctx), "--help", "-h"):
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
        "quiet": lambda: STATE["quiet"],
        "extract": lambda: _extract,
        "ask": lambda: _ask,
        "first_frame": lambda: _first_frame,
        "others": _weights_of_language_models,
        "annotations": lambda: _annotation_files,
    }

    def run(*, json: bool, **given: Any) -> None:
        STATE.update(json=json)
        filled = {name: make() for name, make in fill.items() if name in parameters}
        if (page := function(**filled, **given)) is not None:  # of several processes that train, the first speaks
            _show(page, json)

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
