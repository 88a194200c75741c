"""The contract of an encoder; `registry.py` finds one by its name.

An encoder turns decoded input into features in two steps: `prepare` (CPU, thread-safe, one clip, uint8 where it can be)
and `encode` (device, a batch across clips). Its `spec` says everything that changes the numbers. A new encoder is one
file and one line of `registry.py`.
"""

from __future__ import annotations

import contextlib
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emo.extract.device import resolve_device
from emo.extract.encoders.vit import ViT, ViTConfig
from emo.extract.media.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, resize, to_float
from emo.extract.media.reading import AUDIO_RATE
from emo.extract.weights import (
    LoadReport,
    Reasons,
    State,
    Weights,
    find_weights,
    fit,
    rename,
    seeded_state,
    trusted,
    vit_names,
)
from emo.featstore.errors import MediaError, UsageError, WeightsMissing
from emo.featstore.install import install_command
from emo.featstore.sources.hub import Source
from emo.featstore.spec import EncoderSpec
from emo.featstore.transcripts import LANGUAGES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOADABLE = ("paper", "tiny", "random")
PIXELS = {  # means and deviations that people use, by channel
    "pixels in [0, 1], without mean and std": (None, None),
    "pixels with ImageNet's mean and std": (IMAGENET_MEAN, IMAGENET_STD),
    "pixels with CLIP's mean and std": (CLIP_MEAN, CLIP_STD),
    "pixels with mean and std 0.5": ((0.5,) * 3, (0.5,) * 3),
}


@dataclass(frozen=True)
class ClipInputs:
    """Inputs that one decode of a clip offers to the encoders; `None` where nobody asked or nothing was found.

    Attributes:
        audio: (N,) float32, 16 kHz mono in [-1, 1].
        faces: (T, h, w, 3) uint8 RGB aligned crops in time order.
        frame: (H, W, 3) uint8 RGB, the frame chosen for whole-image encoders.
        frames: (n, H, W, 3) uint8 RGB, the frames of the whole picture that the encoder picks, in its order.
        frame_time_s: Presentation time of `frame`, or of the first of `frames`.
        audio_t0_s: Time of the first audio sample, on the clock of the video.
        hop_s: Seconds between face crops; `None` where they are not evenly spaced.
        t0_s: Time of the first face crop.
        points: (T, 468, 3) float32, the face mesh of the same person in pixels of the frames, where it sees one.
        points_t0_s: Time of the first of them.
        points_hop_s: Seconds between them; `None` where they are not evenly spaced.
        transcripts: What is said, by language; of the clip, so that no media is needed for it.
    """

    audio: NDArray[np.float32] | None = None
    faces: NDArray[np.uint8] | None = None
    frame: NDArray[np.uint8] | None = None
    frames: NDArray[np.uint8] | None = None
    frame_time_s: float = 0.0
    audio_t0_s: float = 0.0
    hop_s: float | None = None
    t0_s: float = 0.0
    points: NDArray[np.float32] | None = None
    points_t0_s: float = 0.0
    points_hop_s: float | None = None
    transcripts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """One clip's input, ready for `encode`.

    Attributes:
        payload: CPU tensor, small: uint8 pixels or float32 samples.
        cost: In the encoder's own unit; a batch may cost `max_cost`.
        t0_s: Time of the first row.
        hop_s: Time between rows of the `frame` level, where known.
    """

    payload: Tensor
    cost: float
    t0_s: float = 0.0
    hop_s: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # As an array: torch would send its tensors between processes as files, of which a process may hold few.
        return _prepared, (self.payload.numpy(), self.cost, self.t0_s, self.hop_s)


def _prepared(payload: NDArray[Any], *words: Any) -> Prepared:
    return Prepared(torch.from_numpy(payload), *words)


@dataclass(frozen=True)
class Output:
    """One feature of one clip: (T, D) float32, the time of its first row and between rows."""

    array: NDArray[np.float32]
    t0_s: float = 0.0
    hop_s: float | None = None


@dataclass(frozen=True)
class Decoded:
    """One clip, decoded for an encoder and for all its variants.

    Attributes:
        inputs: As the recipe has them.
        frames: Other frames of the clip by name (`first`, `second`, `middle`, `last`), for whole-image encoders.
        sound: Mono samples at their own rate, encoder padding at the end included, and that rate.
        listing: Order in which the file system lists the face crops; `None` where they are no files.
        path: The clip itself, for a variant that decodes it in another way.
    """

    inputs: ClipInputs
    frames: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    sound: tuple[NDArray[np.float64], int] | None = None
    listing: Sequence[int] | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Variant:
    """One change to a recipe that others are known to make: it would explain why their features differ.

    Attributes:
        cause: A word for its kind; those with an explanation are in `emo.extract.compare.variants`.
        change: What the other side does, in words.
        encoder: The encoder itself, or a `twin` with the change.
        view: What the encoder is given of a clip.
        family: Whether the cause has more members than can be tried, so that the size of the change says something.
    """

    cause: str
    change: str
    encoder: Encoder
    view: Callable[[Decoded], ClipInputs] = lambda decoded: decoded.inputs
    family: bool = False

    def run(self, decoded: Decoded, level: str) -> NDArray[np.float32]:
        """The feature (T, D) that this change gives."""
        return self.encoder.encode([self.encoder.prepare(self.view(decoded))], [level])[0][level].array


def faces_in_order(choose: Callable[[Decoded, int], Sequence[int]]) -> Callable[[Decoded], ClipInputs]:
    """A view with the face crops in another order, or with some of them only."""
    return lambda decoded: replace(
        decoded.inputs, faces=decoded.inputs.faces[choose(decoded, len(decoded.inputs.faces))]
    )


def _in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Outside of autocast. oneDNN 3.12 (torch 2.13) gives other numbers altogether in bfloat16 on processors with AMX,
    for convolutions with groups of few channels and long kernels, such as those of positions in small networks."""
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())


class Encoder(ABC):
    """One named recipe: model, preprocessing and pooling.

    Profiles are honest by rule. `paper`: the published sizes, weights from a file. `tiny`: small sizes (or `config`, or
    those of a weights folder), weights seeded unless given. `random`: the published sizes with seeded weights, for
    measuring speed. Weights are read by `load`, or by the first `encode`; `spec` and `prepare` do not need them.
    What is computed without a network (`learned = False`) is the same, and called `paper`, in every profile.

    Args:
        profile: `paper`, `tiny` or `random`.
        weights: A file, a Hugging Face folder, or a hub id.
        device: Device of the model, such as `cpu` or `cuda:0`.
        dtype: Compute type: `float32`, or autocast to `bfloat16` or `float16`.
        seed: Seed of random weights.
        config: Sizes other than the profile's (profile `tiny` only).
        media_recipe: What the pipeline did to the input (decoder, faces, choice of frame); part of the identity.

    Raises:
        UsageError: An argument does not go with another, or the device is not there.
        WeightsMissing: The weights are not there.
        ModelError: The weights have other sizes than the profile says.
    """

    name: ClassVar[str]
    names: ClassVar[Mapping[str, str]]  # level -> name of the feature
    family: ClassVar[str]
    modality: ClassVar[str]
    needs: ClassVar[str]  # "audio", "faces", "points", "frame", "frames" or "text"
    frame_size: tuple[int, ...] = ()  # of `frames`: width and height that they are decoded to; empty: their own
    source: ClassVar[Source] = Source()  # where the published weights are
    budget: ClassVar[Mapping[str, float]]  # device kind -> cost of one batch at true size
    ignore: ClassVar[Reasons] = ()  # what a weights file may hold besides, each with a reason
    version: ClassVar[int] = 1
    beside: ClassVar[tuple[str, ...]] = ()  # files that a folder of weights must hold besides config.json
    also: ClassVar[str] = ""  # key under [weights] of a second file, for an option of that name
    extra: ClassVar[str] = ""  # of emo's own extras, the one that an encoder or its weights come with
    learned: ClassVar[bool] = True  # whether there is a network, with weights
    languages: ClassVar[tuple[str, ...]] = ()  # of the transcripts that it reads, best first

    def __init__(
        self,
        *,
        profile: str = "paper",
        weights: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        config: Any = None,
        media_recipe: Mapping[str, Any] | None = None,
    ) -> None:
        if profile not in LOADABLE:
            raise UsageError(f"Profile {profile!r} is not one of {', '.join(LOADABLE)}.")
        if dtype not in DTYPES:
            raise UsageError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
        if not self.learned:
            if weights is not None:
                raise UsageError(f"{self.name} has no weights to load.", "Take it out of [weights] in emo.toml.")
            profile = "paper"
        elif profile == "paper" and (weights := weights or self.installed()) is None:
            named = f"[weights] in emo.toml ({self.source.where})"
            hint = f'Add "{self.name}" = "..." under {named}, or use --profile tiny.'
            hint = f"Install them: {install_command(self.extra)}. Or: {hint}" if self.extra else hint
            raise WeightsMissing(f"{self.name} has no weights.", hint)
        if profile == "random" and weights is not None:
            raise UsageError(f"{self.name}: profile `random` draws its weights and takes no file.")
        if config is not None and profile != "tiny":
            raise UsageError(f"{self.name}: sizes of one's own go with profile `tiny`, not `{profile}`.")
        self.device = resolve_device(device)
        self.profile, self.dtype, self.seed = profile, dtype, seed
        self.weights: Weights | None = None if weights is None else find_weights(weights)
        self.media_recipe = dict(media_recipe or {})
        self.notes: list[str] = []  # settings that are not as published, or that nobody stated
        with self._trusted():
            self.config = self.configure(config)
        tiny = 4 * self.budget["cpu"]  # small models, so more at once; but not so much that the first result is late
        self.max_cost: float = tiny if profile == "tiny" else self.budget.get(self.device.type, self.budget["cpu"])
        self.report = LoadReport()
        self._model: nn.Module | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}  # to prepare in another process, nobody needs the model

    def twin(self, kind: type[Encoder] | None = None, **members: Any) -> Any:
        """A copy that shares the model; `members` take the place of its methods and attributes, `kind` of its class."""
        self.load()
        twin = object.__new__(kind or type(self))
        vars(twin).update(vars(self) | members)
        return twin

    def variants(self) -> Iterator[Variant]:
        """Changes that others are known to make; `emo store compare` tries them, and the first that explains counts."""
        for dtype in ("float16", "bfloat16") if self.learned else ():
            yield Variant("half-precision", f"computed in {dtype}", self.twin(dtype=dtype), family=True)

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels that this encoder gives."""
        return tuple(self.names)

    def spec(self, level: str) -> EncoderSpec:
        """Identity of the feature at one level.

        Raises:
            UsageError: The encoder does not have this level.
        """
        if level not in self.names:
            raise UsageError(f"{self.name} has no level {level!r}.", f"It has {', '.join(self.names)}.")
        read = {LANGUAGES: list(self.languages)} if self.needs == "text" else {}
        return EncoderSpec(
            name=self.names[level],
            encoder=self.family,
            modality=self.modality,
            level=level,
            dim=self.dim,
            rows=1 if level == "utt" else self.rows(level),
            profile=self.profile,
            weights=self.weights.hash if self.weights else f"seed:{self.seed}" if self.learned else "none",
            version=self.version,
            recipe={**self.recipe(level), "media": self.media_recipe} | read,
        )

    def load(self) -> LoadReport:
        """Read the weights and put the model on its device; does nothing the second time.

        Raises:
            ModelError: The file does not fit the model, tensor by tensor.
        """
        if self._model is not None:
            return self.report
        with torch.device("meta"), self._trusted():
            model = self.build()
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if self.weights is None:
            state = seeded_state(expected, self.seed)
            self.report = LoadReport(notes=(f"random weights, seed {self.seed}",) if self.learned else ())
        else:
            with self._trusted():
                found, dropped, notes = self.adapt(self.weights.tensors(), expected)
                state, report = fit(expected, found, self.ignore, self.weights.source)
            self.report = LoadReport(report.consumed, {**report.ignored, **dropped}, tuple(notes))
        model.load_state_dict(state, strict=True, assign=True)
        self.use(model.eval().requires_grad_(False).to(self.device))
        return self.report

    def _trusted(self) -> contextlib.AbstractContextManager[None]:
        """Whatever goes wrong in it is said of the weights, where there are any."""
        return contextlib.nullcontext() if self.weights is None else trusted(self.weights.source)

    def use(self, model: nn.Module) -> None:
        """Take a model that is on the device; its matrices get the compute type."""
        if self.dtype != "float32":
            for module in model.modules():  # norms, biases of attention, tokens and tables stay float32
                if isinstance(module, nn.Linear):
                    module.to(DTYPES[self.dtype])
                elif isinstance(module, nn.Conv1d) and module.groups > 1 and self.device.type == "cpu":
                    module.forward = functools.partial(_in_float32, module.forward)  # type: ignore[method-assign]
        self._model = model

    @contextlib.contextmanager
    def computing(self) -> Iterator[nn.Module]:
        """The model, with gradients off and autocast as asked; `float32` means float32, not TF32."""
        self.load()
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.dtype != "float32":
                stack.enter_context(torch.autocast(self.device.type, dtype=DTYPES[self.dtype]))
            elif self.device.type == "cuda":
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            yield self._model

    def stage(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """Put clips together and on the device, from pinned memory and without waiting where there is a GPU."""
        return [self.to_device(tensor) for tensor in self.collate(batch)]

    def to_device(self, tensor: Tensor) -> Tensor:
        """A CPU tensor on the device; on a GPU the copy is under way on the current stream."""
        return tensor.to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors one after the other (their first dimensions add up), in pinned memory where there is a GPU."""
        shape = (sum(len(each) for each in tensors), *tensors[0].shape[1:])
        out = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=self.device.type == "cuda")
        return torch.cat(list(tensors), out=out)

    def pad(self, rows: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return each group of rows (L,) as (B, L) with zeros to the right, and its lengths (B,); see `join`."""
        tensors: list[Tensor] = []
        for group in groups:
            some = [rows[i] for i in group]
            tensors += [nn.utils.rnn.pad_sequence(some, batch_first=True), torch.tensor([len(each) for each in some])]
        return [tensor.pin_memory() for tensor in tensors] if self.device.type == "cuda" else tensors

    def pool(self, rows: Sequence[Tensor], levels: Sequence[str]) -> dict[str, Tensor | Sequence[Tensor]]:
        """Rows by level, still on the device: `utt` is the mean, summed in float64, (B, 1, D)."""
        pooled: dict[str, Tensor | Sequence[Tensor]] = {level: rows for level in levels if level != "utt"}
        if "utt" in levels:
            means = [each.mean(0, keepdim=True, dtype=torch.float64) for each in rows]
            pooled["utt"] = torch.stack(means).float()
        return pooled

    def fetch(
        self, pooled: Mapping[str, Tensor | Sequence[Tensor]], batch: Sequence[Prepared]
    ) -> list[dict[str, Output]]:
        """Bring what `pool` gave to the host: one dict per clip, output by level."""
        results: list[dict[str, Output]] = [{} for _ in batch]
        for level, tensors in pooled.items():
            tensors = tensors.cpu() if isinstance(tensors, Tensor) else [each.cpu() for each in tensors]
            for result, item, array in zip(results, batch, tensors, strict=True):
                result[level] = Output(array.numpy(), item.t0_s, None if level == "utt" else item.hop_s)
        return results

    def encode(self, batch: Sequence[Prepared], levels: Sequence[str] | None = None) -> list[dict[str, Output]]:
        """Encode clips together; what a clip gets does not depend on its neighbours.

        Args:
            batch: Prepared clips; their costs should sum to at most `max_cost`.
            levels: Levels to return; all by default. `utt` is the mean over the rows of the others, summed in float64.

        Returns:
            One dict per clip, in the order of the batch: output by level.
        """
        if not batch:
            return []
        with torch.inference_mode():
            rows = self.run(self.stage(batch), batch)
            return self.fetch(self.pool(rows, self.levels if levels is None else levels), batch)

    def level_of(self, name: str) -> str:
        """Level that a name of the feature implies (`HL-FRA`: frame); else the first."""
        return next((level for level, feature in self.names.items() if feature == name), self.levels[0])

    def parameters(self) -> int:
        """Number of the model's parameters, told without making them."""
        with torch.device("meta"):
            return sum(each.numel() for each in self.build().parameters())

    @classmethod
    def sample(cls, size: int, seed: int = 0) -> ClipInputs:
        """Random input for the contract test; a larger `size` is a longer clip, or a larger frame."""
        rng = np.random.default_rng(seed)
        if cls.needs == "audio":
            return ClipInputs(audio=rng.normal(0, 0.1, 4000 * size).astype(np.float32))
        if cls.needs == "faces":
            return ClipInputs(faces=rng.integers(0, 256, (size, 112, 96, 3), dtype=np.uint8), hop_s=0.04)
        if cls.needs == "points":
            return ClipInputs(points=rng.normal(100, 50, (size, 468, 3)).astype(np.float32), points_hop_s=0.04)
        if cls.needs == "text":
            words = ("".join(map(chr, rng.integers(97, 123, 5))) for _ in range(size))
            return ClipInputs(transcripts={"english": " ".join(words)})
        return ClipInputs(frame=rng.integers(0, 256, (90 + size, 160, 3), dtype=np.uint8), frame_time_s=2.0)

    def pick(self, n: int) -> Sequence[int]:
        """Numbers of the frames that it sees of a clip of `n` (`needs = "frames"`); a number may come twice."""
        raise NotImplementedError(f"{self.name} picks no frames")

    @classmethod
    def installed(cls) -> str | None:
        """Weights that an installed package brings, to be used where none are named."""
        return None

    @property
    @abstractmethod
    def dim(self) -> int:
        """Columns of the feature."""

    def rows(self, level: str) -> int | None:
        """Rows of every record at a level other than `utt`, where fixed."""
        return None

    @abstractmethod
    def configure(self, config: Any) -> Any:
        """Sizes of the model: `config` if given, else those of the profile (or of the weights' own config.json)."""

    @abstractmethod
    def recipe(self, level: str) -> dict[str, Any]:
        """Everything between decoded input and feature that changes the numbers, as plain JSON values."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The model, without values."""

    @abstractmethod
    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        """Rename a file's tensors to the model's names: (tensors, dropped ones with reasons, notes)."""

    @abstractmethod
    def prepare(self, inputs: ClipInputs) -> Prepared:
        """Prepare one clip on the CPU; may run in many threads at once.

        Raises:
            MediaError: The clip lacks what the encoder needs (`no-audio`, `no-face`, `no-frame`, `no-text`,
                `audio-too-short`, `silent`, `bad-input`).
        """

    @abstractmethod
    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """CPU tensors of a batch, as few as can be; see `join`."""

    @abstractmethod
    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Sequence[Tensor]:
        """Rows (T, D) of each clip, float32 on the device; waits for nothing.

        Args:
            tensors: What `collate` made of the batch, on the device.
            batch: The clips, for their sizes.
        """


class ViTEncoder(Encoder):
    """An encoder whose model is `emo.extract.encoders.vit.ViT`."""

    paper: ClassVar[ViTConfig]
    small: ClassVar[ViTConfig]
    prefixes: ClassVar[str] = r"^module\."  # taken off the names in a file
    mean: Sequence[float] | None = None  # of the pixels in [0, 1], by channel; `None`: they stay as they are
    std: Sequence[float] | None = None

    def configure(self, config: ViTConfig | None) -> ViTConfig:
        return config or (self.small if self.profile == "tiny" else self.paper)

    @property
    def dim(self) -> int:
        return self.config.dim

    def recipe(self, level: str) -> dict[str, Any]:
        return {"colour": "RGB", "scale": "1/255", "arch": asdict(self.config)}

    def build(self) -> nn.Module:
        return ViT(self.config)

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """Pixels (sum of n, h, w, 3) of the clips' n images, one tensor per image size."""
        return [self.join([batch[i].payload for i in group]) for group in _by_size(batch)]

    def pixels(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
        """Turn what `collate` made into what the model takes: (sum of n, 3, S, S) float32, the clips in their order."""
        groups = _by_size(batch)
        images = [to_float(resize(t, self.config.img, "bilinear"), self.mean, self.std) for t in tensors]
        if len(groups) == 1:
            return images[0]
        parts = {
            i: part
            for group, all_ in zip(groups, images, strict=True)
            for i, part in zip(group, all_.split([len(batch[i].payload) for i in group]), strict=True)
        }
        return torch.cat([parts[i] for i in range(len(batch))])

    def variants(self) -> Iterator[Variant]:
        for words, (mean, std) in PIXELS.items():
            if mean != self.mean:
                yield Variant("normalisation", words, self.twin(mean=mean, std=std))
        yield from super().variants()

    def other_norms(self) -> list[tuple[str, nn.Module]]:
        """Final norms that another program might apply: one that was never trained, and those in the weights file."""
        norms: list[tuple[str, nn.Module]] = [("an untrained norm", nn.LayerNorm(self.dim, eps=self.config.eps))]
        state = {} if self.weights is None else self.weights.tensors()
        for name, weight in state.items():
            if re.search(r"(^|\.)(fc_norm|norm|layernorm)\.weight$", name) and not re.search(
                r"decoder|blocks|\d\.", name
            ):
                norm = nn.LayerNorm(self.dim, eps=self.config.eps)
                if weight.shape == norm.weight.shape:
                    norm.load_state_dict({"weight": weight, "bias": state[name.removesuffix("weight") + "bias"]})
                    norms.append((f"the file's {name.removesuffix('.weight')}", norm))
        return [(words, norm.to(self.device).requires_grad_(False)) for words, norm in norms]

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        state = rename(state, [(self.prefixes, "")], self.weights.source)
        return *vit_names(state, self.config.bias, self.weights.source), []


def _by_size(batch: Sequence[Prepared]) -> list[list[int]]:
    """Numbers of the clips whose images have the same size, in order of appearance."""
    groups: dict[torch.Size, list[int]] = {}
    for i, item in enumerate(batch):
        groups.setdefault(item.payload.shape[-3:], []).append(i)
    return list(groups.values())


def check_pixels(array: NDArray[np.uint8] | None, dims: int, kind: str, what: str) -> NDArray[np.uint8]:
    """Refuse missing, empty or mistyped pixels.

    Raises:
        MediaError: `kind` where there is nothing, `bad-input` where it is not uint8 RGB.
    """
    if array is None or array.size == 0:
        raise MediaError(kind, f"The clip has no {what}.")
    if array.dtype != np.uint8 or array.ndim != dims or array.shape[-1] != 3:
        raise MediaError("bad-input", f"The {what} must be uint8 RGB, not {array.dtype} of shape {array.shape}.")
    return array


def check_audio(audio: NDArray[np.float32] | None, shortest: int, who: str) -> NDArray[np.float32]:
    """Refuse missing, short or mistyped samples.

    Raises:
        MediaError: `no-audio`, `audio-too-short`, or `bad-input` where it is not mono, float and finite.
    """
    if audio is None:
        raise MediaError("no-audio", "The clip has no audio.")
    if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating):
        raise MediaError("bad-input", f"Audio must be mono float, not {audio.dtype} of shape {audio.shape}.")
    if len(audio) < shortest:
        need = f"{shortest} ({1000 * shortest / AUDIO_RATE:g} ms)"
        raise MediaError("audio-too-short", f"{len(audio)} samples of audio: {who} needs {need}.")
    if not np.isfinite(audio).all():
        raise MediaError("bad-input", "The audio holds values that are not finite.")
    return audio
