"""A feature store and head trainer for multimodal emotion recognition."""

__version__ = "0.1.0"
