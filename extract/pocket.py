"""The pocket workspace: small real networks that install as packages, so that a laptop without any hub is enough."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from emo.extract.encoders.catalog import catalog
from emo.extract.encoders.registry import encoder_names
from emo.extract.media import tflite
from emo.featstore.datasets.tables import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from emo.featstore.page import Arg, Flag, Page
from emo.featstore.workspace import FILE_NAME, write_starter, write_workspace

SET = "pocket"  # of the catalog
LANGUAGE_MODEL = "smollm2"  # what recipe `pocket` tunes
HEAD = "pocket-head"  # recipe of `emo train` in such a workspace
# Encoders that join where they are there: name, and whether what they run on is installed.
WHERE_INSTALLED = (("mesh_UTT", tflite.installed), ("eGeMAPS_UTT", lambda: importlib.util.find_spec("opensmile")))

_TOML = """\
# A pocket workspace: real networks that are small and free. Paths are relative to this file.

[store]
path = "features.emo"

[data.clips]                  # a folder of media files; labels.csv in it has name,label and may have split,speaker
root = {root}
kind = {kind}

[extract]
profile = "paper"             # trained weights: of installed packages, or what `emo weights pull @pocket` fetched
encoders = {encoders}
{detector}

[train]
recipe = "{head}"      # recipe of `emo train` when none is named; `pocket` tunes a small language model
"""


def pocket_encoders() -> list[str]:
    """Return the encoders of a pocket workspace on this machine."""
    there = encoder_names()
    found = [name for name, is_there in WHERE_INSTALLED if name in there and is_there()]
    return [*catalog().sets[SET], *found]


def write_pocket(folder: Path, root: Path | None = None, kind: str = "folder", detector: str = "") -> Path:
    """Write the `emo.toml` of a pocket workspace.

    Args:
        folder: Of the workspace; created if need be.
        root: Folder of the clips; a relative one is seen from the current folder. `None`: clips/ in the workspace.
        kind: Reader of the dataset, `folder` for one's own clips.
        detector: Who finds faces; empty for the default.

    Raises:
        UsageError: There is an emo.toml already, or it cannot be written.
    """
    where = "clips" if root is None else seen_from(folder, root)
    words = {"root": json.dumps(where), "kind": json.dumps(kind), "encoders": json.dumps(pocket_encoders())}
    words["detector"] = f'faces_detector = "{detector}"' if detector else ""
    return write_workspace(folder, _TOML.format(head=HEAD, **words))


def seen_from(folder: Path, root: Path) -> str:
    """Return a path as a workspace in `folder` has to name it."""
    return str(root) if root.is_absolute() else os.path.relpath(root, folder)


def start_pocket(folder: Path, root: Path, kind: str) -> str:
    """Write a pocket workspace unless it is there, and return what was done; see `write_pocket`."""
    if (folder / FILE_NAME).exists():
        return f"{folder / FILE_NAME} is there and is used"
    detector = "blazeface" if tflite.installed() else ""
    return f"wrote {write_pocket(folder, root, kind, detector)} for {root}"


def _lacks(root: Path | None, kind: str) -> Iterator[str]:
    """Sentences on a folder of clips that cannot be worked with as it is."""
    if root is None:
        return
    if not root.is_dir():
        yield f"{root} is not there yet: put the clips into it, or correct `root` in emo.toml"
    elif kind == "folder":
        if not any(each.suffix.lower() in (*MEDIA_SUFFIXES, *AUDIO_SUFFIXES) for each in root.rglob("*")):
            yield f"{root} holds no video or sound file yet"
        if not any((root / f"labels{suffix}").exists() for suffix in (".csv", ".npz")):
            yield f"{root} has no labels.csv (name,label): features can be extracted, a head needs labels"


def init_page(
    say: Callable[[str], None],
    folder: Annotated[Path, Arg("Folder of the new workspace.")] = Path(),
    pocket: Annotated[bool, Flag("Small real networks, which need no hub and no GPU.", "--pocket")] = False,
    clips: Annotated[Path | None, Flag("Folder of your own clips.")] = None,
    data: Annotated[Path | None, Flag("The same as --clips.")] = None,
    kind: Annotated[str, Flag("Reader of that folder, see `emo data list`.")] = "folder",
) -> Page:
    """Write a commented emo.toml.

    Raises:
        UsageError: There is one already, or it cannot be written.
    """
    detector = "blazeface" if tflite.installed() else ""
    root = clips or data
    if pocket:
        path = write_pocket(folder, root, kind, detector)
    elif root is None:
        path = write_starter(folder, detector=detector)
    else:
        path = write_starter(folder, "clips", seen_from(folder, root), detector, kind)
    for sentence in _lacks(root if root is not None or not pocket else folder / "clips", kind):
        say(sentence)
    say(f"wrote {path}; correct the paths in it, then run `emo doctor`")
    if detector:
        say(f'BlazeFace and the face mesh are installed: faces_detector = "{detector}" stands in it')
    return Page({"path": str(path)})
