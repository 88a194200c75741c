"""One contract for every head, and the constants that the golden case cannot see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference import load_official
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from emo.featstore.errors import ModelError, UsageError
from emo.train.features import Stream
from emo.train.heads.attention import mer2023_attention, merbench_attention
from emo.train.heads.base import Targets
from emo.train.heads.objective import Fused, head_loss
from emo.train.recipe import HEADS, head_class
from emo.train.testing import CLASSES, HEAD_CHECKS
from emo.train.testing import build_head as build
from emo.train.testing import sample_streams as make_streams
from emo.train.testing import train_head as train


@pytest.mark.parametrize("check", HEAD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", HEADS)
def test_every_head_keeps_the_contract(name: str, check: Callable[[str], None]) -> None:
    check(name)


def test_the_number_of_cpu_threads_changes_no_bit() -> None:
    streams, targets = make_streams()
    before, states = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # the gradient of a (128, 6) layer is one that several threads would add up in another order
            head = build("attention", streams, hidden=128, classes=6)
            train(head, streams, targets, np.arange(40))
            states.append(head.state())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_logistic_regression_fits_on_one_blas_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On data of this size more threads only wait for each other; outside the fit they are as they were."""
    streams, targets = make_streams()
    seen: list[int] = []
    real = LogisticRegression.fit

    def fit(*args: Any) -> Any:
        seen.append(blas_threads())
        return real(*args)

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    states = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            head = build("logistic", streams)
            train(head, streams, targets, np.arange(40))
            states.append(head.state())
            assert blas_threads() == threads
    assert seen == [1, 1]
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def blas_threads() -> int:
    return max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")


def test_a_sequence_is_read_without_padding() -> None:
    streams, targets = make_streams(sequence=True)
    head = build("attention", streams)
    train(head, streams, targets, np.arange(40))
    data = head.prepare(streams, "cpu")
    alone = np.concatenate([head.predict(data, np.array([i])).logits for i in range(8)])
    assert np.abs(alone - head.predict(data, np.arange(8)).logits).max() < 1e-5


def test_valence_is_learned_from_the_clips_that_have_one() -> None:
    streams, targets = make_streams()
    some = Targets(targets.emotion, np.where(np.arange(60) % 3 == 0, np.nan, targets.valence))
    head = build("attention", streams, epochs=60)
    train(head, streams, some, np.arange(40))
    valence = head.predict(head.prepare(streams, "cpu"), np.arange(60)).valence
    assert valence is not None
    assert np.corrcoef(valence, targets.valence)[0, 1] > 0.8


def test_a_row_without_valence_adds_nothing_to_the_loss() -> None:
    logits, emotion = torch.randn(4, CLASSES), torch.tensor([0, 1, 2, 0])
    said, truth = torch.tensor([[1.0], [2.0], [3.0], [9.0]]), torch.tensor([0.0, float("nan"), 1.0, float("nan")])
    cross_entropy = nn.functional.cross_entropy(logits, emotion).item()
    both = head_loss(Fused(logits, logits, said), emotion, truth).item()
    assert both == pytest.approx(cross_entropy + (1.0 + 4.0) / 2, rel=1e-6)
    none = torch.full((4,), torch.nan)
    assert head_loss(Fused(logits, logits, said), emotion, none).item() == pytest.approx(cross_entropy, rel=1e-6)
    assert head_loss(Fused(logits, logits, None), emotion, truth).item() == pytest.approx(cross_entropy, rel=1e-6)


def test_a_row_that_is_not_real_adds_nothing_to_the_loss() -> None:
    logits, emotion, truth = torch.randn(3, CLASSES), torch.tensor([0, 1, 2]), torch.tensor([0.0, torch.nan, 5.0])
    said = torch.tensor([[1.0], [2.0], [3.0]])
    real = torch.tensor([True, True, False])
    short = head_loss(Fused(logits[:2], logits[:2], said[:2]), emotion[:2], truth[:2])
    assert head_loss(Fused(logits, logits, said), emotion, truth, real).item() == pytest.approx(short.item(), rel=1e-6)


def test_dropout_is_on_the_input_in_merbench_and_after_each_layer_in_mer2023() -> None:
    net = merbench_attention([(4, False), (3, True)], 8, 0.4, CLASSES, True)
    assert [(name, m.p) for name, m in net.named_modules() if isinstance(m, nn.Dropout)] == [
        ("encoders.0.drop", 0.4),
        ("encoders.1.drop", 0.4),
        ("attention_mlp.drop", 0.4),
    ]
    x = torch.ones(1, 4)
    net.encoders[0].linear_1 = nn.Identity()  # what reaches the first linear layer has been dropped or scaled
    net.encoders[0].linear_2 = net.encoders[0].linear_3 = nn.Identity()
    assert {round(value, 4) for value in net.encoders[0](x.repeat(20, 1)).flatten().tolist()} == {0.0, 1.6667}
    assert [type(m).__name__ for m in mer2023_attention([4, 3], [8, 5], 0.3, CLASSES, True).attention_mlp] == [
        "Linear",
        "ReLU",
        "Drop",
    ] * 2


def test_loading_official_weights_names_every_difference() -> None:
    net = merbench_attention([(4, False)], 8, 0.0, CLASSES, True)
    state = {key.replace("encoders.0.", "audio_encoder."): tensor for key, tensor in net.state_dict().items()}
    load_official(net, state, ["audio"])
    state["fc_out_1.bias"] = torch.zeros(CLASSES + 1)
    state["text_encoder.linear_1.bias"] = state.pop("audio_encoder.linear_1.bias")
    with pytest.raises(ModelError) as caught:
        load_official(net, state, ["audio"])
    for part in (
        "encoders.0.linear_1.bias is missing",
        "text_encoder.linear_1.bias is left over",
        "(4,), expected (3,)",
    ):
        assert part in str(caught.value)


def test_an_unknown_head_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean attention\?"):
        head_class("atention")


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("name", ["attention", "attention-mer2023"])
def test_standardising_lets_a_head_read_features_of_any_scale(name: str, sequence: bool) -> None:
    if sequence and name == "attention-mer2023":
        pytest.skip("attention-mer2023 takes one row per clip")
    streams, targets = make_streams(sequence=sequence)
    streams = [Stream(s.name, (s.rows * 1e-3 + 5).astype(np.float32), s.offsets) for s in streams]
    accuracy = {}
    for standardise in (False, True):
        head = build(name, streams, standardise=standardise)
        train(head, streams, targets, np.arange(40))
        data = head.prepare(streams, "cpu")
        logits = head.predict(data, np.arange(60)).logits
        accuracy[standardise] = (logits.argmax(axis=1) == targets.emotion).mean()
        fresh = build(name, streams, seed=9, standardise=standardise)
        fresh.load(head.state())
        assert np.array_equal(fresh.predict(fresh.prepare(streams, "cpu"), np.arange(60)).logits, logits)
    assert accuracy[True] > 0.9 > accuracy[False] + 0.2


def test_standardising_learns_its_scale_from_the_training_clips_alone() -> None:
    streams, targets = make_streams()
    changed = [Stream(s.name, np.concatenate([s.rows[:40], s.rows[40:] * 100]), None) for s in streams]
    heads = [build("attention", streams, standardise=True) for _ in range(2)]
    for head, rows in zip(heads, (streams, changed), strict=True):
        train(head, rows, targets, np.arange(40))
    scale = [head.state()["scaling.0.std"] for head in heads]
    assert np.array_equal(*scale)
    assert scale[0] == pytest.approx(streams[0].rows[:40].std(axis=0), rel=1e-5)
