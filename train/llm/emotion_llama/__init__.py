"""Emotion-LLaMA: frozen features, trainable projections, LoRA on LLaMA-2."""
