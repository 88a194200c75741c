"""`emo run`: what was trained in a workspace, how two runs differ, and whether their files are whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.errors import EmoError, TrainError, UsageError
from emo.featstore.page import Arg, Page, Table, span_text
from emo.featstore.reading import read_json
from emo.featstore.text import did_you_mean, some_of
from emo.featstore.workspace import Workspace
from emo.train.recipe import read_file, read_keys
from emo.train.runs import DIGESTS, Run, check, is_run, listed_runs, read_run, run_folders, runs_folder, tell_splits

NONE = "There is no run yet: emo train --head attention."
SCORES = ("f1_weighted", "accuracy", "uar")


def list_page(workspace: Workspace) -> Page:
    """List the runs of the workspace, the newest last."""
    runs = sorted(listed_runs(workspace.root), key=lambda run: (str(run.info.get("started_at", "")), run.name))
    keys = ("status", "n_train", "finished_at")
    rows = [(run.name, run.info.get("kind", ""), *(run.info.get(key, "") for key in keys)) for run in runs]
    value = [dict(zip(("run", "kind", *keys), row, strict=True)) for row in rows]
    shown = [(*row[:-1], _minute(row[-1])) for row in rows]
    table = Table("Runs", ("run", "kind", "status", "trained on", "finished (UTC)"), shown, ("trained on",))
    parts: list[Table | str] = [table] if rows else [NONE]
    parts += ["`emo run verify` says what is damaged."] if any(row[2] == "damaged" for row in rows) else []
    return Page(value, parts)


def show_page(workspace: Workspace, run: Annotated[str, Arg("Name of a run: emo run list.")]) -> Page:
    """Show one run: data, features, recipe, scores, and what must stand beside them."""
    found = _run_of(workspace, run)
    info, scores = found.info, _scores(found)
    rows = [(key, text) for key, text in _facts(found) if text]
    features = [(each["key"], each.get("pool", ""), each["profile"]) for each in info.get("features") or []]
    parts: list[Table | str] = [Table(f"Run {found.name}", ("", "value"), rows)]
    parts += [Table("Features", ("feature", "pool", "profile"), features)] if features else []
    table = [[part, *(each.get(key, "") for key in ("n", *SCORES))] for part, each in scores.items()]
    parts += [Table("Scores", ("of", "clips", *SCORES), table, ("clips", *SCORES))] if table else []
    recipe = _recipe(found)
    parts += [Table("Recipe", ("key", "value"), [*recipe.items()])] if recipe else []
    parts += info.get("notes") or []
    return Page({"path": str(found.path), **info, "scores": scores, "recipe": recipe}, parts)


def compare_page(
    workspace: Workspace, run: Annotated[str, Arg("Name of a run.")], other: Annotated[str, Arg("Name of another.")]
) -> Page:
    """Show where two runs differ: data, features, recipe, scores; whether it matters says emo score --against."""
    runs = [_run_of(workspace, name) for name in (run, other)]
    tables = {
        "What they are": [dict(_facts(each)) | {"features": _keys(each)} for each in runs],
        "Recipe": [_recipe(each) for each in runs],
        "Scores": [dict(_numbers(_scores(each))) for each in runs],
    }
    value, parts = {}, []
    for title, (a, b) in tables.items():
        keys = [key for key in {**a, **b} if a.get(key, "") != b.get(key, "")]
        value[title] = {key: [a.get(key), b.get(key)] for key in keys}
        rows = [[key, a.get(key, ""), b.get(key, "")] for key in keys]
        parts.append(Table(title, ("", *(each.name for each in runs)), rows) if rows else f"{title}: no difference")
    return Page(value, parts)


def drop_page(workspace: Workspace, run: Annotated[str, Arg("Name of the run to remove, with all its files.")]) -> Page:
    """Remove a run: its weights, predictions and checkpoints. It cannot be had back."""
    folder = _folder_of(workspace, run)
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)
    return Page({"dropped": run}, [f"removed {folder}"])


def _folder_of(workspace: Workspace, name: str) -> Path:
    folder = runs_folder(workspace.root) / name
    if Path(name).name != name or not is_run(folder):
        near = did_you_mean(name, [each.name for each in listed_runs(workspace.root)])
        raise UsageError(f"{folder} is no run folder.", f"{near} `emo run list` names them.".strip())
    return folder


def _run_of(workspace: Workspace, name: str) -> Run:
    return read_run(_folder_of(workspace, name))


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    info = run.info
    yield "kind", run.kind
    yield "status", str(info.get("status", "")) + (f": {info['error']}" if info.get("error") else "")
    yield "dataset", str(info.get("dataset") or "")
    yield "clips", tell_splits(info["splits"]) if info.get("splits") else ""
    yield "labels", ", ".join(info.get("labels") or ())
    yield "started (UTC)", _minute(info.get("started_at"))
    yield "took", span_text(info["duration_s"]) if info.get("duration_s") is not None else ""


def _minute(time: object) -> str:
    """A time of run.json to the minute: `2026-12-01 02:11`."""
    return str(time or "")[:16].replace("T", " ")


def _keys(run: Run) -> str:
    return ", ".join(each["key"] for each in run.info.get("features") or ())


def _recipe(run: Run) -> dict[str, str]:
    """Keys of the recipe as texts; those of tables by `table.key`."""
    path = run.path / "recipe.yaml"
    if not path.is_file():
        return {}

    def flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
        for key, value in table.items():
            if isinstance(value, Mapping):
                yield from flat(value, f"{before}{key}.")
            else:
                yield f"{before}{key}", _typed(value)

    return dict(flat(read_keys(read_file(path, "recipe"), str(path))))


def _typed(value: Any) -> str:
    """A value as it is typed after `--set key=`; of a feature that is not pooled its name will do."""
    if isinstance(value, list):
        return f"[{', '.join(map(_typed, value))}]"
    if isinstance(value, Mapping):
        plain = set(value) == {"name", "pool"} and value["pool"] == "none"
        return str(value["name"]) if plain else f"{{{', '.join(f'{k}: {_typed(v)}' for k, v in value.items())}}}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _scores(run: Run) -> dict[str, dict[str, Any]]:
    """Scores of validation and of every split, as metrics.json has them."""
    path = run.path / "metrics.json"
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise TrainError(f"{path} is damaged: it is no table of scores.", "`emo run verify` says what else is.")
    parts = {"validation": found.get("validation"), **(found.get("splits") or {})}
    return {name: each for name, each in parts.items() if isinstance(each, dict) and "f1_weighted" in each}


def _numbers(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for part, each in scores.items():
        for key in SCORES:
            if key in each:
                yield f"{part}: {key}", each[key]


def verify_page(
    workspace: Workspace, run: Annotated[str | None, Arg("Name of a run. Default: all of the workspace.")] = None
) -> Page:
    """Compare the files of runs with the digests that were taken when they were written."""
    folders = run_folders(workspace.root) if run is None else [_folder_of(workspace, run)]
    rows: list[tuple[str, ...]] = []
    value = []
    for folder in folders:
        sealed = [path.parent for path in sorted(folder.rglob(DIGESTS))]
        problems = []
        for look in [lambda folder=folder: read_run(folder), *(lambda each=each: check(each) for each in sealed)]:
            try:
                look()
            except EmoError as error:
                problems.append(error.message)
        state = "damaged" if problems else "as written" if folder in sealed else "without digests"
        rows.append((folder.name, state, " ".join(problems)))
        value.append({"run": folder.name, "state": state, "folders": len(sealed), "problems": problems})
    parts: list[Table | str] = [Table("Runs", ("run", "files are", "what"), rows)] if rows else [NONE]
    if bare := [row[0] for row in rows if row[1] == "without digests"]:
        parts.append(f"Made by an earlier version, or not finished, and so without digests: {some_of(bare)}.")
    return Page(value, parts, exit_code=6 if any(row[1] == "damaged" for row in rows) else 0)
