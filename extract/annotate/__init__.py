"""MERR from one's own clips: action units, the frame of strongest expression, describers, annotations."""
