"""`emo submit`: predictions in, a file in the organisers' form out; or such a file held against that form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.datasets import find_labels, open_dataset
from emo.featstore.datasets.lookup import listed_names, named_clips
from emo.featstore.datasets.tables import normal_name, read_table, without_suffix
from emo.featstore.errors import UsageError
from emo.featstore.files import write_atomic
from emo.featstore.page import Flag, Page, Table
from emo.featstore.text import counted, some_of
from emo.featstore.workspace import Workspace, find_workspace, load_workspace
from emo.train.answers import ANSWER_COLUMNS, NAMES, Prediction
from emo.train.challenges.base import Challenge, Form, Key, Said, Track
from emo.train.challenges.forms import Problem, Sheet, dump, load, parse, problems, remarks
from emo.train.challenges.registry import all_challenges, challenge_named, challenge_names
from emo.train.metrics.labels import POLICIES
from emo.train.metrics.seen import own_datasets
from emo.train.predictor import open_predictor

Say = Callable[[str], None]
WRONG = 2  # exit code: the file that is checked is not what is wanted


@dataclass(frozen=True)
class SubmitArgs:
    """The flags of `emo submit`, by their names; see `submit_command`."""

    challenge: str
    track: str
    run: str | None = None
    predictions: Path | None = None
    column: str | None = None
    answers: str = "strict"
    candidates: str | None = None
    dataset: str | None = None
    split: str | None = None
    out: Path | None = None
    check: Path | None = None


@dataclass(frozen=True)
class Clips:
    """The clips that a submission is to hold: a list, in its order, and where it is from."""

    keys: tuple[Key, ...]
    source: str


@dataclass(frozen=True)
class Given:
    """Predictions by clip, and what must be said about them."""

    said: dict[Key, Prediction]
    notes: list[str] = field(default_factory=list)


def submit_command(
    say: Say,
    challenge: Annotated[str | None, Flag("mer2023, mer2024, mer2025 or mer2026. Without it: list all tracks.")] = None,
    track: Annotated[str | None, Flag("Its track, by the organisers' name or number.")] = None,
    run: Annotated[str | None, Flag("Run that answers. Default: the newest.")] = None,
    predictions: Annotated[Path | None, Flag("A file of predictions in place of a run: csv, jsonl, json, npz.")] = None,
    column: Annotated[str | None, Flag("Its column of answers, where several may be meant.")] = None,
    answers: Annotated[str, Flag("How answers become labels: strict, official, nearest, likelihood.")] = "strict",
    candidates: Annotated[str | None, Flag("The organisers' list of clips to predict.")] = None,
    dataset: Annotated[str | None, Flag("The [data.NAME] table that has this list, or a split of these clips.")] = None,
    split: Annotated[str | None, Flag("The split, where it is not the track's own.")] = None,
    out: Annotated[Path | None, Flag("File to write; its ending chooses among the track's forms.")] = None,
    check: Annotated[Path | None, Flag("Say what is wrong with this file, and write nothing.")] = None,
) -> Page:
    """Write what a track of a challenge is handed in as, or check such a file.

    Raises:
        UsageError: Flags that do not go together, no such track, or predictions that make no whole submission: nothing
            is written then.
        EmoError: As the run that is asked.
    """
    if challenge is None:
        if any(each is not None for each in (track, run, predictions, candidates, dataset, split, out, check)):
            raise UsageError("--challenge is missing.", f"Challenges: {', '.join(challenge_names())}.")
        return tracks_page()
    if track is None:
        tracks = ", ".join(each.name for each in challenge_named(challenge).tracks)
        raise UsageError("--track is missing.", f"Tracks of {challenge}: {tracks}.")
    return submitted_page(
        SubmitArgs(challenge, track, run, predictions, column, answers, candidates, dataset, split, out, check), say
    )


def tracks_page() -> Page:
    """List the tracks of all challenges: what they are handed in as, where that is published, what is not."""
    found, broken = all_challenges()
    rows = [
        (
            " ".join((each.name, track.name)),
            ", ".join(form.file for form in track.forms),
            ",".join(track.header()),
            "stated" if not track.doubts else "in part",
        )
        for each in found
        for track in each.tracks
    ]
    value = [_told(each, track) for each in found for track in each.tracks]
    left = [
        f"{each.name} {'/'.join(each.left_out)}: {next(iter(each.left_out.values()))}"
        for each in found
        if each.left_out
    ]
    columns = ("challenge and track", "files", "columns", "published")
    doubts = [f"{each.name} {track.name}: {doubt}" for each in found for track in each.tracks for doubt in track.doubts]
    return Page(value, [Table("Tracks", columns, rows), *doubts, *(f"Not written: {each}" for each in left), *broken])


def _told(challenge: Challenge, track: Track) -> dict[str, Any]:
    return {
        "challenge": challenge.name,
        "track": track.name,
        "files": [form.file for form in track.forms],
        "columns": track.header(),
        "source": track.source,
        "doubts": list(track.doubts),
    }


def submitted_page(args: SubmitArgs, say: Say) -> Page:
    """Write a submission, or check one.

    Args:
        args: See `submit_command`.
        say: Gets a sentence now and then.

    Raises:
        UsageError, EmoError: As `submit_command`.
    """
    challenge = challenge_named(args.challenge)
    track = challenge.track(args.track)
    _consistent(args)
    if args.check is not None:
        clips = _clips(args, challenge, track, needed=False)
        return _checked(challenge, track, args.check, clips)
    path = args.out or Path(track.forms[0].file)
    form = track.form(path)
    if path.exists():
        raise UsageError(f"{path} exists.", "Remove it, or name another: --out FILE.")
    clips = _clips(args, challenge, track)
    assert clips is not None
    given = _given(args, track, clips, say)
    sheet = _sheet(track, clips, given.said, args.answers)
    wrong = problems(track, sheet, clips.keys)
    data = dump(sheet, form)
    wrong = wrong or problems(track, parse(data, form, track, path.name), clips.keys)
    if wrong:
        raise UsageError(f"{path} is not written. {' '.join(each.sentence for each in wrong)}", _hint(args, wrong))
    write_atomic(path, data)
    guessed = [told for each in track.columns if (told := each.guessed(given.said, args.answers))]
    notes = [*given.notes, *guessed, *remarks(track, form, path, sheet, clips.keys), f"Clips: {clips.source}."]
    verdict = f"{path}: {len(sheet.rows):,} rows for track {track.name} of {challenge.name}."
    return _page(challenge, track, form, path, sheet, notes, verdict)


def _consistent(args: SubmitArgs) -> None:
    if args.answers not in POLICIES:
        raise UsageError(f"Unknown answer policy {args.answers!r}.", f"Policies: {', '.join(POLICIES)}.")
    if args.run is not None and args.predictions is not None:
        raise UsageError("--run and --predictions do not go together.", "Give one of them.")
    if args.candidates is not None and args.split is not None:
        raise UsageError("--candidates and --split do not go together.", "Give one of them.")
    if args.column is not None and args.predictions is None:
        raise UsageError("--column is of a file of predictions, and none is given.", "Add --predictions FILE.")
    if args.check is not None and (args.run or args.predictions or args.out):
        raise UsageError("--check reads a file that is there already.", "Leave --run, --predictions and --out out.")


def _hint(args: SubmitArgs, wrong: Sequence[Problem]) -> str:
    if not any(each.kind == "missing" for each in wrong):
        return "Correct the predictions."
    if args.predictions is not None:
        return "Do the names agree with the list? Every clip of it needs a prediction."
    return "A run predicts clips whose features are in the store: emo extract."


# ---- which clips -----------------------------------------------------------------------------------------------------


def _clips(args: SubmitArgs, challenge: Challenge, track: Track, needed: bool = True) -> Clips | None:
    """The clips that are to be in the file: of a list, of the track's list in a dataset, or of a split."""
    if args.candidates is not None:
        return Clips(_listed(args.candidates, args.dataset, track), args.candidates)
    if not needed and args.dataset is None and args.split is None:
        return None
    try:
        workspace = load_workspace(find_workspace())
    except UsageError as error:
        how = "Give --candidates FILE, the organisers' list."
        raise UsageError(f"Which clips are to be predicted is not said: {error.message}", how) from error
    table = workspace.table(args.dataset or _usual(workspace, challenge, track))
    source = open_dataset(table.name, table)
    if args.split is None and track.clips and (file := source.find_file(track.clips)) is not None:
        return Clips(_listed(str(file), None, track), str(file))
    wanted = source.find_split(args.split or track.split)
    keys = tuple(
        (clip.id, *(clip.annotations.get(each, "") for each in track.carried))
        for clip in source.clips()
        if clip.split == wanted
    )
    if not keys:
        raise UsageError(f"{table.name} has no clip of split {wanted}.", "Give --candidates FILE.")
    return Clips(keys, f"split {wanted} of {table.name}")


def _usual(workspace: Workspace, challenge: Challenge, track: Track) -> str:
    found = [name for name, table in workspace.data.items() if (table.kind or name) in challenge.datasets]
    if len(found) == 1:
        return found[0]
    have = f"{', '.join(found)} are" if found else f"no dataset is of kind {' or '.join(challenge.datasets)}"
    raise UsageError(
        f"Which clips track {track.name} wants is not said: in this workspace {have}.",
        "Give --candidates FILE, the organisers' list, or --dataset NAME.",
    )


def _listed(word: str, dataset: str | None, track: Track) -> tuple[Key, ...]:
    if not track.carried:
        return tuple((name,) for name in listed_names(word, dataset))
    path = find_labels(word, dataset=dataset)
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"{path} is no csv with {', '.join(track.carried)}.", "Give the organisers' list.")
    rows = read_table(path, [NAMES, *track.carried])
    keys = [(normal_name(row.fields["name"]), *(row.fields[each] for each in track.carried)) for row in rows]
    return tuple(dict.fromkeys(keys))


# ---- which predictions -----------------------------------------------------------------------------------------------


def _given(args: SubmitArgs, track: Track, clips: Clips, say: Say) -> Given:
    if args.predictions is not None:
        return _of_file(args.predictions, args.column, track, clips)
    if track.carried:
        what = f"Track {track.name} is about rows with {' and '.join(track.carried)}, which no run is asked about"
        raise UsageError(f"{what}.", "Give --predictions FILE.")
    workspace = load_workspace(find_workspace())
    predictor = open_predictor(workspace, args.run)
    predictor.check(args.answers, track.main.task)
    names = [key[0] for key in clips.keys]
    asked = named_clips(workspace, names, [args.dataset] if args.dataset else own_datasets(workspace, predictor.run))
    said = predictor.predict(asked, args.answers, track.main.task)
    say(f"run {predictor.run.name}: answers for {len(said):,} of {len(names):,} clips")
    if told := predictor.tell_missing(names, said):
        say(told)
    answered = [clip for clip in asked if clip.id in said]
    trained = predictor.trained_among(answered)
    notes = [*predictor.notes(args.answers, answered), trained.verdict([clip.id for clip in answered])]
    return Given({(name,): each for name, each in said.items()}, [f"Answers of run {predictor.run.name}.", *notes])


def _of_file(path: Path, column: str | None, track: Track, clips: Clips) -> Given:
    if track.carried:
        found = _pairs(path, column, track)
        names = Counter(key[0] for key in clips.keys if key not in found and key[:1] in found)
        if twice := [name for name, count in names.items() if count > 1]:
            raise UsageError(
                f"{path} answers by name, and {some_of(twice, 3)} have several rows in the list.",
                f"Add the columns {' and '.join(track.carried)}, which tell rows apart.",
            )
        said = {key: each for key in clips.keys if (each := found.get(key) or found.get(key[:1])) is not None}
        return Given(said, [f"Answers were read from {path.name}."])
    answers = track.main.read(path, column)
    by_name = {name: answers.said.get(name) or answers.said.get(without_suffix(name)) for (name,) in clips.keys}
    said = {(name,): each for name, each in by_name.items() if each is not None}
    plain = Counter(without_suffix(name) for (name,) in said if name not in answers.said)
    if twice := [name for name, count in plain.items() if count > 1]:
        raise UsageError(
            f"{path} has one answer for {some_of(twice, 3)}, and the list has files of this name with several endings.",
            "Name the files with their endings in the predictions.",
        )
    beside = len(answers.said) - len(said)
    are = counted(beside, "prediction is for a clip", "predictions are for clips")
    more = [f"{are} outside of the list, and left out."] if beside > 0 else []
    return Given(said, [*answers.told, *more])


def _pairs(path: Path, column: str | None, track: Track) -> dict[Key, Prediction]:
    """Predictions about rows of a list, by the columns that tell them apart, or by name where the file lacks those."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"Predictions cannot be read from {path}.", "Use a .csv or .jsonl file.")
    answer = (column,) if column else (track.main.name, *ANSWER_COLUMNS)
    found: dict[Key, Prediction] = {}
    for row in read_table(path, [NAMES, answer], track.carried):
        carried = [row.fields[each] for each in track.carried if each in row.fields]
        key = (normal_name(row.fields["name"]), *(carried if len(carried) == len(track.carried) else ()))
        said = Prediction(row.fields[answer[0]])
        if found.setdefault(key, said) != said:
            what = f"{path} line {row.line} gives {key[0]} another answer than before."
            raise UsageError(what, f"Add the columns {' and '.join(track.carried)}, which tell rows apart.")
    return found


# ---- the file --------------------------------------------------------------------------------------------------------


def _sheet(track: Track, clips: Clips, said: Said, policy: str) -> Sheet:
    """The table of a submission, in the order of the list; clips without a prediction have no row.

    Raises:
        UsageError: A prediction gives no value for a column that is needed.
    """
    there = {key: said[key] for key in clips.keys if key in said}
    values = {column.name: column.values(there, policy) for column in track.columns}
    lacking = {name: [key for key, value in each.items() if value is None] for name, each in values.items()}
    without = [column.name for column in track.columns if column.optional and lacking[column.name]]
    for column in track.columns:
        if (silent := lacking[column.name]) and not column.optional:
            some = "; ".join(f"{key[0]}: {there[key].answer[:60]!r}" for key in silent[:3])
            raise UsageError(
                f"{len(silent):,} of {len(there):,} predictions give no {column.name}: {some}.", column.help(policy)
            )
    header = track.header(without)
    rows = [(key[0], [*key, *(str(values[name][key]) for name in header[len(key) :])]) for key in there]
    return Sheet(header, rows)


def _checked(challenge: Challenge, track: Track, path: Path, clips: Clips | None) -> Page:
    form = track.form(path)
    sheet = load(path, form, track)
    keys = None if clips is None else clips.keys
    wrong = problems(track, sheet, keys)
    notes = remarks(track, form, path, sheet, keys)
    if clips is None:
        number = "only their number was held against the published one" if track.rows else "no list was given"
        notes.append(f"Whether all clips are there was not checked, {number}: --candidates FILE.")
    else:
        notes.append(f"Clips: {clips.source}.")
    what = f"a submission for track {track.name} of {challenge.name}"
    counted = f"{len(wrong)} problem{'s' if len(wrong) > 1 else ''}"
    verdict = f"{path} is not {what}: {counted}." if wrong else f"{path} is {what}: {len(sheet.rows):,} rows."
    return _page(challenge, track, form, path, sheet, notes, verdict, wrong)


def _page(
    challenge: Challenge,
    track: Track,
    form: Form,
    path: Path,
    sheet: Sheet,
    notes: Sequence[str],
    verdict: str,
    wrong: Sequence[Problem] = (),
) -> Page:
    value: Mapping[str, Any] = {
        **_told(challenge, track),
        "file": str(path),
        "form": form.kind,
        "rows": len(sheet.rows),
        "problems": list(wrong),
        "notes": list(notes),
    }
    rows = [(each.kind, each.count, each.sentence) for each in wrong]
    table = [Table("Problems", ("kind", "places", "what"), rows, ("places",))] if rows else []
    return Page(value, [*table, *notes], verdict, WRONG if wrong else 0)
