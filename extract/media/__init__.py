"""From a media file to frames, samples and faces."""

from emo.extract.media.container import Frame, Media, MediaInfo, open_media
from emo.extract.media.reading import Reading

__all__ = ["Frame", "Media", "MediaInfo", "Reading", "open_media"]
