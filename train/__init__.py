"""Turns cached features into models, predictions and scores."""
