"""Does my extraction match: two sides compared clip by clip, and the cause of a difference."""
