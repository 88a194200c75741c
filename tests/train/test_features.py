"""The store as arrays: order, pooling, and what happens to clips that lack a feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.spec import EncoderSpec
from emo.train.features import load_inputs, profile_note

Fill = Callable[..., Any]


def test_rows_come_in_the_order_asked_for(fill: Fill) -> None:
    store, clips = fill()
    ids = [clip.id for clip in clips][::-3]
    inputs = load_inputs(store, [("mae_340_UTT", "none"), ("HL-UTT", "none")], ids)
    assert inputs.clip_ids == tuple(ids)
    assert [stream.name for stream in inputs.streams] == ["mae_340_UTT", "HL-UTT"]
    for stream in inputs.streams:
        assert np.array_equal(stream.rows, np.concatenate([store.rows[stream.name][clip] for clip in ids]))
        assert not stream.sequence


def test_tokens_are_averaged_only_when_asked(fill: Fill) -> None:
    store, clips = fill()
    ids = [clip.id for clip in clips]
    pooled = load_inputs(store, [("eva_g_448", "mean")], ids).streams[0]
    assert pooled.rows.dtype == np.float32
    assert np.allclose(pooled.rows[3], store.rows["eva_g_448"][ids[3]].mean(axis=0), atol=1e-6)
    with pytest.raises(UsageError, match=r"9 token rows.*pool: mean"):
        load_inputs(store, [("eva_g_448", "none")], ids)
    with pytest.raises(UsageError, match="one row per clip already"):
        load_inputs(store, [("HL-UTT", "mean")], ids)


def test_frames_stay_a_sequence(fill: Fill) -> None:
    store, clips = fill()
    ids = [clip.id for clip in clips]
    stream = load_inputs(store, [("frames", "none")], ids).streams[0]
    assert stream.offsets is not None
    for i in (0, 5, len(ids) - 1):
        assert np.array_equal(stream.rows[stream.offsets[i] : stream.offsets[i + 1]], store.rows["frames"][ids[i]])


def test_missing_features_are_an_error_that_lists_the_clips_and_why(fill: Fill) -> None:
    store, clips = fill()
    ids = [clip.id for clip in clips]
    del store.rows["HL-UTT"]["clip_002"]
    store.fail("mae_340_UTT", "clip_005", "no-face")
    says = r"2 of 48 clips.*HL-UTT: clip_002 \(not extracted\); mae_340_UTT: clip_005 \(no-face\)\."
    with pytest.raises(FeatureMissing, match=says):
        load_inputs(store, [("HL-UTT", "none"), ("mae_340_UTT", "none")], ids)


def test_a_feature_that_is_not_there_is_told_with_both_ways_out(fill: Fill) -> None:
    store, clips = fill()
    with pytest.raises(FeatureMissing, match=r"The store has no gone-UTT; it holds .*HL-UTT") as caught:
        load_inputs(store, [("HL-UTT", "none"), ("gone-UTT", "none")], [clip.id for clip in clips])
    assert "emo extract --encoders gone-UTT" in caught.value.hint
    assert "--set 'features=[...]'" in caught.value.hint


def test_missing_features_are_skipped_or_zeroed_only_by_name(fill: Fill) -> None:
    store, clips = fill()
    ids = [clip.id for clip in clips]
    for name in ("HL-UTT", "frames", "eva_g_448"):
        del store.rows[name]["clip_002"]
    wanted = [("HL-UTT", "none"), ("frames", "none"), ("eva_g_448", "mean")]
    skipped = load_inputs(store, wanted, ids, "skip")
    assert skipped.skipped == ("clip_002",)
    assert skipped.clip_ids == tuple(clip for clip in ids if clip != "clip_002")
    assert len(skipped.streams[0].rows) == len(ids) - 1

    zeroed = load_inputs(store, wanted, ids, "zeros")
    assert (zeroed.zeroed, zeroed.skipped, zeroed.clip_ids) == (("clip_002",), (), tuple(ids))
    offsets = zeroed.streams[1].offsets
    assert offsets is not None
    assert not zeroed.streams[0].rows[2].any()
    assert not zeroed.streams[1].rows[offsets[2] : offsets[3]].any()
    assert not zeroed.streams[2].rows[2].any()
    assert zeroed.streams[0].rows[1].any()


def test_no_clip_left_is_an_error(fill: Fill) -> None:
    store, _ = fill()
    with pytest.raises(UsageError, match="No clip has all of HL-UTT"):
        load_inputs(store, [("HL-UTT", "none")], ["nobody"], "skip")


@pytest.mark.parametrize(
    ("profiles", "says"),
    [
        (("paper", "paper"), None),
        (
            ("tiny", "tiny"),
            "Features come from the tiny profile (random weights): no number here is an accuracy on people.",
        ),
        (("paper", "tiny"), "Feature F1 comes from the tiny profile"),
        (("imported", "paper"), "Feature F0 was imported"),
    ],
)
def test_a_profile_other_than_paper_is_said_in_words(profiles: tuple[str, ...], says: str | None) -> None:
    specs = [EncoderSpec(f"F{i}", "fake", "audio", "utt", 2, 1, each, "seed:0") for i, each in enumerate(profiles)]
    note = profile_note(specs)
    assert note is None if says is None else str(note).startswith(says)
