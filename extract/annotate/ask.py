"""One question about many clips to a model that sees and hears them: frames and sound of each, from one decode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from emo.extract.annotate.answers import check_answer
from emo.extract.annotate.budget import Budget, make_budget
from emo.extract.annotate.describer import Asking, Clues, Describer, Question, jpeg
from emo.extract.annotate.registry import find_describer
from emo.extract.annotate.run import Run
from emo.extract.annotate.work import Keep, OneClip, made_of
from emo.extract.media.preprocess import uniform_indices
from emo.extract.media.reading import FRAMES, Reading
from emo.extract.run.interrupt import interruptible
from emo.extract.session import read_as
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.inquiry import Inquiry, Replies
from emo.featstore.page import throttle
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.reader import Failure
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import open_store
from emo.featstore.text import counted, some_of
from emo.featstore.transcripts import text_of
from emo.featstore.workspace import Workspace

WORKERS, ASKING_WORKERS = 2, 8  # clips at once: in this process, of a model behind an endpoint
ASKED = "asked"  # kind of the records of answers
NO_FILE = "it has no media file here"
OTHER_WORDS = "what was answered was asked with another transcript"  # of a copy, or with `cached`


@dataclass(frozen=True)
class AskPlan:
    """The records that one question makes.

    Attributes:
        inquiry: The question.
        describer: Whom it goes to.
        reading: How clips are decoded.
    """

    inquiry: Inquiry
    describer: Describer
    reading: Reading

    def __post_init__(self) -> None:
        if not self.describer.answers(self.inquiry.task):
            raise UsageError(f"{self.describer.id} cannot answer {self.inquiry.task}.", "Name another model.")

    @property
    def describers(self) -> Mapping[str, Describer]:
        """The model that is asked."""
        return {self.inquiry.task: self.describer}

    @property
    def answers(self) -> Mapping[str, EncoderSpec]:
        """Its records."""
        return {self.inquiry.task: self.goal}

    @cached_property
    def goal(self) -> EncoderSpec:
        """Records of the answers: model, words, decoding, and what is shown."""
        inquiry = self.inquiry
        shown: dict[str, Any] = {"languages": list(inquiry.languages)}
        if inquiry.frames:
            shown["frames"] = {"of": FRAMES, "count": inquiry.frames, "choice": "uniform", "side": inquiry.side}
        if inquiry.sound:
            shown["sound"] = dict(self.reading.audio_recipe)
        return record_spec(
            f"asked-{inquiry.task}",
            ASKED,
            self.describer.id,
            prompt=inquiry.identity,
            decoding=self.describer.decoding(),
            inputs=shown,
        )

    def specs(self) -> list[EncoderSpec]:
        """Return all recipes of records."""
        return [self.goal]


class ClipAsker(OneClip):
    """Asks about one clip.

    Args:
        plan: The question.
        clip: The clip; it has a media file.
        file: Its content.
        keep: Where the answer is kept.
    """

    def __init__(self, plan: AskPlan, clip: Clip, file: FileId, keep: Keep) -> None:
        super().__init__(clip, file, keep, plan.reading, plan.goal)
        self.plan = plan

    def make(self) -> None:
        """Ask, unless it was asked with the same words."""
        plan, inquiry = self.plan, self.plan.inquiry
        words = told(inquiry, self.clip)
        of = made_of(words)
        if self.keep.kept(plan.goal, of) is not None:
            return
        pictures, sound = self._pictures(), self._hears()
        if not pictures and not sound:
            raise MediaError("nothing-to-show", f"{self.clip.id} has neither the frames nor the sound that are sent.")
        clues = Clues({}, _no_frame, self.audio if sound else _silence, lambda: pictures)
        with self.keep.turn(plan.describer):
            reply = plan.describer.describe(Question(inquiry.task, inquiry.system, words, "clip", "en", clues))
            if plan.describer.remote:
                self.keep.paid(plan.describer.id, reply)
        text = check_answer(reply, asked=inquiry.identity, filled=words)
        self.keep.put(plan.goal, {"text": text, "of": of, "frames": len(pictures), "sound": sound})

    def _pictures(self) -> list[bytes]:
        """Frames of the whole clip as JPEG; of a clip with fewer frames each once, of one without video none."""
        count, info = self.plan.inquiry.frames, self.opened().info
        if not count or not info.has_video:
            return []
        wanted = set(uniform_indices(info.n_frames, count))
        return [jpeg(each.rgb, self.plan.inquiry.side) for each in self.opened().frames() if each.index in wanted]

    def _hears(self) -> bool:
        return self.plan.inquiry.sound and self.opened().info.has_audio


def told(inquiry: Inquiry, clip: Clip) -> str:
    """Return what a model is told about a clip."""
    return inquiry.words(text_of(clip.transcripts, inquiry.languages))


def ask(
    workspace: Workspace, clips: Sequence[Clip], model: str, inquiry: Inquiry, say: Callable[[str], None]
) -> Replies:
    """Ask a model about clips; what it was asked before, with the same words about the same content, it is not again.

    Args:
        workspace: Its store keeps the answers.
        clips: Those without a media file get no answer.
        model: `http://HOST/v1#NAME`, `replay:FILE`, or another describer, see `find_describer`.
        inquiry: What is asked, and how.
        say: Hears how far it is.

    Raises:
        UsageError: There is no such model, or it cannot be asked at all.
        StoreError: The store cannot be written.
    """
    budget = make_budget(inquiry.max_requests, None, None, [])
    asking = Asking(
        timeout_s=inquiry.timeout_s,
        temperature=inquiry.temperature,
        seed=inquiry.seed,
        max_tokens=inquiry.max_tokens,
        attempt=budget.attempt,
        wait=budget.wait,
        device=inquiry.device,
    )
    describer = find_describer(model, asking)
    plan = AskPlan(inquiry, describer, read_as(workspace))
    paid = [describer.id] if describer.remote else []
    budget.price(make_budget(inquiry.max_requests, inquiry.max_cost, inquiry.prices, paid))
    store = open_store(workspace.store_path, create=True)
    workers = inquiry.concurrency or (ASKING_WORKERS if describer.remote else WORKERS)
    run = Run(store, plan, budget, workers, inquiry.retry_failed, throttle(say), ClipAsker)
    if not inquiry.cached:
        with interruptible(run, say, lambda: None):
            run.run([each for each in clips if each.media is not None])
        store.refresh()
    return _replies(run, plan, budget, clips)


def _replies(run: Run, plan: AskPlan, budget: Budget, clips: Sequence[Clip]) -> Replies:
    failures = {each.media or each.clip: each for each in run.store.failures() if each.feature == plan.goal.key}
    found = {clip.id: _found(run, plan, clip, failures) for clip in clips}
    said = {name: value["text"] for name, value in found.items() if isinstance(value, dict)}
    not_asked = f"not asked: {budget.stopped}" if budget.stopped else "it was not asked about"
    why = {name: value or not_asked for name, value in found.items() if not isinstance(value, dict)}
    progress = run.progress
    counts: dict[str, Any] = {"made": progress.made, "there": progress.there, "failed": dict(progress.failed)}
    counts |= {**budget.value(), "stopped": budget.stopped}
    return Replies(
        plan.describer.id, plan.goal.key, said, why, _notes(run, plan, budget, found), counts, progress.stopping
    )


def _found(run: Run, plan: AskPlan, clip: Clip, failures: Mapping[str, Failure]) -> dict[str, Any] | str:
    """Return the answer about a clip as it is kept, or why there is none; empty where it was not asked about."""
    if clip.media is None:
        return NO_FILE
    file = run.store.file_of(clip.media)
    media = clip.id if file is None else file.media
    value = None if file is None else run.store.values_of([plan.goal], media).get(plan.goal.fingerprint)
    if value is None:
        return f"{failures[media].kind}: {failures[media].message}" if media in failures else ""
    if "text" not in value:
        return f"{value['failed']}: {value['message']}"
    if value["of"] != made_of(told(plan.inquiry, clip)):
        return "" if run.budget.stopped else OTHER_WORDS
    return dict(value)


def _notes(run: Run, plan: AskPlan, budget: Budget, found: Mapping[str, dict[str, Any] | str]) -> tuple[str, ...]:
    notes = [f"{run.recovered:,} answers of a run that was killed are kept."] if run.recovered else []
    if budget.asked:
        notes.append(f"{budget.sentence(plan.describer.id)}.")
    inquiry = plan.inquiry
    answers = {name: value for name, value in found.items() if isinstance(value, dict)}
    lacking = (("sound", inquiry.sound, "by frames"), ("frames", bool(inquiry.frames), "by sound"))
    for lacks, wanted, how in lacking:
        if wanted and (without := [name for name, value in answers.items() if not value[lacks]]):
            who = f"{counted(len(without), 'clip has', 'clips have')} no {lacks}"
            notes.append(f"{who}; answered {how} alone: {some_of(without, 3)}.")
    return tuple(notes)


def _no_frame() -> Any:
    raise AssertionError("a whole clip has no one frame")


def _silence() -> Any:
    import numpy as np

    return np.zeros(0, np.float32)
