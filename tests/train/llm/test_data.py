"""Annotations become samples; their order is a pure function; features come from the store as they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.labels import MERR_LABELS
from emo.train.llm.data import Example, Sample, Sampler, TaskMix, load_examples, order, read_emotions, read_merr_json
from emo.train.llm.emotion_llama.captions import process_answer
from emo.train.llm.family import Wanted
from emo.train.llm.features import Features
from emo.train.recipe import family_named, load_recipe

Make = Callable[..., Any]


def write(path: Path, text: Any) -> Path:
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


# ---- annotation files -----------------------------------------------------------------------------------------------


def test_names_of_media_files_in_a_merr_json_are_names_of_clips(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", '{"a.mp4": {"caption": "He smiles."}, "b": {"caption": "He frowns."}}')
    assert set(read_merr_json(path, "caption", MERR_LABELS)) == {"a", "b"}


def test_merr_fine_loads_whole(shared: Path) -> None:
    notes = read_merr_json(shared / "data/merr/MERR_fine_grained.json", "smp_reason_caption", MERR_LABELS)
    assert len(notes) == 4487
    assert notes["sample_00000047"].transcript == "Oh my."
    assert Counter(note.label for note in notes.values())["contempt"] == 41


def test_every_wrong_entry_of_a_json_is_counted_and_named(tmp_path: Path) -> None:
    good = {"caption": "He smiles.", "pseu_emotion": "happy"}
    entries = {"a": good, "b": {"caption": " "}, "c": [1], "d": good | {"pseu_emotion": "hungry"}, "e": {}}
    path = write(tmp_path / "coarse.json", entries)
    with pytest.raises(UsageError) as caught:
        read_merr_json(path, "caption", MERR_LABELS)
    assert "of 5 entries 2 have no caption: b, e; 1 are no objects: c; 1 have the unknown emotion 'hungry': d" in str(
        caught.value
    )
    write(path, '{"a": {"caption": "x"}, "a": {"caption": "y"}}')
    with pytest.raises(UsageError, match="1 come twice: a"):
        read_merr_json(path, "caption", MERR_LABELS)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is not JSON"), ("[1]", "not a JSON object"), ("{}", "holds no annotation")]
)
def test_what_is_no_table_of_annotations_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_merr_json(write(tmp_path / "x.json", text), "caption", MERR_LABELS)


def test_a_list_with_an_unknown_emotion_names_word_and_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "a 35 angry -1.17\nb 125 sad -10\nc 3 hangry 0\n")
    with pytest.raises(UsageError, match="'hangry' of c"):
        read_emotions(path, MERR_LABELS)
    path.write_text("a 35 angry -1.17\nb 125 sad -10\n")
    assert read_emotions(path, MERR_LABELS) == {"a": "angry", "b": "sad"}


# ---- examples -------------------------------------------------------------------------------------------------------

CLIPS = [
    Clip("a", split="train", label=Label("happy"), transcripts={"english": "Fine.", "chinese": "好"}),
    Clip("b", split="train", label=Label("sad")),
    Clip("t", split="test3", label=Label("angry"), transcripts={"english": "No."}),
]


def examples(tmp_path: Path, *overrides: str, clips: list[Clip] = CLIPS) -> Any:
    recipe = load_recipe("tiny", ["validation.holdout=0", *overrides])
    return load_examples(clips, recipe, lambda name: tmp_path / name, lambda text, task: process_answer(text))


def test_labels_of_the_clips_become_answers_and_test_clips_stay_out(tmp_path: Path) -> None:
    found = examples(tmp_path)
    assert [(e.name, e.transcript, e.answers) for e in found.train] == [
        ("a", "Fine.", {"emotion": "happy"}),
        ("b", "", {"emotion": "sad"}),
    ]
    assert found.left_out == {"split test3": ("t",)}
    assert found.silent == ("b",)
    assert "1 clip of the recipe without transcript" in found.notes[0]
    assert examples(tmp_path, "data.language=chinese").train[0].transcript == "好"
    assert [e.name for e in examples(tmp_path, "train_splits=[test3]").train] == ["t"]


def test_a_missing_transcript_is_never_the_word_nan(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 clip has no english transcript: b"):
        examples(tmp_path, "missing_transcript=error")
    found = examples(tmp_path, "missing_transcript=skip")
    assert [e.name for e in found.train] == ["a"]
    assert found.left_out["no transcript"] == ("b",)


def test_annotated_clips_that_the_dataset_does_not_list_are_trained_on(tmp_path: Path) -> None:
    write(
        tmp_path / "fine.json",
        {
            "new": {"smp_reason_caption": 'He frowns. "No!"', "text": "I was\n quiet.", "pseu_emotion": "Angry"},
            "t": {"smp_reason_caption": "She smiles.", "pseu_emotion": "happy"},
        },
    )
    sets = ["tasks={reason_v2: 1}", "prompts={emotion: [E], reason_v2: [R]}", "data={reason_v2: [fine.json]}"]
    found = examples(tmp_path, *sets, f"labels=[{', '.join(MERR_LABELS)}]")
    assert found.train == (Example("new", "I was quiet.", "angry", {"reason_v2": "he frowns no"}),)
    assert found.left_out == {"split test3": ("t",)}  # a pseudo label does not bring a test clip into training


def test_rows_that_a_table_holds_out_itself_are_not_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", "name,label,split\nx,sad,train\ny.mp4,sad,test1\nz.mp4,sad,\n")
    found = examples(tmp_path, "data.emotion=[clips, mine.csv]")
    assert [e.name for e in found.train] == ["a", "b", "x", "z"]
    assert found.left_out["split test1 of mine.csv"] == ("y",)
    chosen = examples(tmp_path, "data.emotion=[clips, 'mine.csv#test1']")
    assert [e.name for e in chosen.train] == ["a", "b", "y"]
    asked = examples(tmp_path, "data.emotion=[clips, mine.csv]", "train_splits=[train, test1]")
    assert [e.name for e in asked.train] == ["a", "b", "x", "y", "z"]


@pytest.mark.parametrize("other", ["angry", "surprise"])  # before and after the first answer, sad
def test_two_sources_that_contradict_each_other_are_refused(tmp_path: Path, other: str) -> None:
    write(tmp_path / "pseudo.txt", f"a 1 happy 0\nb 1 {other} 0\n")
    with pytest.raises(UsageError, match=r"pseudo.txt contradicts a source before it on b"):
        examples(tmp_path, "data.emotion=[clips, pseudo.txt]")
    (tmp_path / "pseudo.txt").write_text("a 1 happy 0\nz 1 angry 0\n")
    assert [e.name for e in examples(tmp_path, "data.emotion=[clips, pseudo.txt]").train] == ["a", "b", "z"]


def test_transcripts_come_from_a_csv_where_the_dataset_has_none(tmp_path: Path) -> None:
    write(tmp_path / "transcription_en_all.csv", "name,sentence\nb,So what\n")
    found = examples(tmp_path, "data.transcripts=[transcription_en_all.csv]")
    assert [e.transcript for e in found.train] == ["Fine.", "So what"]


def test_labels_outside_the_set_and_names_that_come_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="outside the label set: smug"):
        examples(tmp_path, clips=[Clip("a", label=Label("smug"))])
    with pytest.raises(UsageError, match="come more than once: a"):
        examples(tmp_path, clips=[CLIPS[0], CLIPS[0]])
    with pytest.raises(UsageError, match=r"No clip is left to train on: 1 left out \(split test3\)"):
        examples(tmp_path, clips=CLIPS[2:])


def many(split: str = "train", n: int = 60) -> list[Clip]:
    return [Clip(f"c{i:02d}", split=split, label=Label(MERR_LABELS[i % 6])) for i in range(n)]


def test_the_holdout_is_even_over_emotions_and_never_trained_on(tmp_path: Path) -> None:
    found = examples(tmp_path, "validation.holdout=0.2", "validation.limit=null", clips=many())
    held = {e.name for e in found.validation}
    assert Counter(e.label for e in found.validation) == dict.fromkeys(MERR_LABELS[:6], 2)
    assert held.isdisjoint(e.name for e in found.train)
    assert len(held) + len(found.train) == 60
    again = examples(tmp_path, "validation.holdout=0.2", "validation.limit=null", clips=many()[::-1])
    assert {e.name for e in again.validation} == held  # the order of the clips does not matter
    other = examples(tmp_path, "validation.holdout=0.2", "validation.limit=null", "seed=1", clips=many())
    assert {e.name for e in other.validation} != held
    few = examples(tmp_path, "validation.holdout=0.2", "validation.limit=4", clips=many())
    assert len(few.validation) == 4
    assert len(few.train) == 56


def test_the_holdout_takes_whole_speakers_where_they_are_known(tmp_path: Path) -> None:
    clips = [replace(clip, speaker=f"s{i % 12}") for i, clip in enumerate(many())]
    who = {clip.id: clip.speaker for clip in clips}
    found = examples(tmp_path, "validation.holdout=0.2", "validation.limit=null", clips=clips)
    held, left = ({who[e.name] for e in part} for part in (found.validation, found.train))
    assert len(held) in (2, 3)
    assert held.isdisjoint(left)
    assert held | left == set(who.values())
    assert f"Validation holds out all clips of one speaker: {len(held)} groups of them." in found.notes
    few = examples(tmp_path, "validation.holdout=0.2", "validation.limit=4", clips=clips)
    assert len(few.validation) <= 4
    assert {who[e.name] for e in few.validation}.isdisjoint({who[e.name] for e in few.train})
    free = examples(
        tmp_path, "validation.holdout=0.2", "validation.limit=null", "validation.fold_by=random", clips=clips
    )
    plain = examples(tmp_path, "validation.holdout=0.2", "validation.limit=null", clips=many())
    assert [e.name for e in free.validation] == [e.name for e in plain.validation]
    assert any("Folds are random" in note for note in free.notes)


@pytest.mark.parametrize("speakers", [2, 3])
def test_of_few_speakers_one_is_held_out_whole(tmp_path: Path, speakers: int) -> None:
    clips = [replace(clip, speaker=f"s{i % speakers}") for i, clip in enumerate(many())]
    who = {clip.id: clip.speaker for clip in clips}
    found = examples(tmp_path, "validation.holdout=0.2", "validation.limit=null", clips=clips)
    held, left = ({who[e.name] for e in part} for part in (found.validation, found.train))
    assert (len(held), len(left), held & left) == (1, speakers - 1, set())
    assert "Validation holds out all clips of one speaker: 1 groups of them." in found.notes


def test_choosing_on_a_test_split_is_said(tmp_path: Path) -> None:
    found = examples(tmp_path, "validation.split=test3")
    assert [e.name for e in found.validation] == ["t"]
    assert "chosen on split test3, a test list" in found.notes[-1]
    quiet = examples(tmp_path, "validation.split=dev", clips=[*CLIPS, replace(CLIPS[0], id="d", split="dev")])
    assert [e.name for e in quiet.validation] == ["d"]
    assert [e.name for e in quiet.train] == ["a", "b"]
    few = examples(tmp_path, "validation.split=dev", "validation.limit=12", clips=[*CLIPS, *many("dev")])
    assert Counter(e.label for e in few.validation) == dict.fromkeys(MERR_LABELS[:6], 2)
    assert [e.name for e in few.train] == ["a", "b"]  # what is beyond the limit is not trained on either
    assert "test list" not in " ".join(quiet.notes)
    with pytest.raises(UsageError, match=r"validation.split: nowhere has no clip with a label"):
        examples(tmp_path, "validation.split=nowhere")


def test_the_digest_follows_everything_that_is_learned(tmp_path: Path) -> None:
    digest = examples(tmp_path).digest
    assert examples(tmp_path).digest == digest
    for changed in (replace(CLIPS[0], label=Label("sad")), replace(CLIPS[0], transcripts={"english": "Fine!"})):
        assert examples(tmp_path, clips=[changed, *CLIPS[1:]]).digest != digest


# ---- order ----------------------------------------------------------------------------------------------------------


def test_the_order_is_a_permutation_and_a_pure_function() -> None:
    assert sorted(order(1, 0, 100)) == list(range(100))
    np.testing.assert_array_equal(order(1, 0, 100), order(1, 0, 100))
    for other in (order(2, 0, 100), order(1, 1, 100)):
        assert (order(1, 0, 100) != other).any()
    assert order(42, 3, 6).tolist() == [3, 5, 0, 1, 4, 2]  # also on other machines: checkpoints rely on it


BOTH = {"emotion": "happy", "reason": "he smiles"}


def test_the_mix_follows_its_weights_and_asks_only_what_has_an_answer() -> None:
    mix = TaskMix({"emotion": 3.0, "reason": 1.0}, {"emotion": ["E"], "reason": ["R1", "R2"]})
    drawn = [mix.draw(0, 0, i, Example("a", answers=BOTH)) for i in range(2000)]
    assert Counter(s.task for s in drawn)["emotion"] == pytest.approx(1500, abs=80)
    assert {s.text for s in drawn} == {"E", "R1", "R2"}
    assert drawn[:50] == [mix.draw(0, 0, i, Example("a", answers=BOTH)) for i in range(50)]
    assert drawn[:50] != [mix.draw(0, 1, i, Example("a", answers=BOTH)) for i in range(50)]
    assert {mix.draw(0, 0, i, Example("a", answers={"reason": "x"})).task for i in range(50)} == {"reason"}
    none = TaskMix({"emotion": 0.0, "reason": 1.0}, {"reason": ["R"]})
    assert {none.draw(0, 0, i, Example("a", answers=BOTH)).task for i in range(50)} == {"reason"}


def sampler(n: int = 10, batch_size: int = 2, accumulate: int = 2, by_length: bool = False) -> Sampler:
    mix = TaskMix({"emotion": 1.0}, {"emotion": ["E"]})
    items = [Example(f"c{i}", "word " * (i * 7 % n), answers={"emotion": "sad"}) for i in range(n)]
    return Sampler(items, mix, 0, batch_size, accumulate, by_length)


def names(batches: list[Any]) -> list[str]:
    return [sample.name for batch in batches for sample in batch]


def test_every_pass_takes_every_sample_once_and_the_position_is_a_function_of_the_step() -> None:
    s = sampler()
    assert s.steps_per_pass == 3
    assert [s.position(step) for step in range(5)] == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4)]
    for start in (0, 3):
        taken = [name for step in range(start, start + 3) for name in names(s.batches(step))]
        assert sorted(taken) == sorted(f"c{i}" for i in range(10))
    assert [len(batch) for batch in s.batches(2)] == [2]  # the rest of a pass is not dropped
    assert names(s.batches(0)) != names(s.batches(3))
    assert s.batches(4) == sampler().batches(4)  # no state


def test_sorting_and_batch_size_leave_the_samples_of_a_step_alone() -> None:
    plain = sampler().batches(0)
    by_length = sampler(by_length=True).batches(0)
    assert sorted(names(plain)) == sorted(names(by_length))
    sizes = [sample.size for batch in by_length for sample in batch]
    assert sizes == sorted(sizes)
    assert names(sampler(batch_size=1, accumulate=4).batches(0)) == names(
        sampler(batch_size=4, accumulate=1).batches(0)
    )


def test_pooled_windows_hold_like_lengths_and_still_every_sample_once() -> None:
    mix = TaskMix({"emotion": 1.0}, {"emotion": ["E"]})
    items = [Example(f"c{i:02d}", "w" * (i * 37 % 64), answers={"emotion": "sad"}) for i in range(64)]
    pooled = Sampler(items, mix, 0, 4, 1, True, 8)
    steps = [pooled.batches(step) for step in range(16)]
    assert sorted(name for step in steps for name in names(step)) == [f"c{i:02d}" for i in range(64)]
    spread = [max(s.size for b in step for s in b) - min(s.size for b in step for s in b) for step in steps]
    alone = [Sampler(items, mix, 0, 4).batches(step)[0] for step in range(16)]
    assert sum(spread) < 0.4 * sum(max(s.size for s in batch) - min(s.size for s in batch) for batch in alone)
    longest = [max(s.size for b in step for s in b) for step in steps[:8]]
    assert longest != sorted(longest)


def test_two_windows_are_pooled_and_taken_in_a_drawn_order() -> None:
    mix = TaskMix({"emotion": 1.0}, {"emotion": ["E"]})
    items = [Example(f"c{i:02d}", "w" * (i * 37 % 64), answers={"emotion": "sad"}) for i in range(64)]
    pooled = Sampler(items, mix, 0, 4, 1, True, 2)
    sizes = [[s.size for batch in pooled.batches(step) for s in batch] for step in range(16)]
    ascending = [max(one) <= min(two) for one, two in zip(sizes[::2], sizes[1::2], strict=True)]
    descending = [max(two) <= min(one) for one, two in zip(sizes[::2], sizes[1::2], strict=True)]
    assert all(a or b for a, b in zip(ascending, descending, strict=True))
    assert any(ascending)
    assert any(descending)


def test_a_sample_is_as_long_as_all_that_is_read_and_learned() -> None:
    assert Sample("c", "emotion", "abc", "defgh", "sadly").size == 13


# ---- features -------------------------------------------------------------------------------------------------------


def wanted(**features: Any) -> tuple[Wanted, ...]:
    """What Emotion-LLaMA wants with these features in its recipe."""
    recipe = load_recipe("tiny")
    return family_named(recipe.family).wanted(
        recipe.model_copy(update={"features": recipe.features.model_copy(update=features)})
    )


KEYS = load_recipe("tiny").features
WANTED = wanted()


def test_a_batch_is_what_the_store_holds_in_the_order_asked_for(corpus: Make) -> None:
    made = corpus()
    features = Features(made.store, WANTED, [clip.id for clip in made.clips], "error")
    asked = ["clip_007", "clip_002", "clip_007"]
    tokens, *streams = features.batch(asked)
    assert tokens.shape == (3, 9, 8)
    assert tokens.dtype == np.float16
    np.testing.assert_array_equal(tokens, np.stack([made.memory["eva_g_448"][name] for name in asked]))
    for name, stream in zip(KEYS.streams, streams, strict=True):
        np.testing.assert_array_equal(stream, np.concatenate([made.memory[name][clip] for clip in asked]))


def test_token_records_that_overflow_float16_are_read_as_float32(corpus: Make) -> None:
    made = corpus(n=2, scale=1e6)
    tokens, *_ = Features(made.store, WANTED, ["clip_000"], "error").batch(["clip_000"])
    assert tokens.dtype == np.float32
    np.testing.assert_array_equal(tokens[0], made.memory["eva_g_448"]["clip_000"])


def test_clips_without_features_follow_the_policy(corpus: Make) -> None:
    made = corpus(without="clip_004")
    ids = ["clip_003", "clip_004", "clip_005", "nobody"]
    with pytest.raises(FeatureMissing, match=r"2 of 4 clips lack features.*mae_340_UTT: clip_004 \(no-face\), nobody"):
        Features(made.store, WANTED, ids, "error")
    skip = Features(made.store, WANTED, ids, "skip")
    assert skip.names == ("clip_003", "clip_005")
    assert skip.skipped == ("clip_004", "nobody")
    zeros = Features(made.store, WANTED, ids, "zeros")
    assert zeros.zeroed == ("clip_004", "nobody")
    tokens, *streams = zeros.batch(["nobody", "clip_004", "clip_003"])
    assert (not tokens[0].any(), not tokens[1].any()) == (True, False)
    assert [bool(stream[1].any()) for stream in streams] == [False, True, True]
    np.testing.assert_array_equal(streams[0][2], made.memory["mae_340_UTT"]["clip_003"][0])


def test_a_feature_in_the_wrong_place_is_refused(corpus: Make) -> None:
    made = corpus(n=1)
    with pytest.raises(UsageError, match=r"HL-UTT is of level utt, and as tokens it must"):
        Features(made.store, wanted(tokens="HL-UTT"), ["clip_000"], "error")
    with pytest.raises(UsageError, match=r"eva_g_448 is of level tokens, and as stream it must"):
        Features(made.store, wanted(streams=("eva_g_448",)), ["clip_000"], "error")
    with pytest.raises(FeatureMissing, match="there is no store"):
        Features(None, WANTED, ["clip_000"], "error")
    assert Features(None, wanted(tokens=None, streams=()), ["x"], "error").batch(["x"]) == []


# ---- records of emo annotate run ------------------------------------------------------------------------------------


def test_records_of_the_store_are_trained_on_without_an_export(tmp_path: Path) -> None:
    note = {"pseu_emotion": "happy", "caption": "Coarse.", "smp_reason_caption": "Fine.", "text": "Oh my.", "of": "1"}
    asked = []

    def records(name: str) -> dict[str, dict[str, str]]:
        asked.append(name)
        return {"a": note, "b": {"failed": "refused", "message": "No."}}

    keys = ["tasks={emotion: 1, reason: 1, reason_v2: 1}", "validation.holdout=0"]
    keys += [f"data.{task}=[annotations@12ab]" for task in ("emotion", "reason", "reason_v2")]
    keys += ['prompts.reason_v2=["Why?"]']
    recipe = load_recipe("tiny", keys)
    found = load_examples([], recipe, lambda name: tmp_path / name, lambda answer, task: answer, records)
    assert set(asked) == {"annotation@12ab"}
    assert [(each.name, each.transcript, dict(each.answers)) for each in found.train] == [
        ("a", "Oh my.", {"emotion": "happy", "reason": "Coarse.", "reason_v2": "Fine."})
    ]
    with pytest.raises(UsageError, match="needs a store"):
        load_examples([], recipe, lambda name: tmp_path / name, lambda answer, task: answer)
