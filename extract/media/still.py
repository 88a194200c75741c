"""Pictures: a first frame that stands for a clip which is not here, and the first frame of a clip as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo.extract.media.container import open_media
from emo.featstore.address import Address
from emo.featstore.datasets.tables import PICTURE_SUFFIXES
from emo.featstore.errors import MediaError
from emo.featstore.fetch import at_hand


def is_picture(path: Path) -> bool:
    """Say whether a file is a picture by its name; a dataset lists one only in place of a clip."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (H, W, 3) RGB.

    Raises:
        MediaError: It cannot be read, or is cut off.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        kind, sentence = "truncated", f"{path.name} cannot be read as a PNG or JPEG picture."
        raise MediaError(kind, sentence, "Fetch it again.") from error


def save_first_frame(media: Address, path: Path) -> None:
    """Write the first frame of a clip as a PNG, to the pixel as encoders of whole frames see it.

    Raises:
        MediaError: The clip has no frame that can be decoded.
    """
    with at_hand(media) as found:
        if is_picture(found.path):
            pixels = read_picture(found.path)
        else:
            with open_media(found.path) as clip:
                pixels = next(clip.frames()).rgb
    Image.fromarray(pixels).save(path, format="PNG")
