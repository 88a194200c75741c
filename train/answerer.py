"""The contract of a finished run that is asked about clips; heads and language models each have one implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from emo.featstore.clip import Clip
from emo.featstore.errors import TrainError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.train.answers import Prediction
from emo.train.features import Missing, checksums_of, made_anew
from emo.train.metrics.seen import Trained, trained_on
from emo.train.runs import Run


def check_feature(run: Run, feature: Mapping[str, Any], spec: EncoderSpec) -> None:
    """Refuse a feature of the store that is another than the one that a run was trained on.

    Raises:
        TrainError: It has another fingerprint.
    """
    if spec.fingerprint != feature["fingerprint"]:
        raise TrainError(f"{feature['key']} in the store is not the feature that run {run.name} was trained on.")


class Answerer(ABC):
    """A finished run. Recipe and model are read when a question first needs them, and once.

    Attributes:
        run: The run.
        device: As given: `auto`, `cpu`, `cuda`, ...
        evidence: Policies whose answers say most about a clip; the first is its answer.
        untrained_advice: What to do about a run that is not finished, with the place {run} for its name.
        streams: Whether `answer` takes `on_text`, which is called with a clip and its answer as far as it has come.
    """

    evidence: ClassVar[tuple[str, ...]] = ("official",)
    untrained_advice: ClassVar[str] = "Train it again."
    streams: ClassVar[bool] = False

    def __init__(self, run: Run, device: str = "auto") -> None:
        """Open a run; nothing is loaded.

        Raises:
            UsageError: The run is not finished.
        """
        if not run.finished:
            raise UsageError(
                f"Run {run.name} is {run.info.get('status')}, not finished.", self.untrained_advice.format(run=run.name)
            )
        self.run, self.device = run, device

    @cached_property
    def trained(self) -> Trained:
        """Datasets and clips that the run was trained on.

        Raises:
            TrainError: What the run folder says about it cannot be read.
        """
        return trained_on(self.run)

    @abstractmethod
    def check(self, policy: str, task: str, transcript: str | None = None) -> None:
        """Refuse what the run cannot be asked, before anything is extracted or loaded for it.

        Raises:
            UsageError: An unknown policy or task, or a transcript that nobody reads.
        """

    @abstractmethod
    def answer(
        self,
        store: Any,
        clips: Sequence[Clip],
        policy: str = "official",
        task: str = "emotion",
        keep: bool = True,
        missing: Missing | None = None,
    ) -> dict[str, Prediction]:
        """Answer about clips, from cached features.

        Args:
            store: A `FeatureSource`; `None` for a run that reads no feature.
            clips: Names and transcripts are used.
            policy: How free text becomes labels, see `metrics.labels.POLICIES`.
            task: `emotion`, or another that the run knows.
            keep: Whether answers that the run has given before count, and new ones are kept in its folder.
            missing: What to do about clips without features; default as the recipe says. With `skip` they are absent
                from the result.

        Raises:
            FeatureMissing: The store lacks the features, or clips lack them and the policy is `error`.
            TrainError: A file of the run is damaged.
        """

    @property
    @abstractmethod
    def missing(self) -> Missing:
        """Rule of a `Predictor` for clips that lack features: `skip`, or `zeros` where the recipe says so."""

    def made(self, store: Any, clip_ids: Sequence[str]) -> dict[str, str]:
        """Return the checksums of the clips' features that the run reads, see `checksums_of`."""
        return checksums_of(store, [feature["key"] for feature in self.run.info.get("features") or ()], clip_ids)

    def made_anew(self, store: Any, clip_ids: Sequence[str]) -> list[str]:
        """Return those of the clips that the run was trained on with other features than they have now."""
        trained = [clip_id for clip_id in clip_ids if clip_id in self.trained.clips]
        now = self.made(store, trained)
        return [each for each in trained if made_anew(self.trained.made.get(each), now.get(each))]

    def kept(self) -> dict[str, Prediction]:
        """Return all answers to `emotion` that are in the run folder; of several policies, of the one that says most.

        Raises:
            TrainError: A file of the run is damaged.
        """
        return {}

    def outdated(self, store: Any, clips: Sequence[Clip]) -> set[str]:
        """Return those of the clips whose kept answer no longer holds, by the clip and its features.

        Another clip has the name by now, or the clip's features were made anew since. That a language model would be
        asked in other words now is not looked at: `answer` does.

        Args:
            store: A `FeatureSource`; `None` for a run that reads no feature.
            clips: Clips that the run has answered.
        """
        return set()

    def zeroed(self, policy: str, clip_ids: Sequence[str], task: str = "emotion") -> list[str]:
        """Return those of the clips whose kept answers were given with zeros for features that they lack."""
        return []
