"""Questions to a finished run: opened once, then asked as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets.lookup import changed_note, holds_another, is_another
from emo.featstore.errors import TrainError
from emo.featstore.files import write_atomic
from emo.featstore.page import Page
from emo.featstore.storage.reader import Failure
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import counted, some_of
from emo.featstore.transcripts import of_other_texts
from emo.featstore.workspace import Workspace
from emo.train.answerer import Answerer
from emo.train.answers import Prediction
from emo.train.answers_page import answers_page
from emo.train.features import media_of
from emo.train.metrics.seen import Trained
from emo.train.muted import Muted
from emo.train.runs import Run, latest_run, load_run

NOT_EXTRACTED = "its features are not in the store"
OTHER_CLIP = "the store has another clip of this name; use one store per dataset"
ANSWERERS = {"head": "emo.train.heads.predict:HeadAnswerer", "tune": "emo.train.llm.answer:TunedAnswerer"}


@dataclass(frozen=True)
class Needs:
    """Features that have to be extracted before a run can answer.

    Attributes:
        clips: Clips with a media file, without all features or with those of what the file held before.
        encoders: Names of the run's features.
        keys: The same, to the fingerprint.
        profile: Of these features.
    """

    clips: tuple[Clip, ...]
    encoders: tuple[str, ...]
    keys: tuple[str, ...]
    profile: str


class Predictor:
    """One open store and one run, whose model is built when it is first needed.

    Attributes:
        workspace: Where the store is.
        run: The run that is asked.
    """

    def __init__(self, workspace: Workspace, run: Run, answerer: Answerer, store: Store | None = None) -> None:
        self.workspace, self.run, self._answerer = workspace, run, answerer
        self._store = store

    @property
    def store(self) -> Store | None:
        """The workspace's store, opened once; `None` as long as there is none."""
        if self._store is None and has_store(self.workspace.store_path):
            self._store = open_store(self.workspace.store_path)
        return self._store

    @property
    def features(self) -> list[dict[str, Any]]:
        """The features that the run reads, as run.json has them."""
        return list(self.run.info.get("features") or [])

    def check(self, policy: str = "official", task: str = "emotion", transcript: str | None = None) -> None:
        """Refuse what the run cannot be asked, before anything is extracted or loaded for it.

        Raises:
            UsageError: Unknown task or policy; or a head is asked for words, or given some.
        """
        self._answerer.check(policy, task, transcript)

    def needs(self, clips: Sequence[Clip]) -> Needs | None:
        """Return what is to be extracted before the run can answer; `None` where nothing is, or where it cannot be.

        It cannot for clips without media or that failed for good, nor for imported features, nor for features of
        several profiles, which no single extraction gives.
        """
        profiles = sorted({feature["profile"] for feature in self.features})
        if len(profiles) != 1 or profiles == ["imported"]:
            return None
        store = self.store
        changed = {clip.id for clip in clips if store is not None and holds_another(store, clip)}
        changed |= set(self._of_other_texts(clips))
        there = self._ready(clips).all(axis=0) & np.array([clip.id not in changed for clip in clips], dtype=bool)
        hopeless = {each.clip for each in self._failures() if not each.retry}
        lacking = tuple(
            clip
            for clip, whole in zip(clips, there, strict=True)
            if not whole and clip.media is not None and (clip.id in changed or clip.id not in hopeless)
        )
        if not lacking:
            return None
        keys = tuple(feature["key"] for feature in self.features)
        return Needs(lacking, tuple(key.partition("@")[0] for key in keys), keys, profiles[0])

    def predict(
        self,
        clips: Sequence[Clip],
        policy: str = "official",
        task: str = "emotion",
        keep: bool = True,
        on_text: Callable[[str, str], None] | None = None,
    ) -> dict[str, Prediction]:
        """Answer about those of the clips whose features are in the store, or that the run has answered before.

        Args:
            clips: Names and transcripts are used.
            policy: How a language model answers: `likelihood`, or free text.
            task: `emotion`, or for a language model `reason` and others.
            keep: Whether a language model's answers come from the run folder where they are known, and go there.
            on_text: Called with a clip and its answer as far as it has come, where a language model generates one.

        Raises:
            UsageError: The run does not know the task.
            FeatureMissing: The store lacks a feature that the run needs altogether.
        """
        store = None
        if self.features:
            store = self.store or open_store(self.workspace.store_path)  # which says that there is none
            store.refresh()  # what was extracted since
            clips = [clip for clip in clips if not is_another(store, clip)]
        told = {"on_text": on_text} if on_text is not None and self._answerer.streams else {}
        return self._answerer.answer(store, clips, policy, task, keep, self._answerer.missing, **told)

    def kept(self) -> dict[str, Prediction]:
        """Return the answers that are in the run folder, by clip."""
        return self._answerer.kept()

    def outdated(self, clips: Sequence[Clip]) -> set[str]:
        """Return those of the clips whose kept answer no longer holds: `predict` answers them anew."""
        return self._answerer.outdated(self.store if self.features else None, clips)

    @property
    def evidence(self) -> tuple[str, ...]:
        """Policies whose answers say most about a clip; the first is its answer."""
        return self._answerer.evidence

    def without(
        self, clip: Clip, modalities: Collection[str], policy: str = "official", task: str = "emotion"
    ) -> Prediction | None:
        """Answer about a clip as if parts of it were not there, see `Muted`; without `text` nothing is said either.

        The answer is made anew, by all folds of a head, also of those that were trained on the clip; nothing is kept.

        Args:
            clip: The clip.
            modalities: What the features are made of: `audio`, `face`, `frame`, `text`. None of them: all is there.
            policy: How a language model answers.
            task: What is asked.

        Returns:
            The answer; `None` where the clip lacks features that were not taken away.

        Raises:
            UsageError: The run does not know the task.
        """
        self.check(policy, task)
        store: Any = None
        if self.features:
            store = Muted(self.store or open_store(self.workspace.store_path), self.features, modalities)
            store.refresh()
        asked = replace(clip, transcripts={"text": ""}) if "text" in modalities else clip
        return self._answerer.answer(store, [asked], policy, task, False, self._answerer.missing).get(clip.id)

    def explain(self, clip: Clip, task: str = "emotion") -> dict[str, Any]:
        """Return the answer about one clip and its evidence, as plain values.

        Returns:
            `answer`, `valence` and `probabilities` as far as the run gives them (a language model's probabilities are
            likelihoods of its labels); `features`: name, key, whether the clip has it, and why not; `seen`: name
            under which the run was trained on the clip, or `None`; `notes`.
        """
        policies = self._answerer.evidence if task == "emotion" else self._answerer.evidence[:1]
        said = [self.predict([clip], policy, task).get(clip.id) for policy in policies]
        first = said[0]
        best = next((each for each in said if each is not None and each.probabilities), None)
        whys = {(each.feature, each.clip): f"{each.kind}: {each.message}" for each in self._failures()}
        there = self._ready([clip])[:, 0] if self.features else []
        features = [
            {"name": feature["name"], "key": feature["key"], "there": bool(has)}
            | ({} if has else {"why": whys.get((feature["key"], clip.id)) or self._why_not(clip, "not extracted")})
            for feature, has in zip(self.features, there, strict=True)
        ]
        return {
            "run": self.run.name,
            "name": clip.id,
            "task": task,
            "answer": first.answer if first else None,
            "valence": first.valence if first else None,
            "probabilities": best.probabilities if best else None,
            "features": features,
            "seen": self.seen([clip]).get(clip.id),
            "notes": [*self.run.info["notes"], *self._seen_notes([clip], [clip]), *self._stale([clip])],
        }

    def seen(self, clips: Sequence[Clip]) -> dict[str, str]:
        """Return those of the clips that the run was trained on, with the name that each had then.

        A clip is known by its name, and by the content of its media where store and run know it.
        """
        trained = self.trained_among(clips)
        return {name: name for name in trained.seen([clip.id for clip in clips])} | dict(trained.twins)

    def trained_among(self, clips: Sequence[Clip]) -> Trained:
        """Return what the run was trained on of these clips, see `Trained.among`."""
        return self._answerer.trained.among(clips, self._media(clips))

    def notes(self, policy: str, clips: Sequence[Clip], task: str = "emotion") -> list[str]:
        """Return what must stand beside a score of answers about these clips, but for what the run has seen."""
        notes = [*self.run.info["notes"], *self._stale(clips)]
        if names := self._answerer.zeroed(policy, [clip.id for clip in clips], task):
            lack = counted(len(names), "clip lacks features, and was", "clips lack features, and were")
            notes.append(f"{lack} answered with zeros: {some_of(names)}.")
        return notes

    def _stale(self, clips: Sequence[Clip]) -> list[str]:
        """Return the sentences on clips whose features are not of what they hold now, or not those trained on."""
        if not self.features or self.store is None:
            return []
        told = [each] if (each := changed_note(self.store, clips, 3)) else []
        if anew := self._answerer.made_anew(self.store, [clip.id for clip in clips]):
            folds = " They are answered anew, by the folds that did not train on them."
            answered = folds if self._answerer.trained.by_folds else ""
            was = f"{self.run.name} was trained on {len(anew):,} of these clips before their features were made anew"
            told.append(f"{was}: {some_of(anew, 3)}.{answered}")
        if texts := self._of_other_texts(clips):
            have = counted(len(texts), "clip has another transcript", "clips have other transcripts")
            told.append(f"{have} than the one that the features were made of: {some_of(texts, 3)}. Run emo extract.")
        return told

    def _of_other_texts(self, clips: Sequence[Clip]) -> list[str]:
        """Return clips with a feature of another transcript; with a language model it may come with the question."""
        store = None if self._answerer.streams else self.store
        if store is None:
            return []
        keys = {feature["key"] for feature in self.features}
        specs = [each.spec for each in store.features() if each.key in keys]
        found = {clip for spec in specs for clip in of_other_texts(store, spec, clips)}
        return [clip.id for clip in clips if clip.id in found]

    def _seen_notes(self, clips: Sequence[Clip], answered: Sequence[Clip]) -> list[str]:
        trained = self.trained_among(clips)
        names, said = ([clip.id for clip in each] for each in (clips, answered))
        return [trained.verdict(names), *trained.notes(said)]

    def tell_missing(self, clip_ids: Sequence[str], said: Mapping[str, Prediction]) -> str:
        """Return one sentence on the clips without an answer, which are all listed in missing.txt; empty for none."""
        gone = [clip_id for clip_id in clip_ids if clip_id not in said]
        path = self.run.path / "missing.txt"
        if not gone:
            path.unlink(missing_ok=True)
            return ""
        write_atomic(path, "".join(f"{each}\n" for each in gone))
        what = "clips have no answer, because the store lacks features of theirs"
        told = f"{len(gone):,} of {len(clip_ids):,} {what}: {some_of(gone, 3)}; all of them: {path}"
        if len(gone) == len(clip_ids) and self.features and self.store is not None:
            told += f". The store has, for instance, {some_of(sorted(self.store.clips()), 3)}"
        return told

    def page(self, clips: Sequence[Clip], said: Mapping[str, Prediction], task: str = "emotion") -> Page:
        """Draw answers about clips; exit code 3 where there is none about some of them."""
        failed, media = self._failures(), self._media(clips)
        by_media = {each.media: f"{each.kind}: {each.message}" for each in failed if each.media}
        reasons = {name: by_media[content] for name, content in media.items() if content in by_media}  # copies too
        reasons |= {each.clip: f"{each.kind}: {each.message}" for each in failed}
        answered = [clip for clip in clips if clip.id in said]
        silent = {clip.id: reasons.get(clip.id) or self._why_not(clip) for clip in clips if clip.id not in said}
        drawn = answers_page(f"Run {self.run.name}", [clip.id for clip in clips], said, silent, task)
        notes = [*self.run.info["notes"], *self._seen_notes(clips, answered), *self._stale(answered)]
        value = {"run": self.run.name, **drawn.value, "notes": notes}
        return replace(drawn, value=value, parts=[*drawn.parts, *notes])

    def _media(self, clips: Sequence[Clip]) -> dict[str, str]:
        """Return the content of the clips' media by name, as far as the store knows it to be theirs."""
        store = self.store
        return media_of(store, [clip.id for clip in clips if store is not None and not is_another(store, clip)])

    def _why_not(self, clip: Clip, usual: str = NOT_EXTRACTED) -> str:
        return OTHER_CLIP if self.store is not None and is_another(self.store, clip) else usual

    def _ready(self, clips: Sequence[Clip]) -> np.ndarray:
        """Which feature each clip has: bool `(F, N)`."""
        store, clip_ids = self.store, [clip.id for clip in clips]
        if store is not None:
            store.refresh()
        held = {each.key for each in store.features()} if store else set[str]()
        there = [
            store.has(feature["key"], clip_ids) if store and feature["key"] in held else np.zeros(len(clip_ids), bool)
            for feature in self.features
        ]
        own = [store is None or not is_another(store, clip) for clip in clips]
        return np.array(there, dtype=bool).reshape(len(self.features), len(clip_ids)) & own

    def _failures(self) -> list[Failure]:
        keys = {feature["key"] for feature in self.features}
        if not keys or self.store is None:
            return []
        return [each for each in self.store.failures() if each.feature in keys]


def find_run(workspace: Workspace, name: str | None = None) -> Run:
    """Return a run of the workspace by its name; the newest finished one if `None`.

    Raises:
        UsageError: There is no such run, or none is finished.
        TrainError: Its run.json is damaged.
    """
    return load_run(workspace.root / "runs" / name) if name else latest_run(workspace.root)


def open_predictor(
    workspace: Workspace, run: str | Run | None = None, device: str = "auto", store: Store | None = None
) -> Predictor:
    """Open a run for questions; neither store nor model is touched yet.

    Args:
        workspace: Where runs and store are.
        run: A run or its name; the newest finished one if `None`.
        device: `auto`, `cpu`, `cuda`, ...
        store: The workspace's, where somebody has opened it already.

    Raises:
        UsageError: There is no such run, or it is not finished.
        TrainError: The run is damaged, or of a kind that this emo does not know.
    """
    if not isinstance(run, Run):
        run = find_run(workspace, run)
    if run.kind not in ANSWERERS:
        raise TrainError(f"Run {run.name} is of the unknown kind {run.kind}.", f"Known: {', '.join(ANSWERERS)}.")
    module, _, name = ANSWERERS[run.kind].partition(":")
    return Predictor(workspace, run, getattr(import_module(module), name)(run, device), store)
