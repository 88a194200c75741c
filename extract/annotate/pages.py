"""`emo annotate run`, `status`, `peek` and `export`: what they take, and what they have to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from emo.extract.annotate.ask import ASKED, ASKING_WORKERS, WORKERS
from emo.extract.annotate.budget import Budget, make_budget
from emo.extract.annotate.describer import Asking
from emo.extract.annotate.forms import write_form
from emo.extract.annotate.near import embedder
from emo.extract.annotate.plan import TRANSCRIPTS, Plan
from emo.extract.annotate.rays import AtWorker, Ray
from emo.extract.annotate.run import Run, with_media
from emo.extract.annotate.select import Selection, select
from emo.extract.annotate.setup import Settings, make_plan
from emo.extract.run.interrupt import interruptible
from emo.extract.run.workers import processes_work
from emo.featstore.annotations import ANNOTATION, edited_annotations
from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.page import Arg, Flag, Page, Table, throttle
from emo.featstore.processors import processors
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.reader import Failure
from emo.featstore.storage.store import Store, open_store
from emo.featstore.text import counted, some_of
from emo.featstore.transcripts import text_of
from emo.featstore.workspace import Workspace

LISTED = 10  # clips that are named
NOT_YET = "not annotated yet"
MANY = 200  # clips from which on it is worth starting processes that decode


def run_page(
    workspace: Workspace,
    say: Callable[[str], None],
    dataset: Annotated[str | None, Flag("A [data.NAME] table of emo.toml.")] = None,
    split: Annotated[str | None, Flag("Only clips of this split.")] = None,
    limit: Annotated[int | None, Flag("Only the first N clips that are present.", least=1)] = None,
    aus: Annotated[str | None, Flag("OpenFace's folder of tables, or mesh. Default: aus in emo.toml.")] = None,
    face: Annotated[int | None, Flag("face_id to take, of several. Default: the most confident.")] = None,
    peak: Annotated[str, Flag("Rule of the frame: all-au or label-au.")] = "all-au",
    leave_out: Annotated[str, Flag("Units that count for neither frame nor label: AU25,AU26,AU45.")] = "",
    smooth: Annotated[int, Flag("Frames of a moving average of the intensities.")] = 1,
    confidence: Annotated[float, Flag("Least confidence of a frame.")] = 0.0,
    rules: Annotated[str, Flag("Table of label rules: merr-2024 or mer-factory.")] = "merr-2024",
    share: Annotated[float, Flag("Least share of a rule's units that are active.")] = 0.5,
    strength: Annotated[float, Flag("Least mean intensity of a rule's units.")] = 0.8,
    phrases: Annotated[str, Flag("Phrases of the units: merr-2024 or facs.")] = "merr-2024",
    language: Annotated[str, Flag("Of prompts and describers: en or zh.")] = "en",
    seed: Annotated[int, Flag("Of the draw of phrases, and of sampling.")] = 0,
    labels: Annotated[str, Flag("Where labels come from: rules or dataset.")] = "rules",
    describer: Annotated[str, Flag("offline, http://HOST/v1#MODEL, hf:MODEL or replay:FILE, for all.")] = "offline",
    scene: Annotated[str | None, Flag("Describer of the frame.")] = None,
    voice: Annotated[str | None, Flag("Describer of the sound.")] = None,
    caption: Annotated[str | None, Flag("Describer that brings the clues together.")] = None,
    verify: Annotated[str | None, Flag("A second model that looks at captions.")] = None,
    scene_prompt: Annotated[str, Flag("Prompt about the frame.")] = "scene",
    voice_prompt: Annotated[str, Flag("Prompt about the sound.")] = "voice-tones",
    record: Annotated[Path | None, Flag("Also write all answers to this file, for replay:FILE.")] = None,
    temperature: Annotated[float, Flag("Of endpoints.")] = 0.0,
    max_tokens: Annotated[int, Flag("Most tokens of an answer.")] = 512,
    timeout: Annotated[float, Flag("Seconds of one attempt.")] = 60.0,
    concurrency: Annotated[
        int | None, Flag("Clips annotated at once. Default: 8 with an endpoint, else 2.", least=1)
    ] = None,
    max_requests: Annotated[int | None, Flag("Most requests of this run.")] = None,
    max_cost: Annotated[float | None, Flag("Most cost of this run, by --prices.")] = None,
    prices: Annotated[Path | None, Flag("TOML: per model, input and output per million tokens.")] = None,
    retry_failed: Annotated[bool, Flag("Try again what failed for good.")] = False,
    ray: Annotated[str | None, Flag("On a Ray cluster: its address, or auto. See docs/scale.md.")] = None,
) -> Page:
    """Annotate clips as MERR was made: action units, frame of strongest expression, describers, captions."""
    flags = dict(locals())
    given = Settings(**{name: flags[name] for name in Settings.__dataclass_fields__})
    budget = make_budget(max_requests, max_cost, None, [])
    asking, table = Asking("", timeout, temperature, seed, max_tokens), workspace.table(dataset)
    plan = make_plan(workspace, table, given, replace(asking, attempt=budget.attempt, wait=budget.wait))
    models = [each.id for each in plan.describers.values() if each.remote]
    budget.price(make_budget(max_requests, max_cost, prices, models))
    found = open_dataset(table.name, table)
    wanted = found.find_split(split) if split is not None else None
    clips = with_media((each for each in found.clips() if wanted is None or each.split == wanted), limit)
    workers = concurrency or (ASKING_WORKERS if models else WORKERS)
    decoding = bool(models) and len(clips) >= MANY
    there = AtWorker(workspace, table.name, given, asking, plan.annotation.key, workers, retry_failed, decoding)
    run = _begin(ray, there, plan, budget, say)
    with interruptible(run, say, lambda: None):
        run.run(clips)
    return _outcome(run, plan, budget, described_otherwise(run.store, plan, clips) if run.progress.copies else [])


def _begin(ray: str | None, there: AtWorker, plan: Plan, budget: Budget, say: Callable[[str], None]) -> Run | Ray:
    """Return the run: in this process, or on a cluster."""
    store = open_store(there.workspace.store_path, create=True)
    if ray:
        return Ray(ray, store, plan, budget, there, say)
    processes = processors() if there.decoding and processes_work() else 0
    return Run(store, plan, budget, there.concurrency, there.retry_failed, throttle(say), processes=processes)


def described_otherwise(store: Store, plan: Plan, clips: Sequence[Clip]) -> list[str]:
    """Return the clips with the content of an earlier one, but another transcript, or a label that is asked for."""
    store.refresh()
    first: dict[str, tuple[str, str | None]] = {}
    found = []
    for clip in clips:
        label = clip.label.emotion if clip.label and plan.labels == "dataset" else None
        own = text_of(clip.transcripts, TRANSCRIPTS[plan.language]), label
        if (row := store.clip_row(clip.id)) is not None and first.setdefault(row[0], own) != own:
            found.append(clip.id)
    return found


def _outcome(run: Run | Ray, plan: Plan, budget: Budget, otherwise: Sequence[str] = ()) -> Page:
    progress = run.progress
    left = progress.total - progress.done
    value: dict[str, Any] = {
        "clips": progress.total,
        "made": progress.made,
        "there": progress.there,
        "copies": progress.copies,
        "described_otherwise": list(otherwise),
        "failed": dict(progress.failed),
        "left": left,
        "answers": dict(progress.answers),
        **budget.value(),
        "recovered": run.recovered,
        "stopped": budget.stopped,
        "annotation": plan.annotation.key,
        "peak": plan.peaks.key,
    }
    rows = [[kind, count] for kind, count in progress.failed.most_common()]
    parts: list[Table | str] = [Table("What failed", ("kind", "clips"), rows, ("clips",))] if rows else []
    if run.recovered:
        parts.append(f"{run.recovered:,} answers of a run that was killed are kept.")
    if budget.asked:
        parts.append(budget.sentence())
    if budget.stopped:
        parts.append(
            f"stopped: {budget.stopped}; {counted(left, 'clip is', 'clips are')} left, the same command goes on"
        )
    if otherwise:
        what = "transcript or label" if plan.labels == "dataset" else "transcript"
        are = "clip has" if len(otherwise) == 1 else "clips have"
        parts.append(
            f"{len(otherwise):,} {are} the content of an earlier clip and another {what}; the earlier one's is in the "
            f"annotation of both: {some_of(otherwise, LISTED)}"
        )
    verdict = f"{progress.made:,} annotations made, {progress.there:,} were there, {progress.failed.total():,} failed"
    verdict += f", {counted(progress.copies, 'copy', 'copies')} of clips before them." if progress.copies else "."
    code = 130 if progress.stopping else 3 if left else 0
    return Page(value, parts, verdict, code)


# ---- what is there ---------------------------------------------------------------------------------------------------


def status_page(store: Store) -> Page:
    """Show which steps of annotations the store holds, what failed, which clips have no annotation and why.

    Answers to `emo predict --model` and `emo score --model` are counted by model.
    """
    kinds = ("units-table", "peak", "describer", "annotation", ASKED)
    infos = [each for each in store.features(records=True) if each.spec.encoder in kinds]
    failures: dict[tuple[str, str, bool], list[Failure]] = {}
    for each in store.failures():
        if any(each.feature == info.key for info in infos):
            failures.setdefault((each.feature, each.kind, each.retry), []).append(each)
    rows = [[each.key, each.spec.encoder, each.spec.weights, each.ok, each.failed] for each in infos]
    steps, asked = [row for row in rows if row[1] != ASKED], [row for row in rows if row[1] == ASKED]
    lost = sorted(failures.items(), key=lambda item: -len(item[1]))
    without = {each.key: _without(store, each.spec) for each in infos if each.spec.encoder == "annotation"}
    value = {
        "records": [
            {"record": key, "kind": kind, "model": model, "ok": ok, "failed": failed}
            for key, kind, model, ok, failed in steps
        ],
        "asked": [
            {"record": key, "model": model, "answered": ok, "failed": failed} for key, _, model, ok, failed in asked
        ],
        "failures": [
            {"record": key, "kind": kind, "clips": len(each), "retry": retry, "names": sorted(one.clip for one in each)}
            for (key, kind, retry), each in lost
        ],
        "without": without,
    }
    tables: list[Table | str] = ["The store has no annotations. Run `emo annotate run`."]
    if steps:
        tables = [Table("Steps", ("record", "kind", "model", "ok", "failed"), steps, ("ok", "failed"))]
    if asked:
        counts = [[model, key, ok, failed] for key, _, model, ok, failed in asked]
        columns = ("model", "record", "answered", "failed")
        tables.append(Table("Asked by --model: clips", columns, counts, ("answered", "failed")))
    if lost:
        columns = ("record", "kind", "clips", "tried again by itself", "which")
        cells = [
            [key, kind, len(each), "yes" if retry else "no", some_of(sorted(one.clip for one in each), 3)]
            for (key, kind, retry), each in lost
        ]
        tables.append(Table("What failed", columns, cells, ("clips",)))
    for key, names in without.items():
        shown = [[name, reason] for name, reason in list(names.items())[:LISTED]]
        tables += [Table(f"Clips without {key}", ("clip", "why"), shown)] if shown else []
        if len(names) > LISTED:
            tables.append(f"... and {len(names) - LISTED:,} more; --json names all.")
    return Page(value, tables)


def _without(store: Store, spec: EncoderSpec) -> dict[str, str]:
    """Return the clips of the store that have no annotation of this kind, with the reason."""
    failed = {each.clip: f"{each.kind}: {each.message}" for each in store.failures() if each.feature == spec.key}
    outdated = {
        name: f"{value['failed']}: {value['message']}"
        for name, value in store.records(spec).items()
        if "failed" in value
    }
    names = sorted({*store.clips(), *failed})
    lacking = {name: failed.get(name, NOT_YET) for name in names if store.status(spec, name) != "ok"}
    return dict(sorted((lacking | outdated).items(), key=lambda item: item[1] == NOT_YET))


def peek_page(
    store: Store,
    clip: Annotated[str, Arg("Name of a clip.")],
    record: Annotated[str, Flag("annotation, or annotation@FINGERPRINT where there are several.")] = ANNOTATION,
) -> Page:
    """Show the annotation of one clip, or why there is none."""
    spec = store.resolve(record, records=True)
    status = store.status(spec, clip)
    if status != "ok":
        failed = {"failed": "not annotated"} if status == "missing" else {}
        for each in store.failures():
            if each.clip == clip and each.feature == spec.key:
                failed = {"failed": each.kind, "message": each.message}
        return Page({"clip": clip, **failed}, [f"{clip}: {failed.get('message') or failed.get('failed')}"], exit_code=3)
    value = store.record(spec, clip)
    rows = [[name, ", ".join(each) if isinstance(each, list) else each] for name, each in value.items() if name != "of"]
    return Page({"clip": clip, **value}, [Table(f"{clip}, {spec.key}", ("field", "value"), rows)])


def export_page(
    store: Store,
    form: Annotated[str, Flag("merr, coarse, lists (a folder), sharegpt or csv.")],
    out: Annotated[Path, Flag("File to write; a folder for lists.")],
    record: Annotated[str, Flag("annotation, or annotation@FINGERPRINT where there are several.")] = ANNOTATION,
    keep_all: Annotated[bool, Flag("Drop nothing for contradicting itself.")] = False,
    near: Annotated[float | None, Flag("Drop captions this near to a kept one (cosine; extra text).")] = None,
    neutral: Annotated[float | None, Flag("Most neutral clips, as a share of the others.")] = None,
    cap: Annotated[int | None, Flag("Most clips of each label.")] = None,
    seed: Annotated[int, Flag("Of the draws among clips of a label.")] = 0,
) -> Page:
    """Write annotations as a file of other tools, with the newest edits of people; what is dropped is counted."""
    chosen = Selection("coarse" if form == "coarse" else "fine", not keep_all, near, neutral, cap, seed)
    found, edited = edited_annotations(store, record)
    kept, dropped = select(found, chosen, embedder() if near is not None else None)
    if not kept:
        raise UsageError(f"No annotation is left of {len(found):,}: {_reasons(dropped)}.", "Try --keep-all.")
    paths = {name: row[1] for name in kept if (row := store.clip_row(name)) is not None}
    files = write_form({name: {**value, "media": paths.get(name)} for name, value in kept.items()}, form, out)
    labels = Counter(value["pseu_emotion"] for value in kept.values())
    value = {
        "form": form,
        "files": [str(each) for each in files],
        "annotations": len(found),
        "kept": len(kept),
        "dropped": {reason: {"clips": len(names), "names": names} for reason, names in dropped.items()},
        "labels": dict(labels.most_common()),
        "edited": {name: edited[name] for name in kept if name in edited},
    }
    rows = [[reason, len(names), some_of(names, 3)] for reason, names in dropped.items()]
    parts = [Table("What was dropped", ("why", "clips", "for example"), rows, ("clips",))] if rows else []
    carry = sum(name in edited for name in kept)
    return Page(value, parts, f"{len(kept):,} of {len(found):,} annotations written to {out}; {carry:,} carry edits.")


def _reasons(dropped: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{len(names)} {reason}" for reason, names in dropped.items()) or "there was none"
