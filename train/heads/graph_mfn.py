"""`graph_mfn`: `mfn` with a graph of all groups of modalities. MERTools: MERBench/toolkit/models/graph_mfn.py.

The reference keeps the networks that join modalities where its optimizer and its checkpoints do not find them: they
stay at their first values. So they do here, but for `safe`; a run saves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import Share
from emo.train.heads.layers import Linear
from emo.train.heads.mfn import MemoryNet, MemoryRecipe, States
from emo.train.heads.trio import TrioHead

INNER = 100  # width inside its networks, whatever the recipe
JOINED = {"01": ("0", "1"), "02": ("0", "2"), "12": ("1", "2"), "012": ("0", "1", "2", "01", "02", "12")}
INTO_GRAPH = ("0", "1", "2", *JOINED)
EFFICACIES = sum(map(len, JOINED.values())) + len(INTO_GRAPH)


class GraphMfnRecipe(MemoryRecipe):
    """MERBench `graph_mfn`."""

    head: Literal["graph_mfn"] = "graph_mfn"
    dropout: Share = 0.3
    """In the networks of the memory. Type: number from 0 to 1. Default: ... (MERBench)."""
    safe: bool = False
    """true: the networks that join two or three modalities are trained; in MERBench they keep their first, random
    values. Type: true | false. Default: ... (MERBench).
    """
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (128, 256),
        "dropout": (0.0, 0.3, 0.5, 0.7),
        "lr": (0.001, 0.0001),
    }


def _two(into: int, out: int) -> nn.Sequential:
    """Two linear layers with nothing between, in the reference's names."""
    return nn.Sequential(Linear(into, INNER), nn.Sequential(Linear(INNER, out)))


class GraphMfnNet(MemoryNet):
    """The network. Text, audio and video are nodes 0, 1 and 2; every edge has an efficacy, which nothing bounds."""

    def __init__(self, dims: Sequence[int], recipe: Any, classes: int, valence: bool) -> None:
        h = recipe.hidden
        super().__init__(dims, recipe, h, classes, valence)
        self.l_transform, self.a_transform, self.v_transform = Linear(2 * h, h), Linear(2 * h, h), Linear(2 * h, h)
        efficacy_model = _two(3 * h, h).append(Linear(h, EFFICACIES))
        t_network = _two(len(INTO_GRAPH) * h, h)
        self.graph_mfn = nn.ModuleDict({"t_network": t_network, "efficacy_model": efficacy_model})
        self.nodes = nn.ModuleDict({node: _two(len(of) * h, h) for node, of in JOINED.items()})
        self.nodes.requires_grad_(recipe.safe)

    def attend(self, before: States, now: States) -> Tensor:
        pairs = [torch.cat(pair, dim=1) for pair in zip(before.hidden, now.hidden, strict=True)]
        transforms = (self.l_transform, self.a_transform, self.v_transform)
        values = {str(i): F.relu(layer(x)) for i, (layer, x) in enumerate(zip(transforms, pairs, strict=True))}
        efficacies = iter(self.graph_mfn["efficacy_model"](torch.cat([*values.values()], dim=1)).split(1, dim=1))
        for node, of in JOINED.items():
            values[node] = self.nodes[node](torch.cat([values[each] * next(efficacies) for each in of], dim=1))
        out: Tensor = self.graph_mfn["t_network"](
            torch.cat([values[node] * next(efficacies) for node in INTO_GRAPH], dim=1)
        )
        return out


class GraphMfn(TrioHead):
    """MERBench's Graph-MFN."""

    Recipe: ClassVar[type[HeadRecipe]] = GraphMfnRecipe
    frames_only = True
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 15, "hidden": 16, "mem_dim": 8, "lr": 0.01, "feat_scale": 2}

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> GraphMfnNet:
        return GraphMfnNet(dims, self.recipe, classes, valence)
