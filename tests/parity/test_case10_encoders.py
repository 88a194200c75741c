"""VideoLLaMA2's encoders against its own code: frames, pixels, SigLIP, windows of sound, filter bank, BEATs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from towers import beats_of, beats_sizes, siglip_of

from emo.extract.encoders.base import ClipInputs, Prepared
from emo.extract.encoders.beats import BeatsWhole, BeatsWindows
from emo.extract.encoders.beats_net import MEAN, Beats, BeatsConfig, buckets, fbank
from emo.extract.encoders.registry import find_encoder
from emo.extract.encoders.waves import window_bounds
from emo.extract.media.preprocess import midpoint_indices, pad_square

GOLDEN_CASES = ["case10_videollama2_av"]


@pytest.fixture
def io(golden):
    return load_file(golden.folder / "io_audio_video.safetensors")


@pytest.fixture
def siglip(golden, tmp_path):
    return lambda name: siglip_of(golden, tmp_path / "siglip", name)


@pytest.fixture
def beats(golden, tmp_path):
    return beats_of(golden, tmp_path / "beats.pt")


def nearly(ours, theirs, tolerance):
    """As `close`, but for logarithms of next to no energy, where two processors' Fourier transforms differ: 5 in
    383,744, by 0.002 at most, between AVX2 and AVX-512."""
    apart = (torch.as_tensor(ours) - torch.as_tensor(theirs)).abs()
    assert (apart > tolerance).float().mean() < 2e-4
    assert apart.max() < 0.005


def close(ours, theirs, tolerance):
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=tolerance, rtol=0)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_frames_are_the_middles_of_equal_parts(golden):
    for count, table in golden.info["frame_sample_uniform"].items():
        for frames, numbers in table.items():
            assert midpoint_indices(int(frames), int(count)) == numbers, (count, frames)
    whole = [each for each in golden.info["process_video_indices"] if each["s"] is None and each["num_frames"]]
    assert whole
    for each in whole:
        assert midpoint_indices(each["frames"], each["num_frames"]) == each["indices"]


def clips(io, count):
    """Frames of each clip, and behind them the black ones that the reference adds: each lies across the one before."""
    for name in sorted({key.split(".")[0] for key in io if key.startswith("frames_")}):
        frames = list(io[f"{name}.rgb_u8"].numpy())
        while len(frames) < count:
            frames.append(np.zeros((frames[-1].shape[1], frames[-1].shape[0], 3), np.uint8))
        yield name, frames


def test_pixels(golden, siglip, io):
    tolerance, stride = golden.info["tolerance"]["pixels"], golden.info["pixel_stride_384"]
    count = golden.info["config"]["num_frames"]
    for word, name in (("pad", "siglip-so400m-384-UTT"), ("stretch", "siglip-so400m-384-stretch-UTT")):
        tiny, true = siglip(name), find_encoder(name)(profile="random")
        for clip, frames in clips(io, count):
            pixels = tiny.pixels([torch.from_numpy(np.stack([tiny.resized(frame) for frame in frames]))])
            # Pillow 13, which made the golden, takes the columns of a tall picture first; emo does as Pillow up to 12.
            same = [i for i, each in enumerate(frames) if word == "pad" or each.shape[0] <= each.shape[1]]
            close(pixels[same], io[f"{clip}.pixels_{word}_4frames"][same], tolerance)
            large = true.pixels([torch.from_numpy(np.stack([true.resized(f) for f in io[f"{clip}.rgb_u8"].numpy()]))])
            close(large[..., ::stride, ::stride], io[f"{clip}.pixels384_{word}_stride{stride}"], tolerance)
    for clip, _ in clips(io, count):
        padded = np.stack([pad_square(each, 127) for each in io[f"{clip}.rgb_u8"].numpy()])
        assert np.array_equal(padded, io[f"{clip}.padded_u8"].numpy())


def test_siglip_tokens(golden, siglip, io):
    encoder = siglip("siglip-so400m-384-UTT")
    frames = next(frames for clip, frames in clips(io, encoder.frames) if clip == "frames_0")
    item = Prepared(torch.from_numpy(np.stack([encoder.resized(each) for each in frames])), 1.0)
    (found,) = encoder.encode([item])
    theirs = io["siglip.features"].flatten(0, 1)
    assert found["tokens"].array.shape == (encoder.spec("tokens").rows, encoder.dim)
    close(found["tokens"].array, theirs, golden.info["tolerance"]["siglip"])
    close(found["utt"].array[0], theirs.mean(0), golden.info["tolerance"]["siglip"])
    last = encoder.twin(take=(-1,)).encode([item])[0]["tokens"].array
    assert np.abs(last - theirs.numpy()).max() > 0.1  # the last layer is something else


# ---- sound -----------------------------------------------------------------------------------------------------------


def test_windows(golden):
    for samples, windows in golden.info["clip_table"].items():
        ours = [[start, min(end, int(samples))] for start, end in window_bounds(int(samples))]
        assert ours == windows, samples


def test_filter_bank(golden, io):
    soundfile = pytest.importorskip("soundfile")
    tolerance, seen = golden.info["tolerance"], 0
    for name, facts in golden.info["wavs"].items():
        if facts["sample_rate"] != 16000 or facts["channels"] != 1:
            continue  # emo decodes those by ffmpeg's resampler, the reference by an FFT
        sound, _ = soundfile.read(golden.folder / f"{name}.wav", dtype="float32")
        for way, kind, limit in (
            ("video_audio", BeatsWindows, tolerance["fbank"]),
            ("audio_file", BeatsWhole, tolerance["fbank_file"]),
        ):
            bank = kind(profile="tiny").prepare(ClipInputs(audio=sound)).payload[0]
            theirs, stride = io[f"{way}.{name}.fbank"], facts[way]["fbank_stride"]
            close(bank[::stride], theirs.bfloat16().float(), tolerance["fbank_bf16"])
            differ = (bank[::stride] != theirs.bfloat16().float()).float().mean()
            assert differ <= tolerance["fbank_bf16_unequal_fraction"]
            kept = sound if kind is BeatsWhole else np.concatenate([sound[a:b] for a, b in window_bounds(len(sound))])
            padded = np.pad(kept, (0, 480_000 - len(kept))) * np.float32(32768)
            nearly(fbank(torch.from_numpy(padded))[::stride], theirs, limit)
            seen += 1
    assert seen
    silence = fbank(torch.zeros(480_000))
    assert silence.shape[0] == golden.info["failure"]["frames"]
    close(silence, torch.full_like(silence, golden.info["failure"]["value_fp32"]), tolerance["fbank"])


def test_beats(golden, beats, io):
    tolerance = golden.info["tolerance"]
    report = beats.load()
    assert "predictor.weight" in report.ignored
    with beats.computing() as model:
        assert isinstance(model, Beats)
        assert beats.config == BeatsConfig(**beats_sizes(golden))
        for name, limit in (("beats_0", "beats_features"), ("beats_1", "beats_features")):
            close(model(io[f"{name}.fbank"]), io[f"{name}.features"], tolerance[limit])
        close(model.patches(io["beats_0.fbank"]), io["beats_0.patches"], tolerance["beats_intermediate"])
        assert abs(float(((io["beats_0.fbank"] - MEAN) / 13.11164 - io["beats_0.fbank_normalised"]).abs().max())) < 1e-5
    bank = io["video_audio.w_b.fbank_bf16"].float()
    (found,) = beats.encode([Prepared(bank, 1.0)])
    close(found["tokens"].array, io["beats_full.features"][0], tolerance["beats_features_full"])


def test_buckets_of_distances(golden):
    facts = beats_sizes(golden)
    for table, count, farthest in (
        ("bucket_table", facts["num_buckets"], facts["max_distance"]),
        ("bucket_table_real", 320, 800),
    ):
        given = golden.info[table]
        ours = buckets(torch.tensor(given["relative_position_key_minus_query"]), count, farthest)
        assert ours.tolist() == given["bucket"]
    real = golden.info["beats_real_config"]
    assert BeatsConfig() == BeatsConfig(**{key: real[key] for key in facts})
