"""Answers of a finished run of a head, from cached features.

Recipes and networks are imported when a clip needs them: an answer that is known needs neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.errors import TrainError, UsageError
from emo.train.answerer import Answerer, check_feature
from emo.train.answers import FEW, Prediction, held_out_by, own_predictions, read_predictions
from emo.train.device import resolve_device
from emo.train.features import FeatureSource, Missing, StreamShape, load_inputs, made_anew, media_of
from emo.train.metrics.labels import POLICIES
from emo.train.runs import check

if TYPE_CHECKING:
    from emo.train.heads.base import Head


class HeadAnswerer(Answerer):
    """Answers with the mean of all folds; clips that the run has predicted keep that answer, and no other clips get it.

    A clip is answered again where its features have been made anew since: one that was trained on by the folds that
    held it out, so training clips are never answered by a fold that saw them. Features are found by the fingerprints
    that the run was trained on.
    """

    missing: ClassVar[Missing] = "skip"
    _asked = False

    @cached_property
    def known(self) -> dict[str, Prediction]:
        """Answers of the run itself."""
        path = self.run.path / "predictions.jsonl"
        return read_predictions(path) if check(self.run.path, path.name) else own_predictions(path)

    def _known_of(self, names: Sequence[str]) -> dict[str, Prediction]:
        """Answers of the run itself about clips; about a few, when first asked, only those are parsed."""
        if len(names) <= FEW and not self._asked:
            self._asked = True
            if not check(self.run.path, "predictions.jsonl"):  # else an earlier version made it
                return own_predictions(self.run.path / "predictions.jsonl", names)
        return {name: self.known[name] for name in names if name in self.known}

    @cached_property
    def recipe(self) -> Any:
        """The run's recipe."""
        from emo.train.recipe import load_recipe

        check(self.run.path, "recipe.yaml")
        return load_recipe(self.run.path / "recipe.yaml")

    @cached_property
    def heads(self) -> list[Head]:
        """All heads of the run, with their weights."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from emo.train.recipe import head_class

        info, kind = self.run.info, head_class(self.recipe.head)
        shapes, device = [_shape(feature) for feature in info["features"]], self._device(kind)
        check(self.run.path, *(member["weights"] for member in info["members"]))
        heads = []
        for member in info["members"]:
            head = kind(self.recipe, shapes, len(info["labels"]), info["valence"], device, 0)
            try:
                head.load(load_file(self.run.path / member["weights"]))
            except (SafetensorError, OSError) as error:
                raise TrainError(f"{self.run.path / member['weights']} is damaged: {error}.") from error
            heads.append(head)
        return heads

    def check(self, policy: str, task: str, transcript: str | None = None) -> None:
        name = self.run.name
        if policy not in POLICIES:
            raise UsageError(f"Unknown policy {policy!r}.", f"Known: {', '.join(POLICIES)}.")
        if task != "emotion":
            raise UsageError(
                f"Run {name} is a head, which knows no task {task}.", "Name a tuned language model: --run NAME."
            )
        if transcript is not None:
            raise UsageError(f"Run {name} is a head, which reads no transcript.", "Leave --transcript out.")

    def answer(
        self,
        store: FeatureSource,
        clips: Sequence[Clip],
        policy: str = "official",
        task: str = "emotion",
        keep: bool = True,
        missing: Missing | None = None,
    ) -> dict[str, Prediction]:
        known = self._known_of([clip.id for clip in clips]) if keep else {}
        named = [clip for clip in clips if clip.id in known]
        others, anew = self._changed(store, named)
        answers = {clip.id: known[clip.id] for clip in named if clip.id not in others | anew}
        new = [clip.id for clip in clips if clip.id not in answers]
        features = self.run.info["features"]
        if missing == "skip" and new:
            ready = np.logical_and.reduce([store.has(feature["key"], new) for feature in features])
            new = [clip_id for clip_id, yes in zip(new, ready, strict=True) if yes]
        if not new:
            return answers
        from emo.train.heads.ensemble import LogitMean

        keys = [(feature["key"], feature["pool"]) for feature in features]
        inputs = load_inputs(store, keys, new, missing or self.recipe.missing)
        for feature, spec in zip(self.run.info["features"], inputs.specs, strict=True):
            check_feature(self.run, feature, spec)
        labels, kind = self.run.info["labels"], type(self.heads[0])
        mean = LogitMean(len(inputs.clip_ids), len(labels))
        data = kind.prepare(inputs.streams, self._device(kind))
        for head, speaks in zip(self.heads, self._speakers(inputs.clip_ids, anew), strict=True):
            rows = np.flatnonzero(speaks)
            mean.add(rows, head.predict(data, rows))
        return answers | {clip_id: Prediction(**mean.row(i, labels)) for i, clip_id in enumerate(inputs.clip_ids)}

    def kept(self) -> dict[str, Prediction]:
        return self.known

    def outdated(self, store: FeatureSource | None, clips: Sequence[Clip]) -> set[str]:
        return set.union(*self._changed(store, clips))

    def _changed(self, store: FeatureSource | None, clips: Sequence[Clip]) -> tuple[set[str], set[str]]:
        """Return which clips are others than those that the run knows by these names, and which have other features."""
        names = [clip.id for clip in clips]
        media, made = media_of(store, names), self.made(store, names)
        others = {clip.id for clip in clips if not self.trained.knows(clip, media.get(clip.id))}
        anew = {each for each in names if made_anew(self.trained.made.get(each), made.get(each))}
        return others, anew - others

    def _speakers(self, names: Sequence[str], anew: Collection[str]) -> Iterator[np.ndarray]:
        """Yield for each head which clips it answers, `(N,)` bool: all but those of `anew` that it was trained on."""
        mine = [name for name in anew if name in self.trained.clips]
        folds = held_out_by(self.run.path / "predictions.jsonl", mine) if mine else {}
        seeds = list(dict.fromkeys(member["seed"] for member in self.run.info["members"])) if folds else []
        for member in self.run.info["members"]:
            own = {name for name, of in folds.items() if of[seeds.index(member["seed"])] == member["fold"]}
            yield np.array([name not in folds or name in own for name in names], dtype=bool)

    def _device(self, kind: type[Head]) -> str:
        """Return the device to compute on; a head that uses none does without importing torch to look for one."""
        return resolve_device(self.device) if kind.on_device or self.device != "auto" else "cpu"


def _shape(feature: dict[str, Any]) -> StreamShape:
    return StreamShape(feature["dim"], feature["sequence"], feature.get("modality", ""))
