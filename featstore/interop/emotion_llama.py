"""Emotion-LLaMA: `mae_340_UTT/`, `maeV_399_UTT/` and `HL-UTT/`, one `(1024,)` .npy per clip, beside the label list.

For each line of the list its loader opens `<folder of the list>/<feature>/<clip>.npy` for all three, in the order face,
video, audio; looks the third word up among nine emotions, and the clip in `transcription_en_all.csv`
(minigpt4/datasets/datasets/first_face.py). The published archive names its folders with the dataset behind:
`mae_340_UTT_MER2023-SEMI`, `first_frames_MER2023-SEMI`; MER2024's are `mae_340_23_UTT` and so on.

EVA tokens have no place in it: it computes them from the first frame in every step. The pictures of those, the lists
and the transcripts are read by `featstore/datasets/emotion_llama.py`.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from emo.featstore.clip import Clip
from emo.featstore.datasets.emotion_llama import FRAMES, LIST_END
from emo.featstore.datasets.tables import read_list
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.interop.base import Export, FirstFrame, Found, Layout, Outgoing, Rejected, Source
from emo.featstore.interop.npy import list_npy, read_npy, write_npy
from emo.featstore.labels import MERR_LABELS
from emo.featstore.spec import EncoderSpec
from emo.featstore.text import counted

WIDTH = 1024  # columns that its projections take
MODALITY = {"mae_340_UTT": "face", "maeV_399_UTT": "face", "HL-UTT": "audio"}
ROLES = {name: name for name in MODALITY} | {  # name there -> name here
    "mae_340_23_UTT": "mae_340_UTT",  # mer2024.py
    "maeVideo_399_23_UTT": "maeV_399_UTT",
    "HL_23_UTT": "HL-UTT",
}
TRANSCRIPTS = "transcription_en_all.csv"
_FOLDER = re.compile(rf"({'|'.join(ROLES)})(?:_.+)?")


def find(path: Path, files: ExitStack) -> Found | None:
    """The three folders, with or without the dataset's name behind; or a `features_of_*` that has them."""
    if not path.is_dir():
        return None
    for root in (path, *sorted(each for each in path.glob("features_of_*") if each.is_dir())):
        folders = sorted(each for each in root.iterdir() if each.is_dir())
        roles = {folder: found[1] for folder in folders if (found := _FOLDER.fullmatch(folder.name))}
        if roles:
            break
    else:
        return None
    places: dict[str, list[tuple[str, str]]] = {name: [] for name in dict.fromkeys(roles.values())}
    rejected: list[Rejected] = []
    for folder, name in roles.items():
        good, unusable = list_npy(folder, folder.name)
        places[name] += good
        rejected += unusable
    sources = [
        Source(name, found, read_npy, ROLES[name], "utt", 1, MODALITY[ROLES[name]]) for name, found in places.items()
    ]
    notes = [f"{folder.name} is empty." for folder in roles if not any(folder.iterdir())]
    notes += _beside(dict.fromkeys([path, root]), [each for each in folders if each not in roles], sources)
    return Found(sources, rejected, notes)


def _beside(roots: Iterable[Path], folders: Sequence[Path], sources: Sequence[Source]) -> Iterable[str]:
    """List what else lies in the tree, and what it is to emo."""
    for folder in folders:
        if not folder.name.startswith(FRAMES):
            yield f"{folder.name} is no folder of Emotion-LLaMA's; --layout mertools imports folders of any name."
    have = [{clip for clip, _ in source.places} for source in sources]
    whole = set.intersection(*have)
    lists = False
    for root in roots:
        for file in sorted(root.glob("*.txt")):
            try:
                listed = [row.name for row in read_list(file)]
            except UsageError:
                continue  # some other text
            lacking = len(set(listed) - whole)
            what = f"{lacking:,} of them lack a feature" if lacking else "each has all features"
            yield f"{file.name} lists {len(listed):,} clips; {what}."
            lists = True
    yield from _next_step(next(iter(roots)), folders, lists)


def _next_step(root: Path, folders: Sequence[Path], lists: bool) -> Iterable[str]:
    """Say how labels, texts and image tokens come about, none of which an import takes."""
    table = f'[data.NAME] with root = "{os.path.abspath(root)}" and kind = "emotion-llama"'
    if lists:
        yield f"Lists and transcripts are read where they lie: write {table} into emo.toml."
    if pictures := sum(1 for each in folders if each.name.startswith(FRAMES) for _ in each.iterdir()):
        yield (
            f"The tree holds no image tokens, but {pictures:,} first frames: with {'that table' if lists else table}, "
            "`emo extract --dataset NAME --encoders eva_g_448` computes them."
        )
    elif lists:
        yield (
            "The tree holds no image tokens and no first frames: name the folder of the clips as `clips` in that "
            "table, and `emo extract --dataset NAME --encoders eva_g_448` computes them."
        )


def name_there(spec: EncoderSpec, name: str | None) -> str:
    """One of the three."""
    name = name or spec.name
    if spec.level == "tokens":
        why = "it computes EVA tokens from the first frame in every step"
        raise UsageError(f"{spec.key} has no place in Emotion-LLaMA's layout: {why}.")
    if name not in MODALITY or spec.level != "utt":
        text = (
            f"{spec.key} has no place in Emotion-LLaMA's layout: it reads utterance vectors {', '.join(MODALITY)} only."
        )
        raise UsageError(text, f"Export it in place of one of them, for instance as {spec.name}=HL-UTT.")
    return name


def write(path: Path, export: Export) -> Sequence[str]:
    """Writes the folders; for clips of a dataset also a list per split, the transcripts, and first frames."""
    notes = [
        f"{each.spec.key} has {each.spec.dim} columns where Emotion-LLaMA's projections take {WIDTH}."
        for each in export.features
        if each.spec.dim != WIDTH
    ]
    for feature in export.features:
        if feature.rows()[1] == "float64":
            raise UsageError("Emotion-LLaMA cannot compute with float64 features.", "Choose float32.")
        write_npy(path / feature.name, feature)
    absent = [name for name in MODALITY if name not in [each.name for each in export.features]]
    if absent:
        return [*notes, f"Its loader reads all three features: {' and '.join(absent)} must be put beside these."]
    listed: list[Clip] = []
    notes += _write_lists(path, export.features, export.clips.values(), listed)
    return [*notes, *_write_frames(path / FRAMES, listed, export.first_frame)]


def _write_frames(folder: Path, clips: Sequence[Clip], first_frame: FirstFrame | None) -> Iterable[str]:
    """Write the pictures of which Emotion-LLaMA computes EVA tokens."""
    here = [(clip, clip.media) for clip in clips if clip.media is not None]
    if first_frame is None or not here:
        return
    folder.mkdir()
    failed: dict[str, str] = {}
    for clip, media in here:
        try:
            first_frame(media, folder / f"{clip.id}.png")
        except MediaError as error:
            failed[clip.id] = error.message
    yield f"{FRAMES} has the first frames of {len(here) - len(failed):,} of {len(clips):,} listed clips."
    if failed:
        yield f"{counted(len(failed), 'clip')} gave no first frame, for instance: {next(iter(failed.values()))}"


def _write_lists(path: Path, features: Sequence[Outgoing], clips: Iterable[Clip], listed: list[Clip]) -> Iterable[str]:
    """Write the lists and transcripts, and collect the clips that are in them."""
    labelled = [(clip, clip.label) for clip in clips if clip.label is not None and clip.label.emotion is not None]
    whole = set.intersection(*(set(each.clips) for each in features))
    lists: dict[str, dict[str, str]] = {}  # split -> clip -> line
    sentences: dict[str, str] = {}
    unreadable = lacking = 0
    for clip, label in labelled:
        if label.emotion not in MERR_LABELS or " " in clip.id:
            unreadable += 1
        elif clip.id not in whole:
            lacking += 1
        else:  # the number of frames is in no label file, and nothing reads it
            valence = -10 if label.valence is None else label.valence
            lines = lists.setdefault(re.sub(r"[^\w.-]", "_", clip.split or "all"), {})
            lines[clip.id] = f"{clip.id} 0 {label.emotion} {valence:g}\n"
            sentences[clip.id] = clip.transcripts.get("english", "")
            listed.append(clip)
    for split, lines in lists.items():
        (path / f"{split}{LIST_END}.txt").write_text("".join(lines.values()), encoding="utf-8")
        many = counted(len(lines), "clip")
        yield f"{split}{LIST_END}.txt lists {many}, with 0 as the number of frames, which nothing reads."
    if not labelled:
        yield "No list and no transcript is written: --dataset NAME says whose labels these clips have."
    if sentences:
        with open(path / TRANSCRIPTS, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("name", "sentence"), *sentences.items()])
    if silent := sum(not sentence for sentence in sentences.values()):
        have = counted(silent, "clip has", "clips have")
        yield f"{have} no English transcript: Emotion-LLaMA reads an empty field as the word nan."
    if unreadable:
        why = f"a space in the id, or an emotion that is none of {', '.join(MERR_LABELS)}"
        yield f"{counted(unreadable, 'clip is', 'clips are')} not listed: {why}."
    if lacking:
        are = counted(lacking, "labelled clip is", "labelled clips are")
        yield f"{are} not listed, for lack of one of the three features."


LAYOUT = Layout(
    "emotion-llama",
    "Emotion-LLaMA's folders mae_340_UTT, maeV_399_UTT and HL-UTT, with or without a dataset's name behind",
    find,
    name_there,
    write,
)
