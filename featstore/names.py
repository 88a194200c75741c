"""Which feature a user means: names of the field, aliases, and `name@fingerprint`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from emo.featstore.errors import FeatureMissing, StoreError
from emo.featstore.spec import EncoderSpec

ALIASES = {
    "hubert": "HL-UTT",
    "HL": "HL-UTT",
    "mae": "mae_340_UTT",
    "mae_340": "mae_340_UTT",
    "videomae": "maeV_399_UTT",
    "maeV": "maeV_399_UTT",
    "maeV_399": "maeV_399_UTT",
    "eva": "eva_g_448",
    "eva_g": "eva_g_448",
    "egemaps": "eGeMAPS_UTT",
    "eGeMAPS": "eGeMAPS_UTT",
    "minilm": "all-MiniLM-L6-v2-UTT",
    "MiniLM": "all-MiniLM-L6-v2-UTT",
}
# One name that the literature uses for several recipes. Nobody can guess which is meant.
AMBIGUOUS = {"chinese-hubert-large-UTT": ("HL-UTT", "HL-MERBench-UTT")}
PROFILE_WORDS = {
    "paper": "the published sizes and weights",
    "tiny": "small widths and seeded random weights: for tests and plumbing, never for results",
    "random": "the published sizes with seeded random weights: for measuring speed, never for results",
    "imported": "made elsewhere and imported",
}


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
    meant = plain if any(spec.name == plain for spec in specs) else ALIASES.get(plain, plain)
    exact = any(spec.name == meant for spec in specs)
    if meant in AMBIGUOUS and not exact:
        options = " or ".join(AMBIGUOUS[meant])
        raise StoreError(f"The name {meant} is used for several recipes.", f"Ask for {options}.")
    found = [spec for spec in specs if spec.name == meant and spec.fingerprint.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _missing(name, meant, specs)
    lines = "".join(f"\n  {describe(spec)}" for spec in found)
    differences = "".join(f"\n  {line}" for line in _differences(found))
    raise StoreError(
        f"{name} means {len(found)} features of this store:{lines}\nThey differ in:{differences}",
        f"\nSay which, for instance {found[0].name}@{found[0].fingerprint[:4]}.",
    )


def _missing(name: str, meant: str, specs: list[EncoderSpec]) -> FeatureMissing:
    if not specs:
        return FeatureMissing(f"There is no {name}: the store has no features yet.", "Run `emo extract` first.")
    same = [spec for spec in specs if spec.name == meant]
    if same:
        text = f"There is no {name} in the store, but other recipes of {meant} are: "
        return FeatureMissing(text + "; ".join(map(describe, same)) + ".", "Ask for one of them, or extract this one.")
    text = f"There is no {name} in the store; it holds " + "; ".join(map(describe, specs)) + "."
    return FeatureMissing(text, f"Ask for one of them, or run `emo extract --encoders {meant}`.")


def _differences(specs: list[EncoderSpec]) -> list[str]:
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
