"""The workspace: a folder with an `emo.toml` that says where data, weights and the store are."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.featstore.address import Address, Url, is_url
from emo.featstore.errors import UsageError
from emo.featstore.files import mirror_folder
from emo.featstore.names import known_models, known_names, model_of
from emo.featstore.reading import read_toml
from emo.featstore.text import did_you_mean, nearest

FILE_NAME = "emo.toml"
DEFAULT_STORE = "features.emo"
PROFILES = ("paper", "tiny")
SOUND_KEYS = ("audio_track", "sound_tail", "max_minutes")
SOUND_TAILS = ("keep", "trim")
FIXED_FRAMES = ("first", "middle")
PLACES = ("labels", "transcripts", "clips", "faces", "aus")  # paths of a [data.NAME] table beside its root
WEIGHT_FOLDERS = ("checkpoints", "ckpt", "models", "pretrained", "weights")
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".onnx", ".gguf")
MAX_NAME_BYTES = 255  # of one part of a path, on every usual file system
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class DataTable:
    """One `[data.NAME]` table: where a dataset lies. Paths are absolute; none is looked at before it is used.

    Attributes:
        name: Name of the dataset, such as `MER2023-SEMI`.
        root: Folder of the dataset.
        labels: Label file, where it is not found in the root by its usual name.
        transcripts: Transcript csv, likewise.
        clips: Folder of the media files, likewise.
        faces: Folder of OpenFace output, to be used in place of the face detector.
        aus: Folder of OpenFace's csv tables of action units.
        kind: Reader to use: a registered dataset name or `folder`; empty for the name's own.
        classes: All label words in order; empty for the dataset's own.
        url: Where the dataset lies in a bucket; its root is then a mirror of its tables, made when it is opened.
    """

    name: str
    root: Path
    labels: Path | None = None
    transcripts: Path | None = None
    clips: Path | None = None
    faces: Path | None = None
    aus: Path | None = None
    kind: str = ""
    classes: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True)
class ExtractTable:
    """The `[extract]` table: what `emo extract` makes when no flag says otherwise.

    Attributes:
        profile: `paper` (the published sizes and weights) or `tiny` (same code, small random networks).
        encoders: Features to extract.
        face: Rule that picks one of several people; empty for the extractor's default.
        faces_detector: Who finds faces: `centerface` or `blazeface`; empty for the extractor's default.
        faces_every: Detect faces in every k-th frame and track between; `None` for the extractor's default.
        device: `auto`, `cpu`, `cuda`, `cuda:0,cuda:1`, ...
        audio_track: Sound track to read, from 1; `None` for the one that ffmpeg would choose.
        sound_tail: `keep` or `trim`: where the sound of an mp4 ends; `None` for the extractor's default.
        max_minutes: A longer clip is refused; `None` for the extractor's default.
        frame: Frame for `eva_g_448`: `first` (as published), `middle`, `peak` (the records of `emo annotate run`), or
            the path of a table of indices per clip.
        asr: Records of transcripts to read of clips whose dataset has none; empty for the only ones in the store.
    """

    profile: str = "paper"
    encoders: tuple[str, ...] = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")  # the four of Emotion-LLaMA
    face: str = ""
    faces_detector: str = ""
    faces_every: int | None = None
    device: str = "auto"
    frame: str = "first"
    asr: str = ""
    audio_track: int | None = None
    sound_tail: str | None = None
    max_minutes: float | None = None


@dataclass(frozen=True)
class Workspace:
    """Everything an `emo.toml` says, checked and with defaults filled in.

    Attributes:
        root: Folder of the `emo.toml`; relative paths in the file start here.
        store_path: The feature store, which need not exist yet; a URL where it lies in a bucket.
        data: Tables by dataset name.
        extract: Defaults of `emo extract`.
        weights: Local path or Hugging Face id by name, as written.
        recipe: Default recipe of `emo train`; empty when none is set.
    """

    root: Path
    store_path: Address
    data: Mapping[str, DataTable] = field(default_factory=dict)
    extract: ExtractTable = field(default_factory=ExtractTable)
    weights: Mapping[str, str] = field(default_factory=dict)
    recipe: str = ""

    def table(self, name: str | None = None) -> DataTable:
        """The `[data.NAME]` table of a dataset; without a name, the only one there is.

        Raises:
            UsageError: There is none of that name (the nearest one is given), or several to choose from.
        """
        where = self.root / FILE_NAME
        have = f"It has {', '.join(self.data)}." if self.data else "It has no [data] table at all."
        if name is None:
            if len(self.data) == 1:
                return next(iter(self.data.values()))
            raise UsageError(f"{where} does not say which dataset is meant. {have}", "Name one: --dataset NAME.")
        if name in self.data:
            return self.data[name]
        raise UsageError(
            f"{where} has no [data.{_key(name)}] table. {did_you_mean(name, self.data)}".strip(),
            f'{have} Add the table with root = "...".',
        )

    def weights_at(self, name: str) -> Path | str | None:
        """Return where weights lie: a `Path` for local ones (which may be absent), a Hugging Face id, or `None`.

        Where a feature has no line of its own, the line of its model counts, which all its recipes share.

        A value is taken as an id when it has the form `owner/name` and nothing speaks for a path: no such path, no
        suffix of a weights file, and `owner` is neither a folder here nor a usual folder name such as `checkpoints`.
        """
        value = self.weights_value(name)
        if not value:
            return None
        path = self.root / os.path.expanduser(value)
        owner = value.split("/")[0]
        if os.path.exists(path) or path.suffix in WEIGHT_SUFFIXES or not HUB_ID.fullmatch(value):
            return path
        return path if owner in WEIGHT_FOLDERS or os.path.isdir(self.root / owner) else value

    def weights_value(self, name: str) -> str:
        """Return the text under `[weights]` for a name, or for the model of a feature; empty where there is none."""
        return self.weights.get(name) or (self.weights.get(model_of(name) or "", "") if self.weights else "")


# ---- finding and loading --------------------------------------------------------------------------------------------


def find_workspace(start: Path | None = None) -> Path:
    """Path of the `emo.toml` in a folder or the nearest one above it.

    Args:
        start: Folder to start from; the current folder if `None`.

    Raises:
        UsageError: There is none.
    """
    folder = Path(os.path.realpath(start or Path.cwd()))
    for each in (folder, *folder.parents):
        if os.path.isfile(each / FILE_NAME):
            return each / FILE_NAME
    raise UsageError(f"No {FILE_NAME} in {folder} or above.", "Run `emo init` to write one.")


def load_workspace(path: str | Path) -> Workspace:
    """Read an `emo.toml`, or the one of a folder. Whether data and weights exist is looked at only when they are used.

    Raises:
        UsageError: The file is absent, is not TOML, or has problems; all of them are listed, one per line.
    """
    path = Path(os.path.realpath(path))  # unlike resolve(), it does not fail on links in a circle
    path = path / FILE_NAME if os.path.isdir(path) else path
    if not os.path.lexists(path):
        raise UsageError(f"{path} does not exist.", "Run `emo init` to write one.")
    reader = _Reader(read_toml(path), path.parent)
    workspace = reader.workspace()
    if reader.problems:
        count = f"{len(reader.problems)} problem{'s' if len(reader.problems) > 1 else ''}"
        raise UsageError("\n  ".join([f"{path} has {count}:", *reader.problems]))
    return workspace


class _Reader:
    """Walks the parsed file and collects every problem instead of stopping at the first."""

    def __init__(self, content: dict[str, Any], root: Path) -> None:
        self.content = content
        self.root = root
        self.problems: list[str] = []

    def workspace(self) -> Workspace:
        self.known("", self.content, ("store", "data", "extract", "weights", "train"))
        store = self.section("store", ("path",))
        train = self.section("train", ("recipe",))
        extract = self.extract_table()
        return Workspace(
            root=self.root,
            store_path=self.place("store", store, "path") or self.root / DEFAULT_STORE,
            data=self.data_tables(),
            extract=extract,
            weights=self.weights(extract.encoders),
            recipe=self.text("train", train, "recipe"),
        )

    def data_tables(self) -> dict[str, DataTable]:
        tables = {}
        for name, table in self.section("data").items():
            where = f"data.{_key(name)}"
            if not isinstance(table, dict):
                self.problems.append(f"{where}: must be a table; write [data.NAME] above its keys")
                continue
            self.known(where, table, ("root", *PLACES, "kind", "classes"))
            url = str(table.get("root")) if is_url(str(table.get("root"))) else ""
            root = mirror_folder(url) if url else self.path(where, table, "root")
            if "root" not in table:
                self.problems.append(f"{where}.root: is missing; it is the folder of the dataset")
            places = {key: self.path(where, table, key) for key in PLACES}
            classes = table.get("classes", [])
            if not isinstance(classes, list) or not all(isinstance(each, str) and each.strip() for each in classes):
                self.problems.append(f'{where}.classes: must be a list of words, such as ["happy", "none"]')
                classes = []
            kind, words = self.text(where, table, "kind"), tuple(each.strip().lower() for each in classes)
            tables[name] = DataTable(name, root or self.root, **places, kind=kind, classes=words, url=url)
        return tables

    def extract_table(self) -> ExtractTable:
        default = ExtractTable()
        names = ("profile", "encoders", "face", "faces_detector", "faces_every", "device", "frame", "asr", *SOUND_KEYS)
        table = self.section("extract", names)
        profile = self.text("extract", table, "profile", default.profile)
        if profile not in PROFILES:
            self.problems.append(f"extract.profile: {profile!r} is not {' or '.join(PROFILES)}")
        encoders = table.get("encoders", list(default.encoders))
        if not isinstance(encoders, list) or not encoders or not all(isinstance(e, str) and e for e in encoders):
            self.problems.append('extract.encoders: must be a list of names, such as ["HL-UTT", "eva_g_448"]')
            encoders = list(default.encoders)
        for each in encoders:
            if each not in default.encoders:
                self.near_miss("extract.encoders", each, known_names(), cutoff=1.0)
        minutes = table.get("max_minutes")
        if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or minutes <= 0):
            self.problems.append(f"extract.max_minutes: {minutes!r} is not a number above 0")
            minutes = None
        tail = self.text("extract", table, "sound_tail") or None
        if tail not in (None, *SOUND_TAILS):
            self.problems.append(f"extract.sound_tail: {tail!r} is not {' or '.join(SOUND_TAILS)}")
        frame = self.text("extract", table, "frame", default.frame)
        if frame not in FIXED_FRAMES and not is_peak(frame):
            frame = str(self.root / os.path.expanduser(frame))
        return ExtractTable(
            profile=profile,
            encoders=tuple(dict.fromkeys(encoders)),
            face=self.text("extract", table, "face"),
            faces_detector=self.text("extract", table, "faces_detector"),
            faces_every=self.count("extract", table, "faces_every"),
            audio_track=self.count("extract", table, "audio_track"),
            sound_tail=tail,
            max_minutes=minutes,
            device=self.text("extract", table, "device", default.device),
            frame=frame,
            asr=self.text("extract", table, "asr"),
        )

    def weights(self, encoders: Iterable[str]) -> dict[str, str]:
        """Weights are an open table (third parties add encoders), but a near miss of a known name is a typing error."""
        table, shown = self.section("weights"), tomllib.loads(starter_toml())["weights"]
        for name in table:
            if name not in encoders and name not in shown:
                self.near_miss("weights", name, [*known_names(), *known_models(), *shown])
        return {name: self.text("weights", table, name) for name in table}

    # ---- one value --------------------------------------------------------------------------------------------------

    def section(self, name: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
        table = self.content.get(name, {})
        if not isinstance(table, dict):
            self.problems.append(f"{name}: must be a table; write [{name}] above its keys")
            return {}
        if keys is not None:
            self.known(name, table, keys)
        return table

    def known(self, where: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                place = f"{where}.{_key(key)}" if where else _key(key)
                self.problems.append(f"{place}: unknown key; {did_you_mean(key, keys) or _known(keys)}")

    def near_miss(self, where: str, name: str, known: Iterable[str], cutoff: float = 0.85) -> None:
        close = nearest(name, known, cutoff)
        if close is not None and close != name:
            self.problems.append(f"{where}: unknown name {name!r}; did you mean {close!r}?")

    def text(self, where: str, table: Mapping[str, Any], key: str, default: str = "") -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or (key in table and not value.strip()):
            self.problems.append(f"{where}.{_key(key)}: must be text between quotes, not {value!r}")
            return default
        return value

    def count(self, where: str, table: Mapping[str, Any], key: str) -> int | None:
        value = table.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            self.problems.append(f"{where}.{key}: {value!r} is not a whole number from 1 up")
            return None
        return value

    def place(self, where: str, table: Mapping[str, Any], key: str) -> Address | None:
        value = table.get(key)
        return Url(value) if isinstance(value, str) and is_url(value) else self.path(where, table, key)

    def path(self, where: str, table: Mapping[str, Any], key: str) -> Path | None:
        value = self.text(where, table, key)
        if "\0" in value or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in value.split("/")):
            self.problems.append(f"{where}.{_key(key)}: no file can have this name: {value[:60]!r}")
            return None
        return Path(os.path.abspath(self.root / os.path.expanduser(value))) if value else None


def is_peak(frame: str) -> bool:
    """Say whether a choice of frames means records of peaks: `peak`, or `peak@` and the beginning of a fingerprint."""
    return frame.partition("@")[0] == "peak"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else _text(name)


def _text(value: str) -> str:
    """A TOML basic string, of which a JSON string is a special case."""
    return json.dumps(value, ensure_ascii=False)


def _known(names: Iterable[str]) -> str:
    return f"known are {', '.join(names)}"


# ---- the file that `emo init` writes --------------------------------------------------------------------------------

_STARTER = """\
# Workspace of emo. Paths are relative to this file. Keys that are commented out show an example or their default.

[store]
path = {store}                # the feature store; the first `emo extract` creates it

[data.{dataset}]              # one table per dataset in use; `emo data list` names the known ones
# root: the folder with label-6way.npz (or csv), transcription*.csv, and clips/ or video/; list files such as
# relative_test3_NCEV.txt are found here too. The commented keys are needed only where a file lies elsewhere.
root = {root}
# labels = "label-6way.npz"             # npz, csv (name,label[,valence][,split]) or text list
# transcripts = "transcription.csv"     # csv with name and chinese, english or sentence
# clips = "clips"                       # folder of the media files
# faces = "openface_face"               # OpenFace output (<clip>_aligned/, <clip>/, <clip>.npy), replaces detection
# aus = "openface"                      # OpenFace's csv tables of action units, for `emo annotate run`
# classes = ["happy", "sad", "none"]     # all label words in order; needed only where one is called none or unknown
{kind}                       # for your own data: any folder of media with a csv of labels

[extract]
# profile: paper (published networks and weights) or tiny (same code, small random networks, for trying things out)
profile = "paper"
encoders = ["HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448"]    # features to extract
# device = "auto"             # auto | cpu | cuda | cuda:0,cuda:1
# frame = "first"             # for eva_g_448: first (as published), middle, peak (as `emo annotate run` finds it), or a
                              # csv name,frame or MERR json of indices
# face = "prominent"          # which of several people: prominent | largest | longest | central | talking
{detector}    # who finds faces: centerface, or blazeface with the face mesh (docs/faces.md)
# faces_every = 5             # detect faces in every k-th frame and track between
# audio_track = 1             # of several sound tracks: which one; without it the one that ffmpeg would choose
# sound_tail = "keep"         # end of an mp4's sound: keep the last packet, as the published features, or trim it
# max_minutes = 5             # a longer clip is refused
# asr = "whisper-base.transcript"    # transcripts of `emo transcribe` to read, where the store has several

[weights]                     # a local path or a Hugging Face id; `emo weights list` says where each comes from
# A model of the catalog may be named alone: "clip-vit-base-patch32" serves its -UTT, -modern-UTT and -frame-UTT.
# Under profile tiny these lines are not used: small networks are drawn at random, where no file of one is named.
"HL-UTT" = "TencentGameMate/chinese-hubert-large"          # HuBERT large, Chinese speech
"mae_340_UTT" = "checkpoints/mae_checkpoint-340.pth"       # MAE ViT-L on face crops of MER2023
"maeV_399_UTT" = "checkpoints/maeVideo_ckp199.pth"         # VideoMAE ViT-L on face crops of MER2023
"eva_g_448" = "checkpoints/eva_vit_g.pth"                  # EVA ViT-g of BLIP-2
{of_llama}llama = "checkpoints/Llama-2-7b-chat-hf"                   # the language model that `emo train` tunes
{of_llama}minigpt_v2 = "checkpoints/minigptv2_checkpoint.pth"        # MiniGPT-v2: its projection and LoRA

[train]
recipe = {recipe}    # recipe of `emo train` when none is named
"""


def starter_toml(
    dataset: str = "MER2023-SEMI", root: str = "../data/MER2023", detector: str = "", kind: str = ""
) -> str:
    """Text of a first `emo.toml` for one dataset, every key explained by a comment.

    Of a folder of one's own clips it names a head's recipe, of any other dataset Emotion-LLaMA's.

    Args:
        dataset: Name of its table.
        root: Its folder.
        detector: Who finds faces; empty to leave the key commented out.
        kind: Reader of the dataset; empty to leave the key commented out.
    """
    reader = f"kind = {_text(kind)}" if kind else '# kind = "folder"'
    finds = f'faces_detector = "{detector}"' if detector else '# faces_detector = "centerface"'
    store = re.split(r"[-\s]", dataset.strip().lower())[0] or "features"
    store = re.sub(r"[^\w.]", "_", store) + ".emo"
    own = kind == "folder"  # whose clips have no annotations of MERR, which Emotion-LLaMA's recipe learns from
    return _STARTER.format(
        store=_text(store),
        dataset=_key(dataset),
        root=_text(root.replace("\\", "/")),
        detector=finds,
        kind=reader,
        recipe=_text("attention" if own else "emotion-llama-stage1"),
        of_llama="# " if own else "",
    )


def write_starter(
    folder: Path, dataset: str = "MER2023-SEMI", root: str = "../data/MER2023", detector: str = "", kind: str = ""
) -> Path:
    """Write a first `emo.toml` into a folder, see `write_workspace` and `starter_toml`."""
    return write_workspace(folder, starter_toml(dataset, root, detector, kind))


def write_workspace(folder: Path, text: str) -> Path:
    """Write the text of a new `emo.toml` into a folder, which is created if need be.

    Raises:
        UsageError: There is one already, or it cannot be written.
    """
    path = folder / FILE_NAME
    try:
        written = text.encode()
    except UnicodeEncodeError:
        raise UsageError("The path of the clips is not UTF-8, and emo.toml cannot hold it.", "Rename it.") from None
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", "Name a folder for the workspace.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(written)
    except FileExistsError:
        raise UsageError(f"{path} exists already.", "Edit it, or choose another folder.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path
