"""One file per encoder, all under one contract."""
