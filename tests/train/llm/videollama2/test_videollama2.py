"""VideoLLaMA2 from a store to answers: tuned, resumed, carried out and in, asked; and what its recipe refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from steps import Stop, clips_with, same, stop_after

from emo.featstore.clip import Clip
from emo.featstore.errors import EmoError, ModelError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.train.llm.answer import TunedAnswerer
from emo.train.llm.exchange import export_run, import_run
from emo.train.llm.tokenizer import Tokenizer
from emo.train.llm.tune import tune
from emo.train.llm.videollama2.model import Sizes
from emo.train.llm.videollama2.prompt import build_prompt, instruction, response, tag_of
from emo.train.recipe import load_recipe
from emo.train.runs import load_run

VIDEO, SOUND, CONNECTED = "siglip-so400m-384-FRA", "beats-iter3-FRA", "siglip-so400m-384-stc-FRA"
FRAMES = 4
TINY = ("epochs=1", "steps_per_epoch=6", "batch_size=3", f"frames={FRAMES}", "decode.max_new_tokens=4", "log_every=1")
TINY += ("checkpoint.every_steps=2", "validation.every=3", "lora.dropout=0.3", "recompute=true")


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, list[Clip]]:
    specs = [EncoderSpec(VIDEO, "any", "frame", "tokens", 6, FRAMES * 16, "tiny", "seed:0")]
    specs += [EncoderSpec(SOUND, "any", "audio", "tokens", 5, 8, "tiny", "seed:0")]
    specs += [EncoderSpec(CONNECTED, "any", "frame", "tokens", 64, 8, "tiny", "seed:0")]
    return clips_with(specs, tmp_path / "features.emo")


@pytest.fixture
def recipe() -> Callable[..., Any]:
    return lambda *overrides: load_recipe("videollama2-tiny", [*TINY, *overrides])


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
    export_run(store, run, tmp_path / "out", "official")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "videollama2_qwen2"
    (tmp_path / "again").mkdir()
    again = import_run(store, tmp_path / "out", recipe(), tmp_path / "again", "cpu")
    once = TunedAnswerer(again, "cpu").answer(store, clips[:3], "likelihood", layout="train_consistent")
    assert {name: each.probabilities for name, each in once.items()} == {n: e.probabilities for n, e in said.items()}


def test_what_the_files_of_a_folder_say_of_it_counts(made: Any, recipe: Any, tmp_path: Path) -> None:
    """Both versions of the connector have the same tensors, and the reference's greedy answers keep the penalty."""
    store, clips = made
    tune(store, clips, recipe("steps_per_epoch=1", "connector=stc_v1"), tmp_path / "run", "cpu")
    out = tmp_path / "out"
    export_run(store, load_run(tmp_path / "run"), out, "official")
    with pytest.raises(ModelError, match="is stc_v1, the recipe has stc_v35"):
        import_run(store, out, recipe(), tmp_path / "again", "cpu")
    with pytest.raises(ModelError, match="is stc_v1, the recipe has stc_v35"):
        tune(store, clips, recipe(f"init_from={out}"), tmp_path / "second", "cpu")
    (out / "generation_config.json").write_text('{"do_sample": true, "repetition_penalty": 1.05}')
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"num_frames": 16}))
    for number, change in enumerate(((), ("repetition_penalty=1.05",))):
        place = tmp_path / f"import{number}"
        place.mkdir()
        notes = import_run(store, out, recipe("connector=stc_v1", *change), place, "cpu").info["notes"]
        assert f"The checkpoint says num_frames 16, the recipe has frames {FRAMES}." in notes
        penalty = "The checkpoint says repetition_penalty 1.05, the recipe has repetition_penalty 1.0."
        assert (penalty in notes) is (not change)


def test_a_folder_whose_own_language_model_is_not_the_recipes_says_so(made: Any, recipe: Any, tmp_path: Path) -> None:
    store, clips = made
    tune(store, clips, recipe("steps_per_epoch=1"), tmp_path / "run", "cpu")
    export_run(store, load_run(tmp_path / "run"), tmp_path / "out.bin", "official")
    state = torch.load(tmp_path / "out.bin", weights_only=True)
    state = {name: each for name, each in state.items() if "lora_" not in name} | {"model.norm.weight": torch.ones(2)}
    whole = tmp_path / "whole"
    for folder in (whole, tmp_path / "again", tmp_path / "part"):
        folder.mkdir()
    save_file(state, whole / "model.safetensors")
    notes = import_run(store, whole, recipe(), tmp_path / "again", "cpu").info["notes"]
    told = f"The language model is tiny; the one in {whole} was not read."
    assert told in notes
    save_file({name: each for name, each in state.items() if "norm" not in name[:10]}, whole / "model.safetensors")
    assert told not in import_run(store, whole, recipe(), tmp_path / "part", "cpu").info["notes"]


def test_the_second_stage_begins_with_the_first(made: Any, recipe: Any, tmp_path: Path) -> None:
    """Also with a folder of the reference's trainer in place of a run; what is not learned stays as it was."""
    store, clips = made
    tune(store, clips, recipe("steps_per_epoch=1"), tmp_path / "first", "cpu")
    export_run(store, load_run(tmp_path / "first"), tmp_path / "lora", "official")
    for name, source in (("second", "first"), ("third", str(tmp_path / "lora"))):
        chosen = recipe("steps_per_epoch=2", f"init_from={source}", "learned=[projector]")
        tune(store, clips, chosen, tmp_path / name, "cpu")
    kept = [torch.load(tmp_path / "lora" / "non_lora_trainables.bin", weights_only=True)]
    export_run(store, load_run(tmp_path / "third"), tmp_path / "after", "official")
    kept.append(torch.load(tmp_path / "after" / "non_lora_trainables.bin", weights_only=True))
    moved = {name for name in kept[0] if not torch.equal(kept[0][name], kept[1][name])}
    assert moved
    assert all("mm_projector_a" in name for name in moved)


@pytest.mark.parametrize(
    "change",
    [
        (f"features.video={CONNECTED}", "connector=none"),
        ("features.video=null",),
        ("features.audio=null",),
        ("features.video=null", "features.audio=null"),
        ("repetition_penalty=1.3", "validation.answers=nearest"),
    ],
    ids=["connected", "sound", "pictures", "text", "penalty"],
)
def test_other_ways_to_read_a_clip(made: Any, recipe: Any, tmp_path: Path, change: tuple[str, ...]) -> None:
    store, clips = made
    tune(store, clips, recipe("steps_per_epoch=1", *change), tmp_path / "run", "cpu")
    run = load_run(tmp_path / "run")
    assert len(TunedAnswerer(run, "cpu").answer(store, clips[:2])) == 2
    export_run(store, run, tmp_path / "out", "official")
    told = json.loads((tmp_path / "out" / "config.json").read_text()).get("mm_projector_type")
    assert told == (None if "connector=none" in change or "features.video=null" in change else "stc_connector_v35")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("frames=5",), "no squares of patches of 5 frames"),
        (("connector=none",), "the language model reads 64"),
        ((f"features.video={CONNECTED}",), "no squares of patches"),
    ],
)
def test_features_that_do_not_fit_are_refused(made: Any, recipe: Any, tmp_path: Path, change: Any, says: str) -> None:
    store, clips = made
    with pytest.raises(EmoError, match=says):
        tune(store, clips, recipe(*change), tmp_path / "run", "cpu")


def test_a_recipe_that_cannot_be_is_refused(recipe: Any) -> None:
    for change, says in (("connector=stc", "connector"), ("learned=[llm]", "learned"), ("setting=face", "setting")):
        with pytest.raises(UsageError, match=says):
            recipe(change)


def test_words_cannot_put_a_feature_in_their_place() -> None:
    """A tag in what somebody says, or in a question, is taken out, as the reference's data loading does."""
    tokenizer = Tokenizer.bytes()
    for video, audio, slots in ((True, True, ("video", "audio")), (False, True, ("audio",)), (False, False, ())):
        text = instruction("What <video> is it?", "<audio> hello", tag_of(video, audio))
        prompt = build_prompt("train_consistent", text, tokenizer, slots)
        assert prompt.slots == slots
    assert response([*tokenizer.encode("sad"), tokenizer.eos, *tokenizer.encode("\n")], tokenizer) == "sad"


def test_true_sizes() -> None:
    specs = [EncoderSpec("v", "a", "frame", "tokens", 1152, 16 * 729, "paper", "0")]
    specs += [EncoderSpec("a", "a", "audio", "tokens", 768, 1496, "paper", "0")]
    sizes = Sizes.from_specs(specs[0], specs[1], 16, "stc_v35")
    assert sizes.video_rows + sizes.audio[0] == 2848
