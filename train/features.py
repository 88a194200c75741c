"""The store as a training set: features of clips as arrays, in the order asked for. No video, no encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets.cells import held_out, split_name
from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.index import NO_MEDIA
from emo.featstore.storage.maintain import BESIDE
from emo.featstore.text import counted, some_of

Missing = Literal["error", "skip", "zeros"]
Pool = Literal["none", "mean"]


class FeatureSource(Protocol):
    """Interface that training needs of a store; `emo.featstore.storage.store.Store` has it."""

    path: Any

    def features(self) -> Sequence[Any]: ...
    def resolve(self, name: str) -> EncoderSpec: ...
    def has(self, feature: str, clip_ids: Sequence[str]) -> np.ndarray: ...
    def get(self, feature: str, clip_id: str) -> Any: ...
    def utterances(self, feature: str, clip_ids: Sequence[str], missing: Missing = "error") -> np.ndarray: ...
    def failures(self) -> Sequence[Any]: ...
    def checksums(self, feature: str | EncoderSpec, clip_ids: Sequence[str]) -> np.ndarray: ...
    def clip_row(self, clip_id: str) -> tuple[str, str | None, int, int] | None: ...


class StreamShape(NamedTuple):
    """Columns D of a stream, whether a clip has several rows of it, and what it is made from (`audio`, `text` ...)."""

    dim: int
    sequence: bool = False
    modality: str = ""


@dataclass(frozen=True)
class Stream:
    """One feature of all clips.

    Attributes:
        name: Feature name as the recipe has it.
        rows: `(N, D)` float32, one row per clip; or all rows of all clips, `(R, D)`, where `offsets` is given.
        offsets: `(N + 1,)`: clip i owns rows `offsets[i]:offsets[i + 1]`. `None` for one row per clip.
        modality: What the feature is made from, as its spec says.
    """

    name: str
    rows: np.ndarray
    offsets: np.ndarray | None = None
    modality: str = ""

    @property
    def dim(self) -> int:
        """Columns D."""
        return int(self.rows.shape[1])

    @property
    def sequence(self) -> bool:
        """Say whether a clip has several rows, in order of time."""
        return self.offsets is not None

    @property
    def shape(self) -> StreamShape:
        """Facts of the stream that a head must know before it is built."""
        return StreamShape(self.dim, self.sequence, self.modality)


@dataclass(frozen=True)
class Inputs:
    """The features of `clip_ids`, and what was left out or filled in on the caller's word."""

    clip_ids: tuple[str, ...]
    streams: tuple[Stream, ...]
    specs: tuple[EncoderSpec, ...]
    skipped: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()


def load_inputs(
    store: FeatureSource, features: Iterable[tuple[str, Pool]], clip_ids: Sequence[str], missing: Missing = "error"
) -> Inputs:
    """Read features of clips, whole, into memory.

    Args:
        store: Where they lie.
        features: `(name, pool)` pairs. `mean` averages a clip's rows into one; `none` keeps the row or the sequence:
            frames in order of time, and the tokens of a text in order of its words.
        clip_ids: In the order wanted.
        missing: What to do about clips that lack one of the features: `error` lists them, `skip` leaves them out,
            `zeros` puts zero rows in their place. The result names the clips concerned.

    Raises:
        FeatureMissing: A feature is not in the store, or clips lack one and the policy is `error`.
        UsageError: Tokens of a picture without a pool, or no clip left.
    """
    features = list(features)
    specs = resolve_all(store, [name for name, _ in features])
    for (name, pool), spec in zip(features, specs, strict=True):
        if spec.level == "tokens" and spec.modality != "text" and pool == "none":
            raise UsageError(
                f"{name} has {spec.rows or 'many'} token rows per clip, which are no sequence in time.",
                f"Average them: {{name: {name}, pool: mean}}.",
            )
        if spec.level == "utt" and pool == "mean":
            raise UsageError(f"{name} has one row per clip already.", f"Write {name} without a pool.")

    present, lacking = find_present(store, specs, clip_ids, missing)
    whole = np.logical_and.reduce(present, axis=0)  # (N,)
    if missing == "skip":
        keep = np.flatnonzero(whole)
        clip_ids, present = [clip_ids[int(i)] for i in keep], present[:, keep]
    if not len(clip_ids):
        raise UsageError(f"No clip has all of {', '.join(spec.name for spec in specs)}.", "Run emo extract first.")
    streams = tuple(
        _stream(store, name, pool, spec, clip_ids, row)
        for (name, pool), spec, row in zip(features, specs, present, strict=True)
    )
    return Inputs(
        tuple(clip_ids),
        streams,
        specs,
        skipped=lacking if missing == "skip" else (),
        zeroed=lacking if missing == "zeros" else (),
    )


def resolve_all(store: FeatureSource, names: Sequence[str]) -> tuple[EncoderSpec, ...]:
    """Return what names mean in a store.

    Raises:
        FeatureMissing: Some are not there; one message names them all.
        StoreError: One means several.
    """
    found, lacking = [], []
    for name in names:
        try:
            found.append(store.resolve(name))
        except FeatureMissing as error:
            lacking.append((name, error))
    names_here = {each.spec.name for each in store.features()} if lacking else set()
    if lacking and names_here.isdisjoint(name.partition("@")[0] for name, _ in lacking):
        what = f"The store has no {', '.join(name for name, _ in lacking)}; it holds {some_of(_held(store))}."
        how = "or train on others: --set 'features=[...]'."
        raise FeatureMissing(what, f"Run `emo extract --encoders {','.join(name for name, _ in lacking)}`, {how}")
    if lacking:
        raise lacking[0][1]
    return tuple(found)


def _held(store: FeatureSource) -> list[str]:
    return [each.key for each in store.features() if each.spec.encoder not in BESIDE]


def find_present(
    store: FeatureSource, specs: Sequence[EncoderSpec], clip_ids: Sequence[str], missing: Missing
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which features each clip has, `(F, N)` bool, and the clips that lack at least one.

    Raises:
        FeatureMissing: There are such clips and `missing` is `error`; they are named with their reasons.
    """
    present = np.array([store.has(spec.key, clip_ids) for spec in specs], dtype=bool)
    present = present.reshape(len(specs), len(clip_ids))
    whole = np.logical_and.reduce(present, axis=0)  # (N,)
    lacking = tuple(clip for clip, ok in zip(clip_ids, whole, strict=True) if not ok)
    if lacking and missing == "error":
        why = {(failure.feature, failure.clip): failure.kind for failure in store.failures()}
        by_feature = []
        for spec, row in zip(specs, present, strict=True):
            clips = [clip for clip, ok in zip(clip_ids, row, strict=True) if not ok]
            if clips:
                said = [f"{clip} ({why.get((spec.key, clip)) or _never(store, clip)})" for clip in clips]
                by_feature.append(f"{spec.name}: {some_of(said)}")
        raise FeatureMissing(
            f"{len(lacking)} of {len(clip_ids)} clips lack features. {'; '.join(by_feature)}.",
            "Extract them with `emo extract`, or leave these clips out: --set missing=skip.",
        )
    return present, lacking


def _never(store: FeatureSource, clip: str) -> str:
    """Say why a feature was never tried; of a clip that has words alone there is nothing to see or hear."""
    row = store.clip_row(clip)
    return "no media file" if row is not None and row[0].startswith(NO_MEDIA) else "not extracted"


def trained_splits(clips: Iterable[Clip], chosen: Sequence[str] | None) -> set[str]:
    """Splits to train on, as `split_name` has them: the chosen ones, or all that nobody means to be held out."""
    splits = {clip.split for clip in clips}
    if chosen is not None:
        return {split_name(split) for split in chosen}
    return {split_name(split) for split in splits if not held_out(split, splits)}


def media_of(store: FeatureSource | None, clip_ids: Iterable[str]) -> dict[str, str]:
    """Content hashes of the media of clips, as far as the store knows them."""
    rows = {clip_id: store.clip_row(clip_id) for clip_id in clip_ids} if store is not None else {}
    return {clip_id: row[0] for clip_id, row in rows.items() if row is not None and not row[0].startswith("clip:")}


def checksums_of(store: FeatureSource | None, features: Sequence[str], clip_ids: Sequence[str]) -> dict[str, str]:
    """Return by clip the checksums of its features, as one word each; `-` for one that it lacks.

    Nothing where the store does not have all of the features.
    """
    if store is None or not features:
        return {}
    with suppress(FeatureMissing):
        columns = [store.checksums(each, clip_ids).tolist() for each in features]
        return {
            clip_id: "".join(f"{each:08x}" if each >= 0 else "-" for each in row)
            for clip_id, row in zip(clip_ids, zip(*columns, strict=True), strict=True)
        }
    return {}


def made_anew(then: str | None, now: str | None) -> bool:
    """Say whether a clip has other features than then, by `checksums_of`; not so where one is lacking, or unknown."""
    return bool(then and now and then != now and "-" not in now)


def _stream(
    store: FeatureSource, name: str, pool: Pool, spec: EncoderSpec, clip_ids: Sequence[str], present: np.ndarray
) -> Stream:
    if spec.level == "utt":
        # With zeros chosen by name, the caller has been told which clips these are.
        rows = store.utterances(spec.key, clip_ids, missing="error" if present.all() else "zeros")
        return Stream(name, rows, modality=spec.modality)
    matrices = (
        np.asarray(store.get(spec.key, clip).array, dtype=np.float32) if ok else np.zeros((1, spec.dim), np.float32)
        for clip, ok in zip(clip_ids, present, strict=True)
    )
    if pool == "mean":
        means = [matrix.mean(axis=0, dtype=np.float64).astype(np.float32) for matrix in matrices]
        return Stream(name, np.stack(means), modality=spec.modality)
    kept = list(matrices)
    return Stream(name, np.concatenate(kept), np.cumsum([0, *(len(matrix) for matrix in kept)]), spec.modality)


def lacking_notes(skipped: Sequence[str], zeroed: Sequence[str]) -> list[str]:
    """Return the remarks on clips that lack features: that were left out, and that were filled with zeros."""
    notes = []
    for done, names in (("left out", skipped), ("filled with zeros", zeroed)):
        if names:
            lack = counted(len(names), "clip lacks features and was", "clips lack features and were")
            notes.append(f"{lack} {done}: {some_of(names)}.")
    return notes


def profile_note(specs: Iterable[EncoderSpec]) -> str | None:
    """Return the remark on numbers made from these features, or `None` where they are the published encoders'."""
    specs = list(specs)
    drawn = [spec.name for spec in specs if spec.profile in ("tiny", "random")]
    if drawn:
        which = "Features" if len(drawn) == len(specs) else f"Features {', '.join(drawn)}"
        profiles = " and ".join(sorted({spec.profile for spec in specs if spec.profile in ("tiny", "random")}))
        come = "come"
        if len(specs) > len(drawn) == 1:
            which, come = f"Feature {drawn[0]}", "comes"
        return f"{which} {come} from the {profiles} profile (random weights): no number here is an accuracy on people."
    if other := [spec.name for spec in specs if spec.profile != "paper"]:
        which = f"Feature {other[0]} was" if len(other) == 1 else f"Features {', '.join(other)} were"
        return f"{which} imported: how it was done emo cannot say."
    return None
