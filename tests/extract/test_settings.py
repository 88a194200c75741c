"""Settings beside weights: stated, refused, or said; never taken in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emo.extract.encoders.registry import load_encoder
from emo.extract.encoders.settings import check_names, unlike
from emo.featstore.errors import ModelError

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SOUND = {"do_normalize": True, "sampling_rate": 16_000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small HuBERT as transformers writes it."""
    from transformers import HubertConfig, HubertModel

    frames = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    large = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    HubertModel(HubertConfig(**SIZES, **frames, **large)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SOUND))
    return tmp_path


def opened(folder: Path) -> Any:
    return load_encoder("HL-UTT", "tiny", weights=str(folder))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_folder_without_its_settings_is_refused(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(ModelError, match=f"holds no {name}.*Fetch the model's whole folder"):
        opened(folder)
    (folder / name).mkdir()
    with pytest.raises(ModelError, match=f"holds no {name}"):
        opened(folder)


def test_a_slip_in_a_name_is_refused(folder: Path) -> None:
    stated = json.loads((folder / "config.json").read_text())
    stated["num_attention_headz"] = stated.pop("num_attention_heads")
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(
        ModelError, match="states 'num_attention_headz', which nobody knows, and no 'num_attention_head"
    ):
        opened(folder)
    for name in ("architectures", "gradient_checkpointing", "feature_extractor_type"):  # what real files have besides
        check_names({**SOUND, name: 1}, SOUND, "x")


@pytest.mark.parametrize("value", ["false", 1, None, [True]])
def test_a_value_of_another_kind_is_refused(folder: Path, value: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(SOUND | {"do_normalize": value}))
    with pytest.raises(ModelError, match="states do_normalize"):
        opened(folder)


def test_what_is_not_stated_or_not_as_published_is_said(folder: Path) -> None:
    sizes = "hidden_size 32 (1024), num_hidden_layers 2 (24)"
    assert [note for note in opened(folder).notes if sizes in note]
    assert not [note for note in opened(folder).notes if "do_normalize" in note]
    (folder / "preprocessor_config.json").write_text(json.dumps(SOUND | {"do_normalize": False}))
    assert opened(folder).notes[-1].endswith("is not as published (in brackets): do_normalize False (True).")
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    assert opened(folder).notes[-1].endswith("does not state everything; taken as published: do_normalize True.")
    (folder / "preprocessor_config.json").write_text(json.dumps(SOUND | {"sampling_rate": 8000}))
    with pytest.raises(ModelError, match="for sound at 8000 Hz"):
        opened(folder)


def test_what_only_training_needs_is_not_said() -> None:
    published = {"layerdrop": 0.1, "attention_dropout": 0.0, "pad_token_id": 0, "hidden_act": "gelu"}
    assert unlike("x", published | {"layerdrop": 0.5, "attention_dropout": 1}, published) == []
    assert "pad_token_id 1 (0)" in unlike("x", published | {"pad_token_id": 1}, published)[0]


def test_a_size_by_name_is_the_same_size() -> None:
    assert unlike("x", {"size": {"height": 384, "width": 384}}, {"size": 384}) == []
    assert unlike("x", {"size": {"height": 384, "width": 224}}, {"size": 384})
