"""The contract of an encoder as code: a package runs it over its own encoders with the wheel alone.

    import pytest
    from emo.extract.testing import CONTRACT
    from package.module import Smile

    @pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
    def test_contract(promise):
        promise(Smile)

Every promise is a function of the encoder's class. It uses profile `tiny` on the CPU and `Encoder.sample` as input, and
raises `AssertionError` with a sentence where the promise is broken.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emo.extract.compare.variants import variants_of
from emo.extract.encoders.base import ClipInputs, Decoded, Encoder, Output, Prepared
from emo.extract.run.executor import Executor
from emo.extract.run.plan import Job
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.spec import LEVELS, EncoderSpec
from emo.featstore.storage.store import Store

INVARIANCE = 1e-5  # largest difference over largest value, in float32 on the CPU
HALF = 0.05  # likewise, of bfloat16 against float32
RATE_OF_SOUND = 44_100  # of the sound that variants resample
# Public plain attributes of a class that change no number; every other one is a constant of the recipe.
NO_CONSTANTS = {"name", "needs", "ignore", "prefixes", "learned", "extra", "also", "beside"}
KINDS = {
    "audio": "no-audio",
    "faces": "no-face",
    "points": "no-face",
    "frame": "no-frame",
    "frames": "no-frame",
    "text": "no-text",
}

Promise = Callable[[type[Encoder]], None]


def _must(fine: bool, sentence: str) -> None:
    if not fine:
        raise AssertionError(sentence)


def difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference of two features over the largest value of the second; infinite where the shapes differ."""
    return float(np.abs(a - b).max() / np.abs(b).max()) if a.shape == b.shape else float("inf")


def _item(encoder: Encoder, size: int) -> Prepared:
    return encoder.prepare(encoder.sample(size, seed=size))


def _same(encoder: Encoder, one: Mapping[str, Output], other: Mapping[str, Output], when: str) -> None:
    for level in encoder.levels:
        apart = difference(one[level].array, other[level].array)
        _must(apart < INVARIANCE, f"{encoder.name}, level {level}: {apart:.2g} apart {when}")


# ---- what it declares, and its identity ------------------------------------------------------------------------------


def it_declares_what_the_house_asks(kind: type[Encoder]) -> None:
    """Names by level, a kind of input, a budget, and of weights what they are."""
    _must(
        set(kind.names) <= set(LEVELS) and bool(kind.names), f"levels are {', '.join(LEVELS)}, not {list(kind.names)}"
    )
    _must(kind.name in kind.names.values(), f"{kind.name} is not the name of one of its levels: {kind.names}")
    _must(kind.needs in KINDS, f"needs is one of {', '.join(KINDS)}, not {kind.needs!r}")
    _must(kind.budget.get("cpu", 0) > 0, "budget says what one batch may cost on `cpu`")
    _must(bool(kind.source.about) or not kind.learned, "source.about says what the weights are")


def its_spec_is_plain_and_of_every_level(kind: type[Encoder]) -> None:
    """Every spec survives JSON; a level that it does not have is refused."""
    encoder = kind(profile="tiny")
    for level in encoder.levels:
        spec = encoder.spec(level)
        _must(EncoderSpec.from_json(spec.canonical()).fingerprint == spec.fingerprint, f"{spec.key} changes in JSON")
        _must((spec.name, spec.level) == (encoder.names[level], level), f"the spec of level {level} is {spec.key}")
        drawn = ("tiny", "seed:0") if encoder.learned else ("paper", "none")
        _must((spec.profile, spec.weights) == drawn, f"{spec.key} has weights {spec.weights} of {spec.profile}")
    for level in set(LEVELS) - set(encoder.levels):
        try:
            encoder.spec(level)
        except UsageError:
            continue
        raise AssertionError(f"{encoder.name} has no level {level}, and gives a spec of it")


def every_constant_is_in_the_key(kind: type[Encoder]) -> None:
    """Each public plain attribute of the class, each size and each option that changes numbers changes the key."""
    encoder = kind(profile="tiny")
    for level in encoder.levels:
        mine = encoder.spec(level).fingerprint
        for what, members in [*_constants(encoder), *_sizes(encoder)]:
            changed = encoder.twin(**members).spec(level).fingerprint
            _must(changed != mine, f"{encoder.name}, level {level}: another {what} has the same key")
        if encoder.learned:
            for options in ({"seed": 1}, {"profile": "random"}):
                other = kind(**{"profile": "tiny", **options}).spec(level).fingerprint
                _must(other != mine, f"{encoder.name}, level {level}: {options} has the same key")
        same = encoder.twin(dtype="bfloat16", max_cost=1.0).spec(level).fingerprint
        _must(same == mine, f"{encoder.name}, level {level}: dtype or batch size change the key")


def _constants(encoder: Encoder) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every constant that the class and its parents name, with another value."""
    yield "media_recipe", {"media_recipe": {"other": True}}
    parents = [kind for kind in type(encoder).__mro__ if issubclass(kind, Encoder) and kind is not Encoder]
    for name in sorted({"version", *(name for kind in parents for name in vars(kind))} - NO_CONSTANTS):
        value = getattr(encoder, name) if not name.startswith("_") else encoder
        if not isinstance(getattr(type(encoder), name, None), property) and _plain(value):
            yield name, {name: (0.25, 0.5, 0.75) if value is None else _other(value)}


def _sizes(encoder: Encoder) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every size of the model, with another value."""
    config = encoder.config
    table = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config or {}
    for name, value in table.items():
        new = {name: 2 if value is None else _other(value)}
        yield f"size {name}", {"config": {**table, **new} if config is table else dataclasses.replace(config, **new)}


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (tuple, list)):
        return type(value)([_other(value[0]), *value[1:]]) if value else type(value)([1])
    return f"{value}-other" if isinstance(value, str) else value + 1


# ---- what it gives ---------------------------------------------------------------------------------------------------


def its_output_is_what_the_spec_says(kind: type[Encoder]) -> None:
    """Finite float32 of the shape that the spec states; times for the frame level alone; only the levels asked for."""
    encoder = kind(profile="tiny")
    item = _item(encoder, 5)
    output = encoder.encode([item])[0]
    _must(set(output) == set(encoder.levels), f"levels {set(output)} came of {encoder.levels}")
    for level, result in output.items():
        spec, array = encoder.spec(level), result.array
        _must(array.dtype == np.float32, f"level {level} is {array.dtype}, not float32")
        want = (spec.rows or len(array), spec.dim)
        _must(array.shape == want, f"level {level} is {array.shape}, and the spec says {want}")
        _must(bool(np.isfinite(array).all()) and array.std() > 1e-3, f"level {level} is constant or not finite")
        _must((result.hop_s is not None) == (level == "frame"), f"level {level}: hop_s belongs to `frame`")
    first = encoder.levels[:1]
    _must(set(encoder.encode([item], levels=first)[0]) == set(first), "levels that nobody asked for are returned")
    _must(encoder.encode([]) == [], "no clips give no features")


def neighbours_do_not_matter(kind: type[Encoder]) -> None:
    """A clip alone and among others gives the same, in any order and however small the batches."""
    encoder = kind(profile="tiny")
    items = [_item(encoder, size) for size in (9, 1, 17, 4, 10, 2)]
    alone = [encoder.encode([item])[0] for item in items]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 2, 1]):
        for i, output in zip(order, encoder.encode([items[i] for i in order]), strict=True):
            _same(encoder, output, alone[i], "alone and among others")
    small = encoder.twin(max_cost=2.0)
    for output, each in zip(small.encode(items), alone, strict=True):
        _same(encoder, output, each, "in smaller batches")
    level = encoder.levels[0]
    apart = difference(alone[0][level].array.mean(0), alone[1][level].array.mean(0))
    _must(apart > 100 * INVARIANCE, "two clips give the same feature")


def threads_and_processes_do_not_matter(kind: type[Encoder]) -> None:
    """`prepare` in many threads is `prepare`; encoder and prepared clips survive pickling, without the model."""
    encoder = kind(profile="tiny")
    inputs = [encoder.sample(size, seed=size) for size in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(encoder.prepare, inputs))
    encoder.load()
    packed = pickle.dumps(encoder)
    elsewhere = pickle.loads(packed)
    _must(elsewhere._model is None, "the model travels with the pickled encoder")
    for item, each in zip(threaded, inputs, strict=True):
        plain = encoder.prepare(each)
        other = pickle.loads(pickle.dumps(elsewhere.prepare(each)))
        _must(torch.equal(item.payload, plain.payload), "threads change what is prepared")
        _must(torch.equal(other.payload, plain.payload) and other.cost == plain.cost, "pickling changes a clip")
        _must(item.cost > 0, "a clip costs nothing")
    for level in encoder.levels:
        same = elsewhere.spec(level).fingerprint == encoder.spec(level).fingerprint
        _must(same, f"level {level} has another key after pickling")


def half_precision_is_near(kind: type[Encoder]) -> None:
    """bfloat16 computes other numbers, near the exact ones, and gives float32."""
    encoder = kind(profile="tiny")
    if not encoder.learned:
        return
    items = [_item(encoder, size) for size in (6, 7)]
    half = kind(profile="tiny", dtype="bfloat16").encode(items)
    for mine, exact in zip(half, encoder.encode(items), strict=True):
        for level in encoder.levels:
            apart = difference(mine[level].array, exact[level].array)
            _must(mine[level].array.dtype == np.float32, f"level {level} is {mine[level].array.dtype}")
            _must(0 < apart < HALF, f"level {level}: bfloat16 is {apart:.2g} apart")


def random_weights_are_the_same_everywhere(kind: type[Encoder]) -> None:
    """One seed gives one model, another seed another one, and the global generator is left alone."""
    encoder = kind(profile="tiny")
    if not encoder.learned:
        return
    item, level, before = _item(encoder, 3), encoder.levels[0], torch.random.get_rng_state()
    mine, again, other = (kind(profile="tiny", seed=seed).encode([item])[0][level].array for seed in (0, 0, 7))
    _must(torch.equal(before, torch.random.get_rng_state()), "the global generator was used")
    _must(np.array_equal(mine, again), "one seed gives two models")
    _must(difference(other, mine) > 0.01, "two seeds give one model")


# ---- what goes wrong, and what others do -----------------------------------------------------------------------------


def missing_input_is_a_media_error(kind: type[Encoder]) -> None:
    """A clip without the input is refused by `prepare` with its kind, for good."""
    encoder = kind(profile="tiny")
    try:
        encoder.prepare(ClipInputs())
    except MediaError as error:
        got = (error.kind, error.retry)
        _must(got == (KINDS[encoder.needs], False), f"a clip without {encoder.needs} fails as {got}")
        return
    raise AssertionError(f"a clip without {encoder.needs} is prepared")


def variants_change_one_thing(kind: type[Encoder]) -> None:
    """Every variant gives a feature of the same shape, and leaves the encoder and its key as they are."""
    encoder = kind(profile="tiny")
    if encoder.needs == "text":
        return  # `emo store compare` does not run texts again
    level, decoded = encoder.levels[0], _decoded(encoder)
    key, item = encoder.spec(level).fingerprint, encoder.prepare(decoded.inputs)
    before = encoder.encode([item], [level])[0][level].array
    for variant in variants_of(encoder):
        made = variant.run(decoded, level)
        fine = made.shape == before.shape and np.isfinite(made).all()
        _must(bool(fine), f"{variant.change}: {made.shape} instead of {before.shape}, or not finite")
        _must(bool(variant.cause and variant.change), "a variant says its cause and what changes")
    after = encoder.encode([item], [level])[0][level].array
    _must(bool((after == before).all()) and encoder.spec(level).fingerprint == key, "a variant changed the encoder")


def _decoded(encoder: Encoder) -> Decoded:
    """A clip with all that variants look at."""
    inputs = encoder.sample(20)
    rng = np.random.default_rng(0)
    if inputs.audio is not None:
        sound = rng.normal(0, 0.1, len(inputs.audio) * RATE_OF_SOUND // 16_000)
        return Decoded(inputs, sound=(sound, RATE_OF_SOUND))
    if inputs.faces is not None:
        return Decoded(inputs, listing=rng.permutation(len(inputs.faces)).tolist())
    names = ("first", "second", "middle", "last")
    return Decoded(
        inputs, {name: frame for n, name in enumerate(names) if (frame := encoder.sample(20, n).frame) is not None}
    )


CONTRACT: tuple[Promise, ...] = (
    it_declares_what_the_house_asks,
    its_spec_is_plain_and_of_every_level,
    every_constant_is_in_the_key,
    its_output_is_what_the_spec_says,
    neighbours_do_not_matter,
    threads_and_processes_do_not_matter,
    half_precision_is_near,
    random_weights_are_the_same_everywhere,
    missing_input_is_a_media_error,
    variants_change_one_thing,
)


# ---- executors -------------------------------------------------------------------------------------------------------


def check_executor(make: Callable[[], Executor], store: Store, jobs: Sequence[Job]) -> None:
    """Hold an executor against its contract, with a store that lacks the jobs' features.

    Args:
        make: Gives an executor that has not run.
        store: Where the features go.
        jobs: Two clips or more that can be extracted.
    """
    stopped = make()
    stopped.stop()
    _must(stopped.progress.stopping, "stopped, its progress says so")
    _must(list(stopped.run(store, jobs, {})) == [], "stopped before it ran, it fails at nothing")
    store.refresh()
    _must(not store.clips(), "stopped before it ran, it commits nothing")
    executor = make()
    _must(list(executor.run(store, jobs, {})) == [], "the clips can be extracted")
    store.refresh()
    done = executor.progress
    _must(done.done == len(jobs) == done.total, f"{done.done} of {len(jobs)} clips are counted, of {done.total}")
    _must(sorted(store.clips()) == sorted(job.clip.id for job in jobs), "it names every clip in the store")
    kept = sum(info.ok for info in store.features() if info.spec.name != "faces")
    _must(done.stored == kept, f"stored features: {done.stored} by the count, {kept} in the store")
    _must(not any(executor.notes.values()), "nothing is to be noticed in plain clips")
