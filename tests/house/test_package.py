"""What is shipped: every sub-package, every recipe, nothing else; and one copy of each module in memory."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.metadata import Metadata
from sources import ROOMS, ROOT, built_wheel

from emo import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders() -> set[str]:
    found = {"emo"}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            found.add("emo." + ".".join(init.parent.relative_to(ROOT).parts))
    return found


def test_every_sub_package_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == package_folders()


def test_every_folder_of_sources_is_a_package() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has sources but no __init__.py"


def test_no_stray_module_at_the_root() -> None:
    assert {p.name for p in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(built_wheel(tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    tops = {n.split("/")[0] for n in names}
    assert tops == {"emo"}
    expected = {"emo/__init__.py", "emo/cli.py"}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in {".py", ".yaml"} or ("static" in path.parts and path.is_file()):
                expected.add(f"emo/{path.relative_to(ROOT)}")
    assert names == expected


def test_the_metadata_is_what_an_index_takes(wheel: zipfile.ZipFile) -> None:
    known = pytest.importorskip("trove_classifiers", reason="trove-classifiers is not installed: extra dev")
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    found = Metadata.from_email(wheel.read(name))  # refuses what an index would refuse
    assert (found.name, str(found.version), found.license_expression) == ("emostore", __version__, "Apache-2.0")
    assert found.description_content_type == "text/markdown"
    assert found.description
    assert found.description.startswith("# emo")
    assert set(found.classifiers or ()) <= known.classifiers
    assert not any(each.url for each in found.requires_dist or ())  # an index takes no requirement with an address


def test_a_module_is_never_loaded_twice() -> None:
    code = (
        "import sys, emo.featstore.spec, emo.extract, emo.train;"
        "bare = [m for m in sys.modules if m.split('.')[0] in ('featstore', 'extract', 'train', 'cli', 'screen')];"
        "assert not bare, bare"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
