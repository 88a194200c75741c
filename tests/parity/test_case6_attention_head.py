"""Case 6: MERBench's and MER2023's attention heads, their losses and their metrics, against the reference's outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import OFFICIAL_STREAMS, load_official
from safetensors.torch import load_file
from torch import Tensor

from emo.train.heads.attention import AttentionFusion, mer2023_attention, merbench_attention
from emo.train.heads.objective import head_loss
from emo.train.metrics.labels import combined_metric, read_labels, read_predictions, score, weighted_f1

GOLDEN_CASES = ["case6_attention_head"]
NOT_SCORED = -100  # what the reference writes for test3's valence error and combined metric


class Golden:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.io = load_file(folder / "io.safetensors")
        self.weights = load_file(folder / "weights.safetensors")
        self.tolerance: dict[str, float] = self.case["tolerance"]

    def streams(self, prefix: str = "") -> list[Tensor]:
        return [self.io[f"{prefix}{name}"] for name in OFFICIAL_STREAMS]

    def head(self, name: str) -> AttentionFusion:
        args = self.case["args"]
        dims = [stream.shape[-1] for stream in self.streams()]
        classes, valence = args["output_dim1"], bool(args["output_dim2"])
        if name == "mer2023":
            layers = [int(width) for width in self.case["mer2023_args"]["layers"].split(",")]
            net = mer2023_attention(dims, layers, args["dropout"], classes, valence)
        else:
            shapes = [(dim, name.endswith("frm")) for dim in dims]
            net = merbench_attention(shapes, args["hidden_dim"], args["dropout"], classes, valence)
        prefix = f"{name}."
        load_official(net, {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)})
        return net.eval()


@pytest.fixture
def golden(golden: Any) -> Golden:
    return Golden(golden.folder)


def close(got: Tensor | None, want: Tensor, tolerance: float) -> None:
    assert got is not None
    assert got.shape == want.shape
    assert (got - want).abs().max().item() <= tolerance


@pytest.mark.parametrize(("name", "inputs"), [("merbench_utt", ""), ("merbench_frm", "frm."), ("mer2023", "")])
def test_outputs(golden: Golden, name: str, inputs: str) -> None:
    with torch.no_grad():
        out = golden.head(name)(golden.streams(inputs))
    tolerance = golden.tolerance["logits"]
    close(out.features, golden.io[f"{name}.features"], tolerance)
    close(out.logits, golden.io[f"{name}.emos"], tolerance)
    if golden.case["args"]["output_dim2"]:
        close(out.valence, golden.io[f"{name}.vals"], tolerance)
    else:
        assert out.valence is None


def test_a_batch_of_one_keeps_its_batch_axis(golden: Golden) -> None:
    with torch.no_grad():
        out = golden.head("mer2023")([stream[:1] for stream in golden.streams()])
    close(out.logits, golden.io["mer2023.batch1_emos"].reshape(1, -1), golden.tolerance["logits"])


def test_sequences_read_one_by_one_are_the_same(golden: Golden) -> None:
    head = golden.head("merbench_frm")
    packed = [torch.nn.utils.rnn.pack_sequence(list(stream), enforce_sorted=False) for stream in golden.streams("frm.")]
    with torch.no_grad():
        close(head(packed).logits, golden.io["merbench_frm.emos"], golden.tolerance["logits"])


def test_a_head_without_valence_loads(golden: Golden) -> None:
    """The official one (`output_dim2=0`) then has an output layer of no rows."""
    golden.case["args"]["output_dim2"] = 0
    golden.weights |= {key: tensor[:0] for key, tensor in golden.weights.items() if ".fc_out_2." in key}
    with torch.no_grad():
        out = golden.head("merbench_utt")(golden.streams())
    close(out.logits, golden.io["merbench_utt.emos"], golden.tolerance["logits"])
    assert out.valence is None


def test_losses(golden: Golden) -> None:
    io = golden.io
    with torch.no_grad():
        out = golden.head("mer2023")(golden.streams())
    emotion, ce = io["loss.labels"], io["loss.ce"].item()
    absent = torch.full(emotion.shape, torch.nan)
    tolerance = golden.tolerance["loss"]
    assert head_loss(out, emotion, absent).item() == pytest.approx(ce, abs=tolerance)
    if out.valence is not None:
        both = ce + io["loss.mse"].item()
        assert head_loss(out, emotion, io["loss.vals"]).item() == pytest.approx(both, abs=2 * tolerance)


def test_metrics(golden: Golden) -> None:
    tolerance = golden.tolerance["metrics"]
    cases = json.loads((golden.folder / "metrics.json").read_text())
    assert cases
    for each in cases:
        truth, answer = np.array(each["emo_labels"]), np.array(each["emo_preds"])
        f1 = weighted_f1(truth, answer, len(golden.case["emo_index"]))
        mse = float(np.mean((np.array(each["val_labels"]) - np.array(each["val_preds"])) ** 2))
        assert f1 == pytest.approx(each["weighted_f1"], abs=tolerance)
        assert float((truth == answer).mean()) == pytest.approx(each["accuracy"], abs=tolerance)
        assert combined_metric(f1, each["val_mse"]) == pytest.approx(each["overall"], abs=tolerance)
        assert mse == pytest.approx(each["val_mse"], abs=tolerance)


@pytest.mark.parametrize(
    ("report", "labels"), [("report_test1_test2", "label.csv"), ("report_test3", "label_test3.csv")]
)
def test_mer2023_report(golden: Golden, report: str, labels: str) -> None:
    if report not in golden.case:
        pytest.skip(f"{golden.folder.name} has no {report}")
    truth = read_labels(golden.folder / labels)
    predictions = read_predictions(golden.folder / "pred.csv")
    result = score(truth, predictions, "official", golden.case["emo_index"])
    got = [result.f1_weighted, result.mse, result.combined]
    want = [None if value == NOT_SCORED else value for value in golden.case[report]]
    for value, expected in zip(got, want, strict=True):
        assert value == (None if expected is None else pytest.approx(expected, abs=golden.tolerance["metrics"]))
    assert result.n == len(truth)
    assert result.extra == len(predictions) - len(truth)
