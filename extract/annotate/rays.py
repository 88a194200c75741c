"""Annotates clips on a Ray cluster: each worker the clips that it is dealt, all of them on one budget.

Records go from each worker into the store; between the coordinator and a worker travel clips, counters and errors. The
budget lies beside the coordinator, and a request is counted there before it is sent, so it holds whatever is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from emo.extract.annotate.budget import Budget
from emo.extract.annotate.describer import Asking, Stopped
from emo.extract.annotate.endpoint import KEY
from emo.extract.annotate.plan import Plan
from emo.extract.annotate.run import Progress, Run
from emo.extract.annotate.setup import Settings, make_plan
from emo.extract.annotate.spool import recover
from emo.extract.run.plan import sample_of
from emo.extract.run.workers import crash_of, processes_work
from emo.featstore.clip import Clip
from emo.featstore.cluster import Common, Crew, Place, connected, keep_here, telling
from emo.featstore.errors import UsageError
from emo.featstore.sources.chat import Reply
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import Workspace

Copies = tuple[Clip, ...]  # clips whose files are the same, as far as a sample tells: one worker has all of them
IN_WORDS = ("offline", "http", "https", "replay")  # describers that need no GPU


class Till:
    """The budget of all workers, beside the coordinator."""

    def __init__(self, requests: int | None, cost: float | None, prices: Mapping[str, tuple[float, float]]) -> None:
        self._budget = Budget(requests, cost, prices)

    def attempt(self) -> str:
        """Count a request that is about to be sent; return why it may not be, if so."""
        try:
            self._budget.attempt()
        except Stopped as error:
            return str(error)
        return ""

    def pay(self, model: str, reply: Reply) -> str:
        """Count what a reply costs; return why nothing more may be asked, if so."""
        self._budget.pay(model, reply)
        return self._budget.stopped

    def told(self) -> tuple[int, float, int, str]:
        """Return how many requests were asked, what they cost, what that does not count, and why no more may be."""
        return self._budget.asked, self._budget.spent, self._budget.uncounted, self._budget.stopped


@dataclass
class Share(Budget):
    """The budget as a worker sees it.

    Attributes:
        till: Of all workers; `None` where no request is ever sent.
        refused: Why it lets no more be asked.
    """

    till: Common | None = None
    refused: str = ""

    def attempt(self) -> None:
        """Count a request that is about to be sent, for all workers."""
        super().attempt()
        if self.till is not None and (why := self.till.call("attempt")):
            self._refuse(why)
            raise Stopped(why)

    def pay(self, model: str, reply: Reply) -> None:
        """Count what a reply costs, likewise."""
        if self.till is not None and (why := self.till.call("pay", model, Reply("", tokens=reply.tokens))):
            self._refuse(why)

    def _refuse(self, why: str) -> None:
        self.refused = why
        self.stop(why)


class Shift:
    """The work of one worker: a run over the clips that come, and another one where more come later."""

    def __init__(self, make: Callable[[], Run], share: Share) -> None:
        self._make, self._share = make, share
        self._run, self._ran = make(), False

    @property
    def progress(self) -> Progress:
        """Counters of the run."""
        return replace(self._run.progress, refused=self._share.refused)

    def stop(self) -> None:
        """Ask nothing new; finish and commit what is under way."""
        self._run.stop()

    def run(self, items: Iterator[Copies]) -> int:
        """Annotate the clips; return how many answers of runs that were killed were found and kept."""
        if self._ran:
            self._run = self._make()
        self._ran = True
        self._run.run(chain.from_iterable(items))
        return self._run.recovered


@dataclass(frozen=True)
class AtWorker:
    """Makes the work of one worker of a cluster, there: the same annotations by the same flags.

    Attributes:
        workspace: At the same path on all machines.
        dataset: Name of the `[data.NAME]` table.
        given: Flags that change annotations.
        asking: How describers ask, but for budget and device.
        annotation: Key of the annotations that must come of it.
        concurrency: See `Run`.
        retry_failed: See `Run`.
        decoding: Whether processes decode.
        till: The budget of all workers, if anything is asked that costs.
    """

    workspace: Workspace
    dataset: str
    given: Settings
    asking: Asking
    annotation: str
    concurrency: int
    retry_failed: bool
    decoding: bool
    till: Common | None = None

    def __call__(self, place: Place) -> Shift:
        """Make it for the device that the place has."""
        share = Share(till=self.till)
        asking = replace(self.asking, attempt=share.attempt, wait=share.wait, device=place.device)
        plan = make_plan(self.workspace, self.workspace.table(self.dataset), self.given, asking)
        if plan.annotation.key != self.annotation:
            made = f"On {place.address} it would be {plan.annotation.key}, not {self.annotation}."
            raise UsageError(made, "Are emo, the prompts and the tables of action units the same there?")
        processes = place.cpus if self.decoding and processes_work() else 0

        def make() -> Run:
            store = open_store(self.workspace.store_path, create=True)
            return Run(store, plan, share, self.concurrency, self.retry_failed, processes=processes)

        return Shift(make, share)


@dataclass
class Ray:
    """A run over clips on a cluster, as `Run` is one in this process.

    Attributes:
        address: Of the cluster; `auto` is the one that this machine belongs to.
        store: Where everything is kept.
        plan: As it is made here.
        budget: How much may be asked, by all workers together.
        make: Makes the work of a worker there.
        say: Hears how far it is, and of workers that come and are lost.
        recovered: Answers of runs that were killed, which workers found and kept.
    """

    address: str
    store: Store
    plan: Plan
    budget: Budget
    make: AtWorker
    say: Callable[[str], None]
    recovered: int = 0
    _crew: Crew[Copies] = field(init=False)
    _items: Sequence[Copies] = ()
    _before: frozenset[str] = frozenset()
    _sum: Progress = field(default_factory=Progress)  # of what no worker tells: what lost ones had committed

    def __post_init__(self) -> None:
        if self.make.given.record is not None:
            raise UsageError("--record writes the answers of one process.", "Leave out --ray, or --record.")
        inside = all(text.partition(":")[0] in IN_WORDS for text in self.make.given.named.values())
        device = "cpu" if inside and (self.make.given.aus or "").partition(":")[0] != "pyfeat" else "auto"
        self.make = replace(self.make, asking=replace(self.make.asking, key=os.environ.get(KEY, "").strip()))
        self._crew = Crew(self.address, self.make, self._left, device=device, twice=False)
        self._crew.say, self._crew.heard = self.say, self._heard

    @property
    def progress(self) -> Progress:
        """The sum of all workers' counters."""
        found = replace(self._sum, failed=self._sum.failed.copy())
        for each in (*self._crew.past, *self._crew.live()):
            found.done += each.done
            found.made += each.made
            found.there += each.there
            found.copies += each.copies
            found.failed += each.failed
            found.answers = found.answers + each.answers
        return found

    def stop(self) -> None:
        """Ask nothing new; what is under way is finished and committed, on all workers."""
        self._sum.stopping = True
        self.budget.stop("interrupted")
        self._crew.stop()

    def run(self, clips: Sequence[Clip]) -> Progress:
        """Deal the clips to the workers until each is done.

        Raises:
            UsageError: There is no such cluster, or nothing can be asked at all.
            StoreError: The store cannot be written.
        """
        self._items, self._sum.total = together(clips), len(clips)
        self._before = self._annotated([clip.id for clip in clips])
        budget, crew, till = self.budget, self._crew, None
        with connected(self.address), telling(lambda: self.progress.sentence(), self.say):
            if any(each.remote for each in self.plan.describers.values()):
                till = keep_here(Till, budget.requests, budget.cost, dict(budget.prices))
                crew.make = replace(self.make, till=till)
            results, killers = crew.run(self._items)
            if till is not None:
                budget.asked, budget.spent, budget.uncounted, why = till.call("told")
                budget.stopped = budget.stopped or why
        self.recovered += sum(results)
        self._give_up(list(chain.from_iterable(killers)))
        return self.progress

    def _heard(self, progress: Progress) -> None:
        if progress.refused:
            self._crew.stop()  # what is left is left: nobody may ask

    def _left(self, items: Sequence[Copies]) -> list[bool]:
        """Say of each item of a lost worker whether it must be dealt again.

        What was annotated before this run may have changed since: whoever gets it looks. Nothing is asked again for it.
        """
        self.recovered += recover(self.store)
        self.store.refresh()
        here = self._annotated([clip.id for item in items for clip in item]) - self._before
        left = [any(clip.id not in here for clip in item) for item in items]
        made = sum(len(item) for item, again in zip(items, left, strict=True) if not again)
        self._sum.made, self._sum.done = self._sum.made + made, self._sum.done + made
        return left

    def _annotated(self, clips: Sequence[str]) -> frozenset[str]:
        """Return those of the clips that the store has an annotation of."""
        goal = self.plan.goal
        if all(each.spec.fingerprint != goal.fingerprint for each in self.store.features(records=True)):
            return frozenset()
        return frozenset(clip for clip, has in zip(clips, self.store.has(goal, clips), strict=True) if has)

    def _give_up(self, clips: Sequence[Clip]) -> None:
        """Record clips at which two workers died that had nothing else to do."""
        with self.store.writer() as writer:
            for clip in clips:
                error = crash_of(clip.id)
                writer.fail(self.plan.goal, clip.id, error)
                self._sum.failed[error.kind] += 1
                self._sum.done += 1


def together(clips: Sequence[Clip]) -> list[Copies]:
    """Put clips together whose files are the same, as far as a sample tells, so that nobody asks twice about one."""
    found: dict[bytes, list[Clip]] = {}
    for clip in clips:
        found.setdefault(sample_of(clip), []).append(clip)
    return [tuple(each) for each in found.values()]
