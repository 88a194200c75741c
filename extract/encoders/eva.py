"""EVA ViT-g on one whole frame: `eva_g_448`, the image encoder of MiniGPT-v2 and Emotion-LLaMA.

39 of EVA-g's 40 blocks at 448 px, without final norm, then `ln_vision` in float32: (1025, 1408) tokens, CLS first. The
frame is squashed to the square by Pillow's bicubic filter and normalised with CLIP's mean and std.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Decoded, Prepared, Variant, ViTEncoder, check_pixels
from emo.extract.encoders.vit import ViT, ViTConfig, interpolate_positions
from emo.extract.media.preprocess import CLIP_MEAN, CLIP_STD, resize_square
from emo.extract.weights import State
from emo.featstore.sources.hub import Source

MLP_RATIO = 4.3637
LN_VISION_EPS = 1e-5  # nn.LayerNorm's default in base_model.py; the blocks have 1e-6
# create_eva_vit_g of eva_vit.py
PAPER = ViTConfig(
    img=448,
    patch=14,
    dim=1408,
    depth=39,
    heads=16,
    mlp=int(1408 * MLP_RATIO),
    eps=1e-6,
    bias="qv",
    cls=True,
    pos="learned",
    norm=None,
)
TINY = replace(PAPER, img=112, dim=64, depth=2, heads=4, mlp=int(64 * MLP_RATIO))


class EvaModel(ViT):
    """The transformer and the LayerNorm outside it, which is always computed in float32."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__(cfg)
        self.ln_vision = nn.LayerNorm(cfg.dim, eps=LN_VISION_EPS)

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, tokens, D) float32."""
        residual = self(images).float()
        with torch.autocast(residual.device.type, enabled=False):
            return self.ln_vision(residual)


class Eva(ViTEncoder):
    """`eva_g_448`, level `tokens`. `ln_vision` is the identity (gain 1, bias 0) unless the file holds `ln_vision.*`."""

    name = "eva_g_448"
    names: ClassVar[Mapping[str, str]] = {"tokens": "eva_g_448"}
    family = "eva"
    modality = "frame"
    needs = "frame"
    paper = PAPER
    small = TINY
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD
    prefixes = r"^(?:module\.)?(?:visual_encoder\.)?"
    source = Source(
        "EVA ViT-g of BLIP-2 (39 blocks used, width 1408; bare state dict)",
        url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
        file="eva_vit_g.pth",
    )
    budget: ClassVar[Mapping[str, float]] = {"cpu": 1, "cuda": 32}  # images
    ignore = (
        (r"blocks\.39\..*", "the 40th block of EVA-g, which Emotion-LLaMA does not build"),
        (r"(norm|fc_norm|head)\..*", "norm and head of pre-training, which are not applied"),
        (r"post_layernorm\..*", "BLIP-2's own ln_vision, which is not Emotion-LLaMA's"),
        (
            r"(llama_model|llama_proj|feats_llama_proj\d|cls_tk_llama_proj|attention)\..*",
            "Emotion-LLaMA's language side",
        ),
        (r"(language_model|language_projection|qformer)\..*|query_tokens", "BLIP-2's language side"),
    )

    def rows(self, level: str) -> int:
        return self.config.tokens

    def recipe(self, level: str) -> dict[str, Any]:
        return {
            **super().recipe(level),
            "resize": "pil-bicubic-u8-square",
            "mean": list(self.mean),
            "std": list(self.std),
            "layer": "last block, no final norm, then ln_vision in float32",
            "ln_vision_eps": LN_VISION_EPS,
        }

    def build(self) -> nn.Module:
        return EvaModel(self.config)

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        state, dropped, notes = super().adapt(state, expected)
        table, side = state.get("pos_embed"), self.config.grid[1]
        old = 0 if table is None else round((table.shape[1] - 1) ** 0.5)
        if old not in (0, side) and old * old + 1 == table.shape[1]:
            state["pos_embed"] = interpolate_positions(table, side)
            notes.append(f"position table interpolated from {old}x{old} to {side}x{side}")
        if "ln_vision.weight" not in state and "ln_vision.bias" not in state:
            state["ln_vision.weight"], state["ln_vision.bias"] = torch.ones(self.dim), torch.zeros(self.dim)
            notes.append("the file holds no ln_vision: gain 1 and bias 0, as Emotion-LLaMA's published weights have it")
        return state, dropped, notes

    def prepare(self, inputs: ClipInputs) -> Prepared:
        frame = check_pixels(inputs.frame, 3, "no-frame", "video frame")
        pixels = torch.from_numpy(resize_square(frame, self.config.img, "bicubic"))
        return Prepared(pixels[None], 1.0, inputs.frame_time_s)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
        with self.computing() as model:
            return model.tokens(self.pixels(tensors, batch))

    def variants(self) -> Iterator[Variant]:
        def run(tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
            with self.computing() as model:
                return model(self.pixels(tensors, batch)).float()

        yield Variant("final-norm", "tokens without ln_vision", self.twin(run=run))
        for name in ("first", "second", "middle", "last"):

            def view(decoded: Decoded, name: str = name) -> ClipInputs:
                return replace(decoded.inputs, frame=decoded.frames[name])

            yield Variant("frame-choice", f"the {name} frame", self, view)
        yield from super().variants()
