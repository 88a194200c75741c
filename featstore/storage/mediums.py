"""Which medium a store lies on: a path is a folder on a disk, a URL a place in a bucket."""

from __future__ import annotations

from emo.featstore.address import Address, Url, address
from emo.featstore.errors import UsageError
from emo.featstore.storage.medium import Local, Medium


def open_medium(path: str | Address) -> Medium:
    """Return the medium of the store at this path or URL.

    Raises:
        UsageError: It is a URL, and the libraries for that are not installed.
        StoreError: The URL or a setting for it is wrong.
    """
    place = address(path)
    if not isinstance(place, Url):
        return Local(place)
    try:
        from emo.featstore.storage.bucket import Bucket
    except ImportError as error:
        from emo.featstore.install import install_command

        raise UsageError(f"{place} is read by obstore: {error}.", f"Run: {install_command('cloud')}") from error
    return Bucket(place)
