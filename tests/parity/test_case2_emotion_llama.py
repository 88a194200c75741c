"""Emotion-LLaMA as a whole against the reference: prompts, conditioning, losses, gradients, answers, checkpoint.

The image tokens come from emo's own EVA, as they would from a store, so this also shows that the cached path is the
whole model.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import loss_reference
from safetensors.torch import load_file, save_file
from torch import Tensor

from emo.extract.encoders.eva import PAPER, Eva
from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.checkpoint import export_official, import_official
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.emotion_llama.prompt import Prompt, answer_text, build_prompt, encode_answer
from emo.train.llm.model import Batch, LoraArgs
from emo.train.llm.tokenizer import Tokenizer
from emo.train.metrics.labels import parse_official

GOLDEN_CASES = ["case2_emotion_llama"]

BASE = "llama_model.base_model.model."


@pytest.fixture
def tokenizer(shared: Path) -> Tokenizer:
    return Tokenizer.from_file(shared / "data" / "llama2_tokenizer" / "tokenizer.model")


@pytest.fixture
def eva(golden) -> Eva:
    c = golden.info["config"]["eva"]
    config = replace(
        PAPER,
        img=c["img"],
        patch=c["patch"],
        dim=c["width"],
        depth=c["depth"],
        heads=c["heads"],
        mlp=int(c["width"] * c["mlp_ratio"]),
        eps=c["eps"],
    )
    return Eva(profile="tiny", config=config, weights=golden.weights)


@pytest.fixture
def tokens(golden, eva) -> Tensor:
    """Image tokens as the extractor makes them: EVA and ln_vision."""
    with eva.computing() as encoder:
        made = encoder.tokens(torch.from_numpy(golden.io["image"]))
    return made.clone()  # as if read from a store: no longer an inference tensor


@pytest.fixture
def streams(golden) -> list[Tensor]:
    return list(torch.from_numpy(golden.io["video_features"]).unbind(1))


@pytest.fixture
def make(golden, tokenizer, shared, tmp_path, tokens, streams):
    """Make the model as a user would: a LLaMA folder, then the official checkpoint on top of it."""
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(golden.info["config"]["llama"]))
    state = {
        name.removeprefix(BASE).replace("lm_head.0.", "lm_head."): tensor
        for name, tensor in load_file(golden.weights).items()
        if name.startswith(BASE) and ".lora_" not in name and not name.endswith("inv_freq")
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(shared / "data" / "llama2_tokenizer" / "tokenizer.model", folder)
    names = tuple((f"stream{i}", each.shape[1]) for i, each in enumerate(streams, 1))
    lora = golden.info["config"]["lora"]

    def one(checkpoint: bool = True) -> EmotionLlama:
        widths = Widths(tokens.shape[2], tokens.shape[1], names)
        args = LoraArgs(lora["r"], lora["alpha"], lora["dropout"], tuple(lora["targets"]))
        model = build(str(folder), widths, args)
        if checkpoint:
            import_official(golden.folder / "official_style_checkpoint.pth", model)
        return model.eval()

    return one


@pytest.fixture
def model(make) -> EmotionLlama:
    return make()


@pytest.fixture
def prompts(golden, tokenizer) -> list[Prompt]:
    c = golden.info["config"]
    return [
        build_prompt("train_consistent", text, tokenizer, c["chat_template"], c["prompt_template"])
        for text in golden.info["instruction_input"]
    ]


@pytest.fixture
def answers(golden, tokenizer) -> list[list[int]]:
    c = golden.info["config"]
    return [encode_answer(text, tokenizer, c["max_txt_len"], c["end_sym"]) for text in golden.info["answers"]]


def official_batch(model: EmotionLlama, prompts, answers, tokens, streams, **options: Any) -> Batch:
    """As wide as the official code pads it: the longest prompt and the longest answer together."""
    limit = options.get("max_context_len", 10**9)
    width = max(model.length(p, (), limit) for p in prompts) + max(map(len, answers))
    return model.collate(prompts, answers, [tokens, *streams], width=width, **options)


def asked(golden, case: dict[str, Any], tokenizer) -> list[Prompt]:
    """Prompts of a generation case: its texts are the whole official turn."""
    head, tail = "<s>[INST] ", " [/INST]"
    return [build_prompt("official_eval", text[len(head) : -len(tail)], tokenizer) for text in case["texts"]]


def named(golden) -> list[tuple[str, dict[str, Any]]]:
    """Generation cases with the names of their tensors: several samples are the batch, one is `gen_single<i>`."""
    cases = golden.info["generate"]
    return [("gen_batch" if len(c["idx"]) > 1 else f"gen_single{c['idx'][0]}", c) for c in cases]


def expected_ids(row: np.ndarray, end: int) -> list[int]:
    """New ids of a row of `out_ids`: without the leading placeholder, up to the end id."""
    ids = row[1:].tolist()
    return ids[: ids.index(end) + 1] if end in ids else ids


# ---- text ------------------------------------------------------------------------------------------------------------


def test_every_segment_of_the_training_layout(golden, prompts, answers):
    for got, want in zip(prompts, golden.info["train_segments"], strict=True):
        bos, *ids = [list(each) for each in got.segments if not isinstance(each, str)]
        assert bos == [golden.info["tokenizer"]["bos"]]
        assert ids == [want["seg0_ids"], want["seg1_ids"], want["seg2_ids"]]
        assert [each for each in got.segments if isinstance(each, str)] == ["patches", "features"]
    assert answers == golden.info["answer_ids"]


def test_every_segment_of_the_evaluation_layout(golden, tokenizer):
    for _, case in named(golden):
        for got, want in zip(asked(golden, case, tokenizer), case["seg_ids"], strict=True):
            assert [each if isinstance(each, str) else list(each) for each in got.segments] == [want[0], "all", want[1]]


def test_named_ids_of_the_tokenizer(golden, tokenizer):
    want = golden.info["tokenizer"]
    got = (tokenizer.bos, tokenizer.eos, tokenizer.unk, tokenizer.pad, tokenizer.vocab_size)
    assert got == (want["bos"], want["eos"], want["unk"], want["pad_token_id"], want["len"])


def test_answers_are_read_as_the_reference_reads_them(golden, tokenizer):
    labels = ("neutral", "angry", "happy", "sad", "worried", "surprise")
    for case in golden.info["post_processing"]:
        text = answer_text(case["ids"], tokenizer)
        assert text == case["generate_answer"]
        assert text.split(" ")[-1] == case["last_word"]
        assert (parse_official(text, labels) or "neutral") == case["final"]


# ---- forward ---------------------------------------------------------------------------------------------------------


def test_cached_tokens_are_the_reference_s(golden, eva, tokens):
    tolerance = golden.info["tolerance"]
    golden.close(tokens, "ln_vision", tolerance["embeddings"])
    with eva.computing() as encoder:
        golden.close(encoder(torch.from_numpy(golden.io["image"])), "vit_tokens", tolerance["embeddings"])
        golden.close(encoder.ln_vision(torch.from_numpy(golden.io["vit_tokens"])), "ln_vision", tolerance["ln_vision"])


@torch.no_grad()
def test_conditioning(golden, model, tokens, streams, prompts, answers):
    bound = golden.info["tolerance"]["embeddings"]
    condition = model.condition([tokens, *streams])
    golden.close(condition, "img_embeds", bound)
    golden.close(np.ones(condition.shape[:2]), "img_atts", 0)
    bare = model.collate(prompts, None, [tokens, *streams])
    golden.close(model.embed(bare)[:, 1:], "cond_embeds", bound)  # the reference counts BOS apart
    golden.close(bare.mask[:, 1:].long(), "cond_atts", 0)
    golden.close(bare.mask.sum(1) - 1, "input_lens", 0)
    batch = official_batch(model, prompts, answers, tokens, streams)
    golden.close(model.embed(batch), "inputs_embeds", bound)
    golden.close(batch.mask.long(), "attention_mask", 0)
    golden.close(batch.labels, "labels", 0)


@torch.no_grad()
def test_answer_block(golden, model, answers):
    block = model.collate([Prompt("train_consistent", (tuple(ids),)) for ids in answers], None, ())
    golden.close(model.embed(block), "regress_embeds", golden.info["tolerance"]["embeddings"])
    golden.close(block.mask.long(), "regress_atts", 0)
    golden.close(block.ids.masked_fill(~block.mask, -100), "part_targets", 0)


@torch.no_grad()
def test_prompts_of_text_alone(golden, model, tokenizer):
    texts = [Prompt("train_consistent", (tuple(tokenizer.encode(t)),)) for t in golden.info["prompt_only_texts"]]
    batch = model.collate(texts, None, ())
    golden.close(model.embed(batch), "prompt_only.embeds", golden.info["tolerance"]["embeddings"])
    golden.close(batch.mask.long(), "prompt_only.atts", 0)


@torch.no_grad()
def test_hidden_states_and_logits(golden, model, tokens, streams, prompts, answers):
    batch = official_batch(model, prompts, answers, tokens, streams)
    out = model.llm(
        inputs_embeds=model.embed(batch), attention_mask=batch.mask.long(), output_hidden_states=True, use_cache=False
    )
    real = batch.mask.numpy()

    def compare(got: Tensor, name: str, kind: str) -> None:
        # Rows of padding depend on how a library masks them; nobody reads them.
        golden.close(got.numpy()[real], name, golden.info["tolerance"][kind], golden.io[name][real])

    layers = [name for name in golden.io if name.startswith("hidden_")]
    for name in layers:
        compare(out.hidden_states[int(name.removeprefix("hidden_"))], name, "hidden_states")
    assert layers
    compare(out.hidden_states[-1], "last_hidden", "hidden_states")
    compare(out.logits[..., : golden.io["logits_first256"].shape[2]], "logits_first256", "logits")
    compare(out.logits.logsumexp(-1), "logits_logsumexp", "logits")
    compare(out.logits.argmax(-1), "logits_argmax", "logits")
    labels = batch.labels[:, 1:]
    at_label = out.logits[:, :-1].gather(2, labels.clamp(min=0)[..., None])[..., 0] * (labels >= 0)
    golden.close(at_label, "logits_at_next_label", golden.info["tolerance"]["logits"])


@torch.no_grad()
def test_loss(golden, model, tokens, streams, prompts, answers):
    bound = golden.info["tolerance"]["loss"]
    batch = model.collate(prompts, answers, [tokens, *streams])
    total, supervised = model.loss(batch)
    assert supervised == int((golden.io["labels"] >= 0).sum())
    golden.close((total / supervised)[None], "loss", bound)
    wide = official_batch(model, prompts, answers, tokens, streams)
    golden.close(loss_reference(model, wide)[None], "loss", bound)
    golden.close(loss_reference(model, wide, "none"), "loss_none", bound)
    alone = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        part = [each[i : i + 1] for each in streams]
        total, supervised = model.loss(model.collate([prompt], [answer], [tokens[i : i + 1], *part]))
        alone.append(total / supervised)
    golden.close(torch.stack(alone), "loss_bs1", bound)


@torch.no_grad()
def test_truncated_answers(golden, model, tokenizer, tokens, streams, prompts):
    keys = [key for key in golden.info if key.startswith("trunc") and key.endswith("_max_txt_len")]
    for key in keys:
        name = key.removesuffix("_max_txt_len")
        texts, end = golden.info["answers"], golden.info["config"]["end_sym"]
        cut = [encode_answer(text, tokenizer, golden.info[key], end) for text in texts]
        want = golden.io[f"{name}.part_targets"]
        assert cut == [[each for each in row.tolist() if each != -100] for row in want]
        total, supervised = model.loss(model.collate(prompts, cut, [tokens, *streams]))
        golden.close((total / supervised)[None], f"{name}.loss", golden.info["tolerance"]["loss"])
    if not keys:
        pytest.skip(f"{golden.folder.name} truncates no answers")


@torch.no_grad()
def test_context_limit(golden, model, tokens, streams, prompts, answers):
    keys = [key for key in golden.info if key.startswith("ctx") and key.endswith("_max_context_len")]
    for key in keys:
        name, limit = key.removesuffix("_max_context_len"), golden.info[key]
        bare = model.collate(prompts, None, [tokens, *streams], max_context_len=limit)
        golden.close(model.embed(bare)[:, 1:], f"{name}.cond_embeds", golden.info["tolerance"]["embeddings"])
        golden.close(bare.mask[:, 1:].long(), f"{name}.cond_atts", 0)
        total, supervised = model.loss(model.collate(prompts, answers, [tokens, *streams], max_context_len=limit))
        golden.close((total / supervised)[None], f"{name}.loss", golden.info["tolerance"]["loss"])
    if not keys:
        pytest.skip(f"{golden.folder.name} limits no context")


def test_gradients(golden, model, tokens, streams, prompts, answers):
    total, supervised = model.loss(model.collate(prompts, answers, [tokens, *streams]))
    (total / supervised).backward()
    got = {name: parameter.grad for name, parameter in model.trainable()}
    dead = set(golden.info["trainable_without_grad"])
    assert set(got) == set(golden.info["trainable"]) - dead
    for name, grad in got.items():
        want = golden.io[f"grad.{name}"]
        golden.close(grad, f"grad.{name}", golden.info["tolerance"]["grads_rel"] * float(np.abs(want).max()))
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_greedy_ids_batched_and_single(golden, model, tokenizer, tokens, streams):
    for name, case in named(golden):
        index = case["idx"]
        prompts = asked(golden, case, tokenizer)
        batch = model.collate(prompts, None, [tokens[index], *(each[index] for each in streams)], left=True)
        with torch.no_grad():
            rows = model.embed(batch).masked_fill(~batch.mask[..., None], 0)
        golden.close(rows, f"{name}.inputs_embeds", golden.info["tolerance"]["embeddings"])
        golden.close(batch.mask.long(), f"{name}.attention_mask", 0)
        got = model.generate(prompts, [tokens[index], *(each[index] for each in streams)], case["max_new_tokens"])
        assert got == [expected_ids(row, tokenizer.eos) for row in golden.io[f"{name}.out_ids"]]
        assert [answer_text(ids, tokenizer) for ids in got] == case["answers"]


def test_scores_of_every_step(golden, model, tokenizer, tokens, streams):
    """Beyond the winning ids: the scores themselves, read off a whole forward pass over prompt and answer."""
    names = [(name, case) for name, case in named(golden) if f"{name}.score_max" in golden.io]
    for name, case in names:
        index, want = case["idx"], golden.io[f"{name}.score_argmax"]
        batch = model.collate(
            asked(golden, case, tokenizer), want.tolist(), [each[index] for each in (tokens, *streams)]
        )
        with torch.no_grad():
            hidden = model.llm.model(inputs_embeds=model.embed(batch), use_cache=False).last_hidden_state
            starts = batch.mask.sum(1) - want.shape[1] - 1
            at = starts[:, None] + torch.arange(want.shape[1])
            logits = model.llm.lm_head(hidden[torch.arange(len(index))[:, None], at])
        bound = golden.info["tolerance"]["logits"]
        golden.close(logits.argmax(-1), f"{name}.score_argmax", 0)
        golden.close(logits.amax(-1), f"{name}.score_max", bound)
        golden.close(logits.logsumexp(-1), f"{name}.scores_logsumexp", bound)
        golden.close(logits[..., : golden.io[f"{name}.scores_first256"].shape[2]], f"{name}.scores_first256", bound)
        top = logits.topk(2).values
        golden.close(top[..., 0] - top[..., 1], f"{name}.top2_margin", 2 * bound)
    if not names:
        pytest.skip(f"{golden.folder.name} holds no scores")


def test_early_stop(golden, model, tokenizer, tokens, streams):
    case = dict(named(golden))["gen_batch"]
    with torch.no_grad():
        model.llm.lm_head.weight[tokenizer.eos] = torch.from_numpy(golden.io["gen_stop.lm_head_row2"])
    index = case["idx"]
    parts = [each[index] for each in streams]
    got = model.generate(asked(golden, case, tokenizer), [tokens[index], *parts], case["max_new_tokens"])
    assert got == [expected_ids(row, tokenizer.eos) for row in golden.io["gen_stop.out_ids"]]
    assert [answer_text(ids, tokenizer) for ids in got] == golden.info["stop_case"]["answers"]


# ---- checkpoint ------------------------------------------------------------------------------------------------------


def test_the_official_checkpoint_is_consumed_whole(golden, make, tokens, streams, prompts, answers, tmp_path):
    model = make(checkpoint=False)
    report = import_official(golden.folder / "official_style_checkpoint.pth", model)
    dead = set(golden.info["trainable_without_grad"])
    assert set(report.consumed) == set(golden.info["trainable"]) - dead
    assert dead <= set(report.ignored)
    assert not report.missing
    weights = load_file(golden.weights)
    for name, parameter in model.trainable():
        assert torch.equal(parameter, weights[name]), name
    with torch.no_grad():
        total, supervised = model.eval().loss(model.collate(prompts, answers, [tokens, *streams]))
    golden.close((total / supervised)[None], "loss", golden.info["tolerance"]["loss"])

    export_official(model, tmp_path / "again.pth")
    again = make(checkpoint=False)
    import_official(tmp_path / "again.pth", again)
    for (name, a), (_, b) in zip(model.trainable(), again.trainable(), strict=True):
        assert torch.equal(a, b), name


def test_label_logprobs_equal_one_forward_per_answer(golden, model, tokenizer, tokens, streams, prompts):
    words = ["happy", "sad", "neutral", "angry", "worried", "surprise", "contempt"]
    ids = [encode_answer(word, tokenizer) for word in words]
    assert len({len(each) for each in ids}) > 1
    got = model.label_logprobs(prompts, [tokens, *streams], ids)
    for i, prompt in enumerate(prompts):
        for j, answer in enumerate(ids):
            batch = model.collate([prompt], [answer], [each[i : i + 1] for each in (tokens, *streams)])
            with torch.no_grad():
                total, _ = model.loss(batch)
            assert got[i, j].item() == pytest.approx(-total.item(), abs=golden.info["tolerance"]["logits"])
    assert F.softmax(got, 1).shape == (len(prompts), len(words))
