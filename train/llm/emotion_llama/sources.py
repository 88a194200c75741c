"""Weights that Emotion-LLaMA needs beside its encoders', by their key under `[weights]`."""

from __future__ import annotations

from emo.featstore.sources.hub import Source

WEIGHTS = {
    "llama": Source("Llama 2 7B chat, gated by its licence", hub="meta-llama/Llama-2-7b-chat-hf"),
    "minigpt_v2": Source(
        "MiniGPT-v2 after stage 3: llama_proj and LoRA (state dict under `model`)",
        file="minigptv2_checkpoint.pth",
        ask="from the MiniGPT-4 repository (Vision-CAIR/MiniGPT-4)",
    ),
    "smollm2": Source(
        "SmolLM2-135M-Instruct, small enough for a laptop; also as a package", hub="HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
}
