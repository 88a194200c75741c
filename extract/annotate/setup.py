"""From the flags of `emo annotate run` to its plan: sources, rules, prompts and describers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emo.extract.annotate.describer import Asking, Describer
from emo.extract.annotate.expression import Matching
from emo.extract.annotate.peak import PeakOptions
from emo.extract.annotate.plan import QUESTIONS, VERIFY, Plan
from emo.extract.annotate.prompts import load_prompt
from emo.extract.annotate.registry import find_describer, find_units
from emo.extract.annotate.replay import Recorder
from emo.extract.annotate.units import UnitSource
from emo.extract.session import read_as
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import has_store, open_store
from emo.featstore.workspace import DataTable, Workspace


@dataclass(frozen=True)
class Settings:
    """Everything that a run's flags say, see `run_page` in `pages.py`."""

    aus: str | None
    face: int | None
    peak: str
    leave_out: str
    smooth: int
    confidence: float
    rules: str
    share: float
    strength: float
    phrases: str
    language: str
    seed: int
    labels: str
    describer: str
    scene: str | None
    voice: str | None
    caption: str | None
    verify: str | None
    scene_prompt: str
    voice_prompt: str
    record: Path | None

    @property
    def named(self) -> dict[str, str]:
        """Describers by question, as they were named."""
        named = {kind: getattr(self, kind) or self.describer for kind in QUESTIONS}
        return named | ({VERIFY: self.verify} if self.verify else {})


def make_plan(workspace: Workspace, table: DataTable, given: Settings, asking: Asking) -> Plan:
    """Return what a run makes.

    Raises:
        UsageError: A flag is wrong.
    """
    describers = _describers(given, asking)
    names = {"scene": given.scene_prompt, "voice": given.voice_prompt, "caption": "caption", VERIFY: VERIFY}
    prompts = {kind: load_prompt(names[kind], given.language, workspace.root) for kind in describers}
    leave_out = tuple(each.strip() for each in given.leave_out.split(",") if each.strip())
    profile = "facs" if given.language == "zh" and given.phrases == "merr-2024" else given.phrases
    return Plan(
        source=_source(workspace, table, given),
        peak=PeakOptions(given.peak, leave_out, given.smooth, given.confidence, given.rules),
        matching=Matching(given.rules, given.share, given.strength, profile, given.language, given.seed, leave_out),
        labels=given.labels,
        prompts=prompts,
        describers=describers,
        reading=read_as(workspace),
    )


def _describers(given: Settings, asking: Asking) -> dict[str, Describer]:
    """Return the describer of each question; one that is named twice is opened once."""
    opened = {text: find_describer(text, asking) for text in dict.fromkeys(given.named.values())}
    if given.record is not None:
        opened = {text: Recorder(each, given.record) for text, each in opened.items()}
    return {kind: opened[text] for kind, text in given.named.items()}


def _source(workspace: Workspace, table: DataTable, given: Settings) -> UnitSource:
    text = given.aus or (str(table.aus) if table.aus else "")
    if not text:
        hint = f'Name OpenFace\'s tables: --aus FOLDER, or aus = "..." under [data.{table.name}]; or --aus mesh.'
        raise UsageError(f"{table.name} has no action units.", hint)
    store = open_store(workspace.store_path) if has_store(workspace.store_path) else None
    return find_units(text, given.face, store)
