"""Keys and values of what a language model has read, with room for the ids that follow."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 16  # rows; memory of a prompt of 350 rows grows by a twentieth, and all is copied for every 16th id only


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, where a `DynamicLayer` copies all of them for every id that is added.

    `keys` and `values` `(B, heads, T, D)` are the part in use of tensors that have room for more rows; where another
    method of transformers has put others in their place, they are copied like those of a `DynamicLayer`.
    """

    _keys: Tensor
    _values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add rows `(B, heads, N, D)`; return keys and values of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, rows = self.get_seq_length(), key_states.shape[-2]
        if start == 0 or start + rows > self._keys.shape[-2] or self.keys.data_ptr() != self._keys.data_ptr():
            self._keys = _larger(self.keys, key_states, start + rows)
            self._values = _larger(self.values, value_states, start + rows)
        self._keys.narrow(2, start, rows).copy_(key_states)
        self._values.narrow(2, start, rows).copy_(value_states)
        return self._use(start + rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._use(self.get_seq_length())

    def _use(self, rows: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._keys.narrow(2, 0, rows), self._values.narrow(2, 0, rows)
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
        space.narrow(2, 0, old.shape[-2]).copy_(old)
    return space
