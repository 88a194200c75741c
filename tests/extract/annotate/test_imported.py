"""Annotations of other tools: MER-Factory's results as it writes them, and files of MERR's form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emo.extract.annotate.actions import phrases_of
from emo.extract.annotate.check import check_page
from emo.extract.annotate.imported import factory_value, import_page, read_results
from emo.extract.annotate.pages import export_page, peek_page, run_page
from emo.featstore.annotations import annotations_of
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace


def result(name: str = "c0", **changes: Any) -> dict[str, Any]:
    """A result as MER-Factory writes it."""
    whole = {
        "source_path": f"/videos/{name}.mp4",
        "audio_path": f"/out/{name}/{name}.wav",
        "chronological_emotion_peaks": [
            "Peak at 0.12s: sad (slight)",
            "Peak at 0.52s: happy (strong), contempt (slight)",
        ],
        "overall_peak_frame_info": {
            "frame_number": 14,
            "timestamp": 0.52,
            "top_aus_intensities": {"AU06_r": 2.1, "AU12_r": 2.9, "AU25_r": 1.2},
        },
        "coarse_descriptions_at_peak": {
            "visual_expression": "Cheek raiser (intensity: 2.10), Lip corner puller (intensity: 2.90), "
            "Lips part (intensity: 1.20)",
            "visual_objective": "A woman in a kitchen.",
            "audio_analysis": "The voice is bright. She laughs.",
            "video_content": "N/A",
        },
        "final_summary": "The raised cheeks and the bright voice show that she is happy.",
    }
    return whole | changes


@pytest.fixture
def out(tmp_path: Path, openface: Callable[..., str]) -> Path:
    folder = tmp_path / "out"
    for name in ("c0", "c1"):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}_merr_data.json").write_text(json.dumps(result(name)))
    (folder / "c0/c0.csv").write_text(openface("happy", 20, 13))
    return folder


def test_a_result_becomes_an_annotation_with_units_and_a_frame_that_counts_from_0(out: Path) -> None:
    found = read_results(out)
    assert (found.form, found.dropped, sorted(found.values)) == ("mer-factory", {}, ["c0", "c1"])
    value = found.values["c0"]
    assert value["AU_list"] == ["AU06", "AU12"]
    assert value["visual_prior_list"] == ["Cheek raiser", "Lip corner puller"]
    assert value["peak_AU_list"] == ["AU06", "AU12", "AU25"]
    assert value["peak_index"] == "13"
    assert (value["pseu_emotion"], value["label_from"]) == ("happy", "rules")  # of the strongest frame, not the first
    assert value["audio_prior_list"] == "The voice is bright. She laughs."
    assert value["smp_reason_caption"].startswith("The raised cheeks")
    assert value["caption"].startswith("This person in the video: A woman in a kitchen. The person's expression")
    assert (value["frames"], found.values["c1"]["frames"]) == (20, None)


def test_the_label_that_was_given_is_the_label(out: Path) -> None:
    value = factory_value(result(ground_truth_label="Sad"), out / "x_merr_data.json")
    assert (value["pseu_emotion"], value["label_from"], value["AU_list"]) == ("sad", "dataset", [])
    neutral = result(chronological_emotion_peaks=["neutral"])
    assert factory_value(neutral, out / "x_merr_data.json")["pseu_emotion"] == "neutral"


def test_phrases_that_do_not_fit_the_units_are_not_guessed(out: Path) -> None:
    said = result()["coarse_descriptions_at_peak"] | {"visual_expression": "A wide, toothy smile"}
    value = factory_value(result(coarse_descriptions_at_peak=said), out / "x_merr_data.json")
    assert value["visual_prior_list"] == [phrases_of(unit, "facs")[0] for unit in ("AU06", "AU12")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"final_summary": ""}, "final_summary is empty"),
        ({"overall_peak_frame_info": None}, "overall_peak_frame_info is missing"),
        (
            {"chronological_emotion_peaks": ["Peak at 0.12s: sad (slight)"]},
            "no emotion is named at the strongest frame",
        ),
        ({"chronological_emotion_peaks": "happy"}, "chronological_emotion_peaks is no list of texts"),
        ({"overall_peak_frame_info": {"frame_number": 0, "top_aus_intensities": {}}}, "frame_number is no frame"),
        ({"overall_peak_frame_info": {"frame_number": 3, "top_aus_intensities": {"AU99_r": 1.0}}}, "AU99 is no action"),
    ],
)
def test_what_lacks_something_is_dropped_for_a_reason_and_never_filled(
    out: Path, changes: dict[str, Any], reason: str
) -> None:
    (out / "c1/c1_merr_data.json").write_text(json.dumps(result("c1", **changes)))
    found = read_results(out)
    assert list(found.values) == ["c0"]
    ((said, names),) = found.dropped.items()
    assert said.startswith(reason)
    assert names == ["c1"]


def test_it_is_imported_once_and_exported_in_merrs_form(study: Callable[..., Path], out: Path) -> None:
    folder = study(2)
    workspace = load_workspace(folder)
    (out / "c2").mkdir()
    (out / "c2/c2_merr_data.json").write_text("{")
    page = import_page(workspace, out)
    assert (page.value["annotations"], page.value["new"], page.exit_code) == (2, 2, 3)
    assert page.value["dropped"]["is no JSON"]["names"] == ["c2"]
    assert import_page(workspace, out).value["new"] == 0
    store = open_store(folder / "s.emo")
    assert peek_page(store, "c0").value["pseu_emotion"] == "happy"
    assert export_page(store, "merr", folder / "f.json").value["kept"] == 1  # the same words as another
    assert check_page(folder / "f.json").value["faults"] == {}
    assert store.verify() == []
    other = result("c1", final_summary="Another happy person smiles.")
    (out / "c1/c1_merr_data.json").write_text(json.dumps(other))
    assert import_page(workspace, out).value["new"] == 1
    with pytest.raises(UsageError, match="number of frames of each clip, and c1 came without one"):
        export_page(open_store(folder / "s.emo"), "lists", folder / "lists")


def test_own_annotations_go_out_and_come_back_the_same(study: Callable[..., Path], tmp_path: Path) -> None:
    folder = study(4)
    workspace = load_workspace(folder)
    run_page(workspace, lambda sentence: None, concurrency=2)
    store = open_store(folder / "s.emo")
    own = annotations_of(store)
    export_page(store, "merr", folder / "mine.json")
    shutil.rmtree(folder / "s.emo")
    assert import_page(workspace, folder / "mine.json").value["annotations"] == 4
    back = annotations_of(open_store(folder / "s.emo"))
    for name, value in own.items():
        assert {key: back[name][key] for key in value if key in ("AU_list", "peak_index", "smp_reason_caption")} == {
            key: value[key] for key in ("AU_list", "peak_index", "smp_reason_caption")
        }
        assert back[name]["caption"] == ""
    store = open_store(folder / "s.emo")
    with pytest.raises(UsageError, match="4 no coarse caption"):
        export_page(store, "coarse", folder / "c.json")
    export_page(store, "merr", folder / "again.json")
    assert (folder / "again.json").read_bytes() == (folder / "mine.json").read_bytes()


def test_what_is_of_no_form_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no results of MER-Factory"):
        read_results(tmp_path / "empty")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UsageError, match="not a JSON object of clip names"):
        read_results(tmp_path / "x.json")


def test_the_published_file_is_taken_whole(shared: Path) -> None:
    found = read_results(shared / "data/merr/MERR_fine_grained.json")
    assert (len(found.values), found.dropped) == (4487, {})
