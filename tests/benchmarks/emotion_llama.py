"""What `tune.py` and `answers.py` share: a language model of LLaMA-2-7B's sizes with a store of random features before
it, and the official code's way of working (ZebangCheng/Emotion-LLaMA, 4ee28d20), written anew from its description.

Weights and features are random, for speed does not depend on them. Lengths do matter: they are those of real prompts
and answers, counted in the data if a folder is given, else taken from the tables below.
"""

from __future__ import annotations

import csv
import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from emo.extract.demo import EMOTIONS, generate_clip
from emo.extract.encoders.eva import PAPER, TINY, EvaModel
from emo.extract.encoders.vit import Attention
from emo.extract.media.preprocess import CLIP_MEAN, CLIP_STD, resize_square, to_float
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.train.llm.emotion_llama.captions import process_answer
from emo.train.llm.emotion_llama.model import EmotionLlama
from emo.train.llm.emotion_llama.prompt import build_prompt, encode_answer, instruction
from emo.train.llm.model import IGNORED, Batch, TunedModel
from emo.train.llm.tokenizer import Tokenizer
from emo.train.recipe import load_recipe

STREAMS = ("mae_340_UTT", "maeV_399_UTT", "HL-UTT")
GIB = 2**30

# Ids of the text in a prompt, and of its answer, of 64 entries of MERR's fine captions drawn at random (seed 0) from
# 4,487: tokenizer of LLaMA-2, instructions of stage 2, layout train_consistent. Their means are 73 and 64 (of all: 71
# and 63).
REASON_LENGTHS = (
    (56, 74), (59, 59), (62, 44), (63, 54), (63, 82), (64, 62), (65, 59), (65, 62), (65, 68), (65, 69), (65, 73),
    (65, 92), (66, 49), (67, 46), (67, 59), (67, 63), (67, 71), (68, 51), (68, 57), (68, 57), (69, 57), (69, 63),
    (69, 64), (69, 70), (70, 43), (70, 53), (70, 64), (70, 64), (70, 66), (70, 68), (70, 89), (71, 56), (71, 58),
    (71, 65), (71, 88), (72, 73), (73, 66), (73, 71), (73, 85), (74, 81), (75, 54), (75, 58), (75, 65), (76, 65),
    (76, 70), (76, 82), (77, 70), (77, 75), (78, 53), (78, 65), (78, 68), (78, 69), (79, 51), (79, 56), (79, 72),
    (80, 53), (80, 60), (82, 52), (82, 72), (87, 71), (89, 67), (92, 52), (101, 62), (105, 45),
)  # fmt: skip
# Ids of the text in the prompts of the 834 clips of MER2023's test3: quantiles in per cent, and their values.
TEST3_LENGTHS = ((0, 5, 10, 25, 50, 75, 90, 95, 100), (64, 71, 74, 78, 84, 90, 98, 104, 134))
# How many of the 834 published answers have so many ids, `</s>` among them
TEST3_ANSWERS = {2: 386, 3: 57, 4: 183, 5: 14, 6: 183, 7: 11}

# To the tokenizer of bytes the real instructions would be four times as long as to LLaMA-2's.
SHORT_PROMPTS = ("prompts.emotion=['?']", "prompts.reason_v2=['?']", "template='{}'")


@dataclass(frozen=True)
class Sizes:
    """Of the models and features: the true ones on a GPU, toys elsewhere."""

    llm: str
    eva: Any
    stream: int

    @classmethod
    def of(cls, device: str) -> Sizes:
        return cls("random", PAPER, 1024) if device.startswith("cuda") else cls("tiny", TINY, 16)


@dataclass(frozen=True)
class Talk:
    """What is said to the model about one clip, and by it."""

    name: str
    transcript: str
    answer: str


def lengths(task: str, clips: int, data: Path | None) -> list[tuple[int, int]]:
    """Ids of text in the prompt, and of the answer, for each clip.

    Args:
        task: `reason_v2`: prompts and answers of MERR's fine captions. `emotion`: prompts and published answers of
            MER2023's test3.
        clips: How many.
        data: Folder that holds `data/merr`, `data/mer2023`, `data/llama2_tokenizer` and `goldens/case7_published`;
            `None` draws from the tables above.
    """
    rng = np.random.default_rng(0)
    if data is not None:
        found = _real_lengths(task, data)
        return [found[int(i)] for i in rng.permutation(len(found))[:clips]]
    if task == "reason_v2":
        return [REASON_LENGTHS[int(i)] for i in rng.integers(len(REASON_LENGTHS), size=clips)]
    texts = np.interp(np.linspace(0, 100, clips), *TEST3_LENGTHS).round().astype(int)
    answers = np.repeat(list(TEST3_ANSWERS), list(TEST3_ANSWERS.values()))
    answers = answers[np.linspace(0, len(answers) - 1, clips).astype(int)]
    return list(zip(rng.permutation(texts).tolist(), rng.permutation(answers).tolist(), strict=True))


def _real_lengths(task: str, data: Path) -> list[tuple[int, int]]:
    tokenizer = Tokenizer.from_file(data / "data" / "llama2_tokenizer" / "tokenizer.model")
    recipe = load_recipe("emotion-llama-stage2")
    if task == "reason_v2":
        table = json.loads((data / "data" / "merr" / "MERR_fine_grained.json").read_text(encoding="utf-8"))
        pairs = [(row.get("text") or "", process_answer(row["smp_reason_caption"])) for row in table.values()]
    else:
        answers = json.loads((data / "goldens" / "case7_published" / "raw_answers.json").read_text(encoding="utf-8"))
        with open(data / "data" / "mer2023" / "transcription-engchi-polish.csv", encoding="utf-8", newline="") as file:
            said = {row["name"]: row["english"] for row in csv.DictReader(file)}
        pairs = [(said.get(name) or "", answer) for name, answer in answers.items()]
    texts, found = recipe.prompts[task], []
    for i, (transcript, answer) in enumerate(pairs):
        prompt = build_prompt("train_consistent", instruction(task, texts[i % len(texts)], transcript), tokenizer)
        text = sum(len(each) for each in prompt.segments if not isinstance(each, str))
        found.append((text, len(encode_answer(answer, tokenizer))))
    return found


def talks(task: str, clips: int, data: Path | None) -> list[Talk]:
    """Letters of the right number for the tokenizer of bytes, to which each is one id; prompts as `SHORT_PROMPTS`."""
    around = 71 + len(task)  # ids of the prompt beside the transcript
    return [
        # What the prompt cannot be shorter is taken off the answer, so that the sum is right.
        Talk(f"clip_{i:04d}", "a" * max(0, text - around), "b" * max(1, answer - 1 - max(0, around - text)))
        for i, (text, answer) in enumerate(lengths(task, clips, data))
    ]


def make_store(path: Path, names: list[str], sizes: Sizes, records: int = 64) -> Store:
    """A store of random features; there are so many different ones, which the clips share."""
    rng = np.random.default_rng(0)
    tokens = EncoderSpec("eva_g_448", "eva", "frame", "tokens", sizes.eva.dim, sizes.eva.tokens, "random", "seed:0")
    streams = [EncoderSpec(name, "any", "face", "utt", sizes.stream, 1, "random", "seed:0") for name in STREAMS]
    base = rng.standard_normal((sizes.eva.tokens, sizes.eva.dim), np.float32)
    media = [f"{i:032x}" for i in range(min(records, len(names)))]
    with open_store(path, create=True).writer() as writer:
        for i, name in enumerate(names):
            writer.clip(name, media[i % len(media)])
        for i, each in enumerate(media):
            writer.add(tokens, each, np.roll(base, i, 0))
            for spec in streams:
                writer.add(spec, each, rng.standard_normal((1, sizes.stream), np.float32))
    return open_store(path)


def roomy(device: str) -> bool:
    """Whether it is a GPU of more than 100 GiB, such as an H200."""
    return device.startswith("cuda") and torch.cuda.get_device_properties(device).total_memory > 100 * GIB


def wait(device: str) -> None:
    """Until the GPU has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def clear(device: str) -> None:
    """Begin to watch the peak of GPU memory anew, without what is left of the way before."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def reached(yes: bool) -> str:
    return "reached" if yes else "missed"


def measured_peak(device: str) -> float:
    """FLOP/s of a large bf16 product on this GPU, the best of some."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(30):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.matmul(a, b)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return 2 * 8192**3 / min(seconds)


# ---- the official way ------------------------------------------------------------------------------------------------


def to_official(model: EmotionLlama, official: bool, attention: str) -> None:
    """Give a model the official number format (fp16 on a GPU), norms and attention, or emo's own back.

    Args:
        model: Its frozen weights are cast where they are.
        official: fp16 and a norm of many kernels, as in transformers 4.30; else bf16 and one kernel.
        attention: `eager` or `sdpa`.
    """
    set_dtype(model, torch.float16 if official else torch.bfloat16)
    set_norms(model, official)
    model.llm.set_attn_implementation(attention)


def set_dtype(model: EmotionLlama, dtype: torch.dtype) -> None:
    """Cast the frozen weights, on a GPU; a CPU has float32."""
    if model.device.type == "cuda":
        for parameter in model.llm.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


def set_norms(model: EmotionLlama, official: bool) -> None:
    """LLaMA's norm as transformers writes it, kernel by kernel, or the one that emo puts in its place."""
    for norm in model.llm.modules():
        if isinstance(norm, nn.RMSNorm):
            if official:
                norm.forward = MethodType(_norm, norm)
            else:
                vars(norm).pop("forward", None)


def _norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.eps)
    return norm.weight * y.to(x.dtype)


class OfficialEva:
    """The frozen image encoder in the loop: matrices in fp16, the rest in fp32, plain attention (eva_vit.py)."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        self.device = torch.device(device)
        before = torch.cuda.memory_allocated() if self.device.type == "cuda" else 0
        with self.device:
            self.model = EvaModel(sizes.eva).eval().requires_grad_(False)
        for module in self.model.modules():
            if self.device.type == "cuda" and isinstance(module, nn.Linear | nn.Conv2d):
                module.half()
            if isinstance(module, Attention):
                module.forward = MethodType(_attention, module)
        self.memory_bytes = torch.cuda.memory_allocated() - before if self.device.type == "cuda" else 0

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """`(B, 3, S, S)` to tokens `(B, R, D)`."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            return self.model.tokens(pixels)


def _attention(attention: Attention, x: Tensor) -> Tensor:
    b, n, d = x.shape
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias])
    qkv = nn.functional.linear(x, attention.qkv.weight, bias).view(b, n, 3, attention.heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))


def first_frame(path: Path, side: int) -> Tensor:
    """First frame of a video as the official processor makes it (first_face.py, blip_processors.py): `(3, S, S)`."""
    with av.open(str(path)) as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return to_float(torch.from_numpy(resize_square(rgb, side, "bicubic")), CLIP_MEAN, CLIP_STD)


def make_clips(folder: Path, given: Path | None, device: str) -> list[Path]:
    """Videos to decode: those of a folder, else drawn ones."""
    if given is not None:
        return sorted(given.glob("*.mp4"))
    size, seconds = ((1280, 720), 1.0) if device.startswith("cuda") else ((320, 240), 0.2)
    paths = [folder / f"{emotion}.mp4" for emotion in EMOTIONS[:2]]
    for path, emotion in zip(paths, EMOTIONS, strict=False):
        generate_clip(path, emotion, 0, seconds, size=size)
    return paths


class OfficialItems(Dataset[tuple[Tensor, Tensor]]):
    """What a worker of the official loader does for each sample: decode, resize, read three small files."""

    def __init__(self, videos: list[Path], folder: Path, sizes: Sizes, length: int) -> None:
        self.videos, self.side, self.length = videos, sizes.eva.img, length
        self.vectors = [folder / f"{name}.npy" for name in STREAMS]
        for path in self.vectors:
            np.save(path, np.zeros(sizes.stream, np.float32))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = first_frame(self.videos[index % len(self.videos)], self.side)
        return pixels, torch.from_numpy(np.stack([np.load(path) for path in self.vectors]))


def official_loader(items: OfficialItems, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one, from the six workers of the official YAML; without workers where there is no GPU to feed."""
    cuda = device.startswith("cuda")
    return iter(DataLoader(items, batch_size=1, num_workers=6 if cuda else 0, pin_memory=cuda))


def official_loss(model: TunedModel, batch: Batch) -> Tensor:
    """Return the loss as the official code computes it (modeling_llama.py): a dense mask, logits at every row."""
    with model.autocast():
        rows, mask = model.embed(batch), batch.mask.long()
        logits = model.llm(inputs_embeds=rows, attention_mask=mask, use_cache=False).logits
    return F.cross_entropy(logits.float()[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED)
