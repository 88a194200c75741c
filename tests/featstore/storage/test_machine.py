"""A state machine over the store against a dictionary: add, commit, kill, resume, gc, compact, read."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from emo.featstore.errors import MediaError
from emo.featstore.storage import durable
from emo.featstore.storage.store import Store
from emo.featstore.storage.writer import Writer

COMMIT_STEPS = durable.STEPS[durable.STEPS.index("writer-locked") : durable.STEPS.index("writer-closed")]
CLIPS = st.integers(0, 9)
WRITERS = st.integers(0, 1)
VERSIONS = st.integers(0, 3)
SPECS = st.sampled_from(["utt", "frame", "tokens"])
Change = tuple[str, int, int | None]  # (spec, clip, version or None: failed)


class StoreMachine(RuleBasedStateMachine):
    """Two writers in this process, others that are killed, and a reader that only ever refreshes."""

    lab: Any

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp()) / "a.emo"
        self.reader = Store.create(self.path)
        self.writers: list[Writer | None] = [None, None]
        self.pending: list[list[Change]] = [[], []]
        self.rows: dict[tuple[str, int], int] = {}  # (spec, clip) -> version
        self.failed: set[tuple[str, int]] = set()

    def teardown(self) -> None:
        for writer in self.writers:
            if writer is not None:
                writer.abandon()
        shutil.rmtree(self.path.parent)

    def apply(self, changes: list[Change]) -> None:
        for spec, clip, version in changes:
            if version is None:
                self.failed.add((spec, clip))
            else:
                self.rows[spec, clip] = version

    def write(self, writer: Writer, change: Change) -> None:
        name, clip, version = change
        spec = getattr(self.lab, name)
        if version is None:
            writer.clip(f"c{clip}", self.lab.media(clip))
            writer.fail(spec, f"c{clip}", MediaError("no-face", "None."))
        else:
            self.lab.put(writer, clip, [spec], version)

    @rule(which=WRITERS, spec=SPECS, clip=CLIPS, version=VERSIONS | st.none())
    def add(self, which: int, spec: str, clip: int, version: int | None) -> None:
        if self.writers[which] is None:
            self.writers[which] = Store.open(self.path).writer()
        writer = self.writers[which]
        assert writer is not None
        self.write(writer, (spec, clip, version))
        self.pending[which].append((spec, clip, version))

    @rule(which=WRITERS, close=st.booleans())
    def commit(self, which: int, close: bool) -> None:
        writer = self.writers[which]
        if writer is not None:
            writer.close() if close else writer.commit()
            self.apply(self.pending[which])
            self.pending[which] = []
            self.writers[which] = None if close else writer

    @rule(which=WRITERS)
    def abandon(self, which: int) -> None:
        writer = self.writers[which]
        if writer is not None:
            writer.abandon()
            self.writers[which], self.pending[which] = None, []

    @rule(
        step=st.sampled_from(COMMIT_STEPS), changes=st.lists(st.tuples(SPECS, CLIPS, VERSIONS), min_size=1, max_size=3)
    )
    def kill(self, step: str, changes: list[Change]) -> None:
        def run() -> None:
            with Store.open(self.path).writer() as writer:
                for change in changes:
                    self.write(writer, change)

        killed = self.lab.killed_at(step, run)
        if not killed or durable.STEPS.index(step) >= durable.STEPS.index("journal-linked"):
            self.apply(changes)

    @rule()
    def resume(self) -> None:
        store = Store.open(self.path)
        wanted = [(f"c{i}", self.lab.media(i)) for i in range(5)]
        work = store.work(self.lab.specs, wanted)
        with store.writer() as writer:
            for name in ("utt", "frame", "tokens"):
                spec = getattr(self.lab, name)
                todo = {i for i in range(5) if (name, i) not in self.rows and (name, i) not in self.failed}
                assert work[spec.key] == {self.lab.media(i) for i in todo}
                for i in todo:
                    self.write(writer, (name, i, 0))
                    self.rows[name, i] = 0

    @rule()
    def compact(self) -> None:
        Store.open(self.path).compact()

    @rule()
    def gc(self) -> None:
        Store.open(self.path).gc()

    @rule()
    def nothing_uncommitted_and_nothing_lost_on_disk(self) -> None:
        assert Store.open(self.path).verify() == []

    @invariant()
    def reads_equal_the_dictionary(self) -> None:
        for store in (self.reader, Store.open(self.path)):
            store.refresh()
            found = self.lab.contents(store)
            expected = {}
            for (name, clip), version in self.rows.items():
                spec = getattr(self.lab, name)
                expected[spec.key, f"c{clip}"] = self.lab.stored(spec, self.lab.media(clip), version).tobytes()
            assert {key: value[1] for key, value in found.items()} == expected
            failed = {(each.feature, each.clip) for each in store.failures()}
            left = {(getattr(self.lab, name).key, f"c{clip}") for name, clip in self.failed - set(self.rows)}
            assert failed == left


def test_the_store_is_a_dictionary_whatever_happens_to_its_writers(lab: Any) -> None:
    StoreMachine.lab = lab
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
