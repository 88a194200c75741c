"""Keys and values with room hold what those of transformers hold, without copying it for every id."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer

from emo.train.llm.cache import ROOM, RoomyLayer, roomy_cache

CONFIG = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)


def rows(batch: int, count: int) -> tuple[Tensor, Tensor]:
    """Keys and values `(B, 2, N, 8)`."""
    return torch.randn(batch, 2, count, 8), torch.randn(batch, 2, count, 8)


def test_rows_are_those_of_transformers_while_others_are_added_and_leave() -> None:
    torch.manual_seed(0)
    roomy, plain = roomy_cache(CONFIG), DynamicCache(config=CONFIG)
    batch, kept = 4, torch.tensor([0, 2, 3])
    for step, count in enumerate([5, *[1] * (2 * ROOM + 3), ROOM + 2, 1]):
        if step == 3:
            batch = len(kept)
            for cache in (roomy, plain):
                cache.batch_select_indices(kept)
        for layer in range(2):
            new = rows(batch, count)
            pairs = zip(roomy.update(*new, layer), plain.update(*new, layer), strict=True)
            assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
        assert roomy.get_seq_length() == plain.get_seq_length()


def test_an_id_is_written_beside_what_is_there() -> None:
    cache = roomy_cache(CONFIG)
    keys, _ = cache.update(*rows(3, 5), 0)
    places = {cache.update(*rows(3, 1), 0)[0].data_ptr() for _ in range(ROOM)}
    assert places == {keys.data_ptr()}
    assert cache.update(*rows(3, 1), 0)[0].data_ptr() != keys.data_ptr()


def test_rows_that_leave_take_no_room_with_them() -> None:
    cache = roomy_cache(CONFIG)
    cache.update(*rows(3, 5), 0)
    cache.update(*rows(3, 5), 1)
    cache.batch_select_indices(torch.tensor([1]))
    layer = cache.layers[0]
    assert layer._keys.shape == layer._values.shape == (1, 2, 5 + ROOM, 8)


def test_layers_with_a_window_stay_as_they_are() -> None:
    window = MistralConfig(num_hidden_layers=2, sliding_window=4)
    assert all(type(layer) is RoomyLayer for layer in roomy_cache(CONFIG).layers)
    assert not any(isinstance(layer, RoomyLayer) for layer in roomy_cache(window).layers)
    assert not any(type(layer) is DynamicLayer for layer in roomy_cache(window).layers)


def test_rows_that_transformers_itself_repeats_are_taken_as_they_are_now() -> None:
    roomy, plain = roomy_cache(CONFIG), DynamicCache(config=CONFIG)
    for count, batch in ((5, 1), (1, 3)):
        for layer in range(2):
            new = rows(batch, count)
            pairs = zip(roomy.update(*new, layer), plain.update(*new, layer), strict=True)
            assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
        for cache in (roomy, plain) if batch == 1 else ():
            cache.batch_repeat_interleave(3)
