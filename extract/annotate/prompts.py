"""Prompts by name: files that are shipped, each of which a workspace may replace by one of its own in `prompts/`."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emo.featstore.errors import UsageError
from emo.featstore.reading import read_text
from emo.featstore.text import did_you_mean

OWN = Path(__file__).parent / "prompts"
FOLDER = "prompts"  # of a workspace
NAME = re.compile(r"[\w-]+")
CLUES = ("scene", "expression", "voice", "text", "label", "caption")  # what a text may name between braces


@dataclass(frozen=True)
class Prompt:
    """One question to a model, with places for what is known of a clip.

    Attributes:
        name: Of its file.
        version: As the file says.
        needs: `image`, `sound`, or nothing, that is shown with it.
        system: Text of the system's role; may be empty.
        text: Text of the user's role, with `{scene}`, `{label}` and such.
        language: `en` or `zh`.
    """

    name: str
    version: int
    needs: str
    system: str
    text: str
    language: str

    @property
    def identity(self) -> str:
        """Everything that a model is told, as the recipe of its answers has it."""
        return f"{self.name} v{self.version} {self.language}\n{self.system}\n{self.text}"

    def fill(self, clues: Mapping[str, str]) -> str:
        """Return the text with the clip's clues in their places; a clue that is not known is empty."""
        return self.text.format_map({name: clues.get(name, "") for name in CLUES})


def load_prompt(name: str, language: str = "en", workspace: Path | None = None) -> Prompt:
    """Return a prompt: the workspace's own file, else the one that is shipped.

    Raises:
        UsageError: There is none of that name, or its file is wrong.
    """
    known = sorted(path.stem for path in OWN.glob("*.yaml"))
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a prompt.", f"Prompts: {', '.join(known)}.")
    for path in (*([workspace / FOLDER / f"{name}.yaml"] if workspace else []), OWN / f"{name}.yaml"):
        if path.is_file():
            return _read(path, name, language)
    hint = f"Prompts: {', '.join(known)}; your own are files in {FOLDER}/. {did_you_mean(name, known)}"
    raise UsageError(f"There is no prompt {name!r}.", hint.strip())


def _read(path: Path, name: str, language: str) -> Prompt:
    import yaml

    try:
        value = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    texts = value.get(language) if isinstance(value, dict) else None
    if not isinstance(texts, dict) or not isinstance(texts.get("text"), str):
        hint = f"Write version: 1, needs: image (or sound), and {language}: {{system: ..., text: ...}}."
        raise UsageError(f"{path} has no text in {language!r}.", hint)
    version, needs = value.get("version", 1), value.get("needs", "")
    if not isinstance(version, int) or needs not in ("", "image", "sound"):
        raise UsageError(f"{path}: version must be a whole number, and needs image, sound or nothing.")
    try:
        places = [field for _, field, _, _ in string.Formatter().parse(texts["text"]) if field is not None]
    except ValueError as error:
        raise UsageError(f"{path}: {error}.", "Write {{ and }} for braces that are text.") from error
    if wrong := [each for each in places if each not in CLUES]:
        hint = f"Known: {', '.join(f'{{{each}}}' for each in CLUES)}."
        raise UsageError(f"{path} names {{{wrong[0]}}}, which no clip has.", hint)
    return Prompt(name, version, needs, str(texts.get("system") or ""), texts["text"], language)
