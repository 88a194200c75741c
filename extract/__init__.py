"""Turns media into features: one decode, all encoders, one writer."""
