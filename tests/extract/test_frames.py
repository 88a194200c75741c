"""Frames of the whole picture that encoders pick, and the encoders of video language models that read them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emo.extract.demo import generate_clip
from emo.extract.encoders.registry import load_encoder
from emo.extract.media.container import Frame, open_media
from emo.extract.media.picks import Picks
from emo.extract.media.preprocess import midpoint_indices, pad_square
from emo.extract.run.decode import ClipDecoder
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError

SIXTEEN, EIGHT = "siglip-so400m-384-UTT", "clip-vit-large-patch14-affectgpt-frames-UTT"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    generate_clip(path, "happy", seed=3)
    return path


def all_frames(path):
    with open_media(path) as media:
        return [frame.rgb.copy() for frame in media.frames()]


def test_each_encoder_gets_its_own_frames_of_one_decode(clip):
    encoders = {name: load_encoder(name, "tiny") for name in (SIXTEEN, EIGHT, "eva_g_448")}
    found = ClipDecoder(encoders, None, "middle", None).decode(Clip("a"), clip, list(encoders))
    assert not found.failed
    frames = all_frames(clip)
    want = np.stack([encoders[SIXTEEN].resized(frames[i]) for i in midpoint_indices(len(frames))])
    assert np.array_equal(found.prepared[SIXTEEN].payload.numpy(), want)
    assert len(found.prepared[EIGHT].payload) == 8
    alone = ClipDecoder(encoders, None, "middle", None).decode(Clip("a"), clip, ["eva_g_448"])
    assert torch.equal(found.prepared["eva_g_448"].payload, alone.prepared["eva_g_448"].payload)


def test_picks_that_the_container_promised_in_vain_are_the_last_frame():
    frames = [Frame(i, i / 10, np.full((2, 3, 3), i, np.uint8)) for i in range(4)]
    picks = Picks({"a": ([1, 1, 9], ()), "b": ([0], ())})
    assert picks.last == 9
    for frame in frames:
        picks.feed(frame)
    given = picks.of("a")
    assert given["frames"][:, 0, 0, 0].tolist() == [1, 1, 3]
    assert given["frame_time_s"] == 0.1
    assert picks.of("b")["frames"].shape == (1, 2, 3, 3)
    assert Picks({}).last == -1


def test_a_clip_without_pictures_fails_for_those_who_look(tmp_path):
    import av

    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.ones((1, 16_000), np.int16), "s16", "mono")
        sound.sample_rate = 16_000
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))
    encoders = {name: load_encoder(name, "tiny") for name in (SIXTEEN, "beats-iter3-UTT")}
    found = ClipDecoder(encoders, None, "middle", None).decode(Clip("a"), path, list(encoders))
    assert found.failed[SIXTEEN].kind == "no-video"
    assert list(found.prepared) == ["beats-iter3-UTT"]


def test_a_square_is_padded_on_the_shorter_side():
    rgb = np.full((3, 6, 3), 9, np.uint8)
    padded = pad_square(rgb, 127)
    assert padded.shape == (6, 6, 3)
    assert (padded[1:4] == 9).all()
    assert (padded[[0, 4, 5]] == 127).all()
    assert np.array_equal(pad_square(padded, 0), padded)


def test_another_number_of_frames_is_refused():
    encoder = load_encoder(SIXTEEN, "tiny")
    inputs = encoder.sample(1)
    with pytest.raises(MediaError, match="looks at 16 frames, and got 5"):
        encoder.prepare(type(inputs)(frames=inputs.frames[:5]))
    assert encoder.spec("tokens").rows == 16 * encoder.full.image_size**2 // encoder.full.patch_size**2
    assert load_encoder(SIXTEEN, "random").spec("tokens").rows == 16 * 729
