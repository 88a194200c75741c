"""Executors run the jobs of a plan: in this process (`Local`), on a Ray cluster (`rays.py`), or wherever you like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from emo.extract.run.pipeline import Pass, Progress
from emo.extract.run.plan import Job
from emo.extract.run.workers import prepare_processes
from emo.featstore.errors import MediaError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store


class Executor(Protocol):
    """Runs the jobs of one shard of a plan, or of all of it.

    Whoever computes commits through the journal of the store, which is the only truth about what is done: a worker that
    is lost costs its uncommitted clips and nothing else, and nobody has to be told what it had finished.
    """

    say: Callable[[str], None]
    """Hears, in sentences, what else happens while it runs."""

    @property
    def progress(self) -> Progress:
        """Counters that may be read while it runs."""
        ...

    @property
    def notes(self) -> Mapping[str, Mapping[str, str]]:
        """Return what was noticed of clips that did not fail: a sentence per clip, by kind."""
        ...

    def stop(self) -> None:
        """Take no new clips; finish and commit those under way."""
        ...

    def run(
        self, store: Store, jobs: Sequence[Job], environment: dict[str, str]
    ) -> Sequence[tuple[str, EncoderSpec, MediaError]]:
        """Process the jobs and commit their features.

        Args:
            store: Where the features go.
            jobs: Clips to process.
            environment: What is recorded with each commit beside the recipes.

        Returns:
            What failed: clip id, feature, reason.

        Raises:
            ModelError: Weights do not load (nothing has been decoded by then), or a device failed.
            StoreError: The store cannot be written.
        """
        ...


@dataclass
class Local:
    """Runs jobs in this process and the processes that decode for it, as one pass.

    Attributes:
        job: The pass; another of the same models takes its place where `run` is called again.
    """

    job: Pass
    ran: bool = False
    say: Callable[[str], None] = lambda sentence: None

    @property
    def progress(self) -> Progress:
        """Counters of the pass."""
        return self.job.progress

    @property
    def notes(self) -> Mapping[str, Mapping[str, str]]:
        """Notes of the pass."""
        return self.job.notes

    def stop(self) -> None:
        """Take no new clips; finish and commit those under way."""
        self.job.stop()

    def run(
        self, store: Store, jobs: Iterable[Job], environment: dict[str, str]
    ) -> Sequence[tuple[str, EncoderSpec, MediaError]]:
        """Load the models, then run the pass over the jobs, which may come as it goes."""
        if self.ran:
            self.job = self.job.again()
        self.ran = True
        if self.job.options.processes:
            prepare_processes()  # they import while the models load
        for encoder in (encoder for encoders in self.job.devices for encoder in encoders):
            if not self.job.progress.stopping:
                encoder.load()
        self.job.run(store, jobs, environment)
        return self.job.failures
