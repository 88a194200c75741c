"""Weights files: find, hash, read without running code in them, rename, and fit strictly to a model.

Strict means: every tensor the model expects is taken from the file exactly once, and every tensor of the file that is
not taken is named together with the reason why that is right. Anything else is a `ModelError`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emo.featstore.errors import EmoError, ModelError, UsageError, WeightsMissing
from emo.featstore.files import digest, emo_home, file_digest, write_json
from emo.featstore.reading import read_json
from emo.featstore.sources.headers import damaged_entries
from emo.featstore.sources.hub import FILES, Source, cached, fetch, weight_files
from emo.featstore.sources.strict import Fit, Reasons, fit_names
from emo.featstore.text import some_of
from emo.featstore.workspace import HUB_ID, WEIGHT_SUFFIXES

State = dict[str, Tensor]

CONFIGS = ("config.json", "preprocessor_config.json")
WIDTHS = {384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant"}


@dataclass(frozen=True)
class LoadReport:
    """Report of a load: what became of every tensor of the file.

    Attributes:
        consumed: Names of the model's tensors that were filled from the file.
        ignored: Tensors of the file that were not used, with the reason.
        notes: Anything else worth knowing, such as an interpolated position table.
    """

    consumed: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """A checkpoint on disk: one file, or a Hugging Face folder.

    Attributes:
        source: The path or hub id as the user wrote it.
        path: The file or folder.
        files: The files that hold tensors (shards of a folder, in order).
    """

    source: str
    path: Path
    files: tuple[Path, ...]

    def config(self, name: str = "config.json") -> dict[str, Any] | None:
        """A JSON file of the folder, or `None` where there is none.

        Raises:
            ModelError: The file is not JSON.
        """
        file = self.path / name
        if not self.path.is_dir() or not file.is_file():
            return None
        try:
            found = read_json(file)
        except UsageError as error:
            raise ModelError(f"{file} is not valid JSON: {error.message}", "Fetch the model folder again.") from error
        if not isinstance(found, dict):
            raise ModelError(f"{file} is no JSON object.", "Fetch the model folder again.")
        return found

    @property
    def hash(self) -> str:
        """32 hex digits of BLAKE2b over the file, or over names and hashes of a folder's weights and config files."""
        if not self.path.is_dir():
            return _hash_file(self.path)
        named = [self.path / name for name in CONFIGS if (self.path / name).is_file()]
        parts = [(each.relative_to(self.path).as_posix(), _hash_file(each)) for each in sorted({*self.files, *named})]
        return digest("".join(f"{name}\0{hash_}\n" for name, hash_ in parts).encode())

    def stated(self, key: str) -> dict[str, Any] | None:
        """A table that a file of torch's holds beside its tensors, such as `cfg`; `None` where there is none.

        Raises:
            ModelError: As `tensors`.
        """
        if _head(self.files[0])[8:9] == b"{":  # safetensors
            return None
        found = _content(self.files[0])
        table = found.get(key) if isinstance(found, Mapping) else None
        return dict(table) if isinstance(table, Mapping) else None

    def tensors(self) -> State:
        """All tensors; values stay on disk until they are used, where the format allows it.

        Raises:
            ModelError: A file is not a checkpoint, is damaged, or holds objects other than tensors and plain values.
        """
        state: State = {}
        for file in self.files:
            _merge(state, _read(file), file)
        return state


def find_weights(
    source: str | os.PathLike[str], hint: str = "Correct the path under [weights] in emo.toml."
) -> Weights:
    """Find a checkpoint: a file, a Hugging Face folder, or a hub id (the local cache first, else it is pulled).

    Args:
        source: Where it is.
        hint: What to do where it is a path, and nothing lies there.

    Raises:
        WeightsMissing: Nothing is there, or the model is gated or unknown on the hub.
        ModelError: A folder holds no weights file, or the hub cannot be reached.
    """
    source = os.fspath(source)
    path = Path(source).expanduser()
    if not path.exists():
        if path.suffix in WEIGHT_SUFFIXES or not HUB_ID.fullmatch(source):
            raise WeightsMissing(f"There are no weights at {source}.", hint)
        path = cached(source) or fetch(Source(hub=source))
    if not path.is_dir():
        return Weights(source, path, (path,))
    files = weight_files(path)
    if not files:
        raise ModelError(
            f"The folder {path} holds no weights: none of {', '.join(FILES)}.", "Is the download complete?"
        )
    return Weights(source, path, files)


_hashes: dict[str, str] = {}


def _hash_file(path: Path) -> str:
    """Content hash of a file, remembered by (path, size, mtime) in `EMO_HOME`: four real files take 10 s to hash."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = emo_home() / "weights.json"
    if not _hashes:
        with contextlib.suppress(UsageError):  # no memory, or a damaged one
            _hashes.update(_remembered(read_json(memory)))
    if key not in _hashes:
        with open(path, "rb") as file:
            _hashes[key] = file_digest(file)
        with contextlib.suppress(OSError):  # a home that cannot be written costs time, nothing else
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, _hashes)
    return _hashes[key]


def _remembered(found: Any) -> dict[str, str]:
    """The entries of a memory that can be hashes."""
    rows = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in rows if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value)}


def _read(path: Path) -> State:
    """Tensors of one file; the format is told by its first bytes, not by its name."""
    if _head(path)[8:9] == b"{":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} is a damaged safetensors file: {error}.", "Fetch it again.") from error
    return _unnest(_content(path), path)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _content(path: Path) -> Any:
    """Tensors and plain values of a file of torch's."""
    head = _head(path)
    if head[:4] != b"PK\x03\x04" and head[:1] != b"\x80":
        what = "it is empty" if not head else f"it begins with {head[:24]!r}"
        if head.lstrip()[:1] == b"<":
            what = "it is a web page, probably a download that asked for confirmation"
        elif head.startswith(b"version https://git-lfs"):
            what = "it is a Git LFS pointer; run `git lfs pull`"
        raise ModelError(f"{path} is not a checkpoint: {what}.", "A .pth, .bin or .safetensors file is expected.")
    if head[:1] == b"P" and (wrong := damaged_entries(path)):
        raise ModelError(f"{path} is damaged or truncated: {some_of(wrong, 3)}.", "Fetch it again.")
    try:
        # Namespace is what MAE and VideoMAE keep their arguments in: a plain container, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except Exception as error:  # of a damaged pickle torch raises whatever comes up
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            message = (
                f"{path} holds the object {found[1]}; only tensors and plain values are read: others can run code."
            )
            raise ModelError(message, "Save its state dict again with torch.save, or as safetensors.") from error
        raise ModelError(f"{path} is damaged or truncated ({type(error).__name__}).", "Fetch it again.") from error


@contextlib.contextmanager
def trusted(source: str) -> Iterator[None]:
    """Turn whatever libraries and models say of a damaged weights file or its settings into a `ModelError`."""
    try:
        yield
    except EmoError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
        raise ModelError(f"{source} is damaged, or of another model ({what}).", "Fetch it again.") from error


def _unnest(content: Any, path: Path) -> State:
    """The state dict in a training checkpoint: the whole, or what lies under `model`, `module` or `state_dict`."""
    for key in ("model", "module", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return _unnest(content[key], path)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            f"{path} holds no state dict.", "Expected tensors by name, or those under `model` or `module`."
        )
    if odd := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ModelError(f"{path} mixes tensors with other values: {some_of(odd, 4)}.", "Save the state dict alone.")
    return dict(content)


def _merge(state: State, more: Mapping[str, Tensor], where: object) -> None:
    """Add tensors, and refuse a second one of the same name."""
    if twice := sorted(state.keys() & more.keys()):
        raise ModelError(f"{where} holds {some_of(twice, 4)} twice, under different spellings.", "One of them must go.")
    state.update(more)


def rename(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]], where: object) -> State:
    """Apply regular-expression substitutions to the names, each rule at most once per name, all in order.

    Raises:
        ModelError: Two tensors end up with one name.
    """
    renamed: State = {}
    compiled = [(re.compile(pattern), to) for pattern, to in rules]
    for name, tensor in state.items():
        new = name
        for pattern, to in compiled:
            new = pattern.sub(to, new, count=1)
        _merge(renamed, {new: tensor}, where)
    return renamed


# Hugging Face spellings of a vision transformer -> the original ones. Files written by transformers 4.x and 5.x use the
# first spelling of each line; state dicts that a 5.x model gives in memory use the second.
_LAYER = r"^(?:encoder\.)?layers?\.(\d+)\."
HUGGING_FACE = (
    (r"^(?:vit|videomae|vision_model)\.", ""),
    (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.position_embeddings?$", "pos_embed"),
    (r"^embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
    (_LAYER + r"attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"attention\.attention\.([qv])_bias$", r"blocks.\1.attn.\2_bias"),
    (_LAYER + r"attention\.(?:attention\.query|q_proj)\.", r"blocks.\1.attn.query."),
    (_LAYER + r"attention\.(?:attention\.key|k_proj)\.", r"blocks.\1.attn.key."),
    (_LAYER + r"attention\.(?:attention\.value|v_proj)\.", r"blocks.\1.attn.value."),
    (_LAYER + r"self_attn\.projection\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"self_attn\.qkv\.", r"blocks.\1.attn.qkv."),
    (_LAYER + r"(?:layernorm_before|layer_norm1)\.", r"blocks.\1.norm1."),
    (_LAYER + r"(?:layernorm_after|layer_norm2)\.", r"blocks.\1.norm2."),
    (_LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
)


def vit_names(state: State, bias: str, where: object) -> tuple[State, dict[str, str]]:
    """Bring a vision transformer's tensors into the original spelling and the model's bias form (`qkv` or `qv`).

    Returns:
        The tensors, and those that went nowhere (a key bias of zeros) with the reason.

    Raises:
        ModelError: A key bias is not zero where the model has none, or a name occurs twice.
    """
    state = rename(state, HUGGING_FACE, where)
    dropped: dict[str, str] = {}
    for stem in sorted({name[: -len("query.weight")] for name in state if name.endswith(".attn.query.weight")}):
        for kind in ("weight", "bias"):
            q, k, v = (state.pop(f"{stem}{part}.{kind}", None) for part in ("query", "key", "value"))
            if q is None and k is None and v is None:
                continue
            if q is None or v is None or (k is None and kind == "weight"):
                raise ModelError(f"{where} holds only a part of {stem}qkv.{kind}.", "The file is not complete.")
            fused = torch.cat([q, torch.zeros_like(q) if k is None else k, v])
            _merge(state, {f"{stem}qkv.{kind}": fused}, where)
    for name in [name for name in state if bias == "qv" and name.endswith(".attn.qkv.bias")]:
        q, k, v = state.pop(name).chunk(3)
        if k.any():
            raise ModelError(
                f"{where} has a key bias in {name}, which this model does not have.", "Is it another model?"
            )
        stem = name.removesuffix("qkv.bias")
        _merge(state, {f"{stem}q_bias": q, f"{stem}v_bias": v}, where)
        dropped[f"{name} (key third)"] = "zeros: this model has no key bias"
    return state, dropped


def fit(
    expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], ignore: Reasons, where: object
) -> tuple[State, LoadReport]:
    """Match a file's tensors with a model's, strictly.

    Args:
        expected: Shape by name, of every tensor that the model has.
        found: The file's tensors, renamed to the model's spelling.
        ignore: What the file may hold besides, each with a reason.
        where: Name of the file, for messages.

    Returns:
        float32 tensors by name, ready for `load_state_dict(strict=True, assign=True)`, and the report.

    Raises:
        ModelError: Tensors are missing, have another shape, or are unexpected; with the likely cause.
    """
    result = fit_names(expected, {name: tensor.shape for name, tensor in found.items()}, ignore)
    if not result.whole:
        mismatched = [f"{name} is {a} instead of {b}" for name, (a, b) in result.shapes.items()]
        parts = [("lacks", result.missing), ("has other shapes:", mismatched), ("holds unexpected", result.unexpected)]
        message = "; ".join(f"{verb} {some_of(names, 4)}" for verb, names in parts if names)
        raise ModelError(f"{where} does not fit the encoder: it {message}.", _cause(expected, found, result))
    if odd := [f"{name} of {found[name].dtype}" for name in expected if not found[name].is_floating_point()]:
        raise ModelError(f"{where} does not fit the encoder: it holds {some_of(odd, 4)}.", "Is the file damaged?")
    state = {name: found[name].detach().to(torch.float32) for name in expected}
    return state, LoadReport(tuple(expected), result.ignored)


def _cause(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], result: Fit) -> str:
    """The likeliest reason why a checkpoint does not fit."""
    missing, shapes = result.missing, result.shapes
    for a, b in shapes.values():
        if len(a) == len(b) == 1 and a[0] in WIDTHS and b[0] in WIDTHS:
            return f"This is a {WIDTHS[a[0]]}-size checkpoint ({a[0]}), expected {WIDTHS[b[0]]} ({b[0]})."
    if len(missing) > 0.9 * len(expected):
        return f"Hardly a name fits; the file begins with {some_of(found, 3)}. It belongs to another model."
    if list(shapes) == ["pos_embed"]:
        a, b = shapes["pos_embed"]
        return f"Its position table has {a[1]} rows, the encoder needs {b[1]}: it was trained at another image size."
    if missing and all(name.startswith("norm.") for name in missing) and "fc_norm.weight" in found:
        return "The file was trained with global pooling (fc_norm): use pooling='mean+fc_norm'."
    depths = [
        1 + max((int(m[1]) for m in map(re.compile(r".*?\.(\d+)\.").match, n) if m), default=-1)
        for n in (expected, found)
    ]
    if depths[0] != depths[1]:
        return f"The file has {depths[1]} layers, the encoder {depths[0]}."
    return ""


def seeded_state(expected: Mapping[str, torch.Size], seed: int) -> State:
    """Random weights that are the same everywhere: a private generator, names in sorted order, on the CPU.

    Matrices are scaled by 1/sqrt(fan-in), LayerNorm gains lie near 1, biases and tokens near 0.
    """
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name in sorted(expected):
        shape = expected[name]
        noise = torch.randn(shape, generator=generator)
        if name.endswith("original0"):  # gain of a weight norm
            state[name] = torch.ones(shape)
        elif name.endswith(("weight", "original1")) and len(shape) > 1:
            state[name] = noise * (shape.numel() / shape[0]) ** -0.5
        else:
            state[name] = noise * 0.02 + (1.0 if name.endswith("weight") else 0.0)
    return state
