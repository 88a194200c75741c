"""AffectGPT from a store to answers: tuned, resumed, carried out and in, asked; and what its recipe refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from steps import WORDS, Stop, clips_with, same, stop_after

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import EmoError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.train.llm.affectgpt.family import AffectGptFamily
from emo.train.llm.affectgpt.prompt import SETTINGS, begin_id, build_prompt, end_id, instruction, words_of
from emo.train.llm.answer import TunedAnswerer
from emo.train.llm.data import filled, load_examples, read_preferences
from emo.train.llm.exchange import export_run, import_run
from emo.train.llm.tokenizer import Tokenizer
from emo.train.llm.tune import tune
from emo.train.recipe import load_recipe
from emo.train.runs import load_run

FACE, SOUND = "clip-vit-large-patch14-affectgpt-FRA", "chinese-hubert-large-affectgpt-FRA"
TINY = ("llm=tiny", "epochs=1", "steps_per_epoch=6", "batch_size=3", "decode.max_new_tokens=4", "lora.r=4")
TINY += ("log_every=1", "checkpoint.every_steps=2", "validation.every=3", "lora.dropout=0.3", "max_txt_len=64")


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, list[Clip]]:
    specs = [EncoderSpec(FACE, "any", "face", "tokens", 6, 8, "tiny", "seed:0")]
    specs += [EncoderSpec(SOUND, "any", "audio", "tokens", 5, 8, "tiny", "seed:0")]
    return clips_with(specs, tmp_path / "features.emo")


@pytest.fixture
def recipe() -> Callable[..., Any]:
    return lambda *overrides: load_recipe("affectgpt", [*TINY, *overrides])


def test_tuned_resumed_carried_and_asked(made: Any, recipe: Any, tmp_path: Path) -> None:
    store, clips = made
    tune(store, clips, recipe(), tmp_path / "whole", "cpu")
    with pytest.raises(Stop):
        tune(store, clips, recipe(), tmp_path / "parts", "cpu", on_progress=stop_after(5))
    tune(store, clips, None, tmp_path / "parts", "cpu", resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")

    run = load_run(tmp_path / "whole")
    said = TunedAnswerer(run, "cpu").answer(store, clips[:3], "likelihood")
    assert {each.answer for each in said.values()} <= set(recipe().scored)
    assert all(abs(sum(each.probabilities.values()) - 1) < 1e-6 for each in said.values() if each.probabilities)

    export_run(store, run, tmp_path / "out.pth", "official")
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert len([name for name in state if "lora_" not in name]) == 20
    (tmp_path / "again").mkdir()
    again = import_run(store, tmp_path / "out.pth", recipe(), tmp_path / "again", "cpu")
    once = TunedAnswerer(again, "cpu").answer(store, clips[:3], "likelihood", layout="train_consistent")
    assert {name: each.probabilities for name, each in once.items()} == {n: e.probabilities for n, e in said.items()}
    carried = load_file(tmp_path / "again" / again.info["checkpoint"] / "projections.safetensors")
    assert torch.equal(carried["image_llama_proj.weight"], state["image_llama_proj.weight"])  # though nothing reads it


def test_a_setting_that_reads_less_takes_a_whole_checkpoint(made: Any, recipe: Any, tmp_path: Path) -> None:
    """And says what it leaves out; one that reads more than the checkpoint has is refused."""
    store, clips = made
    tune(store, clips, recipe("epochs=1", "steps_per_epoch=1"), tmp_path / "run", "cpu")
    export_run(store, load_run(tmp_path / "run"), tmp_path / "out.pth", "official")
    (tmp_path / "less").mkdir()
    less = import_run(store, tmp_path / "out.pth", recipe("setting=face_text"), tmp_path / "less", "cpu")
    ignored = less.info["imported"]["ignored"]
    assert any(name.startswith("fc_att") and "merged" in why for name, why in ignored.items())
    (tmp_path / "text").mkdir()
    tune(None, clips, recipe("setting=textonly", "steps_per_epoch=1"), tmp_path / "words", "cpu")
    export_run(None, load_run(tmp_path / "words"), tmp_path / "words.pth", "official")
    with pytest.raises(EmoError, match="expected tensors missing"):
        import_run(store, tmp_path / "words.pth", recipe(), tmp_path / "text", "cpu")


def test_what_a_checkpoint_says_of_its_training_is_compared(made: Any, recipe: Any, tmp_path: Path) -> None:
    """With the settings where the reference's own configuration has them; faces and frames have the same tensors."""
    store, clips = made
    tune(store, clips, recipe("steps_per_epoch=1"), tmp_path / "run", "cpu")
    export_run(store, load_run(tmp_path / "run"), tmp_path / "out.pth", "official")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    datasets = {"mercaptionplus": {"data_type": "video", "face_or_frame": "multiframe_audio_frame_text"}}
    content["config"] = {"model": {"max_length": 1024, "num_video_query_token": 2}, "datasets": datasets}
    torch.save(content, tmp_path / "out.pth")
    (tmp_path / "again").mkdir()
    notes = import_run(store, tmp_path / "out.pth", recipe(), tmp_path / "again", "cpu").info["notes"]
    setting = "'multiframe_audio_frame_text', the recipe has setting 'multiface_audio_face_text'."
    assert f"The checkpoint was trained with face_or_frame {setting}" in notes
    assert "The checkpoint was trained with max_length 1024, the recipe has max_txt_len 64." in notes
    assert "The checkpoint was trained with num_video_query_token 2, the recipe has 1: tokens." in notes


def test_texts_come_from_tables_of_open_vocabulary(made: Any, recipe: Any, tmp_path: Path) -> None:
    store, clips = made
    table = tmp_path / "openset.csv"
    table.write_text("name,openset\nc0,\"['happy', 'calm']\"\nc1,[]\n", encoding="utf-8")
    chosen = recipe("tasks={ovlabel: 1.0}", f"data.ovlabel=[{table}]", "validation.holdout=0", "steps_per_epoch=1")
    tune(store, clips, chosen, tmp_path / "run", "cpu")
    assert len(json.loads((tmp_path / "run" / "clips.json").read_text())["train"]) == 2


def test_valence_sentiment_and_preference_are_learned_and_asked(made: Any, recipe: Any, tmp_path: Path) -> None:
    store, clips = made
    values = (1.5, -0.5, 0.0, None)
    valued = [replace(c, label=Label(WORDS[i % 4], values[i % 4])) for i, c in enumerate(clips)]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("name,a1,a2,preference\nc0,He smiles.,She cries.,a1\nc1,A {a1} b.,Nothing.,same\n")
    tasks = "tasks={valence: 1, sentiment: 1, preference: 1}"
    sources = ("data.valence=[clips]", "data.sentiment=[clips]", f"data.preference=[{pairs}]")
    chosen = recipe(tasks, *sources, "validation.holdout=0", "steps_per_epoch=2", "checkpoint.every_steps=2")
    examples = load_examples(valued, chosen, lambda name: Path(name), AffectGptFamily().clean_answer).train
    assert examples[0].answers == {
        "valence": "The valence score is 1.50.",
        "sentiment": "The character's sentiment state is positive.",
        "preference": "The best one is a1.",
    }
    assert {e.answers["sentiment"].split()[-1] for e in examples} == {"positive.", "negative.", "neutral."}
    assert len(examples) == 18  # those with a valence
    tune(store, valued, chosen, tmp_path / "run", "cpu")
    answerer = TunedAnswerer(load_run(tmp_path / "run"), "cpu")
    for task in ("valence", "sentiment", "preference"):
        answerer.check("official", task)
        assert answerer.answer(store, valued[:2], task=task).keys() == {"c0", "c1"}
    with pytest.raises(UsageError, match="1 clip has no two descriptions to choose from: c2"):
        answerer.answer(store, valued[:3], task="preference")


def test_a_pair_takes_its_places_once() -> None:
    assert filled("1 {a1} 2 {a2}.", ("x {a2}", "y {a1}")) == "1 x {a2} 2 y {a1}."
    assert filled("{a1} stays", None) == "{a1} stays"


@pytest.mark.parametrize("row", ["c0,x,,a1", "c0,x,y,a3", "c0,x,y,"])
def test_a_row_that_prefers_nothing_is_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "pairs.csv").write_text(f"name,a1,a2,preference\n{row}\n")
    with pytest.raises(UsageError, match="line 2: c0 has no preference between two descriptions"):
        read_preferences(tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("setting=face_txt", "there is no 'face_txt'"),
        ("setting=frame", "features.frame: setting frame reads it"),
        ("template='[INST] {} [/INST]'", "template"),
        ("features.streams=[HL-UTT]", "streams"),
        ("tokens.video=0", "tokens.video"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(recipe: Any, change: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recipe(change)


def test_a_cut_that_would_take_a_feature_is_refused() -> None:
    tokenizer = Tokenizer.bytes()
    text = instruction("audioonly", "What is it?", "")
    assert build_prompt("official_eval", "audioonly", text, tokenizer).slots == ("audio",)
    with pytest.raises(UsageError, match="holds a feature"):
        build_prompt("official_eval", "audioonly", text, tokenizer, room=1990)


def test_a_transcript_cannot_put_a_feature_in_its_place() -> None:
    """The place's name in what somebody says is text, as all that follows the first one is."""
    tokenizer = Tokenizer.bytes()
    for setting in SETTINGS:
        text = instruction(setting, "What is it?", "<AudioHere> <FaceHere>")
        slots = build_prompt("train_consistent", setting, text, tokenizer).slots
        assert len(set(slots)) == len(slots)
        assert ("audio" in slots) == ("audio" in setting or setting in ("faceframe", "face", "frame"))


def test_a_tokenizer_without_the_names_of_qwen_has_its_own() -> None:
    tokenizer = Tokenizer.bytes()
    assert (begin_id(tokenizer), end_id(tokenizer)) == (tokenizer.bos, tokenizer.eos)


def test_words_without_the_sentence_around_them() -> None:
    assert words_of("The character's emotional state is happy, calm.") == "happy, calm"
    assert words_of("The valence score is -0.46.") == "-0.46"
    assert words_of("She smiles.") == "She smiles."
