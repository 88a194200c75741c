"""AffectGPT 2025 as a family of language models."""
