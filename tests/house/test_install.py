"""One function says how emo is installed: `emo` alone is somebody else's distribution."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib import metadata

import pytest
from sources import ROOT, imported, modules

from emo import __version__
from emo.featstore import install

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# In documents, what is typed in the root of a checkout; everything else of ours comes from `install_command`.
CHECKOUT = re.compile(r"pip install -e '?\.")
OURS = re.compile(r"""\bemo(?:store)?\[|pip install[^\n]*?[\s'"`]emo(?:store)?(?![\w-])""")


def strangers(text: str) -> list[str]:
    """Lines that would install a distribution called `emo`, or ours in a second way."""
    return [line for line in text.splitlines() if OURS.search(line) and not CHECKOUT.search(line)]


def test_nothing_else_says_how_to_install_emo() -> None:
    found = {}
    for path in sorted(p for end in ("py", "yaml", "md", "toml", "svg") for p in ROOT.rglob(f"*.{end}")):
        here = path.relative_to(ROOT)
        if here.parts[0].startswith(".") or here.parts[:2] in {("tests", "house"), ("featstore", "install.py")}:
            continue
        found |= {str(here): lines for lines in [strangers(path.read_text())] if lines}
    assert not found


@pytest.mark.parametrize("line", ["pip install emo", "run `pip install 'emo[nf4]'`", "pip install --upgrade emo"])
def test_the_search_sees_them(line: str) -> None:
    assert strangers(line) == [line]


def test_the_name_is_that_of_the_project_and_not_emo() -> None:
    assert PROJECT["name"] == install.DISTRIBUTION != "emo"
    assert PROJECT["scripts"] == {"emo": "emo.cli:main"}


def test_a_checkout_is_installed_from_its_folder() -> None:
    assert install.checkout() == ROOT
    assert install.install_command("nf4", "text") == f"pip install -e '{ROOT}[nf4,text]'"
    assert install.install_command() == f"pip install -e '{ROOT}'"


class Wheel:
    """A distribution that was installed from somewhere."""

    def __init__(self, origin: dict[str, object] | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return json.dumps(self.origin) if self.origin else None


@pytest.mark.parametrize(
    ("origin", "where"),
    [
        (None, ""),
        (
            {"url": "file:///wheels/emostore-0.1.0-py3-none-any.whl", "archive_info": {}},
            " @ file:///wheels/emostore-0.1.0-py3-none-any.whl",
        ),
        (
            {"url": "https://host/emo.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            " @ git+https://host/emo.git@abc",
        ),
    ],
    ids=["index", "wheel", "git"],
)
def test_a_wheel_is_installed_from_where_it_came(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, where: str
) -> None:
    monkeypatch.setattr(install, "checkout", lambda: None)
    monkeypatch.setattr(metadata, "distribution", lambda name: Wheel(origin))
    assert install.install_command("nf4") == f"pip install 'emostore[nf4]{where}'"


def test_what_is_imported_is_declared() -> None:
    """Every library that a module imports belongs to a dependency or an extra."""
    homes = {"feat": ["py-feat"], **metadata.packages_distributions()}  # not installed here, and named otherwise
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[<>=\s\[;]", line)[0].lower().replace("_", "-") for line in lines}
    for module in modules().values():
        for top in {name.partition(".")[0] for name in imported(module.tree)} - {"emo", *sys.stdlib_module_names}:
            names = {home.lower().replace("_", "-") for home in homes.get(top, [top])}
            assert names & declared, f"{module.where} imports {top}, which pyproject.toml does not declare"


def test_versions_and_requirements_need_no_installed_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert install.versions("numpy") == {"emo": __version__, "numpy": metadata.version("numpy")}
    assert any(line.startswith("scipy") for line in install.requirements())
    assert "bitsandbytes>=0.46.1; extra == 'nf4'" in install.requirements()


def test_documents_name_no_path_of_a_machine() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = {p.name: re.findall(r"(?<![\w./])/(?:root|tmp|work|home)/\S*", p.read_text()) for p in pages}
    assert not {name: paths for name, paths in found.items() if paths}


def test_extras_that_doctor_lists_are_those_of_the_project() -> None:
    from emo.extract.doctor import EXTRAS

    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"dev"}
