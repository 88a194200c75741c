"""`emo doctor`: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from emo.extract import pace
from emo.extract.encoders.base import Encoder
from emo.extract.encoders.catalog import catalog
from emo.extract.encoders.registry import load_encoder
from emo.extract.media import tflite
from emo.extract.weights_page import NO_OTHERS, Others, check_weights, is_published, wanted
from emo.featstore.address import Url, is_url
from emo.featstore.cards import shared_content
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import EmoError, UsageError, WeightsMissing
from emo.featstore.files import emo_home
from emo.featstore.install import install_command, is_installed, requirements
from emo.featstore.page import Arg, Page, Table, span_text
from emo.featstore.processors import processors
from emo.featstore.published import where_from
from emo.featstore.text import counted, size_text
from emo.featstore.workspace import FILE_NAME, FIXED_FRAMES, Workspace, find_workspace, is_peak, load_workspace

Annotations = Callable[[str], Sequence[str]]  # name of a recipe -> files that it learns from
CODECS = {"h264": "video of MER clips", "aac": "their sound", "mpeg4": "video of avi files", "pcm_s16le": "wav files"}

EXTRAS = (
    *("pocket", "offline", "cloud", "pyfeat", "parquet", "egemaps", "text", "nf4", "ray", "serve", "umap"),
    "tensorboard",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        area: What was looked at: `python`, `packages`, `extras`, `decoder`, `faces`, `device`, `memory`, `workspace`,
            `data`, `annotations`, `store`, `weights`, `disk`, `time`, `gpu memory`.
        status: `ok`, `warn` (it will run, with a limit worth knowing) or `problem` (something will not run).
        what: What was found.
        do: What to do; empty when nothing is wrong.
    """

    area: str
    status: str
    what: str
    do: str = ""

    @property
    def sentences(self) -> str:
        """Return what there is and what to do, with a stop between."""
        stop = "" if not self.do or self.what.endswith((".", ":", "?")) else "."
        return f"{self.what}{stop} {self.do}".strip()


def doctor_command(
    others: Others,
    annotations: Annotations,
    place: Annotated[str | None, Arg("URL of a bucket to try, with writers that race.")] = None,
) -> Page:
    """Say what is here, what is missing, what to do."""
    if place is not None:
        return doctor_page(_bucket(place))
    try:
        findings = diagnose(load_workspace(find_workspace()), others=others, annotations=annotations)
    except UsageError as error:
        findings = diagnose(None, error)
    return doctor_page(findings)


def doctor_page(findings: Sequence[Finding]) -> Page:
    """Page of `emo doctor`; exit code 1 where something will not run."""
    rows = [[each.status, each.area, each.sentences] for each in findings]
    ill = any(each.status == "problem" for each in findings)
    table = Table("emo doctor", ("", "area", "what, and what to do"), rows)
    return Page({"findings": findings}, [table], exit_code=int(ill))


def diagnose(
    workspace: Workspace | None = None,
    trouble: EmoError | None = None,
    others: Others = NO_OTHERS,
    annotations: Annotations | None = None,
) -> list[Finding]:
    """Look at the machine and, where there is one, at the workspace. Nothing is changed, nothing is fetched.

    Args:
        workspace: The workspace, if it could be loaded.
        trouble: Why it could not, where its file is there but wrong.
        others: Weights that are no encoder's.
        annotations: Gives the files that a recipe learns from; `None`: these are not looked for.
    """
    areas: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("decoder", _decoder),
        ("faces", _faces),
        ("blazeface", _blazeface),
        ("device", _device),
        ("memory", lambda: _memory(workspace)),
    ]
    if workspace is not None:
        areas += [
            ("workspace", lambda: _workspace(workspace)),
            ("data", lambda: _data(workspace)),
            ("annotations", lambda: _annotations(workspace, annotations)),
            ("store", lambda: _store(workspace)),
            ("weights", lambda: _weights(workspace, others)),
            ("disk", lambda: _disk(workspace)),
            ("time", lambda: _time(workspace)),
        ]
    findings = []
    for area, look in areas:
        try:
            findings += look()
        except EmoError as error:
            findings.append(Finding(area, "problem", error.message, error.hint))
        except ImportError as error:
            findings.append(Finding(area, "problem", f"{error}.", f"Install emo again: {install_command()}"))
    if trouble is not None:
        findings.append(Finding("workspace", "problem", trouble.message, trouble.hint or "Correct the file."))
    elif workspace is None:
        findings.append(Finding("workspace", "warn", f"No {FILE_NAME} here or above.", "Run `emo init` to write one."))
    return findings


# ---- the machine ----------------------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    what = f"Python {version} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    old = sys.version_info < (3, 11)
    yield Finding("python", "problem" if old else "ok", what, "emo needs Python 3.11 or newer." if old else "")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        lines = list(map(Requirement, requirements()))
    except importlib.metadata.PackageNotFoundError:
        do = f"Run `make install`, or {install_command()}."
        yield Finding("packages", "warn", "emo is not installed, only found.", do)
        return
    wanted = [r for r in lines if r.marker is None or r.marker.evaluate({"extra": ""})]
    fine = []
    for requirement in wanted:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            do = f"pip install '{requirement}'"
            yield Finding("packages", "problem", f"{requirement.name} is not installed.", do)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fine.append(f"{requirement.name} {version}")
        else:
            what = f"{requirement.name} {version} is installed; emo needs {requirement.specifier}."
            yield Finding("packages", "problem", what, f"pip install '{requirement}'")
    if fine:
        yield Finding("packages", "ok", ", ".join(fine))
    yield from _extras()


def _extras() -> Iterator[Finding]:
    """Which optional parts are installed, and how the others are."""
    from packaging.requirements import Requirement

    there, not_there, lines = [], [], list(map(Requirement, requirements()))
    for extra in EXTRAS:
        own = [each for each in lines if each.marker and each.marker.evaluate({"extra": extra})]
        whole = all(is_installed(each.name) for each in own)
        (there if whole else not_there).append(extra)
    what = f"installed: {', '.join(there) or 'none'}"
    if not_there:
        what += f"; not installed: {', '.join(not_there)} ({install_command('NAME')} adds one)"
    yield Finding("extras", "ok", what)


def _decoder() -> Iterator[Finding]:
    import av

    missing = [f"{name} ({use})" for name, use in CODECS.items() if name not in av.codecs_available]
    libraries = ", ".join(f"{name} {'.'.join(map(str, v))}" for name, v in av.library_versions.items() if v)
    if missing:
        do = "Install PyAV's own wheel: pip install --force-reinstall --only-binary av av"
        yield Finding("decoder", "problem", f"PyAV {av.__version__} cannot decode {', '.join(missing)}.", do)
    else:
        yield Finding("decoder", "ok", f"PyAV {av.__version__} decodes {', '.join(CODECS)} ({libraries})")


def _faces() -> Iterator[Finding]:
    from emo.extract.media.detect import onnx_path

    try:
        path = onnx_path()
    except WeightsMissing as error:
        yield Finding("faces", "problem", error.message, error.hint)
    else:
        yield Finding("faces", "ok", f"CenterFace weights in {path.parent} ({size_text(path.stat().st_size)})")


def _blazeface() -> Iterator[Finding]:
    if tflite.installed():
        try:
            for name in tflite.SHA256:
                tflite.read(name)
        except EmoError as error:
            yield Finding("blazeface", "problem", error.message, error.hint)
        else:
            yield Finding("blazeface", "ok", "BlazeFace and the face mesh, each file as emo knows it")


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            yield Finding(
                "device", "ok", f"cuda:{index} {about.name}, {size_text(about.total_memory)}; torch {torch.__version__}"
            )
        return
    built = torch.version.cuda
    threads = f"threads: {torch.get_num_threads()}, processors: {processors()}; OMP_NUM_THREADS sets other numbers"
    what = f"No GPU: torch {torch.__version__} computes on the CPU ({threads})."
    if built:
        do = f"This torch is built for CUDA {built}; if there is a GPU, look whether `nvidia-smi` runs."
    else:
        do = "The tiny profile is quick here; the paper profile wants a GPU and a torch built for CUDA, or patience."
    yield Finding("device", "warn", what, do)


def _memory(workspace: Workspace | None) -> Iterator[Finding]:
    free = available_memory_bytes()
    if free is None:
        return
    what = f"{size_text(free)} of memory available"
    if workspace is None or workspace.extract.profile != "paper":
        yield Finding("memory", "ok", what)
        return
    names = catalog().spread(workspace.extract.encoders)
    made = {name: encoder for name in names if (encoder := _made(workspace, name)) is not None}
    counted = [name for name, encoder in made.items() if encoder.learned]
    need = sum(made[name].parameters() for name in counted) * 4
    what += f"; the weights of {', '.join(counted) or 'no known encoder'} take {size_text(need)} in float32"
    if need > free:
        yield Finding("memory", "warn", what, "Extract fewer encoders at a time: emo extract --encoders A,B")
    else:
        yield Finding("memory", "ok", what)


def available_memory_bytes() -> int | None:
    """Memory that a process can still take, or `None` where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _bucket(place: str) -> list[Finding]:
    if not is_url(place):
        raise UsageError(f"{place} is no URL of a bucket.", "Name one: emo doctor s3://bucket/folder")
    from emo.featstore.storage.trial import try_bucket

    return [Finding("bucket", *each) for each in try_bucket(place)]


# ---- the workspace --------------------------------------------------------------------------------------------------


def _workspace(workspace: Workspace) -> Iterator[Finding]:
    extract = workspace.extract
    what = f"{workspace.root / FILE_NAME}: profile {extract.profile}, {', '.join(extract.encoders)}"
    yield Finding("workspace", "ok", what)
    named = extract.frame in FIXED_FRAMES or is_peak(extract.frame)
    if not named and not Path(extract.frame).is_file():
        do = "Correct extract.frame in emo.toml."
        yield Finding("workspace", "problem", f"The table of frames {extract.frame} does not exist.", do)


def _data(workspace: Workspace) -> Iterator[Finding]:
    if not workspace.data:
        yield Finding("data", "warn", f"No dataset in {FILE_NAME}.", 'Add [data.NAME] with root = "...".')
    for name, table in workspace.data.items():
        try:
            check = open_dataset(name, table).check()
        except EmoError as error:
            yield Finding("data", "problem", f"{name}: {error.message}", error.hint)
            continue
        what = (
            f"{name}: {counted(check.listed, 'clip')} listed, {check.present:,} present "
            f"({size_text(check.size_bytes)}), {check.labelled:,} of them with a label, "
            f"{check.transcripts:,} with a transcript"
        )
        if not check.present and check.listed and _reads_text_only(workspace):
            of = workspace.extract.encoders
            do = "reads" if len(of) == 1 else "read"
            yield Finding("data", "ok", f"{what}: enough, as {', '.join(of)} {do} text alone")
            continue
        if not check.present:
            yield Finding("data", "problem", what, f"Put the clips under {table.clips or table.root}, or set `clips`.")
        elif check.absent:
            are = counted(check.absent, "listed clip is", "listed clips are")
            do = f"{are} not there; emo runs on those that are."
            yield Finding("data", "warn", what, do)
        else:
            yield Finding("data", "ok", what)
        for problem in check.problems:
            yield Finding("data", "warn", f"{name}: {problem}", f"See `emo data check`; correct [data.{name}].")


def _reads_text_only(workspace: Workspace) -> bool:
    """Say whether no encoder of the workspace looks at media."""
    made = [_made(workspace, name) for name in catalog().spread(workspace.extract.encoders)]
    return bool(made) and all(each is not None and each.needs == "text" for each in made)


def _annotations(workspace: Workspace, annotations: Annotations | None) -> Iterator[Finding]:
    """Files that the workspace's recipe learns from: here, in the root of a dataset, or nowhere."""
    for file in annotations(workspace.recipe) if annotations is not None else ():
        places = [workspace.root / file]
        for name, table in workspace.data.items():
            with contextlib.suppress(EmoError):  # said under data
                places += [found for found in (open_dataset(name, table).find_file(file),) if found is not None]
        there = next((path for path in places if path.is_file()), None)
        if there is not None:
            yield Finding("annotations", "ok", f"{there}, which recipe {workspace.recipe} learns from")
            continue
        roots = ", ".join(str(each.root) for each in workspace.data.values())
        what = f"{file}, which recipe {workspace.recipe} learns from, is neither in {workspace.root} nor in {roots}."
        do = f"{where_from(file)} Put it there, or name another recipe under [train].".strip()
        yield Finding("annotations", "warn", what, do)


def _store(workspace: Workspace) -> Iterator[Finding]:
    from emo.featstore.storage.store import has_store, open_store

    path = workspace.store_path
    if isinstance(path, Url):
        store = open_store(path) if has_store(path) else None
        what = counted(len(store.clips()), "clip") if store else "not there yet; the first `emo extract` creates it"
        yield Finding("store", "ok", f"{path}: {what}.", f"`emo doctor {path}` tries whether commits are safe there.")
        return
    if not has_store(path):
        parent = next(each for each in path.parents if each.exists())
        if os.access(parent, os.W_OK):
            yield Finding("store", "ok", f"{path} is not there yet; the first `emo extract` creates it")
        else:
            do = "Choose another path under [store]."
            yield Finding("store", "problem", f"{path} cannot be created: {parent} is not writable.", do)
        return
    store = open_store(path)
    features = store.features()
    what = f"{path}: {counted(len(features), 'feature')}, {counted(len(store.clips()), 'clip')}"
    what += "".join(f"; {each}" for each in shared_content(store))
    if not os.access(path, os.W_OK):
        yield Finding("store", "warn", f"{what}; it can be read, not written", "Check the permissions of the folder.")
    else:
        yield Finding("store", "ok", what)


def _weights(workspace: Workspace, others: Others) -> Iterator[Finding]:
    tiny, needed = workspace.extract.profile == "tiny", wanted(workspace)
    small = {name for name in needed if name in workspace.weights and not is_published(workspace, name)}
    if tiny and not small:
        yield Finding("weights", "ok", "The tiny profile needs none")
        return
    for name, look in check_weights(workspace, others):
        if tiny and (name not in small or look.status == "not configured"):
            continue  # drawn at random
        if look.status in ("ok", "unchecked"):
            yield Finding("weights", "ok", f"{name}: {look.what}")
        else:
            # a Hugging Face id is fetched at its first use; weights of the language model are not needed to extract
            later = isinstance(workspace.weights_at(name), str) or name not in needed
            status = "warn" if later and look.status == "missing" else "problem"
            yield Finding("weights", status, f"{name}: {look.what}", look.do)


def _disk(workspace: Workspace) -> Iterator[Finding]:
    place = emo_home() if isinstance(workspace.store_path, Url) else workspace.store_path
    folder = next(each for each in (place, *place.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    clips, (each, unknown) = _present(workspace), clip_bytes(workspace)
    need = (clips or 0) * each
    what = f"{size_text(free)} free at {folder}; "
    if clips is None:
        what += f"{each:,} bytes a clip, and how many clips there are is not known: see data"
    elif clips:
        what += f"{counted(clips, 'clip')} x {each:,} bytes take {size_text(need)}"
    else:
        what += "no clip is there yet"
    if unknown:
        what += f", not counting {', '.join(unknown)}"
    if need > free:
        yield Finding("disk", "problem", what, "Free some space, or put the store on a larger disk: [store] path.")
    else:
        yield Finding("disk", "ok", what)


def _time(workspace: Workspace) -> Iterator[Finding]:
    """How long all clips take and how much of a GPU, by what passes on this machine have kept; never a guess."""
    extract, clips = workspace.extract, _present(workspace)
    made = {each: encoder for each in catalog().spread(extract.encoders) if (encoder := _made(workspace, each))}
    names = [encoder.spec(encoder.level_of(each)).name for each, encoder in made.items()]
    found = pace.last(extract.profile, names) if names else None
    many = "how many clips is not known: see data" if clips is None else counted(clips, "clip")
    every = f"a full extraction of profile {extract.profile} ({many})"
    how = f"a pass of these features over {pace.LEAST} clips or more measures it, such as `emo extract --limit 32`"
    if found is None:
        yield Finding("time", "ok", f"{every}: not measured on this machine; {how}")
    else:
        took = f"{found.clips:,} clips in {span_text(found.seconds)} on {found.device}, loading included"
        pace_of = "; the last pass"
        if clips is not None:
            pace_of = f" takes about {span_text(clips * found.seconds / found.clips)} at the pace of the last pass"
        yield Finding("time", "ok", f"{every}{pace_of}: {took}")
    if found is None or found.gpu_bytes is None:
        yield Finding("gpu memory", "ok", "of an extraction, by batch: not measured on this machine")
    else:
        taken = f"{size_text(found.gpu_bytes)} at most in that pass, with the batches of {found.device}"
        yield Finding("gpu memory", "ok", f"of an extraction: {taken}; by batch: not measured")


def _present(workspace: Workspace) -> int | None:
    """Clips of all datasets that have a file; `None` where a dataset cannot be read, which is said under data."""
    try:
        return sum(open_dataset(name, table).check().present for name, table in workspace.data.items())
    except EmoError:
        return None


def clip_bytes(workspace: Workspace) -> tuple[int, list[str]]:
    """Bytes that the configured features of one clip take in the store: the sum of T x D x bytes per number.

    For the published four: 3 x 1024 x 4 + 1025 x 1408 x 2 = 2,898,688. The tiny profile takes less.

    Returns:
        The bytes, and the encoders whose part of them is not known.
    """
    sizes = {name: _record_bytes(workspace, name) for name in catalog().spread(workspace.extract.encoders)}
    return sum(each for each in sizes.values() if each is not None), [name for name in sizes if sizes[name] is None]


def _record_bytes(workspace: Workspace, name: str) -> int | None:
    """Bytes of one clip's feature, or `None` where its number of rows depends on the clip or nobody knows it."""
    if (encoder := _made(workspace, name)) is None:
        return None
    spec = encoder.spec(encoder.level_of(name))
    return None if spec.rows is None else spec.rows * spec.dim * (4 if spec.level == "utt" else 2)


def _made(workspace: Workspace, name: str) -> Encoder | None:
    """An encoder at the size that the workspace asks for, without its weights; `None` where it cannot be made here."""
    try:
        return load_encoder(name, "tiny" if workspace.extract.profile == "tiny" else "random")
    except EmoError:
        return None
