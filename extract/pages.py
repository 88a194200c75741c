"""`emo extract`: one pass over a dataset, and how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from emo.featstore.page import Flag, Page
from emo.featstore.text import counted
from emo.featstore.workspace import Workspace

if TYPE_CHECKING:
    from emo.extract.session import ExtractArgs, Session

Say = Callable[[str], None]
LINE_EVERY_S = 30.0  # between two lines on progress where nobody watches a bar


def extract_page(
    workspace: Workspace,
    say: Say,
    quiet: bool,
    dataset: Annotated[str | None, Flag("A [data.NAME] table of emo.toml.")] = None,
    split: Annotated[str | None, Flag("Only clips of this split.")] = None,
    encoders: Annotated[str | None, Flag("Features, or @sets of them, separated by commas.")] = None,
    level: Annotated[str | None, Flag("utt, frame or tokens. Default: the encoder's own.")] = None,
    profile: Annotated[str | None, Flag("paper or tiny (random: true sizes, for timing).")] = None,
    device: Annotated[str | None, Flag("auto, cpu, cuda or cuda:0,cuda:1.")] = None,
    dtype: Annotated[str | None, Flag("float32, float16 or bfloat16.")] = None,
    face: Annotated[
        str | None, Flag("Who counts, of several people: prominent, largest, longest, central, talking.")
    ] = None,
    audio_track: Annotated[
        int | None, Flag("Of several sound tracks, the one to read; the first is 1.", least=1)
    ] = None,
    limit: Annotated[int | None, Flag("Only the first N clips that are present.", least=1)] = None,
    shard: Annotated[str | None, Flag("One part of several, as 3/8, while other processes take the others.")] = None,
    ray: Annotated[
        str | None, Flag("On a Ray cluster: its address, or auto for this machine's. See docs/scale.md.")
    ] = None,
    per_gpu: Annotated[int, Flag("With --ray: workers on each GPU.", "--per-gpu", least=1)] = 1,
    workers: Annotated[int | None, Flag("Threads or processes that decode. Default: one per core.", least=1)] = None,
    commit_every: Annotated[int, Flag("Clips per commit (and at least every 30 s).", least=1)] = 200,
    retry_failed: Annotated[bool, Flag("Try again what failed for good.", "--retry-failed")] = False,
    trace: Annotated[Path | None, Flag("Write a timeline, for ui.perfetto.dev in a browser.")] = None,
    dry_run: Annotated[bool, Flag("Say what would be done, and stop.", "--dry-run")] = False,
) -> Page:
    """Run all encoders over a dataset once and keep their features in the store."""
    from emo.extract.run.plan import Shard
    from emo.extract.session import ExtractArgs

    names = tuple(each.strip() for each in encoders.split(",") if each.strip()) if encoders else None
    what = {"dataset": dataset, "split": split, "encoders": names, "level": level, "face": face, "limit": limit}
    what |= {"shard": Shard.parse(shard) if shard else None}
    how = {"profile": profile, "device": device, "dtype": dtype, "workers": workers, "commit_every": commit_every}
    how |= {"audio_track": audio_track, "ray": ray, "per_gpu": per_gpu}
    request = ExtractArgs(**what, **how, retry_failed=retry_failed, trace=trace, dry_run=dry_run)  # type: ignore[arg-type]
    return run_pass(workspace, request, say, quiet)


def run_pass(workspace: Workspace, request: ExtractArgs, say: Say, quiet: bool = False) -> Page:
    """Run one pass and draw its progress; the page of its outcome."""
    from emo.extract import pace
    from emo.extract.session import open_session

    session = open_session(workspace, request)
    session.executor.say = say
    for line in session.says():
        say(line)
    if request.dry_run:
        return session.plan_page()
    pace.begin()
    outcome = _watch(session, say, quiet)
    done = outcome.progress
    if request.ray is None:
        pace.keep(session.specs, done.done, done.elapsed_s)
    if done.stopping:
        say(f"stopped; {counted(done.done, 'clip')} committed, run the same command to go on")
    elif done.stored or done.failed:
        failed = f"; {done.failed.total():,} failed" if done.failed else ""
        what = f"{counted(done.stored, 'feature')} of {counted(done.done, 'clip')}"
        say(f"done: {what} stored in {session.store_path}{failed}")
    elif session.plan.jobs:
        say(f"done: {counted(done.done, 'clip')} looked at; everything was in {session.store_path} already")
    else:
        say("nothing to do" + (f", and so {request.trace} was not written" if request.trace else ""))
    if words := session.job.trace.says():
        say(words)
    return outcome.page()


def _watch(session: Session, say: Say, quiet: bool) -> Any:
    """Run a pass and say how far it is: a bar on a terminal, elsewhere a line now and then; its outcome."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    from emo.extract.run.interrupt import interruptible

    if not session.plan.jobs:
        return session.run()
    console, finished, total = Console(stderr=True, quiet=quiet), threading.Event(), len(session.plan.jobs)

    def draw() -> None:
        with Bar(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
            task = bar.add_task("", total=2 * total)  # a clip counts when it is decoded, and when it is through
            while not finished.wait(0.25):
                state = session.executor.progress
                bar.update(task, completed=state.decoded + state.done, description=escape(state.says()))

    def tell() -> None:
        while not finished.wait(LINE_EVERY_S):
            say(session.executor.progress.says())

    drawer = threading.Thread(target=draw if console.is_terminal else tell, daemon=True)
    with interruptible(session.executor, say, lambda: console.show_cursor(True)):
        drawer.start()
        try:
            return session.run()
        finally:
            finished.set()
            drawer.join()
