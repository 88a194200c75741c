"""AffectGPT's own part: weighted sums over time, the merged token, and projections, in front of any language model.

Names of parameters are those of the reference's state dict (affectgpt.py, 20 tensors beside the adapters). Shapes: B
clips, R rows in time, P width of faces and frames, A width of sound, W the larger of both, H the language model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from emo.featstore.errors import ModelError
from emo.featstore.spec import EncoderSpec
from emo.train.llm.affectgpt.prompt import check_tokenizer, slots, stop_ids, streams
from emo.train.llm.model import LoraArgs, TunedModel
from emo.train.llm.tokenizer import Tokenizer

MAX_CONTEXT_LEN = 1024  # max_length of the dataset; ids of a prompt that training keeps, the first one not counted


@dataclass(frozen=True)
class Widths:
    """Sizes of the features of a setting.

    Attributes:
        setting: One of `prompt.SETTINGS`.
        shapes: `(rows, columns)` by stream: `face`, `frame`, `audio`, `image`; `frame` has the columns of `face`.
        tokens: Rows of the conditioning per slot, by `video` (faces and frames), `audio`, `multi` and `image`.
    """

    setting: str
    shapes: Mapping[str, tuple[int, int]]
    tokens: Mapping[str, int]

    @classmethod
    def from_specs(cls, setting: str, specs: Sequence[EncoderSpec], tokens: Mapping[str, int]) -> Widths:
        """Sizes as the store has them, in the order of `streams`.

        Raises:
            ModelError: A feature has another number of rows in every clip, or faces and frames differ in width.
        """
        if wrong := [spec.name for spec in specs if spec.level == "utt" or not spec.rows]:
            raise ModelError(f"{', '.join(wrong)}: no fixed number of rows.", "Use features of level tokens.")
        shapes = {name: (spec.rows or 0, spec.dim) for name, spec in zip(streams(setting), specs, strict=True)}
        if len({dim for name, (_, dim) in shapes.items() if name != "audio"}) > 1:
            raise ModelError("Faces and frames share one projection, and have features of different widths.")
        return cls(setting, shapes, dict(tokens))

    @property
    def video(self) -> int:
        """Columns P of faces, frames and images; 0 where there are none."""
        return next((dim for name, (_, dim) in self.shapes.items() if name != "audio"), 0)

    @property
    def audio(self) -> int:
        """Columns A of sound; 0 where there is none."""
        return self.shapes.get("audio", (0, 0))[1]

    def count(self, slot: str) -> int:
        """Rows of one slot."""
        return self.tokens["video" if slot in ("face", "frame") else slot]

    def rows(self) -> dict[str, range]:
        """Rows of the conditioning by slot, in the order of the prompt."""
        found, start = {}, 0
        for slot in slots(self.setting):
            found[slot] = range(start, start + self.count(slot))
            start += self.count(slot)
        return found


class AffectGpt(TunedModel):
    """A language model with AffectGPT's fusion and projections.

    Args:
        llm: See `TunedModel`.
        tokenizer: Its tokenizer.
        widths: Sizes of the features.
        lora: The adapters.
        source: Where the language model came from.
        seed: What adapters and projections were drawn from.

    Raises:
        ModelError: As `TunedModel`.
    """

    max_context_len = MAX_CONTEXT_LEN

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: Tokenizer,
        widths: Widths,
        lora: LoraArgs,
        source: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__(llm, tokenizer, lora, source, seed)
        check_tokenizer(tokenizer, source)
        self.widths, self._rows_of = widths, widths.rows()
        hidden, video, audio = self.embeddings.weight.shape[1], widths.video, widths.audio
        if video:
            self.image_llama_proj = nn.Linear(video, hidden)
            self.image_llama_proj.requires_grad_("image" in self._rows_of)  # in every file, and trained by images only
        if any(slot in self._rows_of for slot in ("face", "frame")):
            self.video_attention_mlp = nn.Linear(video, 1)
            self.affectgpt_proj = nn.Linear(video, hidden)
        if "audio" in self._rows_of:
            self.audio_attention_mlp = nn.Linear(audio, 1)
            self.audio_llama_proj = nn.Linear(audio, hidden)
        if "multi" in self._rows_of:
            wide = max(video, audio)
            self.multi_audio_embs = nn.Linear(audio, wide)
            self.multi_video_embs = nn.Linear(video, wide)
            self.attention_mlp = nn.Linear(2 * wide, wide)
            self.fc_att = nn.Linear(wide, 2)
            self.multi_llama_proj = nn.Linear(wide, hidden)
        self.to(self.embeddings.weight.device)

    @property
    def rows(self) -> int:
        """Rows C of the conditioning: those of the prompt's slots, in its order."""
        return sum(map(len, self._rows_of.values()))

    @property
    def stops(self) -> tuple[tuple[int, ...], ...]:
        """Return the end id, `###` in each of its spellings, and what the language model itself ends with."""
        own = getattr(self.llm.generation_config, "eos_token_id", None)
        own = [own] if isinstance(own, int) else own or []
        return tuple(dict.fromkeys([*stop_ids(self.tokenizer), *((each,) for each in own)]))

    def slot(self, name: str) -> range:
        """Return the rows of the conditioning that a prompt's slot takes."""
        return self._rows_of[name]

    def kept(self) -> list[tuple[str, nn.Parameter]]:
        """Trainable parameters, and the projection of images, which official files carry along."""
        frozen = [(name, each) for name, each in self.named_parameters() if name.startswith("image_llama_proj.")]
        return [*self.trainable(), *(pair for pair in frozen if not pair[1].requires_grad)]

    def condition(self, features: Sequence[Tensor]) -> Tensor:
        """Turn features into embeddings `(B, C, H)`.

        Args:
            features: `(B, R, D)` each, in the order of `prompt.streams`.
        """
        given = {name: each.float() for name, each in zip(streams(self.widths.setting), features, strict=True)}
        parts = []
        for slot, rows in self._rows_of.items():
            token = self._token(slot, given)  # (B, H)
            parts.append(token[:, None].expand(-1, len(rows), -1))  # more than one repeat it
        return torch.cat(parts, dim=1)

    def _token(self, slot: str, given: Mapping[str, Tensor]) -> Tensor:
        if slot == "multi":
            return self.multi_llama_proj(self.merged(given))
        if slot == "image":
            return self.image_llama_proj(given["image"].mean(1))
        score, project = (
            (self.audio_attention_mlp, self.audio_llama_proj)
            if slot == "audio"
            else (self.video_attention_mlp, self.affectgpt_proj)
        )
        rows = given[slot]
        return project((score(rows) * rows).sum(1))  # no softmax, no scaling (affectgpt.py, fusion `attention`)

    def merged(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return video and sound as one vector `(B, W)`, weighted by what both say together."""
        video = given["frame" if self.widths.setting.startswith("multiframe") else "face"]
        both = (self.multi_video_embs(video.mean(1)), self.multi_audio_embs(given["audio"].mean(1)))
        weights = self.fc_att(self.attention_mlp(torch.cat(both, -1)))  # (B, 2)
        return weights[:, :1] * both[0] + weights[:, 1:] * both[1]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the features of one clip."""
        return list(self.widths.shapes.values())

    def build(self) -> dict[str, Any]:
        """Return setting and widths."""
        table = asdict(self.widths)
        return {"widths": table | {"shapes": {name: list(shape) for name, shape in self.widths.shapes.items()}}}


def official_names(named: Sequence[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, nn.Parameter]]:
    """Give parameters the names that the reference saves them under: adapters with peft's `.default`."""
    for name, each in named:
        yield (
            name.replace(".lora_A.weight", ".lora_A.default.weight").replace(
                ".lora_B.weight", ".lora_B.default.weight"
            ),
            each,
        )
