"""Where weights and replies come from, and how files are looked into."""
