"""Writers into one store in a bucket: moto's S3 in a process of its own, and nobody but children speaks to it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CLIPS, WRITERS = 12, 4
SERVE = """
import sys
from buckets import served
with served() as (endpoint, _):
    print(endpoint, flush=True)
    sys.stdin.read()
"""
HERE = Path(__file__).resolve().parent.parent / "featstore"


class BucketWriting:
    """Features of twelve clips by four writers at once, in commits of one clip.

    Args:
        root: A folder.
        lab: Specs and records, see the tests of the store.
        tell_commits: Has each commit of this process reported.
    """

    writers = WRITERS

    def __init__(self, root: Path, lab: Any, tell_commits: Callable[[Callable[[str], None]], None]) -> None:
        self.lab, self.tell_commits, self.rounds = lab, tell_commits, 0
        command = [sys.executable, "-c", SERVE]
        environment = {**os.environ, "PYTHONPATH": f"{HERE / 'storage'}:{os.environ.get('PYTHONPATH', '')}"}
        # It ends with this process, whose end of the pipe is then closed.
        pipe = subprocess.PIPE
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        assert self.server.stdout is not None
        endpoint = self.server.stdout.readline().strip()
        assert endpoint, "moto's server did not start"
        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        os.environ |= {"AWS_REGION": "us-east-1", "EMO_HOME": str(root / "home")}
        self.begin()
        self._one_after_the_other()
        self.truth = apart(self._contents)
        assert self.truth == lab.expected(range(CLIPS))
        self.begin()

    def begin(self) -> None:
        """Another store, which is not there yet."""
        self.rounds += 1
        self.store = f"s3://bucket/{self.rounds}.emo"

    def work(self, k: int, ack: Callable[[str], None]) -> None:
        """What is left of a writer's share."""
        from emo.featstore.storage.store import open_store

        self.tell_commits(ack)
        store, lab = open_store(self.store, create=True), self.lab
        mine = range(k, CLIPS, WRITERS)
        work = store.work(lab.specs, [(f"c{i}", lab.media(i)) for i in mine])
        with store.writer() as writer:
            for i in mine:
                if todo := [spec for spec in lab.specs if lab.media(i) in work[spec.key]]:
                    lab.put(writer, i, todo)
                    writer.commit()

    def check(self, acked: set[str], killed: int) -> Iterator[str]:
        """What is wrong: commits lost, commits that nobody made, parts of clips, rows that are not the true ones."""
        yield from apart(lambda: self._wrong(acked, killed))

    def whole(self) -> bool:
        """Whether everything is there, also after `gc` of what the killed left, and nothing of them after it."""
        return bool(apart(self._whole))

    def _wrong(self, acked: set[str], killed: int) -> list[str]:
        from emo.featstore.storage import journal
        from emo.featstore.storage.store import Store, has_store

        if not has_store(self.store):
            return ["the store is gone"] if acked else []
        store = Store.open(self.store)
        numbers = journal.numbers(store.medium)
        found = {journal.name_of(number) for number in numbers}
        wrong = [f"{name} is lost" for name in sorted(acked - found)] + list(map(str, store.verify()))
        if numbers != list(range(1, len(numbers) + 1)):
            wrong.append(f"numbers are left out: {numbers}")
        if len(found - acked) > killed:
            wrong.append(f"{sorted(found - acked)} by {killed} that were killed")
        rows = self.lab.contents(store)
        wrong += [f"other numbers of {which}" for which, row in rows.items() if self.truth.get(which) != row]
        features = {clip: sum(name == clip for _, name in rows) for clip in store.clips()}
        return wrong + [f"{count} features of {clip}" for clip, count in features.items() if count != 3]

    def _whole(self) -> bool:
        from emo.featstore.storage import bucket
        from emo.featstore.storage.store import Store

        before = self._contents()
        bucket.GRACE_S = -1.0  # as if an hour had gone by
        store = Store.open(self.store)
        store.gc()
        same = before == self._contents() == self.truth
        return same and not store.medium.leases() and store.verify() == [] and not store.gc().segments

    def _contents(self) -> Any:
        from emo.featstore.storage.store import Store

        return self.lab.contents(Store.open(self.store))

    def _one_after_the_other(self) -> None:
        for k in range(WRITERS):
            apart(lambda k=k: self.work(k, lambda name: None))  # type: ignore[misc]


def apart(call: Callable[[], Any]) -> Any:
    """Return what a call gives in a child process: a client of a bucket has threads, and would not survive a fork."""
    end, pipe = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.close(end)
            with os.fdopen(pipe, "wb") as out:
                pickle.dump(call(), out)
            code = 0
        finally:
            if code:
                import traceback

                traceback.print_exc()
            os._exit(code)
    os.close(pipe)
    with os.fdopen(end, "rb") as into:
        data = into.read()
    assert os.waitpid(process, 0)[1] == 0, "a look at the bucket failed"
    return pickle.loads(data)
