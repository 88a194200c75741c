"""Weights: which ones emo knows, where they come from, fetching them, and looking into them without loading them."""

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
from typing import TYPE_CHECKING, Annotated

from emo.featstore.datasets.base import escapes
from emo.featstore.errors import EmoError, ModelError, UsageError, WeightsMissing
from emo.featstore.page import Arg, Flag, Page, Table, size_text, throttle
from emo.featstore.sources.headers import Inspection, gb, inspect
from emo.featstore.workspace import HUB_ID, WEIGHT_SUFFIXES, Workspace

if TYPE_CHECKING:
    from emo.extract.encoders.base import Encoder

TIMEOUT_S = 30.0
RETRY_WAIT_S = 1.0  # before the first retry; doubled for each further one
BLOCK_BYTES = 1 << 18
# One family of tensors is enough; the first that a repository has is taken. fairseq .pt files and other frameworks are
# never wanted. Text files (configuration, tokenizer) always are.
FAMILIES = (r".*\.safetensors", r"pytorch_model.*\.bin", r".*\.bin", r".*\.pth")
TEXT_FILES = r".*\.(json|txt|model)"
DRIVE = "it lies in the Google Drive folder of Emotion-LLaMA's authors (issue 2 of ZebangCheng/Emotion-LLaMA)"

Report = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all


@dataclass(frozen=True)
class Known:
    """Weights that emo knows by name.

    Attributes:
        name: Key under `[weights]`.
        about: What it is.
        hub: Hugging Face id, where it is there.
        url: Address, where it is a plain file on the web.
        file: Published file name.
        how: How to get it, where it cannot be pulled.
    """

    name: str
    about: str
    hub: str = ""
    url: str = ""
    file: str = ""
    how: str = ""


KNOWN = {
    each.name: each
    for each in (
        Known(
            "HL-UTT",
            "HuBERT large on Chinese speech (24 layers, width 1024)",
            hub="TencentGameMate/chinese-hubert-large",
        ),
        Known(
            "mae_340_UTT",
            "MAE ViT-L/16 pre-trained on MER2023 faces (state dict under `model`)",
            file="mae_checkpoint-340.pth",
            how=f"Get mae_checkpoint-340.pth by hand: {DRIVE}.",
        ),
        Known(
            "maeV_399_UTT",
            "VideoMAE ViT-L/16 pre-trained on MER2023 faces (state dict under `model` or `module`)",
            file="maeVideo_ckp199.pth",
            how=f"Get maeVideo_ckp199.pth by hand: {DRIVE}.",
        ),
        Known(
            "eva_g_448",
            "EVA ViT-g of BLIP-2 (39 blocks used, width 1408; bare state dict)",
            url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
            file="eva_vit_g.pth",
        ),
        Known(
            "HL-MERBench-UTT", "The HuBERT of HL-UTT, for MERBench's recipe", hub="TencentGameMate/chinese-hubert-large"
        ),
        Known("videomae-large-UTT", "VideoMAE large as published, for MERBench's recipe", hub="MCG-NJU/videomae-large"),
        Known(
            "all-MiniLM-L6-v2-UTT",
            "MiniLM for English sentences (6 layers, width 384); also in pip install 'emo[text]'",
            hub="sentence-transformers/all-MiniLM-L6-v2",
        ),
        Known("llama", "Llama 2 7B chat, gated by its licence", hub="meta-llama/Llama-2-7b-chat-hf"),
        Known(
            "minigpt_v2",
            "MiniGPT-v2 after stage 3: llama_proj and LoRA (state dict under `model`)",
            file="minigptv2_checkpoint.pth",
            how="Get minigptv2_checkpoint.pth by hand from the MiniGPT-4 repository (Vision-CAIR/MiniGPT-4).",
        ),
    )
}


@dataclass(frozen=True)
class WeightRow:
    """One line of `emo weights list`.

    Attributes:
        name: Key under `[weights]`.
        about: What it is; empty for weights that emo does not know.
        value: Path or id as configured; empty when not configured.
        status: `present` (also in an installed package), `not needed` (no network), `missing` or `not configured`.
        path: File or folder on disk, if present.
        size_bytes: Its size, if present.
        how: What to do when it is not there.
    """

    name: str
    about: str
    value: str
    status: str
    path: Path | None
    size_bytes: int | None
    how: str


# ---- list and check -------------------------------------------------------------------------------------------------


def list_weights(workspace: Workspace) -> list[WeightRow]:
    """Every weight that emo knows or the workspace names, and whether it is on this machine."""
    rows = []
    for name in dict.fromkeys([*KNOWN, *wanted(workspace), *workspace.weights]):
        known = KNOWN.get(name, Known(name, ""))
        value = workspace.weights.get(name, "")
        if not getattr(_encoder(name), "learned", True):
            how = "Take it out of [weights] in emo.toml." if value else ""
            rows.append(WeightRow(name, "It is computed without a network.", value, "not needed", None, None, how))
            continue
        path = local_path(workspace, name)
        status = "present" if path else "missing" if value else "not configured"
        rows.append(WeightRow(name, known.about, value, status, path, _size(path), "" if path else _how(known, value)))
    return rows


def check_weights(workspace: Workspace) -> list[tuple[str, Inspection]]:
    """Look into the headers of every configured weight; no tensor is read."""
    checks = []
    needed = wanted(workspace)
    for row in list_weights(workspace):
        if row.status == "not needed":
            checks.append((row.name, Inspection("ok", row.about)))
        elif row.path is not None and (row.value or row.name in needed):
            checks.append((row.name, inspect(row.path)))
        elif row.value or row.name in needed:
            what = f"{row.value} is not here." if row.value else "No weights are configured."
            checks.append((row.name, Inspection(row.status, what, row.how)))
    return checks


def weights_page(workspace: Workspace) -> Page:
    """List the weights that are known or configured, and how to get them."""
    rows = list_weights(workspace)
    cells = [[each.name, each.status, size_text(each.size_bytes), each.value, each.how or each.about] for each in rows]
    columns = ("name", "status", "size", "configured", "what it is, or how to get it")
    return Page(rows, [Table("Weights", columns, cells, ("size",))])


def weights_check_page(workspace: Workspace) -> Page:
    """Look into the headers of every configured weight without loading it; exit code 5 where one is ill or missing."""
    checks = check_weights(workspace)
    cells = [[name, found.status, f"{found.what} {found.do}"] for name, found in checks]
    bad = any(found.status not in ("ok", "unchecked") for _, found in checks)
    table = Table("Weights", ("name", "status", "what, and what to do"), cells)
    return Page([{"name": name, **vars(found)} for name, found in checks], [table], exit_code=5 if bad else 0)


def pulled_page(
    workspace: Workspace | None,
    say: Callable[[str], None],
    name: Annotated[str, Arg("A name of `emo weights list`, or a Hugging Face id.")],
    dest: Annotated[Path | None, Flag("Folder. Default: the Hugging Face cache.")] = None,
    endpoint: Annotated[str | None, Flag("Another hub's address.")] = None,
    token: Annotated[str | None, Flag("Hugging Face token for gated models.")] = None,
) -> Page:
    """Fetch weights; a fetch that was cut off goes on where it stopped."""
    now = throttle(say, 2.0)

    def show(file: str, done: int, total: int | None) -> None:
        now(f"{file}: {size_text(done)}" + (f" of {size_text(total)}" if total else ""))

    path = str(pull(name, dest, workspace=workspace, endpoint=endpoint, token=token, on_progress=show))
    return Page({"name": name, "path": path}, [path])


def wanted(workspace: Workspace) -> list[str]:
    """Keys under `[weights]` of the encoders that `[extract]` names, which may be aliases."""
    names = workspace.extract.encoders
    return list(dict.fromkeys(getattr(_encoder(name), "name", name) for name in names))


def local_path(workspace: Workspace, name: str) -> Path | None:
    """File or folder of weights on this machine; for a Hugging Face id the copy in its cache.

    Where none are configured, those that an installed package brings.
    """
    where = workspace.weights_at(name)
    if isinstance(where, Path):
        return where if where.exists() else None
    if where:
        return _cached(where)
    installed = getattr(_encoder(name), "installed", lambda: None)()
    return Path(installed) if installed else None


def _encoder(name: str) -> type[Encoder] | None:
    """The encoder of that name; `None` for other weights, such as those of a language model."""
    from emo.extract.encoders.registry import find_encoder

    try:
        return find_encoder(name)
    except UsageError:
        return None


def _cached(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _how(known: Known, value: str) -> str:
    if known.how:
        return known.how
    if known.hub or known.url or HUB_ID.fullmatch(value):
        return f"Run `emo weights pull {known.name}`."
    return "Correct its path under [weights] in emo.toml."


def _size(path: Path | None) -> int | None:
    if path is None:
        return None
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


# ---- pull -----------------------------------------------------------------------------------------------------------


def pull(
    name_or_id: str,
    dest: Path | None = None,
    *,
    workspace: Workspace | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    cache: Path | None = None,
    retries: int = 3,
    on_progress: Report | None = None,
) -> Path:
    """Fetch weights. What was fetched before is kept, also half a file: pulling again goes on where it stopped.

    Args:
        name_or_id: A name under `[weights]`, or a Hugging Face id.
        dest: Folder to put the files in. By default a path configured for the name; else, for Hugging Face ids, its
            cache, where every loader finds them by id.
        workspace: Says what the name means and where it belongs.
        endpoint: Hub to ask in place of huggingface.co (`HF_ENDPOINT`).
        token: Access token in place of the saved one.
        cache: Hugging Face cache in place of `HF_HOME`'s.
        retries: How often a broken connection is taken up again within this call.
        on_progress: Called with file name, bytes so far, bytes in all.

    Returns:
        The folder, or the file where it is a single one.

    Raises:
        UsageError: The name means nothing, or has no place to go to.
        WeightsMissing: It cannot be had this way: gated, not on the hub, or to be fetched by hand.
        ModelError: The hub cannot be reached, the connection broke, the disk is full, or the bytes are not right.
    """
    known = KNOWN.get(name_or_id)
    configured = workspace.weights_at(name_or_id) if workspace is not None else None
    target = dest or (configured if isinstance(configured, Path) else None)
    report = on_progress or (lambda file, done, total: None)
    repo = configured if isinstance(configured, str) else known.hub if known else ""
    if not repo and known is None and configured is None and HUB_ID.fullmatch(name_or_id):
        repo = name_or_id
    if repo:
        if target is not None and target.suffix in WEIGHT_SUFFIXES:
            message = f"{name_or_id} is a folder of files on Hugging Face; emo.toml names the single file {target}."
            raise UsageError(message, f'Write "{name_or_id}" = "{repo}" under [weights], or a folder.')
        return _pull_repo(repo, target, _Hub(endpoint, token, cache), retries, report)
    if known is not None and known.url:
        if target is None:
            raise UsageError(f"{known.file} needs a place.", "Set its path under [weights] in emo.toml.")
        final = target if target.suffix in WEIGHT_SUFFIXES else target / known.file
        return _pull_url(known.url, final, retries, report)
    if known is not None:
        raise WeightsMissing(f"{known.name} ({known.file}) cannot be pulled.", known.how)
    if configured is not None:
        raise WeightsMissing(f"{name_or_id} is the local path {configured}; nothing says where to pull it from.")
    names = ", ".join(dict.fromkeys([*KNOWN, *(workspace.weights if workspace else ())]))
    hint = "Or name a Hugging Face id, owner/name."
    raise UsageError(f"There are no weights called {name_or_id!r}; known are {names}.", hint)


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


def _pull_repo(repo: str, target: Path | None, hub: _Hub, retries: int, report: Report) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import get_hf_file_metadata, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    cache = hub.cache or Path(constants.HF_HUB_CACHE)
    blobs = cache / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    with _explained(repo):
        info = HfApi(endpoint=hub.endpoint, token=hub.token).model_info(repo, timeout=TIMEOUT_S)
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
        paths = [
            Path(hf_hub_download(repo, name, endpoint=hub.endpoint, token=hub.token, cache_dir=cache)) for name in names
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


def _pull_url(url: str, final: Path, retries: int, report: Report) -> Path:
    from huggingface_hub.utils import get_session

    with _explained(url):
        response = get_session().head(url, timeout=TIMEOUT_S, follow_redirects=True)
        if response.status_code >= 400:
            raise WeightsMissing(f"{url} answers {response.status_code}.", "Fetch the file by hand.")
        size = int(response.headers.get("Content-Length", 0)) or None
        remote = _Remote(final.name, url, response.headers.get("ETag", ""), size, {})
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
        raise ModelError(f"{folder} has {gb(free)} free, and {gb(left)} are to come.", "Free some space.")
    for remote, final in wanted:
        _fetch(remote, final, retries, report)


def _part(remote: _Remote, final: Path) -> Path:
    """Where the unfinished file lies; it carries the content's tag, so that parts of two versions never mix."""
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
    """Whether a file has the content that its hub hash names; other servers' tags say nothing and pass."""
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
