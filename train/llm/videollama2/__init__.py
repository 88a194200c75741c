"""VideoLLaMA2.1-7B-AV as a family of language models."""
