"""Stores in a bucket: the contract of the medium, commits under faults, and what every command finds there."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("obstore", reason="stores in a bucket need the extra `cloud`")

from buckets import Front, Shaky, served
from obstore.exceptions import AlreadyExistsError, GenericError
from obstore.store import MemoryStore

from emo.featstore.address import Url, address
from emo.featstore.errors import StoreCorrupt, StoreError, UsageError
from emo.featstore.storage import bucket, journal, trial
from emo.featstore.storage.cache import Cache, open_cache
from emo.featstore.storage.mediums import open_medium
from emo.featstore.storage.store import Store, has_store, open_store
from emo.featstore.storage.trial import try_bucket
from emo.featstore.testing import check_medium

URL = "s3://bucket/a.emo"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_HOME", str(tmp_path / "home"))
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "EMO_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(bucket, "PATIENCE_S", (0.0,) * 5)
    monkeypatch.setattr(bucket, "WRITING_S", (0.0,) * 6)


@pytest.fixture
def shaky(monkeypatch: pytest.MonkeyPatch) -> Shaky:
    """A bucket in memory, which every URL means."""
    memory = Shaky()
    monkeypatch.setattr(bucket, "connect", lambda url: memory)
    return memory


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Front]]:
    pytest.importorskip("moto", reason="the S3 of these tests is moto's")
    with served() as found:
        yield found


@pytest.fixture
def front(s3: tuple[str, Front], monkeypatch: pytest.MonkeyPatch) -> Front:
    """An S3 on loopback, found by the variables that other tools read."""
    endpoint, front = s3
    names = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    for name, value in (names | {"AWS_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    front.fault, front.late_s = (lambda method, path: ""), 0.0
    front.asked.clear()
    open_medium(URL).remove("")
    return front


def test_a_bucket_keeps_the_contract_of_a_medium(shaky: Shaky, tmp_path: Path) -> None:
    check_medium(lambda: shaky.bucket(tmp_path))


def test_an_s3_keeps_the_contract_of_a_medium(front: Front) -> None:
    check_medium(lambda: open_medium(URL))


def test_the_contract_holds_where_every_tenth_request_goes_wrong(shaky: Shaky, tmp_path: Path) -> None:
    chance = random.Random(0)
    shaky.fault = lambda method, name: chance.choice(("",) * 27 + ("refused", "lost", "cut"))
    check_medium(lambda: shaky.bucket(tmp_path))


@pytest.mark.parametrize("place", ["shaky", "front"])
def test_a_store_in_a_bucket_is_a_store(lab: Any, place: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(place)
    assert not has_store(URL)
    store = lab.fill(open_store(URL, create=True), range(8), commit_every=2)
    assert str(store.path) == URL
    assert lab.contents(store) == lab.contents(Store.open(URL)) == lab.expected(range(8))
    assert store.verify() == []
    report = store.compact()
    assert report.merged > report.written
    assert store.gc().segments == report.merged
    assert [journal.numbers(store.medium), store.verify()] == [[store.index.base], []]
    assert lab.contents(Store.open(URL)) == lab.expected(range(8))
    with pytest.raises(StoreError, match=r"s3://bucket/a\.emo exists already"):
        Store.create(URL)


def test_plain_zarr_reads_the_same_numbers(lab: Any, front: Front) -> None:
    import zarr
    from zarr.storage import ObjectStore

    store = lab.fill(open_store(URL, create=True), range(3))
    group = zarr.open_group(ObjectStore(bucket.connect(Url(URL))), path="features.zarr", mode="r")
    assert sorted(group) == sorted(info.key for info in store.features()), "and nothing strange lies beside them"
    key = store.resolve(lab.utt.name).key
    (array,) = (array for _, array in group[key].arrays())
    held = store.utterances(lab.utt, store.clips())
    assert np.array_equal(array[:], held)


def test_writers_that_race_lose_nothing(lab: Any, shaky: Shaky) -> None:
    """Eight writers, answers that are lost and refused: each clip once, no number left out, no commit twice."""
    open_store(URL, create=True)
    chance = random.Random(1)
    shaky.fault = lambda method, name: chance.choice(("",) * 27 + ("refused", "lost", "cut"))
    failed: list[BaseException] = []

    def write(first: int) -> None:
        try:
            lab.fill(Store.open(URL), range(first, first + 3), commit_every=1)
        except BaseException as error:  # noqa: BLE001 - shown below
            failed.append(error)

    threads = [threading.Thread(target=write, args=(3 * i,)) for i in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    shaky.fault = lambda method, name: ""
    assert failed == []
    store = Store.open(URL)
    assert lab.contents(store) == lab.expected(range(24))
    numbers = journal.numbers(store.medium)
    assert numbers == list(range(1, len(numbers) + 1))
    names = [segment.name for segment in store.index.segments]
    assert len(set(names)) == len(names), "no commit twice"
    assert all(table.count == len(table.live()) for table in store.index.tables.values()), "no record twice"
    assert store.verify() == []
    assert store.medium.leases() == frozenset()


def test_a_commit_whose_answer_was_lost_is_known_again(lab: Any, front: Front) -> None:
    store, lost = open_store(URL, create=True), []

    def fault(method: str, path: str) -> str:
        if method == "PUT" and "/journal/" in path and path not in lost:
            lost.append(path)
            return "lost"
        return ""

    front.fault = fault
    lab.fill(store, range(4), commit_every=2)
    assert len(lost) >= 2
    assert journal.numbers(store.medium) == list(range(1, len(lost) + 1)), "the same commit is not published twice"
    assert lab.contents(Store.open(URL)) == lab.expected(range(4))


def test_an_s3_that_throttles_breaks_off_and_fails_is_asked_again(lab: Any, front: Front) -> None:
    chance = random.Random(2)
    front.fault = lambda method, path: chance.choice(("",) * 9 + ("500", "503", "cut"))
    store = lab.fill(open_store(URL, create=True), range(6), commit_every=2)
    assert lab.contents(Store.open(URL)) == lab.expected(range(6))
    assert store.verify() == []


def test_an_error_says_where_and_what_to_do(shaky: Shaky, lab: Any) -> None:
    store = lab.fill(open_store(URL, create=True), range(2))
    shaky.fault = lambda method, name: "refused" if name.endswith(("emo.json", "c/0/0")) else ""
    with pytest.raises(StoreError, match=r"s3://bucket/a\.emo/emo\.json cannot be reached: 503 Slow Down.*emo doctor"):
        Store.open(URL)
    problems = store.verify()
    assert problems
    assert not any(each.lost for each in problems), "out of reach is not lost"
    with pytest.raises(StoreError, match="Nothing was repaired"):
        store.repair()


def test_a_writer_refuses_an_endpoint_that_ignores_the_condition(lab: Any, shaky: Shaky) -> None:
    store = open_store(URL, create=True)
    store.medium.store = Careless(shaky.memory)
    with pytest.raises(StoreError, match="ignores `If-None-Match`"):
        lab.fill(store, range(1))


def test_damage_in_the_bucket_is_found_and_repaired(lab: Any, shaky: Shaky) -> None:
    store = lab.fill(open_store(URL, create=True), range(6), commit_every=3)
    lab.contents(store)  # now cached
    name = next(each["path"] for page in shaky.memory.list() for each in page if each["path"].endswith("c/0/0"))
    data = bytearray(shaky.memory.get(name).bytes())
    data[5] ^= 1
    shaky.memory.put(name, bytes(data))
    assert [problem.where for problem in store.verify()] == [f"{URL}/{name.removesuffix('/c/0/0')}"], "not the cache"
    with pytest.raises(StoreCorrupt):
        lab.contents(Store.open(URL))
    assert len(store.repair()) == 1
    assert Store.open(URL).verify() == []


def test_what_was_read_is_read_again_from_this_machine(lab: Any, shaky: Shaky, tmp_path: Path) -> None:
    lab.fill(open_store(URL, create=True), range(6), commit_every=3)
    lab.contents(Store.open(URL))
    shaky.asked.clear()
    assert lab.contents(Store.open(URL)) == lab.expected(range(6))
    assert not any(method.startswith("get_range") and "features.zarr" in name for method, name in shaky.asked)
    blocks = [each for each in (tmp_path / "home" / "blocks").rglob("*") if each.is_file()]
    assert blocks
    for i, each in enumerate(blocks):  # damage on this machine is read past, and mended
        data = each.read_bytes()
        each.write_bytes((data[:-1], bytes([data[0] ^ 1]) + data[1:], b"")[i % 3])
    assert lab.contents(Store.open(URL)) == lab.expected(range(6))
    shaky.asked.clear()
    lab.contents(Store.open(URL))
    assert not any(method.startswith("get_range") and "features.zarr" in name for method, name in shaky.asked)


def test_the_cache_keeps_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "blocks", 10_000)
    for i in range(50):
        cache.put(f"{i}", bytes([i]) * 1000)
        os.utime(cache._path(f"{i}"), (i, i))
    files = [each for each in (tmp_path / "blocks").rglob("*") if each.is_file()]
    assert 5_000 < sum(each.stat().st_size for each in files) <= 10_000
    assert cache.get("49") == bytes([49]) * 1000
    assert cache.get("0") is None
    Cache(tmp_path / "none", 0).put("a", b"a")
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("EMO_CACHE_GB", "much")
    with pytest.raises(UsageError, match="EMO_CACHE_GB='much' is not a number"):
        open_cache()


def test_a_large_record_is_read_by_ranges(shaky: Shaky, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "WHOLE_BYTES", 0)
    monkeypatch.setattr(bucket, "BLOCK_BYTES", 64)
    store = lab.fill(open_store(URL, create=True), range(6))
    shaky.asked.clear()
    one = Store.open(URL)
    clip = one.clips()[3]
    assert np.array_equal(one.get(lab.tokens, clip).array, store.get(lab.tokens, clip).array)
    assert lab.contents(Store.open(URL)) == lab.expected(range(6))


def test_gc_spares_a_writer_that_is_alive_and_not_one_that_fell_silent(
    lab: Any, shaky: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = lab.fill(open_store(URL, create=True), range(2))
    lease = store.medium.lease()
    built = lease.scratch.output("segment/c/0/0")
    built.write(b"rows")
    built.finish()
    home = f"features.zarr/{store.resolve(lab.utt.name).key}"
    lease.place("segment", f"{home}/{lease.name}-1")
    store.gc(force=True)
    assert store.medium.exists(f"{home}/{lease.name}-1")
    monkeypatch.setattr(bucket, "GRACE_S", -1.0)
    assert store.gc(force=True).segments == 1
    with pytest.raises(StoreError, match="was away for too long"):
        store.medium.put_new(journal.name_of(2), b"a commit", lease.name)
    assert not store.medium.exists(journal.name_of(2))


def test_a_hundred_thousand_clips_are_replayed_from_afar(lab: Any, shaky: Shaky) -> None:
    """500 commits of 200 clips, 20 ms per request: listed in pages, read many at a time."""
    store = open_store(URL, create=True)
    for number in range(1, 501):
        clips = {f"c{number}-{i}": (f"{number * 200 + i:032x}", None, -1, -1) for i in range(200)}
        header = {"number": number, "store": store.id, "writer": "w"}
        columns = {"clip": list(clips), "media": [row[0] for row in clips.values()], "path": None}
        line = {"clips": columns | {"size": -1, "mtime_ns": -1}}
        store.medium.put(journal.name_of(number), journal.encode(header, [line]))
    shaky.late_s = 0.02
    start = time.perf_counter()
    assert len(Store.open(URL).clips()) == 100_000
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("text", "said"),
    [("s3://bucket/a/b.emo", "s3://bucket/a/b.emo"), ("gs://bucket/a", "gs://bucket/a"), ("s3:/x", "s3:/x")],
)
def test_an_address_is_a_url_or_a_path(text: str, said: str) -> None:
    assert str(address(text)) == said
    assert isinstance(address(text), Url) == ("://" in text)
    assert str(address(text) / "c" / "..d") == f"{said}/c/..d"
    assert str(address(text).with_name("x")).endswith("/x")


@pytest.mark.parametrize("there", [False, True], ids=["to a bucket", "from a bucket"])
def test_a_copy_is_the_same_store_and_is_brought_up_to_date(
    lab: Any, shaky: Shaky, tmp_path: Path, there: bool
) -> None:
    a, b = (URL, str(tmp_path / "b.emo")) if there else (str(tmp_path / "a.emo"), URL)
    store = lab.fill(open_store(a, create=True), range(6), commit_every=2)
    first = store.copy_to(b)
    assert (first.commits, first.segments) == (store.index.number, len(store.index.segments))
    assert store.copy_to(b).commits == 0
    lab.fill(store, range(6, 9))
    assert store.copy_to(b).commits >= 1
    store.compact()
    assert store.copy_to(b).commits == 1
    store.gc()
    lab.fill(store, range(9, 12))
    assert store.copy_to(b).commits >= 1
    copy = Store.open(b)
    assert copy.verify() == []
    assert lab.contents(copy) == lab.contents(store) == lab.expected(range(12))
    assert copy.id == store.id
    lab.fill(copy, [20])
    lab.fill(store, [21])
    with pytest.raises(StoreError, match="has commits of its own"):
        store.copy_to(b)
    store.compact()
    store.gc()  # the commit that would tell is gone from the source
    with pytest.raises(StoreError, match=r"holds \d+ features of clips that .* does not hold: it was written to"):
        store.copy_to(b)
    assert lab.contents(copy) == lab.expected([*range(12), 20])
    lab.fill(store, [20])  # now the copy holds nothing of its own
    store.copy_to(b)
    assert lab.contents(Store.open(b)) == lab.contents(store)
    with pytest.raises(StoreError, match="is another store than"):
        Store.create(tmp_path / "other.emo").copy_to(b)


def test_a_copy_that_was_stopped_anywhere_goes_on(lab: Any, shaky: Shaky, tmp_path: Path) -> None:
    store = lab.fill(Store.create(tmp_path / "a.emo"), range(6), commit_every=2)
    chance, stops = random.Random(3), 0

    class Stopped(KeyboardInterrupt):
        pass

    def stop(method: str, name: str) -> str:
        if method == "put" and chance.random() < 0.1:
            raise Stopped
        return ""

    while True:
        shaky.fault = stop
        try:
            store.copy_to(URL)
            break
        except Stopped:
            stops += 1
            shaky.fault = lambda method, name: ""
            if has_store(URL) and shaky_has(shaky, "emo.json"):
                assert lab.contents(Store.open(URL)).items() <= lab.expected(range(6)).items()
    shaky.fault = lambda method, name: ""
    assert stops > 2
    assert lab.contents(Store.open(URL)) == lab.expected(range(6))
    assert Store.open(URL).verify() == []


def shaky_has(shaky: Shaky, name: str) -> bool:
    return any(each["path"] == name for page in shaky.memory.list() for each in page)


def test_the_source_of_a_copy_is_checked(lab: Any, shaky: Shaky, tmp_path: Path) -> None:
    store = lab.fill(Store.create(tmp_path / "a.emo"), range(6), commit_every=2)
    path = max((tmp_path / "a.emo").rglob("c/0/0"))
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"is damaged\. Run `emo store verify`"):
        store.copy_to(URL)


def test_doctor_races_writers_and_finds_a_clone_that_ignores_the_condition(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "ROUNDS", 25)
    said = try_bucket("s3://bucket/lab")
    assert [status for status, _, _ in said] == ["ok"] * 3, said
    assert re.match(r"s3://bucket at http://127\.0\.0\.1:\d+: put, list and read", said[0][1])
    assert "8 writers raced for one name 25 times: one won each time" in said[1][1]
    assert not has_store("s3://bucket/lab"), "nothing is left"
    careless = Careless(MemoryStore())
    monkeypatch.setattr(bucket, "connect", lambda url: careless)
    (_, (status, what, do)) = try_bucket("s3://bucket/lab")
    assert status == "problem"
    assert "several won in 25 rounds" in what
    assert "is ignored here: one writer only, or another endpoint" in do


class Careless:
    """A bucket that takes every create for a put."""

    def __init__(self, memory: MemoryStore) -> None:
        self.shared = memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shared, name)

    def put(self, name: str, data: Any, mode: str = "overwrite", **given: Any) -> Any:
        return self.shared.put(name, data, **given)


def test_a_bucket_that_is_not_there_is_named(front: Front) -> None:
    with pytest.raises(StoreError, match=r"There is no bucket s3://bucketless at http.*\. Create it first"):
        Store.create("s3://bucketless/a.emo")


def test_an_endpoint_that_creates_after_looking_is_found_to_do_so(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()

    class Late(Careless):
        def put(self, name: str, data: Any, mode: str = "overwrite", **given: Any) -> Any:
            if mode != "create" or not name.endswith("race/3"):
                return memory.put(name, data, mode=mode, **given)
            if any(each["path"] == name for page in memory.list() for each in page):
                raise AlreadyExistsError(name)
            time.sleep(0.1)  # and another writer looks meanwhile
            return memory.put(name, data, **given)

    monkeypatch.setattr(trial, "ROUNDS", 5)
    monkeypatch.setattr(bucket, "connect", lambda url: Late(memory))
    status, what, do = try_bucket("s3://bucket/lab")[1]
    assert status == "problem"
    assert "several won in 1 round," in what
    assert "is not kept at the same instant here" in do


def test_doctor_says_soon_that_nobody_is_there_and_that_there_are_no_keys(shaky: Shaky) -> None:
    def refuse(said: str) -> Any:
        def call(*args: Any) -> Any:
            raise GenericError(said)

        return call

    shaky.memory = SimpleNamespace(
        list_with_delimiter=refuse("PUT http://x in 7ms, after 6 retries, max_retries: 6, retry_timeout: 60s - no")
    )  # type: ignore[assignment]
    with pytest.raises(
        StoreError, match=r"cannot be reached: PUT http://x - no\. Correct the URL, the keys, or the endp"
    ):
        try_bucket("s3://bucket/lab")
    shaky.memory = SimpleNamespace(list_with_delimiter=refuse("PUT http://169.254.169.254/latest/api/token: 403"))  # type: ignore[assignment]
    with pytest.raises(StoreError, match=r"There are no keys for s3://bucket\. Set AWS_ACCESS_KEY_ID"):
        try_bucket("s3://bucket/lab")
