"""Sources of weights and replies, and readers of their files."""
