"""Options and fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens", type=Path, default=SHARED / "goldens", help="folder of golden cases (default: ../shared/goldens)"
    )


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what emo remembers between runs out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMO_HOME", str(tmp_path_factory.mktemp("emo-home")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real clips, labels and transcripts; absent outside the founders' checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout: real clips and labels are needed for this test")
    return SHARED


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """Folder of golden cases."""
    folder: Path = request.config.getoption("--goldens")
    if not folder.is_dir():
        pytest.skip(f"no golden cases in {folder}: pass --goldens DIR")
    return folder
