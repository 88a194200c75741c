"""A feature store and head trainer for multimodal emotion recognition.

The names below are the vocabulary; docs/python.md shows each. They are imported when they are first used.
"""

from importlib import import_module
from typing import Any

from emo.featstore.names import names_from
from emo.featstore.shared import share

__version__ = "0.2.0.dev0"

_HOMES = {
    "Clip": "emo.featstore.clip",
    "Label": "emo.featstore.clip",
    "EmoError": "emo.featstore.errors",
    "EncoderSpec": "emo.featstore.spec",
    "Feature": "emo.featstore.storage.reader",
    "Store": "emo.featstore.storage.store",
    "open_store": "emo.featstore.storage.store",
    "load_workspace": "emo.featstore.workspace",
    "open_dataset": "emo.featstore.datasets",
    "Encoder": "emo.extract.encoders.base",
    "load_encoder": "emo.extract.encoders.registry",
    "register": "emo.extract.encoders.registry",
    "ExtractArgs": "emo.extract.session",
    "open_session": "emo.extract.session",
    "fit_head": "emo.train.heads.fit",
    "load_recipe": "emo.train.recipe",
    "score": "emo.train.metrics.labels",
}
__all__ = list(_HOMES)

names_from(
    lambda: import_module("emo.extract.encoders.registry").lines(),
    lambda: import_module("emo.extract.encoders.catalog").catalog().models(),
)
share("connector", "emo.train.llm.videollama2.connector")  # the network that tuning trains and extraction may run


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'emo' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
