"""What a command loads before it does its work: listed, not timed. `tests/benchmarks/start.py` times it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emo.featstore.clip import FileId
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

LEARNING = {"torch", "transformers", "peft", "sklearn", "scipy", "pandas", "onnxruntime", "faiss"}
FORMATS = {"zarr", "h5py", "pyarrow", "safetensors", "av", "PIL", "matplotlib", "yaml"}
OURS = {"emo.extract", "emo.train", "emo.featstore.datasets", "emo.featstore.interop"}


def loaded(code: str, cwd: Path) -> set[str]:
    """Modules that a fresh interpreter has loaded after some code; a `SystemExit` in it is no error."""
    wrapped = f"import sys\ntry:\n    {code}\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
    wrapped += "print('loaded:', *sys.modules)\n"
    result = subprocess.run([sys.executable, "-c", wrapped], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("loaded:")[2].split())


def command(*words: str) -> str:
    return f"import runpy; sys.argv = {['emo', *words]!r}; runpy.run_module('emo.cli', run_name='__main__')"


def test_help_loads_no_library_of_numbers(tmp_path: Path) -> None:
    modules = loaded(command("--help"), tmp_path)
    assert not modules & (LEARNING | FORMATS | OURS | {"numpy", "rich", "pydantic", "emo.featstore.storage.store"})


def test_store_info_loads_what_reads_a_journal_and_nothing_that_reads_features_or_datasets(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "a.emo")
    spec = EncoderSpec("HL-UTT", "hubert", "audio", "utt", 4, 1, "tiny", "seed:0")
    with store.writer() as writer:
        writer.clip("a", FileId("0" * 32, 1, 1))
        writer.add(spec, "0" * 32, [[1.0] * 4])  # type: ignore[arg-type]
    (tmp_path / "emo.toml").write_text('[store]\npath = "a.emo"\n')
    modules = loaded(command("store", "info"), tmp_path)
    assert "numpy" in modules
    assert not modules & (LEARNING | FORMATS | OURS | {"numpy.ma", "rich", "pydantic"})


def test_an_answer_that_a_head_has_given_is_found_without_its_network(tmp_path: Path) -> None:
    store, lines = Store.create(tmp_path / "a.emo"), ["name,emotion"]
    (tmp_path / "data").mkdir()
    spec = EncoderSpec("HL-UTT", "hubert", "audio", "utt", 4, 1, "tiny", "seed:0")
    with store.writer() as writer:
        for i in range(12):
            media = tmp_path / "data" / f"clip{i}.wav"
            media.touch()
            writer.clip(media.stem, FileId(f"{i:032x}", 0, media.stat().st_mtime_ns), media)
            writer.add(spec, f"{i:032x}", np.full((1, 4), i % 2, np.float32))
            lines.append(f"{media.stem},{'happy' if i % 2 else 'sad'}")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "emo.toml").write_text('[store]\npath = "a.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n')
    loaded(command("train", "--head", "logistic", "--cached", "--set", "features=[HL-UTT]", "--run", "a"), tmp_path)
    modules = loaded(command("predict", "clip3", "--run", "a"), tmp_path)
    assert "emo.train.heads.predict" in modules
    assert not modules & (LEARNING | FORMATS | {"emo.extract", "numpy.ma", "rich", "pydantic"})


@pytest.mark.parametrize("module", ["emo.featstore.storage.store", "emo.extract.run.plan"])
def test_the_store_and_the_plan_of_a_pass_need_no_torch(module: str, tmp_path: Path) -> None:
    modules = loaded(f"import {module}", tmp_path)
    assert module in modules
    assert not modules & (LEARNING | FORMATS)
