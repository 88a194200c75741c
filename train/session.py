"""One door to every kind of training: a recipe and a workspace in, a finished run out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.base import Dataset
from emo.featstore.datasets.lookup import changed_note, is_another
from emo.featstore.errors import EmoError, FeatureMissing, UsageError
from emo.featstore.meant import as_set
from emo.featstore.names import differences, named
from emo.featstore.page import Arg, Flag, Page, span_text, throttle
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.maintain import BESIDE
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.text import counted, size_text, some_of
from emo.featstore.transcripts import of_other_texts
from emo.featstore.workspace import ExtractTable, Workspace
from emo.train.device import device_words, resolve_device
from emo.train.heads.search import average_parts, check_search, search_parts
from emo.train.metrics.labels import Score
from emo.train.metrics.report import score_page
from emo.train.recipe import FILES, family_named, load_recipe
from emo.train.runs import Run, load_run, new_run, tell_splits

Say = Callable[[str], None]
ASKED_BY = "It is for emo predict --model URL#NAME --recipe NAME."


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
class TrainArgs:
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

    def fitting(self, recipe: Any, workspace: Workspace, say: Say, cached: bool = False) -> Any:
        """The recipe with what the store holds, where it takes any features and none of those it names is at hand.

        Where nothing may be extracted (`cached`), those of its features that are at hand do too. A recipe from a file,
        features named by --set, and features that emo.toml has extracted stay as they are.
        """
        named_here = any(each.partition("=")[0].strip().startswith("features") for each in self.set_)
        if named_here or self.resume or (self.recipe or "").endswith(FILES) or not has_store(workspace.store_path):
            return recipe
        features = open_store(workspace.store_path).features()
        held = [each.spec for each in features if each.ok and each.spec.encoder not in BESIDE]
        wanted = recipe.feature_names()
        lacking = [name for name in wanted if not named(name.partition("@")[0], held)]
        some = len(lacking) < len(wanted)
        if not lacking or set(lacking) & set(workspace.extract.encoders) or (some and not cached):
            return recipe
        if some:
            held = [spec for name in wanted for spec in named(name.partition("@")[0], held)]
        usual = [spec for spec in held if spec.profile == workspace.extract.profile] or held
        fitted = recipe.on_what_is_there(usual)
        if fitted is None:
            return recipe
        names = fitted.feature_names()
        say(
            f"The store has {'no' if some else 'none of'} {', '.join(lacking)}, which {recipe.title} names; it takes "
            f"what is there: {', '.join(names)}. Others: {recipe.features_flag(names[:2])}"
        )
        return fitted


@dataclass(frozen=True)
class Job:
    """Arguments of one training; see `train`."""

    workspace: Workspace
    recipe: Any
    dataset: str | None
    run: str | None
    device: str
    say: Say
    resume: bool
    force: tuple[str, ...]
    search: int | None


def settle(store: Store, recipe: Any, table: ExtractTable, say: Say) -> Any:
    """The recipe with every feature name made definite, where the store holds several features of that name.

    Of several, the one that `[extract]` of emo.toml describes is meant, if there is just one; and it is said.

    Raises:
        UsageError: There are several; the message holds the `--set` that chooses.
    """
    chosen: dict[str, str] = {}
    open_: dict[str, list[EncoderSpec]] = {}
    for name in recipe.feature_names():
        same = named(name, (each.spec for each in store.features()))
        usual = [spec for spec in same if spec.profile == table.profile]
        described = as_set(table, same)
        if len(same) > 1 and 1 in (len(described), len(usual)):
            chosen[name] = (described if len(described) == 1 else usual)[0].key
            why = "that [extract] in emo.toml describes" if len(described) == 1 else f"of profile {table.profile}"
            say(f"{name} is {chosen[name]}: of {len(same)} in the store, the one {why}")
        elif len(same) > 1:
            open_[name] = described or usual or same
    if open_:
        what = "; ".join(_apart(name, specs) for name, specs in open_.items())
        keys = [open_[name][-1].key if name in open_ else chosen.get(name, name) for name in recipe.feature_names()]
        how = recipe.features_flag(keys)
        drop = "`emo store drop NAME@...` removes one that is not needed any more."
        told = f"The store holds several features of one name: {what}."
        raise UsageError(told, f"Say which, for instance {how}. {drop}")
    return recipe.with_features(chosen) if chosen else recipe


def _apart(name: str, specs: Sequence[EncoderSpec]) -> str:
    """Say what tells recipes of one name apart, in the order in which they were made."""
    keys = " or ".join(spec.key for spec in specs)
    return f"{name} is {keys}, which differ in {some_of(differences(specs), 4)}"


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
    if recipe is None:
        recipe = load_recipe(workspace.root / "runs" / str(run) / "recipe.yaml")
    say = say or (lambda sentence: None)
    if recipe.makes not in TRAINERS:
        raise UsageError(f"Recipe {recipe.title} trains nothing; it says what a model is asked.", ASKED_BY)
    job = Job(workspace, recipe, dataset, run, device, say, resume, tuple(force), search)
    return TRAINERS[recipe.makes](job)


def several_processes() -> bool:
    """Say whether torchrun has started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def features_to_extract(recipe: Any) -> tuple[str, ...]:
    """Features that a recipe reads, where they may be extracted before the training.

    Raises:
        UsageError: Several processes train, each of which would extract them.
    """
    names = recipe.feature_names()
    if names and several_processes():
        raise UsageError("Several processes train on what is extracted already.", "Run emo extract, and add --cached.")
    return names


def _silent(sentence: str) -> None:
    """Say nothing, as all processes but the first."""


def _material(job: Job, say: Say) -> tuple[Store | None, Any, list[Clip], Dataset]:
    """Return the store, the recipe with definite features, the clips that can be used, and their dataset."""
    workspace, recipe = job.workspace, job.recipe
    table = workspace.table(job.dataset)
    source = open_dataset(table.name, table)
    store = open_store(workspace.store_path) if recipe.feature_names() else None
    if store is not None:
        recipe = settle(store, recipe, workspace.extract, say)
    clips = usable_clips(source, store, say)
    if store is not None:
        refuse_other_texts(source.name, store, recipe.feature_names(), clips)
    return store, recipe, clips, source


def refuse_other_texts(name: str, store: Store, features: Sequence[str], clips: Sequence[Clip]) -> None:
    """Refuse to train on features that were made of other transcripts than the dataset has.

    Args:
        name: Of the dataset.
        store: Where the features are.
        features: Their names; those that are not there are not looked at.
        clips: As the dataset has them.

    Raises:
        UsageError: Some were. A transcript was changed, or another dataset has clips of these names.
    """
    for feature in features:
        with suppress(FeatureMissing):
            spec = store.resolve(feature)
            if others := of_other_texts(store, spec, clips):
                have = counted(len(others), "clip of {} has", "clips of {} have").format(name)
                raise UsageError(
                    f"{have} another transcript than the one that {spec.key} was made of: {some_of(others)}.",
                    f"Run emo extract again, after `emo store drop {spec.key}` where a transcript is gone. Where "
                    "another dataset has clips of the same names, use one store per dataset (path under [store]).",
                )


def usable_clips(source: Dataset, store: Store | None, say: Say) -> list[Clip]:
    """Clips of a dataset that can be trained on: where there is a store, those that have media or that it knows.

    Raises:
        UsageError: The store knows other clips by their names, whose features would stand beside these labels.
    """
    known = set(store.clips()) if store else set()
    clips = [clip for clip in source.clips() if store is None or clip.media is not None or clip.id in known]
    labelled = sum(clip.label is not None for clip in clips)
    say(f"{source.name}: {counted(len(clips), 'clip')}, {labelled:,} of them labelled")
    if store is not None:
        _refuse_others(source.name, store, clips)
        if told := changed_note(store, clips):
            say(told)
    return clips


def _refuse_others(name: str, store: Store, clips: Sequence[Clip]) -> None:
    if others := [clip for clip in clips if is_another(store, clip)]:
        row = store.clip_row(others[0].id)
        there = f"{others[0].id} is {row[1] if row else ''} there, and {others[0].media} here"
        have = counted(len(others), "clip of {} has the name", "clips of {} have names").format(name)
        raise UsageError(
            f"{have} by which the store knows {'another clip' if len(others) == 1 else 'other clips'}: {there}.",
            "Use one store per dataset: another path under [store] in emo.toml.",
        )


def _train_head(job: Job) -> Trained:
    if several_processes():
        raise UsageError("A head is trained by one process.", "Start it without torchrun.")
    if job.resume:
        raise UsageError("A head has no checkpoint to go on from.", "Train it again: it takes the same course.")
    if job.search:
        check_search(job.recipe)
    from emo.train.heads.fit import Progress, fit_head

    store, recipe, clips, source = _material(job, job.say)
    if store is None:
        raise UsageError("The recipe names no feature.", "Add features: [...].")
    folder = new_run(job.workspace.root, job.run, recipe.title)
    tell = throttle(job.say)

    def show(now: Progress) -> None:
        place = f"seed {now.seed}, fold {now.fold + 1} of {now.folds}, epoch {now.epoch}"
        if now.drawn is not None:
            place = f"draw {now.drawn + 1} of {job.search}, {place}"
        tell(f"{place}: validation {now.metric:.4f} ({100 * now.done // now.total} % of the run)")

    with _gone_if_not_begun(folder):
        result = fit_head(store, clips, source.labels, recipe, folder, job.device, show, job.search)
    return Trained(result.run, result.validation, result.notes, result.average, result.search)


@contextmanager
def _gone_if_not_begun(folder: Path) -> Iterator[None]:
    """Remove the new folder of a run that an error ends before its first step: nothing of it would be of use."""
    try:
        yield
    except EmoError:
        log = folder / "log.jsonl"
        if not log.exists() or not log.stat().st_size:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _tune(job: Job) -> Trained | None:
    if job.search:
        raise UsageError("--search is for heads, not for language models.", "Give --head attention.")
    from emo.train.llm.distributed import World
    from emo.train.llm.tune import tune  # takes seconds, and no run folder should wait half made for it

    runs = job.workspace.root / "runs"
    with World.join(job.device) as world:
        say = _silent if world.rank else job.say
        store, recipe, clips, source = _material(job, say)
        say(f"Tuning on {device_words(resolve_device(job.device))}.")
        folder = runs / str(job.run) if job.resume else None
        folder = folder or world.share(lambda: new_run(job.workspace.root, job.run, recipe.title))
        roots = (job.workspace.table(source.name).root, job.workspace.root)
        with nullcontext() if job.resume or world.rank else _gone_if_not_begun(folder):
            result = tune(
                store,
                clips,
                recipe,
                folder,
                job.device,
                _teller(say),
                weights=_weights(job.workspace),
                roots=roots,
                resume=job.resume,
                force=job.force,
            )
    return None if world.rank else Trained(result.run, result.validation, result.notes)


def _teller(say: Say) -> Callable[[Any], None]:
    """Return a function that puts the progress of a tuning into words: now and then, but every validation."""
    tell = throttle(say)

    def show(now: Any) -> None:
        words = [f"step {now.step} of {now.steps}", f"epoch {now.epoch}"]
        words += [] if now.loss is None else [f"loss {now.loss:.4f}"]
        words += [] if now.samples_per_s is None else [f"{now.samples_per_s:.1f} samples/s"]
        words += [] if now.tokens_per_s is None else [f"{now.tokens_per_s:,.0f} tokens/s"]
        words += [] if now.mfu is None else [f"MFU {100 * now.mfu:.0f} %"]
        words += [] if now.memory_bytes is None else [size_text(now.memory_bytes)]
        words += [] if now.eta_s is None else [f"{span_text(now.eta_s)} left"]
        words += [] if now.metric is None else [f"validation {now.metric:.4f}" + (", best" if now.best else "")]
        (tell if now.metric is None else say)(", ".join(words))

    return show


TRAINERS: dict[str, Callable[[Job], Trained | None]] = {"head": _train_head, "tune": _tune}


def run_page(result: Trained) -> Page:
    """A training that has ended: its validation where it has one, and what must stand beside it."""
    validation = result.validation.to_json() if result.validation else None
    value = {"run": str(result.run.path), **result.run.info, "validation": validation}
    splits = tell_splits(result.run.info["splits"])
    if result.validation is None:
        return Page(value, [splits, *result.notes])
    page = score_page(result.validation, "Validation", result.notes)
    parts = [*(search_parts(result.search) if result.search else ())]
    parts += average_parts(result.average) if result.average else ()
    value |= {"search": result.search} if result.search else {}
    value |= {"average": result.average} if result.average else {}
    return replace(page, value=value, parts=[splits, *parts, *page.parts])


# ---- models from and for other tools ---------------------------------------------------------------------------------


def imported_page(
    workspace: Workspace,
    say: Say,
    checkpoint: Annotated[Path, Arg("An official checkpoint of the recipe's family (Emotion-LLaMA: .pth).")],
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
    from emo.train.llm.exchange import import_page, import_run

    chosen = load_recipe(recipe, set_ or [])
    if TRAINERS.get(chosen.makes) is not _tune:
        raise UsageError("A checkpoint of a language model needs the recipe of one.", "Give --recipe.")
    chosen = load_recipe(recipe, [f"layout={family_named(chosen.family).official_layout}", *(set_ or [])])
    store = open_store(workspace.store_path) if chosen.feature_names() else None
    if store is not None:
        chosen = settle(store, chosen, workspace.extract, say)
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
    from emo.train.llm.exchange import export_run

    found = load_run(workspace.root / "runs" / run)
    store = open_store(workspace.store_path) if found.info.get("features") else None
    return export_run(store, found, dest, form)


def _weights(workspace: Workspace) -> dict[str, str]:
    places = {name: workspace.weights_at(name) for name in workspace.weights}
    return {name: str(place) for name, place in places.items() if place is not None}
