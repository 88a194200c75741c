"""Describers on this machine: tiny random models of the kinds that see, hear and write, made here; one real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from emo.extract.annotate.ask import ask
from emo.extract.annotate.describer import Asking, Clues, Question
from emo.extract.annotate.pages import run_page
from emo.extract.annotate.registry import find_describer
from emo.extract.annotate.testing import check_describer
from emo.featstore.errors import EmoError, MediaError, ModelError, UsageError
from emo.featstore.workspace import load_workspace
from emo.train.pages import predict_page

SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
# As the templates of such models: a message's parts one after the other, each picture or sound by its own sign.
TEMPLATE = (
    "{%% for message in messages %%}{{ message['role'] }} : "
    "{%% if message['content'] is string %%}{{ message['content'] }}"
    "{%% else %%}{%% for part in message['content'] %%}{%% if part['type'] == 'text' %%}{{ part['text'] }}"
    "{%% else %%}%s{%% endif %%}{%% endfor %%}{%% endif %%} {%% endfor %%}"
    "{%% if add_generation_prompt %%}assistant : {%% endif %%}"
)


def tokenizer(sign: str = "") -> PreTrainedTokenizerFast:
    """Letters as tokens."""
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    made.chat_template = TEMPLATE % sign
    return made


def llama(**more: object) -> LlamaConfig:
    size = len(tokenizer())
    return LlamaConfig(vocab_size=size, num_key_value_heads=2, max_position_embeddings=512, **SMALL, **more)


@pytest.fixture(scope="module")
def writes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "writes"
    LlamaForCausalLM(llama(bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "sees"
    vision = CLIPVisionConfig(image_size=28, patch_size=14, **SMALL)
    config = LlavaConfig(vision_config=vision, text_config=llama(), image_token_index=3, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    words = tokenizer("<image>")
    LlavaProcessor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=words.chat_template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "hears"
    sizes = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32}
    audio = Qwen2AudioEncoderConfig(num_mel_bins=16, **sizes)
    text = Qwen2Config(vocab_size=len(tokenizer()), num_key_value_heads=2, max_position_embeddings=1024, **SMALL)
    Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=5)
    ).save_pretrained(folder)
    words = tokenizer("<|audio_bos|><|AUDIO|><|audio_eos|>")
    ears = WhisperFeatureExtractor(feature_size=16)
    Qwen2AudioProcessor(ears, words, chat_template=words.chat_template).save_pretrained(folder)
    return folder


def question(kind: str, text: str = "Please describe it.", system: str = "", seconds: float = 1.0) -> Question:
    needs = {"scene": "image", "voice": "sound"}.get(kind, "")
    tone = (0.1 * np.sin(np.arange(int(16_000 * seconds)))).astype(np.float32)
    clues = Clues({}, lambda: np.full((60, 80, 3), 128, np.uint8), lambda: tone)
    return Question(kind, system, text, needs, "en", clues)


def asking(**more: object) -> Asking:
    return Asking(**{"max_tokens": 12, "device": "cpu", **more})  # type: ignore[arg-type]


def test_a_model_that_writes_answers_about_text_alone(writes: Path) -> None:
    model = find_describer(f"hf:{writes}", asking())
    assert [kind for kind in ("scene", "voice", "caption", "verify") if model.answers(kind)] == ["caption", "verify"]
    check_describer(model)
    reply = model.describe(question("caption", "Why?", "You are kind."))
    assert reply.tokens == (len("system : You are kind. user : Why? assistant : "), 10)  # it ends by itself
    assert not reply.cut
    short = find_describer(f"hf:{writes}", asking(max_tokens=4)).describe(question("caption", "Why?", "You are kind."))
    assert short.cut
    assert reply.text.startswith(short.text)
    assert model.id.startswith("writes@")


def test_a_model_that_sees_is_shown_the_frame(sees: Path) -> None:
    model = find_describer(f"hf:{sees}", asking())
    assert [kind for kind in ("scene", "voice", "caption") if model.answers(kind)] == ["scene", "caption"]
    check_describer(model)
    words = len("user : Please describe it. assistant : ")
    asked = [(model.describe(question(kind)).tokens or (0, 0))[0] for kind in ("caption", "scene")]
    assert asked == [words, words + 4]  # a frame of 28 pixels in patches of 14


def test_a_model_that_hears_is_given_the_sound(hears: Path) -> None:
    model = find_describer(f"hf:{hears}", asking())
    assert [kind for kind in ("scene", "voice", "caption") if model.answers(kind)] == ["voice", "caption"]
    check_describer(model)
    short, long = (model.describe(question("voice", seconds=each)).tokens for each in (1.0, 3.0))
    assert short is not None
    assert long is not None
    assert 48 <= long[0] - short[0] <= 52  # 25 tokens per second


def test_sampling_is_decided_by_the_seed(writes: Path) -> None:
    said = [
        find_describer(f"hf:{writes}", asking(temperature=2.0, seed=s)).describe(question("caption")) for s in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


def test_what_is_too_long_for_it_is_a_typed_failure(writes: Path) -> None:
    with pytest.raises(MediaError, match="tokens") as caught:
        find_describer(f"hf:{writes}", asking()).describe(question("caption", "why " * 200))
    assert caught.value.kind == "too-long-question"


def test_what_is_no_model_is_said(tmp_path: Path, writes: Path) -> None:
    with pytest.raises(UsageError, match="names no model"):
        find_describer("hf:")
    with pytest.raises(EmoError, match="no weights at"):
        find_describer(f"hf:{tmp_path / 'none.gguf'}")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UsageError, match="no model that transformers knows"):
        find_describer(f"hf:{broken}")
    (broken / "config.json").write_bytes((writes / "config.json").read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        find_describer(f"hf:{broken}", asking()).describe(question("caption"))


@pytest.mark.parametrize(("device", "says"), [("gpu", "'gpu' is not a device"), ("cuda:99", "no device cuda:99")])
def test_a_device_that_is_not_there_is_not_called_a_broken_model(writes: Path, device: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_describer(f"hf:{writes}", asking(device=device)).describe(question("caption"))


def test_a_run_with_a_local_model_and_a_second_one_that_asks_nothing(study: Callable[..., Path], sees: Path) -> None:
    folder = study(2)
    flags = {"scene": f"hf:{sees}", "max_tokens": 4}  # random weights end no sentence in four tokens

    def run() -> dict[str, object]:
        return run_page(load_workspace(folder), lambda sentence: None, **flags).value

    first = run()
    assert (first["requests"], first["failed"]) == (2, {"cut-off-answer": 2})
    assert run()["requests"] == 0


def test_a_whole_clip_is_shown_to_a_model_on_this_machine(study: Callable[..., Path], sees: Path, hears: Path) -> None:
    """`emo predict --model`: frames to a model that sees, sound to one that hears, and nothing is asked twice."""
    folder = study(2)
    (folder / "short.yaml").write_text(
        "kind: ask\nprompts: {emotion: ['Which emotion?']}\nsaid: ''\nframes: 2\nmax_tokens: 4\n"
    )

    def predict(model: str, *settings: str) -> dict[str, Any]:
        flags: dict[str, Any] = {"dataset": "mine", "recipe": str(folder / "short.yaml"), "set_": list(settings)}
        no_run: Any = None
        return predict_page(
            load_workspace(folder), no_run, ask, lambda sentence: None, None, model=model, **flags
        ).value

    with pytest.raises(UsageError, match="cannot hear"):
        predict(f"local:{sees}")
    for model, setting in ((f"local:{sees}", "sound=false"), (f"hf:{hears}", "frames=0")):
        first = predict(model, setting)
        assert (first["requests"], first["failed"]) == (2, {"cut-off-answer": 2})  # random weights end no sentence
        assert all(row["why"].startswith("cut-off-answer: ") for row in first["answers"])
        assert predict(model, setting)["requests"] == 0


def test_a_device_that_is_not_there_is_asked_nothing(writes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    sent: list[str] = []
    model = find_describer(f"hf:{writes}", Asking(device="cuda", attempt=lambda: sent.append("request")))
    question = Question("caption", "", "Say it.", "", "en", Clues({}, lambda: None, lambda: None))  # type: ignore[arg-type]
    with pytest.raises(EmoError, match="cuda"):
        model.describe(question)
    assert sent == []
