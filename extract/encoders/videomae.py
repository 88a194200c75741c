"""VideoMAE on face crops: `maeV_399_UTT` of Emotion-LLaMA's authors, and MERBench's `videomae-large-UTT`.

Same transformer, two recipes. The authors: 8 segments x 2 frames, square bilinear resize, [0, 1] RGB, no final norm,
mean of 1568 tokens. MERBench: 16 left-aligned uniform frames, short side 224 and centre crop, ImageNet mean and std,
the final norm where the model has one, mean of each tubelet's 196 tokens (frame level), mean of the 8 (utterance).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Prepared, Variant, ViTEncoder, check_pixels, faces_in_order
from emo.extract.encoders.settings import MODEL, read_settings, stated_in, unlike
from emo.extract.encoders.vit import ViTConfig
from emo.extract.media.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    resize_crop,
    segment_indices,
    uniform_indices,
    window_indices,
)
from emo.featstore.errors import ModelError
from emo.featstore.sources.hub import Source

# modeling_finetune.vit_large_patch16_224 of MCG-NJU/VideoMAE; with use_mean_pooling its `norm` is the identity
AUTHOR = ViTConfig(
    img=224,
    patch=16,
    dim=1024,
    depth=24,
    heads=16,
    mlp=4096,
    eps=1e-6,
    bias="qv",
    cls=False,
    pos="sinusoid",
    norm=None,
    frames=16,
    tubelet=2,
)
MERBENCH = replace(AUTHOR, eps=1e-12, norm="norm")  # config.json of MCG-NJU/videomae-large
BASE = replace(MERBENCH, dim=768, depth=12, heads=12, mlp=3072)  # config.json of MCG-NJU/videomae-base
SMALL = {"img": 64, "dim": 64, "depth": 2, "heads": 4, "mlp": 256}
PIL_NAMES = {2: "bilinear", 3: "bicubic"}
STEPS_OF_PIXELS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
SEGMENTS, STEPS = "8 segments of 2 frames (maeV_399_UTT)", "equal steps from the first frame (MERBench)"
SHORT = 9  # frames: up to here maeV_399_UTT takes frames 0 and 1 only
SHUFFLES = 3  # random orders of frames that are tried
Way = Callable[[int], list[int]]  # number of frames -> indices of those that are taken
CONFIG_KEYS = {
    "img": "image_size",
    "patch": "patch_size",
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "eps": "layer_norm_eps",
    "frames": "num_frames",
    "tubelet": "tubelet_size",
}


class _VideoMae(ViTEncoder):
    family = "videomae"
    modality = "face"
    needs = "faces"
    budget: ClassVar[Mapping[str, float]] = {"cpu": 1, "cuda": 16}  # clips of 16 frames

    @abstractmethod
    def select(self, n: int) -> list[int]:
        """Which of `n` face crops the model sees."""

    def crop(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut from the chosen crops (F, h, w, 3) what the model sees, before they are squeezed into its square."""
        return faces

    def prepare(self, inputs: ClipInputs) -> Prepared:
        faces = check_pixels(inputs.faces, 4, "no-face", "face crops")
        pixels = self.crop(faces[self.select(len(faces))])  # (F, h, w, 3)
        tubelets = self.config.grid[0]
        hop_s = None if inputs.hop_s is None else inputs.hop_s * max(len(faces), self.config.frames) / tubelets
        return Prepared(torch.from_numpy(pixels), 1.0, inputs.t0_s, hop_s)

    def tokens(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
        """Tokens (B, N, D) as the recipe has them, float32 on the device."""
        with self.computing() as model:
            return model.final_norm(model(self.clips(tensors, batch))).float()

    def clips(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
        """Clips as the model takes them: (B, 3, F, S, S) float32."""
        return self.pixels(tensors, batch).unflatten(0, (len(batch), -1)).transpose(1, 2)

    def variants(self) -> Iterator[Variant]:
        count = self.config.frames
        ways: dict[str, Way] = {
            SEGMENTS: lambda n: segment_indices(n, count // 2),
            STEPS: lambda n: uniform_indices(n, count),
            "equal steps from the first to the last frame": lambda n: np.linspace(0, n - 1, count).astype(int).tolist(),
            "the first frames": lambda n: [min(i, n - 1) for i in range(count)],
            "every 4th frame from the first": lambda n: window_indices(n, count=count)[0],
        }
        others = {words: way for words, way in ways.items() if way(100) != self.select(100)}
        yield from self.short_variants(others)
        yield from self._norm_variants()
        for words, way in others.items():
            yield Variant("frame-choice", words, self.twin(select=way), family=True)
        listed = faces_in_order(lambda decoded, n: decoded.listing or range(n))
        yield Variant("frame-order", "frames in the order in which the folder lists them", self, listed)
        for first, words in enumerate(("0, 1, 10, 11, ...", "1, 10, 11, ...")):
            text = faces_in_order(lambda decoded, n, first=first: sorted(range(n), key=lambda i: str(i + first)))
            yield Variant("frame-order", f"frames sorted as text ({words})", self, text)
        for seed in range(SHUFFLES):
            drawn = faces_in_order(lambda decoded, n, seed=seed: np.random.default_rng(seed).permutation(n))
            yield Variant("frame-order", f"frames in a random order (draw {seed + 1})", self, drawn, family=True)
        yield from super().variants()

    @abstractmethod
    def short_variants(self, ways: Mapping[str, Way]) -> Iterator[Variant]:
        """Variants for clips of up to `SHORT` frames; `ways` are other choices of frames."""

    def _norm_variants(self) -> Iterator[Variant]:
        def tokens(norm: nn.Module) -> Callable[[Sequence[Tensor], Sequence[Prepared]], Tensor]:
            def run(tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
                with self.computing() as model:
                    return norm(model(self.clips(tensors, batch))).float()

            return run

        if self.config.norm is not None:
            yield Variant("final-norm", "tokens without the final norm", self.twin(tokens=tokens(nn.Identity())))
        for words, norm in self.other_norms():
            yield Variant("final-norm", f"{words} on each token", self.twin(tokens=tokens(norm)))

            def run(tensors: Sequence[Tensor], batch: Sequence[Prepared], norm: nn.Module = norm) -> Tensor:
                with torch.inference_mode():
                    return norm(self.tokens(tensors, batch).mean(1, keepdim=True))

            yield Variant("final-norm", f"{words} on the mean of the tokens", self.twin(run=run))


class VideoMaeAuthor(_VideoMae):
    """`maeV_399_UTT`; frames are taken in time order (the published script's order is that of the file system)."""

    name = "maeV_399_UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "maeV_399_UTT"}
    paper = AUTHOR
    small = replace(AUTHOR, **SMALL)
    prefixes = r"^(?:module\.)?(?:(?:backbone|encoder)\.(?!layer\.))?"
    source = Source(
        "VideoMAE ViT-L/16 pre-trained on MER2023 faces (state dict under `model` or `module`)",
        file="maeVideo_ckp199.pth",
        ask="from the Google Drive folder of Emotion-LLaMA's authors (issue 2 of ZebangCheng/Emotion-LLaMA)",
    )
    ignore = (
        (r"decoder\..*|encoder_to_decoder\..*", "the decoder of pre-training"),
        (r"mask_token", "used in pre-training only"),
        (r"head\..*|classifier\..*", "a classification head, which the feature does not pass"),
        (r"(fc_norm|norm)\..*", "a final norm; the feature is the mean of un-normalised tokens"),
    )

    def recipe(self, level: str) -> dict[str, Any]:
        return {
            **super().recipe(level),
            "frames": "tsn: 8 segments x 2 frames, test",
            "resize": "pil-bilinear-u8-square",
            "mean": self.mean,
            "std": self.std,
            "pool": "mean over tokens, no final norm",
        }

    def select(self, n: int) -> list[int]:
        return segment_indices(n, segments=self.config.frames // 2, duration=2)

    def short_variants(self, ways: Mapping[str, Way]) -> Iterator[Variant]:
        def segments(n: int) -> list[int]:
            parts = range(self.config.frames // 2)
            return [min(int((n - 1) / 8 * (x + 0.5)) + i, n - 1) for x in parts for i in (0, 1)]

        for words, way in {"8 segments of 2 frames": segments, **ways}.items():
            select = self.twin(select=lambda n, way=way: self.select(n) if n > SHORT else way(n))
            words = f"not frames 0 and 1 only where a clip has up to {SHORT} frames, but {words}"
            yield Variant("short-clips", words, select)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
        return self.tokens(tensors, batch)


class VideoMaeMerbench(_VideoMae):
    """`videomae-large-UTT`: MERBench's `extract_vision_huggingface.py` with a Hugging Face VideoMAE."""

    name = "videomae-large-UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "videomae-large-UTT", "frame": "videomae-large-FRA"}
    paper = MERBENCH
    small = replace(MERBENCH, **SMALL)
    source = Source("VideoMAE large as published, for MERBench's recipe", hub="MCG-NJU/videomae-large")
    ignore = (
        (r"decoder\..*|encoder_to_decoder\..*", "the decoder of pre-training"),
        (r"mask_token", "used in pre-training only"),
        (r"(classifier|fc_norm)\..*", "a classification head, which the feature does not pass"),
    )
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    resample = "bilinear"

    def configure(self, config: ViTConfig | None) -> ViTConfig:
        sizes = super().configure(config)
        if self.weights is None:
            return sizes
        if config is None and self.weights.path.is_dir():
            sizes = self._sizes()
        size = {"shortest_edge": sizes.img}
        usual = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD), "resample": 2}
        usual |= dict.fromkeys(STEPS_OF_PIXELS, True) | {"size": size, "crop_size": sizes.img}
        stated, self.notes[len(self.notes) :] = read_settings(self.weights, usual)
        self.mean, self.std = tuple(stated["image_mean"]), tuple(stated["image_std"])
        self.resample = PIL_NAMES.get(stated["resample"], "")
        if not self.resample:
            raise ModelError(f"{self.weights.source}: emo has no filter {stated['resample']} to resize with.")
        crop, short = stated["crop_size"], stated["size"]
        crop = crop.get("height") if isinstance(crop, dict) else crop
        short = short.get("shortest_edge") if isinstance(short, dict) else short
        if {crop, short} != {sizes.img} or not all(stated[step] for step in STEPS_OF_PIXELS):
            message = f"{self.weights.source}/preprocessor_config.json asks for other steps than {self.name} has."
            raise ModelError(message, f"It resizes to {sizes.img} px, crops, rescales and normalises, as published.")
        return sizes

    def _sizes(self) -> ViTConfig:
        """Sizes as the folder's config.json has them."""
        from transformers import VideoMAEConfig

        known = VideoMAEConfig().to_dict()
        stated = stated_in(self.weights, MODEL, {*known, "qkv_bias"})  # as the published file calls qv_bias
        full = VideoMAEConfig(**stated).to_dict()  # with the library's defaults for what the file leaves out
        norm, paper = None if full["use_mean_pooling"] else "norm", self.paper
        sizes = replace(paper, norm=norm, **{ours: full[theirs] for ours, theirs in CONFIG_KEYS.items()})
        if (full["hidden_act"], full["qv_bias"], full["num_channels"]) != ("gelu", True, 3):
            raise ModelError(f"{self.weights.source}/config.json asks for another network than {self.name} has.")
        if self.profile == "paper" and replace(sizes, norm=paper.norm) != paper:
            want, got = (f"{each.depth} layers of width {each.dim} at {each.img} px" for each in (paper, sizes))
            message = f"{self.name} has {want}, {self.weights.source} has {got}."
            raise ModelError(message, "Is it another model?")
        self.notes += unlike(f"{self.weights.source}/{MODEL}", asdict(sizes), asdict(paper))
        return sizes

    def rows(self, level: str) -> int:
        return self.config.grid[0]

    def recipe(self, level: str) -> dict[str, Any]:
        return {
            **super().recipe(level),
            "frames": "uniform-16 left-aligned",
            "resize": f"pil-{self.resample}-u8-short-side, centre crop",
            "mean": list(self.mean),
            "std": list(self.std),
            "pool": "mean over patches of a tubelet" + (", mean over tubelets" if level == "utt" else ""),
        }

    def select(self, n: int) -> list[int]:
        return uniform_indices(n, self.config.frames)

    def short_variants(self, ways: Mapping[str, Way]) -> Iterator[Variant]:
        few = self.twin(select=lambda n: self.select(n) if n > SHORT else ways[SEGMENTS](n))
        yield Variant("short-clips", f"frames 0 and 1 only where a clip has up to {SHORT} frames", few)

    def crop(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([resize_crop(face, self.config.img, self.resample) for face in faces])

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
        tokens = self.tokens(tensors, batch)
        return tokens.view(len(batch), self.config.grid[0], -1, self.dim).mean(2)  # (B, tubelets, D)


class VideoMaeBase(VideoMaeMerbench):
    """`videomae-base-UTT`: MERBench's recipe with the small model."""

    name = "videomae-base-UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "videomae-base-UTT", "frame": "videomae-base-FRA"}
    paper = BASE
    source = Source("VideoMAE base as published, for MERBench's recipe", hub="MCG-NJU/videomae-base")
