"""Trial of a bucket: do commits of several writers stay apart?

Some clones of S3 ignore the condition of a create, others look first and create afterwards. A race shows the first at
once and the second by chance: what is found here is so, and what is not found may be.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from statistics import median

from emo.featstore.address import Url, address
from emo.featstore.errors import EmoError, StoreError
from emo.featstore.storage.medium import Medium
from emo.featstore.storage.mediums import open_medium
from emo.featstore.text import counted

WRITERS = 8
ROUNDS = 100
LARGE_BYTES = 20 << 20  # put in parts
Said = tuple[str, str, str]  # status, what was found, what to do


def try_bucket(place: str) -> list[Said]:
    """Write, read, list and remove under a scratch prefix, and let 8 writers race for one name 100 times.

    Returns:
        Status (`ok`, `warn` or `problem`), what was found, and what to do about it, line by line.

    Raises:
        StoreError: The bucket cannot be opened or reached.
        UsageError: The libraries for it are not installed.
    """
    url = address(place) / f".emo-doctor-{uuid.uuid4().hex[:12]}"
    assert isinstance(url, Url)
    mediums = [open_medium(url) for _ in range(WRITERS)]
    medium = mediums[0]
    whole = _reach(medium)
    said: list[Said] = []
    try:
        said += _plain(medium, whole)
        said += _race(mediums)
        if all(status == "ok" for status, _, _ in said):
            said += _large(medium)
    finally:
        try:
            medium.remove("")
        except EmoError as error:
            said.append(
                ("problem", f"The scratch prefix {url} is left: {error.message}", "Let these keys delete, too.")
            )
    return said


def _reach(medium: Medium) -> str:
    """Ask whether anybody is there, which is given up sooner than a commit; return the bucket and who has it."""
    from emo.featstore.storage.bucket import HELP, Bucket

    assert isinstance(medium, Bucket)
    try:
        with suppress(FileNotFoundError):
            medium.list("")
    except StoreError as error:
        if error.hint == HELP:  # which names this very trial
            raise StoreError(error.message, "Correct the URL, the keys, or the endpoint (AWS_ENDPOINT_URL).") from error
        raise
    return medium.whole


def _plain(medium: Medium, whole: str) -> Iterator[Said]:
    times_s = []
    for number in range(5):
        start = time.perf_counter()
        medium.put(f"plain/{number}", b"emo" * 100)
        times_s.append(time.perf_counter() - start)
    found = sorted(medium.list("plain"))
    data = bytes(medium.map("plain/3")[3:6])
    if found != list("01234") or data != b"emo":
        yield "problem", "What is put is not what is listed and read at once afterwards.", "Use another endpoint."
    else:
        yield "ok", f"{whole}: put, list and read in ranges; a put takes {1000 * median(times_s):.0f} ms", ""


def _race(mediums: list[Medium]) -> Iterator[Said]:
    """Each round: all writers create one name at once; one must win, and its bytes must be there."""
    torn, several, none = 0, 0, 0
    for number in range(ROUNDS):
        start, won, failed = threading.Barrier(len(mediums)), list[int](), list[EmoError]()

        def create(
            mine: int,
            name: str = f"race/{number}",
            start: threading.Barrier = start,
            won: list[int] = won,
            failed: list[EmoError] = failed,
        ) -> None:
            start.wait()
            try:
                if mediums[mine].put_new(name, f"{mine}".encode() * 1000, ""):
                    won.append(mine)
            except EmoError as error:
                failed.append(error)

        racers = [threading.Thread(target=create, args=(mine,)) for mine in range(len(mediums))]
        for each in racers:
            each.start()
        for each in racers:
            each.join()
        if failed:
            raise failed[0]
        several += len(won) > 1
        none += not won
        torn += len(won) == 1 and mediums[0].get(f"race/{number}") != f"{won[0]}".encode() * 1000
    what = f"{len(mediums)} writers raced for one name {ROUNDS} times: "
    if several or torn or none:
        what += (
            f"several won in {counted(several, 'round')}, none in {none}, the bytes were not the winner's in {torn}."
        )
        why = "is ignored here" if several == ROUNDS else "is not kept at the same instant here"
        do = f"The condition of a create (`If-None-Match`) {why}: one writer only, or another endpoint."
        yield "problem", what, do
    else:
        yield "ok", what + "one won each time, and its bytes were there", ""


def _large(medium: Medium) -> Iterator[Said]:
    lease = medium.lease()
    try:
        out = lease.scratch.output("large/data")
        for part in range(LARGE_BYTES >> 20):
            out.write(bytes([part]) * (1 << 20))
        out.finish()
        lease.place("large", "large")
        data = medium.map("large/data", fresh=True)
        middle = data[(7 << 20) - 1 : (7 << 20) + 1].tobytes()
    finally:
        lease.close()
    if len(data) != LARGE_BYTES or middle != bytes([6, 7]):
        yield "problem", "An upload in parts came out as other bytes.", "Use another endpoint."
    else:
        yield "ok", f"{LARGE_BYTES >> 20} MiB put in parts, and a range of it read", ""
