"""`emo weights`: which weights are declared or configured, whether they are here and whole, and how to get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from emo.extract.encoders.base import Encoder
from emo.extract.encoders.catalog import SET, catalog
from emo.extract.encoders.registry import encoder_names, find_encoder
from emo.extract.pocket import LANGUAGE_MODEL
from emo.extract.pocket import SET as POCKET
from emo.featstore.errors import UsageError, WeightsMissing
from emo.featstore.page import Arg, Flag, Page, Table, throttle
from emo.featstore.sources.headers import Inspection, inspect
from emo.featstore.sources.hub import Source, cached, fetch
from emo.featstore.text import size_text
from emo.featstore.workspace import HUB_ID, WEIGHT_SUFFIXES, Workspace

Others = Mapping[str, Source]  # weights that are no encoder's, by their key under `[weights]`: a language model's
CT2_MODEL = "model.bin"  # a folder of CTranslate2 states what it needs in that file
NO_OTHERS: Others = MappingProxyType({})


@dataclass(frozen=True)
class WeightRow:
    """One line of `emo weights list`.

    Attributes:
        name: Key under `[weights]`.
        about: What it is; empty for weights that nobody declares.
        value: Path or id as configured; empty when not configured.
        status: `present` (also in an installed package), `not needed` (no network), `missing` or `not configured`.
        path: File or folder on disk, if present.
        size_bytes: Its size, if present.
        how: What to do when it is not there.
    """

    name: str
    about: str
    value: str
    status: str
    path: Path | None
    size_bytes: int | None
    how: str


def list_weights(workspace: Workspace, others: Others = NO_OTHERS) -> list[WeightRow]:
    """Every weight that an encoder or `others` declare or the workspace names, and whether it is on this machine."""
    rows = []
    for name in dict.fromkeys([*wanted(workspace), *encoder_names(), *others, *workspace.weights]):
        value = workspace.weights_value(name)
        encoder, source = _declared(name, others)
        if encoder is not None and not encoder.learned:
            how = "Take it out of [weights] in emo.toml." if value else ""
            rows.append(WeightRow(name, "It is computed without a network.", value, "not needed", None, None, how))
            continue
        path = local_path(workspace, name)
        status = "present" if path else "missing" if value else "not configured"
        how = "" if path else _how(name, source, workspace.weights_at(name))
        rows.append(WeightRow(name, source.about, value, status, path, _size(path), how))
    return rows


def check_weights(workspace: Workspace, others: Others = NO_OTHERS) -> list[tuple[str, Inspection]]:
    """Look into the headers of every configured weight; no tensor is read."""
    checks = []
    needed = wanted(workspace)
    for row in list_weights(workspace, others):
        if not row.value and row.name not in needed:
            continue
        if row.status == "not needed":
            checks.append((row.name, Inspection("ok", row.about)))
        elif row.path is not None:
            checks.append((row.name, _whole(row, others)))
        else:
            what = f"{row.value} is not here." if row.value else "No weights are configured."
            checks.append((row.name, Inspection(row.status, what, row.how)))
    return checks


def _whole(row: WeightRow, others: Others) -> Inspection:
    """Judge weights by their headers, and a folder also by the files that its encoder reads beside them."""
    assert row.path is not None
    found, (encoder, _) = inspect(row.path), _declared(row.name, others)
    if found.status != "ok" or encoder is None or not row.path.is_dir() or (row.path / CT2_MODEL).is_file():
        return found
    lacking = [name for name in encoder.beside if not (row.path / name).is_file()]
    if not lacking:
        return found
    return Inspection("incomplete", f"{row.path} has no {', '.join(lacking)}.", "Fetch the model's whole folder again.")


def weights_page(
    workspace: Workspace,
    others: Others = NO_OTHERS,
    field: Annotated[bool, Flag("The models of the field instead: licence, width, on disk.", "--catalog")] = False,
) -> Page:
    """List the weights that are known or configured, and how to get them."""
    if field:
        return catalog_page(workspace)
    rows = list_weights(workspace, others)
    cells = [[each.name, each.status, size_text(each.size_bytes), each.value, each.how or each.about] for each in rows]
    columns = ("name", "status", "size", "configured", "what it is, or how to get it")
    return Page(rows, [Table("Weights", columns, cells, ("size",))])


def catalog_page(workspace: Workspace) -> Page:
    """List the models of the catalog, what of them is on disk, its sets, and what is not here, with the reason."""
    found = catalog()
    rows = []
    for entry in found.entries.values():
        path = next((path for name in entry.names if (path := local_path(workspace, name))), None)
        rows.append(
            {
                "name": entry.stem,
                "features": entry.names,
                "status": "present" if path else "absent",
                "path": None if path is None else str(path),
                "size_bytes": _size(path),
                "width": entry.width,
                "licence": entry.licence,
                "languages": [each for each in entry.languages if each != "text"],
                "gflop": entry.gflop,
                "unit": entry.unit,
                "from": entry.hub or f"by hand {entry.ask}",
                "checked": entry.checked or None,
                "lacks": dict(entry.lacks),
            }
        )
    cells = [
        [
            row["name"],
            row["status"],
            size_text(row["size_bytes"]),
            row["width"],
            row["licence"],
            row["gflop"],
            row["unit"],
            row["checked"] or "",
        ]
        for row in rows
    ]
    columns = ("name", "on disk", "size", "width", "licence", "GFLOP", "per", "checked")
    lacks = [[row["name"], recipe, why] for row in rows for recipe, why in row["lacks"].items()]
    value = {"models": rows, "sets": found.sets, "absent": found.absent}
    sets = [[SET + name, ", ".join(names)] for name, names in found.sets.items()]
    parts = [
        Table("Catalog", columns, cells, ("size", "width", "GFLOP")),
        "A model gives NAME-UTT by MERBench's recipe, NAME-modern-UTT by a plain one, and images NAME-frame-UTT.",
        "Checked is the day on which id and licence were held against the hub's public page; the others never were.",
        Table("Recipes that a model does not have", ("name", "recipe", "why"), lacks),
        Table("Sets", ("name", "features"), sets),
        Table("Not here", ("name", "why"), [list(each) for each in found.absent.items()]),
    ]
    return Page(value, parts)


def weights_check_page(workspace: Workspace, others: Others = NO_OTHERS) -> Page:
    """Look into the headers of every configured weight without loading it; exit code 5 where one is ill or missing."""
    checks = check_weights(workspace, others)
    cells = [[name, found.status, f"{found.what} {found.do}"] for name, found in checks]
    bad = any(found.status not in ("ok", "unchecked") for _, found in checks)
    table = Table("Weights", ("name", "status", "what, and what to do"), cells)
    return Page([{"name": name, **vars(found)} for name, found in checks], [table], exit_code=5 if bad else 0)


def pulled_page(
    workspace: Workspace | None,
    others: Others,
    say: Callable[[str], None],
    name: Annotated[str, Arg("A name of `emo weights list`, a Hugging Face id, or a set of encoders such as @pocket.")],
    dest: Annotated[Path | None, Flag("Folder. Default: the Hugging Face cache.")] = None,
    endpoint: Annotated[str | None, Flag("Another hub's address.")] = None,
    token: Annotated[str | None, Flag("Hugging Face token for gated models.")] = None,
) -> Page:
    """Fetch weights; a fetch that was cut off goes on where it stopped."""
    if name.startswith(SET):
        return _pulled_set(workspace, others, say, name, endpoint=endpoint, token=token)
    now = throttle(say, 2.0)

    def show(file: str, done: int, total: int | None) -> None:
        now(f"{file}: {size_text(done)}" + (f" of {size_text(total)}" if total else ""))

    options = {"endpoint": endpoint, "token": token, "on_progress": show}
    path = str(pull(name, dest, workspace=workspace, others=others, **options))
    return Page({"name": name, "path": path}, [path])


def _pulled_set(
    workspace: Workspace | None, others: Others, say: Callable[[str], None], name: str, **options: Any
) -> Page:
    """Fetch what a set of encoders needs, and with the pocket's the language model of its recipe."""
    names = list(catalog().spread((name,)))
    names += [LANGUAGE_MODEL] if name == SET + POCKET and LANGUAGE_MODEL in others else []
    rows = []
    for each in names:
        say(f"{each} ...")
        rows.append({"name": each, "path": str(pull(each, workspace=workspace, others=others, **options))})
    return Page(rows, [f"{row['name']}: {row['path']}" for row in rows])


def pull(
    name_or_id: str,
    dest: Path | None = None,
    *,
    workspace: Workspace | None = None,
    others: Others = NO_OTHERS,
    **options: Any,
) -> Path:
    """Fetch weights by their name; see `emo.featstore.sources.hub.fetch`.

    Args:
        name_or_id: A name under `[weights]`, or a Hugging Face id.
        dest: Folder to put the files in. By default a path configured for the name, else the Hugging Face cache.
        workspace: Says what the name means and where it belongs.
        others: Weights that are no encoder's.
        **options: Of `fetch`.

    Raises:
        UsageError: The name means nothing, or has no place to go to.
        WeightsMissing: It cannot be had this way: gated, not on the hub, or to be fetched by hand.
        ModelError: The hub cannot be reached, the connection broke, the disk is full, or the bytes are not right.
    """
    encoder, source = _declared(name_or_id, others)
    configured = workspace.weights_at(name_or_id) if workspace is not None else None
    target = dest or (configured if isinstance(configured, Path) else None)
    if isinstance(configured, str):
        source = Source(hub=configured) if configured != source.hub else source
    elif encoder is None and name_or_id not in others:
        if configured is not None:
            raise WeightsMissing(f"{name_or_id} is the local path {configured}; nothing says where to pull it from.")
        if not HUB_ID.fullmatch(name_or_id):
            names = ", ".join(dict.fromkeys([*encoder_names(), *others, *(workspace.weights if workspace else ())]))
            hint = "Or name a Hugging Face id, owner/name."
            raise UsageError(f"There are no weights called {name_or_id!r}; known are {names}.", hint)
        source = Source(hub=name_or_id)
    if encoder is not None and not encoder.learned:
        raise UsageError(f"{name_or_id} has no weights: it is computed without a network.")
    if source.hub and target is not None and target.suffix in WEIGHT_SUFFIXES:
        message = f"{name_or_id} is a folder of files on Hugging Face; emo.toml names the single file {target}."
        raise UsageError(message, f'Write "{name_or_id}" = "{source.hub}" under [weights], or a folder.')
    if not (source.hub or source.url):
        raise WeightsMissing(f"{name_or_id} ({source.file}) cannot be pulled.", source.by_hand)
    return fetch(source, target, **options)


def wanted(workspace: Workspace) -> list[str]:
    """Keys under `[weights]` of the encoders that `[extract]` names, which may be aliases."""
    names = catalog().spread(workspace.extract.encoders)
    return list(dict.fromkeys(encoder.name if (encoder := _encoder(name)) else name for name in names))


def local_path(workspace: Workspace, name: str) -> Path | None:
    """File or folder of weights on this machine; for a Hugging Face id the copy in its cache.

    Where none are configured, those that an installed package brings.
    """
    where = workspace.weights_at(name)
    if isinstance(where, Path):
        return where if where.exists() else None
    encoder, source = _declared(name, NO_OTHERS)
    if where:
        try:
            return cached(where, source.revision if where == source.hub else "")
        except WeightsMissing:
            return None
    installed = encoder.installed() if encoder is not None else None
    return Path(installed) if installed else None


def is_published(workspace: Workspace, name: str) -> bool:
    """Say whether `[weights]` names an encoder's published model, which no small network of profile tiny can have.

    That is its Hugging Face id, or a file of its published name that is not there: a file that is there may hold
    anything.
    """
    where, encoder = workspace.weights_at(name), _encoder(name)
    if where is None or encoder is None:
        return False
    if isinstance(where, Path):
        return where.name == encoder.source.file and not where.exists()
    return where == encoder.source.hub


def _encoder(name: str) -> type[Encoder] | None:
    """The encoder of that name; `None` for other weights, and where a package that should bring it is broken."""
    try:
        return find_encoder(name)
    except UsageError:
        return None


def _declared(name: str, others: Others) -> tuple[type[Encoder] | None, Source]:
    """Return who declares weights, if it is an encoder, and what is said of them; a model means any of its features."""
    entry = catalog().entries.get(name)
    meant = entry.names[0] if entry is not None and not entry.encoder else name
    encoder = None if name in others else _encoder(meant)
    if encoder is None or encoder.name != meant:
        return None, others.get(name, Source())
    return encoder, encoder.source


def _how(name: str, source: Source, where: Path | str | None) -> str:
    """Say how to get weights that are not here; `emo weights pull` only where that would find something."""
    if source.hub and isinstance(where, Path) and where.suffix in WEIGHT_SUFFIXES:
        return f'Put that file there; or write "{name}" = "{source.hub}" and run `emo weights pull {name}`.'
    if source.hub or source.url or isinstance(where, str):
        return f"Run `emo weights pull {name}`."
    return source.by_hand or "Correct its path under [weights] in emo.toml."


def _size(path: Path | None) -> int | None:
    if path is None:
        return None
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
