"""Many heads on many features by one protocol: one YAML in, a leaderboard out. A cell is a head on a feature set."""
