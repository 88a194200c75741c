"""Challenges: what each track wants to be handed in, and a validator of such files."""
