"""Keys and values of what a language model has read, with room for the ids that follow."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 16  # rows; memory of a prompt of 350 rows grows by a twentieth, and all is copied for every 16th id only


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, where a `DynamicLayer` copies all of them for every id that is added.

    `keys` and `values` `(B, heads, T, D)` are the part in use of tensors that have room for more rows.
    """

    _spaces: tuple[Tensor, Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add rows `(B, heads, N, D)`; return keys and values of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if start == 0 or end > self._spaces[0].shape[-2]:
            self._spaces = _larger(self.keys, key_states, end), _larger(self.values, value_states, end)
        for space, new in zip(self._spaces, (key_states, value_states), strict=True):
            space[:, :, start:end] = new
        return self._use(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        keys, values = self._spaces
        self._spaces = keys[indices], values[indices]
        self._use(self.get_seq_length())

    def _use(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (space[:, :, :length] for space in self._spaces)
        return self.keys, self.values


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a language model; layers with a sliding window are transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _larger(old: Tensor, new: Tensor, rows: int) -> Tensor:
    batch, heads, _, width = new.shape
    space = new.new_empty((batch, heads, rows + ROOM, width))
    if old.numel():
        space[:, :, : old.shape[-2]] = old
    return space
