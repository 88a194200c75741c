"""Ask a finished run about clips: what it needs for that, what it says, and how that is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.errors import UsageError
from emo.featstore.files import write_atomic
from emo.featstore.page import Page, Table
from emo.featstore.storage.store import has_store, open_store
from emo.featstore.text import some_of
from emo.featstore.workspace import Workspace
from emo.train.answers import Prediction
from emo.train.metrics.labels import POLICIES
from emo.train.recipe import load_recipe
from emo.train.runs import Run, latest_run, load_run

NOT_EXTRACTED = "its features are not in the store"


def find_run(workspace: Workspace, name: str | None = None) -> Run:
    """A run of the workspace by its name; the newest finished one if `None`.

    Raises:
        UsageError: There is no such run, or none is finished.
    """
    return load_run(workspace.root / "runs" / name) if name else latest_run(workspace.root)


def answers(
    workspace: Workspace,
    run: Run,
    clips: Sequence[Clip],
    policy: str = "official",
    device: str = "auto",
    task: str = "emotion",
    keep: bool = True,
) -> dict[str, Prediction]:
    """What a run says of those of the clips whose features are in the store, or that it has answered before.

    Args:
        workspace: Where the store is.
        run: From `find_run`.
        clips: Names and transcripts are used.
        policy: How a language model answers: `likelihood`, or free text.
        device: `auto`, `cpu`, `cuda`, ...
        task: `emotion`, or for a language model `reason` and others.
        keep: Whether a language model's answers come from the run folder where they are known, and go there.

    Raises:
        UsageError: The run is not finished, or does not know the task.
        FeatureMissing: The store lacks a feature that the run needs altogether.
    """
    store = open_store(workspace.store_path) if run.info.get("features") else None
    if run.info.get("kind") == "tune":
        from emo.train.llm.predict import predict_run

        missing = "zeros" if load_recipe(run.path / "recipe.yaml").missing == "zeros" else "skip"
        return predict_run(store, run, clips, policy, device, missing=missing, task=task, keep=keep)
    from emo.train.heads.predict import predict_cached

    assert store is not None  # a head always has features
    return predict_cached(store, run, [clip.id for clip in clips], device)


def check_question(run: Run, task: str, policy: str, transcript: str | None = None) -> None:
    """Refuse what a run cannot be asked, before anything is extracted or loaded for it.

    Raises:
        UsageError: Unknown task or policy; or a head is asked for words, or given some.
    """
    if run.info.get("kind") == "tune":
        from emo.train.llm.predict import check_question as check

        check(load_recipe(run.path / "recipe.yaml"), policy, task)
        return
    if policy not in POLICIES:
        raise UsageError(f"Unknown policy {policy!r}.", f"Known: {', '.join(POLICIES)}.")
    if task != "emotion":
        raise UsageError(
            f"Run {run.name} is a head, which knows no task {task}.", "Name a tuned language model: --run NAME."
        )
    if transcript is not None:
        raise UsageError(f"Run {run.name} is a head, which reads no transcript.", "Leave --transcript out.")


def tell_zeros(run: Run, policy: str, clip_ids: Sequence[str]) -> list[str]:
    """What must stand beside a score where answers were given with zeros for missing features."""
    if run.info.get("kind") != "tune":
        return []
    from emo.train.llm.predict import zeroed

    names = zeroed(run, policy, clip_ids)
    return [f"{len(names)} clips lack features, and were answered with zeros: {some_of(names)}."] if names else []


def ready(workspace: Workspace, run: Run, clip_ids: Sequence[str]) -> np.ndarray:
    """Which of the clips have all features that a run reads: bool `(N,)`."""
    there = np.ones(len(clip_ids), bool)
    features = run.info.get("features") or []
    store = open_store(workspace.store_path) if features and has_store(workspace.store_path) else None
    held = {each.key for each in store.features()} if store else set[str]()
    for feature in features:
        there &= bool(feature["key"] in held) and store is not None and store.has(feature["key"], clip_ids)
    return there


def tell_missing(workspace: Workspace, run: Run, clip_ids: Sequence[str], said: Mapping[str, Prediction]) -> str:
    """One sentence on the clips without an answer, all of which are listed in the run's missing.txt; empty for none."""
    gone = [clip_id for clip_id in clip_ids if clip_id not in said]
    path = run.path / "missing.txt"
    if not gone:
        path.unlink(missing_ok=True)
        return ""
    write_atomic(path, "".join(f"{each}\n" for each in gone))
    what = "clips have no answer, because the store lacks features of theirs"
    told = f"{len(gone):,} of {len(clip_ids):,} {what}: {some_of(gone, 3)}; all of them: {path}"
    if len(gone) == len(clip_ids) and run.info.get("features") and has_store(workspace.store_path):
        told += f". The store has, for instance, {some_of(open_store(workspace.store_path).clips(), 3)}"
    return told


@dataclass(frozen=True)
class Lack:
    """What has to be extracted before a run can answer.

    Attributes:
        clips: Clips with a media file and without all features.
        encoders: Names of the run's features.
        keys: The same, to the fingerprint.
        profile: Of these features.
    """

    clips: tuple[Clip, ...]
    encoders: tuple[str, ...]
    keys: tuple[str, ...]
    profile: str


def lacking(workspace: Workspace, run: Run, clips: Sequence[Clip]) -> Lack | None:
    """What is to be extracted before a run can answer about clips; `None` where nothing is, or where it cannot be.

    It cannot for clips without media or that failed for good, nor for imported features, nor for features of several
    profiles, which no single extraction gives.
    """
    features = run.info.get("features") or []
    profiles = sorted({feature["profile"] for feature in features})
    if len(profiles) != 1 or profiles == ["imported"]:
        return None
    there = ready(workspace, run, [clip.id for clip in clips])
    hopeless = {each.clip for each in _failures(workspace, run) if not each.retry}
    gone = tuple(
        clip
        for clip, whole in zip(clips, there, strict=True)
        if not whole and clip.media is not None and clip.id not in hopeless
    )
    if not gone:
        return None
    keys = tuple(feature["key"] for feature in features)
    return Lack(gone, tuple(key.partition("@")[0] for key in keys), keys, profiles[0])


def answers_page(
    workspace: Workspace, run: Run, clips: Sequence[Clip], said: Mapping[str, Prediction], task: str
) -> Page:
    """Answers about clips; exit code 3 where there is none about some of them."""
    rows, texts, value = [], [], []
    reasons = {each.clip: f"{each.kind}: {each.message}" for each in _failures(workspace, run)}
    silent = [clip for clip in clips if clip.id not in said]
    for clip in clips:
        if (found := said.get(clip.id)) is None:
            value.append({"name": clip.id, "answer": None, "why": reasons.get(clip.id, NOT_EXTRACTED)})
            continue
        row: dict[str, Any] = {"name": clip.id, "answer": found.answer}
        row |= {} if found.valence is None else {"valence": found.valence}
        row |= {} if found.probabilities is None else {"probabilities": found.probabilities}
        value.append(row)
        best = "" if not found.probabilities else max(found.probabilities.values())
        rows.append([clip.id, found.answer or "(nothing)", best])
        texts.append(f"{clip.id}: {found.answer or '(it says nothing)'}")
    with_numbers = any(row[2] != "" for row in rows)
    table = Table(
        f"Run {run.name}",
        ("clip", "answer", "probability") if with_numbers else ("clip", "answer"),
        [row if with_numbers else row[:2] for row in rows],
        ("probability",),
    )
    parts: list[Table | str] = [] if not rows else [table] if task == "emotion" else texts
    parts += [f"no answer about {clip.id}: {reasons.get(clip.id, NOT_EXTRACTED)}" for clip in silent]
    notes = list(run.info["notes"])
    page = {"run": run.name, "task": task, "answers": value, "notes": notes}
    return Page(page, [*parts, *notes], exit_code=3 if silent else 0)


def _failures(workspace: Workspace, run: Run) -> list[Any]:
    keys = {feature["key"] for feature in run.info.get("features") or []}
    if not keys or not has_store(workspace.store_path):
        return []
    return [each for each in open_store(workspace.store_path).failures() if each.feature in keys]
