"""`emo transcribe`: what is said in clips whose dataset does not tell, as records of the store."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from emo.extract.asr import DEFAULT, Transcriber
from emo.extract.media.container import open_media
from emo.extract.media.reading import as_failure
from emo.extract.run.executor import Executor
from emo.extract.run.interrupt import interruptible
from emo.extract.run.pipeline import Progress
from emo.extract.run.plan import Job, plan
from emo.extract.run.rays import Ray, Shift
from emo.extract.session import Outcome, read_as
from emo.extract.texts import CODES
from emo.featstore.clip import Clip
from emo.featstore.cluster import Place, telling
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.fetch import at_hand
from emo.featstore.install import versions
from emo.featstore.page import Flag, Page, Table, throttle
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.storage.writer import Writer
from emo.featstore.text import counted
from emo.featstore.workspace import Workspace


@dataclass
class Writing:
    """An executor: writes down clip by clip what is said; a broken one is recorded, and Ctrl-C keeps what is done."""

    spec: EncoderSpec
    transcriber: Transcriber
    workspace: Workspace
    progress: Progress = field(default_factory=Progress)
    notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    say: Callable[[str], None] = lambda sentence: None
    failed: list[tuple[str, EncoderSpec, MediaError]] = field(default_factory=list)

    def stop(self) -> None:
        """Take no new clips."""
        self.progress.stopping = True

    def run(
        self, store: Store, jobs: Iterable[Job], environment: dict[str, str]
    ) -> Sequence[tuple[str, EncoderSpec, MediaError]]:
        """Load the model, then write down what is said in the clips, which may come as it goes."""
        total = len(jobs) if isinstance(jobs, Sized) else 0
        self.progress, self.failed = Progress(total, stopping=self.progress.stopping), []
        self.transcriber.load()
        with store.writer(commit_every=20, environment=environment) as writer:
            try:
                for job in jobs:
                    if self.progress.stopping:
                        break
                    self._clip(job, store, writer)
                    self.progress.done += 1
                    self.progress.decoded = self.progress.done
                    self.say(self.progress.says())
            except KeyboardInterrupt:
                self.progress.stopping = True
        return self.failed

    def _clip(self, job: Job, store: Store, writer: Writer) -> None:
        try:
            with at_hand(job.path) as found:
                file = job.file or found.file_id()
                writer.clip(job.clip.id, file, job.path)
                if store.status(self.spec, file.media) == "ok":  # a copy of a clip that is done
                    return
                with open_media(found.path, read_as(self.workspace)) as media:
                    value = self.transcriber.transcribe(media.audio(), media.info.audio_start_s)
                    self.progress.media_s += media.info.duration_s
        except Exception as error:  # noqa: BLE001 - one broken clip must not end a round over 100,000
            failure = as_failure(error, job.path)
            writer.fail(self.spec, job.clip.id, failure)
            self.failed.append((job.clip.id, self.spec, failure))
            self.progress.failed[failure.kind] += 1
            return
        writer.add_record(self.spec, file.media, value)
        self.progress.stored += 1


@dataclass(frozen=True)
class AtWorker:
    """Makes the work of one worker of a cluster, there; it must make the same records."""

    workspace: Workspace
    spec: EncoderSpec
    model: str
    language: str | None

    def __call__(self, place: Place) -> Shift:
        """Make it for the device that the place has."""
        device = place.device.partition(":")[0]
        transcriber = Transcriber(self.model, self.language, device)
        made = transcriber.spec(read_as(self.workspace).audio_recipe)
        if made != self.spec:
            raise UsageError(f"On {place.address} it would be {made.key}, not {self.spec.key}.", "Is it the same emo?")
        work = Writing(made, transcriber, self.workspace)
        return Shift(work, self.workspace.store_path, _environment(device))


def _environment(device: str) -> dict[str, str]:
    return {"device": device, **versions("faster-whisper", "ctranslate2", "av")}


def transcribe_page(
    workspace: Workspace,
    say: Callable[[str], None],
    dataset: Annotated[str | None, Flag("A [data.NAME] table of emo.toml.")] = None,
    split: Annotated[str | None, Flag("Only clips of this split.")] = None,
    model: Annotated[str, Flag("whisper-base, or a folder or Hugging Face id of a Whisper model.")] = DEFAULT,
    language: Annotated[str | None, Flag("What is spoken, as en or zh. Default: told clip by clip.")] = None,
    every: Annotated[bool, Flag("Also clips that have a transcript; it stays the one that is read.", "--all")] = False,
    device: Annotated[str, Flag("cpu or cuda.")] = "cpu",
    ray: Annotated[
        str | None, Flag("On a Ray cluster: its address, or auto for this machine's. See docs/scale.md.")
    ] = None,
    limit: Annotated[int | None, Flag("Only the first N clips that are present.", least=1)] = None,
    retry_failed: Annotated[bool, Flag("Try again what failed for good.", "--retry-failed")] = False,
) -> Page:
    """Write down what is said in clips whose dataset does not tell; what is done is not done again.

    Raises:
        UsageError: A flag or the workspace is wrong, or faster-whisper is not installed.
        WeightsMissing: The model is not there.
        ModelError: It is no Whisper model.
    """
    table = workspace.table(dataset)
    source = open_dataset(table.name, table)
    part = None if split is None else source.find_split(split)
    clips = [clip for clip in source.clips() if part is None or clip.split == part]
    told = [clip for clip in clips if any(map(str.strip, clip.transcripts.values()))]
    known = {clip.id for clip in told}
    wanted = [clip for clip in clips if every or clip.id not in known]
    transcriber = Transcriber(model, language, device)
    spec = transcriber.spec(read_as(workspace).audio_recipe)
    path = workspace.store_path
    store = open_store(path) if has_store(path) else None
    todo = plan(store, wanted, [spec], retry_failed=retry_failed, limit=limit)
    own = f"the dataset has transcripts of {len(told):,}, which stay the ones read"
    say(f"{table.name}: {counted(len(clips), 'clip')}; {own}")
    say(f"{spec.key}: {todo.done:,} are done, {todo.hopeless:,} failed for good, {len(todo.jobs):,} to do")
    store = open_store(path, create=True)
    work: Executor = Writing(spec, transcriber, workspace)
    work.say = throttle(say)
    if ray:
        work = Ray(ray, AtWorker(workspace, spec, model, language), [spec], retry_failed, device=device)
        work.say = say
    if todo.jobs and ray:
        with interruptible(work, say, lambda: None), telling(lambda: work.progress.says(), say):
            work.run(store, todo.jobs, {})
    elif todo.jobs:
        work.run(store, todo.jobs, _environment(device))
    if work.progress.stopping:
        say(f"stopped; {counted(work.progress.done, 'clip')} committed, run the same command to go on")
    return _page(store, spec, work.progress, [clip for clip in wanted if clip.id in set(todo.clips)])


def _page(store: Store, spec: EncoderSpec, progress: Progress, clips: Sequence[Clip]) -> Page:
    """Draw what the store has of these clips now."""
    ids = [clip.id for clip in clips]
    there = progress.total or any(each.spec.fingerprint == spec.fingerprint for each in store.features(records=True))
    has = dict(zip(ids, store.has(spec, ids), strict=True)) if there else {}
    found = store.records(spec, [each for each in ids if has.get(each)]) if any(has.values()) else {}
    empty = Counter(value["why_empty"] for value in found.values() if not value["text"])
    spoken = Counter(value["language"] for value in found.values() if value["text"])
    failures = [each for each in store.failures() if each.feature == spec.key and each.clip in set(ids)]
    outcome = Outcome(progress, tuple(failures))
    value = outcome.to_json() | {"record": spec.key, "transcripts": len(found), "languages": dict(spoken)}
    value |= {"empty": dict(empty), "against_dataset": _compared(clips, found)}
    given = spec.recipe["decoding"].get("language")
    said = "written in {}, as --language says" if given else "said in {}"
    rows = [[said.format(language), n] for language, n in spoken.most_common()]
    rows += [[f"empty: {why}", n] for why, n in empty.most_common()]
    parts: list[Table | str] = [Table(spec.key, ("transcripts", "clips"), rows, ("clips",))]
    if against := value["against_dataset"]:
        parts.append(
            f"Against the dataset's own transcripts of {against['clips']:,} clips: {against['cer']:.3f} of their "
            "characters are wrong (letters and digits only; simplified and traditional signs differ)."
        )
    if found:
        parts.append("What was heard stands beside its clip in `emo serve`; features of text read it.")
    return Page(value, parts + list(outcome.page().parts), exit_code=outcome.exit_code)


def _compared(clips: Sequence[Clip], found: dict[str, Any]) -> dict[str, Any]:
    """Share of wrong characters over all clips whose dataset has a transcript in the language that was heard."""
    wrong = total = n = 0
    for clip in clips:
        value = found.get(clip.id)
        if value is None:
            continue
        languages = [CODES.get(value["language"], value["language"])] if value["language"] else clip.transcripts
        truth = next((clip.transcripts[each] for each in languages if clip.transcripts.get(each, "").strip()), None)
        if truth is not None:
            errors, length = character_errors(truth, value["text"])
            wrong, total, n = wrong + errors, total + length, n + 1
    return {"clips": n, "characters": total, "cer": wrong / total} if total else {}


def character_errors(truth: str, heard: str) -> tuple[int, int]:
    """Return how many characters must be changed, put in or taken out, and the length of the truth.

    Letters and digits count, in Unicode's compatibility form (NFKC) and lower case; spaces and punctuation do not.
    """
    a, b = ("".join(_letters(text)) for text in (truth, heard))
    row = np.arange(len(b) + 1)
    for i, letter in enumerate(a, 1):
        new = np.empty_like(row)
        new[0] = i
        for j, other in enumerate(b, 1):
            new[j] = min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (letter != other))
        row = new
    return int(row[-1]), len(a)


def _letters(text: str) -> Iterator[str]:
    return (each for each in unicodedata.normalize("NFKC", text).lower() if each.isalnum())
