"""Case 8: MERBench's other heads and its alignment of frames, against the reference's outputs.

Every run of the case is taken as it is: heads, sizes, inputs and tolerances come from case.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import load_official
from safetensors.torch import load_file
from torch import Tensor, nn

from emo.train.features import StreamShape
from emo.train.heads.align import Frames, align_clip, map_length, pad_front
from emo.train.heads.gradient import load_strict
from emo.train.heads.objective import Fused, head_loss
from emo.train.recipe import HEADS, head_class

GOLDEN_CASES = ["case8_merbench_heads"]
INPUTS = {"audios": "audio", "texts": "text", "videos": "video"}
RENAMED = {"hidden_dim": "hidden", "grad_clip": "grad_clip"}


def cases(config: pytest.Config) -> Iterator[tuple[Path, str]]:
    for file in sorted(config.getoption("--goldens").glob("case8_*/case.json")):
        for run in json.loads(file.read_text())["runs"]:
            yield file.parent, run


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run" not in metafunc.fixturenames:
        return
    found = list(cases(metafunc.config))
    params = [pytest.param(each, id=f"{each[0].name}-{each[1]}") for each in found]
    missing = pytest.param(None, marks=pytest.mark.skip(reason="no folder case8_* among the goldens"))
    metafunc.parametrize("run", params or [missing], indirect=True)


class Run:
    """One run of the case: a head with its weights, a batch and what the reference said of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, case = name, json.loads((folder / "case.json").read_text())
        self.info: dict[str, Any] = case["runs"][name]
        self.tolerance: dict[str, float] = case["tolerance"][name]
        self.io = part(load_file(folder / "io.safetensors"), f"{name}.")
        self.weights = {
            key: tensor
            for key, tensor in part(load_file(folder / "weights.safetensors"), f"{name}.").items()
            if tensor.numel()  # `output_dim2=0`: an output layer of no rows
        }
        self.args: dict[str, Any] = self.info["args"]
        names = [key for key in INPUTS if f"in.{key}" in self.io]
        names = names or sorted((k[3:] for k in self.io if k.startswith("in.feat")), key=lambda k: int(k[4:]))
        self.inputs = [self.io[f"in.{key}"] for key in names]
        self.modalities = [INPUTS.get(key, "") for key in names]
        self.kind = head_class(self.info["head"])

    def head(self) -> Any:
        """The head with the reference's weights."""
        keys = {RENAMED.get(key, key): value for key, value in self.args.items()}
        keys = {key: value for key, value in keys.items() if key in self.kind.Recipe.model_fields}
        if keys.get("grad_clip", 0) is not None and keys.get("grad_clip", 0) <= 0:
            keys["grad_clip"] = None
        recipe = self.kind.Recipe.model_validate(keys)
        shapes = [
            StreamShape(x.shape[-1], x.dim() == 3, modality)
            for x, modality in zip(self.inputs, self.modalities, strict=True)
        ]
        head = self.kind(recipe, shapes, self.args["output_dim1"], bool(self.args["output_dim2"]), "cpu", 0)
        if self.info["head"].startswith("attention"):
            load_official(head.net, self.weights, [f"encoder{i}" for i in range(len(shapes))])
        else:
            load_strict(head.net.net, own_names(self.weights))
        return head

    def forward(self, head: Any, stage: str, inputs: list[Tensor] | None = None) -> Fused:
        net = getattr(head.net, "net", None)
        if any(key.startswith(f"{stage}.noise.") for key in self.io):
            net.noise = lambda name, like: self.io[f"{stage}.noise.{name}"]
        out: Fused = head.net(self.inputs if inputs is None else inputs)
        return out

    def check(self, got: Tensor, want: str, kind: str) -> None:
        assert got.isfinite().all(), want
        torch.testing.assert_close(got, self.io[want], rtol=0, atol=self.tolerance[kind], msg=lambda m: f"{want}: {m}")

    def compare(self, out: Fused, stage: str) -> None:
        """Outputs and loss terms."""
        self.check(out.features, f"{stage}.features", "outputs")
        self.check(out.logits, f"{stage}.emos", "outputs")
        if out.valence is None:
            assert self.io[f"{stage}.vals"].numel() == 0
        else:
            self.check(out.valence, f"{stage}.vals", "outputs")
        terms = {} if out.inner is None else out.inner.terms(self.real)
        given = {key.removeprefix(f"{stage}.") for key in self.io if key.startswith(f"{stage}.")}
        own = given - {"features", "emos", "vals", "interloss", "ce", "mse", "total"}
        assert set(terms) == {key for key in own if not key.startswith("noise.")}
        for key, term in terms.items():
            self.check(term, f"{stage}.{key}", "terms")
        if out.inner is None:
            assert self.io[f"{stage}.interloss"].item() == 0
        else:
            self.check(out.inner(self.real), f"{stage}.interloss", "interloss")

    @property
    def real(self) -> Tensor:
        return torch.ones(self.info["batch"], dtype=torch.bool)

    def loss(self, out: Fused) -> Tensor:
        return head_loss(out, self.io["label.emos"], self.io["label.vals"])


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names as ours; a tensor that the reference holds under several names must be one."""
    aliases = {f"seq2seq{i}.{part}.": f"{part}{i}." for i in (1, 2) for part in ("encoder", "decoder")}
    aliases |= {f"decoder{i}.attention.": f"attn{i}." for i in (1, 2)}
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if key.endswith(".version"):
            continue  # mult's encoders: a constant
        name = key.replace("UNREGISTERED.", "nodes.")
        for old, new in aliases.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        assert torch.equal(found.setdefault(name, tensor), tensor), key
    return found


def without_dropout(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.LSTM):
            module.dropout = 0.0
    return net


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    return Run(*request.param)


def test_outputs(run: Run) -> None:
    head = run.head()
    head.net.eval()
    with torch.no_grad():
        run.compare(run.forward(head, "eval"), "eval")


def test_outputs_losses_and_gradients_in_training(run: Run) -> None:
    head = run.head()
    without_dropout(head.net.train())
    out = run.forward(head, "train")
    run.compare(out, "train")
    loss = run.loss(out)
    run.check(loss, "train.total", "loss")
    ce = head_loss(out._replace(valence=None, inner=None), run.io["label.emos"], run.io["label.vals"])
    run.check(ce, "train.ce", "loss")
    if out.valence is not None:
        both = head_loss(out._replace(inner=None), run.io["label.emos"], run.io["label.vals"])
        run.check(both - ce, "train.mse", "loss")
    loss.backward()
    gradients = official_gradients(run, head)
    for key in run.info["grads"]:
        run.check(gradients.pop(key), f"grad.{key}", "grads")
    gradients = official_gradients(run, head)
    norms = run.info["grad_norms"]
    assert set(gradients) == {key for key in norms if norms[key] is not None}
    for key, gradient in gradients.items():
        assert gradient.double().norm().item() == pytest.approx(norms[key], abs=run.tolerance["grad_norms"]), key


def official_gradients(run: Run, head: Any) -> dict[str, Tensor]:
    """Gradients by the reference's names; `None` of ours are left out, as are those of no rows."""
    topn = run.info["head"].startswith("attention")
    net = head.net if topn else head.net.net
    given = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    return {name.replace("encoders.", "encoder") if topn else name: gradient for name, gradient in given.items()}


def test_three_steps_with_clipping(run: Run) -> None:
    head, how = run.head(), run.info["optimizer"]
    without_dropout(head.net.train())
    assert how["name"] == "Adam"
    assert head.recipe.grad_clip == how["grad_value_clip"]
    optimizer = torch.optim.Adam(head.net.parameters(), lr=how["lr"], weight_decay=how["weight_decay"], fused=True)
    for step, want in enumerate(run.info["step_losses"]):
        loss = run.loss(run.forward(head, f"step{step}"))
        assert loss.item() == pytest.approx(want, abs=run.tolerance["step_losses"])
        optimizer.zero_grad()
        loss.backward()
        if head.recipe.grad_clip is not None:
            nn.utils.clip_grad_value_(head.net.parameters(), head.recipe.grad_clip)
        optimizer.step()
    with torch.no_grad():
        head.net.eval()
        run.check(run.forward(head, "eval").logits, "after3steps.emos", "after3steps")


def test_a_batch_of_one(run: Run) -> None:
    """Works as in the reference, and where that fails for the lost batch axis too; misa's gradients are NaN in both."""
    head, said = run.head(), run.info["batch_of_one"]
    without_dropout(head.net.train())
    if any(key.startswith("train.noise.") for key in run.io):
        head.net.net.noise = lambda name, like: run.io[f"train.noise.{name}"][:1]
    out: Fused = head.net([x[:1] for x in run.inputs])
    assert out.logits.shape == (1, run.args["output_dim1"])
    loss = head_loss(out, run.io["label.emos"][:1], run.io["label.vals"][:1])
    assert loss.isfinite()
    if out.inner is not None and not hasattr(head.net.net, "noise"):
        given = out.inner(run.real[:1]).item()
        assert given == pytest.approx(said["interloss"], abs=run.tolerance["interloss"])
    loss.backward()
    broken = [key for key, gradient in official_gradients(run, head).items() if gradient.isnan().any()]
    assert len(broken) == said.get("parameters_with_nan_gradient", 0)


def test_where_dropout_acts(run: Run) -> None:
    """As often, on as many values and with the same probability as in the reference, in any order."""
    head, calls = run.head(), []
    for name, module in head.net.train().named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("attention_drop"):
            module.register_forward_hook(lambda m, given, out: calls.append((given[0].numel(), m.p)))
    out = run.forward(head, "train")
    if out.inner is not None:
        out.inner.terms(run.real)
    said = run.info["dropout_calls"]
    if isinstance(said, dict):
        idle = [key for key in run.info["parameters_without_gradient"] if key.endswith("out_fc1.weight")]
        assert len(calls) == said["number_of_calls"] - len(idle)  # mfm: layers whose outputs it throws away
        assert set(calls) == {(int(np.prod(shape)), p) for shape, p in said["distinct"]}
    else:
        assert sorted(calls) == sorted((int(np.prod(shape)), p) for shape, p, times in said for _ in range(times))


# ---- alignment and grid ----------------------------------------------------------------------------------------------


def numbers(golden: Any, start: str) -> list[str]:
    return [str(i) for i in range(1000) if f"{start}{i}" in golden.io]


def test_mapping_of_lengths(golden: Any) -> None:
    pairs = [key[: -len(".in")] for key in golden.io if key.startswith("map.") and key.endswith(".in")]
    assert pairs
    for pair in pairs:
        want = golden.io[f"{pair}.out"]
        got = map_length(golden.io[f"{pair}.in"], len(want))
        golden.close(got, f"{pair}.out", golden.info["tolerance"]["align"])


def test_alignment_of_frames(golden: Any) -> None:
    """What the heads read: clips are aligned one by one, and padded in front to the longest."""
    done = 0
    for key, how in golden.info["align"].items():
        text = np.float16 if how.get("text_dtype") == "float16" else np.float32
        dtypes = {"audio": np.float32, "text": text, "video": np.float32}
        streams = {
            kind: [golden.io[f"align.in.{kind}.{i}"].astype(dtype) for i in numbers(golden, f"align.in.{kind}.")]
            for kind, dtype in dtypes.items()
        }
        want = {kind: f"align.{key}.{kind}s" for kind in streams}
        if how["feat_type"] == "utt":
            # the reference's mean has the type that the file has
            means = {k: [map_length(x, 1)[0].astype(x.dtype) for x in clips] for k, clips in streams.items()}
            got = {k: np.stack(each).astype(np.float32) for k, each in means.items()}
        else:
            clips, align, scale = range(len(streams["text"])), how["feat_type"], how["feat_scale"]
            short = [align_clip([each[i] for each in streams.values()], align, scale, 1) for i in clips]
            rows = tuple(np.concatenate(x) for x in streams.values())
            offsets = tuple(np.cumsum([0, *map(len, x)]) for x in streams.values())
            frames = Frames(rows, offsets, "cpu").aligned(align, scale, 1)
            got = {}
            for s, (kind, (rows_, o)) in enumerate(zip(streams, frames, strict=True)):
                assert [len(each[s]) for each in short] == np.diff(o).tolist()
                got[kind] = pad_front(rows_, o, np.arange(len(clips)), int(np.diff(o).max())).numpy()
        for kind, name in want.items():
            golden.close(got[kind], name, golden.info["tolerance"]["align"])
            done += 1
    assert done


def test_the_search_is_the_references_grid(golden: Any) -> None:
    """Keys with one value are the default instead; one that has no effect in the reference is left out."""
    for head, grid in golden.info["hyper_parameter_grid"].items():
        assert head in HEADS
        recipe = head_class(head).Recipe()
        wanted = {RENAMED.get(key, key): [None if v == -1 else v for v in values] for key, values in grid.items()}
        single = {key: values[0] for key, values in wanted.items() if len(values) == 1 and hasattr(recipe, key)}
        assert {key: getattr(recipe, key) for key in single} == single
        assert {key: list(values) for key, values in recipe.search.items()} == {
            key: values for key, values in wanted.items() if len(values) > 1 and key != "teacher_forcing_ratio"
        }
