"""From a media file to frames, samples and faces."""
