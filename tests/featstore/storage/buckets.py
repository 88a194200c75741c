"""Buckets for tests: one in memory whose requests go wrong, and moto's S3 on loopback behind a front that does."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from emo.featstore.address import Url
from emo.featstore.storage.bucket import Bucket
from emo.featstore.storage.cache import Cache

METHODS = ("get", "get_range", "get_ranges", "head", "put", "delete", "list", "list_with_delimiter")


class Shaky:
    """A `MemoryStore` whose requests are late, refused, half answered, or done without an answer.

    Attributes:
        late_s: Wait before each request.
        fault: Asked for each request by (method, name): `refused`, `lost` (done, and then an error), `cut` (half of the
            bytes), or empty.
        asked: All requests as (method, name).
    """

    def __init__(self, late_s: float = 0.0, fault: Callable[[str, str], str] = lambda method, name: "") -> None:
        self.memory, self.late_s, self.fault = MemoryStore(), late_s, fault
        self.asked: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def __getattr__(self, method: str) -> Any:
        if method not in METHODS:
            raise AttributeError(method)
        call = getattr(self.memory, method)

        def ask(*args: Any, **given: Any) -> Any:
            name = str(args[0] if args else "")
            with self._lock:
                self.asked.append((method, name))
                fault = self.fault(method, name)
            if self.late_s:
                time.sleep(self.late_s)
            if fault == "refused":
                raise GenericError("503 Slow Down")
            found = call(*args, **given)
            if fault == "lost":
                raise GenericError("connection reset by peer")
            if fault == "cut" and method == "get_range":
                return found.to_bytes()[: len(found) // 2]
            return _Half(found) if fault == "cut" and method == "get" else found

        return ask

    def bucket(self, folder: Path) -> Bucket:
        """A medium in it, with a cache in a folder."""
        return Bucket(Url("s3://bucket/a.emo"), self, Cache(folder / "blocks", 1 << 30))


class _Half:
    def __init__(self, found: Any) -> None:
        self.meta, self._data = found.meta, found.bytes().to_bytes()

    def bytes(self) -> bytes:
        return self._data[: len(self._data) // 2]


class Front:
    """A WSGI application before moto's that spoils answers.

    Attributes:
        fault: Asked for each request by (method, path): `500`, `503`, `lost` (done, and then 500), `cut` (half of a
            body), or empty.
        late_s: Wait before each request.
        asked: All requests as (method, path).
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.late_s = 0.0
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.asked: list[tuple[str, str]] = []
        self._one_put = (
            threading.Lock()
        )  # moto looks for the object first and creates it afterwards; S3 does both in one

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append(request)
        fault = self.fault(*request)
        if self.late_s:
            time.sleep(self.late_s)
        if fault in ("500", "503"):
            start(f"{fault} Spoilt", [("Content-Length", "0")])
            return [b""]
        said: list[Any] = []
        with self._one_put if request[0] == "PUT" else nullcontext():
            body = b"".join(self.app(environ, lambda *answer: said.append(answer)))
        if fault == "lost":
            start("500 Spoilt", [("Content-Length", "0")])
            return [b""]
        start(*said[0])
        return [body[: len(body) // 2] if fault == "cut" else body]


@contextmanager
def served() -> Iterator[tuple[str, Front]]:
    """Give the endpoint of an S3 on loopback that has one bucket, `bucket`, and the front before it."""
    import logging

    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    front = Front(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, front, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    urllib.request.urlopen(f"{endpoint}/moto-api/reset", data=b"").close()  # its buckets outlive a server
    client.create_bucket(Bucket="bucket")
    try:
        yield endpoint, front
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
