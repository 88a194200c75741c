"""Reports of a training in progress: to the caller, to log.jsonl, and to TensorBoard where the recipe says so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import write_atomic
from emo.featstore.install import install_command
from emo.featstore.reading import parse_own, read_bytes

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG, BOARD = "log.jsonl", "tensorboard"
MENTION_S = 30.0  # without a word, before the caller is told how far it is; the log keeps its own rhythm
SCALARS = ("loss", "lr", "samples_per_s", "tokens_per_s", "mfu", "memory_bytes")


@dataclass(frozen=True)
class Progress:
    """State of the training, over the steps since the last report.

    Attributes:
        step, steps: Optimizer steps done, and of the whole run.
        loss: Mean over supervised tokens.
        tokens_per_s: Rows that are no padding, embeddings included.
        mfu: As `MFU_DEFINITION`; `None` where the device's peak is not known.
        memory_bytes: Most GPU memory used so far; `None` on a CPU.
        metric: Of the validation that has just been made, else `None`.
        best: Whether it is the best so far.
    """

    step: int
    steps: int
    epoch: int
    loss: float | None
    lr: float
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    memory_bytes: int | None = None
    eta_s: float | None = None
    metric: float | None = None
    best: bool = False


class Meter:
    """Sums since the last report."""

    def __init__(self) -> None:
        self.start, self.steps, self.loss, self.tokens, self.samples = time.perf_counter(), 0, 0.0, 0, 0

    def add(self, loss: float, tokens: int, samples: int) -> None:
        """Count one step."""
        self.steps, self.loss = self.steps + 1, self.loss + loss
        self.tokens, self.samples = self.tokens + tokens, self.samples + samples

    def take(self, left: int, flops_per_token: int, peak: float | None) -> dict[str, Any]:
        """Mean loss and speed by their names in `Progress`.

        Args:
            left: Steps still to be made.
            flops_per_token: Of the model.
            peak: FLOP/s of all devices together, where it is known.
        """
        passed = max(time.perf_counter() - self.start, 1e-9)
        speed = self.tokens / passed
        return {
            "loss": self.loss / self.steps,
            "samples_per_s": self.samples / passed,
            "tokens_per_s": speed,
            "mfu": speed * flops_per_token / peak if peak else None,
            "eta_s": left * passed / self.steps,
        }


class Reporter:
    """Tells of the steps of a run, while it is entered.

    Args:
        run_dir: Run folder.
        step: Steps done. What was told of later ones is dropped, because they will be made again.
        on_progress: Called with every report.
        board: Whether TensorBoard is told too.
        metric: Name of what a validation measures.
        silent: Tell nothing: of several processes, only the first one does.
    """

    def __init__(
        self,
        run_dir: Path,
        step: int,
        on_progress: Callable[[Progress], None] | None,
        board: bool,
        metric: str,
        silent: bool,
    ) -> None:
        self.log, self.on_progress, self.metric, self.silent = run_dir / LOG, on_progress, metric, silent
        self.board: SummaryWriter | None = None
        self._told_s = time.monotonic()
        if silent:
            return
        _trim(self.log, step)
        if board:  # which drops what its older files say of `purge_step` and later ones
            self.board = summary_writer()(run_dir / BOARD, purge_step=step + 1)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.board is not None:
            self.board.close()

    def tell(self, progress: Progress) -> None:
        """One line of the log, the same numbers for TensorBoard, and the caller's own report."""
        if self.silent:
            return
        row = {key: value for key, value in asdict(progress).items() if value is not None}
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if self.board is not None:
            scalars = {f"train/{name}": row[name] for name in SCALARS if name in row}
            if progress.metric is not None:  # the learning rate of this step is told already
                scalars = {f"validation/{self.metric}": progress.metric}
            for name, value in scalars.items():
                self.board.add_scalar(name, value, progress.step)
            self.board.flush()  # so that a killed process leaves no less here than in the log
        self.mention(progress)

    def mention(self, progress: Progress) -> None:
        """Tell the caller alone, between two lines of the log."""
        self._told_s = time.monotonic()
        if self.on_progress is not None:
            self.on_progress(progress)

    def quiet_for(self, seconds: float) -> bool:
        """Say whether nobody has been told anything for so long; of several processes only the first one knows."""
        return not self.silent and time.monotonic() - self._told_s >= seconds


def summary_writer() -> type[SummaryWriter]:
    """TensorBoard's writer.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "tensorboard: true needs the package tensorboard.", f"Install it: {install_command('tensorboard')}."
        ) from error
    return SummaryWriter


def _trim(path: Path, step: int) -> None:
    """Drop the rows of steps that will be made again, and half a line that a killed process has left at the end.

    Raises:
        TrainError: Another line is damaged.
    """
    text = read_bytes(path).decode(errors="replace") if path.exists() else ""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line]
    kept = []
    for number, line in lines:
        try:
            if parse_own(line, str(path))["step"] <= step:
                kept.append(line + "\n")
        except (UsageError, TypeError, KeyError) as error:
            if number != lines[-1][0]:  # the last line of a killed process may be half a line
                hint = "Remove that line: this file holds reports alone."
                raise TrainError(f"{path} line {number} is damaged: it reports no step.", hint) from error
    write_atomic(path, "".join(kept))
