"""The model on cached tensors: widths, rows, losses, answers, and where it comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import loss_reference
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.spec import EncoderSpec
from emo.train.llm.build import SIZES, find_llm
from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.emotion_llama.prompt import Prompt, build_prompt, encode_answer, instruction
from emo.train.llm.model import LoraArgs
from emo.train.llm.setup import base_parameters, flops_per_token
from emo.train.llm.tokenizer import Tokenizer

WIDTHS = Widths(12, 9, (("face", 10), ("video", 7), ("audio", 5)))
LORA = LoraArgs(r=4, alpha=8, dropout=0.5)
SAID = ("Yes", "No, I do not know what you mean by that", "嗯")
ANSWERS = ("happy", "the person frowns, angry", "sad")


@pytest.fixture(autouse=True)
def usual_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds here are of a base drawn as LLaMA's is, not as wide as profile tiny is for the demo's sake."""
    monkeypatch.setitem(SIZES["tiny"], "initializer_range", 0.02)


@pytest.fixture
def model() -> EmotionLlama:
    return awake(build(None, WIDTHS, LORA, profile="tiny")).eval()


def awake(model: EmotionLlama) -> EmotionLlama:
    """Fresh adapters do nothing, and a fresh model looks at everything alike: give them values that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.llm.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.mul_(10)
        for name, parameter in model.trainable():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def features(clips: int, widths: Widths = WIDTHS, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(clips, widths.tokens_rows, widths.tokens_dim, generator=g).to(dtype)
    return tokens, [torch.randn(clips, dim, generator=g) for _, dim in widths.streams]


def prompts(model: EmotionLlama, layout: str = "train_consistent", media: bool = True) -> list[Prompt]:
    return [build_prompt(layout, instruction("emotion", "Which?", said, media), model.tokenizer) for said in SAID]


def answers(model: EmotionLlama) -> list[list[int]]:
    return [encode_answer(answer, model.tokenizer) for answer in ANSWERS]


def flat(tokens: Tensor, streams: list[Tensor]) -> list[Tensor]:
    return [tokens, *streams]


def only(i: int, tokens: Tensor, streams: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    return tokens[i : i + 1], [each[i : i + 1] for each in streams]


def spec(name: str, dim: int, level: str = "utt", rows: int | None = 1) -> EncoderSpec:
    return EncoderSpec(name, "any", "any", level, dim, rows, "tiny", "seed:0")


# ---- widths ----------------------------------------------------------------------------------------------------------


def test_widths_come_from_the_store() -> None:
    got = Widths.from_specs(spec("eva", 1408, "tokens", 1025), [spec("face", 1024), spec("audio", 768)])
    assert got == Widths(1408, 1025, (("face", 1024), ("audio", 768)))
    assert (got.groups, got.rows) == (256, 259)
    assert Widths.from_json(json.loads(json.dumps(got.to_json()))) == got
    assert Widths.from_specs(None, [spec("face", 3)]).rows == 1


def test_widths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ModelError, match="64 patches do not divide into groups of 5"):
        Widths.from_specs(spec("eva", 8, "tokens", 65), [], group=5)
    with pytest.raises(ModelError, match="hubert: more than one row"):
        Widths.from_specs(None, [spec("hubert", 8, "frame", None)])
    with pytest.raises(ModelError, match="no fixed number"):
        Widths.from_specs(spec("eva", 8, "tokens", None), [])
    with pytest.raises(ModelError, match=r"shape \(0, 8\)"):
        Widths(8, 0)


def test_features_of_other_shapes_are_refused(model: EmotionLlama) -> None:
    tokens, streams = features(3)
    with pytest.raises(ModelError, match=r"\(3, 9, 12\).*\(3, 8, 12\)"):
        model.collate(prompts(model), None, [tokens[:, 1:], *streams])
    with pytest.raises(ModelError, match="was made for features"):
        model.collate(prompts(model), None, [])
    blind = build(None, Widths(), LORA, profile="tiny")
    with pytest.raises(ModelError, match="made for none"):
        blind.collate(prompts(blind), None, [])


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_conditioning_is_groups_then_streams_then_cls(model: EmotionLlama) -> None:
    tokens, streams = features(2)
    got = model.condition([tokens, *streams])
    assert got.shape == (2, WIDTHS.groups + 3 + 1, 64) == (2, 6, 64)
    neighbours = torch.cat([tokens[:, 5], tokens[:, 6], tokens[:, 7], tokens[:, 8]], 1)
    torch.testing.assert_close(got[:, 1], model.llama_proj(neighbours))
    torch.testing.assert_close(got[:, 3], model.feats_llama_proj2(streams[1]))
    torch.testing.assert_close(got[:, 5], model.cls_tk_llama_proj(tokens[:, 0]))


@pytest.mark.parametrize("left", [False, True])
def test_slots_hold_their_rows_and_text_the_rest(model: EmotionLlama, left: bool) -> None:
    tokens, streams = features(3)
    asked = prompts(model)
    batch = model.collate(asked, None, [tokens, *streams], left=left)
    rows, condition = model.embed(batch), model.condition([tokens, *streams])
    for i, prompt in enumerate(asked):
        parts = [
            condition[i][list(WIDTHS.slot(each))] if isinstance(each, str) else model.embeddings(torch.tensor(each))
            for each in prompt.segments
        ]
        want = torch.cat(parts)
        assert len(want) == model.length(prompt) == batch.mask[i].sum()
        torch.testing.assert_close(rows[i, batch.mask[i]], want, rtol=0, atol=0)
        assert batch.mask[i, -1 if left else 0]
        assert (batch.ids[i, ~batch.mask[i]] == model.tokenizer.pad).all()


def test_labels_stand_where_the_answer_stands(model: EmotionLlama) -> None:
    given = answers(model)
    given[0].insert(1, model.tokenizer.pad)  # the official code takes it for padding
    batch = model.collate(prompts(model), given, flat(*features(3)))
    for i, answer in enumerate(given):
        end = int(batch.mask[i].sum())
        want = [each if each != model.tokenizer.pad else -100 for each in answer]
        assert batch.labels[i, end - len(answer) : end].tolist() == want
        assert (batch.labels[i, : end - len(answer)] == -100).all()
    assert batch.supervised == sum(map(len, given)) - 1
    assert batch.real_tokens == sum(model.length(p, a) for p, a in zip(prompts(model), given, strict=True))


def test_a_context_limit_may_cut_through_the_features(model: EmotionLlama) -> None:
    tokens, streams = features(3)
    limit = model.length(prompts(model)[0]) // 4
    whole, cut = (model.collate(prompts(model), None, [tokens, *streams], max_context_len=n) for n in (None, limit))
    assert cut.ids.shape == (3, limit + 1)
    torch.testing.assert_close(model.embed(cut), model.embed(whole)[:, : limit + 1], rtol=0, atol=0)
    assert model.length(prompts(model)[0], (1, 2), limit) == limit + 3


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["train_consistent", "official_eval"])
def test_no_mask_equals_the_mask(model: EmotionLlama, layout: str) -> None:
    """Right padding and causal attention: the fused path gives the loss and the gradients of the masked one."""
    batch = model.collate(prompts(model, layout), answers(model), flat(*features(3)))
    assert not batch.mask.all(), "the case needs padding"
    grads = []
    for way in ("fused", "reference"):
        if way == "fused":
            total, supervised = model.loss(batch)
            loss = total / supervised
        else:
            loss = loss_reference(model, batch)
        loss.backward()
        grads.append((loss.detach(), [parameter.grad.clone() for _, parameter in model.trainable()]))
        model.zero_grad()
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=0, atol=1e-5)
    for a, b in zip(grads[0][1], grads[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_batch_is_the_sum_of_its_samples(model: EmotionLlama) -> None:
    whole, n = model(model.collate(prompts(model), answers(model), flat(*features(3))))
    alone = [
        model(model.collate([prompts(model)[i]], [answers(model)[i]], flat(*only(i, *features(3))))) for i in range(3)
    ]
    assert n == sum(supervised for _, supervised in alone)
    torch.testing.assert_close(whole, sum(total for total, _ in alone), rtol=0, atol=1e-4)


def test_logits_exist_at_supervised_rows_only(model: EmotionLlama) -> None:
    shapes = []
    model.llm.lm_head.register_forward_hook(lambda _m, _a, out: shapes.append(tuple(out.shape)))
    batch = model.collate(prompts(model), answers(model), flat(*features(3)))
    model.loss(batch)
    assert shapes == [(batch.supervised, 260)]


def test_only_adapters_and_projections_learn(model: EmotionLlama) -> None:
    names = [name for name, _ in model.trainable()]
    assert len(names) == 2 * 2 * 2 + 2 * 5
    assert names[0] == "llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    total, _ = model.train()(model.collate(prompts(model), answers(model), flat(*features(3))))
    total.backward()
    assert all(parameter.grad is not None for _, parameter in model.trainable())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_dropout_is_in_training_and_never_in_answers(model: EmotionLlama) -> None:
    batch = model.collate(prompts(model), answers(model), flat(*features(3)))
    quiet = [model.loss(batch)[0].item() for _ in range(2)]
    loud = [model.train().loss(batch)[0].item() for _ in range(2)]
    assert quiet[0] == quiet[1]
    assert loud[0] != loud[1]
    words = answers(model)
    assert torch.equal(
        model.label_logprobs(prompts(model), flat(*features(3)), words),
        model.label_logprobs(prompts(model), flat(*features(3)), words),
    )
    assert model.generate(prompts(model), flat(*features(3)), 3) == model.generate(
        prompts(model), flat(*features(3)), 3
    )
    assert model.training, "answering leaves the mode as it was"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_base_with_float32_adapters(model: EmotionLlama, dtype: str) -> None:
    half = awake(build(None, WIDTHS, LORA, dtype, profile="tiny")).eval()
    assert half.dtype == getattr(torch, dtype)
    assert {parameter.dtype for _, parameter in half.trainable()} == {torch.float32}
    batch = model.collate(prompts(model), answers(model), flat(*features(3, dtype=torch.float16)))
    want, supervised = model.loss(batch)
    total, _ = half.loss(batch)
    assert total.dtype == torch.float32
    assert total.item() / supervised == pytest.approx(want.item() / supervised, abs=0.05)
    total.backward()
    assert all(torch.isfinite(parameter.grad).all() for _, parameter in half.trainable())
    assert torch.isfinite(half.label_logprobs(prompts(half), flat(*features(3)), answers(half))).all()


def test_recomputation_keeps_less_for_the_same_gradients(model: EmotionLlama) -> None:
    batch, kept, gradients = model.collate(prompts(model), answers(model), flat(*features(3))), [], []
    model.train()
    for way in ("keep", "recompute"):
        if way == "recompute":
            model.recompute()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=sizes: (to.append(x.nbytes), x)[1], lambda x: x):
            torch.manual_seed(0)  # dropout
            total, _ = model(batch)
        total.backward()
        kept.append(sum(sizes))
        gradients.append([parameter.grad for _, parameter in model.trainable()])
        model.zero_grad()
    assert kept[1] < kept[0] / 2
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_text_alone() -> None:
    model = awake(build(None, Widths(), LORA, profile="tiny")).eval()
    asked = prompts(model, media=False)
    batch = model.collate(asked, answers(model), [])
    total, supervised = model.loss(batch)
    torch.testing.assert_close(total / supervised, loss_reference(model, batch), rtol=0, atol=1e-5)
    assert len(model.generate(asked, [], 4)) == 3
    assert all(name.startswith("llama_model.") for name, _ in model.trainable())


def test_streams_without_image_and_image_without_streams() -> None:
    for widths in (Widths(streams=WIDTHS.streams), Widths(12, 9)):
        model = build(None, widths, LORA, profile="tiny")
        tokens, streams = features(3, widths)
        batch = model.collate(prompts(model), answers(model), [tokens, *streams] if widths.tokens_rows else streams)
        model(batch)[0].backward()
        assert all(parameter.grad is not None for _, parameter in model.trainable())


def test_the_seed_draws_adapters_projections_and_the_tiny_model() -> None:
    same, again, other = (build(None, WIDTHS, LORA, profile="tiny", seed=seed) for seed in (3, 3, 4))
    for (name, a), (_, b) in zip(same.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(same.llama_proj.weight, other.llama_proj.weight)
    before = torch.get_rng_state()
    build(None, WIDTHS, LORA, profile="tiny", seed=5)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are untouched"


# ---- answers ---------------------------------------------------------------------------------------------------------


def greedy(model: EmotionLlama, prompt: Prompt, features: tuple[Tensor, list[Tensor]], n: int) -> list[int]:
    """The plainest way: read everything again for each id."""
    ids: list[int] = []
    with torch.no_grad():
        while len(ids) < n and (not ids or ids[-1] != model.tokenizer.eos):
            rows = model.embed(model.collate([prompt], [ids], flat(*features)))
            ids.append(int(model.llm(inputs_embeds=rows, use_cache=False).logits[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("layout", ["train_consistent", "official_eval"])
def test_batched_answers_equal_the_plainest_way(model: EmotionLlama, layout: str) -> None:
    asked, given = prompts(model, layout), features(3)
    want = [greedy(model, prompt, only(i, *given), 12) for i, prompt in enumerate(asked)]
    assert model.generate(asked, flat(*given), 12) == want
    assert [model.generate([asked[i]], flat(*only(i, *given)), 12)[0] for i in range(3)] == want


def test_a_row_that_ends_leaves_the_batch_and_the_rest_go_on(model: EmotionLlama) -> None:
    asked, given = prompts(model), features(3)
    free = model.generate(asked, flat(*given), 10)
    end = next(each for each in free[1][2:5] if each not in free[1][:2] and each not in free[0] + free[2])
    model.tokenizer.eos = end  # what row 1 says anyway, early on
    sizes = []
    model.llm.lm_head.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    got = model.generate(asked, flat(*given), 10)
    stop = free[1].index(end) + 1
    assert got == [free[0], free[1][:stop], free[2]]
    assert sizes == [3] * stop + [2] * (10 - stop)


def test_generation_ends_with_the_last_row(model: EmotionLlama) -> None:
    asked, given = prompts(model)[:1], only(0, *features(3))
    free = model.generate(asked, flat(*given), 10)[0]
    model.tokenizer.eos = free[0]
    steps = []
    model.llm.lm_head.register_forward_hook(lambda *_: steps.append(1))
    assert model.generate(asked, flat(*given), 10) == [[free[0]]]
    assert len(steps) == 1


@pytest.mark.parametrize("words", [ANSWERS, ("a", "b", "abc")])
def test_label_logprobs_equal_one_forward_each(model: EmotionLlama, words: tuple[str, ...]) -> None:
    asked, given = prompts(model), features(3)
    ids = [encode_answer(word, model.tokenizer) for word in words]
    ids.append(ids[0][:1])  # one id only
    got = model.label_logprobs(asked, flat(*given), ids)
    assert got.shape == (3, len(ids))
    for i, prompt in enumerate(asked):
        for j, answer in enumerate(ids):
            rows = model.embed(model.collate([prompt], [answer], flat(*only(i, *given))))
            with torch.no_grad():
                logits = model.llm(inputs_embeds=rows, use_cache=False).logits[0]
            steps = logits[-len(answer) - 1 : -1].log_softmax(-1)
            want = steps.gather(1, torch.tensor(answer)[:, None]).sum()
            assert got[i, j].item() == pytest.approx(want.item(), abs=1e-4)


def test_label_logprobs_of_single_ids_are_one_distribution(model: EmotionLlama) -> None:
    every = [[i] for i in range(model.tokenizer.vocab_size)]
    got = model.label_logprobs(prompts(model), flat(*features(3)), every)
    torch.testing.assert_close(got.exp().sum(1), torch.ones(3))
    with pytest.raises(UsageError, match="no ids"):
        model.label_logprobs(prompts(model), flat(*features(3)), [[1], []])


# ---- where it comes from ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder of a tiny LLaMA with grouped keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    path = tmp_path / "llama"
    LlamaForCausalLM(config).save_pretrained(path)
    Tokenizer.bytes().save(path)
    return path


def logits(model: EmotionLlama) -> Tensor:
    with torch.no_grad():
        return model.llm(input_ids=torch.arange(5, 25)[None]).logits


def test_a_hugging_face_folder(folder: Path) -> None:
    from transformers import LlamaForCausalLM

    model = build(folder, WIDTHS, LORA)
    with torch.no_grad():
        want = LlamaForCausalLM.from_pretrained(folder)(input_ids=torch.arange(5, 25)[None]).logits
    torch.testing.assert_close(logits(model), want, rtol=0, atol=1e-6)
    assert model.llama_proj.out_features == 32
    assert model.source == str(folder)
    batch = model.collate(prompts(model), answers(model), flat(*features(3)))
    assert torch.isfinite(model(batch)[0])
    got = model.label_logprobs(prompts(model), flat(*features(3)), answers(model))
    total, _ = model.eval().loss(model.collate(prompts(model)[:1], answers(model)[:1], flat(*only(0, *features(3)))))
    assert got[0, 0].item() == pytest.approx(-total.item(), abs=1e-4)


def test_weights_go_from_the_file_to_their_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a copy in the memory of the host; the device that has no memory stands for a GPU."""
    from emo.train.llm import build as building

    asked: list[Any] = []
    real = building.AutoModelForCausalLM.from_pretrained

    def noted(path: Path, **options: Any) -> Any:
        asked.append(options.pop("device_map", None))
        return real(path, **options)

    monkeypatch.setattr(building.AutoModelForCausalLM, "from_pretrained", noted)
    for device in ("cpu", "meta"):
        building._load(folder, torch.float32, torch.device(device), None, {})
    assert asked == [None, {"": torch.device("meta")}]


def test_a_gguf_file(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gguf = pytest.importorskip("gguf")
    state = {name: each.numpy() for name, each in load_file(folder / "model.safetensors").items()}
    path = tmp_path / "gguf" / "small.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    table = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    writer.add_token_list(sorted(table, key=table.__getitem__))
    writer.add_token_merges([])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    parts |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {f"model.layers.{i}.{old}": f"blk.{i}.{new}" for i in range(2) for old, new in parts.items()}
    for name, tensor in state.items():
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        if heads:  # llama.cpp interleaves the two halves of each head
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"{names[name.removesuffix('.weight')]}.weight", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    capfd.readouterr()
    got, want = build(path, WIDTHS, LORA), build(folder, WIDTHS, LORA)
    assert "it/s" not in capfd.readouterr().err, "a progress bar of transformers"
    assert not tqdm(disable=False).disable, "other bars are as they were"
    torch.testing.assert_close(logits(got), logits(want), rtol=0, atol=1e-5)
    assert got.tokenizer.encode("hi</s>") == want.tokenizer.encode("hi</s>")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fused_norm_is_llamas(dtype: str) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    kind = getattr(torch, dtype)
    model = build(None, WIDTHS, LORA, dtype, profile="tiny")
    norms = [each for each in model.modules() if isinstance(each, torch.nn.RMSNorm)]
    assert len(norms) == 5, "two of each layer, and the last"
    norm, plain = norms[0], LlamaRMSNorm(64, norms[0].eps).to(kind)
    plain.weight.data = norm.weight.data.uniform_(0.5, 2)
    x = (torch.randn(3, 7, 64) * 5).to(kind)
    with model.autocast():
        assert norm(x).dtype == kind, "autocast does not widen what follows"
    torch.testing.assert_close(norm(x), plain(x))


def test_an_incomplete_model_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 tensors, model\.layers\.1\.mlp\.up_proj\.weight"):
        build(folder, WIDTHS, LORA)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded as a language model"):
        build(folder, WIDTHS, LORA)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded as a language model"):
        build(folder, WIDTHS, LORA)


def test_what_does_not_fit_the_language_model(folder: Path) -> None:
    with pytest.raises(ModelError, match="LoRA does not fit"):
        build(folder, WIDTHS, LoraArgs(targets=("query",)))
    wide = build(folder, WIDTHS, LoraArgs(r=2, targets=("q_proj", "k_proj", "o_proj")))
    assert any(".o_proj.lora_A.weight" in name for name, _ in wide.trainable())
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["vocab"]["one more"] = 260
    (folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(ModelError, match=r"261 ids, the model .* only 260"):
        build(folder, WIDTHS, LORA)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    for source in (str(tmp_path / "llama"), "./llama", "llama.gguf", str(tmp_path / "x.gguf")):
        with pytest.raises(WeightsMissing, match=r"no language model at .*\[weights\] in emo\.toml"):
            build(source, WIDTHS)
    with pytest.raises(WeightsMissing, match="No language model is named"):
        build(None, WIDTHS)
    for options in ({"dtype": "half"}, {"profile": "small"}, {"quantise": "nf4", "profile": "tiny"}):
        with pytest.raises(UsageError):
            build(None, WIDTHS, **options)


def test_hub_ids_local_first_and_one_message_where_they_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    response: Any = SimpleNamespace(headers={}, request=None)
    asked: list[str] = []

    def hub(online: Exception | None) -> None:
        def download(repo: str, allow_patterns: list[str]) -> str:
            asked.append(repo)
            if online is None:
                return str(folder)
            raise online

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    repo = folder.parent / "hub/models--meta-llama--Llama-2-7b-chat-hf"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(repo.parent))
    snapshot = repo / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("0" * 40)
    hub(None)
    assert find_llm("meta-llama/Llama-2-7b-chat-hf") == snapshot
    assert asked == [], "nothing is asked of the hub where the cache has it"
    (snapshot / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert find_llm("meta-llama/Llama-2-7b-chat-hf") == folder, "half of it is not there"
    assert asked == ["meta-llama/Llama-2-7b-chat-hf"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))  # as without a network
    with pytest.raises(ModelError, match=r"lacks shard model-2\.safetensors"):
        find_llm("meta-llama/Llama-2-7b-chat-hf")
    for error, kind, words in (
        (GatedRepoError("no", response=response), WeightsMissing, "is gated.*Accept its licence.*hf auth login"),
        (RepositoryNotFoundError("no", response=response), WeightsMissing, "hub has no language model"),
        (LocalEntryNotFoundError("offline"), ModelError, "hub cannot be reached"),
        (HfHubHTTPError("no", response=response), ModelError, "hub cannot be reached"),
    ):
        hub(error)
        with pytest.raises(kind, match=words):
            build("meta-llama/Llama-2-7b-chat-hf", WIDTHS)


@pytest.fixture
def small_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-2-7B's build with fewer and smaller layers."""
    for name, value in (("num_hidden_layers", 1), ("hidden_size", 64), ("intermediate_size", 128)):
        monkeypatch.setitem(SIZES["random"], name, value)


def test_random_7b_is_llama_2(small_random: None) -> None:
    model = build("random", WIDTHS, LORA, "bfloat16", profile="random")
    assert (model.llm.config.vocab_size, model.dtype) == (32000, torch.bfloat16)
    assert F.softmax(model.label_logprobs(prompts(model), flat(*features(3)), answers(model)), 1).isfinite().all()


def test_random_7b_in_four_bits_is_close_to_what_it_was(small_random: None) -> None:
    """For measuring memory: the same weights, quantised where they are."""
    pytest.importorskip("bitsandbytes", reason="nf4 needs bitsandbytes (extra nf4, 125 MB)")
    full, packed = (
        build(None, WIDTHS, LORA, "bfloat16", profile="random", quantise=how).eval() for how in (None, "nf4")
    )
    assert packed.llm.model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.uint8
    assert base_parameters(packed) == base_parameters(full)
    assert flops_per_token(packed) == flops_per_token(full) == 4 * (4 * 64 * 64 + 3 * 64 * 128 + 3 * 64)
    batch = full.collate(prompts(full), answers(full), flat(*features(3)))
    want, n = full.loss(batch)
    got, _ = packed.loss(batch)
    got.backward()
    assert got.item() / n == pytest.approx(want.item() / n, rel=0.02)
