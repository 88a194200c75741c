"""`emo annotate run`, `status`, `peek` and `export`: what they take, and what they have to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from emo.extract.annotate.budget import Budget, make_budget
from emo.extract.annotate.describer import Asking, Describer
from emo.extract.annotate.expression import Matching
from emo.extract.annotate.forms import write_form
from emo.extract.annotate.peak import PeakOptions
from emo.extract.annotate.plan import QUESTIONS, VERIFY, Plan
from emo.extract.annotate.prompts import load_prompt
from emo.extract.annotate.registry import find_describer, find_units
from emo.extract.annotate.replay import Recorder
from emo.extract.annotate.run import Run, with_media
from emo.extract.annotate.select import Embed, Selection, select
from emo.extract.annotate.units import UnitSource
from emo.extract.run.interrupt import interruptible
from emo.extract.session import read_as
from emo.featstore.annotations import ANNOTATION, annotations_of
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.page import Arg, Flag, Page, Table, throttle
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import some_of
from emo.featstore.workspace import DataTable, Workspace

LEAST_WORKERS, ASKING_WORKERS = 2, 8


@dataclass(frozen=True)
class Settings:
    """Everything that a run's flags say, see `run_page`."""

    aus: str | None
    face: int | None
    peak: str
    leave_out: str
    smooth: int
    confidence: float
    rules: str
    share: float
    strength: float
    phrases: str
    language: str
    seed: int
    labels: str
    describer: str
    scene: str | None
    voice: str | None
    caption: str | None
    verify: str | None
    scene_prompt: str
    voice_prompt: str
    record: Path | None


def run_page(
    workspace: Workspace,
    say: Callable[[str], None],
    dataset: Annotated[str | None, Flag("A [data.NAME] table of emo.toml.")] = None,
    split: Annotated[str | None, Flag("Only clips of this split.")] = None,
    limit: Annotated[int | None, Flag("Only the first N clips that are present.")] = None,
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
    describer: Annotated[str, Flag("offline, http://HOST/v1#MODEL or replay:FILE, for all questions.")] = "offline",
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
    concurrency: Annotated[int | None, Flag("Clips annotated at once. Default: 8 with an endpoint, else 2.")] = None,
    max_requests: Annotated[int | None, Flag("Most requests of this run.")] = None,
    max_cost: Annotated[float | None, Flag("Most cost of this run, by --prices.")] = None,
    prices: Annotated[Path | None, Flag("TOML: per model, input and output per million tokens.")] = None,
    retry_failed: Annotated[bool, Flag("Try again what failed for good.")] = False,
) -> Page:
    """Annotate clips as MERR was made: action units, frame of strongest expression, describers, captions."""
    flags = dict(locals())
    given = Settings(**{name: flags[name] for name in Settings.__dataclass_fields__})
    budget = make_budget(max_requests, max_cost, None, [])
    asking = Asking("", timeout, temperature, seed, max_tokens, budget.attempt, budget.wait)
    table = workspace.table(dataset)
    plan = make_plan(workspace, table, given, asking)
    models = [each.id for each in plan.describers.values() if each.remote]
    budget.price(make_budget(max_requests, max_cost, prices, models))
    found = open_dataset(table.name, table)
    wanted = found.find_split(split) if split is not None else None
    clips = with_media((each for each in found.clips() if wanted is None or each.split == wanted), limit)
    workers = concurrency or (ASKING_WORKERS if models else LEAST_WORKERS)
    run = Run(open_store(workspace.store_path, create=True), plan, budget, workers, retry_failed, throttle(say))
    with interruptible(run, say, lambda: None):
        run.run(clips)
    return _outcome(run, budget)


def make_plan(workspace: Workspace, table: DataTable, given: Settings, asking: Asking) -> Plan:
    """Return what a run makes.

    Raises:
        UsageError: A flag is wrong.
    """
    describers = _describers(given, asking)
    names = {"scene": given.scene_prompt, "voice": given.voice_prompt, "caption": "caption", VERIFY: VERIFY}
    prompts = {kind: load_prompt(names[kind], given.language, workspace.root) for kind in describers}
    leave_out = tuple(each.strip() for each in given.leave_out.split(",") if each.strip())
    profile = "facs" if given.language == "zh" and given.phrases == "merr-2024" else given.phrases
    return Plan(
        source=_source(workspace, table, given),
        peak=PeakOptions(given.peak, leave_out, given.smooth, given.confidence, given.rules),
        matching=Matching(given.rules, given.share, given.strength, profile, given.language, given.seed, leave_out),
        labels=given.labels,
        prompts=prompts,
        describers=describers,
        reading=read_as(workspace),
    )


def _describers(given: Settings, asking: Asking) -> dict[str, Describer]:
    """Return the describer of each question; one that is named twice is opened once."""
    named = {kind: getattr(given, kind) or given.describer for kind in QUESTIONS}
    named |= {VERIFY: given.verify} if given.verify else {}
    opened = {text: find_describer(text, asking) for text in dict.fromkeys(named.values())}
    if given.record is not None:
        opened = {text: Recorder(each, given.record) for text, each in opened.items()}
    return {kind: opened[text] for kind, text in named.items()}


def _source(workspace: Workspace, table: DataTable, given: Settings) -> UnitSource:
    text = given.aus or (str(table.aus) if table.aus else "")
    if not text:
        hint = f'Name OpenFace\'s tables: --aus FOLDER, or aus = "..." under [data.{table.name}]; or --aus mesh.'
        raise UsageError(f"{table.name} has no action units.", hint)
    store = open_store(workspace.store_path) if has_store(workspace.store_path) else None
    return find_units(text, given.face, store)


def _outcome(run: Run, budget: Budget) -> Page:
    progress = run.progress
    left = progress.total - progress.done
    value: dict[str, Any] = {
        "clips": progress.total,
        "made": progress.made,
        "there": progress.there,
        "copies": progress.copies,
        "failed": dict(progress.failed),
        "left": left,
        "answers": dict(progress.answers),
        "requests": budget.asked,
        "cost": round(budget.spent, 6),
        "recovered": run.recovered,
        "stopped": budget.stopped,
        "annotation": run.plan.annotation.key,
        "peak": run.plan.peaks.key,
    }
    rows = [[kind, count] for kind, count in progress.failed.most_common()]
    parts: list[Table | str] = [Table("What failed", ("kind", "clips"), rows, ("clips",))] if rows else []
    if run.recovered:
        parts.append(f"{run.recovered:,} answers of a run that was killed are kept.")
    if budget.asked:
        parts.append(f"{budget.asked:,} requests" + (f", cost {budget.spent:.4g}" if budget.prices else ""))
    if budget.stopped:
        parts.append(f"stopped: {budget.stopped}; {left:,} clips are left, the same command goes on")
    verdict = f"{progress.made:,} annotations made, {progress.there:,} were there, {progress.failed.total():,} failed."
    code = 130 if progress.stopping else 3 if left else 0
    return Page(value, parts, verdict, code)


# ---- what is there ---------------------------------------------------------------------------------------------------


def status_page(store: Store) -> Page:
    """Show which steps of annotations the store holds, and what failed."""
    kinds = ("units-table", "peak", "describer", "annotation")
    infos = [each for each in store.features(records=True) if each.spec.encoder in kinds]
    keys = {each.key for each in infos}
    failures = [each for each in store.failures() if each.feature in keys]
    rows = [[each.key, each.spec.encoder, each.spec.weights, each.ok, each.failed] for each in infos]
    reasons = Counter((each.feature, each.kind, each.retry) for each in failures)
    lost = [[key, kind, count, "yes" if retry else "no"] for (key, kind, retry), count in reasons.most_common()]
    value = {
        "records": [
            {"record": key, "kind": kind, "model": model, "ok": ok, "failed": failed}
            for key, kind, model, ok, failed in rows
        ],
        "failures": [
            {"record": key, "kind": kind, "clips": count, "retry": again == "yes"} for key, kind, count, again in lost
        ],
    }
    tables = [Table("Steps", ("record", "kind", "model", "ok", "failed"), rows, ("ok", "failed"))]
    columns = ("record", "kind", "clips", "tried again by itself")
    tables += [Table("What failed", columns, lost, ("clips",))] if lost else []
    return Page(value, tables if rows else ["The store has no annotations. Run `emo annotate run`."])


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
    """Write annotations as a file of other tools; what is dropped is counted by reason."""
    chosen = Selection("coarse" if form == "coarse" else "fine", not keep_all, near, neutral, cap, seed)
    found = annotations_of(store, record)
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
    }
    rows = [[reason, len(names), some_of(names, 3)] for reason, names in dropped.items()]
    parts = [Table("What was dropped", ("why", "clips", "for example"), rows, ("clips",))] if rows else []
    return Page(value, parts, f"{len(kept):,} of {len(found):,} annotations written to {out}.")


def _reasons(dropped: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{len(names)} {reason}" for reason, names in dropped.items()) or "there was none"


def embedder() -> Embed:
    """Return what gives text embeddings: MiniLM, of emo's extra `text`.

    Raises:
        WeightsMissing: Its files are not installed.
    """
    from emo.extract.encoders.base import ClipInputs
    from emo.extract.encoders.registry import load_encoder

    encoder = load_encoder("minilm", "paper")

    def embed(texts: Any) -> Any:
        import numpy as np

        level = encoder.level_of("minilm")
        inputs = [encoder.prepare(ClipInputs(transcripts={"english": text})) for text in texts]
        rows = [encoder.encode([each], [level])[0][level].array[0] for each in inputs]
        return np.stack(rows)

    return embed
