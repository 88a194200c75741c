"""Names of plug-ins and what each means: emo's own, then those that installed packages add as entry points."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emo.featstore.errors import UsageError
from emo.featstore.text import did_you_mean

if TYPE_CHECKING:
    from importlib import metadata


@dataclass(frozen=True)
class Registry:
    """The plug-ins of one kind. Each is imported when it is asked for.

    Attributes:
        kind: What one of them is called in a sentence, such as `head`.
        group: Entry-point group of packages that add some.
        own: Names of emo's own, each with its `module` or `module:attribute`; a package cannot take these names.
        base: `module:Class` of which a package's must be a subclass, or an instance; empty: a test by the caller.
    """

    kind: str
    group: str
    own: Mapping[str, str]
    base: str = ""

    def names(self) -> list[str]:
        """Return all names: emo's own, then those that installed packages add."""
        added = {point.name for point in _points(group=self.group)} - self.own.keys()
        return [*self.own, *sorted(added)]

    def __contains__(self, name: str) -> bool:
        """Say whether there is a plug-in of this name; for one of emo's own, no package is looked at."""
        return name in self.own or name in _points(group=self.group).names

    def find(self, name: str) -> Any:
        """Return the plug-in of this name.

        Raises:
            UsageError: There is none (the nearest is given), or an installed package's cannot be loaded.
        """
        if name in self.own:
            return pkgutil.resolve_name(self.own[name])
        for point in _points(group=self.group, name=str(name)):
            try:
                return self._checked(point)
            except UsageError:
                raise
            except Exception as error:  # the code of somebody else's package runs here
                what = f"{self.kind.capitalize()} {name} of {point.value} cannot be loaded: {error!r}."
                raise UsageError(what, "Mend that package or remove it.") from error
        hint = f"{self.kind.capitalize()}s: {', '.join(self.names())}. {did_you_mean(str(name), self.names())}"
        raise UsageError(f"There is no {self.kind} {name!r}.", hint.strip())

    def all(self) -> tuple[list[Any], list[str]]:
        """Return all plug-ins, and a sentence for each of an installed package that cannot be loaded."""
        found, broken = [], []
        for name in self.names():
            try:
                found.append(self.find(name))
            except UsageError as error:
                broken.append(error.message)
        return found, broken

    def _checked(self, point: metadata.EntryPoint) -> Any:
        """Load a package's plug-in, and refuse what is none.

        Raises:
            UsageError: It is of another kind.
        """
        found = point.load()
        if self.base:
            base = pkgutil.resolve_name(self.base)
            if not (issubclass(found, base) if isinstance(found, type) else isinstance(found, base)):
                what = f"{self.kind.capitalize()} {point.name} of {point.value} is no {base.__name__}: {found!r}."
                raise UsageError(what, f"It must derive from {self.base.replace(':', '.')}.")
        return found


def _points(group: str, name: str | None = None) -> metadata.EntryPoints:
    from importlib import metadata  # reads what is installed: not where emo's own is meant

    return metadata.entry_points(group=group) if name is None else metadata.entry_points(group=group, name=name)
