"""The commands of `emo bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from emo.featstore.errors import UsageError
from emo.featstore.page import Arg, Flag, Page, Table
from emo.featstore.workspace import Workspace, find_workspace
from emo.train.bench.recipe import Bench, load_bench, shipped_benches
from emo.train.bench.setup import Say, Setup, open_bench

BENCH = "A YAML file, or the name of a bench that comes with emo."


def bench_page(
    workspace: Workspace | None,
    say: Say,
    bench: Annotated[str | None, Arg(f"{BENCH} See --list.")] = None,
    name: Annotated[str | None, Flag("Name of its folder in benches/. Default: the file's.")] = None,
    set_: Annotated[list[str] | None, Flag("key=value above the file; may be repeated.", "--set")] = None,
    dry_run: Annotated[bool, Flag("Say how many models there are and about how long they take.", "--dry-run")] = False,
    list_: Annotated[bool, Flag("Name the benches that come with emo.", "--list")] = False,
    device: Annotated[str, Flag("auto, cpu or cuda.")] = "auto",
    ray: Annotated[
        str | None, Flag("On a Ray cluster: its address, or auto for this machine's. See docs/scale.md.")
    ] = None,
) -> Page:
    """Train heads on feature sets by one protocol, and rank them. Stopped, the same command goes on."""
    if list_:
        return list_page()
    if bench is None:
        raise UsageError("No bench is named.", f"Benches: {', '.join(shipped_benches())}; or give a .yaml file.")
    setup = _opened(workspace, say, bench, name, set_)
    from emo.train.bench.estimate import estimate_page  # torch takes seconds, and wrong keys should be told at once
    from emo.train.bench.report import write_bench
    from emo.train.bench.run import run_bench

    if dry_run:
        return estimate_page(setup, device, say)
    if ray is not None and workspace is not None:
        from emo.train.bench.rays import train_cells

        train_cells(workspace, setup, ray, device, say)
    return write_bench(setup, run_bench(setup, device, say))


def ensemble_page(
    workspace: Workspace | None,
    say: Say,
    bench: Annotated[str, Arg(BENCH)],
    name: Annotated[str | None, Flag("Name of its folder in benches/. Default: the file's.")] = None,
    set_: Annotated[list[str] | None, Flag("As the bench was run with.", "--set")] = None,
) -> Page:
    """Put the cells of a bench together: averaging and routing over their cached answers, chosen on validation."""
    from emo.train.bench.ensemble import run_ensemble

    return run_ensemble(_opened(workspace, say, bench, name, set_))


def _opened(workspace: Workspace | None, say: Say, bench: str, name: str | None, set_: list[str] | None) -> Setup:
    keys = load_bench(bench, set_ or [])
    if workspace is None:
        find_workspace()  # which says that there is none
        raise UsageError("There is no workspace.", "emo init makes one.")
    return open_bench(workspace, keys, name or Path(bench).stem, say)


def list_page() -> Page:
    """Name the benches that come with emo."""
    found: dict[str, Bench] = {name: load_bench(name) for name in shipped_benches()}
    rows = [(name, each.title, len(each.features), len(each.heads)) for name, each in found.items()]
    columns = ("bench", "what", "sets", "heads")
    value = [dict(zip(columns, row, strict=True)) for row in rows]
    return Page(value, [Table("Benches that come with emo", columns, rows, columns[2:])])
