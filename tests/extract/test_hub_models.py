"""Models in the hub's own layout, small and drawn at random: found, hashed, extracted in one pass, trained on.

One of each family, saved by transformers as its authors save theirs (a language-model head, a text tower beside), in
the cache where the hub's client keeps what it has fetched.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emo.extract.demo import generate_clip
from emo.extract.encoders import registry
from emo.extract.encoders.base import ClipInputs, Encoder
from emo.extract.encoders.catalog import Entry, catalog
from emo.extract.encoders.eva02 import TINY as EVA_TINY
from emo.extract.encoders.pretrained import member
from emo.extract.encoders.registry import find_encoder, load_encoder, register
from emo.extract.session import ExtractArgs, open_session
from emo.extract.testing import _constants
from emo.extract.weights_page import weights_page
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import FeatureMissing, ModelError, UsageError, WeightsMissing
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import Workspace, load_workspace
from emo.train.features import load_inputs
from emo.train.heads.fit import fit_head
from emo.train.recipe import make_recipe
from emo.train.runs import new_run

Save = Callable[[Encoder, Path], None]
SOUND = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16_000}
CHINESE = "你好今天真高兴走开"


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def save_speech(encoder: Encoder, folder: Path) -> None:
    from transformers import Wav2Vec2ForCTC

    encoder.full.vocab_size = 12
    Wav2Vec2ForCTC(encoder.full).save_pretrained(folder)
    _write(folder, "preprocessor_config.json", SOUND)


def save_whisper(encoder: Encoder, folder: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    WhisperForConditionalGeneration(encoder.full).save_pretrained(folder)
    encoder._mel.save_pretrained(folder)


def save_clip(encoder: Encoder, folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    words = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    pixels = {"image_size": 32, "patch_size": 8}
    CLIPModel(
        CLIPConfig(text_config={**words, "intermediate_size": 16}, vision_config=seen | pixels, projection_dim=24)
    ).save_pretrained(folder)
    steps = {"do_resize": True, "size": 32, "do_center_crop": True, "crop_size": 32, "resample": 3}
    means = {"do_normalize": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    _write(folder, "preprocessor_config.json", steps | means)


def save_eva(encoder: Encoder, folder: Path) -> None:
    state = {name: torch.randn(tensor.shape) * 0.1 for name, tensor in encoder.build().state_dict().items()}
    save_file(state | {"head.weight": torch.zeros(3, 32)}, folder / "model.safetensors")
    _write(folder, "config.json", {"architecture": "eva02_tiny", "model_args": EVA_TINY})


def save_bert(encoder: Encoder, folder: Path) -> None:
    from transformers import BertForMaskedLM

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHINESE, "，", "。", *letters, *(f"##{c}" for c in letters)]
    encoder.full.vocab_size = len(words)
    BertForMaskedLM(encoder.full).save_pretrained(folder)
    _write(folder, "vocab.txt", "\n".join(words) + "\n")
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


def save_letters(folder: Path) -> int:
    """A tokenizer whose words are the 256 bytes; their number."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    return len(letters)


def save_qwen(encoder: Encoder, folder: Path) -> None:
    from transformers import Qwen2ForCausalLM

    encoder.full.vocab_size = save_letters(folder)
    Qwen2ForCausalLM(encoder.full).save_pretrained(folder)


def entry(stem: str, like: str, width: int, **own: Any) -> Entry:
    """A small model of the family that a model of the catalog is of."""
    known = catalog().entries[like]
    kept = {"family": known.family, "place": known.place, "unit": known.unit, "type": known.type}
    hub = f"emo-test/{stem}"
    return Entry(stem=stem, hub=hub, licence="MIT", gflop=1, width=width, languages=known.languages, **kept, **own)


MODELS: dict[str, tuple[Entry, Save]] = {
    "speech": (entry("small-wav2vec2", "wav2vec2-base-960h", 32), save_speech),
    "whisper": (entry("small-whisper", "whisper-base", 32), save_whisper),
    "image": (entry("small-clip", "clip-vit-base-patch32", 24), save_clip),
    "eva02": (entry("small-eva02", "eva02_base_patch14_224", 32, sizes=EVA_TINY), save_eva),
    "text": (entry("small-bert", "bert-base-chinese", 32), save_bert),
    "causal": (entry("small-qwen", "Qwen2.5-7B", 32), save_qwen),
}
RECIPES = dict.fromkeys(("speech", "whisper", "text", "causal"), ("modern",)) | {"image": ("modern", "frame")}
SAID = {"a": "你好", "b": "走开", "c": "今天真高兴", "d": "走", "e": "真好", "f": "你走开"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The hub's cache with one small model per family, known to the registry under both recipes."""
    from huggingface_hub import constants

    cache, before = tmp_path_factory.mktemp("hub"), dict(registry._lines)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        for name, (stated, save) in MODELS.items():
            family = registry._load(stated.stem, stated.place)
            for recipe in ("merbench", *RECIPES.get(name, ())):
                register(f"{stated.stem_of(recipe)}-UTT", member(family, stated, recipe))
            repo = cache / f"models--{stated.hub.replace('/', '--')}"
            folder = repo / "snapshots" / "0123abc"
            folder.mkdir(parents=True)
            (repo / "refs").mkdir()
            (repo / "refs" / "main").write_text("0123abc")
            torch.manual_seed(5)
            save(find_encoder(f"{stated.stem}-UTT")(profile="tiny"), folder)
        yield cache
    registry._lines.clear()
    registry._lines.update(before)


def snapshot(hub: Path, family: str) -> Path:
    return hub / f"models--emo-test--{MODELS[family][0].stem}" / "snapshots" / "0123abc"


@pytest.fixture(scope="module")
def work(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Store]:
    """Six drawn clips, and one pass over them with all models."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "data" / "clips").mkdir(parents=True)
    rows = [("name", "discrete", "valence")]
    for seed, clip in enumerate(SAID):
        emotion = ("happy", "angry")[seed % 2]
        generate_clip(folder / "data" / "clips" / f"{clip}.mp4", emotion, seed=seed, duration_s=0.4)
        rows.append((clip, emotion, "1"))
    for name, table in {"train-label.csv": rows, "transcription.csv": [("name", "chinese"), *SAID.items()]}.items():
        with open(folder / "data" / name, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table)
    toml = '[store]\npath = "a.emo"\n[data.MER2023-SEMI]\nroot = "data"\nclips = "data/clips"\n'
    (folder / "emo.toml").write_text(toml)
    workspace = load_workspace(folder)
    names = tuple(f"{stated.stem}-UTT" for stated, _ in MODELS.values())
    outcome = open_session(workspace, ExtractArgs(encoders=names, device="cpu")).run()
    assert outcome.failures == ()
    return workspace, open_store(workspace.store_path)


@pytest.mark.parametrize("family", MODELS)
def test_found_hashed_extracted_and_trained_on(family: str, hub: Path, work: tuple[Workspace, Store]) -> None:
    workspace, store = work
    stated, _ = MODELS[family]
    name = f"{stated.stem}-UTT"
    rows = store.utterances(name, list(SAID))
    assert rows.shape == (6, stated.width)
    assert len(np.unique(rows, axis=0)) == 6
    spec = store.resolve(name)
    encoder = find_encoder(name)(profile="paper", media_recipe=spec.recipe["media"])
    assert spec.fingerprint == encoder.spec("utt").fingerprint
    assert spec.profile == "paper"
    assert spec.weights == encoder.weights.hash
    assert len(encoder.load().consumed) > 5
    dataset = open_dataset("MER2023-SEMI", workspace.data["MER2023-SEMI"])
    recipe = make_recipe({"head": "attention", "features": [name], "epochs": 1, "folds": 2})
    fitted = fit_head(store, list(dataset.clips()), dataset.labels, recipe, new_run(workspace.root, prefix=family))
    assert json.loads((fitted.run.path / "run.json").read_text())["status"] == "finished"


LEVELS = {
    "frame": ("small-wav2vec2-UTT", "small-wav2vec2-modern-UTT", "small-whisper-modern-UTT", "small-clip-modern-UTT"),
    "tokens": ("small-bert-UTT", "small-bert-modern-UTT", "small-qwen-modern-UTT", "small-clip-frame-UTT"),
}


def test_every_recipe_has_its_level_below_and_frame_heads_read_words_too(work: tuple[Workspace, Store]) -> None:
    workspace, store = work
    for level, names in LEVELS.items():
        outcome = open_session(workspace, ExtractArgs(encoders=names, level=level, device="cpu")).run()
        assert outcome.failures == ()
    store.refresh()
    for level, names in LEVELS.items():
        for name in (each.replace("-UTT", "-FRA") for each in names):
            assert store.resolve(name).level == level
            parts = [store.get(name, clip).array for clip in SAID]
            assert all(part.shape[1] == store.resolve(name).dim and np.isfinite(part).all() for part in parts)
            assert max(len(part) for part in parts) > 1
    words = [len(store.get("small-bert-FRA", clip).array) for clip in SAID]
    assert words == [len(text) for text in SAID.values()]  # one row per character of these sentences
    dataset = open_dataset("MER2023-SEMI", workspace.data["MER2023-SEMI"])
    features = ["small-wav2vec2-FRA", "small-bert-FRA", "small-clip-modern-FRA"]
    recipe = make_recipe({"head": "ef_lstm", "features": features, "epochs": 1, "folds": 2})
    fitted = fit_head(store, list(dataset.clips()), dataset.labels, recipe, new_run(workspace.root, prefix="frames"))
    assert json.loads((fitted.run.path / "run.json").read_text())["status"] == "finished"
    recipe = make_recipe({**recipe.model_dump(), "features": ["small-wav2vec2-FRA", "small-clip-frame-FRA"]})
    with pytest.raises(UsageError, match="no sequence in time"):
        fit_head(store, list(dataset.clips()), dataset.labels, recipe, new_run(workspace.root, prefix="tokens"))


def test_a_clip_without_words_is_absent_and_zeros_only_where_a_recipe_asks_for_them(
    work: tuple[Workspace, Store],
) -> None:
    workspace, store = work
    generate_clip(workspace.root / "data" / "clips" / "wordless.mp4", "happy", seed=9, duration_s=0.4)
    outcome = open_session(workspace, ExtractArgs(encoders=("small-bert-UTT",), device="cpu")).run()
    assert [(each.clip, each.kind) for each in outcome.failures] == [("wordless", "no-text")]
    store.refresh()
    clips = [*SAID, "wordless"]
    assert store.has("small-bert-UTT", clips).tolist() == [True] * 6 + [False]
    with pytest.raises(FeatureMissing, match=r"wordless \(no-text\)"):
        load_inputs(store, [("small-bert-UTT", "none")], clips)
    found = load_inputs(store, [("small-bert-UTT", "none")], clips, missing="zeros")  # what MERBench writes there
    assert found.zeroed == ("wordless",)
    assert not found.streams[0].rows[6].any()
    assert found.streams[0].rows[:6].any(axis=1).all()


def test_a_video_model_is_found_hashed_extracted_and_trained_on(work: tuple[Workspace, Store], tmp_path: Path) -> None:
    """VideoMAE as the hub has it: the whole pre-training network, whose decoder the feature does not pass."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = VideoMAEConfig(**sizes, image_size=64, use_mean_pooling=False, decoder_num_hidden_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        VideoMAEForPreTraining(config).save_pretrained(tmp_path / "m")
    steps = {"do_resize": True, "size": {"shortest_edge": 64}, "resample": 2, "do_center_crop": True, "crop_size": 64}
    _write(tmp_path / "m", "preprocessor_config.json", steps)
    data = work[0].root / "data"
    (tmp_path / "emo.toml").write_text(
        f'[data.MER2023-SEMI]\nroot = "{data}"\nclips = "{data}/clips"\n[extract]\nprofile = "tiny"\n'
        '[weights]\n"videomae-base-UTT" = "m"\n'
    )
    workspace = load_workspace(tmp_path)
    outcome = open_session(workspace, ExtractArgs(encoders=("videomae-base-UTT",), device="cpu")).run()
    assert outcome.failures == ()
    store = open_store(workspace.store_path)
    spec, encoder = store.resolve("videomae-base-UTT"), load_encoder("videomae-base-UTT", "tiny", str(tmp_path / "m"))
    assert spec.weights == encoder.weights.hash
    assert len(np.unique(store.utterances("videomae-base-UTT", list(SAID)), axis=0)) == 6
    dataset = open_dataset("MER2023-SEMI", workspace.data["MER2023-SEMI"])
    recipe = make_recipe({"head": "attention", "features": [spec.name], "epochs": 1, "folds": 2})
    fitted = fit_head(store, list(dataset.clips()), dataset.labels, recipe, new_run(tmp_path, prefix="video"))
    assert json.loads((fitted.run.path / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("family", MODELS)
def test_each_key_of_the_recipe_and_other_weights_are_another_feature(family: str, hub: Path) -> None:
    encoder = load_encoder(f"{MODELS[family][0].stem}-UTT")
    level = encoder.levels[0]
    mine = encoder.spec(level).fingerprint
    keys = [key for key in encoder.recipes["merbench"] if key != "suffixes"]
    tried = {what: encoder.twin(**members).spec(level).fingerprint for what, members in _constants(encoder)}
    assert keys
    assert set(keys) <= set(tried)
    assert mine not in tried.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(encoder.weights), "hash", "0" * 32)
        assert encoder.spec(level).fingerprint != mine
    for recipe in RECIPES.get(family, ()):
        other = load_encoder(f"{MODELS[family][0].stem_of(recipe)}-UTT")
        theirs = {each: other.spec(each).fingerprint for each in other.levels}
        assert mine not in theirs.values()
        made = {what: other.twin(**members) for what, members in _constants(other)}
        assert set(other.recipes[recipe]) - {"suffixes"} <= set(made)
        assert all(each.spec(lv).fingerprint != theirs[lv] for each in made.values() for lv in other.levels)


TYPES = {
    each.type: each.names[-1]
    for each in catalog().entries.values()
    if each.family in ("speech", "image", "text", "causal") and each.type != "baichuan"
}


@pytest.mark.parametrize("name", TYPES.values(), ids=TYPES)
def test_every_type_of_the_catalog_is_read_as_transformers_saves_it(name: str, tmp_path: Path) -> None:
    kind = find_encoder(name)
    drawn = kind(profile="tiny")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = drawn.network()(drawn.full, **drawn.options)
    model.save_pretrained(tmp_path)
    _write(tmp_path, "preprocessor_config.json", drawn.processor() if hasattr(drawn, "processor") else SOUND)
    if kind.needs == "text":
        assert save_letters(tmp_path) < drawn.full.vocab_size
    encoder = kind(profile="tiny", weights=str(tmp_path))
    assert len(encoder.load().consumed) == len(model.state_dict())
    assert encoder.spec("utt").weights == encoder.weights.hash
    rows = encoder.encode([encoder.prepare(kind.sample(2))])[0]["utt"].array
    assert rows.shape == (1, encoder.dim)
    assert np.isfinite(rows).all()


def copy_of(hub: Path, family: str, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    shutil.copytree(snapshot(hub, family), folder, dirs_exist_ok=True)
    return folder, load_file(folder / "model.safetensors")


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("wrong", ["missing", "shape", "unexpected"])
def test_a_tensor_that_does_not_fit_is_refused_by_name(family: str, wrong: str, hub: Path, tmp_path: Path) -> None:
    folder, state = copy_of(hub, family, tmp_path / "m")
    name = next(each for each in sorted(state) if "text_model" not in each and ".1." in each and "weight" in each)
    if wrong == "missing":
        state.pop(name)
    elif wrong == "shape":
        state[name] = torch.zeros(*(size + 1 for size in state[name].shape))
    else:
        name = name.replace(".1.", ".77.", 1)
        state[name] = torch.zeros(3)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_encoder(f"{MODELS[family][0].stem}-UTT", weights=str(folder)).load()
    assert name.split(".")[-2] in caught.value.message, caught.value.message


def test_what_a_file_may_lack_is_not_on_the_way_of_the_feature(hub: Path, tmp_path: Path) -> None:
    """The library draws it at random: two draws give one feature."""
    folder, state = copy_of(hub, "text", tmp_path / "m")
    assert not any("pooler" in name for name in state)
    rows = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = load_encoder("small-bert-UTT", weights=str(folder))
            item = encoder.prepare(ClipInputs(transcripts={"chinese": "你好"}))
            rows.append(encoder.encode([item])[0]["utt"].array)
    assert np.array_equal(*rows)
    assert any("pooler" in note for note in encoder.report.notes)


def test_the_baichuan_of_7b_is_read_as_the_llama_that_it_is(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaModel(LlamaConfig(**sizes, vocab_size=260)).eval()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i in range(4):
        parts = [state.pop(f"model.layers.{i}.self_attn.{part}_proj.weight") for part in "qkv"]
        state[f"model.layers.{i}.self_attn.W_pack.weight"] = torch.cat(parts)
    save_file(state | {"lm_head.weight": torch.zeros(260, 32)}, tmp_path / "model.safetensors")
    _write(tmp_path, "config.json", {"model_type": "baichuan", **sizes, "vocab_size": 260})
    encoder = find_encoder("Baichuan-7B-UTT")(profile="random")
    assert encoder.full.fused
    kind = find_encoder("Baichuan-7B-UTT")
    with pytest.raises(ModelError, match="tokenizer"):
        kind(profile="tiny", weights=str(tmp_path))
    shutil.copyfile(_pieces(tmp_path), tmp_path / "tokenizer.model")
    encoder = kind(profile="tiny", weights=str(tmp_path))
    item = encoder.prepare(ClipInputs(transcripts={"english": "abba"}))
    states = model(input_ids=item.payload[None, :, 0], output_hidden_states=True)
    want = sum(states.hidden_states[-4:-1]) + states.last_hidden_state
    first = int(item.payload[:, 1].nonzero()[0])
    got = encoder.encode([item])[0]["tokens"].array
    np.testing.assert_allclose(got, want[0, first:].detach().numpy(), atol=2e-5)


def _pieces(folder: Path) -> Path:
    """A SentencePiece model, trained on a few words."""
    import sentencepiece

    _write(folder, "words.txt", "\n".join(["abba baab aabb", "bab aba", "ab ba"] * 20))
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={folder}/words.txt --model_prefix={folder}/pieces --vocab_size=12 --hard_vocab_limit=false "
        "--model_type=bpe --minloglevel=2"
    )
    return folder / "pieces.model"


def test_layers_of_ones_choice_are_another_feature(hub: Path) -> None:
    third, last = (load_encoder("small-qwen-modern-UTT", layers=layers) for layers in ((2,), (-1,)))
    assert third.spec("utt").fingerprint != last.spec("utt").fingerprint
    item = last.prepare(ClipInputs(transcripts={"chinese": "你好"}))
    assert not np.allclose(third.encode([item])[0]["utt"].array, last.encode([item])[0]["utt"].array)
    with pytest.raises(UsageError, match="no hidden state 9"):
        load_encoder("small-qwen-modern-UTT", layers=(9,))


def test_another_model_under_the_name_is_refused(hub: Path) -> None:
    with pytest.raises(ModelError, match="wav2vec2 of width 768"):
        load_encoder("wav2vec2-base-960h-UTT", weights=str(snapshot(hub, "speech")))


def test_weights_list_shows_the_catalog(hub: Path, work: tuple[Workspace, Store]) -> None:
    repo = hub / "models--facebook--wav2vec2-base-960h"
    shutil.copytree(snapshot(hub, "speech").parents[1], repo)
    page = weights_page(work[0], field=True)
    rows = {row["name"]: row for row in page.value["models"]}
    found, other = rows["wav2vec2-base-960h"], rows["wavlm-large"]
    assert found["status"] == "present"
    assert found["size_bytes"] > 10_000
    assert (other["status"], other["size_bytes"], other["licence"]) == ("absent", None, "CC-BY-SA-3.0")
    assert "vggish" in page.value["absent"]
    shutil.rmtree(repo)


def test_a_line_of_a_model_under_weights_serves_all_its_recipes(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    toml = '[data.mine]\nroot = "d"\nkind = "folder"\n[extract]\nprofile = "tiny"\n[weights]\n'
    speech, text = snapshot(hub, "speech"), snapshot(hub, "text")
    lines = {"wav2vec2-base-960h": speech, "bert-base-chinese": text, "bert-base-chinese-modern-UTT": "elsewhere"}
    (tmp_path / "emo.toml").write_text(toml + "".join(f'"{name}" = "{place}"\n' for name, place in lines.items()))
    workspace = load_workspace(tmp_path)
    names = ("wav2vec2-base-960h-UTT", "wav2vec2-base-960h-modern-UTT", "bert-base-chinese-UTT")
    assert [workspace.weights_at(name) for name in names] == [speech, speech, text]
    assert workspace.weights_at("bert-base-chinese-modern-UTT") == tmp_path / "elsewhere"
    assert workspace.weights_at("bert-base-cased-UTT") is None
    rows = {row.name: row for row in weights_page(workspace).value}
    assert (rows["wav2vec2-base-960h"].status, rows["wav2vec2-base-960h"].path) == ("present", speech)
    assert "Apache-2.0" in rows["wav2vec2-base-960h"].about
    found = {row["name"]: row for row in weights_page(workspace, field=True).value["models"]}
    assert found["bert-base-chinese"]["status"] == "present"
    (tmp_path / "emo.toml").write_text(toml + '"bert-base-chines" = "x"\n')
    with pytest.raises(UsageError, match="did you mean 'bert-base-chinese'"):
        load_workspace(tmp_path)


def test_weights_that_are_nowhere_say_what_to_do(work: tuple[Workspace, Store]) -> None:
    names = ("clip-vit-large-patch14-UTT", "chinese-roberta-wwm-ext-large-UTT")
    with pytest.raises(WeightsMissing) as caught:
        open_session(work[0], ExtractArgs(encoders=names))
    assert all(name in str(caught.value) for name in names)
