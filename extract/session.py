"""From a workspace and a few flags to a pass that is ready to run: dataset, store, encoders, plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from emo.extract.annotate.peak import peak_frames
from emo.extract.device import resolve_device
from emo.extract.encoders.base import Encoder
from emo.extract.encoders.catalog import catalog
from emo.extract.encoders.registry import find_encoder, load_encoder
from emo.extract.media.detect import Detector
from emo.extract.media.facemesh import follow_recipe
from emo.extract.media.faces import OPENFACE_RECIPE, FaceConfig
from emo.extract.media.reading import FRAMES, FrameTable, Reading
from emo.extract.run.executor import Executor, Local
from emo.extract.run.pipeline import Pass, PassOptions, Progress
from emo.extract.run.plan import Plan, Shard, plan
from emo.extract.run.rays import Ray, Shift
from emo.extract.run.trace import Trace
from emo.extract.run.workers import processes_work
from emo.extract.texts import Heard
from emo.extract.weights_page import is_published, local_path
from emo.featstore.clip import Clip
from emo.featstore.cluster import Place
from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.tables import read_frames
from emo.featstore.errors import MediaError, UsageError, WeightsMissing
from emo.featstore.files import digest
from emo.featstore.install import versions
from emo.featstore.page import Page, Table
from emo.featstore.processors import processors
from emo.featstore.spec import LEVELS, EncoderSpec
from emo.featstore.storage.reader import Failure
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import counted, size_text, some_of
from emo.featstore.transcripts import LANGUAGES
from emo.featstore.workspace import FIXED_FRAMES, Workspace, is_peak

THREADS = 4  # so many decoding threads one interpreter can feed; beyond, clips are decoded in processes


@dataclass(frozen=True)
class ExtractArgs:
    """Request of one call of `emo extract`; `None` means what the workspace says.

    Attributes:
        dataset: Name of a `[data.NAME]` table; may be `None` where there is just one.
        split: Only clips of this split.
        encoders: Names or aliases; `@name` is a set of the catalog.
        level: `utt`, `frame` or `tokens`; encoders without that level are refused. Default: each encoder's first.
        profile: `paper`, `tiny` or `random`.
        device: `auto`, `cpu`, `cuda`, or several such as `cuda:0,cuda:1`.
        dtype: Compute type; default float16 on a GPU, float32 elsewhere.
        face: Rule that picks one of several people.
        audio_track: Sound track of the media files, from 1.
        limit: Only the first so many clips that are present.
        shard: Only this part of them; other processes take the others.
        retry_failed: Try again what failed for good.
        workers: Decoding threads, or processes where there are many; default one per core.
        commit_every: Clips per commit.
        dry_run: Nothing is going to run, so nothing may be fetched.
        clips: These clips, in place of a dataset's.
        trace: File for a timeline of the pass.
        exactly: Keys of features that must come of it, `HL-UTT@9f2c1ab4`; anything else is refused.
        ray: Address of a Ray cluster whose workers do it; `auto` is the one that this machine belongs to.
        per_gpu: Workers on each of its GPUs.
    """

    dataset: str | None = None
    split: str | None = None
    encoders: tuple[str, ...] | None = None
    level: str | None = None
    profile: str | None = None
    device: str | None = None
    dtype: str | None = None
    face: str | None = None
    audio_track: int | None = None
    limit: int | None = None
    shard: Shard | None = None
    retry_failed: bool = False
    workers: int | None = None
    commit_every: int = 200
    dry_run: bool = False
    clips: tuple[Clip, ...] | None = None
    trace: Path | None = None
    exactly: tuple[str, ...] = ()
    ray: str | None = None
    per_gpu: int = 1


@dataclass(frozen=True)
class Outcome:
    """Result of a pass.

    Attributes:
        progress: Its counters.
        failures: What the wanted features of the wanted clips lack, and why; earlier passes included.
        notes: What this pass noticed of clips that did not fail: a sentence per clip, by kind.
    """

    progress: Progress
    failures: tuple[Failure, ...]
    notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 when every clip is stored or hopeless, 3 when trying again can help, 130 when stopped early."""
        if self.progress.stopping:
            return 130
        return 3 if any(failure.retry for failure in self.failures) else 0

    def page(self) -> Page:
        """The counts, and a table of what failed by kind with the numbers of clips and features and one message."""
        kinds: dict[str, list[Failure]] = {}
        for failure in self.failures:
            kinds.setdefault(failure.kind, []).append(failure)
        rows = []
        for kind, each in kinds.items():
            again = "yes" if any(failure.retry for failure in each) else "no"
            rows.append([kind, len({failure.clip for failure in each}), len(each), again, each[0].message])
        columns = ("kind", "clips", "features", "retry helps", "for example")
        parts = [Table("What failed", columns, rows, columns[1:3])] if rows else []
        noticed = [[kind, len(clips), next(iter(clips.values()))] for kind, clips in sorted(self.notes.items())]
        if noticed:
            parts.append(Table("What was noticed", ("kind", "clips", "for example"), noticed, ("clips",)))
        return Page(self.to_json(), parts, exit_code=self.exit_code)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "clips": self.progress.done,
            "features": self.progress.stored,
            "seconds": round(self.progress.elapsed_s, 3),
            "interrupted": self.progress.stopping,
            "failures": [asdict(failure) for failure in self.failures],
            "notes": {kind: dict(clips) for kind, clips in self.notes.items()},
        }


@dataclass(frozen=True)
class Session:
    """A pass that is ready to run. Nothing has been written so far, not even an empty store.

    Attributes:
        source: Name of the dataset, or what else the clips are.
        store_path: Where the features go.
        specs: What is wanted of each clip.
        plan: What is left to do.
        job: The pass.
        environment: What is recorded with each commit beside the recipes.
        executor: Who runs it; its `progress` can be watched from another thread, its `stop` ends it early.
        notes: What else should be said before it runs.
        shard: The part of the dataset that is asked for.
    """

    source: str
    store_path: Path
    specs: tuple[EncoderSpec, ...]
    plan: Plan
    job: Pass
    environment: dict[str, str]
    executor: Executor
    notes: tuple[str, ...] = ()
    shard: Shard | None = None

    def says(self) -> list[str]:
        """Say what is going to happen, one sentence each."""
        todo = self.plan
        lines = [
            f"{self.source}: {counted(todo.total, 'clip')} listed, {todo.absent:,} without a media file",
            "features: " + ", ".join(f"{spec.key} ({spec.profile})" for spec in self.specs),
            f"{counted(todo.done, 'clip is', 'clips are')} complete, {todo.hopeless:,} failed for good "
            f"(--retry-failed tries again), {len(todo.jobs):,} to do",
        ]
        if self.shard:
            lines.insert(1, f"shard {self.shard}: {len(todo.clips):,} of {len(todo.clips) + todo.elsewhere:,} clips")
        if todo.other_text:
            who = ", ".join(todo.other_text[:3]) + (", ..." if len(todo.other_text) > 3 else "")
            lines.append(
                f"{counted(len(todo.other_text), 'clip is', 'clips are')} the same file as another clip with another "
                f"transcript, which alone is used: {who}"
            )
        if todo.new_text:
            have = counted(len(todo.new_text), "clip has another transcript", "clips have other transcripts")
            lines.append(
                f"{have} than the feature in the store was made of, which is replaced: {some_of(todo.new_text, 3)}. "
                "Where they are clips of another dataset by the same names, use one store per dataset."
            )
        for key, clips in todo.no_text.items():
            have = counted(len(clips), "clip has no transcript any more", "clips have no transcripts any more")
            lines.append(
                f"{have}, and what {key} was made of an earlier one stays: {some_of(clips, 3)}. Training refuses it; "
                f"`emo store drop {key}`, and extracting again, makes that feature of what is there now."
            )
        lines += self.notes
        if any(spec.weights.startswith("seed:") for spec in self.specs):
            lines.append(
                "These networks have random weights: the features serve to try things out, and nothing trained on them "
                "says anything about people."
            )
        return lines

    def plan_page(self) -> Page:
        """Return what would be done, in numbers; for people `says` has said it."""
        todo = self.plan
        value = {"listed": todo.total, "absent": todo.absent, "done": todo.done, "to_do": len(todo.jobs)}
        space, words = _space(self.specs)
        value |= {"bytes_per_1000_clips": space}
        return Page(value | ({"shard": str(self.shard), "share": len(todo.clips)} if self.shard else {}), [words])

    def run(self) -> Outcome:
        """Run the pass.

        Raises:
            ModelError: Weights do not load (nothing has been decoded by then), or a device failed.
            StoreError: The store cannot be written.
        """
        store = open_store(self.store_path, create=True)
        failures: Sequence[tuple[str, EncoderSpec, MediaError]] = ()
        if self.plan.jobs:
            failures = self.executor.run(store, self.plan.jobs, self.environment)
        features, clips = {spec.key for spec in self.specs}, set(self.plan.clips)
        known = {(f.feature, f.clip): f for f in store.failures() if f.feature in features and f.clip in clips}
        for clip, spec, error in failures:  # a file that cannot be read leaves what its old content gave
            row = Failure(spec.key, clip, "", error.kind, str(error), error.retry)
            known.setdefault((spec.key, clip), row)
        return Outcome(self.executor.progress, tuple(known.values()), self.executor.notes)


def open_session(workspace: Workspace, args: ExtractArgs) -> Session:
    """Find the clips, make the encoders (without their weights' values) and decide what is left to do.

    Raises:
        UsageError: A flag, the workspace or the dataset is wrong.
        WeightsMissing: Configured weights are not there.
        StoreError: The store cannot be opened.
    """
    args = replace(args, encoders=catalog().spread(args.encoders or workspace.extract.encoders))
    name, clips, openface = _clips(workspace, args)
    path = workspace.store_path
    store = open_store(path) if has_store(path) else None
    device = _device_of_workers(workspace, args) if args.ray else ""
    job, environment = make_pass(workspace, replace(args, device="cpu") if args.ray else args, store, openface)
    specs = tuple(job.specs.values())
    heard = Heard(store if any(LANGUAGES in spec.recipe for spec in specs) else None, workspace.extract.asr)
    todo = plan(store, heard.fill(clips), specs, retry_failed=args.retry_failed, limit=args.limit, shard=args.shard)
    if not todo.total:
        raise UsageError(f"{name} holds no clip.", "Put clips under its root in emo.toml, or correct that: emo doctor")
    if todo.jobs and not args.dry_run:
        job.trace = Trace(args.trace)
    executor: Executor = Local(job)
    if args.ray:
        keys = tuple(spec.key for spec in specs)
        there = replace(args, clips=None, exactly=keys, dry_run=False)
        executor = Ray(args.ray, AtWorker(workspace, there, openface), specs, args.retry_failed, args.per_gpu, device)
    notes = _of_weights(workspace, job.devices[0]) + heard.says()
    return Session(name, path, specs, todo, job, environment, executor, notes, args.shard)


def make_pass(
    workspace: Workspace, args: ExtractArgs, store: Store | None, openface: Path | None
) -> tuple[Pass, dict[str, str]]:
    """Make the encoders, without their weights' values, and the pass that they are for.

    Args:
        workspace: What is configured.
        args: What is asked for; `encoders` are names, without sets.
        store: Where the features will go, if it is there.
        openface: Folder of OpenFace output, if faces come from one.

    Returns:
        The pass, and what is recorded with each commit beside the recipes.

    Raises:
        UsageError: A flag or the workspace is wrong, or other features come of it than must.
        WeightsMissing: Configured weights are not there.
    """
    frame = _frame_choice(workspace, store)
    faces = None if openface is not None else face_config(workspace, args.face)
    # Of an OpenFace run only the folder's name is known: another run in another folder is another feature.
    source = faces.recipe() if faces else {**OPENFACE_RECIPE, "run": openface.name if openface else ""}
    reading = read_as(workspace, args.audio_track)
    recipes = _media_recipes(reading, source, frame)
    devices = _devices(args.device or workspace.extract.device)
    dtypes = [args.dtype or ("float16" if device.startswith("cuda") else "float32") for device in devices]
    per_device = [_encoders(workspace, args, *each, recipes) for each in zip(devices, dtypes, strict=True)]
    levels = _levels(per_device[0], args)
    workers = args.workers or processors()
    cuda = [device for device in map(torch.device, devices) if device.type == "cuda"]
    options = PassOptions(
        faces,
        frame,
        reading,
        workers,
        workers > THREADS and processes_work(),
        cuda[0] if cuda else None,
        args.commit_every,
    )
    detector = _detector(faces, per_device[0])
    job = Pass(per_device, levels, options, retry_failed=args.retry_failed, detector=detector)
    specs = tuple(job.specs.values())
    if strange := sorted(set(args.exactly) - {spec.key for spec in specs}):
        made = ", ".join(spec.key for spec in specs)
        raise UsageError(
            f"{', '.join(strange)} cannot be made with what emo.toml says now: that gives {made}.",
            "Restore profile, weights, faces and frame under which it was extracted; or use the store alone: --cached.",
        )
    return job, {
        "device": ",".join(devices),
        "dtype": ",".join(dtypes),
        "batch": ", ".join(f"{encoder.name} {encoder.max_cost:g}" for encoder in per_device[0]),
        **versions("torch", "transformers", "av", *([] if detector is None else [detector.runtime])),
    }


@dataclass(frozen=True)
class AtWorker:
    """Makes the pass of one worker of a cluster, there: the same features by the same request."""

    workspace: Workspace
    args: ExtractArgs
    openface: Path | None

    def __call__(self, place: Place) -> Shift:
        """Make it for the device that the place has."""
        store = open_store(self.workspace.store_path, create=True)
        args = replace(self.args, device=place.device, workers=self.args.workers or place.cpus)
        job, environment = make_pass(self.workspace, args, store, self.openface)
        return Shift(Local(job), self.workspace.store_path, environment)


def _device_of_workers(workspace: Workspace, args: ExtractArgs) -> str:
    """Kind of device that workers of a cluster should have."""
    if args.trace:
        raise UsageError("--trace draws the pass of one process.", "Leave out --ray, or --trace.")
    wanted = args.device or workspace.extract.device.partition(":")[0]
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"With --ray each worker has one device, not {wanted!r}.", "Use auto, cpu or cuda.")
    return wanted


def _space(specs: Sequence[EncoderSpec]) -> tuple[dict[str, int | None], str]:
    """Bytes that 1,000 clips take by feature, `None` where the rows depend on the clip; and a sentence about it."""
    size = {spec.key: spec.bytes_of(1000) for spec in specs}
    told = [f"{key} {size_text(each)}" for key, each in size.items() if each is not None]
    open_ = [key for key, each in size.items() if each is None]
    told += [f"{key} by its length" for key in open_]
    total = size_text(sum(each or 0 for each in size.values()))
    return size, f"space of 1,000 clips in the store: {total}{' and more' if open_ else ''} ({', '.join(told)})"


def _media_recipes(
    reading: Reading, faces: Mapping[str, object], frame: str | FrameTable
) -> dict[str, dict[str, object]]:
    """Recipes of the inputs of a pass, by `needs`: part of the identity of features."""
    return {
        "audio": reading.audio_recipe,
        "faces": {"frames": FRAMES, "faces": faces},
        "points": {"frames": FRAMES, "faces": faces, "points": follow_recipe()},
        "frame": {"frames": FRAMES, "frame": frame if isinstance(frame, str) else frame.recipe},
        "frames": {"frames": FRAMES},
        "text": {},
    }


def _clips(workspace: Workspace, args: ExtractArgs) -> tuple[str, Iterable[Clip], Path | None]:
    """Return where the clips come from in a word, the clips, and the folder of OpenFace output if there is one."""
    if args.clips is not None:
        tables = {workspace.data[clip.dataset].faces for clip in args.clips if clip.dataset in workspace.data}
        return "the clips named", args.clips, tables.pop() if len(tables) == 1 else None
    table = workspace.table(args.dataset)
    dataset = open_dataset(table.name, table)
    clips = dataset.clips()
    if args.split is not None:
        split = dataset.find_split(args.split)
        clips = (clip for clip in clips if clip.split == split)
    return table.name, clips, table.faces


def face_config(workspace: Workspace, rule: str | None = None) -> FaceConfig:
    """How a workspace has faces found and chosen; a rule that is named counts more than its own."""
    given: dict[str, object] = {}
    if rule := rule or workspace.extract.face:
        given["rule"] = rule
    if workspace.extract.faces_detector:
        given["detector"] = workspace.extract.faces_detector
    if workspace.extract.faces_every is not None:
        given["every"] = workspace.extract.faces_every
    return FaceConfig(**given)  # type: ignore[arg-type]


def read_as(workspace: Workspace, audio_track: int | None = None) -> Reading:
    """How a workspace has its media files read; a sound track that is named counts more than its own."""
    table = workspace.extract
    track = table.audio_track if audio_track is None else audio_track
    given = {"audio_track": track, "sound_tail": table.sound_tail, "max_minutes": table.max_minutes}
    return Reading(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _encoders(
    workspace: Workspace, args: ExtractArgs, device: str, dtype: str, recipes: dict[str, dict[str, object]]
) -> list[Encoder]:
    profile = args.profile or workspace.extract.profile
    made: list[Encoder] = []
    missing: list[WeightsMissing] = []
    for name in args.encoders or ():
        kind = find_encoder(name)
        weights = workspace.weights_at(kind.name) if profile in _profiles_of_weights(workspace) else None
        try:
            if profile == "tiny" and is_published(workspace, kind.name):
                weights = None  # no small network; `_of_weights` says that it is not used
            if args.dry_run and isinstance(weights, str) and local_path(workspace, kind.name) is None:
                raise WeightsMissing(f"{kind.name}: {weights} is not on this machine; `emo extract` would fetch it.")
            source = None if weights is None else str(weights)
            more = {} if weights is None or not kind.also else {"also": _second(workspace, kind.also)}
            made.append(load_encoder(name, profile, source, device, dtype, media_recipe=recipes[kind.needs], **more))
        except WeightsMissing as error:
            missing.append(error)
    if len(missing) > 1:
        lines = [f"{len(missing)} encoders lack their weights:", *(error.message for error in missing)]
        raise WeightsMissing("\n     ".join(lines), missing[0].hint)
    if missing:
        raise missing[0]
    twice = {encoder.name for encoder in made if [each.name for each in made].count(encoder.name) > 1}
    if twice:
        raise UsageError(f"{', '.join(sorted(twice))} is asked for more than once.")
    return made


def _second(workspace: Workspace, key: str) -> str | None:
    """Weights that an encoder reads beside its own."""
    found = workspace.weights_at(key)
    return None if found is None else str(found)


def _of_weights(workspace: Workspace, encoders: Sequence[Encoder]) -> tuple[str, ...]:
    """Sentences on settings that are not as published, and on weights in emo.toml that this pass does not use."""
    notes = tuple(f"{encoder.name}: {note}" for encoder in encoders for note in encoder.notes)
    unused = [encoder.name for encoder in encoders if encoder.name in workspace.weights and encoder.weights is None]
    said = f"not used under profile {encoders[0].profile}: [weights] of {', '.join(unused)}"
    return (*notes, said) if unused else notes


def _profiles_of_weights(workspace: Workspace) -> tuple[str, ...]:
    """Profiles that the files under `[weights]` are for: `paper`, and `tiny` where emo.toml itself says so."""
    return ("paper", "tiny") if workspace.extract.profile == "tiny" else ("paper",)


def _detector(faces: FaceConfig | None, encoders: Sequence[Encoder]) -> Detector | None:
    """Return who finds faces; nobody where no encoder needs any, or where there are crops in their place.

    Raises:
        UsageError: An encoder of the face mesh has crops to look at.
    """
    wants = [encoder for encoder in encoders if encoder.needs in ("faces", "points")]
    if faces is not None:
        return faces.open_detector() if wants else None
    for encoder in wants:
        if encoder.needs == "points":
            what = f"{encoder.name} looks at whole frames, and `faces` under [data.NAME] names crops of OpenFace."
            raise UsageError(what, "Extract it in a workspace without that key.")
    return None


def _levels(encoders: Sequence[Encoder], args: ExtractArgs) -> dict[str, str]:
    """Level of each encoder: the one asked for, else the one that its name implies (`HL-FRA`), else its first."""
    if args.level is not None and args.level not in LEVELS:
        raise UsageError(f"There is no level {args.level!r}.", f"Levels: {', '.join(LEVELS)}.")
    levels = {}
    for name, encoder in zip(args.encoders or (), encoders, strict=True):
        levels[encoder.name] = args.level or encoder.level_of(name)
        encoder.spec(levels[encoder.name])  # refuses a level that it does not have
    return levels


def _devices(text: str) -> list[str]:
    names = [str(resolve_device(each.strip())) for each in text.split(",") if each.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{text!r} does not name devices, each once.", "Use auto, cpu, cuda or cuda:0,cuda:1.")
    return names


def _frame_choice(workspace: Workspace, store: Store | None) -> str | FrameTable:
    """Frame of whole-image encoders: a name, a table of indices (which counts by its content), or records of peaks."""
    text = workspace.extract.frame
    if text in FIXED_FRAMES:
        return text
    if is_peak(text):
        return peak_frames(store, text)
    indices = read_frames(Path(text))
    return FrameTable(indices, "table:" + digest(repr(sorted(indices.items())).encode()))
