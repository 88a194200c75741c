"""Run a command of emo up to the first step of a training, and print what was done when (`begin.py` starts it).

python tests/benchmarks/first_step.py train --cached --recipe NAME ...
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

marks = {"begin": time.time()}


def main() -> None:
    import torch

    from emo import cli
    from emo.train.llm import build, tune

    marks["imported"] = time.time()
    load, check = build._load, tune.check_settings

    def timed(*given: Any) -> Any:
        marks["loading"] = time.time()
        model = load(*given)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks["loaded"] = time.time()
        return model

    def tried(*given: Any) -> None:
        marks["trying"] = time.time()
        check(*given)
        marks["tried"] = time.time()

    def first(*given: Any) -> Any:
        marks["step"] = time.time()
        print("\n" + json.dumps(marks), flush=True)
        os._exit(0)

    build._load, tune.check_settings, tune.take_step = timed, tried, first  # type: ignore[assignment]
    cli.app(sys.argv[1:], standalone_mode=False)
    raise SystemExit("There was no step.")


if __name__ == "__main__":
    main()
