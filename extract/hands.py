"""Extraction as the page needs it: a look into a file, features, curves; in processes that can be killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from emo.extract.annotate.merr import CAPTIONS, FIELDS, faults
from emo.extract.annotate.mesh_units import open_mesh
from emo.extract.annotate.peak import PeakOptions, find_peak
from emo.extract.annotate.units import UnitTable, stored_table
from emo.featstore.clip import Clip
from emo.featstore.errors import EmoError, MediaError
from emo.featstore.storage.store import Store

Tell = Callable[[dict[str, Any]], None]
CURVES = ("aus", "mesh-aus", "mesh_UTT", "mesh_FRA")  # features that action units can be read from, the best first
MESH = "mesh_FRA"
BINS = 800  # of a waveform
MEMORY_BYTES = 6 << 30  # of the process that looks into files of strangers
LOOK_S, EXTRACT_S = 60.0, 1800.0
POLL_S = 0.1


class Killed(EmoError):
    """Work that its user has ended."""


class Hands:
    """Extraction in processes of its own. Each serves one call at a time; killing one loses what it had not committed.

    Args:
        root: Folder of the workspace.
        device: As of `emo extract`.
    """

    def __init__(self, root: Path, device: str | None = None) -> None:
        self.root, self.device = root, device
        self._looker, self._worker = _Process(MEMORY_BYTES), _Process()

    def look(self, path: Path, most_s: float, most_pixels: int, cancelled: threading.Event) -> dict[str, Any]:
        """Return what a media file is: `duration_s`, `width`, `height`, `fps`, `n_frames` and the waveform.

        Args:
            path: The file.
            most_s: Longest clip that is taken.
            most_pixels: Largest frame that is taken.
            cancelled: Ends the work when it is set.

        Returns:
            `wave` has `BINS` peaks from 0 to 1, or none without sound; `silent` says why there is none.

        Raises:
            MediaError: It is no clip, too long, too large, or takes too much time or memory.
            Killed: It was cancelled.
        """
        given = {"path": str(path), "most_s": most_s, "most_pixels": most_pixels}
        return self._looker.call("look", given, lambda said: None, cancelled, LOOK_S)

    def extract(
        self,
        clips: Sequence[Clip],
        encoders: Sequence[str],
        keys: Sequence[str],
        profile: str | None,
        tell: Tell,
        cancelled: threading.Event,
    ) -> dict[str, Any]:
        """Extract what a run needs of clips, and the face mesh where it can be had.

        Args:
            clips: With media.
            encoders: Names of the features; none: the mesh alone.
            keys: The same, to the fingerprint.
            profile: Of these features.
            tell: Called with `{"stage", "text", "done", "total"}`.
            cancelled: Ends the work when it is set.

        Raises:
            EmoError: As `emo extract`.
            Killed: It was cancelled.
        """
        given = {"root": str(self.root), "clips": tuple(clips), "encoders": tuple(encoders), "keys": tuple(keys)}
        given |= {"profile": profile, "device": self.device}
        return self._worker.call("extract", given, tell, cancelled, EXTRACT_S)

    def curves(self, store: Store, clip_id: str) -> dict[str, Any] | None:
        """Return action units of a clip over time and the frame of strongest expression, from what the store holds.

        Returns:
            `source` and `note`, `times_s` (T,), `units` by name (T,) each, `peak` or `None`; `None` where the store has
            no action units of the clip.
        """
        for name in CURVES:
            for info in store.features():
                if info.spec.name == name and info.spec.level == "frame" and store.has(info.spec, [clip_id])[0]:
                    try:
                        if name.startswith("mesh_"):
                            found = open_mesh(info.key, None, store).read(Clip(clip_id))
                        else:
                            found = stored_table(info.spec, store.get(info.spec, clip_id).array)
                    except MediaError:
                        continue
                    return _curves(info.key, found)
        return None

    def fields(self) -> dict[str, tuple[str, ...]]:
        """Return the fields of a MERR record by form."""
        return dict(FIELDS)

    def faults(self, record: dict[str, Any]) -> list[str]:
        """Return what is wrong with a MERR record, a few words each."""
        return faults(record, "coarse" if CAPTIONS["coarse"] in record else "fine")

    def close(self) -> None:
        """End the processes."""
        self._looker.kill()
        self._worker.kill()


def _curves(key: str, table: UnitTable) -> dict[str, Any]:
    names = [each for each in table.columns if each.endswith("_r")]
    times = table.column("time_s")
    frames = table.column("frame")
    try:
        peak = find_peak(table, PeakOptions())
    except MediaError:
        peak = None
    return {
        "source": key,
        "note": " ".join(table.notes),
        "times_s": None if times is None else np.round(times.astype("f8"), 4).tolist(),
        "frames": [] if frames is None else frames.astype(int).tolist(),
        "units": {each.removesuffix("_r"): np.round(table.column(each).astype("f8"), 3).tolist() for each in names},  # type: ignore[union-attr]
        "peak": peak and {"index": peak.index, "time_s": peak.time_s, "score": peak.score, "active": list(peak.active)},
    }


class _Process:
    """A process that answers one call at a time; started when it is needed, and again after it was killed."""

    def __init__(self, memory_bytes: int | None = None) -> None:
        self._memory, self._lock = memory_bytes, threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None

    def call(
        self, what: str, given: dict[str, Any], tell: Tell, cancelled: threading.Event, limit_s: float
    ) -> dict[str, Any]:
        """Return what the process answers.

        Raises:
            EmoError: What it raised.
            MediaError: It died, or took longer than it may.
            Killed: It was cancelled.
        """
        with self._lock:
            pipe = self._start()
            end_s = time.monotonic() + limit_s
            try:
                pipe.send((what, given))
                while True:
                    if cancelled.is_set():
                        self.kill()
                        raise Killed("This was cancelled.")
                    if time.monotonic() > end_s:
                        self.kill()
                        raise MediaError("too-slow", f"The file took more than {limit_s:,.0f} s, and was given up.")
                    if not pipe.poll(POLL_S):
                        continue
                    kind, value = pipe.recv()
                    if kind == "done":
                        return value
                    if kind == "failed":
                        raise value
                    tell(value)
            except (EOFError, OSError) as error:
                if isinstance(error, EmoError):  # what it raised: that the disk is full, for instance
                    raise
                self.kill()
                sentence = "The process that read the file ended: it needed too much memory, or the file broke it."
                raise MediaError("reader-died", sentence, "Re-encode the file, or send a smaller one.") from error

    def _start(self) -> Connection:
        if self._pipe is None or not self._process.is_alive():
            self.kill()
            context = get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_answer, args=(theirs, self._memory), daemon=True)
            self._process.start()
            theirs.close()
        return self._pipe

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


# ---- in the process --------------------------------------------------------------------------------------------------


def _answer(pipe: Connection, memory_bytes: int | None) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, which ends this
    if memory_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    calls = {"look": _look, "extract": _extract}
    while True:
        try:
            what, given = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("done", calls[what](**given, tell=lambda said: pipe.send(("tell", said)))))
        except EmoError as error:
            pipe.send(("failed", error))
        except MemoryError:
            pipe.send(("failed", MediaError("too-large", "The file needs more memory than an upload may take.")))
        except Exception as error:  # noqa: BLE001 - the server goes on
            pipe.send(("failed", MediaError("internal", f"{type(error).__name__}: {error}.", retry=True)))


def _look(path: str, most_s: float, most_pixels: int, tell: Tell) -> dict[str, Any]:
    from emo.extract.media.container import open_media
    from emo.extract.media.reading import Reading

    try:
        opened = open_media(path, Reading(max_minutes=most_s / 60))
    except MediaError as error:
        if error.kind != "too-long":
            raise
        raise MediaError(error.kind, error.message, "Cut it.") from error  # settings of a workspace do not change this
    with opened as media:
        info = media.info
        if info.duration_s > most_s:
            what = f"{info.path.name} lasts {info.duration_s:,.0f} s; here a clip may last {most_s:,.0f} s."
            raise MediaError("too-long", what, "Cut it.")
        pixels = (info.width or 0) * (info.height or 0)
        if pixels > most_pixels:
            what = f"{info.path.name} has {pixels:,} pixels in a frame; here a frame may have {most_pixels:,}."
            raise MediaError("too-large", what, "Scale it down.")
        wave, silent = [], ""
        try:
            wave = _waveform(media.audio())
        except MediaError as error:
            silent = error.message
        kept = ("width", "height", "fps", "n_frames", "duration_s", "audio_start_s", "has_video", "has_audio")
        return {name: getattr(info, name) for name in kept} | {"wave": wave, "silent": silent}


def _waveform(samples: np.ndarray) -> list[float]:
    """Return the largest absolute sample of each of `BINS` equal parts, from 0 to 1."""
    if not len(samples):
        return []
    edges = np.linspace(0, len(samples), min(BINS, len(samples)) + 1).astype(int)[:-1]
    return np.round(np.maximum.reduceat(np.abs(samples), edges).astype("f8"), 3).tolist()


def _extract(
    root: str,
    clips: tuple[Clip, ...],
    encoders: tuple[str, ...],
    keys: tuple[str, ...],
    profile: str | None,
    device: str | None,
    tell: Tell,
) -> dict[str, Any]:
    tell({"stage": "open", "text": ""})
    from emo.extract.session import ExtractArgs, open_session
    from emo.featstore.workspace import load_workspace

    workspace = load_workspace(root)
    what: dict[str, Any] = {"clips": clips, "exactly": keys, "profile": profile, "device": device}
    session, lost = None, ""
    try:
        session = open_session(workspace, ExtractArgs(encoders=(*encoders, MESH), **what))
    except EmoError as error:  # the mesh is not to be had: without it
        lost = error.message
        if encoders:
            session = open_session(workspace, ExtractArgs(encoders=encoders, **what))
    if session is None:
        raise MediaError("no-mesh", f"There is no face mesh to take action units from: {lost}", "See docs/mesh.md.")
    finished = threading.Event()
    names, total = ", ".join(spec.name for spec in session.specs), len(session.specs) * len(session.plan.jobs)

    def watch() -> None:
        told = -1
        while not finished.wait(0.2):
            if (done := session.job.progress.stored) != told:
                told = done
                tell({"stage": "extract", "text": names, "done": done, "total": total})

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        outcome = session.run()
    finally:
        finished.set()
        watcher.join()
    tell({"stage": "extract", "text": names, "done": outcome.progress.stored, "total": total})
    return {**outcome.to_json(), "without_mesh": lost, "pid": os.getpid()}
