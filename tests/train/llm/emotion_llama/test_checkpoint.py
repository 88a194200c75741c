"""Checkpoints in and out: strict both ways, and whole or absent on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emo.featstore.errors import ModelError, TrainError, UsageError, WeightsMissing
from emo.train.llm.checkpoint import load_adapter, merge, save_adapter
from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.checkpoint import export_official, import_official
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.model import LoraArgs
from emo.train.llm.tokenizer import Tokenizer

WIDTHS = Widths(12, 9, (("face", 10), ("video", 7), ("audio", 5)))
LORA = LoraArgs(r=4, alpha=8)
ADAPTER = "llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A"


def fresh(seed: int = 0, widths: Widths = WIDTHS, lora: LoraArgs = LORA) -> EmotionLlama:
    return build(None, widths, lora, profile="tiny", seed=seed).eval()


@pytest.fixture
def model() -> EmotionLlama:
    """Everything that can be learned has values of its own."""
    model = fresh()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.trainable():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def values(model: EmotionLlama) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.trainable()}


def same(a: EmotionLlama, b: EmotionLlama) -> bool:
    left, right = values(a), values(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def logits(model: EmotionLlama) -> torch.Tensor:
    with torch.no_grad():
        return model.llm(input_ids=torch.arange(5, 25)[None]).logits


@pytest.fixture
def file(model: EmotionLlama, tmp_path: Path) -> Callable[..., Path]:
    """An official checkpoint, changed as a test needs it."""

    def make(change: Callable[[dict[str, Any]], Any] = lambda state: None, **beside: Any) -> Path:
        state = values(model)
        state = change(state) or state
        path = tmp_path / "checkpoint.pth"
        torch.save({"model": state, "epoch": 7, **beside}, path)
        return path

    return make


# ---- the official layout ---------------------------------------------------------------------------------------------


def test_official_round_trip_is_exact(model: EmotionLlama, tmp_path: Path) -> None:
    export_official(model, tmp_path / "out.pth", {"max_txt_len": 1024})
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(written) == {"model", "config", "epoch"}
    assert f"{ADAPTER}.weight" in written["model"], "names of peft 0.2, which the official code needs"
    assert {each.dtype for each in written["model"].values()} == {torch.float32}
    other = fresh(seed=9)
    report = import_official(tmp_path / "out.pth", other)
    assert same(model, other)
    assert (len(report.consumed), report.ignored, report.missing) == (8 + 10, {}, ())
    assert report.settings == {"max_txt_len": 1024, "lora_r": 4, "lora_alpha": 8}
    assert [each.name for each in tmp_path.iterdir()] == ["out.pth"]


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: f"module.{name}",
        lambda name: name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    ],
    ids=["module.", ".default"],
)
def test_spellings_of_names(model: EmotionLlama, file: Callable[..., Path], spell: Callable[[str], str]) -> None:
    path = file(lambda state: {spell(name): each for name, each in state.items()})
    other = fresh(seed=9)
    import_official(path, other)
    assert same(model, other)


def test_a_state_dict_at_the_top_and_a_safetensors_file(model: EmotionLlama, tmp_path: Path) -> None:
    torch.save(values(model), tmp_path / "bare.pth")
    save_file(values(model), tmp_path / "bare.safetensors")
    for name in ("bare.pth", "bare.safetensors"):
        other = fresh(seed=9)
        import_official(tmp_path / name, other)
        assert same(model, other)


def test_what_is_ignored_has_a_reason(model: EmotionLlama, file: Callable[..., Path]) -> None:
    extra = (
        "attention.fc_att.weight",
        "llama_model.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "visual_encoder.blocks.0.norm1.weight",
        "llama_model.base_model.model.lm_head.0.weight",
    )
    report = import_official(file(lambda state: state.update({name: torch.ones(2) for name in extra})), fresh())
    assert set(report.ignored) == set(extra)
    assert "never calls" in report.ignored[extra[0]]
    assert "comes from the store" in report.ignored[extra[2]] or "come from the store" in report.ignored[extra[2]]
    assert report.warnings == ()


@pytest.mark.parametrize(("weight", "bias", "warned"), [(1.0, 0.0, False), (1.5, 0.0, True), (1.0, 0.1, True)])
def test_an_ln_vision_of_its_own_is_warned_about(
    file: Callable[..., Path], weight: float, bias: float, warned: bool
) -> None:
    norm = {"ln_vision.weight": torch.full((12,), weight), "ln_vision.bias": torch.full((12,), bias)}
    report = import_official(file(lambda state: state.update(norm)), fresh())
    assert set(report.ignored) == set(norm)
    assert bool(report.warnings) == warned
    assert not warned or "extract them again" in report.warnings[0]


def drop(*names: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: [state.pop(name) for name in names] and None


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "beside", "says"),
    [
        (drop("llama_proj.bias"), {}, r"1 of 18 expected tensors missing \(llama_proj\.bias\)"),
        (drop(f"{ADAPTER}.weight"), {}, "expected tensors missing"),
        (put("llama_proj2.weight", torch.ones(1)), {}, r"1 unknown tensors \(llama_proj2\.weight\)"),
        (put("llama_model.base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight", torch.ones(1)), {},
         "1 unknown tensors"),
        (put("llama_proj.bias", torch.ones(65)), {}, r"llama_proj\.bias of shape \(65,\) instead of \(64,\)"),
        (put("llama_proj.bias", torch.full((64,), float("nan"))), {}, r"llama_proj\.bias is not finite"),
        (put(f"{ADAPTER}.default.weight", torch.ones(4, 64)), {}, "twice, under two spellings"),
        (put("unused", torch.ones(1)), {"config": {"model": {"lora_alpha": 16}}}, "lora_alpha 16 instead of 8"),
        (lambda state: {"model": 3}, {}, "no state dict"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    file: Callable[..., Path], change: Callable[..., Any], beside: dict[str, Any], says: str
) -> None:
    other = fresh(seed=9)
    before = values(other)
    with pytest.raises(ModelError, match=says):
        import_official(file(change, **beside), other, allow_new_projections=True)
    assert all(torch.equal(each, before[name]) for name, each in values(other).items())


def test_minigpt_v2_lacks_the_new_projections(model: EmotionLlama, file: Callable[..., Path]) -> None:
    new = [name for name in values(model) if name.startswith(("feats_llama_proj", "cls_tk"))]
    other = fresh(seed=9)
    before = values(other)
    with pytest.raises(ModelError, match=r"8 of 18 expected tensors missing.*allow them to be new"):
        import_official(file(drop(*new)), other)
    report = import_official(file(drop(*new)), other, allow_new_projections=True)
    assert list(report.missing) == new
    after = values(other)
    assert all(torch.equal(after[name], (before if name in new else values(model))[name]) for name in after)
    with pytest.raises(ModelError, match="7 of 18"):
        import_official(file(drop(*new[1:])), other, allow_new_projections=True)


class Runs:
    """Pickled code: creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_checkpoint_is_not_run(file: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"more than tensors.*runs no code"):
        import_official(file(args=Runs(tmp_path / "ran")), fresh())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pth"):
        import_official(tmp_path / "x.pth", fresh())
    with pytest.raises(WeightsMissing, match="no checkpoint at"):
        import_official(tmp_path / "y.pth", fresh())


# ---- adapter folders -------------------------------------------------------------------------------------------------


def test_adapter_round_trip(model: EmotionLlama, tmp_path: Path) -> None:
    save_adapter(model, tmp_path / "a" / "step-1", {"layout": "train_consistent"})
    names = {each.name for each in (tmp_path / "a" / "step-1").iterdir()}
    assert names == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "projections.safetensors",
        "manifest.json",
        "digests.json",
    }
    other = fresh()
    assert load_adapter(other, tmp_path / "a" / "step-1")["extra"] == {"layout": "train_consistent"}
    assert same(model, other)
    torch.testing.assert_close(logits(other), logits(model), rtol=0, atol=0)


def test_peft_reads_the_adapter(model: EmotionLlama, tmp_path: Path) -> None:
    from peft import PeftModel

    save_adapter(model, tmp_path / "a")
    theirs = PeftModel.from_pretrained(fresh().llama_model.unload(), tmp_path / "a")
    with torch.no_grad():
        got = theirs(input_ids=torch.arange(5, 25)[None]).logits
    torch.testing.assert_close(got, logits(model), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: fresh(widths=Widths(12, 9, (("face", 10),))), "widths"),
        (lambda: fresh(lora=LoraArgs(r=4, alpha=16)), "'alpha': 8.* instead of .*'alpha': 16"),
        (lambda: fresh(seed=3), "'drawn': 0"),
    ],
)
def test_an_adapter_for_another_model_is_refused(
    model: EmotionLlama, tmp_path: Path, other: Callable[[], EmotionLlama], says: str
) -> None:
    save_adapter(model, tmp_path / "a")
    with pytest.raises(ModelError, match=f"made for another model: .*{says}"):
        load_adapter(other(), tmp_path / "a")


def test_a_damaged_adapter_is_refused(model: EmotionLlama, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    save_adapter(model, folder)
    state = load_file(folder / "projections.safetensors")
    state["else"] = state.pop("llama_proj.bias")
    save_file(state, folder / "projections.safetensors")
    with pytest.raises(TrainError, match=r"projections\.safetensors is not what was written"):
        load_adapter(fresh(), folder)
    (folder / "digests.json").unlink()  # as in folders of earlier versions, where its form alone can tell
    with pytest.raises(ModelError, match=r"llama_proj\.bias is missing, else is unknown"):
        load_adapter(fresh(), folder)
    (folder / "projections.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"projections\.safetensors cannot be read"):
        load_adapter(fresh(), folder)
    (folder / "manifest.json").write_text('{"schema": 2}')
    with pytest.raises(ModelError, match="not of schema 1"):
        load_adapter(fresh(), folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(WeightsMissing, match=r"no manifest\.json"):
        load_adapter(fresh(), folder)


def test_a_folder_is_whole_or_absent(model: EmotionLlama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("emo.train.llm.checkpoint._save_manifest", stop)
        for write in (save_adapter, merge):
            with pytest.raises(KeyboardInterrupt):
                write(model, tmp_path / "a")
            assert list(tmp_path.iterdir()) == []
    save_adapter(model, tmp_path / "a")
    with pytest.raises(UsageError, match="holds a model already"):
        save_adapter(model, tmp_path / "a")
    (tmp_path / "mine").mkdir()
    save_adapter(model, tmp_path / "mine")  # a folder that the caller publishes
    other = fresh()
    load_adapter(other, tmp_path / "mine")
    assert same(model, other)


# ---- merged ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_model_answers_as_the_adapted_one(tied: bool, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    Tokenizer.bytes().save(tmp_path / "base")
    model = build(tmp_path / "base", WIDTHS, LORA).eval()
    with torch.no_grad():
        for _, parameter in model.trainable():
            parameter.normal_(0, 0.2)
    before = logits(model)
    plain = logits(build(tmp_path / "base", WIDTHS, LORA))
    merge(model, tmp_path / "merged", {"from": "a test"})
    assert torch.equal(logits(model), before), "the model itself stays as it is"
    assert (before - plain).abs().max() > 1e-3, "the adapters do something"
    torch.testing.assert_close(logits(build(tmp_path / "merged", WIDTHS, LORA)), before, rtol=0, atol=1e-5)
    projections = load_file(tmp_path / "merged" / "projections.safetensors")
    assert torch.equal(projections["llama_proj.weight"], model.llama_proj.weight)
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["extra"]) == ("merged", {"from": "a test"})
    with pytest.raises(ModelError, match="merged model, not an adapter"):
        load_adapter(model, tmp_path / "merged")
