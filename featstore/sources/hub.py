"""Weights from elsewhere: where they are said to be, the local Hugging Face cache, and fetching them.

What was fetched before is kept, also half a file: fetching again goes on where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emo.featstore.datasets.base import escapes
from emo.featstore.errors import EmoError, ModelError, UsageError, WeightsMissing
from emo.featstore.sources.headers import inspect, shards_of
from emo.featstore.text import size_text
from emo.featstore.workspace import WEIGHT_SUFFIXES

TIMEOUT_S = 30.0
RETRY_WAIT_S = 1.0  # before the first retry; doubled for each further one
BLOCK_BYTES = 1 << 18
# One family of tensors is enough; the first that a repository has is taken. fairseq .pt files and other frameworks are
# never wanted. Text files (configuration, tokenizer) always are.
FAMILIES = (r".*\.safetensors", r"pytorch_model.*\.bin", r".*\.bin", r".*\.pth")
TEXT_FILES = r".*\.(json|txt|model)"
# Files of a Hugging Face folder that a loader reads, the first that is there; an index names shards.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.bin",  # CTranslate2's form
)

Report = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all


@dataclass(frozen=True)
class Source:
    """Source of published weights, as whatever needs them declares it.

    Attributes:
        about: What they are, in a few words.
        hub: Hugging Face id, where they are there.
        url: Address, where they are a plain file on the web.
        file: Published file name.
        ask: Where to get the file by hand, where nothing can be fetched: `from the authors' page`.
        revision: Commit, tag or branch of the hub that is meant; its default branch where empty.
        sha256: Of the file at `url`, where it is known: other bytes are refused.
    """

    about: str = ""
    hub: str = ""
    url: str = ""
    file: str = ""
    ask: str = ""
    revision: str = ""
    sha256: str = ""

    @property
    def where(self) -> str:
        """Place to name in a message."""
        return f"{self.hub} on Hugging Face" if self.hub else self.url or self.file

    @property
    def by_hand(self) -> str:
        """Advice for machines that can fetch nothing."""
        return f"Get {self.file} by hand {self.ask}." if self.ask else ""


# ---- on this machine ------------------------------------------------------------------------------------------------


def cached(repo: str, revision: str = "") -> Path | None:
    """Folder of a model in the local Hugging Face cache, if it is whole: a half-fetched one does not count.

    Raises:
        WeightsMissing: It is no Hugging Face id.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(repo, name, revision=revision or None) for name in FILES]
    except HFValidationError as error:
        raise WeightsMissing(f"There are no weights at {repo}, and it is no Hugging Face id.") from error
    folder = next((Path(each).parent for each in found if isinstance(each, str)), None)
    try:
        return folder if folder is not None and weight_files(folder) else None
    except ModelError:  # a shard is not there yet
        return None


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Files of a Hugging Face folder that hold tensors, shards included; empty where there are none.

    Raises:
        ModelError: The index of shards is damaged, or names one that is not there.
    """
    for name in FILES:
        file = folder / name
        if not file.is_file():
            continue
        if not name.endswith(".index.json"):
            return (file,)
        try:
            shards = shards_of(file)
        except UsageError as error:
            raise ModelError(error.message, "Fetch the model folder again.") from error
        if absent := [shard for shard in shards if not (folder / shard).is_file()]:
            raise ModelError(f"{folder} lacks shard {absent[0]}, which {name} names.", "Run `emo weights pull`.")
        return tuple(folder / shard for shard in shards)
    return ()


# ---- fetch ----------------------------------------------------------------------------------------------------------


def fetch(
    source: Source,
    target: Path | None = None,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    cache: Path | None = None,
    retries: int = 3,
    on_progress: Report | None = None,
) -> Path:
    """Fetch weights.

    Args:
        source: Where they are.
        target: Folder to put the files in; of a single file also its path. By default, from the hub, its cache, where
            every loader finds them by id.
        endpoint: Hub to ask in place of huggingface.co (`HF_ENDPOINT`).
        token: Access token in place of the saved one.
        cache: Hugging Face cache in place of `HF_HOME`'s.
        retries: How often a broken connection is taken up again within this call.
        on_progress: Called with file name, bytes so far, bytes in all.

    Returns:
        The folder, or the file where it is a single one.

    Raises:
        UsageError: A single file, and no place for it to go to.
        WeightsMissing: It cannot be had this way: gated, not on the hub, or to be fetched by hand.
        ModelError: The hub cannot be reached, the connection broke, the disk is full, or the bytes are not right.
    """
    report = on_progress or (lambda file, done, total: None)
    if source.hub:
        return _fetch_repo(source, target, _Hub(endpoint, token, cache), retries, report)
    if not source.url:
        raise WeightsMissing(f"{source.file} cannot be pulled.", source.by_hand)
    if target is None:
        raise UsageError(f"{source.file} needs a place.", "Set its path under [weights] in emo.toml.")
    return _fetch_url(source, target if target.suffix in WEIGHT_SUFFIXES else target / source.file, retries, report)


@dataclass(frozen=True)
class _Hub:
    """Which hub, as whom, and the cache on this machine; `None` is huggingface_hub's own default."""

    endpoint: str | None
    token: str | None
    cache: Path | None


@dataclass(frozen=True)
class _Remote:
    """One file to fetch. `etag` is the content's sha256 (large files) or git hash on the hub, anything elsewhere."""

    name: str
    url: str
    etag: str
    size_bytes: int | None
    headers: dict[str, str]


def _fetch_repo(source: Source, target: Path | None, hub: _Hub, retries: int, report: Report) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import get_hf_file_metadata, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    repo, cache = source.hub, hub.cache or Path(constants.HF_HUB_CACHE)
    blobs = cache / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    with _explained(repo):
        info = HfApi(endpoint=hub.endpoint, token=hub.token).model_info(
            repo, revision=source.revision or None, timeout=TIMEOUT_S
        )
        names = choose_files([each.rfilename for each in info.siblings or []])
        if not names:
            raise WeightsMissing(f"{repo} on Hugging Face holds no weights that emo can read.")
        wanted = []
        for name in names:
            url = hf_hub_url(repo, name, revision=info.sha, endpoint=hub.endpoint)
            meta = get_hf_file_metadata(url, token=hub.token, timeout=TIMEOUT_S, endpoint=hub.endpoint)
            etag = meta.etag or ""
            if not re.fullmatch(r"[\w-]+", etag):
                raise ModelError(f"{url} gives no content hash ({etag!r}).", "Is this a Hugging Face hub?")
            # In the cache the content lies under its hash; huggingface_hub then finds it there and only links it.
            final = blobs / etag if target is None else target / name
            wanted.append((_Remote(name, url, etag, meta.size, build_hf_headers(token=hub.token)), final))
        _fetch_all(wanted, retries, report)
        if target is not None:
            return target
        version, where, token = source.revision or None, hub.endpoint, hub.token
        paths = [
            Path(hf_hub_download(repo, name, revision=version, endpoint=where, token=token, cache_dir=cache))
            for name in names
        ]
    return paths[0].parents[names[0].count("/")]


def choose_files(names: Sequence[str]) -> list[str]:
    """Files of a repository that a loader needs: configuration, tokenizer and one family of tensors, or nothing."""
    top = [name for name in names if not name.startswith((".", "original/", "onnx/")) and not escapes(name)]
    for family in FAMILIES:
        tensors = [name for name in top if re.fullmatch(family, name)]
        if tensors:
            suffix = Path(tensors[0]).suffix
            texts = [name for name in top if re.fullmatch(TEXT_FILES, name)]
            # pytorch_model.bin.index.json is of no use beside safetensors
            indices = {name for name in texts if name.endswith(".index.json")}
            return [n for n in texts if n not in indices or n.endswith(f"{suffix}.index.json")] + tensors
    return []


def _fetch_url(source: Source, final: Path, retries: int, report: Report) -> Path:
    from huggingface_hub.utils import get_session

    url = source.url
    with _explained(url):
        response = get_session().head(url, timeout=TIMEOUT_S, follow_redirects=True)
        if response.status_code >= 400:
            raise WeightsMissing(f"{url} answers {response.status_code}.", "Fetch the file by hand.")
        size = int(response.headers.get("Content-Length", 0)) or None
        remote = _Remote(final.name, url, source.sha256 or response.headers.get("ETag", ""), size, {})
        _fetch_all([(remote, final)], retries, report)
    look = inspect(final)
    if look.status not in ("ok", "unchecked"):
        raise ModelError(f"{url} gave no weights: {look.what}", look.do)
    return final


# ---- one file -------------------------------------------------------------------------------------------------------


def _fetch_all(wanted: Sequence[tuple[_Remote, Path]], retries: int, report: Report) -> None:
    left = 0
    for remote, final in wanted:
        have = next((each.stat().st_size for each in (final, _part(remote, final)) if each.exists()), 0)
        left += max(0, (remote.size_bytes or 0) - have)
    folder = next(each for each in wanted[0][1].absolute().parents if each.exists())
    free = shutil.disk_usage(folder).free
    if free < left:
        raise ModelError(f"{folder} has {size_text(free)} free, and {size_text(left)} are to come.", "Free some space.")
    for remote, final in wanted:
        _fetch(remote, final, retries, report)


def _part(remote: _Remote, final: Path) -> Path:
    """Return the path of the unfinished file; it carries the content's tag, so that parts of two versions never mix."""
    return final.with_name(f"{final.name}.{hashlib.sha256(remote.etag.encode()).hexdigest()[:8]}.part")


def _fetch(remote: _Remote, final: Path, retries: int, report: Report) -> None:
    """Fetch one file under a temporary name, check it, and give it its name.

    huggingface_hub 2 begins a file anew in every call; weights are large and connections break, so the part is kept.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # HTTPError: that of the hub's http library

    if final.is_file() and final.stat().st_size == remote.size_bytes and _right(final, remote.etag):
        report(remote.name, final.stat().st_size, remote.size_bytes)
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    part = _part(remote, final)
    total = f"{remote.size_bytes:,}" if remote.size_bytes is not None else "?"
    for attempt in range(retries + 1):
        try:
            _stream(remote, part, report)
            break
        except HfHubHTTPError:
            raise  # the server answered, and said no
        except HTTPError as error:
            if attempt == retries:
                done = part.stat().st_size if part.exists() else 0
                message = f"The connection broke at {remote.name}, byte {done:,} of {total} ({type(error).__name__})."
                raise ModelError(message, "Pull again; it goes on from there.") from error
            time.sleep(RETRY_WAIT_S * 2**attempt)
    size = part.stat().st_size
    if (remote.size_bytes is not None and size != remote.size_bytes) or not _right(part, remote.etag):
        part.unlink()
        raise ModelError(f"{remote.name} came damaged ({size:,} of {total} bytes, or another hash).", "Pull again.")
    os.replace(part, final)


def _stream(remote: _Remote, part: Path, report: Report) -> None:
    from huggingface_hub.utils import get_session, hf_raise_for_status

    done = part.stat().st_size if part.exists() else 0
    if done and remote.size_bytes is not None and done >= remote.size_bytes:
        return
    headers = {**remote.headers, "Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    session = get_session()
    # across hosts the redirect drops the authorization header
    with session.stream("GET", remote.url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as response:
        hf_raise_for_status(response)
        done = done if response.status_code == 206 else 0  # a server that ignores Range sends the file from its start
        with open(part, "ab" if done else "wb") as file:
            report(remote.name, done, remote.size_bytes)
            for block in response.iter_bytes(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                report(remote.name, done, remote.size_bytes)
            file.flush()
            os.fsync(file.fileno())


def _right(path: Path, etag: str) -> bool:
    """Say whether a file has the content that its hub hash names; other servers' tags say nothing and pass."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", etag):  # a git blob
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return True
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == etag


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the errors of hub, network and disk into one sentence and what to do."""
    from huggingface_hub import errors

    again = "Check the network and pull again; or set HF_ENDPOINT to a mirror, or bring the files by hand."
    try:
        yield
    except EmoError:
        raise
    except errors.GatedRepoError as error:
        raise WeightsMissing(
            f"{what} is gated: Hugging Face gives it only to accounts that accepted its licence.",
            f"Accept it at https://huggingface.co/{what}, log in with `hf auth login`, and pull again.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsMissing(
            f"Hugging Face has no model {what}, or it is private.",
            "Correct the id under [weights] in emo.toml; for a private model log in with `hf auth login`.",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(f"{what} cannot be reached: {error}", again) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        said = " ".join(str(error).split())
        raise WeightsMissing(f"{what} lists a file that it does not have: {said}", "Pull again later.") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        do = "Log in with `hf auth login`." if code in (401, 403) else "Try again later."
        raise ModelError(f"The server answers {code} for {what}.", do) from error
    except errors.HTTPError as error:
        raise ModelError(f"{what} cannot be reached: {error}.", again) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelError(f"The disk is full while pulling {what}.", "Free some space and pull again.") from error
        raise ModelError(f"{what} cannot be pulled: {error}.", again) from error
