"""Image models of Hugging Face over every face crop: CLIP, SigLIP, DINOv2, data2vec-vision, ViT; whole frames too.

Recipe `merbench`: MERBench's `extract_vision_huggingface.py`: CLIP's projected vector; of DINOv2 and data2vec-vision
the sum over all tokens of the last block, before the final norm, DINOv2 on 64 frames. Recipe `modern`: every face,
after the final norm; the projected or pooled vector where the model has one, else the mean of the patches. `frame` is
the chosen frame of the clip in place of its faces, with all tokens below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Prepared, check_pixels
from emo.extract.encoders.pretrained import Pretrained
from emo.extract.encoders.settings import PROCESSOR, read_settings
from emo.extract.media.preprocess import resize_crop, resize_square, to_float, uniform_indices
from emo.featstore.errors import ModelError
from emo.featstore.spec import EncoderSpec

FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers in preprocessor_config.json
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}
# preprocessor_config.json of the published models; `shorter`: side that is resized to, for images of 224 px.
PROCESSORS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {**CLIP, "shorter": 224, "do_center_crop": True},
    "siglip_vision_model": {**HALF, "resample": 3},
    "dinov2": {**IMAGENET, "shorter": 256, "do_center_crop": True},
    "data2vec-vision": HALF,
    "vit": HALF,
}
SIDE = 224
_SMALL = {"image_size": 32, "patch_size": 8}


class Image(Pretrained):
    """An image model of the catalog."""

    family = "image"
    modality = "face"
    needs = "faces"
    beside: ClassVar[tuple[str, ...]] = (PROCESSOR,)
    budget: ClassVar[Mapping[str, float]] = {"cpu": 32, "cuda": 512}  # images
    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "frame": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "merbench": {"normed": False, "pool_tokens": "sum", "table": "scale"},
        "modern": {"normed": True, "pool_tokens": "patches", "table": "size"},
    }
    small: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "clip_vision_model": _SMALL | {"projection_dim": 24},
        "siglip_vision_model": _SMALL,
        "dinov2": {"image_size": 56, "patch_size": 14, "mlp_ratio": 2},
        "data2vec-vision": _SMALL | {"use_relative_position_bias": True},
        "vit": _SMALL,
    }
    spare: ClassVar[Mapping[str, str]] = {
        r"(vit\.)?pooler\..*": "the feature does not pass it",
        r"(.*\.)?mask_token": "used in pre-training only",
        r"(.*\.)?relative_position_index": "numbers of positions",
    }
    ignore = (
        (r"(text_model|text_projection)\b.*|logit_(scale|bias)", "the text tower"),
        (r"(.*\.)?(position_ids|relative_position_index)", "numbers of positions"),
        (r"(.*\.)?mask_token", "used in pre-training only"),
        (r"(.*\.)?pooler\..*", "the feature does not pass it"),
    )
    frames: int = 0  # how many faces are taken, spread evenly and the last one repeated; 0: all
    normed: bool = True  # whether tokens are taken after the final norm
    pool_tokens: str = "patches"  # of an image: `sum` or `patches` (mean without the class token)
    table: str = "size"  # how DINOv2's positions are resized: to the size, or by transformers 4's scale

    # ---- sizes ----------------------------------------------------------------------------------------------------

    def configure(self, config: Any) -> dict[str, Any]:
        sizes = super().configure(config)
        self._steps = _steps(self.processor(), self._side, self.name)
        side = self._steps["side"]
        fits = side % self.full.patch_size == 0 if self.full.model_type == "dinov2" else side == self._side
        if side <= 0 or not fits or (self._steps["short_side"] or side) < side:
            sides = f"{self._steps['short_side'] or side} and {side} px"
            message = f"{self.name}: {PROCESSOR} asks for sides of {sides}, and the model reads {self._side} px."
            raise ModelError(message, "Is the file damaged, or of another model?")
        return sizes

    def processor(self) -> dict[str, Any]:
        """preprocessor_config.json: of the weights, or as published, for the model's own image size."""
        usual = PROCESSORS[self.full.model_type]
        if self.weights is None:
            short = self._side * usual.get("shorter", SIDE) // SIDE
            return usual | {
                "size": {"shortest_edge": short} if "shorter" in usual else self._side,
                "crop_size": self._side,
            }
        steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": "shorter" in usual}
        sides = {"size": self._side, "crop_size": self._side} if "shorter" in usual else {"size": self._side}
        usual = {key: value for key, value in usual.items() if key != "shorter"} | steps | sides
        stated, notes = read_settings(self.weights, usual)
        self.notes += notes
        return stated

    @classmethod
    def under(cls, recipe: str) -> type[Pretrained]:
        return Frame if recipe == "frame" else cls

    def expand(self, sizes: Mapping[str, Any]) -> Any:
        full = super().expand(sizes)
        if hasattr(full, "vision_config"):  # of two towers the one for images
            if full.model_type == "clip":
                full.vision_config.projection_dim = full.projection_dim
            return full.vision_config
        return full

    @property
    def _side(self) -> int:
        return self.full.image_size if self.full.model_type != "dinov2" else min(SIDE, self.full.image_size)

    @property
    def _projects(self) -> bool:
        return self.full.model_type == "clip_vision_model"

    @property
    def dim(self) -> int:
        return self.full.projection_dim if self._projects else self.full.hidden_size

    def network(self) -> type[nn.Module]:
        if self._projects:
            from transformers import CLIPVisionModelWithProjection

            return CLIPVisionModelWithProjection
        return super().network()

    @property
    def options(self) -> dict[str, Any]:
        return {"add_pooling_layer": False} if self.full.model_type in ("vit", "data2vec-vision") else {}

    def recipe(self, level: str) -> dict[str, Any]:
        mine = {
            "colour": "RGB",
            "steps": self._steps,
            "frames": self.frames,
            "normed": self.normed,
            "of": "projected or pooled vector where there is one",
            "pool_tokens": self.pool_tokens,
            "table": self.table,
            "pool": "mean over images" if level == "utt" else None,
        }
        return {**super().recipe(level), **mine}

    def rows(self, level: str) -> int | None:
        return self.frames or None

    # ---- pixels ---------------------------------------------------------------------------------------------------

    def prepare(self, inputs: ClipInputs) -> Prepared:
        faces = check_pixels(inputs.faces, 4, "no-face", "face crops")
        chosen = uniform_indices(len(faces), self.frames) if self.frames else range(len(faces))
        seen = {i: self.resized(faces[i]) for i in set(chosen)}
        pixels = np.stack([seen[i] for i in chosen])
        hop_s = inputs.hop_s
        if hop_s is not None and self.frames:
            hop_s *= max(1.0, len(faces) / self.frames)
        return Prepared(torch.from_numpy(pixels), float(len(pixels)), inputs.t0_s, hop_s)

    def resized(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One image (H, W, 3) as the model's processor resizes and crops it."""
        steps = self._steps
        if steps["short_side"] is None:
            return resize_square(rgb, steps["side"], steps["resample"])
        return resize_crop(rgb, steps["short_side"], steps["resample"], steps["side"], steps["rounds"])

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """Pixels (sum of n, S, S, 3) uint8."""
        return [self.join([item.payload for item in batch])]

    def pixels(self, tensors: Sequence[Tensor]) -> Tensor:
        """Turn what `collate` made into what the model takes: (sum of n, 3, S, S) float32."""
        return to_float(tensors[0], self._steps["mean"], self._steps["std"])

    # ---- the network ----------------------------------------------------------------------------------------------

    def fitted(self, model: nn.Module) -> nn.Module:
        if self.full.model_type == "dinov2":
            _resize_table(model, self._steps["side"] // self.full.patch_size, self.table)
        return model

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        with self.computing() as model:
            rows = torch.cat(
                [self.vectors(model, part) for part in self.pixels(tensors).split(int(self.max_cost) or 1)]
            )
        return list(rows.split([len(item.payload) for item in batch]))

    def vectors(self, model: nn.Module, pixels: Tensor) -> Tensor:
        """One vector per image, (N, D) float32."""
        return self.vector(model(pixel_values=pixels, output_hidden_states=True))

    def vector(self, output: Any) -> Tensor:
        """Pick what the recipe takes of the model's output, (N, D) float32."""
        if self._projects:
            return output.image_embeds.float()
        if self.full.model_type == "siglip_vision_model":
            return output.pooler_output.float()
        tokens = self.summed(output) if self.normed else output.hidden_states[-1].float()
        return tokens.sum(1) if self.pool_tokens == "sum" else tokens[:, 1:].mean(1)


def _steps(processor: Mapping[str, Any], side: int, who: str) -> dict[str, Any]:
    """From a preprocessor_config.json to the steps it asks for.

    Raises:
        ModelError: It asks for something else than resize, crop, rescale and normalise.
    """
    size, crop = processor.get("size", side), processor.get("crop_size", side)
    short = size.get("shortest_edge") if isinstance(size, dict) else size if processor.get("do_center_crop") else None
    square = size.get("height") if isinstance(size, dict) else size
    side = (crop.get("height") if isinstance(crop, dict) else crop) if processor.get("do_center_crop") else square
    filter_ = FILTERS.get(processor["resample"])
    needed = all(processor.get(step, True) for step in ("do_resize", "do_rescale", "do_normalize"))
    if side is None or filter_ is None or not needed:
        message = f"{who}: its preprocessor_config.json asks for steps that emo does not have: {dict(processor)}."
        raise ModelError(message, "It resizes with bilinear or bicubic filter, crops, rescales and normalises.")
    mean, std = list(processor["image_mean"]), list(processor["image_std"])
    return {"short_side": short, "side": side, "resample": filter_, "rounds": False, "mean": mean, "std": std}


def _resize_table(model: nn.Module, grid: int, way: str) -> None:
    """Resize DINOv2's positions once, so that the library finds the size it needs.

    `size` is the library's own way today; `scale` the way of MERBench's transformers 4.32 and of the authors: bicubic
    by the factor (grid + 0.1) / old, which samples other places.
    """
    table = model.embeddings.position_embeddings.data  # (1, 1 + old * old, D)
    old = int((table.shape[1] - 1) ** 0.5)
    if old == grid:
        return
    patches = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    how = {"scale_factor": ((grid + 0.1) / old,) * 2} if way == "scale" else {"size": (grid, grid)}
    patches = nn.functional.interpolate(patches, mode="bicubic", align_corners=False, **how)
    rows = patches.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    model.embeddings.position_embeddings = nn.Parameter(torch.cat([table[:, :1], rows], 1), requires_grad=False)


class Frame(Image):
    """An image model of the catalog on one frame of the clip; `tokens` are all of its tokens."""

    modality = "frame"
    needs = "frame"
    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "tokens": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "frame": {"normed": True, "pool_tokens": "patches", "table": "size"}
    }

    def spec(self, level: str) -> EncoderSpec:
        spec = super().spec(level)
        return replace(spec, dim=self.full.hidden_size) if level == "tokens" else spec  # tokens are not projected

    def rows(self, level: str) -> int | None:
        return (self._steps["side"] // self.full.patch_size) ** 2 + (self.full.model_type != "siglip_vision_model")

    def prepare(self, inputs: ClipInputs) -> Prepared:
        frame = check_pixels(inputs.frame, 3, "no-frame", "frame")
        return replace(super().prepare(ClipInputs(faces=frame[None])), t0_s=inputs.frame_time_s, hop_s=None)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        """The vector (1, D) of every clip, then the tokens (N, W) of every clip: they may be of another width."""
        with self.computing() as model:
            output = model(pixel_values=self.pixels(tensors), output_hidden_states=True)
            return [*self.vector(output)[:, None], *self.summed(output)]

    def pool(self, rows: Sequence[Tensor], levels: Sequence[str]) -> dict[str, Tensor | Sequence[Tensor]]:
        count = len(rows) // 2
        made: dict[str, Tensor | Sequence[Tensor]] = {"utt": rows[:count], "tokens": rows[count:]}
        return {level: made[level] for level in levels}
