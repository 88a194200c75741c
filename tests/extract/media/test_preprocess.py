"""What becomes of pixels, samples and numbers of frames, in known answers; goldens hold the same against the peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from emo.extract.media.preprocess import (
    normalise_audio,
    resample_exactly,
    resize,
    resize_crop,
    resize_square,
    segment_indices,
    to_float,
    uniform_indices,
    window_indices,
)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [0] * 16),
        (2, [0, 1] * 8),
        (9, [0, 1] * 8),  # the last number of frames at which all parts begin at frame 0
        (10, [0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9]),
        (17, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        (100, [6, 7, 18, 19, 30, 31, 43, 44, 55, 56, 68, 69, 80, 81, 92, 93]),
    ],
)
def test_two_frames_of_each_of_eight_parts(n: int, expected: list[int]) -> None:
    assert segment_indices(n) == expected


def test_one_frame_of_each_part() -> None:
    assert segment_indices(8, 8, 1) == [0] * 8
    assert segment_indices(9, 8, 1) == [0, 1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [0, 0, 0, 0]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3]), (10, [0, 2, 5, 7])]
)
def test_equal_steps(n: int, expected: list[int]) -> None:
    assert uniform_indices(n, 4) == expected
    assert len(uniform_indices(n)) == 16


def test_every_fourth_frame_from_the_start_and_to_the_end() -> None:
    assert window_indices(9, count=4) == [[0, 4, 8, 8], [0, 4, 8, 8]]
    assert window_indices(20, count=4) == [[0, 4, 8, 12], [4, 8, 12, 16]]
    assert window_indices(1, count=2) == [[0, 0], [0, 0]]
    assert window_indices(100) == [list(range(0, 64, 4)), list(range(36, 100, 4))]


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(31, 40), (9, 50), (24, 24), (70, 7)])
def test_resizing_on_a_device_gives_pillows_bits(shape: tuple[int, int], resample: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    image = Image.fromarray(pixels[0]).resize((24, shape[0]), filters[resample]).resize((24, 24), filters[resample])
    assert np.array_equal(resize_square(pixels[0], 24, resample), np.asarray(image))
    for found in (
        resize(torch.from_numpy(pixels), 24, resample),
        resample_exactly(torch.from_numpy(pixels), 24, resample),
    ):
        assert np.array_equal(found[0].numpy(), np.asarray(image))
        assert found.shape == (2, 24, 24, 3)


def test_the_short_side_is_resized_and_the_centre_is_cut_out() -> None:
    wide = np.zeros((10, 31, 3), np.uint8)
    wide[:, :, 0] = np.arange(31)
    assert resize_crop(wide, 10, "bilinear")[0, :, 0].tolist() == list(range(10, 20))
    assert resize_crop(wide, 10, "bilinear", rounds=True)[0, :, 0].tolist() == list(range(10, 20))
    assert resize_crop(wide, 10, "bilinear", crop=7)[0, :, 0].tolist() == list(range(12, 19))
    tall = wide.transpose(1, 0, 2)
    assert resize_crop(tall, 10, "bilinear")[:, 0, 0].tolist() == list(range(10, 20))
    wider = np.zeros((10, 33, 3), np.uint8)
    wider[:, :, 0] = np.arange(33)
    assert resize_crop(wider, 10, "bilinear")[0, 0, 0] == 11  # a margin of 11.5 is cut off
    assert resize_crop(wider, 10, "bilinear", rounds=True)[0, 0, 0] == 12


def test_pixels_become_floats_channel_by_channel() -> None:
    pixels = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    assert torch.allclose(to_float(pixels).flatten(), torch.tensor([0.0, 0.2, 1.0]))
    found = to_float(pixels, (0.5, 0.1, 0.0), (0.5, 0.1, 2.0))
    assert found.shape == (3, 1, 1)
    assert torch.allclose(found.flatten(), torch.tensor([-1.0, 1.0, 0.5]))


def test_sound_has_mean_zero_and_variance_one() -> None:
    found = normalise_audio(np.array([1, 3, 1, 3], np.float32))
    assert found.dtype == np.float32
    assert np.allclose(found, [-1, 1, -1, 1], atol=1e-6)
    assert np.allclose(normalise_audio(np.full(5, 7, np.float32)), 0)
    quiet = normalise_audio(np.array([1e-3, -1e-3], np.float32))
    assert quiet[0] == pytest.approx(1e-3 / np.sqrt(1e-6 + 1e-7))
