"""Scores beside classification: folds, valence's sign, open vocabulary, EMER; and the ledger of published figures."""
