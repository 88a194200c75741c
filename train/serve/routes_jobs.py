"""Work in the workspace, read only: runs with their state and log, and what is written into the store."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from emo.featstore.errors import UsageError
from emo.featstore.reading import parse_json
from emo.featstore.text import did_you_mean
from emo.train.runs import Run, listed_runs
from emo.train.serve.desk import Desk, NotFound
from emo.train.serve.routes_clips import Text

TAIL_BYTES, TAIL_LINES = 16 << 10, 60
LOGS = ("log.jsonl",)
SHOWN = ("kind", "head", "recipe", "status", "started_at", "finished_at", "duration_s", "n_train", "device", "labels")
STALE_S = 120.0  # a run that says `running` and wrote nothing for so long may have been killed


def router(desk: Desk) -> APIRouter:
    """Return the routes of work."""
    api = APIRouter(prefix="/api", tags=["jobs"])

    @api.get("/jobs")
    def jobs() -> dict[str, Any]:
        """Return runs and what the store holds, the newest first; nothing can be started or ended here."""
        rows = sorted(map(_row, listed_runs(desk.workspace.root)), key=lambda row: str(row["started_at"]), reverse=True)
        return {"runs": rows, "store": _store(desk), "waiting": desk.line.waiting()}

    @api.get("/jobs/log")
    def log(run: Text) -> dict[str, Any]:
        """Return the end of a run's log."""
        known = {each.name: each for each in listed_runs(desk.workspace.root)}
        if (found := known.get(run)) is None:
            hint = did_you_mean(run[:80], known) or "GET /api/jobs lists them."
            raise NotFound(f"There is no run {run[:80]!r}.", hint)
        lines = [line for name in LOGS for line in _tail(found.path / name)]
        return {"run": found.name, "lines": lines, "notes": found.info.get("notes", [])}

    return api


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, **{name: run.info.get(name) for name in SHOWN}}
    newest = max((path.stat().st_mtime for path in run.path.iterdir()), default=0.0)
    row["quiet_s"] = round(time.time() - newest, 1)
    row["stale"] = not run.finished and row["quiet_s"] > STALE_S
    lines = _tail(run.path / LOGS[0])
    row["last"] = lines[-1] if lines and not run.finished else None
    return row


def _tail(path: Path) -> list[Any]:
    """Return the last lines of a file of JSON lines; one that is not whole yet is left out."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines()[1 if size > TAIL_BYTES else 0 :]:
        try:
            found.append(parse_json(line, path.name))
        except UsageError:
            continue
    return found[-TAIL_LINES:]


def _store(desk: Desk) -> dict[str, Any] | None:
    store = desk.store
    if store is None:
        return None
    infos = [*store.features(), *store.features(records=True)]
    return {
        "commits": store.index.number,
        "writers": len(store.medium.leases()),
        "newest": store.index.time,
        "clips": len(store.clips()),
        "features": [
            {"key": each.key, "ok": each.ok, "failed": each.failed, "size_bytes": each.size_bytes} for each in infos
        ],
    }
