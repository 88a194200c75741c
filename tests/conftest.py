"""Options and fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.processors import processors

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes that tests start keep compiled modules, as a user's do
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # test processes share the processors: read by torch, once
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processors() // int(workers))))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens", type=Path, default=SHARED / "goldens", help="folder of golden cases (default: ../shared/goldens)"
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Keep why tests were skipped, each reason once with how many there were, for `make skips`."""
    found = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    if (cache := getattr(config, "cache", None)) is not None:
        cache.set("emo/skips", [f"{n}: {why.removeprefix('Skipped: ')}" for why, n in sorted(found.items())])


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


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of so many MiB in memory."""
    mount = tmp_path / "disk"

    def make(mib: int) -> Path:
        mount.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(mount)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting a tmpfs needs root: {done.stderr.strip()}")
        return mount

    yield make
    if mount.is_mount():
        subprocess.run(["umount", "--lazy", mount], check=True)


@pytest.fixture(scope="session")
def emo() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a user would, without a terminal: `emo("score", "labels.csv", cwd=folder)`."""

    def run(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "emo.cli", *words]
        given = {**os.environ, "COLUMNS": "100", **(env or {})}
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=given)

    return run


@pytest.fixture(scope="session")
def demo(
    emo: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A small demo workspace, made by `emo demo` itself, and what that said. Tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("demo")
    result = emo("demo", "d", "--clips", "4", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "d", result


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., bytes]:
    """Runs the ffmpeg binary and returns what it wrote to stdout."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        pytest.skip("no imageio-ffmpeg: there is no ffmpeg binary to compare with")
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()

    def run(*arguments: str | Path) -> bytes:
        command = [program, "-v", "error", "-nostdin", "-y", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True).stdout

    return run


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of three nodes on this machine, each with one processor; one for all tests, which mend it again."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no ray: the `dev` extra brings it")
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": 80 << 20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(**node)
        yield cluster
        ray.shutdown()
        cluster.shutdown()
