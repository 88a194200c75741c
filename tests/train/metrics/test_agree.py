"""Agreement of two sets of annotations: by hand on small ones, with itself on the published one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.train.metrics.agree import agree_page, label_agreement, unit_agreement


def test_kappa_is_that_of_the_textbook() -> None:
    """Cohen's example: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no give 0.4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    found = label_agreement(pairs)
    assert found["agreement"] == pytest.approx(0.7)
    assert found["kappa"] == pytest.approx(0.4)
    assert label_agreement([("y", "y")])["kappa"] is None
    assert label_agreement([("", "y")]) == {"clips": 0, "agreement": None, "kappa": None}


def test_units_are_compared_one_by_one() -> None:
    found = unit_agreement([({"AU04", "AU12"}, {"AU04"}), ({"AU12"}, {"AU12"}), (set(), {"AU01"})])
    assert found["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["by_unit"]["AU12"] == {"f1": pytest.approx(2 / 3), "first": 2, "second": 1}
    assert found["by_unit"]["AU01"]["f1"] == 0
    assert unit_agreement([(set(), set())])["f1"] is None


def test_the_published_file_agrees_with_itself_and_not_with_shuffled_labels(shared: Path, tmp_path: Path) -> None:
    real = json.loads((shared / "data/merr/MERR_fine_grained.json").read_text())
    part = dict(list(real.items())[:200])
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps(part))
    same = agree_page(None, str(one), str(one)).value
    assert (same["labels"]["kappa"], same["units"]["f1"], same["peak_index"]["same"]) == (1, 1, 1)
    assert same["texts"]["smp_reason_caption"]["overlap"] == pytest.approx(1)
    names = list(part)
    two.write_text(json.dumps({name: part[names[i - 1]] for i, name in enumerate(names)}))
    other = agree_page(None, str(one), str(two)).value
    assert abs(other["labels"]["kappa"]) < 0.2
    assert other["texts"]["smp_reason_caption"]["overlap"] < same["texts"]["smp_reason_caption"]["overlap"] / 2


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    for name, content in (("a.json", {"x": {}}), ("b.json", {"y": {}}), ("c.json", [1])):
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UsageError, match="no clip in common"):
        agree_page(None, str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    with pytest.raises(UsageError, match="not a JSON object"):
        agree_page(None, str(tmp_path / "a.json"), str(tmp_path / "c.json"))
    with pytest.raises(UsageError, match="there is no emo"):
        agree_page(None, "annotation", str(tmp_path / "a.json"))
