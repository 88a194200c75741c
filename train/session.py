"""One door to every kind of training: a recipe and a workspace in, a finished run out, and answers from a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.names import ALIASES, describe
from emo.featstore.spec import EncoderSpec
from emo.featstore.store import Store, open_store
from emo.featstore.workspace import Workspace
from emo.train.answers import Prediction
from emo.train.heads.base import load_recipe
from emo.train.runs import Run, latest_run, load_run, new_run
from emo.train.score import Score

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """A finished run, the score of its validation clips if it has any, and what must stand beside that score."""

    run: Run
    validation: Score | None
    notes: tuple[str, ...]


def feature_names(recipe: Any) -> tuple[str, ...]:
    """Features that a recipe reads."""
    if getattr(recipe, "kind", "head") == "tune":
        names = (recipe.features.tokens, *recipe.features.streams)
        return tuple(name for name in names if name)
    return tuple(feature.name for feature in recipe.features)


def settle(store: Store, recipe: Any, profile: str, say: Say) -> Any:
    """The recipe with every feature name made definite, where the store holds several features of that name.

    Of several, the one of the workspace's profile is meant, if there is just one; and it is said.

    Raises:
        UsageError: There are several; the message holds the `--set` that chooses.
    """
    chosen: dict[str, str] = {}
    open_: dict[str, list[EncoderSpec]] = {}
    for name in feature_names(recipe):
        same = [each.spec for each in store.features() if each.spec.name == ALIASES.get(name, name)]
        usual = [spec for spec in same if spec.profile == profile]
        if len(same) > 1 and len(usual) == 1:
            chosen[name] = usual[0].key
            say(f"{name} is {usual[0].key}: the one of profile {profile}")
        elif len(same) > 1:
            open_[name] = usual or same
    if open_:
        what = "; ".join(f"{name} is {' or '.join(describe(spec) for spec in specs)}" for name, specs in open_.items())
        keys = [open_[name][-1].key if name in open_ else chosen.get(name, name) for name in feature_names(recipe)]
        if getattr(recipe, "kind", "head") == "tune":
            how = f"--set features.tokens=... --set 'features.streams=[...]', with names such as {keys[0]}"
        else:
            how = f"--set 'features=[{', '.join(keys)}]'"
        raise UsageError(f"The store holds several features of one name: {what}.", f"Say which, for instance {how}.")
    if not chosen:
        return recipe
    if getattr(recipe, "kind", "head") == "tune":
        features = recipe.features
        streams = tuple(chosen.get(each, each) for each in features.streams)
        new = features.model_copy(update={"tokens": chosen.get(features.tokens, features.tokens), "streams": streams})
    else:
        new = tuple(each.model_copy(update={"name": chosen.get(each.name, each.name)}) for each in recipe.features)
    return recipe.model_copy(update={"features": new})


def train(
    workspace: Workspace,
    recipe: Any,
    dataset: str | None = None,
    run: str | None = None,
    device: str = "auto",
    say: Say | None = None,
    *,
    resume: bool = False,
    force: Sequence[str] = (),
) -> Trained:
    """Train what the recipe says on cached features.

    Args:
        workspace: Where store, datasets and weights are.
        recipe: From `load_recipe`: a head's or a language model's; `None` with `resume` takes the run's own.
        dataset: A `[data.NAME]` table; may be `None` where there is just one.
        run: Name of the run folder; with `resume` the run to go on with.
        device: `auto`, `cpu`, `cuda`, ...
        say: Gets a sentence now and then.
        resume: Go on from the newest checkpoint of the run.
        force: Differences between then and now to accept when going on.

    Raises:
        EmoError: As `fit_head` and `tune`.
    """
    say = say or (lambda sentence: None)
    if recipe is None:
        recipe = load_recipe(workspace.root / "runs" / str(run) / "recipe.yaml")
    table = workspace.table(dataset)
    source = open_dataset(table.name, table)
    store = open_store(workspace.store_path) if feature_names(recipe) else None
    if store is not None:
        recipe = settle(store, recipe, workspace.extract.profile, say)
    known = set(store.clips()) if store else set()
    clips = [clip for clip in source.clips() if store is None or clip.media is not None or clip.id in known]
    labelled = sum(clip.label is not None for clip in clips)
    say(f"{source.name}: {len(clips):,} clips, {labelled:,} of them labelled")
    if getattr(recipe, "kind", "head") != "tune":
        if resume:
            raise UsageError("A head has no checkpoint to go on from.", "Train it again: it takes the same course.")
        if store is None:
            raise UsageError("The recipe names no feature.", "Add features: [...].")
        return _train_head(store, clips, source.labels, recipe, new_run(workspace.root, run, recipe.head), device, say)
    folder = workspace.root / "runs" / run if resume and run else new_run(workspace.root, run, recipe.name)
    return _tune(workspace, store, clips, recipe, folder, device, say, table.root, resume, force)


def _train_head(
    store: Store, clips: Sequence[Clip], labels: Sequence[str], recipe: Any, folder: Path, device: str, say: Say
) -> Trained:
    from emo.train.heads.fit import Progress, fit_head

    def show(now: Progress) -> None:
        place = f"seed {now.seed}, fold {now.fold + 1} of {now.folds}, epoch {now.epoch}"
        say(f"{place}: validation {now.metric:.4f} ({100 * now.done // now.total} % of the run)")

    result = fit_head(store, clips, labels, recipe, folder, device, show)
    return Trained(result.run, result.validation, result.notes)


def _tune(
    workspace: Workspace,
    store: Store | None,
    clips: Sequence[Clip],
    recipe: Any,
    folder: Path,
    device: str,
    say: Say,
    root: Path,
    resume: bool,
    force: Sequence[str],
) -> Trained:
    from emo.train.llama.tune import Progress, tune

    def show(now: Progress) -> None:
        words = [f"step {now.step} of {now.steps}", f"epoch {now.epoch}"]
        words += [] if now.loss is None else [f"loss {now.loss:.4f}"]
        words += [] if now.samples_per_s is None else [f"{now.samples_per_s:.1f} samples/s"]
        words += [] if now.tokens_per_s is None else [f"{now.tokens_per_s:,.0f} tokens/s"]
        words += [] if now.mfu is None else [f"MFU {100 * now.mfu:.0f} %"]
        words += [] if now.memory_bytes is None else [f"{now.memory_bytes / 2**30:.1f} GiB"]
        words += [] if now.eta_s is None else [f"{now.eta_s / 60:.0f} min left"]
        words += [] if now.metric is None else [f"validation {now.metric:.4f}" + (", best" if now.best else "")]
        say(", ".join(words))

    places = {name: workspace.weights_at(name) for name in workspace.weights}
    weights = {name: str(place) for name, place in places.items() if place is not None}
    roots = (root, workspace.root)
    result = tune(store, clips, recipe, folder, device, show, weights=weights, roots=roots, resume=resume, force=force)
    return Trained(result.run, result.validation, result.notes)


def answers(
    workspace: Workspace, run: str | None, clip_ids: Sequence[str], policy: str = "official", device: str = "auto"
) -> tuple[Run, dict[str, Prediction]]:
    """What a run says of those of the clips whose features are in the store, or that it has answered before.

    Args:
        workspace: Where the runs and the store are.
        run: Name of a run; the newest finished one if `None`.
        clip_ids: Clips to answer.
        policy: How a language model answers: `likelihood`, or free text.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        UsageError: There is no such run, or it is not finished.
        FeatureMissing: The store lacks a feature that the run needs altogether.
    """
    found = load_run(workspace.root / "runs" / run) if run else latest_run(workspace.root)
    return found, _answers(workspace, found, clip_ids, policy, device)


def _answers(
    workspace: Workspace, run: Run, clip_ids: Sequence[str], policy: str, device: str
) -> dict[str, Prediction]:
    store = open_store(workspace.store_path) if run.info.get("features") else None
    if run.info.get("kind") != "tune":
        from emo.train.heads.fit import predict_cached

        assert store is not None  # a head always has features
        return predict_cached(store, run, clip_ids, device)
    from emo.train.llama.predict import predict_run

    wanted = set(clip_ids)
    known: dict[str, Clip] = {}
    for table in workspace.data.values():
        for clip in open_dataset(table.name, table).clips():
            if clip.id in wanted:
                known.setdefault(clip.id, clip)
    clips = [known.get(clip_id, Clip(clip_id)) for clip_id in clip_ids]
    return predict_run(store, run, clips, policy, device, missing="skip")
