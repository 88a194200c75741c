"""Run MERBench's own `main-release.py` on a CPU; the checkout stays as it is.

    python tests/benchmarks/merbench_cpu.py CHECKOUT LABELS FEATURES FOLDS [words of main-release.py]

Its files are run as they are published. Put in place from here: where labels and features lie (`config.py` names its
authors' folders), the folds (a JSON list of `[training rows, held-out rows]`; its own are drawn without a seed), and on
a machine without a GPU `.cuda()`, which it calls without asking, as a step that changes nothing. Packages that it
imports and does not use in training are stood in for by empty ones where they are not installed.
"""

from __future__ import annotations

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

UNUSED = {"thop": ("profile",), "cv2": (), "torchaudio": (), "openai": ()}


def main() -> None:
    checkout, labels, features, folds = map(Path, sys.argv[1:5])
    root = merbench(checkout)
    sys.path[0] = str(root)
    stand_in()
    if not torch.cuda.is_available():
        on_cpu()
    import config

    config.PATH_TO_LABEL["MER2023"] = str(labels)
    config.PATH_TO_FEATURES["MER2023"] = str(features)
    from toolkit.dataloader.mer2023 import MER2023

    parts = json.loads(folds.read_text(encoding="utf-8"))
    MER2023.random_split_indexes = lambda self, count, number: parts
    sys.argv = ["main-release.py", *sys.argv[5:]]
    runpy.run_path(str(root / "main-release.py"), run_name="__main__")


def merbench(checkout: Path) -> Path:
    """The folder of a checkout of MERTools that holds main-release.py; the checkout may be that folder itself."""
    for root in (checkout / "MERBench", checkout):
        if (root / "main-release.py").is_file():
            return root
    raise SystemExit(f"{checkout} holds no MERBench/main-release.py: name a checkout of zeroQiaoba/MERTools.")


def stand_in() -> None:
    """Empty modules for what is not installed; `OmegaConf.load` reads YAML."""
    for name, functions in UNUSED.items():
        if find_spec(name) is None:
            sys.modules[name] = module = ModuleType(name)
            for each in functions:
                setattr(module, each, None)
    if find_spec("omegaconf") is None:
        module = ModuleType("omegaconf")
        module.OmegaConf = type("OmegaConf", (), {"load": staticmethod(_load)})  # type: ignore[attr-defined]
        sys.modules["omegaconf"] = module


def _load(path: str) -> Any:
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def on_cpu() -> None:
    """`.cuda()` of tensors and modules gives them back as they are."""
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign, assignment]
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign, assignment]
    torch.cuda.set_device = lambda device: None


if __name__ == "__main__":
    main()
