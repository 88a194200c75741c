"""Official checkpoints become runs that can be asked, and runs become files that the official loader reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emo.featstore.errors import FeatureMissing, ModelError, UsageError, WeightsMissing
from emo.train.llm.answer import TunedAnswerer, load_tuned
from emo.train.llm.checkpoint import load_adapter
from emo.train.llm.emotion_llama.checkpoint import import_official
from emo.train.llm.exchange import export_run, import_page, import_run
from emo.train.llm.tune import tune
from emo.train.runs import Run, load_run


def predict_run(store: Any, run: Any, clips: Any, policy: str = "official", device: str = "auto", **how: Any) -> Any:
    """Answers of a run that is opened for this one question."""
    return TunedAnswerer(load_run(run) if isinstance(run, Path) else run, device).answer(store, clips, policy, **how)


Make = Callable[..., Any]
SHORT = ("validation.holdout=0", "steps_per_epoch=2")


@pytest.fixture
def tuned(corpus: Make, recipe: Make, tmp_path: Path) -> tuple[Any, Run]:
    made = corpus(n=8)
    return made, tune(made.store, made.clips, recipe(*SHORT), tmp_path / "runs" / "first", "cpu").run


@pytest.fixture
def official(tuned: tuple[Any, Run], tmp_path: Path) -> Path:
    """A checkpoint in the official layout, with what real ones hold beside it."""
    made, run = tuned
    export_run(made.store, run, tmp_path / "official.pth", "official")
    content = torch.load(tmp_path / "official.pth", weights_only=True)
    content["model"]["attention.fc_att.weight"] = torch.zeros(7, 128)
    torch.save(content, tmp_path / "official.pth")
    return tmp_path / "official.pth"


def test_an_official_checkpoint_answers_in_the_official_layout(
    tuned: tuple[Any, Run], official: Path, recipe: Make, tmp_path: Path
) -> None:
    made, run = tuned
    chosen = recipe("layout=official_eval")
    imported = import_run(made.store, official, chosen, tmp_path / "runs" / "imported", "cpu")
    assert load_run(imported.path).info == imported.info
    assert (imported.finished, imported.info["layout"]) == (True, "official_eval")
    assert "Prompt layout: official_eval." in imported.info["notes"]
    assert "trained elsewhere" in " ".join(imported.info["notes"])
    theirs = predict_run(made.store, imported, made.clips, "likelihood", "cpu")
    ours = predict_run(made.store, run, made.clips, "likelihood", "cpu", layout="official_eval")
    assert theirs == ours
    assert theirs != predict_run(made.store, run, made.clips, "likelihood", "cpu")  # layouts are told apart
    page = import_page(imported)
    assert any("ignored: 1 (attention.fc_att.weight" in str(part) for part in page.parts)
    assert any("consumed: 18 tensors" in str(part) for part in page.parts)


def test_what_does_not_fit_is_refused_by_name(
    tuned: tuple[Any, Run], official: Path, recipe: Make, tmp_path: Path
) -> None:
    made, _ = tuned
    folder = tmp_path / "runs" / "x"
    with pytest.raises(ModelError, match=r"lora_A\.weight"):
        import_run(made.store, official, recipe("lora.r=8"), folder, "cpu")
    with pytest.raises(ModelError, match=r"lora_alpha 16 instead of 4"):
        import_run(made.store, official, recipe("lora.alpha=4"), folder, "cpu")
    with pytest.raises(WeightsMissing, match="no checkpoint"):
        import_run(made.store, tmp_path / "nowhere.pth", recipe(), folder, "cpu")
    with pytest.raises(FeatureMissing):
        import_run(made.store, official, recipe("features.streams=[eva_g_999]"), folder, "cpu")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ModelError, match=r"text.pth is no checkpoint"):
        import_run(made.store, tmp_path / "text.pth", recipe(), folder, "cpu")
    assert not folder.exists()


def test_settings_of_the_checkpoint_that_differ_are_told(
    tuned: tuple[Any, Run], official: Path, recipe: Make, tmp_path: Path
) -> None:
    made, _ = tuned
    run = import_run(made.store, official, recipe("max_txt_len=99"), tmp_path / "runs" / "x", "cpu")
    assert "The checkpoint was trained with max_txt_len 64, the recipe has max_txt_len 99." in run.info["notes"]
    assert run.info["imported"]["settings"]["lora_r"] == 4


def test_streams_in_another_order_than_the_published_one_are_told(
    tuned: tuple[Any, Run], official: Path, recipe: Make, tmp_path: Path
) -> None:
    (made, run), streams = tuned, recipe().features.streams
    assert not [each for each in run.info["notes"] if "order" in each]
    turned = recipe(f"features.streams=[{', '.join(reversed(streams))}]")
    notes = import_run(made.store, official, turned, tmp_path / "runs" / "x", "cpu").info["notes"]
    (told,) = [each for each in notes if "order" in each]
    assert told.endswith(f"the recipe has features.streams {', '.join(reversed(streams))}.")


def test_a_checkpoint_that_was_trained_with_nothing_around_the_instruction_says_so(
    tuned: tuple[Any, Run], recipe: Make, tmp_path: Path
) -> None:
    made, run = tuned
    export_run(made.store, run, tmp_path / "a.pth", "official")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    settings = content["config"]["model"]
    assert (settings["chat_template"], settings["prompt_template"]) == (True, "[INST] {} [/INST]")
    content["config"]["model"] = settings | {"chat_template": False}
    torch.save(content, tmp_path / "bare.pth")
    told = (
        "The checkpoint was trained with chat_template False, which is template '{}' here, the recipe has template "
        "'[INST] {} [/INST]'."
    )
    notes = import_run(made.store, tmp_path / "bare.pth", recipe(), tmp_path / "runs" / "y", "cpu").info["notes"]
    assert told in notes
    bare = recipe("template='{}'")
    notes = import_run(made.store, tmp_path / "bare.pth", bare, tmp_path / "runs" / "z", "cpu").info["notes"]
    assert not [each for each in notes if "template" in each]
    export_run(made.store, load_run(tmp_path / "runs" / "z"), tmp_path / "b.pth", "official")
    assert torch.load(tmp_path / "b.pth", weights_only=True)["config"]["model"]["chat_template"] is False


def test_every_form_of_export_can_be_read_again(tuned: tuple[Any, Run], tmp_path: Path) -> None:
    made, run = tuned
    model, _, _ = load_tuned(made.store, run, (), "cpu")
    expected = dict(model.trainable())

    page = export_run(made.store, run, tmp_path / "a.pth", "official")
    assert page.value["size_bytes"] == (tmp_path / "a.pth").stat().st_size
    with torch.no_grad():
        for parameter in expected.values():
            parameter.fill_(0)
    import_official(tmp_path / "a.pth", model)
    again, _, _ = load_tuned(made.store, run, (), "cpu")
    for name, parameter in again.trainable():
        assert torch.equal(parameter, expected[name]), name

    export_run(made.store, run, tmp_path / "adapter", "adapter")
    learned = {name: parameter.detach().clone() for name, parameter in again.trainable()}
    with torch.no_grad():
        for _, parameter in again.trainable():
            parameter.fill_(0)
    load_adapter(again, tmp_path / "adapter")
    assert all(torch.equal(parameter, learned[name]) for name, parameter in again.trainable())
    assert json.loads((tmp_path / "adapter" / "manifest.json").read_text())["extra"]["run"] == "first"

    export_run(made.store, run, tmp_path / "merged", "merged")
    assert {"config.json", "manifest.json", "projections.safetensors"} <= {
        path.name for path in (tmp_path / "merged").iterdir()
    }


def test_an_export_overwrites_nothing(tuned: tuple[Any, Run], tmp_path: Path) -> None:
    made, run = tuned
    (tmp_path / "taken").write_text("something of value")
    with pytest.raises(UsageError, match="taken exists already"):
        export_run(made.store, run, tmp_path / "taken", "official")
    with pytest.raises(UsageError, match="no form 'onnx'") as caught:
        export_run(made.store, run, tmp_path / "b", "onnx")
    assert "a .pth file" in caught.value.hint
