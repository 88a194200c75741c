"""Action units from OpenFace's tables, the frame of strongest expression, labels and phrases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emo.extract.annotate.actions import INTENSITIES, PRESENCES, phrases_of, rules
from emo.extract.annotate.expression import Matching, fitting_rules, named_units, phrases, pseudo_label
from emo.extract.annotate.openface import OpenFaceTables, read_table
from emo.extract.annotate.peak import PeakOptions, find_peak
from emo.extract.annotate.testing import check_unit_source
from emo.extract.annotate.units import UnitTable, stored_table
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError, UsageError

R = [f"{unit}_r" for unit in INTENSITIES]
C = [f"{unit}_c" for unit in PRESENCES]
HEAD = ["frame", "face_id", "timestamp", "confidence", "success", *R, *C]


def line(frame: int, face: int = 0, sure: float = 0.98, good: int = 1, **units: float) -> list[float]:
    """A row: intensities by AU04=2.5, presences by AU04_c=1; everything else is 0."""
    values = dict.fromkeys([*R, *C], 0.0)
    values |= {name if name.endswith("_c") else f"{name}_r": value for name, value in units.items()}
    return [frame, face, (frame - 1) / 25, sure, good, *values.values()]


def text(rows: list[list[float]], head: list[str] = HEAD, mark: str = ",") -> bytes:
    return "\n".join([mark.join(head), *(mark.join(str(each) for each in row) for row in rows)]).encode()


def table(rows: list[list[float]], **given: int) -> UnitTable:
    return read_table(text(rows), Path("clip.csv"), **given)


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_both_spellings_of_the_header_give_the_same_bytes(shared: Path) -> None:
    """FeatureExtraction writes a blank before each name and number; other tools strip them."""
    paths = sorted((shared / "data/openface_au").glob("*.csv"))
    assert len(paths) == 15
    for path in paths:
        plain = read_table(path.read_bytes(), path)
        spaced = read_table(path.read_bytes().replace(b",", b", "), path)
        assert plain.columns == spaced.columns
        assert plain.columns == ("frame", "time_s", "confidence", "success", *R, *C)
        assert plain.rows.tobytes() == spaced.rows.tobytes()
        assert plain.notes == spaced.notes == ()
        assert plain.rows[:, 0].tolist() == list(range(len(plain.rows)))


def test_of_several_faces_the_most_confident_is_taken_or_the_one_asked_for() -> None:
    rows = [each for i in (1, 2, 3) for each in (line(i, 0, 0.5, AU04=1), line(i, 1, 0.9, AU04=2))]
    found = table(rows)
    assert found.intensity("AU04").tolist() == [2, 2, 2]
    assert found.notes == ("2 faces; face 1 is taken (3 of 6 rows)",)
    assert table(rows, face=0).intensity("AU04").tolist() == [1, 1, 1]
    with pytest.raises(MediaError, match="has no face 7, but 0, 1"):
        table(rows, face=7)


def test_missing_columns_are_tolerated_and_reported_and_never_become_zeros() -> None:
    head = ["frame", "success", "AU04_r", "AU28_c"]
    found = read_table(text([[1, 1, 2.5, 1], [2, 1, 0.5, 0]], head), Path("clip.csv"))
    assert found.columns == ("frame", "success", "AU04_r", "AU28_c")
    assert found.intensity("AU12") is None
    assert found.presence("AU04") is None
    assert "time_s, confidence, AU01_r" in found.notes[0]
    assert found.timing() == (0.0, None)
    peak = find_peak(found, PeakOptions())
    assert (peak.index, peak.units, peak.active, peak.time_s) == (0, {"AU04": 2.5}, ("AU04", "AU28"), None)


def test_rows_without_numbers_are_left_out_and_counted() -> None:
    rows = [line(1, AU04=1), line(2, AU04=float("nan")), line(3, AU04=3)]
    data = text(rows).replace(b"nan", b"-nan(ind)")
    found = read_table(data, Path("clip.csv"))
    assert found.column("frame").tolist() == [0, 2]
    assert found.notes == ("1 of 3 rows hold no numbers and are left out",)


def test_a_table_without_frames_is_counted_by_rows() -> None:
    found = read_table(text([[0.1], [0.2]], ["AU04_r"]), Path("clip.csv"))
    assert found.column("frame").tolist() == [0, 1]
    assert found.notes[0] == "there is no column frame: rows are counted"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"frame,pose_Tx\n1,2\n", "has no column of action units"),
        (b"frame,AU04_r\n", "has no rows"),
        (b"frame,AU04_r\n1,0.5\n2\n", "line 3 has 1 of 2 cells"),
        (b"frame,AU04_r\n1,strong\n", "line 2 has 'strong' where a number is due"),
        (b"frame,AU04_r\n1,1\n1,2\n", "names a frame twice"),
        (b"frame,AU04_r\n0,1\n", "names a frame twice for one face, or one below 1"),
        (b"frame,AU04_r\n1,nan\n", "has no row with numbers"),
        (b"\xff\xfe\x00", "is no csv"),
    ],
)
def test_a_table_that_cannot_be_used_is_a_typed_failure(data: bytes, says: str) -> None:
    with pytest.raises(MediaError, match=says) as error:
        read_table(data, Path("clip.csv"))
    assert error.value.kind == "bad-action-units"


def test_the_source_finds_tables_where_openface_puts_them(tmp_path: Path) -> None:
    source = OpenFaceTables(tmp_path)
    for clip, place in (("a", "a.csv"), ("b", "b/b.csv"), ("c", "c_of/c.csv")):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text([line(1, AU04=1)]))
        assert source.path(Clip(clip)) == path
    with pytest.raises(MediaError, match="no action units for clip d") as error:
        source.read(Clip("d"))
    assert (error.value.kind, error.value.retry) == ("no-action-units", True)
    before = source.digest(Clip("a"))
    (tmp_path / "a.csv").write_bytes(text([line(1, AU04=2)]))
    assert source.digest(Clip("a")) != before
    columns = source.read(Clip("a")).columns
    assert source.spec(columns) != OpenFaceTables(tmp_path, face=1).spec(columns)
    assert stored_table(source.spec(columns), source.read(Clip("a")).rows).columns == columns


def test_the_source_keeps_the_contract(shared: Path) -> None:
    source = OpenFaceTables(shared / "data/openface_au")
    check_unit_source(source, Clip("sample_00000143"), Clip("sample_00000144"))


# ---- the peak --------------------------------------------------------------------------------------------------------


def test_the_sum_of_all_units_decides_and_of_equal_frames_the_first() -> None:
    found = table([line(1, AU04=1), line(2, AU04=1, AU12=1), line(3, AU04=2)])
    peak = find_peak(found, PeakOptions())
    assert (peak.index, peak.time_s, peak.score) == (1, 0.04, 2.0)


def test_frames_that_were_not_tracked_or_not_surely_do_not_count() -> None:
    found = table([line(1, AU04=1), line(2, sure=0.5, AU04=2), line(3, sure=0.03, good=0, AU04=3)])
    assert find_peak(found, PeakOptions()).index == 1
    assert find_peak(found, PeakOptions(confidence=0.8)).index == 0
    with pytest.raises(MediaError, match="confidence of 1 or more") as error:
        find_peak(found, PeakOptions(confidence=1))
    assert error.value.kind == "no-tracked-frame"


def test_units_of_speech_and_blinks_can_be_left_out() -> None:
    found = table([line(1, AU04=1), line(2, AU25=2, AU26=1, AU45=1)])
    assert find_peak(found, PeakOptions()).index == 1
    assert find_peak(found, PeakOptions(leave_out=("AU25", "AU26", "AU45"))).index == 0


def test_smoothing_takes_a_lasting_expression_before_a_flash() -> None:
    values = [0, 0, 3, 0, 0, 2, 2, 2, 0]
    found = table([line(i + 1, AU04=each) for i, each in enumerate(values)])
    assert find_peak(found, PeakOptions()).index == 2
    peak = find_peak(found, PeakOptions(smooth=3))
    assert (peak.index, peak.score, peak.units["AU04"]) == (6, 2.0, 2.0)


def test_the_rule_of_the_label_wants_all_its_units_present() -> None:
    """Figure peak_frame_au_02 of Emotion-LLaMA: the frame with the widest jaw has no raised lid, and loses."""
    surprise = ("AU01", "AU02", "AU05", "AU26")
    strong = dict.fromkeys(surprise, 0.4)
    rows = [line(1, **strong), line(2, **{**strong, "AU26": 0.3}), line(7, **{**strong, "AU05": 0, "AU26": 5})]
    found = table(rows)
    options = PeakOptions(rule="label-au")
    assert find_peak(found, PeakOptions(), "surprise").index == 6
    assert find_peak(found, options, "surprise").index == 0
    with pytest.raises(MediaError) as error:
        find_peak(found, options, "angry")
    assert error.value.kind == "no-frame-with-all-units"
    with pytest.raises(MediaError, match="no action units for the label neutral") as error:
        find_peak(found, options, "neutral")
    assert error.value.kind == "no-rule"


def test_a_unit_that_the_table_has_not_is_not_said_to_be_absent_from_the_face() -> None:
    found = read_table(text([[1, 1, 1, 0.5], [2, 1, 2, 0]], ["frame", "success", "AU06_r", "AU12_r"]), Path("clip.csv"))
    options = PeakOptions(rule="label-au")
    with pytest.raises(MediaError, match=r"has no AU14, which the rule of happy wants.*--leave-out AU14") as error:
        find_peak(found, options, "happy")
    assert error.value.kind == "no-rule"
    with pytest.raises(MediaError, match="has no AU20 and no AU28"):
        find_peak(found, options, "worried")
    assert find_peak(found, PeakOptions(rule="label-au", leave_out=("AU14",)), "happy").index == 0


def test_a_unit_without_intensity_counts_by_its_presence() -> None:
    found = table([line(1, AU20=1), line(2, AU20=0.5, AU28_c=1), line(3, AU28_c=1)])
    peak = find_peak(found, PeakOptions(rule="label-au"), "worried")
    assert (peak.index, peak.score, peak.active) == (1, 0.5, ("AU28",))


def test_what_changes_the_peak_changes_the_recipe_of_its_record() -> None:
    units = OpenFaceTables(Path("run")).spec(("frame", "AU04_r"))
    others = [
        PeakOptions(),
        PeakOptions(rule="label-au"),
        PeakOptions(leave_out=("AU25",)),
        PeakOptions(smooth=3),
        PeakOptions(confidence=0.5),
        PeakOptions(table="mer-factory"),
    ]
    assert len({each.spec(units, "rules").fingerprint for each in others}) == len(others)
    label = PeakOptions(rule="label-au")
    assert label.spec(units, "rules") != label.spec(units, "dataset")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rule": "all"}, "no rule of peaks"),
        ({"leave_out": ("AU99",)}, "AU99"),
        ({"smooth": 2}, "odd number"),
        ({"confidence": 2.0}, "no confidence"),
        ({"table": "x"}, "no table of rules"),
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        PeakOptions(**given)


def test_the_peaks_of_real_tables_by_both_rules(shared: Path) -> None:
    """With all units, then without those of speech and blinks; each computed once more with a loop."""
    speech = ("AU25", "AU26", "AU45")
    differ = 0
    for path in sorted((shared / "data/openface_au").glob("*.csv")):
        found = read_table(path.read_bytes(), path)
        index = {}
        for leave_out in ((), speech):
            sums = []
            for row in found.rows:
                values = dict(zip(found.columns, row.tolist(), strict=True))
                good = values["success"] > 0
                sums.append(sum(values[f"{u}_r"] for u in INTENSITIES if u not in leave_out) if good else -1.0)
            peak = find_peak(found, PeakOptions(leave_out=leave_out))
            assert abs(sums[peak.index] - max(sums)) < 1e-3
            index[leave_out] = peak.index
        differ += index[()] != index[speech]
    assert differ == 11  # of 15: speech and blinks decide the frame in most of these clips


def test_both_rules_on_real_tables_with_the_labels_of_the_rules(shared: Path) -> None:
    """What docs/annotate.md says; the frame of label-au is found once more with a loop."""
    outcome: dict[str, int] = {}
    for path in sorted((shared / "data/openface_au").glob("*.csv")):
        found = read_table(path.read_bytes(), path)
        peak = find_peak(found, PeakOptions())
        label = pseudo_label(peak.active, peak.units, Matching())
        named = named_units(peak.active, label)
        assert len(phrases(named, path.stem, Matching())) == len(named)
        try:
            other = find_peak(found, PeakOptions(rule="label-au"), label)
        except MediaError as error:
            outcome[error.kind] = outcome.get(error.kind, 0) + 1
            continue
        best, at = -1.0, -1
        for row in found.rows:
            values = dict(zip(found.columns, row.tolist(), strict=True))
            strengths = [values.get(f"{unit}_r", values[f"{unit}_c"]) for unit in rules()[label]]
            if values["success"] and all(strengths) and sum(strengths) > best + 1e-6:
                best, at = sum(strengths), int(values["frame"])
        assert other.index == at
        word = "same" if other.index == peak.index else "other"
        outcome[word] = outcome.get(word, 0) + 1
    assert outcome == {"other": 8, "same": 2, "no-rule": 4, "no-frame-with-all-units": 1}


# ---- labels and phrases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "label"),
    [
        ({"AU06": 2, "AU12": 2}, "happy"),
        ({"AU04": 2.5, "AU15": 2, "AU01": 1}, "sad"),
        ({}, "neutral"),
        ({"AU25": 2}, "doubt"),
        ({"AU06": 0.3, "AU12": 0.4}, "neutral"),  # present, but weak
        ({"AU09": 3}, "neutral"),
    ],
)
def test_the_rules_give_the_label(units: dict[str, float], label: str) -> None:
    intensities = {unit: float(units.get(unit, 0)) for unit in INTENSITIES}
    assert pseudo_label(units, intensities, Matching()) == label


def test_of_several_rules_the_one_with_more_active_units_wins_then_the_fuller_one() -> None:
    units = dict.fromkeys(INTENSITIES, 1.0)
    assert fitting_rules(["AU01", "AU02", "AU05", "AU26", "AU25"], units, Matching())[:2] == ["surprise", "fear"]
    assert fitting_rules(["AU12", "AU14", "AU06", "AU25"], units, Matching())[0] == "happy"
    tied = fitting_rules(["AU12", "AU14", "AU10"], units, Matching())  # happy 2 of 3, contempt 2 of 4
    assert tied == ["happy", "contempt"]


def test_thresholds_are_options() -> None:
    units = dict.fromkeys(INTENSITIES, 0.5)
    assert pseudo_label(["AU06", "AU12"], units, Matching()) == "neutral"
    assert pseudo_label(["AU06", "AU12"], units, Matching(strength=0.4)) == "happy"
    assert pseudo_label(["AU06", "AU12"], units, Matching(strength=0.4, share=1)) == "neutral"
    speech = Matching(leave_out=("AU25", "AU26"))
    assert pseudo_label(["AU25"], units, speech) == "neutral"
    strong = dict.fromkeys(INTENSITIES, 1.0)
    assert pseudo_label(["AU01", "AU02"], strong, speech) == "surprise"  # two of the three that are left
    with pytest.raises(UsageError, match="no share"):
        Matching(share=0)


def test_the_units_named_are_those_of_the_label() -> None:
    active = ["AU01", "AU04", "AU25", "AU26"]
    assert named_units(active, "angry") == ["AU04"]
    assert named_units(active, "neutral") == ["AU01", "AU04"]
    assert named_units(["AU25"], "neutral") == []


def test_phrases_are_drawn_by_seed_and_clip_and_about_evenly() -> None:
    drawn = [phrases(["AU04"], f"media {i}", Matching())[0] for i in range(2000)]
    assert drawn == [phrases(["AU04"], f"media {i}", Matching())[0] for i in range(2000)]
    assert drawn != [phrases(["AU04"], f"media {i}", Matching(seed=1))[0] for i in range(2000)]
    counts = np.array([drawn.count(each) for each in phrases_of("AU04")])
    assert counts.sum() == 2000
    assert (np.abs(counts - 400) < 80).all()  # more than four standard deviations
    chinese = Matching(profile="facs", language="zh")
    assert phrases(["AU04", "AU12"], "m", chinese)[0] in phrases_of("AU04", "facs", "zh")
    assert phrases(["AU45"], "m", Matching()) == ["AU45"]


def test_a_change_of_a_setting_changes_the_recipe() -> None:
    changes: list[Callable[[], Matching]] = [
        lambda: Matching(table="mer-factory"),
        lambda: Matching(share=0.7),
        lambda: Matching(strength=1),
        lambda: Matching(profile="facs"),
        lambda: Matching(seed=1),
    ]
    assert all(each().recipe() != Matching().recipe() for each in changes)
