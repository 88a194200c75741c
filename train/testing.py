"""Contract tests of the plug-ins that `train` takes, for the tests of anybody who writes one; they need emo alone.

import pytest
from emo.train.testing import HEAD_CHECKS

@pytest.mark.parametrize("check", HEAD_CHECKS, ids=lambda check: check.__name__)
def test_my_head(check):
    check("my-head")  # its name in the entry-point group `emo.heads`, or its class

`check_metric`, `check_challenge` and `check_family` do the same for a metric, a challenge and a family of language
models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emo.featstore.errors import EmoError, ModelError, UsageError, WeightsMissing
from emo.featstore.page import Page, Table
from emo.train.answers import Prediction
from emo.train.challenges.base import Form, Track
from emo.train.challenges.forms import Sheet, dump, parse, problems
from emo.train.challenges.registry import challenge_named
from emo.train.features import Stream
from emo.train.heads.base import Epoch, Fold, Head, Outputs, Targets
from emo.train.metrics.base import Metric
from emo.train.metrics.registry import make_metric, metric_class
from emo.train.recipe import head_class

if TYPE_CHECKING:
    from emo.featstore.spec import EncoderSpec
    from emo.train.llm.family import Family
    from emo.train.llm.features import Features
    from emo.train.llm.model import TunedModel
    from emo.train.llm.tokenizer import Tokenizer

CLASSES = 3
TRAIN, VAL = np.arange(40), np.arange(40, 60)
HeadCheck = Callable[[str | type[Head]], None]


def sample_streams(dims: Sequence[int] = (6, 5), n: int = 60, sequence: bool = False) -> tuple[list[Stream], Targets]:
    """Make streams that tell the emotion of their clips, the same ones every time."""
    rng = np.random.default_rng(0)
    emotion = rng.integers(CLASSES, size=n)
    streams = []
    for k, dim in enumerate(dims):
        centre = rng.normal(size=(CLASSES, dim)) * 3
        lengths = rng.integers(1, 6, size=n) if sequence else np.ones(n, dtype=int)
        rows = (centre[np.repeat(emotion, lengths)] + rng.normal(size=(lengths.sum(), dim))).astype(np.float32)
        modality = ("audio", "text", "video")[k % 3]
        streams.append(Stream(f"s{k}", rows, np.cumsum([0, *lengths]) if sequence else None, modality))
    return streams, Targets(emotion, emotion - 1.0)


def build_head(
    head: str | type[Head],
    streams: Sequence[Stream],
    seed: int = 1,
    valence: bool = True,
    classes: int = CLASSES,
    **keys: Any,
) -> Head:
    """Make a head with its sample recipe; `keys` are recipe keys above it."""
    kind: type[Head] = head_class(head) if isinstance(head, str) else head
    recipe = kind.Recipe.model_validate({**kind.sample, **keys})
    shapes = [stream.shape for stream in streams]
    return kind(recipe, shapes, classes, valence and recipe.predicts_valence, "cpu", seed)


def train_head(head: Head, streams: Sequence[Stream], targets: Targets, rows: np.ndarray = TRAIN) -> list[Epoch]:
    """Train a head on some of the sample clips, with the last twenty for validation; return its epochs."""
    epochs: list[Epoch] = []
    measure = accuracy_of(targets)
    head.fit(head.prepare(streams, "cpu"), targets, rows, VAL, measure, epochs.append)
    return epochs


def accuracy_of(targets: Targets) -> Callable[[Outputs], float]:
    """Return the measure of outputs for the validation clips."""
    return lambda out: float((out.logits.argmax(axis=1) == targets.emotion[VAL]).mean())


def expect_refusal(error: type[EmoError], says: str, ask: Callable[[], object]) -> None:
    """Check that something is refused with a message in which `says` occurs."""
    message = None
    try:
        ask()
    except error as refused:
        message = str(refused)
    assert message is not None, f"no {error.__name__} that says {says!r}"
    assert says in message, f"the message {message!r} lacks {says!r}"


def streams_for(head: str | type[Head], dims: Sequence[int] = (6, 5)) -> tuple[list[Stream], Targets]:
    """Make sample streams that a head takes: frames where it reads nothing else."""
    return sample_streams(dims, sequence=_class(head).frames_only)


# ---- heads ----------------------------------------------------------------------------------------------------------


def learns_what_can_be_learned(name: str | type[Head]) -> None:
    """It tells the classes of clips that it has not seen, and its best epoch is the one that it keeps."""
    streams, targets = streams_for(name)
    head = build_head(name, streams)
    epochs = train_head(head, streams, targets)
    out = head.predict(head.prepare(streams, "cpu"), np.arange(60))
    assert (out.logits.argmax(axis=1) == targets.emotion).mean() > 0.9
    assert out.logits.shape == (60, CLASSES)
    assert out.logits.dtype == np.float64
    kept = (out.logits[VAL].argmax(axis=1) == targets.emotion[VAL]).mean()
    assert abs(max(epoch.metric for epoch in epochs) - kept) < 1e-6
    assert (out.valence is not None) == type(head).Recipe().predicts_valence


def takes_any_number_of_streams(name: str | type[Head]) -> None:
    """One stream, two or four."""
    for dims in ((4,), (4, 3), (2, 3, 4, 5)):
        streams, targets = streams_for(name, dims)
        head = build_head(name, streams)
        train_head(head, streams, targets)
        assert head.predict(head.prepare(streams, "cpu"), np.arange(3)).logits.shape == (3, CLASSES)


def answers_alike_alone_and_in_a_batch(name: str | type[Head]) -> None:
    """An answer does not depend on the other clips that are asked about; no clip is an answer too."""
    for sequence in (False, True):
        streams, targets = sample_streams(sequence=sequence)
        if not (_class(name).sequences if sequence else not _class(name).frames_only):
            continue
        head = build_head(name, streams)
        train_head(head, streams, targets)
        data = head.prepare(streams, "cpu")
        alone = np.concatenate([head.predict(data, np.array([i])).logits for i in range(8)])
        assert np.abs(alone - head.predict(data, np.arange(8)).logits).max() < 1e-5
        assert head.predict(data, np.arange(0)).logits.shape == (0, CLASSES)


def is_a_function_of_its_seed(name: str | type[Head]) -> None:
    """The same seed gives the same bits, and another seed does not, unless the head says that it is fixed."""
    streams, targets = streams_for(name)
    heads = [build_head(name, streams, seed) for seed in (1, 1, 2)]
    for head in heads:
        train_head(head, streams, targets)
    a, b, c = (head.state() for head in heads)
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert all(np.array_equal(a[key], c[key]) for key in a) == _class(name).fixed


def leaves_the_callers_random_state_alone(name: str | type[Head]) -> None:
    """Neither training nor answering draws from torch's or numpy's own generators."""
    streams, targets = streams_for(name)
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    head = build_head(name, streams)
    train_head(head, streams, targets)
    head.predict(head.prepare(streams, "cpu"), np.arange(3))
    assert torch.equal(before, torch.get_rng_state())
    assert numpy_before == np.random.get_state()[1].tolist()


def answers_finitely_without_a_class(name: str | type[Head]) -> None:
    """A fold without one class, or with a single one, still gives finite logits."""
    streams, targets = streams_for(name)
    for seen in ({0, 1}, {2}):
        rows = np.array([i for i in TRAIN if targets.emotion[i] in seen])
        head = build_head(name, streams)
        train_head(head, streams, targets, rows)
        out = head.predict(head.prepare(streams, "cpu"), rows)
        assert np.isfinite(out.logits).all()
        if _class(name).fixed:
            assert set(out.logits.argmax(axis=1).tolist()) == seen


def saves_and_loads_strictly(name: str | type[Head]) -> None:
    """`load` takes what `state` gives, bit by bit, and refuses anything that lacks a tensor or has one more."""
    streams, targets = streams_for(name)
    head, fresh = build_head(name, streams), build_head(name, streams, seed=9)
    train_head(head, streams, targets)
    fresh.load(head.state())
    data = head.prepare(streams, "cpu")
    assert np.array_equal(fresh.predict(data, np.arange(9)).logits, head.predict(data, np.arange(9)).logits)
    some = next(iter(head.state()))
    less = {key: array for key, array in head.state().items() if key != some}
    expect_refusal(ModelError, some, lambda: fresh.load(less))
    expect_refusal(ModelError, "stranger", lambda: fresh.load(head.state() | {"stranger": np.zeros(1)}))


def says_whether_it_takes_sequences(name: str | type[Head]) -> None:
    """Streams with several rows per clip are trained on or refused, as the class declares."""
    streams, targets = sample_streams(sequence=True)
    if _class(name).sequences:
        train_head(build_head(name, streams), streams, targets)
    else:
        expect_refusal(UsageError, "one row per clip", lambda: build_head(name, streams))
    if _class(name).frames_only:
        rows, _ = sample_streams()
        expect_refusal(UsageError, "reads frames", lambda: build_head(name, rows))


def searches_what_it_declares(name: str | type[Head]) -> None:
    """`searchable` names keys of its recipe, and a search can train it; or it says why there is none."""
    streams, targets = streams_for(name)
    kind = _class(name)
    strange = [key for key in getattr(kind.Recipe(), "search", {}) if key not in kind.Recipe.searchable]
    assert not strange, f"search names {strange}, which searchable does not"
    if (why := kind.why_not_searched(())) is not None:
        assert kind.name() in why
        return
    heads = [build_head(name, streams, seed) for seed in (1, 2)]
    told: list[Epoch] = []
    folds = [Fold(TRAIN, VAL, accuracy_of(targets), told.append) for _ in heads]
    best = kind.fit_all(heads, kind.prepare(streams, "cpu"), targets, folds, keep=False)
    assert all(epoch >= 1 for epoch in best)
    assert len(told) >= len(heads)


HEAD_CHECKS: tuple[HeadCheck, ...] = (
    learns_what_can_be_learned,
    takes_any_number_of_streams,
    answers_alike_alone_and_in_a_batch,
    is_a_function_of_its_seed,
    leaves_the_callers_random_state_alone,
    answers_finitely_without_a_class,
    saves_and_loads_strictly,
    says_whether_it_takes_sequences,
    searches_what_it_declares,
)


def _class(name: str | type[Head]) -> type[Head]:
    return head_class(name) if isinstance(name, str) else name


# ---- metrics --------------------------------------------------------------------------------------------------------

NOTE = "A sentence that must stand beside the number."


def check_metric(name: str, folder: Path) -> None:
    """Check that a metric keeps its contract.

    Args:
        name: Its name in the registry, or of its entry point.
        folder: An empty folder for its small files.

    Raises:
        AssertionError: It does not.
    """
    chosen = metric_class(name)
    assert issubclass(chosen, Metric), f"{name} is no Metric"
    assert chosen.name == name, f"{name} calls itself {chosen.name}"
    assert chosen.about, f"{name} does not say what it is"
    for each, option in chosen.options().items():
        assert option.about, f"option {each} of {name} does not say what it is"
    sample = chosen.sample(folder)
    _refuses(lambda: make_metric(name, {**sample.options, "no_such_option": 1}), f"{name} takes any option")
    metric = make_metric(name, sample.options)

    truth = metric.truth(sample.truth)
    assert set(truth) == set(sample.answers), f"{name}: the sample's answers are not of the clips of its truth"
    assert len(truth) >= 3, f"{name}: the sample needs three clips"
    page = _page(metric, truth, sample.answers)
    assert page == _page(metric, truth, sample.answers), f"{name} gives two pages of the same answers"
    assert page.value["n"] == len(truth), f"{name} does not count its clips"
    assert metric.scored(truth, sample.answers) == list(truth), f"{name} does not name the clips that it scores"
    assert (page.value["missing"], page.value["extra"]) == (0, 0), f"{name} counts missing and extra clips wrongly"
    _check_missing(metric, truth, sample.answers)
    _check_files(metric, truth, sample.answers, folder)


def _page(
    metric: Metric, truth: Mapping[str, Any], said: Mapping[str, Prediction], allow_missing: bool = False
) -> Page:
    page = metric.page(metric.score(truth, said, allow_missing), "Sample", [NOTE])
    json.dumps(page.value, allow_nan=False)
    assert page.verdict, f"{metric.name} has no verdict"
    assert page.value["notes"][0] == NOTE, f"{metric.name} drops notes from its value"
    assert NOTE in page.parts, f"{metric.name} drops notes from its page"
    assert any(isinstance(part, Table) and "Sample" in part.title for part in page.parts), "no table has the title"
    return page


def _check_missing(metric: Metric, truth: Mapping[str, Any], said: Mapping[str, Prediction]) -> None:
    """Missing answers are refused or counted, those of other clips counted and ignored."""
    name = metric.name
    first, *rest = said
    fewer = {each: said[each] for each in rest}
    _refuses(lambda: metric.score(truth, fewer), f"{name} does without answers that it was not allowed to do without")
    _refuses(lambda: metric.score(truth, {"of another clip": said[first]}, True), f"{name} scores no clip at all")
    _refuses(lambda: metric.score({}, said), f"{name} scores against no truth")
    page = _page(metric, truth, fewer, allow_missing=True)
    assert (page.value["n"], page.value["missing"]) == (len(rest), 1), f"{name} does not count missing answers"
    page = _page(metric, truth, {**said, "of another clip": said[first]})
    assert (page.value["n"], page.value["extra"]) == (len(said), 1), f"{name} does not count answers of other clips"


def _check_files(metric: Metric, truth: Mapping[str, Any], said: Mapping[str, Prediction], folder: Path) -> None:
    """Answers are read from the column of answers, and what cannot be read is an error of one sentence."""
    rows = [{"name": name, "label": "x", "prediction": each.answer} for name, each in said.items()]
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = metric.read(path)
    assert {name: each.answer for name, each in found.said.items()} == {n: each.answer for n, each in said.items()}
    assert "prediction" in " ".join(found.told), f"{metric.name} does not say which column it has read"
    assert _page(metric, truth, found.said).value["n"] == len(said)
    for read in (metric.read, metric.truth):
        _refuses(lambda read=read: read(folder / "absent.csv"), f"{metric.name} reads a file that is not there")
        for suffix in (".csv", ".jsonl", ".json", ".npz"):
            junk = folder / f"junk{suffix}"
            junk.write_bytes(b"\xff\x00junk\n,,\n")
            _refuses(lambda read=read, junk=junk: read(junk), f"{metric.name} reads junk{suffix}")


def _refuses(call: Callable[[], object], otherwise: str) -> None:
    try:
        call()
    except UsageError:
        return
    raise AssertionError(otherwise)


# ---- challenges -----------------------------------------------------------------------------------------------------


def check_challenge(name: str) -> None:
    """Check that a challenge keeps its contract.

    Args:
        name: Its name in the registry, or of its entry point.

    Raises:
        AssertionError: It does not.
    """
    challenge = challenge_named(name)
    assert challenge.name == name, f"{name} calls itself {challenge.name}"
    assert challenge.about, f"{name} does not say what it is"
    assert challenge.tracks, f"{name} has no track"
    names = [word for track in challenge.tracks for word in (track.name, *track.also)] + list(challenge.left_out)
    assert len(names) == len(set(names)), f"{name} has two tracks of one name"
    assert all(word == word.lower() for word in names), f"{name} has a name that nobody can type"
    for track in challenge.tracks:
        assert challenge.track(track.name.upper()) is track
        assert track.source, f"{name} {track.name} does not say where its form is published"
        assert track.clips or track.split, f"{name} {track.name} does not say which clips it wants"
        for form in track.forms:
            assert track.form(Path(form.file)) is form, f"{form.file} is not read as what it is"
            _check_form(track, form)
    for word in challenge.left_out:
        expect_refusal(UsageError, challenge.left_out[word], lambda word=word: challenge.track(word))


def _check_form(track: Track, form: Form) -> None:
    """A whole submission is read back as it was written; every kind of fault is found."""
    where, header = f"{track.name}, {form.kind}", track.header()
    clips = [(name, *(f"{name}, {each}" for each in track.carried)) for name in ("a", "b", "c, d")]
    rows = [(clip[0], [*clip, *(column.example() for column in track.columns)]) for clip in clips]

    def found(rows: Sequence[tuple[str, list[str]]], header: Sequence[str] = header) -> set[str]:
        data = dump(Sheet(list(header), list(rows)), form)
        sheet = parse(data, form, track, form.file)
        assert (sheet.header, [cells for _, cells in sheet.rows]) == (list(header), [cells for _, cells in rows]), where
        assert dump(sheet, form) == data, f"{where} writes the same table in two ways"
        return {each.kind for each in problems(track, sheet, clips)}

    assert not found(rows), f"{where}: something is wrong with what is right"
    assert found(rows[1:]) == {"missing"}, where
    assert found([*rows, ("z", ["z", *rows[0][1][1:]])]) == (set() if track.more else {"extra"}), where
    assert found([*rows, rows[0]]) == {"duplicate"}, where
    for place, column in enumerate(track.columns, 1 + len(track.carried)):
        for text in column.wrong_ones:
            changed = [*rows[0][1]]
            changed[place] = text
            assert found([("a", changed), *rows[1:]]) == {"value"}, f"{where} takes {text!r} for {column.name}"
        if form.kind != "npz":
            less = [(name, cells[:place] + cells[place + 1 :]) for name, cells in rows]
            lacks = found(less, header[:place] + header[place + 1 :])
            assert lacks == (set() if column.optional else {"column"}), f"{where} without {column.name}"


# ---- families of language models ------------------------------------------------------------------------------------

WORDS, SAID, ANSWER = "Which emotion is this?", "I am fine.", "He smiles, and he is happy"
TURNS = "{% for turn in messages %}<s>{{ turn.content }}{% endfor %}"  # a chat template, for layouts that ask for one


def check_family(family: str | Family, folder: Path, rows: int = 9) -> None:
    """Check that a family of language models keeps its contract, on a tiny language model and a small store.

    Args:
        family: Its name in the registry or of its entry point, or the family.
        folder: An empty folder for the store and checkpoints.
        rows: Rows of the sample features of several rows; a number that the family can take.

    Raises:
        AssertionError: It does not.
    """
    from emo.train.recipe import family_named

    chosen = family_named(family) if isinstance(family, str) else family
    asked = {"prompts": {"emotion": [WORDS]}, "data": {"emotion": ["clips"]}}
    recipe = chosen.Recipe.model_validate({"family": chosen.name, **asked})
    features = _family_features(chosen, recipe, folder, rows)
    model = _family_model(chosen, recipe, features.specs)
    tensors = tuple(torch.from_numpy(np.asarray(each)) for each in features.batch(features.names))
    _check_trainable(chosen, recipe, features.specs, tensors, model)
    for layout in chosen.layouts:
        _check_prompts(chosen, recipe, layout, model)
        _check_answers(chosen, recipe, layout, model, tensors)
    expect_refusal(UsageError, "no-layout", lambda: chosen.prompt(recipe, WORDS, model.tokenizer, "no-layout"))
    _check_official(chosen, recipe, features.specs, folder)


def _family_features(family: Family, recipe: Any, folder: Path, rows: int) -> Features:
    """Check what the family declares, and return what it wants, from a store of two clips."""
    from emo.featstore.sources.hub import Source
    from emo.featstore.spec import EncoderSpec
    from emo.featstore.storage.store import open_store
    from emo.train.llm.features import Features

    assert recipe.layout in family.layouts, f"the usual layout {recipe.layout} is not among the layouts"
    assert family.official_layout in family.layouts, f"the official layout {family.official_layout} is unknown"
    assert all(isinstance(each, Source) and (each.where or each.ask) for each in family.weights.values()), (
        "weights are no Sources that say where they are"
    )
    strange = sorted(set(family.settings.values()) - set(family.Recipe.model_fields))
    assert not strange, f"settings name {strange}, which are no keys of the recipe"
    wanted = family.wanted(recipe)
    assert wanted == family.wanted(recipe), "wanted() names other features when asked again"
    assert all(each.role and each.name for each in wanted), "a wanted feature has no role or name"
    assert all(each.level in ("utt", "frame", "tokens") for each in wanted), "a wanted feature has no level"
    rng = np.random.default_rng(0)
    with open_store(folder / "features.emo", create=True).writer() as writer:
        clips = {"a": "0" * 32, "b": "1" * 32}
        for clip, media in clips.items():
            writer.clip(clip, media)
        for i, each in enumerate(wanted):
            high = 1 if each.level == "utt" else rows
            spec = EncoderSpec(each.name, "any", "face", each.level, 6 + i, high, "tiny", "seed:0")
            for media in clips.values():
                writer.add(spec, media, rng.normal(size=(high, spec.dim)).astype(np.float32))
    return Features(open_store(folder / "features.emo"), wanted, list(clips), "error")


def _family_model(family: Family, recipe: Any, specs: Sequence[EncoderSpec], seed: int = 0) -> TunedModel:
    """Make the family's model on a tiny language model, and check that all of the latter is frozen."""
    from emo.train.llm.build import build
    from emo.train.llm.model import LoraArgs

    given: list[torch.nn.Parameter] = []

    def make(llm: Any, tokenizer: Tokenizer, source: str) -> TunedModel:
        given.extend(llm.parameters())
        tokenizer.chat_template = TURNS
        return family.assemble(recipe, llm, tokenizer, specs, LoraArgs(r=4, alpha=8, dropout=0.0), source, seed)

    model = build(make, None, profile="tiny", seed=seed)
    assert not any(each.requires_grad for each in given), "the language model is not frozen"
    return model


def _check_trainable(
    family: Family, recipe: Any, specs: Sequence[EncoderSpec], tensors: tuple[torch.Tensor, ...], model: TunedModel
) -> None:
    """Adapters and projections learn, from every feature, as the seed says; sizes that cannot be are refused."""
    learned = dict(model.named_parameters())
    learned = {name: each for name, each in learned.items() if each.requires_grad}
    strange = [name for name in learned if name.startswith("llama_model.") and "lora_" not in name]
    assert not strange, f"{strange} of the language model are no adapters and trainable"
    assert any("lora_" in name for name in learned), "no adapter is trainable"
    assert all(each.dtype == torch.float32 for each in learned.values()), "something trainable is not float32"
    json.dumps(model.build(), allow_nan=False)
    again, other = (dict(_family_model(family, recipe, specs, seed).named_parameters()) for seed in (0, 1))
    assert all(torch.equal(each, again[name]) for name, each in learned.items()), "one seed gives two models"
    assert not all(torch.equal(each, other[name]) for name, each in learned.items()), "the seed draws nothing"
    if not specs:
        return
    with torch.no_grad():
        before = model.condition(tensors)
        assert before.shape[:2] == (2, model.rows), "the conditioning has not the rows that the model says"
        for i, spec in enumerate(specs):
            moved = (*tensors[:i], tensors[i] + 1, *tensors[i + 1 :])
            assert not torch.equal(before, model.condition(moved)), f"{spec.name} is wanted and not read"
            varying = [*specs[:i], replace(spec, level="frame", rows=None), *specs[i + 1 :]]
            expect_refusal(ModelError, "", lambda varying=varying: _family_model(family, recipe, varying))
            wide = (*tensors[:i], torch.cat([tensors[i]] * 2, -1), *tensors[i + 1 :])
            expect_refusal(ModelError, "", lambda wide=wide: model.check(2, wide))


def _check_prompts(family: Family, recipe: Any, layout: str, model: TunedModel) -> None:
    """A prompt has the words, and every row of the conditioning once and in order."""
    from emo.train.llm.recipe import TASKS

    for task in TASKS:
        words = family.instruction(recipe, task, WORDS, SAID)
        prompt = family.prompt(recipe, words, model.tokenizer, layout)
        where = f"layout {layout}, task {task}"
        assert prompt == family.prompt(recipe, words, model.tokenizer, layout), f"{where}: two prompts of one text"
        assert prompt.layout == layout, f"{where}: the prompt says {prompt.layout}"
        ids = [each for part in prompt.segments if not isinstance(part, str) for each in part]
        assert all(0 <= each < model.tokenizer.vocab_size for each in ids), f"{where}: ids that the tokenizer has not"
        text = model.tokenizer.decode(ids)
        assert WORDS in text, f"{where}: the prompt drops the instruction"
        assert SAID in text, f"{where}: the prompt drops what is said"
        rows = [row for slot in prompt.slots for row in model.slot(slot)]
        expected = list(range(model.rows)) if family.wanted(recipe) else []
        assert rows == expected, f"{where}: the slots {prompt.slots} do not take every feature once and in order"


def _check_answers(
    family: Family, recipe: Any, layout: str, model: TunedModel, tensors: tuple[torch.Tensor, ...]
) -> None:
    """An answer ends, alone is learned, comes back as the text that it was, and reaches all that is trainable."""
    from emo.train.llm.recipe import TASKS

    prompt = family.prompt(recipe, family.instruction(recipe, TASKS[0], WORDS, SAID), model.tokenizer, layout)
    state = torch.get_rng_state()
    answer = family.clean_answer(ANSWER, TASKS[1])
    ids = family.answer_ids(recipe, answer, model.tokenizer)
    kept = list(ids)
    text = family.answer_text(ids, model.tokenizer)
    assert answer == family.clean_answer(ANSWER, TASKS[1]), "clean_answer gives two answers for one"
    assert ids == kept, "answer_text changes the ids that it is given"
    assert text == family.answer_text(ids, model.tokenizer), "answer_text gives two texts for one answer"
    assert torch.equal(state, torch.get_rng_state()), "an answer draws random numbers"
    assert text == answer, f"the answer {answer!r} comes back as {text!r}"
    assert any(tuple(ids[-len(stop) :]) == stop for stop in model.stops), "answer_ids has no end of the answer"
    batch = model.collate([prompt] * 2, [ids] * 2, tensors)
    for labels in batch.labels:
        where = torch.nonzero(labels != -100).flatten()
        assert labels[where].tolist() == ids, f"layout {layout}: something else than the answer is supervised"
        assert where[-1] - where[0] + 1 == len(ids), f"layout {layout}: what is supervised is not in one piece"
    model.zero_grad()
    loss, supervised = model.loss(batch)
    assert supervised == 2 * len(ids), "the loss is not over the answers"
    loss.backward()
    dead = [name for name, each in model.trainable() if each.grad is None]
    assert not dead, f"layout {layout}: the loss does not reach {dead}"


def _check_official(family: Family, recipe: Any, specs: Sequence[EncoderSpec], folder: Path) -> None:
    """An official checkpoint gives equal tensors back; one that is damaged, foreign or absent changes nothing."""
    model, fresh = _family_model(family, recipe, specs), _family_model(family, recipe, specs, seed=9)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, each in model.trainable():
            each.copy_(torch.randn(each.shape, generator=generator))
    whole, cut, foreign = (folder / f"{name}.pth" for name in ("whole", "cut", "foreign"))
    family.export_official(model, recipe, whole)
    cut.write_bytes(whole.read_bytes()[:-200])
    torch.save({"model": {"stranger": torch.zeros(2)}}, foreign)
    before = {name: each.detach().clone() for name, each in fresh.trainable()}
    for error, path in ((ModelError, cut), (ModelError, foreign), (WeightsMissing, folder / "absent.pth")):
        expect_refusal(error, path.name, lambda path=path: family.import_official(path, fresh))
    assert all(torch.equal(before[name], each) for name, each in fresh.trainable()), "a refused file is loaded in part"
    report = family.import_official(whole, fresh)
    assert not report.missing, f"its own export lacks {report.missing}"
    there = dict(model.trainable())
    lost = [name for name, each in fresh.trainable() if not torch.equal(each, there[name])]
    assert not lost, f"official checkpoints lose {lost}"
