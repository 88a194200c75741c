"""Runs the jobs of a plan on a Ray cluster: on each device today's pass over the clips that it is dealt.

Features go from each worker into the store. The coordinator reads there what a lost worker had committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from emo.extract.run.executor import Executor
from emo.extract.run.pipeline import Progress
from emo.extract.run.plan import Job, left
from emo.extract.run.workers import crash_of
from emo.featstore.cluster import Crew, Place
from emo.featstore.errors import MediaError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.medium import Address
from emo.featstore.storage.store import Store, open_store

Failures = Sequence[tuple[str, EncoderSpec, MediaError]]
Notes = dict[str, dict[str, str]]


class Shift:
    """The work of one worker: what its executor does with the clips that come, again where more come later."""

    def __init__(self, executor: Executor, store_path: Address, environment: dict[str, str]) -> None:
        self._executor, self._path, self._environment = executor, store_path, environment

    @property
    def progress(self) -> Progress:
        """Counters of the executor."""
        return self._executor.progress

    def stop(self) -> None:
        """Take no new clips; finish and commit those under way."""
        self._executor.stop()

    def run(self, items: Iterator[Job]) -> tuple[Failures, Notes]:
        """Run over the clips; what failed, and what was noticed."""
        failures = self._executor.run(open_store(self._path, create=True), items, self._environment)
        return list(failures), {kind: dict(clips) for kind, clips in self._executor.notes.items()}


class Ray:
    """An executor: a worker per device of a cluster, and one coordinator, which is this process.

    Args:
        address: Of the cluster; `auto` is the one that this machine belongs to.
        make: Makes the work of a worker there; pickled.
        specs: What is wanted of each clip.
        retry_failed: Try again what failed for good.
        per_gpu: Workers on each GPU.
        device: `auto`, `cuda` or `cpu`, see `Crew`.
        patience_s: See `Crew`.

    Attributes:
        say: Hears of workers that come and are lost.
    """

    def __init__(
        self,
        address: str,
        make: Callable[[Place], Shift],
        specs: Sequence[EncoderSpec],
        retry_failed: bool = False,
        per_gpu: int = 1,
        device: str = "auto",
        patience_s: float = 120.0,
    ) -> None:
        self.specs, self.retry_failed = tuple(specs), retry_failed
        self.say: Callable[[str], None] = lambda sentence: None
        self.crew: Crew[Job] = Crew(address, make, self._left, per_gpu, device, patience_s=patience_s)
        self.crew.say = lambda sentence: self.say(sentence)
        self.notes: Notes = {}
        self._sum = Progress()
        self._before = 0
        self._store: Store | None = None

    @property
    def progress(self) -> Progress:
        """The sum of all workers' counters."""
        total, crew = self._sum.total, self.crew
        found = Progress(total, stopping=crew.stopping, started_s=self._sum.started_s)
        for each in (*crew.past, *crew.live()):
            found.stored += each.stored
            found.failed.update(each.failed)
            found.media_s += each.media_s
        found.done = min(total, crew.done + sum(each.done for each in crew.live()))
        found.decoded = min(total, crew.done + sum(each.decoded for each in crew.live()))
        if crew.deaths and self._sum.done:  # what a lost worker had committed stands in the store alone
            found.stored = self._sum.stored
        return found

    def stop(self) -> None:
        """Take no new clips; finish and commit those under way, on all workers."""
        self.crew.stop()

    def run(self, store: Store, jobs: Sequence[Job], environment: dict[str, str]) -> Failures:
        """Deal the jobs to the workers until each is done; what is recorded with commits is each worker's own."""
        self._store = store
        self._sum = Progress(len(jobs))
        before = self._features(jobs)
        results, killers = self.crew.run(jobs)
        failures = [failure for each, _ in results for failure in each]
        for _, notes in results:
            for kind, clips in notes.items():
                self.notes.setdefault(kind, {}).update(clips)
        failures += self._give_up(killers)
        self._sum.done, self._sum.stored = 1, self._features(jobs) - before
        return failures

    def _give_up(self, jobs: Iterable[Job]) -> Failures:
        """Record clips at which two workers died that had nothing else to do."""
        failures = []
        assert self._store is not None
        with self._store.writer() as writer:
            for job in jobs:
                error = crash_of(job.path.name)
                for spec in self.specs:
                    writer.fail(spec, job.clip.id, error)
                    failures.append((job.clip.id, spec, error))
        return failures

    def _left(self, jobs: Sequence[Job]) -> list[bool]:
        """Say of each clip whether the store lacks something of it that can be had."""
        assert self._store is not None
        self._store.refresh()
        media = [self._media(job) for job in jobs]
        known = [(job.clip, each) for job, each in zip(jobs, media, strict=True) if each is not None]
        lacking = set[str]().union(*left(self._store, self.specs, known, self.retry_failed).values())
        return [each is None or each in lacking for each in media]

    def _media(self, job: Job) -> str | None:
        assert self._store is not None
        row = self._store.clip_row(job.clip.id)
        if job.file is not None:
            return job.file.media
        return None if row is None else row[0]

    def _features(self, jobs: Sequence[Job]) -> int:
        """Count the wanted features that the store has of the clips, each content once."""
        assert self._store is not None
        self._store.refresh()
        media = {each for each in map(self._media, jobs) if each is not None}
        return sum(self._store.status(spec, each) == "ok" for spec in self.specs for each in media)
