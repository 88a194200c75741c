"""Identity of a feature: the recipe that made it, and the fingerprint of that recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from emo.featstore.errors import UsageError
from emo.featstore.files import digest
from emo.featstore.reading import parse_own

RECORD_LEVEL = "record"
LEVELS = ("utt", "frame", "tokens")  # of features
PROFILES = ("paper", "tiny", "random", "imported")


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that changes the numbers of a feature, and nothing else.

    Compute dtype, batch size and device are environment, not identity: they are recorded with a commit.

    Attributes:
        name: The field's name of the feature: `HL-UTT`, `mae_340_UTT`, `maeV_399_UTT`, `eva_g_448`.
        encoder: Family of the encoder: `hubert`, `mae`, `videomae`, `eva`.
        modality: `audio`, `face`, `frame` or `text`.
        level: `utt` (one row), `frame` (one row per `hop_s`), `tokens` (the encoder's token rows);
            `record` for JSON values, see `storage/records.py`.
        dim: Columns D of the `(T, D)` matrix.
        rows: Rows T of every record where fixed (`utt`: 1, EVA: 1025), or `None`.
        profile: `paper`, `tiny`, `random` (published sizes, seeded weights) or `imported`; none passes for another.
        weights: Content hash of the weights file(s), or `seed:N` for random ones.
        version: Version of emo's code for this recipe; raised when the numbers change.
        recipe: Preprocessing constants, layer, pooling, face recipe, decoder, architecture sizes.
    """

    name: str
    encoder: str
    modality: str
    level: str
    dim: int
    rows: int | None
    profile: str
    weights: str
    version: int = 1
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.level not in (*LEVELS, RECORD_LEVEL):
            raise ValueError(f"level {self.level!r} of {self.name} is not one of {', '.join(LEVELS)}")
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile!r} of {self.name} is not one of {', '.join(PROFILES)}")
        if not self.name or "@" in self.name or "/" in self.name:
            raise ValueError(f"feature name {self.name!r} must be non-empty, without '@' and '/'")

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces, shortest round-trip floats."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of BLAKE2b over the canonical JSON."""
        return digest(self.canonical().encode())

    @property
    def key(self) -> str:
        """Name of the feature in a store: `name@` and the first 8 digits of the fingerprint."""
        return f"{self.name}@{self.fingerprint[:8]}"

    def bytes_of(self, clips: int) -> int | None:
        """Bytes that so many records take, in half precision below `utt`; `None` where each has other rows."""
        width = 4 if self.level == "utt" or self.recipe.get("stored_dtype") == "float32" else 2
        return None if self.rows is None else clips * self.rows * self.dim * width

    @classmethod
    def from_json(cls, text: str) -> EncoderSpec:
        """Inverse of `canonical`.

        Raises:
            ValueError: Not the canonical JSON of a spec.
        """
        try:
            return cls(**parse_own(text, "the spec"))
        except (TypeError, UsageError) as error:
            raise ValueError(f"not an encoder spec: {error}") from error
