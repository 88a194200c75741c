"""Reports of a training: by steps into the log, and by time to whoever waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo.featstore.errors import TrainError
from emo.train.llm import progress
from emo.train.llm.progress import MENTION_S, Progress, Reporter


def test_a_slow_training_speaks_between_two_lines_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard = [100.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = Reporter(tmp_path, 0, lambda each: heard.append(each.step), False, "uar", silent=False)
    other = Reporter(tmp_path, 0, None, False, "uar", silent=True)

    def state(step: int) -> Progress:
        return Progress(step, 100, 1, 0.5, 1e-4)

    now[0] += MENTION_S - 1
    assert not reporter.quiet_for(MENTION_S)
    now[0] += 2
    assert reporter.quiet_for(MENTION_S)
    assert not other.quiet_for(MENTION_S)  # of several processes, one speaks
    reporter.mention(state(3))
    assert not reporter.quiet_for(MENTION_S)
    reporter.tell(state(10))
    assert heard == [3, 10]
    assert [line.count('"step": 10') for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1]


def test_of_an_earlier_log_only_half_a_last_line_is_passed_over(tmp_path: Path) -> None:
    path, rows = tmp_path / "log.jsonl", ['{"step": 1}', '{"step": 2}', '{"step": 3}']
    path.write_text("\n".join(rows) + '\n{"ste')
    Reporter(tmp_path, 2, None, False, "uar", silent=False)
    assert path.read_text() == "\n".join(rows[:2]) + "\n"
    for odd in ('{"ste', '{"loss": 1}', "[1]"):
        text = f"{rows[0]}\n{odd}\n{rows[1]}\n"
        path.write_text(text)
        with pytest.raises(TrainError, match=r"log\.jsonl line 2 is damaged"):
            Reporter(tmp_path, 2, None, False, "uar", silent=False)
        assert path.read_text() == text
