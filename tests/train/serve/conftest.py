"""A page over a copy of the demo's workspace, asked in this process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from serving import CLIPS, LOCAL, Idle, add_clips, served_at
from starlette.testclient import TestClient

from emo.featstore.storage.store import Store
from emo.featstore.workspace import Workspace, load_workspace
from emo.train.serve.app import make_app
from emo.train.serve.desk import Desk


@pytest.fixture(scope="session")
def demo_copy(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A copy of the demo's workspace that these tests may write into."""
    folder = tmp_path_factory.mktemp("page") / "d"
    shutil.copytree(demo[0], folder)
    return load_workspace(folder)


@pytest.fixture(scope="session")
def head(demo_copy: Workspace) -> str:
    """Name of the demo's run of a head; its other run is a language model."""
    return next(path.name for path in (demo_copy.root / "runs").iterdir() if path.name.startswith("attention"))


@pytest.fixture(scope="session")
def address(demo_copy: Workspace, head: str) -> Iterator[str]:
    """Where `emo serve` shows that workspace, as a process of its own."""
    with served_at(demo_copy.root, "--run", head) as found:
        yield found


@pytest.fixture
def few(tmp_path: Path) -> Workspace:
    """A workspace of six clips c0 to c5 without media, with labels and a feature of each; no run."""
    (tmp_path / "emo.toml").write_text('[store]\npath = "s.emo"\n[data.few]\nroot = "data"\nkind = "folder"\n')
    (tmp_path / "data").mkdir()
    rows = "".join(f"{name},{'sad' if i % 2 else 'happy'}\n" for i, name in enumerate(CLIPS))
    (tmp_path / "data" / "labels.csv").write_text(f"name,emotion\n{rows}")
    add_clips(Store.create(tmp_path / "s.emo"), *CLIPS)
    return load_workspace(tmp_path)


@pytest.fixture
def desk(demo_copy: Workspace, head: str) -> Iterator[Desk]:
    made = Desk(demo_copy, Idle(demo_copy.root), head)
    yield made
    made.close()


@pytest.fixture
def page(desk: Desk) -> Iterator[TestClient]:
    with TestClient(make_app(desk), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client
