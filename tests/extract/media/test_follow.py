"""Drawn people who move fast, hide, cross and come back after cuts: each is followed, and no two become one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from emo.extract.demo import generate_clip
from emo.extract.media.container import Frame, open_media
from emo.extract.media.detect import Detection, Detections, Detector, iou
from emo.extract.media.faces import COLUMNS, FaceConfig, FaceTrack, FaceTracks
from emo.extract.media.follow import FaceTracker, _link
from emo.featstore.errors import MediaError

SIZE = (240, 400)  # rows and columns of the scenes
ANNA, BERT, CARL = range(3)


@dataclass(frozen=True)
class Sprite:
    """Somebody down to the chest, and where the detector sees the face in it."""

    image: Image.Image
    face: Detection


@dataclass(frozen=True)
class Shown:
    """Where somebody's face is in one frame; `seen` is whether the detector notices."""

    who: int
    x: float
    y: float
    side: float = 40
    seen: bool = True


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> list[Sprite]:
    """Three drawn people with other skin, hair and clothes."""
    folder, detector = tmp_path_factory.mktemp("people"), FaceConfig().open_detector()
    sprites = []
    for seed in (1, 3, 4):
        generate_clip(folder / f"{seed}.mp4", "neutral", seed=seed, duration_s=0.08)
        with open_media(folder / f"{seed}.mp4") as media:
            rgb = next(iter(media.frames())).rgb
        (face,) = detector.detect(rgb)
        left, top, right, bottom = face.box
        wide, high = right - left, bottom - top
        x, y = int(left - 0.3 * wide), int(max(0, top - 0.35 * high))
        image = Image.fromarray(rgb).crop((x, y, int(right + 0.3 * wide), 240))
        moved = Detection(face.box - np.float32([x, y, x, y]), face.landmarks - np.float32([x, y]), face.score)
        sprites.append(Sprite(image, moved))
    return sprites


class Scene(Detector):
    """A drawn clip, and a detector that knows it; it insists on answers in the order of the questions."""

    name = "scene"

    def __init__(self, people: list[Sprite], show: Callable[[int], list[Shown]], shot: Callable[[int], int]) -> None:
        self.people, self.show, self.shot = people, show, shot
        self.searched: list[int] = []
        self.answered = 0

    def recipe(self) -> dict:
        return {"name": self.name}

    def truth(self, index: int) -> list[tuple[Shown, Detection]]:
        """Everybody's face in a frame, unnoticed ones included."""
        found = []
        for each in self.show(index):
            face = self.people[each.who].face
            scale = each.side / float(face.box[2] - face.box[0])
            shift = np.float32([each.x, each.y]) - face.box[:2] * np.float32(scale)
            box = face.box * np.float32(scale) + np.tile(shift, 2)
            found.append((each, Detection(box, face.landmarks * np.float32(scale) + shift, 0.9)))
        return found

    def frame(self, index: int) -> Frame:
        rng = np.random.default_rng(self.shot(index))
        image = Image.fromarray(np.uint8(40 + 160 * rng.random((6, 10, 3)))).resize(SIZE[::-1])
        for each, detection in self.truth(index):
            sprite = self.people[each.who]
            scale = each.side / float(sprite.face.box[2] - sprite.face.box[0])
            small = sprite.image.resize([max(1, round(side * scale)) for side in sprite.image.size])
            corner = detection.box[:2] - sprite.face.box[:2] * scale
            image.paste(small, tuple(corner.round().astype(int).tolist()))
        rgb = np.asarray(image).copy()
        rgb[0, 0] = index
        return Frame(index, index / 25, rgb)

    def begin(self, rgb: np.ndarray) -> Detections:
        index, number = int(rgb[0, 0, 0]), len(self.searched)
        self.searched.append(index)

        def answer() -> list[Detection]:
            assert number == self.answered, "answers come in the order of the questions"
            self.answered += 1
            return [detection for each, detection in self.truth(index) if each.seen]

        return answer


@dataclass(frozen=True)
class Followed:
    """What became of a scene."""

    scene: Scene
    tracks: FaceTracks

    def who(self, track: FaceTrack) -> set[int]:
        """Everybody whose face a track shows."""
        found = set()
        for index, box in zip(track.index.tolist(), track.boxes, strict=True):
            truth = self.scene.truth(index)
            overlap = iou(box[None], np.stack([detection.box for _, detection in truth]))[0]
            assert overlap.max() > 0.4, f"frame {index}: nobody is at {box}"
            found.add(truth[int(overlap.argmax())][0].who)
        return found

    def of(self, who: int) -> list[list[int]]:
        """Frame numbers of each track of somebody."""
        return [track.index.tolist() for track in self.tracks.tracks if self.who(track) == {who}]


@pytest.fixture(params=[0, 3], ids=["at once", "later"])
def follow(people, monkeypatch, request):
    """Follows a scene; whether answers come at once or later changes nothing."""
    monkeypatch.setattr(Scene, "ahead", request.param)

    def run(
        show: Callable[[int], list[Shown]],
        n_frames: int,
        shot: Callable[[int], int] = lambda i: 0,
        config: FaceConfig | None = None,
    ) -> Followed:
        scene = Scene(people, show, shot)
        tracker = FaceTracker(scene, config or FaceConfig(), "clip.mp4")
        for index in range(n_frames):
            tracker.feed(scene.frame(index))
        followed = Followed(scene, tracker.finish())
        for track in (*followed.tracks.tracks, *followed.tracks.glimpses):
            assert len(followed.who(track)) == 1, "one track shows several people"
            assert (np.diff(track.index) > 0).all()
        return followed

    return run


def bounce(at: float, most: float) -> float:
    """A place that goes to and fro between 0 and `most`."""
    return most - abs(at % (2 * most) - most)


FAST = {
    "0.3 faces a frame": lambda i: Shown(ANNA, bounce(12 * i, 340), 60),
    "0.6 faces a frame": lambda i: Shown(ANNA, bounce(24 * i, 340), 60),
    "0.7 faces a frame, slanting": lambda i: Shown(ANNA, bounce(23 * i, 340), bounce(16 * i, 150)),
    "towards the camera": lambda i: Shown(ANNA, 150 - 0.4 * 20 * 1.05**i, 60 - 0.4 * 20 * 1.05**i, 20 * 1.05**i),
}


class TestFast:
    @pytest.mark.parametrize("motion", FAST)
    @pytest.mark.parametrize("every", [1, 5, 8])
    def test_a_head_is_followed_however_fast_it_moves(self, follow, motion, every):
        done = follow(lambda i: [FAST[motion](i)], 40, config=FaceConfig(every=every))
        assert done.of(ANNA) == [list(range(40))]

    def test_a_steady_face_costs_no_more_searches(self, follow):
        done = follow(lambda i: [Shown(ANNA, 100 + i, 60)], 41)
        assert done.scene.searched == list(range(0, 41, 5))

    def test_a_broken_link_costs_the_frames_of_its_gap(self, follow):
        """The face jumps between frames 7 and 8: frames 6 to 9 are looked at."""
        done = follow(lambda i: [Shown(ANNA, 50 if i < 8 else 300, 60)], 16)
        assert sorted(done.scene.searched) == [0, 5, 6, 7, 8, 9, 10, 15]

    def test_few_frames_are_held_even_where_every_link_breaks(self, people):
        scene = Scene(people, lambda i: [Shown(ANNA, 50 + 200 * (i // 5 % 2), 60)], lambda i: 0)
        tracker, references, most = FaceTracker(scene, FaceConfig(every=5)), [], 0
        for index in range(60):
            now = scene.frame(index)
            references.append(weakref.ref(now.rgb))
            tracker.feed(now)
            most = max(most, sum(reference() is not None for reference in references))
        assert most <= 6


class TestHidden:
    @pytest.mark.parametrize("hidden", [range(10, 11), range(12, 13), range(11, 14), range(10, 20), range(7, 27)])
    def test_a_missed_face_is_the_same_afterwards(self, follow, hidden):
        done = follow(lambda i: [Shown(ANNA, 100 + 2 * i, 60, seen=i not in hidden)], 40)
        (frames,) = done.of(ANNA)
        assert set(range(40)) - set(hidden) <= set(frames)

    def test_somebody_who_walks_past_in_front_hides_nobody_for_good(self, follow):
        def show(i):
            passing = Shown(CARL, 10 * i - 60, 50, 55)
            return [Shown(ANNA, 150, 60, seen=not 150 - 50 < passing.x < 150 + 35), passing]

        done = follow(show, 40)
        (anna,) = done.of(ANNA)
        assert {0, 39} <= set(anna)
        assert len(anna) >= 30

    @pytest.mark.parametrize("gap", [10, 20, 60])
    def test_somebody_else_in_the_same_place_is_somebody_else(self, follow, gap):
        def show(i):
            return [Shown(ANNA, 150, 60)] if i < 20 else [Shown(BERT, 152, 62)] if i >= 20 + gap else []

        done = follow(show, 100)
        assert done.of(ANNA) == [list(range(20))]
        assert done.of(BERT) == [list(range(20 + gap, 100))]

    def test_somebody_who_takes_anothers_place_between_two_searches(self, follow):
        done = follow(lambda i: [Shown(ANNA if i < 22 else CARL, 150, 60)], 40)
        assert len(done.of(ANNA)) == len(done.of(CARL)) == 1


def shots(*lengths: int) -> Callable[[int], int]:
    """Number of the shot of a frame."""
    return lambda i: int(np.searchsorted(np.cumsum(lengths), i, side="right"))


class TestCuts:
    @pytest.mark.parametrize("side", [40, 60])
    def test_the_same_person_after_a_cut(self, follow, side):
        shot = shots(20, 20)
        done = follow(lambda i: [Shown(ANNA, 60, 60) if i < 20 else Shown(ANNA, 250, 80, side)], 40, shot)
        assert done.of(ANNA) == [list(range(40))]

    @pytest.mark.parametrize("other", [BERT, CARL])
    def test_another_person_in_the_same_place_after_a_cut(self, follow, other):
        done = follow(lambda i: [Shown(ANNA if i < 20 else other, 150, 60)], 40, shots(20, 20))
        assert done.of(ANNA) == [list(range(20))]
        assert done.of(other) == [list(range(20, 40))]

    def test_shot_and_reverse_shot(self, follow):
        shot = shots(15, 15, 15, 15)

        def show(i):
            return [Shown(ANNA, 80, 60) if shot(i) % 2 == 0 else Shown(BERT, 250, 70)]

        done = follow(show, 60, shot)
        assert done.of(ANNA) == [[*range(15), *range(30, 45)]]
        assert done.of(BERT) == [[*range(15, 30), *range(45, 60)]]

    def test_two_in_one_shot_are_told_apart_in_the_next(self, follow):
        def show(i):
            a, b = Shown(ANNA, 60, 60), Shown(BERT, 250, 60)
            return [a, b] if i < 20 else [Shown(BERT, 60, 60), Shown(ANNA, 250, 60)]

        done = follow(show, 40, shots(20, 20))
        assert done.of(ANNA) == done.of(BERT) == [list(range(40))]

    def test_twins_are_left_apart(self, follow):
        """After the cut one of two who look the same is there: nobody can say which."""
        done = follow(
            lambda i: [Shown(ANNA, 60, 60), Shown(ANNA, 250, 60)] if i < 20 else [Shown(ANNA, 150, 80)],
            40,
            shots(20, 20),
        )
        assert sorted(len(track.index) for track in done.tracks.tracks) == [20, 20, 20]


class TestLinks:
    @pytest.mark.parametrize(
        ("overlap", "pairs"),
        [
            ([[0.9], [0.5]], [(0, 0)]),  # one face near two tracks goes to the nearer one, and to no other
            ([[0.5], [0.9]], [(1, 0)]),
            ([[0.9, 0.5]], [(0, 0)]),  # one track near two faces takes one
            ([[0.9], [0.8]], []),  # as likely the one as the other
            ([[0.9, 0.4], [0.6, 0.2]], [(0, 0)]),  # the second track's face is taken; the one left is too far
            ([[0.9, 0.1], [0.5, 0.6]], [(0, 0), (1, 1)]),
            ([[0.2]], []),
        ],
    )
    def test_a_face_and_a_track_are_linked_once(self, overlap, pairs):
        assert _link(np.array(overlap), 0.3) == pairs

    def test_one_face_where_two_were_belongs_to_one_of_them_at_most(self, follow):
        """Two side by side; then one of them is gone, and the other moves into the middle."""

        def show(i):
            gone = i >= 20
            return [Shown(ANNA, 100 + (20 if gone else 0), 60), Shown(BERT, 140, 60, seen=not gone)]

        done = follow(show, 40)
        frames = [int(index) for track in done.tracks.tracks for index in track.index if index >= 20]
        assert len(frames) == len(set(frames))


class TestCrossing:
    @pytest.mark.parametrize("step", [4, 9, 14])
    @pytest.mark.parametrize(("one", "other"), [(ANNA, BERT), (BERT, CARL), (CARL, ANNA)])
    @pytest.mark.parametrize("hides", [False, True])
    def test_two_who_cross_are_not_mixed(self, follow, step, one, other, hides):
        """`follow` fails where a track shows both. Where the nearer one hides the other, that may cost the track."""

        def show(i):
            x, y = 20 + step * i, 340 - step * i
            return [Shown(other, y, 62, seen=not hides or abs(x - y) > 34), Shown(one, x, 60)]

        follow(show, 320 // step)

    @pytest.mark.parametrize("seed", range(8))
    def test_a_crowd_that_hides_jumps_and_is_cut_is_not_mixed(self, follow, seed):
        rng = np.random.default_rng(seed)
        n, shot = 60, shots(20, 20, 20)
        starts, speeds = rng.uniform(0, 340, (3, 3)), rng.normal(0, 8, (3, 3))
        sides, missed = rng.uniform(25, 60, (3, 3)), rng.random((n, 3)) < 0.15

        def show(i):
            k = shot(i)
            return [
                Shown(who, bounce(starts[k, who] + speeds[k, who] * (i % 20) + 340, 340), 20 + 60 * who, sides[k, who],
                      seen=not missed[i, who]) for who in range(3)
            ]  # fmt: skip

        done = follow(show, n, shot)
        assert {who for track in done.tracks.tracks for who in done.who(track)} == {ANNA, BERT, CARL}


class TestNobodyFollowed:
    def flashes(self, follow, every: int) -> FaceTracks:
        """Everybody for a moment, one of them twice."""
        moments = {0: ANNA, 14: BERT, 28: CARL, 42: ANNA}
        return follow(
            lambda i: [Shown(moments[i], 37 * i % 340, 60)] if i in moments else [], 50, config=FaceConfig(every=every)
        ).tracks

    @pytest.mark.parametrize(("every", "hint"), [(7, "faces_every = 1"), (1, "OpenFace output")])
    def test_faces_that_are_seen_but_not_followed_are_not_called_absent(self, follow, every, hint):
        tracks = self.flashes(follow, every)
        with pytest.raises(MediaError, match=r"Faces were seen in 4 of the 50 frames of clip\.mp4, but") as caught:
            tracks.choose()
        assert caught.value.kind == "face-not-followed"
        assert hint in caught.value.hint

    def test_the_table_keeps_them_and_chooses_none(self, follow):
        table = self.flashes(follow, 7).table()
        assert len(table) == 4
        assert not table[:, COLUMNS.index("chosen")].any()
