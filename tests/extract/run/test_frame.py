"""Which frame a whole-image encoder sees."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from emo.extract.run.decode import ClipDecoder


@pytest.mark.parametrize(("n_frames", "middle"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (100, 50)])
def test_the_middle_of_an_even_number_is_the_later_one(n_frames: int, middle: int) -> None:
    media = SimpleNamespace(info=SimpleNamespace(n_frames=n_frames))
    assert ClipDecoder({}, None, "middle", None)._frame_index(media, "clip") == middle
    assert ClipDecoder({}, None, "first", None)._frame_index(media, "clip") == 0
