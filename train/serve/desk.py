"""The desk that all parts of the page share: one store, one predictor at a time, the catalogue, the line."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.address import Url
from emo.featstore.clip import Clip
from emo.featstore.datasets.lookup import SUFFIXES, clips_of
from emo.featstore.datasets.tables import normal_name
from emo.featstore.errors import EmoError, FeatureMissing, TrainError, UsageError
from emo.featstore.search import Neighbourhood
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import did_you_mean, some_of
from emo.featstore.workspace import Workspace
from emo.train.predictor import Predictor, find_run, open_predictor
from emo.train.runs import Run, read_run, runs_folder
from emo.train.serve.catalogue import Catalogue, make_catalogue
from emo.train.serve.guard import Limits
from emo.train.serve.hands import Hands
from emo.train.serve.inbox import UPLOADS, Inbox
from emo.train.serve.labels import Labels, copies, labelled
from emo.train.serve.line import Line

FRESH_S = 1.0  # what others committed is seen that much later
UPLOADED = re.compile(rf"\S*/{UPLOADS}[^/]*/[^/]*/")
LOOKS = 64  # waveforms that are remembered
SELECTIONS = 32
NEIGHBOURHOODS = 2  # features whose neighbours were asked for last; each is held in memory


class NotFound(UsageError):
    """Nothing is known by this name."""


class Desk:
    """Everything that a request may need; opened once and shared by all threads.

    Args:
        workspace: Where store, runs and datasets are.
        hands: Extraction.
        run: Name of the run that is asked where a request names none; the newest finished one if `None`.
        device: As of `open_predictor`.
        limits: Bounds of requests.

    Attributes:
        uploads: How many files are being received.
        inbox: Where they are put.
    """

    def __init__(
        self,
        workspace: Workspace,
        hands: Hands,
        run: str | None = None,
        device: str = "auto",
        limits: Limits | None = None,
    ) -> None:
        self.workspace, self.hands, self.device = workspace, hands, device
        self.limits = limits or Limits()
        self.line = Line(self.limits.waiting)
        self.uploads = 0
        self.inbox = Inbox()
        self.looks: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.selections: OrderedDict[str, frozenset[str]] = OrderedDict()
        self.cache: OrderedDict[Any, Any] = OrderedDict()  # maps of features, by feature and commit
        self._run = run
        self._opened: tuple[Run, Predictor] | None = None
        self._store: Store | None = None
        self._looked_s = 0.0
        self._catalogue: Catalogue | None = None
        self._clips: dict[str, Clip] | None = None
        self._runs: dict[Path, tuple[tuple[int, int, int], Run]] = {}  # by run.json, with what was seen of the file
        self._labels = Labels()
        self._neighbourhoods: OrderedDict[str, Neighbourhood] = OrderedDict()
        self._lock = threading.RLock()
        self._making = threading.RLock()  # the catalogue, or what neighbours are found by, is made once at a time
        self.writing = threading.Lock()  # one annotation is written at a time

    # ---- store and runs ----------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store | None:
        """The store, as of a second ago or now; `None` as long as there is none."""
        with self._lock:
            if self._store is None and has_store(self.workspace.store_path):
                self._store = open_store(self.workspace.store_path)
            if self._store is not None and time.monotonic() - self._looked_s > FRESH_S:
                self._store.refresh()
                self._looked_s = time.monotonic()
            return self._store

    def need_store(self) -> Store:
        """Return the store.

        Raises:
            FeatureMissing: There is none.
        """
        if (store := self.store) is None:
            raise FeatureMissing("There is no feature store yet.", "Run emo extract, or ask about a clip.")
        return store

    def runs(self) -> list[Run]:
        """All finished runs that can be read, the newest first; a run.json that is as it was is not read again."""
        with self._lock:
            held, self._runs = self._runs, {}
            for path in sorted(runs_folder(self.workspace.root).glob("*/run.json")):
                with suppress(FileNotFoundError, TrainError):  # it was removed just now, or is damaged
                    seen = path.stat()
                    stamp, known = (seen.st_ino, seen.st_mtime_ns, seen.st_size), held.get(path)
                    self._runs[path] = known if known and known[0] == stamp else (stamp, read_run(path.parent))
            found = [run for _, run in self._runs.values() if run.finished]
        return sorted(found, key=lambda run: (str(run.info.get("finished_at", "")), run.name), reverse=True)

    def run_name(self, name: str | None = None) -> str | None:
        """Return the run that is meant; `None` where there is no finished run at all.

        Raises:
            NotFound: There is no such run.
        """
        known = [run.name for run in self.runs()]
        wanted = name or self._run or (known[0] if known else None)
        if wanted is not None and wanted not in known:
            there = f"Runs: {some_of(known)}." if known else "None is finished yet."
            raise NotFound(f"There is no finished run {wanted[:80]!r}.", did_you_mean(wanted[:80], known) or there)
        return wanted

    def predictor(self, name: str | None = None) -> Predictor:
        """Return the predictor of a run. One is open; another run's takes its place.

        Raises:
            UsageError: There is no such run, or none at all.
        """
        with self._lock:
            wanted = self.run_name(name) or find_run(self.workspace).name  # which says that there is none
            run = next((each for each in self.runs() if each.name == wanted), None) or find_run(self.workspace, wanted)
            if self._opened is None or self._opened[0] is not run:  # nor is it an earlier run of that name
                self._opened = run, open_predictor(self.workspace, wanted, self.device, self.store)
            return self._opened[1]

    # ---- clips -------------------------------------------------------------------------------------------------------

    def clips(self) -> dict[str, Clip]:
        """Clips of all datasets by id; read once."""
        if self._clips is None:
            with self._making:
                if self._clips is None:
                    self._clips = clips_of(self.workspace)
        return self._clips

    def clip(self, clip_id: str) -> Clip:
        """Return a clip of a dataset or of the store.

        Raises:
            NotFound: Neither knows it.
        """
        name = normal_name(clip_id)
        if (found := self.clips().get(name)) is not None:
            return found
        store = self.store
        if store is not None and store.clip_row(name) is not None:
            return Clip(name)
        raise NotFound(f"{name[:80]!r} is no clip of this workspace.", "GET /api/clips lists them.")

    def media(self, clip_id: str) -> Path:
        """Return the media file of a clip: what its dataset says, else what the store remembers; nothing else.

        Raises:
            NotFound: It has none, or it is gone.
        """
        clip = self.clip(clip_id)
        path = clip.media
        if isinstance(path, Url):
            raise NotFound(f"The media of clip {clip.id} lie in a bucket, and are not played here.", "Copy the clip.")
        if path is None and (store := self.store) is not None:
            row = store.clip_row(clip.id)
            path = Path(row[1]) if row is not None and row[1] is not None else None
        if not isinstance(path, Path) or path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise NotFound(f"There is no media file of clip {clip.id}.", "Files that were sent here are not kept.")
        return path

    def catalogue(self, *runs: str | None) -> Catalogue:
        """Return the catalogue of what the store holds now, with the answers of these runs."""
        with self._making:
            store = self.store
            number, before = store.index.number if store is not None else 0, self._catalogue
            if before is None or before.version != number:
                self._catalogue = make_catalogue(self.clips(), store, labelled(self.labels()), before)
            assert self._catalogue is not None
            for run in runs:
                if run is not None:
                    self._update(self._catalogue, run)
            return self._catalogue

    def _update(self, catalogue: Catalogue, run: str) -> None:
        """Read the answers of a run where there are others by now; see which hold where its features have changed."""
        files, specs, store = self._stamp(run), self._specs(run), self.store
        seen = files, [store.version(spec) for spec in specs] if store is not None else []
        before = catalogue.stamps.get(run)
        if before == seen:
            return
        if before is None or before[0] != files:
            asked = open_predictor(self.workspace, run, self.device, self.store)  # the one that is open may know others
            self._hold(catalogue, asked)
        else:
            asked = self._asked(run)
        columns = [store.checksums(spec, catalogue.ids) for spec in specs] if store is not None else []
        if store is not None and columns:
            columns.append(store.index.media_of_clips(catalogue.ids))
        made = np.array(columns, np.int64).reshape(len(columns), len(catalogue.ids))
        rows = catalogue.answers[run].changed(made)
        clips = [catalogue.clips[catalogue.ids[row]] for row in rows.tolist()]
        try:
            catalogue.outdate(run, made, rows, asked.outdated(clips) if clips else set())
        except EmoError:  # damaged: `emo run verify` tells
            catalogue.hold(run, {}, catalogue.answers[run].labels)
        catalogue.stamps[run] = seen

    def _specs(self, run: str) -> list[EncoderSpec]:
        """Return the features that a run reads, as far as the store has them."""
        found = list[EncoderSpec]()
        info = next((each.info for each in self.runs() if each.name == run), {})
        for feature in info.get("features") or ():
            with suppress(FeatureMissing):  # it was dropped
                if self.store is not None:
                    found.append(self.store.resolve(feature["key"]))
        return found

    def _asked(self, run: str) -> Predictor:
        """Return a predictor of a run: the one that is open, or another, which does not take its place."""
        with self._lock:
            if self._opened is not None and any(each is self._opened[0] for each in self.runs() if each.name == run):
                return self._opened[1]
        return open_predictor(self.workspace, run, self.device, self.store)

    def _stamp(self, run: str) -> list[tuple[str, int, int, int]]:
        """Return what was seen of a run and of its answers; others of that name, or more answers, have another."""
        folder = runs_folder(self.workspace.root) / run
        found = list[tuple[str, int, int, int]]()
        for path in [folder / "run.json", *sorted(folder.glob("predictions*.jsonl"))]:
            with suppress(FileNotFoundError):
                seen = path.stat()
                found.append((path.name, seen.st_ino, seen.st_mtime_ns, seen.st_size))
        return found

    def labels(self) -> dict[str, dict[str, str]]:
        """The labels that were given here, by annotator and clip."""
        with self._making:
            return self._labels.of(self.store)

    def neighbourhood(self, spec: EncoderSpec) -> Neighbourhood:
        """Return what finds neighbours by an utterance feature of the store, as it is now."""
        with self._making:
            store, held = self.need_store(), self._neighbourhoods.get(spec.fingerprint)
            if held is None or held.version != store.version(spec):
                self._neighbourhoods.pop(spec.fingerprint, None)  # two of one feature are never in memory
                held = Neighbourhood(store, spec)
            return self.remember(self._neighbourhoods, spec.fingerprint, held, NEIGHBOURHOODS)

    def _hold(self, catalogue: Catalogue, asked: Predictor) -> None:
        try:
            said = asked.kept()
        except EmoError:  # damaged: `emo run verify` tells; the other columns can be looked at
            said = {}
        words = catalogue.columns["label"].words
        labels = asked.run.info.get("labels") or sorted({*words, *_answers(said)} - {""})
        catalogue.hold(asked.run.name, said, labels)

    @contextmanager
    def own_commit(self, store: Store, clip_id: str) -> Iterator[None]:
        """Commit an annotation of one clip within this: the catalogue need not be made anew for each key that is hit.

        Where somebody else has committed something too, it is made anew.
        """
        store.refresh()
        before = store.index.number
        yield
        with self._making:
            held = self._catalogue
            if held is not None and held.version == before and store.index.number == before + 1:
                rows = held.rows_of([clip_id, *copies(store, clip_id)])
                held.annotators[rows] = sum(clip_id in each for each in self._labels.of(store).values())
                held.version = before + 1
                held.forget()

    def remember(self, cache: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> Any:
        """Keep a value, and the newest `most` of its kind."""
        with self._lock:
            cache[key] = value
            cache.move_to_end(key)
            while len(cache) > most:
                cache.popitem(last=False)
        return value

    def plain(self, text: str) -> str:
        """Return a message without the paths of this machine."""
        text = UPLOADED.sub("", text)
        return text.replace(f"{self.workspace.root}/", "").replace(str(self.workspace.root), ".")

    def close(self) -> None:
        """End the line and what it works on."""
        self.line.close()
        self.hands.close()
        self.inbox.close()


def _answers(said: dict[str, Any]) -> set[str]:
    return {word for each in said.values() for word in each.probabilities or ()}
