"""One door to every kind of training: a recipe and a workspace in, a finished run out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.base import Dataset
from emo.featstore.errors import UsageError
from emo.featstore.names import describe, meaning
from emo.featstore.page import Arg, Flag, Page, throttle
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import Workspace
from emo.train.heads.base import load_recipe
from emo.train.heads.search import average_parts, check_search, search_parts
from emo.train.metrics.labels import Score
from emo.train.metrics.report import score_page
from emo.train.runs import Run, load_run, new_run

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """A finished run, the score of its validation clips if it has any, and what must stand beside that score.

    A head may also have been searched for (`search`), and trained under several seeds (`average`): see `FitResult`.
    """

    run: Run
    validation: Score | None
    notes: tuple[str, ...]
    average: dict[str, Any] | None = None
    search: dict[str, Any] | None = None


@dataclass(frozen=True)
class Order:
    """The flags of `emo train` that decide on the recipe, by their names."""

    recipe: str | None = None
    head: str | None = None
    set_: tuple[str, ...] = ()
    run: str | None = None
    resume: str | None = None
    force: tuple[str, ...] = ()

    def chosen(self, workspace: Workspace) -> Any:
        """The recipe that is meant, with what is set above it: the one named, the run's own, the workspace's.

        Raises:
            UsageError: Flags that do not go together, or no such recipe.
        """
        if self.resume and self.run:
            raise UsageError("--run and --resume do not go together.", "Going on, a run keeps its name.")
        if self.force and not self.resume:
            raise UsageError("--force belongs to --resume.", "Leave it out.")
        own = workspace.root / "runs" / str(self.resume) / "recipe.yaml"
        if self.resume and not own.exists():
            raise UsageError(
                f"There is no run {self.resume} with a recipe in {own.parents[1]}.", "Start it anew: --run NAME."
            )
        usual = own if self.resume else workspace.recipe or "attention"
        head = [f"head={self.head}"] if self.recipe and self.head else []
        return load_recipe(self.recipe or self.head or usual, [*head, *self.set_])


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
        same = [each.spec for each in store.features() if each.spec.name == meaning(name)]
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
    search: int | None = None,
) -> Trained | None:
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
        search: Draw so many settings of a head, and train the best: see `fit_head`.

    Returns:
        The run; `None` in all but the first of several processes.

    Raises:
        EmoError: As `fit_head` and `tune`.
    """
    say = say or (lambda sentence: None)
    if recipe is None:
        recipe = load_recipe(workspace.root / "runs" / str(run) / "recipe.yaml")
    tuning = getattr(recipe, "kind", "head") == "tune"
    if not tuning and several_processes():
        raise UsageError("A head is trained by one process.", "Start it without torchrun.")
    if not tuning and resume:
        raise UsageError("A head has no checkpoint to go on from.", "Train it again: it takes the same course.")
    if search and tuning:
        raise UsageError("--search is for heads, not for language models.", "Give --head attention.")
    if search:
        check_search(recipe)
    if tuning:
        import emo.train.llm.tune  # noqa: F401 - takes seconds, and no run folder should wait half made for it
        from emo.train.llm.world import World

        with World.join(device) as world:
            if world.rank:
                say = _silent
            material = _material(workspace, recipe, dataset, say)
            folder = workspace.root / "runs" / str(run) if resume else None
            folder = folder or world.share(lambda: new_run(workspace.root, run, recipe.name))
            trained = _tune(workspace, *material, folder, device, say, resume, force)
        return None if world.rank else trained
    store, recipe, clips, source = _material(workspace, recipe, dataset, say)
    if store is None:
        raise UsageError("The recipe names no feature.", "Add features: [...].")
    folder = new_run(workspace.root, run, recipe.head)
    return _train_head(store, clips, source.labels, recipe, folder, device, say, search)


def several_processes() -> bool:
    """Whether torchrun has started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def features_to_extract(recipe: Any) -> tuple[str, ...]:
    """Features that a recipe reads, where they may be extracted before the training.

    Raises:
        UsageError: Several processes train, each of which would extract them.
    """
    names = feature_names(recipe)
    if names and several_processes():
        raise UsageError("Several processes train on what is extracted already.", "Run emo extract, and add --cached.")
    return names


def _silent(sentence: str) -> None:
    """What all processes but the first say."""


def _material(
    workspace: Workspace, recipe: Any, dataset: str | None, say: Say
) -> tuple[Store | None, Any, list[Clip], Dataset]:
    """The store, the recipe with definite features, the clips that can be used, and their dataset."""
    table = workspace.table(dataset)
    source = open_dataset(table.name, table)
    store = open_store(workspace.store_path) if feature_names(recipe) else None
    if store is not None:
        recipe = settle(store, recipe, workspace.extract.profile, say)
    known = set(store.clips()) if store else set()
    clips = [clip for clip in source.clips() if store is None or clip.media is not None or clip.id in known]
    labelled = sum(clip.label is not None for clip in clips)
    say(f"{source.name}: {len(clips):,} clips, {labelled:,} of them labelled")
    return store, recipe, clips, source


def _train_head(
    store: Store,
    clips: Sequence[Clip],
    labels: Sequence[str],
    recipe: Any,
    folder: Path,
    device: str,
    say: Say,
    search: int | None,
) -> Trained:
    from emo.train.heads.fit import Progress, fit_head

    tell = throttle(say)

    def show(now: Progress) -> None:
        place = f"seed {now.seed}, fold {now.fold + 1} of {now.folds}, epoch {now.epoch}"
        if now.drawn is not None:
            place = f"draw {now.drawn + 1} of {search}, {place}"
        tell(f"{place}: validation {now.metric:.4f} ({100 * now.done // now.total} % of the run)")

    result = fit_head(store, clips, labels, recipe, folder, device, show, search)
    return Trained(result.run, result.validation, result.notes, result.average, result.search)


def _tune(
    workspace: Workspace,
    store: Store | None,
    recipe: Any,
    clips: Sequence[Clip],
    source: Dataset,
    folder: Path,
    device: str,
    say: Say,
    resume: bool,
    force: Sequence[str],
) -> Trained:
    from emo.train.llm.tune import Progress, tune

    tell = throttle(say)

    def show(now: Progress) -> None:
        words = [f"step {now.step} of {now.steps}", f"epoch {now.epoch}"]
        words += [] if now.loss is None else [f"loss {now.loss:.4f}"]
        words += [] if now.samples_per_s is None else [f"{now.samples_per_s:.1f} samples/s"]
        words += [] if now.tokens_per_s is None else [f"{now.tokens_per_s:,.0f} tokens/s"]
        words += [] if now.mfu is None else [f"MFU {100 * now.mfu:.0f} %"]
        words += [] if now.memory_bytes is None else [f"{now.memory_bytes / 2**30:.1f} GiB"]
        words += [] if now.eta_s is None else [f"{now.eta_s / 60:.0f} min left"]
        words += [] if now.metric is None else [f"validation {now.metric:.4f}" + (", best" if now.best else "")]
        (tell if now.metric is None else say)(", ".join(words))

    weights, roots = _weights(workspace), (workspace.table(source.name).root, workspace.root)
    result = tune(store, clips, recipe, folder, device, show, weights=weights, roots=roots, resume=resume, force=force)
    return Trained(result.run, result.validation, result.notes)


def run_page(result: Trained) -> Page:
    """A training that has ended: its validation where it has one, and what must stand beside it."""
    validation = result.validation.to_json() if result.validation else None
    value = {"run": str(result.run.path), **result.run.info, "validation": validation}
    if result.validation is None:
        return Page(value, list(result.notes))
    page = score_page(result.validation, "Validation", result.notes)
    parts = [*(search_parts(result.search) if result.search else ())]
    parts += average_parts(result.average) if result.average else ()
    value |= {"search": result.search} if result.search else {}
    value |= {"average": result.average} if result.average else {}
    return replace(page, value=value, parts=[*parts, *page.parts])


# ---- models from and for other tools ---------------------------------------------------------------------------------


def imported_page(
    workspace: Workspace,
    say: Say,
    checkpoint: Annotated[Path, Arg("An official Emotion-LLaMA checkpoint (.pth).")],
    recipe: Annotated[str, Flag("Its language model, features, prompts.")] = "emotion-llama-stage1",
    set_: Annotated[list[str] | None, Flag("key=value above the recipe; may be repeated.", "--set")] = None,
    run: Annotated[str | None, Flag("Name of the run folder.")] = None,
    device: Annotated[str, Flag("auto, cpu or cuda.")] = "auto",
) -> Page:
    """Make a run of an official checkpoint, so that it can be scored and asked; prompts in the official layout.

    Raises:
        UsageError: The recipe is a head's, or the run's name is taken.
        EmoError: As `import_run`; no run folder is left then.
    """
    from emo.train.llm.emotion_llama.exchange import import_page, import_run

    chosen = load_recipe(recipe, ["layout=official_eval", *(set_ or [])])
    if getattr(chosen, "kind", "head") != "tune":
        raise UsageError("A checkpoint of Emotion-LLaMA needs the recipe of a language model.", "Give --recipe.")
    store = open_store(workspace.store_path) if feature_names(chosen) else None
    if store is not None:
        chosen = settle(store, chosen, workspace.extract.profile, say)
    roots = [*(table.root for table in workspace.data.values()), workspace.root]
    folder = new_run(workspace.root, run, checkpoint.stem)
    try:
        made = import_run(store, checkpoint, chosen, folder, device, weights=_weights(workspace), roots=roots)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return import_page(made)


def exported_page(
    workspace: Workspace,
    run: Annotated[str, Arg("A finished run of a language model.")],
    dest: Annotated[Path, Arg("File or folder to write.")],
    form: Annotated[str, Flag("official (.pth), adapter or merged (folders).")] = "adapter",
) -> Page:
    """Write what a run has learned for other tools.

    Raises:
        EmoError: As `export_run`.
    """
    from emo.train.llm.emotion_llama.exchange import export_run

    found = load_run(workspace.root / "runs" / run)
    store = open_store(workspace.store_path) if found.info.get("features") else None
    return export_run(store, found, dest, form)


def _weights(workspace: Workspace) -> dict[str, str]:
    places = {name: workspace.weights_at(name) for name in workspace.weights}
    return {name: str(place) for name, place in places.items() if place is not None}
