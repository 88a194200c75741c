"""A small real store, clips with labels and transcripts, and a recipe that a tiny language model tunes in a second."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import MediaError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.train.recipe import load_recipe

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
STREAMS = ("mae_340_UTT", "maeV_399_UTT", "HL-UTT")
SENTENCES = ("I am fine.", "", "Leave me alone, will you? It is late.", "Oh my.", "We have not seen the child either.")
TINY = ("seed=7", "epochs=1", "steps_per_epoch=8", "batch_size=4", "log_every=1", "decode.max_new_tokens=4")
TINY += ("lora.r=4", "lora.targets=[q_proj, v_proj]", "validation.every=10", "checkpoint.every_steps=10")


@dataclass(frozen=True)
class Corpus:
    """Clips and the store that holds their features; `memory` is what was put into it, by feature and clip."""

    store: Store
    clips: list[Clip]
    memory: dict[str, dict[str, np.ndarray]]


def media_of(clip_id: str) -> str:
    return hashlib.blake2b(clip_id.encode(), digest_size=16).hexdigest()


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Corpus]:
    """Make `n` training clips and 6 of split test1; `without` is a clip in whose video no face was found."""

    def make(n: int = 24, without: str = "", scale: float = 1.0, path: Path = tmp_path / "features.emo") -> Corpus:
        rng = np.random.default_rng(3)
        specs = [EncoderSpec("eva_g_448", "eva", "frame", "tokens", 8, 9, "tiny", "seed:0")]
        specs += [EncoderSpec(name, "any", "face", "utt", 6, 1, "tiny", "seed:0") for name in STREAMS]
        memory: dict[str, dict[str, np.ndarray]] = {spec.name: {} for spec in specs}
        clips = []
        with open_store(path, create=True).writer() as writer:
            for i in range(n + 6):
                name = f"clip_{i:03d}"
                writer.clip(name, media_of(name))
                for spec in specs:
                    centre = np.random.default_rng([i % 6, spec.dim]).normal(size=(1, spec.dim))
                    array = ((centre + rng.normal(size=(spec.rows or 1, spec.dim)) * 0.2) * scale).astype(np.float32)
                    if spec.level == "tokens" and scale == 1:
                        array = array.astype(np.float16).astype(np.float32)  # as the store keeps them
                    if name == without and spec.name == "mae_340_UTT":
                        writer.fail(spec, media_of(name), MediaError("no-face", "no face"))
                        continue
                    memory[spec.name][name] = array
                    writer.add(spec, media_of(name), array)
                said = SENTENCES[i % len(SENTENCES)]
                clips.append(
                    Clip(
                        name,
                        split="train" if i < n else "test1",
                        label=Label(LABELS[i % 6]),
                        transcripts={"english": said} if said else {},
                    )
                )
        return Corpus(open_store(path), clips, memory)

    return make


@pytest.fixture
def recipe() -> Callable[..., Any]:
    """The recipe `tiny` with overrides, `key=value` as on the command line."""

    def make(*overrides: str) -> Any:
        return load_recipe("tiny", [*TINY, *overrides])

    return make


SCRIPT = """
import os, pickle, signal, socket, sys, traceback
from pathlib import Path
for name in ("av", "onnxruntime", "emo.extract"):
    sys.modules[name] = None  # training reads the store alone: importing a decoder or an encoder fails
import torch
torch.set_num_threads(1)
from emo.featstore.storage.store import open_store
from emo.train.recipe import load_recipe
from emo.train.llm import resume
from emo.train.llm import tune

folder = Path(sys.argv[1])
clips = pickle.loads((folder / "clips.pickle").read_bytes())
recipe = load_recipe(folder / "given.yaml")

def train(run, recipe=recipe, **options):
    tune.tune(open_store(folder / "features.emo"), clips, recipe, folder / run, "cpu", **options)

def fork(job, *arguments):  # importing torch takes longer than training
    child = os.fork()
    if not child:
        try:
            job(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

def together(job):  # what torchrun does; the exit status of both processes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    def joined(rank):
        names = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
        job(rank)
    return [os.waitpid(child, 0)[1] for child in [fork(joined, rank) for rank in range(2)]]
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Callable[..., None]:
    """Run code in a new interpreter, after `SCRIPT`, which gives it the clips, the recipe and `train`."""

    def run(made: Corpus, given: Any, code: str) -> None:
        (tmp_path / "clips.pickle").write_bytes(pickle.dumps(made.clips))
        (tmp_path / "given.yaml").write_text(given.to_yaml())
        (tmp_path / "script.py").write_text(SCRIPT + code)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run
