"""Plan of a pass: wanted - there - failed for good, decided without reading media that the store remembers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from emo.extract.frame_choice import chosen_by, moved
from emo.extract.texts import changed
from emo.featstore.address import Address, Url
from emo.featstore.clip import Clip, FileId, MediaId, many_objects
from emo.featstore.errors import UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.index import NO_MEDIA
from emo.featstore.storage.store import Store
from emo.featstore.transcripts import LANGUAGES, of_other_texts, text_of

SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a dataset, which other processes or machines extract at the same time.

    A clip's part depends on nothing but its file's size and 4 KiB from the middle of it (its id where it has no file).
    So parts are disjoint and complete, whatever is done already and in whatever order the clips are listed; a file that
    is renamed stays in its part, and copies of one file under several names are in one part, where they are done once.

    Attributes:
        number: From 1.
        of: How many parts there are.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(f"There is no shard {self.number} of {self.of}.", "Shards are 1/8 to 8/8, for instance.")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/8`.

        Raises:
            UsageError: It is not of this form, or there is no such shard.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and len(text) < 20):
            raise UsageError(f"{text!r} is no shard.", "Write which one of how many: --shard 3/8.")
        return cls(int(number), int(of))

    def holds(self, clip: Clip) -> bool:
        """Say whether a clip is in this part."""
        return int.from_bytes(blake2b(sample_of(clip), digest_size=8).digest()) % self.of == self.number - 1


def sample_of(clip: Clip) -> bytes:
    """Return what copies of one file share, and hardly anything else does, without reading all of it.

    That is the size of a clip's file and a sample of its bytes; in a bucket size and tag; else the clip's id.
    """
    key = clip.id.encode(errors="surrogateescape")
    if isinstance(clip.media, Url):  # as they were listed
        key = repr(clip.media.seen and (clip.media.seen[0], clip.media.seen[2])).encode()
    elif clip.media is not None:
        with suppress(OSError), open(clip.media, "rb") as file:  # an unreadable file is known by its clip's id
            size_bytes = os.fstat(file.fileno()).st_size
            file.seek(max(0, size_bytes - SAMPLE_BYTES) // 2)
            key = size_bytes.to_bytes(8) + file.read(SAMPLE_BYTES)
    return key


@dataclass(frozen=True)
class Job:
    """One clip to process.

    Attributes:
        clip: The clip.
        path: Its media file; for messages alone, its id, where it has none.
        file: `None` where the file has not been hashed yet; without a file, what the store knows the clip's id to mean.
    """

    clip: Clip
    path: Address
    file: FileId | None


@dataclass
class Plan:
    """Plan of a pass, decided without reading media that the store remembers.

    Attributes:
        total: Clips listed by the dataset.
        absent: Clips whose media file is not there. What is made of transcripts can do without.
        elsewhere: Clips of other shards.
        done: Clips that have every wanted feature.
        hopeless: Clips that failed for good.
        jobs: Clips to process, in the dataset's order. Those never hashed may turn out to be copies of others.
        clips: Ids of all clips that were looked at, done or not.
        other_text: Clips with the media of an earlier one, but another transcript: the earlier one's is used.
        new_text: Clips with another transcript than a wanted feature in the store was made of: it is made anew.
        no_text: Clips without a transcript, of an earlier one of which wanted features in the store were made: they
            stay, and training refuses them; by feature.
    """

    total: int = 0
    absent: int = 0
    elsewhere: int = 0
    done: int = 0
    hopeless: int = 0
    jobs: list[Job] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    other_text: list[str] = field(default_factory=list)
    new_text: list[str] = field(default_factory=list)
    no_text: dict[str, list[str]] = field(default_factory=dict)


@many_objects()
def plan(
    store: Store | None,
    clips: Iterable[Clip],
    specs: Sequence[EncoderSpec],
    *,
    retry_failed: bool = False,
    limit: int | None = None,
    shard: Shard | None = None,
) -> Plan:
    """Decide what is left: wanted - ok - failed for good.

    Args:
        store: The store; `None` where there is none yet.
        clips: Clips of a dataset.
        specs: Features wanted of each clip; of one without media, those that are made of transcripts.
        retry_failed: Try again what failed for good.
        limit: Take the first so many clips that are present; without media they count only where nothing else is read.
        shard: Take only the clips of this part, after the limit.
    """
    result = Plan()
    texts = [spec for spec in specs if LANGUAGES in spec.recipe]
    words_do = len(texts) == len(specs) or (bool(texts) and limit is None)  # a clip without media is of use
    present: list[Clip] = []
    for clip in clips:
        result.total += 1
        result.absent += clip.media is None
        if (clip.media is None and not words_do) or len(present) + result.elsewhere == limit:
            continue
        if shard is not None and not shard.holds(clip):
            result.elsewhere += 1
            continue
        present.append(clip)
    result.clips = [clip.id for clip in present]
    if store is not None and specs and not texts and not any(map(chosen_by, specs)):  # what is there is up to date
        wanted = store.lacking(specs, ((clip.id, clip.media or Path(clip.id)) for clip in present))
        result.done = len(present) - len(wanted)
        present, files = [present[i] for i in wanted], list(wanted.values())
    else:
        files = _files(present, store)
    known = [(clip, file.media) for clip, file in zip(present, files, strict=True) if file is not None]
    result.other_text = _other_texts(texts, known)
    todo, lacking = set[MediaId](), set[MediaId]()
    if store is not None:
        result.new_text, result.no_text = _new_texts(store, texts, [clip for clip, _ in known])
        lacking.update(*left(store, specs, known, True).values())
        known = [each for each in known if each[1] in lacking]
        todo = lacking if retry_failed else todo.union(*left(store, specs, known, False).values())
    for clip, file in zip(present, files, strict=True):
        if store is None or file is None or file.media in todo:
            result.jobs.append(Job(clip, clip.media or Path(clip.id), file))
        elif file.media in lacking:
            result.hopeless += 1
        else:
            result.done += 1
    return result


def left(
    store: Store, specs: Iterable[EncoderSpec], clips: Sequence[tuple[Clip, MediaId]], retry_failed: bool
) -> dict[str, set[MediaId]]:
    """`Store.work`, and what was made of another transcript than the clip has now, or of another frame.

    Args:
        store: The store.
        specs: Wanted features; of a clip without a media file, those that are made of transcripts.
        clips: Wanted clips, each with its media.
        retry_failed: Also try again what failed for good.

    Returns:
        Media by feature key.
    """
    specs = list(specs)
    texts = [spec for spec in specs if LANGUAGES in spec.recipe]
    others = [spec for spec in specs if LANGUAGES not in spec.recipe]
    found = store.work(others, [(clip.id, media) for clip, media in clips if clip.media is not None], retry_failed)
    if texts:
        found |= store.work(texts, [(clip.id, media) for clip, media in clips], retry_failed)
    for spec in others:
        if chosen_by(spec):
            found[spec.key] |= moved(store, spec, [each for each in clips if each[1] not in found[spec.key]])
    for spec in texts:
        found[spec.key] |= changed(store, spec, [each for each in clips if each[1] not in found[spec.key]])
    return found


def _other_texts(specs: Sequence[EncoderSpec], clips: Iterable[tuple[Clip, MediaId]]) -> list[str]:
    first: dict[tuple[str, MediaId], str] = {}
    found: dict[str, None] = {}
    for clip, media in clips if specs else ():
        for spec in specs:
            text = text_of(clip.transcripts, spec.recipe[LANGUAGES])
            if first.setdefault((spec.key, media), text) != text:
                found[clip.id] = None
    return list(found)


def _new_texts(
    store: Store, specs: Sequence[EncoderSpec], clips: Sequence[Clip]
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the clips that have another transcript than a feature was made of, and by feature those that have none."""
    held = {each.spec.fingerprint for each in store.features()} if specs else set[str]()
    anew, gone = dict[str, None](), dict[str, list[str]]()
    for spec in specs:
        others = set(of_other_texts(store, spec, clips)) if spec.fingerprint in held else set[str]()
        for clip in clips if others else ():
            if clip.id in others and text_of(clip.transcripts, spec.recipe[LANGUAGES]):
                anew[clip.id] = None
            elif clip.id in others:
                gone.setdefault(spec.key, []).append(clip.id)
    return list(anew), gone


def _files(clips: Sequence[Clip], store: Store | None) -> list[FileId | None]:
    """Return what is known of each clip's file; of a clip without one, what the store knows its id to mean."""
    files = ((clip.id, clip.media) for clip in clips if clip.media is not None)
    known = iter(store.files_of(files) if store is not None else ())
    return [_without(clip, store) if clip.media is None else next(known, None) for clip in clips]


def _without(clip: Clip, store: Store | None) -> FileId:
    row = None if store is None else store.clip_row(clip.id)  # its file may have been there once
    return FileId(NO_MEDIA + clip.id if row is None else row[0], -1, -1)
