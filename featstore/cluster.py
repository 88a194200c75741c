"""Work on a Ray cluster: a worker per GPU, items dealt out by one coordinator, which is whoever calls.

What workers make goes where the work puts it, a store for instance, and never through Ray: between the coordinator and
a worker travel items, counters and errors. A worker that dies, alone or with its node, is replaced; nodes that come
are used; who is late at the end is helped. See `dealing.py` for who gets what.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any, Generic, Protocol, TypeVar

from emo.featstore.dealing import Dealer
from emo.featstore.errors import EmoError, ModelError, UsageError
from emo.featstore.install import install_command
from emo.featstore.text import counted

Item = TypeVar("Item")
Taken = TypeVar("Taken", contravariant=True)
POLL_S, EACH_S = 0.2, 0.01  # least time between two looks at a worker; and that for each worker there is
MOST, PARCELS = 200, 16  # items dealt at a time; of few items, this part of all
LOOK_S = 2.0  # between two looks at the nodes
START_S = 180.0  # in which a first worker must have come up
TELL_S = 5.0  # between two lines about how far it is
DEATHS = 8  # of one worker, one after the other, after which its place is left


@dataclass(frozen=True)
class Place:
    """Node and device of a worker.

    Attributes:
        node: Ray's id of the node.
        address: Of the node, for sentences.
        number: Of the worker on this node, from 0.
        gpus: Share of a GPU that it has; 0 where it has none.
        cpus: Processors that it has.
    """

    node: str
    address: str
    number: int
    gpus: float
    cpus: int

    @property
    def name(self) -> str:
        """Name that no other worker's place has."""
        return f"{self.node}:{self.number}"

    @property
    def device(self) -> str:
        """Name of the device, as torch has it."""
        return "cuda:0" if self.gpus else "cpu"


class Work(Protocol[Taken]):
    """Work of one worker, made there."""

    @property
    def progress(self) -> Any:
        """Counters that are copied to the coordinator while it runs."""
        ...

    def stop(self) -> None:
        """Begin nothing new; finish what is under way."""
        ...

    def run(self, items: Iterator[Taken]) -> Any:
        """Work on items as they come, keep what is made, and return what the coordinator should know.

        Called again when there is more after the items have ended.
        """
        ...


@dataclass(frozen=True)
class Report:
    """State of a worker: `waiting` items are not begun, `returned` ones come back, `result` is there once `ended`."""

    running: bool
    waiting: int
    returned: tuple[int, ...] = ()
    progress: Any = None
    ended: bool = False
    result: Any = None
    error: EmoError | None = None


class Hands:
    """A worker: one thread that works, and a door through which items come and reports leave. An actor of Ray."""

    def __init__(self, make: Callable[[Place], Work[Any]], place: Place) -> None:
        self._make, self._place = make, place
        self._work: Work[Any] | None = None
        self._queue: Queue[tuple[int, Any] | None] = Queue()
        self._thread: threading.Thread | None = None
        self._end: tuple[Any, EmoError | None] | None = None
        self._stopping = False

    def exchange(self, items: Sequence[tuple[int, Any]], close: bool, stop: bool, give_back: bool) -> Report:
        """Take items, begin to work if nothing runs, and say how far it is."""
        returned = []
        with suppress(Empty):
            while give_back and (item := self._queue.get_nowait()) is not None:
                returned.append(item[0])
        for item in items:
            self._queue.put(item)
        if items and self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        if close:
            self._queue.put(None)
        if stop:
            self._stopping = True
            if self._work is not None:
                self._work.stop()
            self._queue.put(None)
        progress = None if self._work is None else copy(self._work.progress)
        waiting = sum(item is not None for item in self._queue.queue)
        if self._end is None:
            return Report(self._thread is not None, waiting, tuple(returned), progress)
        (result, error), self._end, self._thread = self._end, None, None
        self._queue = Queue()
        return Report(False, 0, tuple(returned), progress, True, result, error)

    def _run(self) -> None:
        try:
            if self._work is None:
                self._work = self._make(self._place)
            if self._stopping:
                self._work.stop()
            self._end = self._work.run(self._items()), None
        except EmoError as error:
            self._end = None, error
        except BaseException as error:  # noqa: BLE001 - whatever it is, the coordinator has to hear of it
            self._end = None, ModelError(f"A worker on {self._place.address} failed: {type(error).__name__}: {error}.")

    def _items(self) -> Iterator[Any]:
        queue = self._queue
        while (item := queue.get()) is not None:
            yield item[1]


@dataclass
class _Worker:
    """State of one worker, as the coordinator knows it."""

    place: Place
    actor: Any
    asked: Any  # the answer that is waited for
    asked_s: float
    name: str
    report: Report | None = None
    closed_s: float | None = None
    gives_back: bool = False


@dataclass
class Crew(Generic[Item]):
    """All workers of a cluster on one list of items.

    Attributes:
        address: Of the cluster; `auto` is the one that this machine belongs to.
        make: Makes the work of a worker, there; it is pickled, by name.
        left: Says which of some items are not done, by looking where the work puts things.
        per_gpu: Workers on each GPU.
        device: `auto`: workers on GPUs where the cluster has any, else one on every node; `cuda` or `cpu`: only those.
        size: Items dealt at a time; 0 leaves it to their number.
        patience_s: How long a worker may be silent; and how long one may be late at the end until it is helped.
        twice: Whether what a late worker has begun is dealt to another one as well.
        say: Hears of workers that are lost, and of nodes that come.
        heard: Gets the progress of each worker as it comes.
        past: Progress of work that has ended, and `deaths` counts workers that were lost.
    """

    address: str
    make: Callable[[Place], Work[Item]]
    left: Callable[[Sequence[Item]], Sequence[bool]]
    per_gpu: int = 1
    device: str = "auto"
    size: int = 0
    patience_s: float = 120.0
    twice: bool = True
    say: Callable[[str], None] = lambda sentence: None
    heard: Callable[[Any], None] = lambda progress: None
    past: list[Any] = field(default_factory=list)
    deaths: int = 0
    stopping: bool = False
    items: Sequence[Item] = ()
    dealer: Any = None
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _streak: dict[str, int] = field(default_factory=dict)
    _error: EmoError | None = None
    _count: int = 0

    def stop(self) -> None:
        """Begin nothing new; finish what is under way everywhere."""
        self.stopping = True

    def live(self) -> list[Any]:
        """Return the progress of work that is under way."""
        reports = [worker.report for worker in list(self._workers.values())]
        return [report.progress for report in reports if report is not None and report.running and report.progress]

    @property
    def done(self) -> int:
        """Items that are done, but for those of work that is under way."""
        return 0 if self.dealer is None else len(self.items) - len(self.dealer.open)

    def run(self, items: Sequence[Item]) -> tuple[list[Any], list[Item]]:
        """Have all items worked on.

        Returns:
            What each work returned at its end, and the items that killed two workers which had nothing else.

        Raises:
            UsageError: There is no such cluster, or no node of the kind that is wanted.
            EmoError: The error of the last worker, where each ended with one.
        """
        self.items = items
        with connected(self.address):
            self.dealer = Dealer(len(items), self.size or max(1, min(MOST, len(items) // PARCELS)))
            self.results: list[Any] = []
            try:
                self._loop()
            finally:
                self._dismiss()
        return self.results, [items[i] for i in self.dealer.given_up]

    # ---- the coordinator --------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        import ray

        looked_s, begun_s = 0.0, time.monotonic()
        while self.dealer.open and not (self.stopping and not self._busy()):
            now_s = time.monotonic()
            if now_s - looked_s >= LOOK_S:
                self._recruit()
                looked_s = now_s
            if all(worker.report is None for worker in self._workers.values()):
                self._nobody(now_s - begun_s)
            else:
                begun_s = now_s
            answers = {worker.asked: worker for worker in self._workers.values() if worker.asked is not None}
            ready = set(ray.wait(list(answers), num_returns=len(answers), timeout=POLL_S)[0]) if answers else set()
            if not answers:
                time.sleep(POLL_S)
            for asked, worker in answers.items():
                if asked in ready:
                    self._hear(worker)
                elif worker.report is not None and now_s - worker.asked_s > self.patience_s:
                    self._lose(worker, "says nothing")
            self._help()
            for worker in list(self._workers.values()):
                self._ask(worker)

    def _busy(self) -> bool:
        return any(worker.report is not None and worker.report.running for worker in self._workers.values())

    def _nobody(self, since_s: float) -> None:
        if self._error is not None and not self._workers:
            raise self._error
        if since_s > START_S:
            what = {"cuda": "a free GPU", "cpu": "free processors"}.get(self.device, "room for a worker")
            raise UsageError(f"No node of the cluster {self.address} has {what}.", "Look at `ray status`.")

    def _recruit(self) -> None:
        """Begin a worker in every place that has none."""
        places = {place.name: place for place in find_places(self.device, self.per_gpu)}
        known = {worker.place.name for worker in self._workers.values()}
        wanted = [name for name in places if name not in known and self._streak.get(name, 0) < DEATHS]
        if not wanted or self.stopping:
            return
        for name in wanted:
            self._begin(places[name])
        nodes = len({places[name].node for name in wanted})
        workers = counted(len(wanted), "more worker" if known else "worker")
        self.say(f"{workers} on {counted(nodes, 'node')} of the cluster")

    def _begin(self, place: Place) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._count += 1
        there = NodeAffinitySchedulingStrategy(place.node, soft=False)
        options = {"num_cpus": place.cpus, "num_gpus": place.gpus, "max_restarts": 0, "scheduling_strategy": there}
        actor: Any = ray.remote(Hands).options(**options).remote(self.make, place)
        name = f"{place.name}#{self._count}"
        asked = actor.exchange.remote([], False, False, False)  # it gets nothing before it has said that it is there
        self._workers[name] = _Worker(place, actor, asked, time.monotonic(), name)

    def _hear(self, worker: _Worker) -> None:
        """Take a worker's answer."""
        import ray

        try:
            report: Report = ray.get(worker.asked)
        except ray.exceptions.RayError as error:
            self._lose(worker, "was lost" if worker.report is not None else f"did not start ({type(error).__name__})")
            return
        worker.asked = None
        if worker.gives_back:
            worker.gives_back = False
            self.dealer.returned(worker.name, report.returned)
        if report.error is not None:
            self._error = report.error
            self._streak[worker.place.name] = DEATHS  # what ends with an error there does so again
            self._lose(worker, f"ended: {report.error.message}", blame=False)
            return
        if report.progress is not None:
            self.heard(report.progress)
        if report.ended:
            self.results.append(report.result)
            self.past.append(report.progress)
            self._streak[worker.place.name] = 0
            if not self.stopping:
                self.dealer.ended(worker.name)
            worker.closed_s = None
        worker.report = report

    def _lose(self, worker: _Worker, why: str, blame: bool = True) -> None:
        """Give what a worker had to others."""
        import ray

        with suppress(Exception):  # it is gone, or soon
            ray.kill(worker.actor)
        del self._workers[worker.name]
        held = self.dealer.held(worker.name)
        left = self._left(held)
        self.dealer.lost(worker.name, left, blame)
        name = worker.place.name
        self._streak[name] = self._streak.get(name, 0) + 1
        self.deaths += 1
        back = f"; {len(left):,} of its {len(held):,} are dealt again" if held else ""
        self.say(f"A worker on {worker.place.address} {why}{back}")

    def _left(self, places: Sequence[int]) -> list[int]:
        if not places:
            return []
        return [i for i, left in zip(places, self.left([self.items[i] for i in places]), strict=True) if left]

    def _ask(self, worker: _Worker) -> None:
        """Hand a worker what comes next, or ask how far it is."""
        if worker.asked is not None or worker.report is None:
            return
        report, now_s = worker.report, time.monotonic()
        if report.running and now_s - worker.asked_s < max(POLL_S, EACH_S * len(self._workers)):
            return
        dealt = [] if self.stopping else self.dealer.deal(worker.name, report.waiting)
        close = self.dealer.hand(worker.name).closed and worker.closed_s is None
        if not (dealt or close or report.running):
            return
        if close:
            worker.closed_s = now_s
        sent = [(i, self.items[i]) for i in dealt]
        worker.asked = worker.actor.exchange.remote(sent, close, self.stopping, False)
        worker.asked_s = now_s

    def _help(self) -> None:
        """Deal what late workers have to those that have nothing: first what is not begun."""
        idle = [each for each in self._workers.values() if each.report is not None and self.dealer.idle(each.name)]
        if not idle or not self.dealer.all_dealt or self.stopping:
            return
        now_s = time.monotonic()
        for worker in self._workers.values():
            report = worker.report
            if report is None or not report.running or worker.asked is not None:
                continue
            if report.waiting:
                worker.asked = worker.actor.exchange.remote([], True, False, True)
                worker.asked_s, worker.closed_s, worker.gives_back = now_s, worker.closed_s or now_s, True
            elif self.twice and worker.closed_s is not None and now_s - worker.closed_s > self.patience_s:
                self.dealer.again(worker.name, self._left(self.dealer.held(worker.name)))
                worker.closed_s = now_s

    def _dismiss(self) -> None:
        import ray

        for worker in self._workers.values():
            with suppress(Exception):
                ray.kill(worker.actor)
        self._workers.clear()


def find_places(device: str, per_gpu: int) -> list[Place]:
    """Return the places for workers on the nodes that are there now."""
    import ray

    nodes = [(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = device != "cpu" and (device == "cuda" or any(has.get("GPU") for _, has in nodes))
    places = []
    for node, has in nodes:
        cpus = int(has.get("CPU", 0))
        count = int(has.get("GPU", 0)) * per_gpu if gpus else int(cpus > 0)
        share = 1 / per_gpu if gpus else 0.0
        address = node.get("NodeManagerAddress") or node["NodeID"]
        places += [Place(node["NodeID"], address, k, share, cpus // count) for k in range(count)]
    return places


class Common:
    """An object beside the coordinator which all workers call; it may be sent to them."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *given: Any) -> Any:
        """Return what a method of the object gives; calls of all workers come one after the other.

        Raises:
            ModelError: The object is gone, and with it the coordinator.
        """
        import ray

        try:
            return ray.get(getattr(self._actor, method).remote(*given))
        except ray.exceptions.RayActorError as error:
            raise ModelError("The process of the cluster that all workers ask is gone.") from error


def keep_here(kind: Callable[..., Any], *given: Any) -> Common:
    """Make an object for all workers on this machine, from within `connected`; it ends with the connection."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": here}
    actor: Any = ray.remote(kind).options(**options)
    return Common(actor.remote(*given))


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster at this address while it lasts.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("Ray is not installed.", install_command("ray")) from error
    if ray.is_initialized():
        yield
        return
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "`ray start --head` begins a cluster on this machine; its other machines join it. See docs/scale.md."
        raise UsageError(f"There is no Ray cluster at {address!r}: {first}", hint) from error
    try:
        if threading.current_thread() is threading.main_thread():
            for each, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(each, handler)
        yield
    finally:
        ray.shutdown()


@contextmanager
def telling(line: Callable[[], str], say: Callable[[str], None]) -> Iterator[None]:
    """Say a line every few seconds while something runs in this thread, where it has changed."""
    ended = threading.Event()

    def tell() -> None:
        said = ""
        while not ended.wait(TELL_S):
            if (now := line()) != said:
                say(said := now)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
