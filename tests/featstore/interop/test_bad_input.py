"""What is wrong with a file is said in one sentence and kept; the rest is imported; nothing becomes zero."""

from __future__ import annotations

import errno
import io
import os
import pickle
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.errors import UsageError, WriteError
from emo.featstore.interop import trial
from emo.featstore.interop.exporter import export_features
from emo.featstore.interop.importer import import_features
from emo.featstore.storage.store import Store
from emo.featstore.testing import SampleStore

GOOD = np.arange(8, dtype=np.float32)


def npy(array: Any, **more: Any) -> bytes:
    file = BytesIO()
    np.save(file, array, **more)
    return file.getvalue()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def nan_at(place: int, value: float = np.nan) -> np.ndarray:
    array = GOOD.copy()
    array[place] = value
    return array


BAD = {
    "truncated": (npy(GOOD)[:-4], "truncated", "The file ends after 156 of 160 bytes."),
    "header": (npy(GOOD)[:40], "truncated", "The file ends inside its header."),
    "empty": (b"", "empty", "The file is empty."),
    "text": (b"not numbers at all", "not-npy", "It is not an npy file."),
    "longer": (npy(GOOD) + b"\0\0", "not-npy", "The file has 162 bytes where its header says 160."),
    "damaged": (npy(GOOD).replace(b"'descr'", b"'desc!'"), "not-npy", "Its header is damaged."),
    "int": (npy(np.arange(8)), "wrong-dtype", "It holds int64, not float16, float32 or float64."),
    "words": (npy(np.array(["a", "b"])), "wrong-dtype", "It holds <U1, not float16, float32 or float64."),
    "object": (
        npy(np.array([1, "x"], object), allow_pickle=True),
        "pickled",
        "It holds pickled Python objects, which are not loaded: that could run any code.",
    ),
    "scalar": (npy(np.float32(1)), "wrong-shape", "Its shape () is neither (D,) nor (T, D)."),
    "cube": (npy(np.zeros((2, 3, 8), np.float32)), "wrong-shape", "Its shape (2, 3, 8) is neither (D,) nor (T, D)."),
    "nothing": (npy(np.zeros(0, np.float32)), "empty", "Its shape is (0,): there is nothing in it."),
    "wide": (npy(np.zeros(9, np.float32)), "wrong-width", "It has 9 columns where {key} has 8."),
    "frames": (npy(np.zeros((3, 8), np.float32)), "wrong-shape", "It has 3 rows where an utterance has one."),
    "nan": (npy(nan_at(2)), "not-finite", "1 of its 8 values are NaN."),
    "inf": (npy(nan_at(2, -np.inf)), "not-finite", "1 of its 8 values are infinite."),
    "huge": (npy(np.full(8, 1e300)), "not-finite", "Some values are beyond float32."),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_recorded_and_left_out_and_the_rest_goes_on(name: str, store: Store, put: Any) -> None:
    content, kind, sentence = BAD[name]
    report = import_features(store, put("x-UTT", **{"a": GOOD, name: content, "z": GOOD + 1, "zz": GOOD + 2}))
    key = store.resolve("x-UTT").key
    (rejected,) = report.rejected
    assert (rejected.where, rejected.name, rejected.kind) == ("x-UTT", name, kind)
    assert rejected.sentence == sentence.format(key=key)
    (failure,) = store.failures()
    assert (failure.feature, failure.clip, failure.kind, failure.message) == (key, name, kind, rejected.sentence)
    assert store.has("x-UTT", ["a", name, "z", "zz"]).tolist() == [True, False, True, True]
    assert (report.features[0].new, report.features[0].failed) == (3, 1)


def test_a_file_that_was_put_right_is_taken_the_next_time(store: Store, put: Any) -> None:
    folder = put("x-UTT", a=GOOD, b=npy(GOOD)[:-1])
    assert len(import_features(store, folder).rejected) == 1
    put("x-UTT", b=GOOD + 1)
    report = import_features(store, folder)
    assert (report.features[0].new, report.features[0].present, report.rejected) == (1, 1, [])
    assert store.failures() == []


def test_pickled_code_in_an_npy_is_not_run(store: Store, put: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    bomb = npy(np.array([Bomb(trap)], object), allow_pickle=True)
    import_features(store, put("x-UTT", a=GOOD, bomb=bomb))
    assert not trap.exists()
    np.load(BytesIO(bomb), allow_pickle=True)  # the trap is one
    assert trap.exists()


def test_pickled_code_in_an_mmsa_pickle_is_not_run(store: Store, tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "feature.pkl"
    for payload in (Bomb(trap), {"train": {"id": ["a"], "audio": Bomb(trap)}}):
        path.write_bytes(pickle.dumps(payload))
        with pytest.raises(UsageError, match=r"is refused: it wants to run .*open.* numpy arrays only"):
            import_features(store, path)
    assert not trap.exists()
    pickle.loads(path.read_bytes())  # the trap is one
    assert trap.exists()


def test_the_width_is_that_of_most_files_not_of_the_first(store: Store, put: Any) -> None:
    wrong = np.zeros((1, 1), np.float64)  # what MMSA-FET writes when it finds no face
    report = import_features(store, put("x-UTT", **{"0": wrong}, **{f"c{i}": GOOD + i for i in range(50)}))
    assert (report.features[0].new, [each.name for each in report.rejected]) == (50, ["0"])


def test_a_name_that_is_there_twice_is_taken_neither_time(store: Store, put: Any) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # one name to a person, two files to Linux
    report = import_features(store, put("x-UTT", **{composed: GOOD, decomposed: GOOD + 1, "b": GOOD}))
    (rejected,) = report.rejected
    assert (rejected.name, rejected.kind) == (composed, "duplicate-name")
    assert rejected.sentence == "It is there 2 times, and emo does not choose."
    assert store.clips() == ["b"]


@pytest.mark.parametrize("name", ["../../escape", "a/b", "a\\b", "..", " ", "new\nline"])
def test_a_name_that_is_no_plain_name_is_rejected(name: str, store: Store, tmp_path: Path) -> None:
    array = np.ones((2, 1, 4), np.float32)
    splits = {"train": {"id": [name, "good"], "audio": array}}
    path = tmp_path / "feature.pkl"
    path.write_bytes(pickle.dumps(splits))
    report = import_features(store, path)
    (rejected,) = report.rejected
    assert (rejected.name, rejected.kind) == (name, "bad-name")
    assert store.clips() == ["good"]


def test_other_files_in_a_feature_folder_are_named_and_hidden_ones_are_not(store: Store, put: Any) -> None:
    folder = put("x-UTT", a=GOOD, **{"._a": b"what macOS leaves"})
    (folder / "x-UTT" / "readme.txt").write_text("words")
    (folder / "x-UTT" / "b.npy").mkdir()
    (folder / "x-UTT" / ".DS_Store").write_text("")
    report = import_features(store, folder)
    assert [(each.name, each.kind) for each in report.rejected] == [("b.npy", "not-npy"), ("readme.txt", "not-npy")]


def test_an_unreadable_file_is_one_bad_file(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put("x-UTT", a=GOOD, b=GOOD)
    opened = os.open

    def refusing(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith("b.npy"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *more, **named)

    monkeypatch.setattr(os, "open", refusing)
    (rejected,) = import_features(store, folder).rejected
    assert rejected.sentence == "It cannot be read: Permission denied."


def test_where_every_file_is_bad_there_is_no_feature_but_every_reason(store: Store, put: Any) -> None:
    report = import_features(store, put("x-UTT", a=b"", b=npy(np.arange(8))))
    assert [each.kind for each in report.rejected] == ["empty", "wrong-dtype"]
    assert (report.clips, report.features[0].feature, store.features()) == (0, "", [])


def test_what_is_no_layout_at_all_says_what_was_looked_for(store: Store, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"empty is an empty folder\.$"):
        import_features(store, empty)
    (empty / "clip.mp4").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        import_features(store, empty)
    said = str(caught.value)
    assert said.startswith(f"There are no features in {empty} that emo can read: looked for ")
    for part in ("mae_340_UTT, maeV_399_UTT and HL-UTT", "*-UTT, *_FRA", "HDF5", "pickle", "*.safetensors", "parquet"):
        assert part in said
    with pytest.raises(UsageError, match=r"nowhere does not exist"):
        import_features(store, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no layout 'mertool'\. Layouts: emotion-llama, mertools, hdf5"):
        import_features(store, empty, layout="mertool")
    with pytest.raises(UsageError, match=r"looked for an HDF5 file of groups with one dataset per clip\.$"):
        import_features(store, empty, layout="hdf5")


def test_a_feature_folder_without_files_is_said(store: Store, put: Any) -> None:
    folder = put("HL-UTT")
    with pytest.raises(UsageError, match=r"has the layout emotion-llama, but no features in it\. HL-UTT is empty\."):
        import_features(store, folder)
    put("x-UTT", a=GOOD)
    assert import_features(store, folder, layout="mertools").notes == ["HL-UTT is empty."]


def test_a_name_that_is_not_there_is_answered_with_those_that_are(store: Store, put: Any) -> None:
    folder = put("x-UTT", a=GOOD)
    with pytest.raises(UsageError, match=r"has no y-UTT\. It has x-UTT\."):
        import_features(store, folder, names={"y-UTT": ""})
    with pytest.raises(UsageError, match=r"'a@b' cannot be the name of a feature"):
        import_features(store, folder, names={"x-UTT": "a@b"})


@pytest.mark.parametrize("suffix", [".h5", ".safetensors", ".parquet", ".pkl"])
def test_a_damaged_container_is_one_sentence(suffix: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / f"feature{suffix}"
    for content in (b"", b"\x89HDF\r\n\x1a\n and no more", b"PAR1 and no more", b"\x80\x04\x95"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"feature.*(cannot be read|is damaged)"):
            import_features(store, path)


def test_a_damaged_file_beside_good_ones_is_one_bad_file(source: Any, store: Store, tmp_path: Path) -> None:
    from emo.featstore.interop.exporter import export_features

    path = tmp_path / "out"
    export_features(source.store, path, "safetensors", ["HL-UTT"])
    (path / "mae_340_UTT.safetensors").write_bytes(b"cut off")
    (rejected,) = import_features(store, path).rejected
    assert (rejected.name, rejected.kind) == ("mae_340_UTT.safetensors", "unreadable")
    assert store.has("HL-UTT", ["sample_00000"])[0]


def test_what_is_remarkable_is_counted(store: Store, put: Any) -> None:
    frames = np.arange(24, dtype=np.float16).reshape(3, 8)
    frames[1] = 0
    frames[2] = 7
    put("y-FRA", a=frames, b=np.arange(8, dtype=np.float16))
    zeros = np.zeros(8)
    folder = put("x-UTT", a=GOOD, b=GOOD[None], c=GOOD.astype(np.float16) + 1, d=zeros, e=zeros, f=np.full(8, 3.0))
    utt, fra = import_features(store, folder).features
    assert (utt.shapes, utt.dtypes) == ({"(8,)": 5, "(1, 8)": 1}, {"float32": 2, "float16": 1, "float64": 3})
    assert (utt.zeros, utt.constant, utt.duplicates) == ({"d": 1, "e": 1}, {"f": 1}, [["a", "b"]])
    assert (fra.shapes, fra.longest, fra.zeros, fra.constant) == ({"(T, 8)": 1, "(8,)": 1}, 3, {"a": 1}, {"a": 1})
    assert store.get("y-FRA", "b").array.shape == (1, 8)


def test_duplicates_are_found_across_interrupted_imports(store: Store, put: Any) -> None:
    folder = put("x-UTT", a=GOOD, b=GOOD + 1)
    import_features(store, folder)
    put("x-UTT", c=GOOD)
    (part,) = import_features(store, folder).features
    assert (part.present, part.new, part.duplicates) == (2, 1, [["a", "c"]])


# ---- HDF5: other files, full disks ----------------------------------------------------------------------------------


def other_file(path: Path) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        file["x/secret"] = GOOD
    return path


def external_link(group: Any, secret: Path) -> None:
    import h5py

    group["a"] = h5py.ExternalLink(str(secret), "/x/secret")


def soft_link(group: Any, _: Path) -> None:
    import h5py

    group["a"] = h5py.SoftLink("/elsewhere")


def external_storage(group: Any, secret: Path) -> None:
    group.create_dataset("a", (8,), "f4", external=[(str(secret), 0, 32)])


def virtual_dataset(group: Any, secret: Path) -> None:
    import h5py

    layout = h5py.VirtualLayout((8,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "x/secret", (8,))
    group.create_virtual_dataset("a", layout)


@pytest.mark.parametrize("make", [external_link, soft_link, external_storage, virtual_dataset])
def test_hdf5_that_leads_to_another_file_is_not_read(make: Any, store: Store, tmp_path: Path) -> None:
    import h5py

    secret, path = other_file(tmp_path / "secret.h5"), tmp_path / "feature.h5"
    with h5py.File(path, "w") as file:
        file["x-UTT/good"] = GOOD
        make(file["x-UTT"], secret)
    (rejected,) = import_features(store, path).rejected
    assert (rejected.name, rejected.kind) == ("a", "unreadable")
    assert "other file" in rejected.sentence or "another file" in rejected.sentence
    assert store.has("x-UTT", ["a", "good"]).tolist() == [False, True]
    with h5py.File(path, "w") as file:  # a feature that is nothing but a link
        file["x-UTT"] = h5py.ExternalLink(str(secret), "/x")
    with pytest.raises(UsageError, match="is a link, which may lead to another file, and is not followed"):
        import_features(store, path)


@pytest.mark.parametrize("room", [0, 100, 1000, 2000, 5000, 10_000])
@pytest.mark.parametrize("layout", ["hdf5", "hdf5-packed"])
def test_hdf5_to_a_full_disk_is_one_sentence(
    layout: str, room: int, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emo.featstore.interop import hdf5
    from emo.featstore.interop.exporter import export_features

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            left = room - self.tell()
            if left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(memoryview(data)[:left])

    path = tmp_path / "out.h5"
    monkeypatch.setattr(hdf5, "open", lambda path, mode, buffering: Full(path, "x+"), raising=False)
    with pytest.raises(WriteError) as caught:
        export_features(source.store, path, layout)
    assert str(caught.value) == f"{path} cannot be written: No space left on device. Free some space and run again."
    assert [each.name for each in tmp_path.iterdir()] == ["source.emo"]
    monkeypatch.undo()
    export_features(source.store, path, layout)
    assert import_features(Store.create(tmp_path / "back.emo"), path).rejected == []


@pytest.mark.parametrize("layout", ["hdf5", "hdf5-packed"])
def test_hdf5_to_a_disk_of_one_megabyte(layout: str, lab: Any, tmp_path: Path, small_disk: Path) -> None:
    code = (
        "import sys; from emo.featstore.errors import EmoError; from emo.featstore.storage.store import Store\n"
        "from emo.featstore.interop.exporter import export_features\n"
        "try: export_features(Store.open(sys.argv[1]), sys.argv[2], sys.argv[3])\n"
        "except EmoError as error: print(error)"
    )
    spec = lab.spec("BIG", "utt", 8192, 1)
    store = Store.create(tmp_path / "a.emo")
    with store.writer() as writer:
        for i in range(100):
            writer.clip(f"c{i}", lab.media(i))
            writer.add(spec, lab.media(i), np.full((1, 8192), i + 1.0, np.float32))
    path = small_disk / "out.h5"
    words = [sys.executable, "-c", code, str(store.path), str(path), layout]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path} cannot be written: No space left on device. Free some space and run again.\n"
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("layout", ["emotion-llama", "mertools", "hdf5", "hdf5-packed", "safetensors", "parquet"])
def test_names_that_no_file_can_hold_are_left_out_of_an_export_and_said(
    layout: str, source: Any, tmp_path: Path
) -> None:
    from emo.featstore.interop import find_layout
    from emo.featstore.interop.exporter import export_features

    spec = source.store.resolve("HL-UTT")
    names = ["x" * 300, "half \ud800", "not utf-8 \udce9"]
    with source.store.writer() as writer:
        for i, name in enumerate(names):
            writer.clip(name, f"{i + 90:032x}")
            writer.add(spec, f"{i + 90:032x}", np.ones((1, spec.dim), np.float32))
    source.store.refresh()
    path = tmp_path / f"out{''.join(find_layout(layout).suffixes[:1])}"
    report = export_features(source.store, path, layout, ["HL-UTT"])
    assert sum(note.startswith("Left out: The name ") for note in report.notes) == len(names)
    assert "\n".join(report.notes).encode()
    assert import_features(Store.create(tmp_path / "back.emo"), path).rejected == []


@pytest.mark.parametrize(
    ("does", "says"), [("kill -SEGV $$", r"crashes \(11\)"), ("exec sleep 60", "comes to no end"), ("exit 1", None)]
)
def test_a_file_on_which_its_library_crashes_or_hangs_is_refused_in_words(
    source: SampleStore, target: Store, tmp_path: Path, does: str, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tries the file in another process is a script that behaves as the HDF5 library does on damaged ones."""
    path = tmp_path / "a.h5"
    export_features(source.store, path, "hdf5", None, source.clips)
    (tmp_path / "python").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(trial, "STALLED_S", 1.0)
    monkeypatch.setattr(trial.sys, "executable", str(tmp_path / "python"))
    if says is None:  # what can be said in words is said by the reading itself
        assert not import_features(target, path).rejected
        return
    with pytest.raises(UsageError, match=f"a.h5 is damaged: the library that reads it {says}"):
        import_features(target, path)
