"""MAE on face crops: `mae_340_UTT`, ViT-L/16 of Emotion-LLaMA's authors.

Every aligned face crop of the clip, resized to 224 by Pillow's bilinear filter, as [0, 1] RGB without mean and std; the
CLS token after the final norm; the mean over faces. The utterance level is (1, D), the frame level (T, D).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Prepared, Variant, ViTEncoder, check_pixels, faces_in_order
from emo.extract.encoders.vit import ViTConfig
from emo.extract.media.preprocess import uniform_indices
from emo.featstore.errors import UsageError
from emo.featstore.sources.hub import Source

# models_vit.vit_large_patch16 of facebookresearch/mae
PAPER = ViTConfig(
    img=224,
    patch=16,
    dim=1024,
    depth=24,
    heads=16,
    mlp=4096,
    eps=1e-6,
    bias="qkv",
    cls=True,
    pos="learned",
    norm="norm",
)
TINY = replace(PAPER, img=64, dim=64, depth=2, heads=4, mlp=256)
POOLINGS = {"cls": "norm", "mean+fc_norm": "fc_norm"}


class Mae(ViTEncoder):
    """`mae_340_UTT`.

    Args:
        pooling: `cls` (published: CLS token after `norm`), or `mean+fc_norm` for checkpoints trained with global
            pooling (mean of the patch tokens, then `fc_norm`).
        **options: See `Encoder`.
    """

    name = "mae_340_UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "mae_340_UTT", "frame": "mae_340_FRA"}
    family = "mae"
    modality = "face"
    needs = "faces"
    paper = PAPER
    small = TINY
    source = Source(
        "MAE ViT-L/16 pre-trained on MER2023 faces (state dict under `model`)",
        file="mae_checkpoint-340.pth",
        ask="from the Google Drive folder of Emotion-LLaMA's authors (issue 2 of ZebangCheng/Emotion-LLaMA)",
    )
    budget: ClassVar[Mapping[str, float]] = {"cpu": 32, "cuda": 512}  # faces
    ignore = (
        (r"decoder.*", "the decoder of pre-training"),
        (r"mask_token", "used in pre-training only"),
        (r"(head|classifier)\..*", "a classification head, which the feature does not pass"),
        (r"pooler\..*", "a pooling layer, which the feature does not pass"),
        (r"fc_norm\..*", "the norm of global pooling; the feature is the CLS token after `norm`"),
    )

    def __init__(self, *, pooling: str = "cls", **options: Any) -> None:
        if pooling not in POOLINGS:
            raise UsageError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}.")
        self.pooling = pooling
        super().__init__(**options)

    def configure(self, config: ViTConfig | None) -> ViTConfig:
        return replace(super().configure(config), norm=POOLINGS[self.pooling])

    def recipe(self, level: str) -> dict[str, Any]:
        pool = "mean over faces" if level == "utt" else None
        mine = {
            "resize": "pil-bilinear-u8-square",
            "mean": self.mean,
            "std": self.std,
            "token": self.pooling,
            "pool": pool,
        }
        return {**super().recipe(level), **mine}

    def prepare(self, inputs: ClipInputs) -> Prepared:
        faces = check_pixels(inputs.faces, 4, "no-face", "face crops")
        return Prepared(torch.from_numpy(faces), float(len(faces)), inputs.t0_s, inputs.hop_s)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Sequence[Tensor]:
        with self.computing() as model:
            most = max(1, int(self.max_cost))  # a clip may hold more faces than fit into one pass
            rows = torch.cat([self.token(model, part) for part in self.pixels(tensors, batch).split(most)])
        return rows.split([len(item.payload) for item in batch])

    def token(self, model: nn.Module, pixels: Tensor) -> Tensor:
        """One forward pass: (B, 3, S, S) to (B, D) float32."""
        tokens = model(pixels)
        kept = tokens[:, 0] if self.pooling == "cls" else tokens[:, 1:].mean(1)
        return model.final_norm(kept).float()

    def variants(self) -> Iterator[Variant]:
        def pool(kept: Callable[[Tensor], Tensor], norm: Callable[[nn.Module], nn.Module]) -> Any:
            def run(model: nn.Module, pixels: Tensor) -> Tensor:
                return norm(model)(kept(model(pixels))).float()

            return self.twin(token=run)

        def cls(tokens: Tensor) -> Tensor:
            return tokens[:, 0]

        def mean(tokens: Tensor) -> Tensor:
            return tokens[:, 1:].mean(1)

        own, other = (cls, mean) if self.pooling == "cls" else (mean, cls)
        words = "the CLS token" if other is cls else "the mean of the patch tokens"
        each = self.twin(token=lambda model, x: model.final_norm(model(x))[:, 1:].mean(1).float())
        norms: list[tuple[str, Callable[[nn.Module], nn.Module]]] = [
            ("the model's norm", lambda model: model.final_norm),
            *((name, lambda model, norm=norm: norm) for name, norm in self.other_norms()),
            ("no norm", lambda model: nn.Identity()),
        ]
        for name, norm in norms:
            yield Variant("pooling", f"{words}, then {name}", pool(other, norm))
        if other is mean:
            yield Variant("pooling", "the mean of the patch tokens, each after the model's norm", each)
        for name, norm in norms[1:]:
            yield Variant("final-norm", f"{name} in place of the model's norm", pool(own, norm))
        few = faces_in_order(lambda decoded, n: uniform_indices(n)[: min(n, 16)])
        yield Variant("frame-choice", "16 evenly chosen faces, not all", self, few)
        yield from super().variants()
