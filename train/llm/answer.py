"""A finished run of a language model that is asked about clips.

Networks are imported when a clip needs them: an answer that is known needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from emo.featstore.annotations import annotations_of
from emo.featstore.clip import Clip
from emo.featstore.datasets.base import transcript_csv
from emo.featstore.errors import EmoError, FeatureMissing, UsageError
from emo.featstore.files import jsonl_text
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.featstore.text import counted, some_of
from emo.train.answerer import Answerer, check_feature
from emo.train.answers import Prediction, prediction_rows
from emo.train.device import resolve_device
from emo.train.features import Missing, made_anew, media_of
from emo.train.llm.data import Example, Pair, read_preferences, read_source, sources_of
from emo.train.llm.family import Wanted
from emo.train.llm.features import Features
from emo.train.llm.question import check_question, predictions_path, question
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.spoken import spoken_of, texts_of
from emo.train.metrics.seen import same_clip
from emo.train.recipe import load_recipe
from emo.train.runs import Run, check_listed, load_run, write_sealed
from emo.train.runs import check as check_files

if TYPE_CHECKING:
    from emo.train.llm.model import TunedModel

OnAnswer = Callable[[int, int], None]  # answered, of how many
OnText = Callable[[str, str], None]  # clip, its answer so far


class TunedAnswerer(Answerer):
    """Answers of a tuned language model; new ones are added to the run folder."""

    evidence: ClassVar[tuple[str, ...]] = ("official", "likelihood")
    streams: ClassVar[bool] = True
    untrained_advice: ClassVar[str] = "Go on with it: emo train --cached --resume {run}."

    def __init__(self, run: Run, device: str = "auto") -> None:
        run.require(TuneRecipe.makes, "a tuned language model")
        super().__init__(run, device)
        self._model: TunedModel | None = None
        self._written: tuple[dict[str, str], list[EmoError]] | None = None

    @cached_property
    def recipe(self) -> TuneRecipe:
        """The run's recipe."""
        check_listed(self.run.path, "recipe.yaml")
        recipe: TuneRecipe = load_recipe(self.run.path / "recipe.yaml")
        return recipe

    @property
    def missing(self) -> Missing:
        return "zeros" if self.recipe.missing == "zeros" else "skip"

    def check(self, policy: str, task: str, transcript: str | None = None) -> None:
        check_question(self.recipe, policy, task)

    def features(self, store: Any, names: Sequence[str], missing: Missing | None = None) -> Features:
        """Return the features of clips, found by the run's own fingerprints.

        Raises:
            FeatureMissing: The store lacks the features, or clips lack them and the policy is `error`.
        """
        specs = [(feature["role"], _spec(store, self.run, feature)) for feature in self.run.info["features"]]
        wanted = [Wanted(role, spec.key, spec.level) for role, spec in specs]
        return Features(store, wanted, names, missing or self.recipe.missing)

    def model(self, features: Features) -> TunedModel:
        """Return the tuned model, which is built at the first call; the features give its widths.

        Raises:
            ModelError: The language model or the adapter cannot be loaded.
            TrainError: The adapter is damaged.
        """
        if self._model is None:
            from emo.train.llm import checkpoint
            from emo.train.llm.predict import start_model

            folder = self.run.path / self.run.info["checkpoint"]
            check_files(folder)
            source = self.run.info["llm"]["source"]
            model = start_model(source, features, self.recipe, resolve_device(self.device))
            checkpoint.load_adapter(model, folder)
            self._model = model
        return self._model

    def answer(
        self,
        store: Any,
        clips: Sequence[Clip],
        policy: str = "official",
        task: str = "emotion",
        keep: bool = True,
        missing: Missing | None = None,
        layout: str | None = None,
        on_progress: OnAnswer | None = None,
        on_text: OnText | None = None,
    ) -> dict[str, Prediction]:
        """Answer about clips, as `Answerer.answer` says.

        Args:
            store: May be `None` for a text-only run.
            clips: Names and transcripts are used.
            policy: See `predict`. All but `likelihood` share the same generated text.
            task: What is asked. `reason` means `reason_v2` to a run that was tuned on that and not on `reason`.
            keep: Take answers that the run has given before, and add the new ones to them. Not for clips whose
                transcript is another than their dataset's.
            missing: What to do about clips without features.
            layout: Of the prompt; default the run's own.
            on_progress: Called after every batch.
            on_text: Called with the name of a clip and its answer so far, as it is generated.
        """
        recipe = self.recipe
        task = check_question(recipe, policy, task, layout)
        path = predictions_path(self.run, policy, layout, task)
        said = {c.id: self._words(c, store) for c in clips}
        kept = _rows(path) if keep else {}
        media = media_of(store, said)
        pairs = self._pairs(said) if task == "preference" else {}
        asked = {n: question(recipe, task, words, layout or recipe.layout, pairs.get(n)) for n, words in said.items()}
        made = self.made(store, list(said))
        known = {
            c.id
            for c in clips
            if self._is_known(c, media.get(c.id), kept.get(c.id), asked[c.id])
            and not self._made_anew(kept[c.id], made.get(c.id))
        }
        if new := [clip.id for clip in clips if clip.id not in known]:
            features = self.features(store, new, missing)
            readable = set(features.names)
            if examples := [Example(name, said[name], pair=pairs.get(name)) for name in new if name in readable]:
                from emo.train.llm.predict import predict

                model = self.model(features)
                rows = predict(model, features, examples, recipe, policy, task, layout, on_progress, on_text)
                trained, zeroed = self.trained.among(clips, media).clips, set(features.zeroed)
                whose = {clip.id: clip.dataset for clip in clips}
                for row in rows:
                    name = row["name"]
                    kept[name] = row | {"trained": name in trained, "dataset": whose[name], "media": media.get(name)}
                    kept[name] |= ({"zeros": True} if name in zeroed else {}) | ({"made": made[name]} if made else {})
                if keep:
                    write_sealed(path, jsonl_text(kept.values()))
                known |= readable
        found = {clip.id: kept[clip.id] for clip in clips if clip.id in known}
        return {name: Prediction(row["answer"], None, row.get("probabilities")) for name, row in found.items()}

    def _words(self, clip: Clip, store: Any) -> str:
        """Return what is said in a clip, as in training: by itself, or by the files and annotations of the recipe.

        Raises:
            UsageError: A file that may say it cannot be read any more; a new media file of no dataset stands in none.
        """

        def written() -> str:
            self._written = self._written or _transcripts(self.run, self.recipe, store)
            texts, lost = self._written
            mine = clip.dataset or clip.id in self.trained.clips or clip.id in self.trained.chose
            if lost and mine and clip.id not in texts and self.trained.knows(clip, None):
                told = f"What is said in {clip.id} may stand in a file of run {self.run.name}: {lost[0].message}"
                raise UsageError(told, "Put it back, or say what is said: --transcript TEXT.")
            return texts.get(clip.id, "")

        return spoken_of(clip, self.recipe.data.language, written)

    def kept(self) -> dict[str, Prediction]:
        rows = self._kept_rows()
        return {name: Prediction(row["answer"], None, row.get("probabilities")) for name, row in rows.items()}

    def _kept_rows(self) -> dict[str, dict[str, Any]]:
        """Return the kept rows about `emotion` by name; of several policies, of the one that says most."""
        paths = (predictions_path(self.run, each) for each in reversed(self.evidence))
        return next((found for path in paths if (found := _rows(path))), {})

    def outdated(self, store: Any, clips: Sequence[Clip]) -> set[str]:
        rows, names = self._kept_rows(), [clip.id for clip in clips]
        media, made = media_of(store, names), self.made(store, names)
        return {
            clip.id
            for clip in clips
            if (row := rows.get(clip.id)) is not None
            and (not self._is_of(clip, media.get(clip.id), row) or self._made_anew(row, made.get(clip.id)))
        }

    def _pairs(self, names: Iterable[str]) -> dict[str, Pair]:
        """Return the two descriptions of each clip, from the files that the run learned preferences from.

        Raises:
            UsageError: A clip has none there.
        """
        files = [self.run.info["files"].get(source.file) for source in self.recipe.data.preference]
        found = {name: note.pair for file in files if file for name, note in read_preferences(Path(file)).items()}
        if lacking := [name for name in names if found.get(name) is None]:
            have = counted(len(lacking), "clip has", "clips have")
            told = f"{have} no two descriptions to choose from: {some_of(lacking, 3)}."
            raise UsageError(told, "They stand in the file that data.preference of the run's recipe names.")
        return {name: pair for name, pair in found.items() if pair is not None}

    def _is_known(self, clip: Clip, media: str | None, row: Mapping[str, Any] | None, asked: str) -> bool:
        """Say whether a kept row answers this very question about this very clip.

        One that was given with zeros does not: features may be there by now.
        """
        if row is None or row.get("asked") != asked or row.get("zeros"):
            return False
        return self._is_of(clip, media, row)

    def _is_of(self, clip: Clip, media: str | None, row: Mapping[str, Any]) -> bool:
        """Say whether a kept row may be about this very clip."""
        then = row.get("media") or self.trained.contents.get(clip.id)
        return same_clip(clip, media, row.get("dataset") or self.trained.dataset, then)

    def _made_anew(self, row: Mapping[str, Any], made: str | None) -> bool:
        """Say whether the clip of a kept row has other features than when it was given."""
        return made_anew(row.get("made") or self.trained.made.get(row["name"]), made)

    def zeroed(self, policy: str, clip_ids: Sequence[str], task: str = "emotion") -> list[str]:
        rows = _rows(predictions_path(self.run, policy, task=task))
        return [name for name in clip_ids if rows.get(name, {}).get("zeros")]


def load_tuned(
    store: Store | None, run: Run | Path, names: Sequence[str], device: str = "auto"
) -> tuple[TunedModel, Features, TuneRecipe]:
    """A finished run's model, and the features of the clips to ask about, found by the run's own fingerprints.

    Raises:
        UsageError: The run is not finished, or is no tuned language model.
        FeatureMissing: The store lacks the features, or clips lack them and the policy is `error`.
        ModelError: The language model or the adapter cannot be loaded.
    """
    answerer = TunedAnswerer(load_run(run) if isinstance(run, Path) else run, device)
    features = answerer.features(store, names)
    return answerer.model(features), features, answerer.recipe


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a predictions file as they are, by name; nothing where there is none."""
    if not path.exists():  # also where somebody removed them to be asked anew
        return {}
    check_listed(path.parent, path.name)
    return prediction_rows(path)


def _spec(store: Store | None, run: Run, feature: Mapping[str, Any]) -> EncoderSpec:
    if store is None:
        raise FeatureMissing(f"Run {run.name} needs {feature['key']}, and there is no store.", "Run emo extract.")
    spec = store.resolve(feature["key"])
    check_feature(run, feature, spec)
    return spec


def _transcripts(run: Run, recipe: TuneRecipe, store: Any) -> tuple[dict[str, str], list[EmoError]]:
    """Return the transcripts that training took from files and annotations, and what of them cannot be read any more.

    An imported run has only those files that were found with it.
    """
    files = {name: Path(path) for name, path in run.info["files"].items()}
    annotated, tables, lost = [], [], list[EmoError]()

    def records(name: str) -> dict[str, dict[str, Any]]:
        return annotations_of(store or open_store(run.info["store"]), name)  # no features, no store in hand

    for task, source in sources_of(recipe):
        held = source.file.lower().endswith(".json") and source.file in files  # other files have no transcripts
        if not held and (not source.record or run.info.get("imported")):
            continue
        try:
            notes = read_source(source, task, (), recipe.labels, files.__getitem__, records)
            annotated.append({name: note.transcript for name, note in notes.items()})
        except EmoError as error:
            lost.append(error)
    for file in (each for each in recipe.data.transcripts if each in files):
        try:
            tables.append(transcript_csv(files[file]))
        except EmoError as error:
            lost.append(error)
    return texts_of(recipe.data.language, annotated, tables), lost
