"""A store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure, by obstore (extra `cloud`).

There are no folders, links, locks or renames. A commit is one conditional create (`If-None-Match: *`, or the same by
another name) of the next journal number. Where the answer to a create was lost, the next try finds the object there;
the bytes name their writer, so that it knows its own. A writer is alive as long as it renews its lease; `gc` leaves
alone what a writer made that was alive within `GRACE_S`.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from emo.featstore.address import Url
from emo.featstore.errors import StoreError
from emo.featstore.files import emo_home
from emo.featstore.storage import durable
from emo.featstore.storage.cache import Cache, open_cache
from emo.featstore.storage.medium import Bytes, Lease, Local, Medium, Swept, checked_name

GRACE_S = 3600.0  # a writer that was silent for so long is dead
RENEW_S = 300.0
BLOCK_BYTES = 1 << 18  # read and cached at once
WHOLE_BYTES = 1 << 22  # a smaller object is read whole
PART_BYTES = 1 << 24  # of an upload in parts; what is smaller is put whole
AT_ONCE = 16  # requests that run at the same time
MARK = ".emo"  # object that stands for an empty folder
CLOCK = "writers/.clock"
PATIENCE_S = (0.2, 1.0, 4.0)  # waits before reading again, beyond what obstore does by itself
WRITING_S = (*PATIENCE_S, 10.0, 20.0, 40.0)
RETRY = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=2), "base": 2},
}
CLIENT = {"timeout": "10m", "connect_timeout": "10s"}
Item = TypeVar("Item")
Result = TypeVar("Result")
_LEASE = re.compile(r"[0-9a-f]{32}")


def connect(url: Url) -> Any:
    """Return obstore's store for a place in a bucket, by the variables and files that other tools read, too.

    Raises:
        StoreError: The URL or a setting is wrong.
    """
    given: dict[str, Any] = _as_aws_tools_do() if str(url).startswith("s3:") else {}
    client = CLIENT | ({"allow_http": True} if str(given.get("endpoint", "")).startswith("http:") else {})
    try:
        settings: dict[str, Any] = {"client_options": client, "retry_config": RETRY} | given
        return from_url(str(url), **settings)
    except (BaseError, ValueError, TypeError) as error:
        raise StoreError(f"{url} cannot be opened: {_words(error)}.", HELP) from error


ROLES = "//169.254.169.254/"  # asked for the role of an instance where no keys are set
NO_KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; a role this machine has not, either."
HELP = "Check the URL, the endpoint and the credentials; `emo doctor URL` tries them."


def _as_aws_tools_do() -> dict[str, Any]:
    """Endpoint, region and credentials of S3. obstore reads the variables; boto3 reads profiles and their files."""
    given: dict[str, Any] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        given["endpoint"] = endpoint
    files = [os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")]
    files.append(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
    profiles = "AWS_PROFILE" in os.environ or any(os.path.exists(os.path.expanduser(each)) for each in files)
    if not profiles or ("AWS_ACCESS_KEY_ID" in os.environ and "AWS_PROFILE" not in os.environ):
        return given
    import boto3  # only here: half a second
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session()
        client = session.client("s3")
        given["region"] = session.region_name or client.meta.region_name
        if session.get_credentials() is not None:
            given["credential_provider"] = Boto3CredentialProvider(session)
        if not client.meta.endpoint_url.endswith(".amazonaws.com"):
            given.setdefault("endpoint", client.meta.endpoint_url)
    except BotoCoreError as error:
        raise StoreError(f"The AWS settings of this machine cannot be used: {error}.", HELP) from error
    return given


class Bucket(Medium):
    """A place in a bucket.

    Args:
        url: Of the store.
        store: obstore's, or what has its methods.
        cache: Of blocks of segments.
    """

    def __init__(self, url: Url, store: Any = None, cache: Cache | None = None) -> None:
        self.url = url
        self.store = connect(url) if store is None else store
        self.cache = open_cache() if cache is None else cache
        self._leases: WeakValueDictionary[str, _BucketLease] = WeakValueDictionary()

    @property
    def whole(self) -> str:
        """The bucket without a folder, and the endpoint that has it where one is set."""
        endpoint = dict(getattr(self.store, "config", None) or {}).get("endpoint")
        name = "/".join(str(self.url).split("/")[:3])
        return f"{name} at {endpoint}" if endpoint else name

    def where(self, name: str) -> str:
        return str(self.url / checked_name(name, self.url))

    def create(self, folders: Sequence[str], files: Mapping[str, bytes]) -> None:
        *rest, last = files.items()
        empty = [each for each in folders if not any(name.startswith(f"{each}/") for name in files)]
        planned = dict(rest) | {f"{folder}/{MARK}": b"" for folder in empty}
        if any(each not in planned for each in self._names("")):  # else a `create` that was killed before its last step
            raise StoreError(f"{self.url} exists already.", "Choose another path, or open it.")
        for name, data in planned.items():
            self.put(name, data)
        durable.reached("store-built")
        if not self.put_new(*last, owner=""):
            raise StoreError(f"{self.url} exists already.", "Choose another path, or open it.")
        durable.reached("store-placed")

    def get(self, name: str) -> bytes:
        return self.asked(name, lambda: self._whole(self._key(name)))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        data = self.map(name, fresh=True)[start : start + length] if start else self._beginning(name, length)
        return bytes(data)

    def _beginning(self, name: str, length: int) -> bytes:
        def read() -> bytes:
            try:
                return bytes(self.store.get_range(self._key(name), start=0, end=length))
            except GenericError:
                if self.store.head(self._key(name))["size"]:
                    raise
                return b""  # of nothing, no part can be had

        return self.asked(name, read)

    def map(self, name: str, fresh: bool = False) -> Bytes:
        found = self.asked(name, lambda: self.store.head(self._key(name)))
        lasting = name.startswith("features.zarr/")  # and what has no other bytes under the same name, ever
        return Far(self, name, found["size"], found["e_tag"] or "", None if fresh or not lasting else self.cache)

    def open_zarr(self, name: str) -> Any:
        import zarr
        from zarr.storage import ObjectStore

        return zarr.open_array(ObjectStore(self.store, read_only=True), path=self._key(name), mode="r")

    def exists(self, name: str) -> bool:
        if name:
            with suppress(FileNotFoundError):
                self.asked(name, lambda: self.store.head(self._key(name)))
                return True
        return next(self._names(name, chunk=1), None) is not None

    def list(self, folder: str, after: str = "") -> list[str]:
        if after:
            found = {each.partition("/")[0] for each in self._names(folder, f"{folder}/{after}")}
        else:
            both = self.asked(folder, lambda: self.store.list_with_delimiter(folder or None))
            paths = [*both["common_prefixes"], *(each["path"] for each in both["objects"])]
            found = {str(each).rpartition("/")[2] for each in paths}
        return [name for name in found if name != MARK]

    def modified(self, name: str) -> float:
        return cast("float", self.asked(name, lambda: self.store.head(self._key(name)))["last_modified"].timestamp())

    def walk(self) -> Iterator[tuple[str, int, float, str]]:
        for each in self._objects(""):
            yield str(each["path"]), int(each["size"]), each["last_modified"].timestamp(), str(each["e_tag"] or "")

    def owns(self, name: str) -> bool:
        return True

    def put_new(self, name: str, data: bytes, owner: str, keep: Callable[[], bool] = lambda: True) -> bool:
        key = self._key(name)

        def create() -> bool:
            try:
                self.store.put(key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                try:
                    return self._whole(key) == data  # this very create, whose answer was lost
                except FileNotFoundError:  # 409: another one was under way
                    raise _CutOffError("a conflict of two creates") from error
            return True

        if not self._written(name, create):
            return False
        durable.reached("journal-linked")
        lease = self._leases.get(owner)
        try:
            kept = keep()
            if kept and lease is not None:
                lease.check()
        except BaseException:
            self.remove(name)
            raise
        if not kept:
            self.remove(name)
        elif lease is not None:
            lease.placed.clear()
        return kept

    def put(self, name: str, data: bytes) -> None:
        self._written(name, lambda: self.store.put(self._key(name), data))

    def upload(self, name: str, file: Path) -> None:
        """Put a file of this machine, in parts where it is large, and look whether all of it came.

        Raises:
            StoreError: The bucket refuses.
        """
        size = file.stat().st_size

        def put() -> None:
            self.store.put(self._key(name), file, chunk_size=PART_BYTES, max_concurrency=AT_ONCE // 2)
            there = self.store.head(self._key(name))["size"]
            if there != size:
                raise _CutOffError(f"{there:,} of {size:,} bytes arrived")

        self._written(name, put)

    def sync(self, folder: str) -> None:
        """Do nothing: what is put is durable."""

    def remove(self, name: str) -> int:
        size = 0
        paths = [(str(each["path"]), int(each["size"])) for each in self._objects(name)]
        with suppress(FileNotFoundError):
            own = self.asked(name, lambda: self.store.head(self._key(name)))
            paths.append((name, own["size"]))
        for path, each in paths:
            with suppress(FileNotFoundError):
                self.asked(path, lambda path=path: self.store.delete(path), WRITING_S)  # type: ignore[misc]
                size += each
        return size

    def lease(self) -> Lease:
        lease = _BucketLease(self)
        self._leases[lease.name] = lease
        return lease

    def leases(self) -> frozenset[str]:
        return frozenset(name for name in self.list("writers") if _LEASE.fullmatch(name))

    def sweep(self) -> Swept:
        _scratch().sweep()
        self.put(CLOCK, b"")  # time as the bucket sees it: machines' clocks differ
        now = self.modified(CLOCK)
        alive, ended = set(), set()
        for name in self.leases():
            with suppress(FileNotFoundError):  # it ended meanwhile
                if now - self.modified(f"writers/{name}") < GRACE_S:
                    alive.add(name)
                else:
                    self.remove(f"writers/{name}")
                    ended.add(name)
        return Swept(frozenset(alive), frozenset(ended), ())

    def in_parallel(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        source = iter(items)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = [pool.submit(call, each) for each in islice(source, AT_ONCE)]
            try:
                while running:
                    first: Future[Result] = running.pop(0)
                    running += [pool.submit(call, each) for each in islice(source, 1)]
                    yield first.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def asked(self, name: str, call: Callable[[], Result], waits_s: Sequence[float] | None = None) -> Result:
        """Return what a request gives; ask again where that can help.

        Raises:
            FileNotFoundError: There is no such object.
            StoreError: The bucket refuses, cannot be reached, or gives half of what was asked for.
        """
        for wait_s in (*(waits_s or PATIENCE_S), None):
            try:
                return call()
            except FileNotFoundError as error:
                raise FileNotFoundError(2, "There is no such object", self.where(name)) from error
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StoreError(f"{self.where(name)}: access is refused: {_words(error)}.", HELP) from error
            except (BaseError, _CutOffError, OSError) as error:
                if "NoSuchBucket" in str(error):
                    raise self._no_bucket() from error
                if ROLES in str(error):
                    raise StoreError(f"There are no keys for {self.whole}.", NO_KEYS) from error
                if wait_s is None:
                    raise StoreError(f"{self.where(name)} cannot be reached: {_words(error)}.", HELP) from error
                time.sleep(wait_s)
        raise AssertionError  # the last wait is `None`

    def _written(self, name: str, call: Callable[[], Result]) -> Result:
        try:
            return self.asked(name, call, WRITING_S)
        except FileNotFoundError as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> StoreError:
        return StoreError(f"There is no bucket {self.whole}.", "Create it first, or correct its name or the endpoint.")

    def _whole(self, key: str) -> bytes:
        found = self.store.get(key)
        data = bytes(found.bytes())
        if len(data) != found.meta["size"]:
            raise _CutOffError(f"{len(data):,} of {found.meta['size']:,} bytes came")
        return data

    def _key(self, name: str) -> str:
        return checked_name(name, self.url)

    def _objects(self, folder: str, after: str | None = None, chunk: int = 1000) -> Iterator[Any]:
        """Objects below a folder, page by page; after a page that failed, from the last one that came."""
        prefix, pages = self._key(folder) or None, None

        def turn() -> Any:
            nonlocal pages
            if pages is None:
                pages = self.store.list(prefix, offset=after, chunk_size=chunk)
            try:
                return next(pages, None)
            except BaseError:
                pages = None
                raise

        while page := self.asked(folder, turn):
            after = str(page[-1]["path"])
            yield from page

    def _names(self, folder: str, after: str | None = None, chunk: int = 1000) -> Iterator[str]:
        """Names of the objects below a folder, relative to it."""
        begin = f"{folder}/" if folder else ""
        return (str(each["path"]).removeprefix(begin) for each in self._objects(folder, after, chunk))


class Far:
    """Bytes of one object, read by blocks when they are sliced."""

    def __init__(self, bucket: Bucket, name: str, size: int, tag: str, cache: Cache | None) -> None:
        self._bucket, self._name, self._size, self._cache = bucket, name, size, cache
        self._place = f"{bucket.where(name)} {size} {tag}"

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.uint8]:
        start, end, _ = part.indices(self._size)
        if end <= start:
            return np.empty(0, np.uint8)
        if self._cache is None:
            return np.frombuffer(self._read(start, end), np.uint8)
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if self._size <= WHOLE_BYTES:
            first, last = 0, -(-self._size // BLOCK_BYTES)
        found = np.frombuffer(self._cached(first, last, self._cache), np.uint8)
        return found[start - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def _cached(self, first: int, last: int, cache: Cache) -> bytes:
        """Blocks from `first` up to `last`; neighbours that are not cached are read at once."""
        blocks = {each: cache.get(f"{self._place} {each}") for each in range(first, last)}
        lacking = [each for each, block in blocks.items() if block is None]
        while lacking:
            until = next((i for i, each in enumerate(lacking) if each != lacking[0] + i), len(lacking))
            begin = lacking[0] * BLOCK_BYTES
            data = self._read(begin, min(begin + until * BLOCK_BYTES, self._size))
            for i, each in enumerate(lacking[:until]):
                block = blocks[each] = data[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES]
                cache.put(f"{self._place} {each}", block)
            lacking = lacking[until:]
        return b"".join(block for block in blocks.values() if block is not None)

    def _read(self, start: int, end: int) -> bytes:
        def read() -> bytes:
            data = bytes(self._bucket.store.get_range(self._name, start=start, end=end))
            if len(data) != end - start:
                raise _CutOffError(f"{len(data):,} of {end - start:,} bytes came")
            return data

        return self._bucket.asked(self._name, read)


class _BucketLease(Lease):
    """An object `writers/<uuid>` that is written again every `RENEW_S`, and a scratch folder on this machine."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        _scratch().sweep()
        self._inner = _scratch().lease()
        self.name, self.scratch = self._inner.name, self._inner.scratch
        self.placed: list[str] = []  # since the last commit
        self._ended = threading.Event()
        self._renewed_s = _clock_s()
        try:
            self._begin()
        except BaseException:
            self._inner.close()
            raise
        self._thread = threading.Thread(target=self._renew, name="emo-lease", daemon=True)
        self._thread.start()
        durable.reached("writer-locked")

    def place(self, name: str, target: str) -> None:
        self.placed.append(target)
        folder = self.scratch.root / name
        files = sorted(
            (each for each in folder.rglob("*") if each.is_file()), key=lambda each: each.name == "zarr.json"
        )
        for file in files:  # the document last: without it there is no array
            self._bucket.upload(f"{target}/{file.relative_to(folder).as_posix()}", file)
        self.scratch.discard(name)

    def check(self) -> None:
        """Look, after a long silence, whether `gc` took this writer for dead and its segments away.

        Raises:
            StoreError: It did.
        """
        if _clock_s() - self._renewed_s < GRACE_S / 2:
            return
        for name in self.placed:
            if not self._bucket.exists(f"{name}/zarr.json"):
                text = f"{self._bucket.where(name)} was cleaned up: this writer was away for too long."
                raise StoreError(text, "Nothing was committed; run the same command again.")

    def close(self) -> None:
        self._ended.set()
        self._inner.close()
        self._bucket.remove(f"writers/{self.name}")
        durable.reached("writer-closed")

    def _begin(self) -> None:
        """Create the lease; a second create of it must be refused, or no commit is safe here."""
        bucket, name = self._bucket, f"writers/{self.name}"
        if bucket.put_new(name, b"alive", "") and bucket.put_new(name, b"another", ""):
            bucket.remove(name)
            text = f"{bucket.url} ignores `If-None-Match`: two writers could make the same commit."
            raise StoreError(text, "Use another endpoint, or one writer and `emo store copy`; see `emo doctor URL`.")

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with suppress(StoreError):  # `check` says what that means
                self._bucket.put(f"writers/{self.name}", b"alive")
                self._renewed_s = _clock_s()


class _CutOffError(Exception):
    """An answer that must be asked for again."""


def _scratch() -> Local:
    """Scratch folders on this machine of all writers into buckets."""
    home = emo_home() / "scratch"
    home.mkdir(parents=True, exist_ok=True)
    return Local(home)


def _clock_s() -> float:
    """Seconds of a clock that goes on while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _words(error: Exception) -> str:
    """First sentence of what obstore says, without its counts of retries and the debug print behind it."""
    said = " ".join(str(error).partition("\n\n")[0].split())
    return re.sub(r" in [\d.]+\w*s, after \d+ retries, max_retries: \d+, retry_timeout: \w+", "", said)[:300].rstrip(
        "."
    )
