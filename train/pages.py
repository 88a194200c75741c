"""`emo train` and `emo predict`. What they lack is extracted by `extract`, which the command line brings along."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.datasets import open_dataset
from emo.featstore.errors import UsageError
from emo.featstore.files import csv_text, write_atomic
from emo.featstore.inquiry import Ask
from emo.featstore.page import Arg, Extract, Flag, Page
from emo.featstore.storage.store import has_store, open_store
from emo.featstore.workspace import Workspace, find_workspace, load_workspace

Say = Callable[[str], None]


def train_page(
    say: Say,
    extract: Extract,
    head: Annotated[str | None, Flag("MERBench's (attention, lf_dnn, misa ...), logistic or knn.")] = None,
    recipe: Annotated[str | None, Flag("Name of a recipe, or a YAML file.")] = None,
    dataset: Annotated[str | None, Flag("A [data.NAME] table of emo.toml.")] = None,
    cached: Annotated[bool, Flag("Never touch media or encoders.", "--cached")] = False,
    set_: Annotated[list[str] | None, Flag("key=value above the recipe; may be repeated.", "--set")] = None,
    run: Annotated[str | None, Flag("Name of the run folder.")] = None,
    resume: Annotated[str | None, Flag("Name of a run to go on with.")] = None,
    force: Annotated[list[str] | None, Flag("A difference to accept with --resume.")] = None,
    search: Annotated[
        int | None, Flag("Of a head: draw N settings, train all, run the best six times.", least=1)
    ] = None,
    device: Annotated[str, Flag("auto, cpu or cuda.")] = "auto",
    help_recipe: Annotated[str | None, Flag("Print this recipe with what every key means, and train nothing.")] = None,
) -> Page | None:
    """Train a head, or tune a language model, on cached features."""
    if help_recipe:
        from emo.train.recipe_text import explain

        text = explain(help_recipe)
        return Page({"recipe": text}, [text.rstrip("\n")])
    from emo.train.session import TrainArgs, features_to_extract, run_page
    from emo.train.session import train as train_it

    workspace = load_workspace(find_workspace())
    args = TrainArgs(recipe, head, tuple(set_ or ()), run, resume, tuple(force or ()))
    chosen = args.fitting(args.chosen(workspace), workspace, say, cached)
    if not cached and not resume and (features := features_to_extract(chosen)):
        extract(show=True, dataset=dataset, encoders=features)
    how = {"resume": bool(resume), "force": args.force, "search": search}
    result = train_it(workspace, chosen, dataset, resume or run, device, say, **how)
    if result is None:  # one of several processes, of which the first speaks
        return None
    say(f"run: {result.run.path}")
    return run_page(result)


def predict_page(
    workspace: Workspace,
    extract: Extract,
    ask: Ask,
    say: Say,
    clips: Annotated[list[str] | None, Arg("Names of clips, media files, folders of them, or lists of names.")] = None,
    run: Annotated[str | None, Flag("Run to ask. Default: the newest.")] = None,
    task: Annotated[str, Flag("emotion, or of a language model reason.")] = "emotion",
    answers: Annotated[str, Flag("official (free text) or likelihood (of every label).")] = "official",
    transcript: Annotated[str | None, Flag("What is said in the one clip that is named.")] = None,
    dataset: Annotated[str | None, Flag("[data.NAME] that clips and lists are of; without clips, all of it.")] = None,
    cached: Annotated[bool, Flag("Never touch media or encoders.", "--cached")] = False,
    csv: Annotated[Path | None, Flag("Write all answers to this table, with every probability and valence.")] = None,
    device: Annotated[str, Flag("auto, cpu or cuda.")] = "auto",
    model: Annotated[str | None, Flag("Asked in place of a run: http://HOST/v1#NAME, hf:MODEL, replay:FILE.")] = None,
    recipe: Annotated[str | None, Flag("With --model: its questions. Default: zero-shot.")] = None,
    set_: Annotated[list[str] | None, Flag("key=value above that recipe; may be repeated.", "--set")] = None,
    retry_failed: Annotated[bool, Flag("With --model: ask again what failed for good.", "--retry-failed")] = False,
) -> Page:
    """Ask a trained run about clips, what they lack is extracted first; or ask any model that sees and hears."""
    from emo.featstore.datasets.lookup import find_clips

    words = _named_or_all(workspace, clips, dataset)
    if model is not None:
        from emo.train.asked import AskedModel, ask_recipe

        if run is not None or answers != "official":
            raise UsageError("--run and --answers are of a run, and --model asks none.", "Leave them out.")
        store = open_store(workspace.store_path) if has_store(workspace.store_path) else None
        asked = find_clips(workspace, words, transcript, store, dataset)
        given = ask_recipe(recipe, set_ or ())
        return _kept(AskedModel(workspace, ask, model, given, device, retry_failed, cached, say).page(asked, task), csv)
    if recipe is not None or set_ or retry_failed:
        raise UsageError("--recipe, --set and --retry-failed say how a model is asked.", "Add --model URL#NAME.")
    from emo.train.predictor import open_predictor

    predictor = open_predictor(workspace, run, device)
    asked = find_clips(workspace, words, transcript, predictor.store, dataset)
    predictor.check(answers, task, transcript)
    if not cached and (needs := predictor.needs(asked)):
        what = {"clips": needs.clips, "encoders": needs.encoders, "exactly": needs.keys, "profile": needs.profile}
        extract(**what, device=device)
    found = predictor.predict(asked, answers, task, keep=transcript is None)
    return _kept(predictor.page(asked, found, task), csv)


def _named_or_all(workspace: Workspace, clips: list[str] | None, dataset: str | None) -> list[str]:
    """Return the words that name clips; without any, the names of all clips of the dataset that is named.

    Raises:
        UsageError: Neither is given.
    """
    if clips:
        return clips
    if dataset is None:
        raise UsageError("No clip is named.", "Name clips, media files or a list; or --dataset NAME for all of it.")
    table = workspace.table(dataset)
    return [clip.id for clip in open_dataset(table.name, table).clips()]


def _kept(page: Page, path: Path | None) -> Page:
    """Write the answers of a page as a table too, where one is asked for."""
    if path is not None:
        write_atomic(path, answers_csv(page.value["answers"]))
    return page


def answers_csv(answers: Sequence[Mapping[str, Any]]) -> str:
    """Table of answers: name, answer, valence where there is one, `p_LABEL` of every label, and why there is none."""
    from emo.train.answers import SHARE, WHY

    labels = list(dict.fromkeys(label for each in answers for label in each.get("probabilities") or ()))
    columns = ["name", "answer", *(["valence"] if any("valence" in each for each in answers) else [])]
    rows = [[*columns, *(f"{SHARE}{label}" for label in labels), WHY]]
    for each in answers:
        shares = each.get("probabilities") or {}
        rows.append([*(each.get(key) for key in columns), *map(shares.get, labels), each.get("why")])
    return csv_text(rows)
