"""Which feature a user means: names of the field, aliases, and `name@fingerprint`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from emo.featstore.errors import FeatureMissing, StoreError
from emo.featstore.text import did_you_mean, some_of

if TYPE_CHECKING:
    from emo.featstore.spec import EncoderSpec  # `import emo` should cost nothing

_lines: Callable[[], Iterable[str]] = tuple
_models: Callable[[], Mapping[str, str]] = dict


def names_from(lines: Callable[[], Iterable[str]], models: Callable[[], Mapping[str, str]] = dict) -> None:
    """Learn names of features from a function that gives lines: a name, then its aliases.

    Whoever makes features knows their names; the store only asks. `emo/__init__.py` brings the two together.

    Args:
        lines: As above.
        models: Gives the models of those features that share one with features of other recipes.
    """
    global _lines, _models
    _lines, _models = lines, models


def known_names() -> list[str]:
    """Names of all features that can be made, without aliases."""
    return [line.split()[0] for line in _lines()]


def model_of(name: str) -> str | None:
    """The model that a feature shares with features of other recipes; `None` where it has one of its own."""
    return _models().get(name)


def known_models() -> list[str]:
    """Names of the models that several features share."""
    return list(dict.fromkeys(_models().values()))


def meanings(name: str) -> tuple[str, ...]:
    """Names that an alias stands for: several where the literature uses it so; the name itself where it is no alias."""
    return tuple(first for first, *aliases in map(str.split, _lines()) if name in aliases) or (name,)


def meaning(name: str) -> str:
    """The one name that an alias stands for; the name itself where it is no alias, or one of several features."""
    found = meanings(name)
    return found[0] if len(found) == 1 else name


PROFILE_WORDS = {
    "paper": "the published sizes and weights",
    "tiny": "small widths and seeded random weights: for tests and plumbing, never for results",
    "random": "the published sizes with seeded random weights: for measuring speed, never for results",
    "imported": "made elsewhere and imported",
}


def named(name: str, specs: Iterable[EncoderSpec]) -> list[EncoderSpec]:
    """Recipes of that name; where there is none, those that it is an alias of (only then are aliases looked up)."""
    specs = list(specs)
    if any(spec.name == name for spec in specs):
        return [spec for spec in specs if spec.name == name]
    meant = meaning(name)
    return [spec for spec in specs if spec.name == meant]


def describe(spec: EncoderSpec) -> str:
    """One line that tells two recipes apart: key, profile and weights."""
    return f"{spec.key} (profile {spec.profile}: {PROFILE_WORDS[spec.profile]}; weights {spec.weights[:16]})"


def choose(name: str, specs: Iterable[EncoderSpec]) -> EncoderSpec:
    """The one spec that `name` means among those of a store.

    Args:
        name: `HL-UTT`, an alias such as `hubert`, or with the beginning of a fingerprint: `HL-UTT@9f2c`.
        specs: What there is.

    Raises:
        FeatureMissing: None of them is meant; the message names those that exist.
        StoreError: Several are meant; the message names each and how they differ.
    """
    specs = list(specs)
    plain, _, prefix = name.partition("@")
    options = (plain,) if any(spec.name == plain for spec in specs) else meanings(plain)
    if len(options) > 1:
        raise StoreError(f"The name {plain} is used for several recipes.", f"Ask for {' or '.join(options)}.")
    meant = options[0]
    found = [spec for spec in specs if spec.name == meant and spec.fingerprint.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _missing(name, meant, specs)
    lines = "".join(f"\n  {describe(spec)}" for spec in found)
    apart = "".join(f"\n  {line}" for line in differences(found))
    raise StoreError(
        f"{name} means {len(found)} features of this store:{lines}\nThey differ, in this order, in:{apart}",
        f"Say which, for instance {found[0].name}@{found[0].fingerprint[:4]}.",
    )


def _missing(name: str, meant: str, specs: list[EncoderSpec]) -> FeatureMissing:
    if not specs:
        return FeatureMissing(f"There is no {name}: the store has no features yet.", "Run `emo extract` first.")
    same = [spec for spec in specs if spec.name == meant]
    if same:
        text = f"There is no {name} in the store, but other recipes of {meant} are: "
        return FeatureMissing(text + "; ".join(map(describe, same)) + ".", "Ask for one of them, or extract this one.")
    text = f"There is no {name} in the store; it holds {some_of(spec.key for spec in specs)}."
    known = known_names()
    if known and meant not in known:  # which no pass could make
        near = did_you_mean(meant, [*(spec.name for spec in specs), *known])
        return FeatureMissing(
            text, f"{near} Ask for one of them; `emo weights list` names what can be extracted.".strip()
        )
    return FeatureMissing(text, f"Ask for one of them, or run `emo extract --encoders {meant}`.")


def differences(specs: Sequence[EncoderSpec]) -> list[str]:
    """Keys in which recipes differ, each with the value of every recipe: `recipe.layer: 4 | 8`."""
    flat = [dict(_flat("", asdict(spec))) for spec in specs]
    keys = dict.fromkeys(key for each in flat for key in each)
    rows = [(key, [each.get(key, "absent") for each in flat]) for key in keys]
    return [f"{key}: " + " | ".join(map(str, values)) for key, values in rows if any(v != values[0] for v in values)]


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value
