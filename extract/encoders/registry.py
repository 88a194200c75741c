"""Names of encoders, and where each lives. A new encoder is one file and one line here, or one line of a package.

A line begins with the encoder's name; more words are aliases. Names stand here and not in the classes, so that the
store can resolve them (`featstore/names.py`) without importing torch. An installed package adds encoders in the
entry-point group `emo.encoders`, with the same kind of line:

    [project.entry-points."emo.encoders"]
    "smile_UTT smile" = "package.module:Smile"
"""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

from emo.extract.encoders.catalog import Member, catalog
from emo.featstore.errors import UsageError
from emo.featstore.names import meanings
from emo.featstore.text import did_you_mean

if TYPE_CHECKING:
    from emo.extract.encoders.base import Encoder

GROUP = "emo.encoders"
Place = str | metadata.EntryPoint | Member | type["Encoder"]
_lines: dict[str, Place] = {
    "HL-UTT hubert HL chinese-hubert-large-UTT": "emo.extract.encoders.hubert:HubertLast",
    "HL-MERBench-UTT chinese-hubert-large-UTT": "emo.extract.encoders.hubert:HubertMerbench",
    "mae_340_UTT mae mae_340": "emo.extract.encoders.mae:Mae",
    "maeV_399_UTT videomae maeV maeV_399": "emo.extract.encoders.videomae:VideoMaeAuthor",
    "videomae-large-UTT": "emo.extract.encoders.videomae:VideoMaeMerbench",
    "eva_g_448 eva eva_g": "emo.extract.encoders.eva:Eva",
    "eGeMAPS_UTT egemaps eGeMAPS": "emo.extract.encoders.egemaps:Egemaps",
    "all-MiniLM-L6-v2-UTT minilm MiniLM": "emo.extract.encoders.minilm:MiniLM",
    "mesh_UTT mesh": "emo.extract.encoders.mesh:Mesh",
    "beats-iter3-UTT beats": "emo.extract.encoders.beats:BeatsWindows",
    "beats-iter3-whole-UTT": "emo.extract.encoders.beats:BeatsWhole",
}


def lines() -> dict[str, Place]:
    """Every line and its place: emo's own encoders, those that installed packages add, then the catalog's."""
    return _lines_but_catalog() | catalog().lines()


def _lines_but_catalog() -> dict[str, Place]:
    own = {line.split()[0] for line in [*_lines, *catalog().lines()]}
    plugins = {point.name: point for point in sorted(metadata.entry_points(group=GROUP), key=lambda each: each.name)}
    return _lines | {line: point for line, point in plugins.items() if line.split()[0] not in own}


def encoder_names() -> list[str]:
    """Names of all encoders that do not come of the catalog, without aliases."""
    return [line.split()[0] for line in _lines_but_catalog()]


def register(name: str, encoder: str | type[Encoder], *aliases: str) -> None:
    """Make an encoder known: a class, or `module:Class` to import when asked for.

    Raises:
        UsageError: The name is taken.
    """
    if name in (line.split()[0] for line in lines()):
        raise UsageError(f"An encoder named {name} exists already.")
    _lines[" ".join([name, *aliases])] = encoder


def find_encoder(name: str) -> type[Encoder]:
    """Class of an encoder by its name, an alias, or the name of its frame level (`mae_340_FRA`).

    Raises:
        UsageError: No such encoder (the message names the nearest), the name means several, or its package is broken.
    """
    known = {line.split()[0]: place for line, place in lines().items()}
    plain = re.sub(r"(?<=[-_])FRA$", "UTT", name)
    meant = (plain,) if plain in known else meanings(plain)
    if len(meant) > 1:
        raise UsageError(f"The name {name} is used for several recipes.", f"Ask for {' or '.join(meant)}.")
    if meant[0] not in known:
        words = [word for line in lines() for word in line.split()]
        there = f"There are {', '.join(encoder_names())}, and those of `emo weights list --catalog`."
        hint = catalog().absence(name) or did_you_mean(name, words, 0.4) or there
        raise UsageError(f"There is no encoder {name!r}.", hint)
    return _load(meant[0], known[meant[0]])


def _load(name: str, place: Place) -> type[Encoder]:
    from emo.extract.encoders.base import Encoder  # brings torch

    if isinstance(place, Member):
        from emo.extract.encoders.pretrained import member

        return member(_load(name, place.entry.place), place.entry, place.recipe)
    if isinstance(place, str):
        module, attribute = place.split(":")
        return getattr(importlib.import_module(module), attribute)
    try:
        found = place.load() if isinstance(place, metadata.EntryPoint) else place
    except Exception as error:  # the code of somebody else's package runs here
        raise UsageError(f"Encoder {name} cannot be imported: {error!r}.", f"Mend or remove {place.value}.") from error
    if not (isinstance(found, type) and issubclass(found, Encoder)):
        raise UsageError(f"Encoder {name} is no subclass of emo.Encoder, but {found!r}.")
    return found


def load_encoder(
    name: str,
    profile: str = "paper",
    weights: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    **options: Any,
) -> Encoder:
    """Make an encoder ready to `prepare`; its weights are read by `load()` or by the first `encode`.

    Args:
        name: Name or alias, such as `HL-UTT`.
        profile: `paper`, `tiny` or `random`; see `Encoder`.
        weights: A file, a Hugging Face folder, or a hub id.
        device: Device of the model.
        dtype: `float32`, `bfloat16` or `float16`.
        **options: `seed`, `config`, `media_recipe`, and what the encoder itself takes (`pooling` of `mae_340_UTT`).

    Raises:
        UsageError: Unknown encoder, profile, dtype or device.
        WeightsMissing: The weights are not there.
        ModelError: The weights do not fit.
    """
    return find_encoder(name)(profile=profile, weights=weights, device=device, dtype=dtype, **options)
