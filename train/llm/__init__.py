"""Emotion-LLaMA from cached tensors: prompts, model, checkpoints, tuning, answers."""
