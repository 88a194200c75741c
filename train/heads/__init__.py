"""One file per head, and the loop that fits them."""
