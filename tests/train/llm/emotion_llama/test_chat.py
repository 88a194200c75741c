"""Emotion-LLaMA's projections on other language models: their tokenizer, their chat template, their weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emo.featstore.errors import ModelError
from emo.train.llm.checkpoint import load_adapter, merge, save_adapter
from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.emotion_llama.prompt import FEATURE, VIDEO, build_prompt, encode_answer, instruction
from emo.train.llm.model import LoraArgs
from emo.train.llm.prompt import Prompt, chat_text
from emo.train.llm.tokenizer import Tokenizer
from emo.train.recipe import family_named, load_recipe

WIDTHS = Widths(12, 9, (("face", 10), ("video", 7), ("audio", 5)))
LORA = LoraArgs(r=4, alpha=8, dropout=0.0)
SAID = ("Yes", "No, I do not know what you mean by that", "")
ANSWERS = ("happy", "the person frowns, angry", "sad")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = ("llama3", "qwen2.5", "mistral", "smollm2")


def small_tokenizer(folder: Path) -> None:
    """Write a tokenizer of bytes with a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<|begin|>", "<|start|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(piece, special=True) for piece in pieces[:3]])
    made.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def config_of(name: str, ids: int) -> Any:
    from transformers import LlamaConfig, MistralConfig, Qwen2Config

    grouped = {**SMALL, "num_key_value_heads": 2, "vocab_size": ids, "tie_word_embeddings": False}
    if name == "qwen2.5":
        return Qwen2Config(**grouped)
    if name == "mistral":
        return MistralConfig(**grouped)
    return LlamaConfig(**{**grouped, "tie_word_embeddings": name == "smollm2"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of a small language model with random weights, by architecture."""
    from transformers import AutoModelForCausalLM

    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp(name.replace(".", ""))
            small_tokenizer(folder)
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config_of(name, 300)).save_pretrained(folder)
            folders[name] = folder
        return folders[name]

    return make


def ready(folder: Path, **how: Any) -> EmotionLlama:
    return build(folder, WIDTHS, LORA, **how).eval()


def awake(model: EmotionLlama) -> EmotionLlama:
    """Fresh adapters and small weights say nothing: give them values that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.llm.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.mul_(10)
        for name, parameter in model.trainable():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def features(clips: int = 3) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(clips, WIDTHS.tokens_rows, WIDTHS.tokens_dim, generator=g)
    return [tokens, *(torch.randn(clips, dim, generator=g) for _, dim in WIDTHS.streams)]


def prompts(model: EmotionLlama) -> list[Prompt]:
    return [build_prompt("chat", instruction("emotion", "Which?", said), model.tokenizer) for said in SAID]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_labels_stand_on_the_answer_alone_and_rows_where_the_places_are(made: Callable[[str], Path], name: str) -> None:
    model = ready(made(name))
    asked, given = prompts(model), [encode_answer(answer, model.tokenizer) for answer in ANSWERS]
    assert all(prompt.slots == ("patches", "features") for prompt in asked)
    assert all(ids[-1] == model.tokenizer.eos == 2 for ids in given), "the model's own end of a turn ends an answer"
    batch = model.collate(asked, given, features())
    for i, answer in enumerate(given):
        end = int(batch.mask[i].sum())
        assert batch.labels[i, end - len(answer) : end].tolist() == answer
        assert (batch.labels[i, : end - len(answer)] == -100).all()
    text = model.tokenizer.decode([each for part in asked[0].segments if not isinstance(part, str) for each in part])
    assert "The person in video says: Yes.  [emotion] Which?" in text
    model.loss(batch)[0].backward()
    assert all(parameter.grad is not None for _, parameter in model.trainable())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_do_not_depend_on_the_batch(made: Callable[[str], Path], name: str) -> None:
    model = awake(ready(made(name)))
    asked, given = prompts(model), features()
    one = [model.generate([asked[i]], [each[i : i + 1] for each in given], 10)[0] for i in range(3)]
    assert model.generate(asked, given, 10) == one
    assert len({tuple(ids) for ids in one}) > 1, "the prompts matter"
    words = [encode_answer(answer, model.tokenizer) for answer in ANSWERS]
    got = model.label_logprobs(asked, given, words)
    for i in range(3):
        for j, word in enumerate(words):
            total, _ = model.loss(model.collate([asked[i]], [word], [each[i : i + 1] for each in given]))
            assert got[i, j].item() == pytest.approx(-total.item(), abs=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adapters_and_merged_models_go_out_and_come_back(
    made: Callable[[str], Path], name: str, tmp_path: Path
) -> None:
    model = ready(made(name))
    with torch.no_grad():
        for each, parameter in model.trainable():
            if ".lora_B." in each:
                parameter.normal_(std=0.3)
    save_adapter(model, tmp_path / "adapter")
    again = ready(made(name), seed=5)
    load_adapter(again, tmp_path / "adapter")
    batch = model.collate(prompts(model), [encode_answer(a, model.tokenizer) for a in ANSWERS], features())
    want = model.loss(batch)[0]
    torch.testing.assert_close(again.loss(batch)[0], want, rtol=0, atol=0)
    merge(model, tmp_path / "merged")
    merged = ready(tmp_path / "merged")
    assert merged.tokenizer.chat_template == TEMPLATE
    assert prompts(merged) == prompts(model)
    with torch.no_grad():
        for (_, here), (_, there) in zip(merged.trainable(), model.trainable(), strict=True):
            if here.shape == there.shape and here.ndim:
                here.copy_(there)
        for each, parameter in merged.trainable():
            if ".lora_B." in each:
                parameter.zero_()
    torch.testing.assert_close(merged.loss(batch)[0], want, rtol=1e-4, atol=1e-3)


def test_a_tokenizer_without_a_chat_template_is_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(made("llama3"), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin|>", "eos_token": "<|end|>"}))
    with pytest.raises(ModelError, match="no chat template, and layout chat"):
        prompts(ready(folder))


def test_a_template_that_drops_the_users_words_is_refused(made: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.from_folder(made("llama3"))
    tokenizer.chat_template = "Say something."
    with pytest.raises(ModelError, match="drops or changes"):
        chat_text("Which?", tokenizer)


@pytest.mark.parametrize("name", ["qwen2.5", "mistral"])
def test_official_checkpoints_stay_llama_2(made: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    model, family = ready(made(name)), family_named("emotion-llama")
    with pytest.raises(ModelError, match="Official checkpoints are of LLaMA-2"):
        family.export_official(model, load_recipe("tiny"), tmp_path / "out.pth")
    with pytest.raises(ModelError, match="Official checkpoints are of LLaMA-2"):
        family.import_official(tmp_path / "in.pth", model)
    assert not list(tmp_path.iterdir())


def test_qwen2s_own_tokenizer_and_template() -> None:
    folder = Path(__file__).resolve().parents[4] / ".." / "shared" / "data" / "qwen2_tokenizer"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/qwen2_tokenizer")
    tokenizer = Tokenizer.from_folder(folder)
    prompt = build_prompt("chat", instruction("emotion", "Which?", "Yes"), tokenizer)
    first, patches, middle, slot, rest = prompt.segments
    assert (patches, slot) == ("patches", "features")
    assert first[:3] == (151644, 8948, 198)  # <|im_start|>system\n
    assert rest[-3:] == (151644, 77091, 198)  # <|im_start|>assistant\n
    assert 151645 in rest
    said = tokenizer.decode([*first, *middle, *rest])
    assert "You are a helpful assistant." in said
    assert VIDEO not in said
    assert FEATURE not in said
    assert encode_answer("happy", tokenizer)[-1] == 151645
