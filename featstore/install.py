"""How this copy of emo was installed, and the one command that adds something to it."""

from __future__ import annotations

import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from emo import __version__
from emo.featstore.errors import UsageError
from emo.featstore.reading import parse_own

DISTRIBUTION = "emostore"  # `emo` is somebody else's package on the index


def install_command(*extras: str) -> str:
    """Return the command that installs emo again, with extras, from this checkout or its wheel's place."""
    wanted = f"[{','.join(extras)}]" if extras else ""
    folder = checkout()
    return f"pip install -e '{folder}{wanted}'" if folder else f"pip install '{DISTRIBUTION}{wanted}{_origin()}'"


def need(what: str, extra: str, *modules: str) -> None:
    """Refuse to go on without the libraries of an extra.

    Raises:
        UsageError: One of the modules cannot be imported; the hint is the command that installs them.
    """
    if lacking := [name for name in modules if find_spec(name) is None]:
        raise UsageError(f"{what} needs the package {lacking[0]}.", f"Install it: {install_command(extra)}.")


def is_installed(package: str) -> bool:
    """Say whether a package is installed, by its name on the index."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def checkout() -> Path | None:
    """Return the folder of the checkout that this copy runs from; `None` where it was installed as a wheel."""
    folder = Path(__file__).resolve().parents[1]
    return folder if (folder / "pyproject.toml").is_file() else None


def requirements() -> list[str]:
    """Return what emo needs, as lines of requirements; those of an extra carry it as a marker.

    Raises:
        importlib.metadata.PackageNotFoundError: This copy is neither installed nor a checkout.
    """
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        folder = checkout()
        if folder is None:
            raise
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        return [*project["dependencies"], *(f"{line}; extra == '{name}'" for name in extras for line in extras[name])]


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of emo and of other packages, to be kept beside what they have made."""
    return {"emo": __version__} | {name: metadata.version(name) for name in packages}


def _origin() -> str:
    """Return ` @ URL` where the wheel was not taken from an index."""
    try:
        kept = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return ""
    origin = parse_own(kept, "direct_url.json") if kept else {}
    version = origin.get("vcs_info")
    if version:
        return f" @ {version['vcs']}+{origin['url']}@{version['commit_id']}"
    return f" @ {origin['url']}" if origin else ""
