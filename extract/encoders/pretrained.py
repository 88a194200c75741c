"""Base of all encoders whose network is one of transformers' own: sizes, strict loading, names, recipes.

`from_pretrained` knows the spellings of old and new files, and draws what a file lacks at random without an error. So
its report is read: what is missing, of another shape or left over without a reason is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emo.extract.encoders.base import DTYPES, Encoder
from emo.extract.encoders.catalog import Entry
from emo.extract.encoders.settings import MODEL, check_names, unlike
from emo.extract.weights import LoadReport, State, seeded_state
from emo.featstore.errors import ModelError, UsageError
from emo.featstore.sources import packages
from emo.featstore.sources.hub import Source, cached
from emo.featstore.text import some_of

WHOLE = {"deberta"}  # types whose code masks by the type of its weights: all of them are cast, in place of autocast
BOOKKEEPING = {"architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "use_cache"}
# Sizes of profile `tiny`; below, the spellings of those types that have others.
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
HEADS = (
    r"(.*\.)?(lm_head|classifier|cls|projector|final_proj|quantizer|project_(q|hid)|mlm_head|score)\b.*",
    "a head of another task",
)


class Pretrained(Encoder):
    """One model of the catalog under one recipe; a family is a subclass, `member` makes the class of each model.

    Args:
        layers: Which hidden states are summed, in place of the recipe's: -1 is the last one, 0 the embeddings.
        **options: Of every encoder.
    """

    entry: ClassVar[Entry]
    suffixes: ClassVar[Mapping[str, str]]  # level -> what the name of the feature ends with
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]]  # recipe -> its keys: attributes of the class
    small: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # model type -> sizes of profile `tiny`, beside SMALL
    spare: ClassVar[Mapping[str, str]] = {}  # what a file may lack, because the feature does not pass it
    recipe_name: str = ""
    take: tuple[int, ...] = (-1,)  # hidden states that are summed

    def __init__(self, *, layers: Sequence[int] | None = None, **options: Any) -> None:
        if layers is not None:
            self.take = tuple(layers)
        super().__init__(**options)
        depth = getattr(self.full, "num_hidden_layers", None)
        if wrong := [each for each in self.depths if depth is not None and not -depth - 1 <= each <= depth]:
            raise UsageError(
                f"{self.name} has no hidden state {wrong[0]}: they are 0 to {depth}, or -1 to {-depth - 1}."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        family = next(kind for kind in type(self).__mro__ if "entry" not in vars(kind))
        return _revive, (family, self.entry, self.recipe_name), self.__getstate__()

    @classmethod
    def under(cls, recipe: str) -> type[Pretrained]:
        """The class that a recipe is a case of."""
        return cls

    @classmethod
    def installed(cls) -> str | None:
        found = (cached(cls.source.hub) if cls.source.hub else None) or packages.installed(cls.entry.stem)
        return str(found) if found else None

    @property
    def dim(self) -> int:
        return self.full.hidden_size

    def recipe(self, level: str) -> dict[str, Any]:
        return {"recipe": self.recipe_name, "layers": self.depths, "arch": self.config}

    @property
    def depths(self) -> list[Any]:
        """Numbers of the hidden states that are summed."""
        return list(self.take)

    # ---- sizes ----------------------------------------------------------------------------------------------------

    def configure(self, config: Any) -> dict[str, Any]:
        found = config or (self.weights.config() if self.weights is not None else None)
        if found is None and self.weights is not None:
            message = f"{self.weights.source} holds no config.json: {self.name} needs the model's whole folder."
            raise ModelError(message, f"It is {self.source.where or self.entry.ask}.")
        if found is None:
            found = self.published() if self.profile != "tiny" else self.tiny()
        sizes = {key: value for key, value in found.items() if key not in BOOKKEEPING}
        self.full = self.expand(sizes)
        if self.weights is not None and config is None:
            self._compare(sizes)
        if self.profile == "paper" and (self.full.model_type, self.dim) != (expected := self.kind_and_width()):
            got = f"{self.full.model_type} of width {self.dim}"
            message = f"{self.name} is {' of width '.join(map(str, expected))}, but {self.weights.source} is {got}."
            raise ModelError(message, "Is it another model?")
        return sizes if self.weights is None else {"type": self.full.model_type}  # the weights' hash has the file

    def _compare(self, sizes: Mapping[str, Any]) -> None:
        """Refuse slips in the names of config.json, and note what is not as published."""
        where = f"{self.weights.source}/{MODEL}"
        inner = next((sizes[key] for key in ("vision_config",) if isinstance(sizes.get(key), dict)), sizes)
        check_names(inner, self.full.to_dict() | self.full.attribute_map, where)
        published = self.expand(self.published())
        if type(published) is type(self.full):
            self.notes += unlike(where, self.full.to_dict(), published.to_dict())

    def kind_and_width(self) -> tuple[str, int]:
        """Model type and width of the feature as published."""
        return self.entry.type, self.entry.width

    def published(self) -> dict[str, Any]:
        """config.json of the published model, as far as it differs from the defaults of its type."""
        return {"model_type": self.entry.type, **self.entry.sizes}

    @classmethod
    def tiny(cls) -> dict[str, Any]:
        """config.json of profile `tiny`."""
        return {"model_type": cls.entry.type, **(SMALL | cls.small.get(cls.entry.type, {}))}

    def expand(self, sizes: Mapping[str, Any]) -> Any:
        """The library's configuration object, with its defaults for what a file leaves out.

        Raises:
            ModelError: The library does not know the type of model, or refuses the sizes.
        """
        from transformers import AutoConfig

        try:
            kind = type(AutoConfig.for_model(sizes["model_type"]))
            return kind.from_dict({key: value for key, value in sizes.items() if key != "model_type"})
        except Exception as error:  # the library's validators raise whatever they like
            where = self.weights.source if self.weights is not None else "the sizes"
            message = f"{where}: transformers makes no model of this config.json: {error!r}."
            raise ModelError(message, "Is it another model, or is transformers too old for it?") from error

    # ---- the network ----------------------------------------------------------------------------------------------

    def network(self) -> type[nn.Module]:
        """The library's class for these sizes."""
        from transformers.models.auto.modeling_auto import MODEL_MAPPING

        return MODEL_MAPPING[type(self.full)]

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the library's class."""
        return {}

    def build(self) -> nn.Module:
        return self.network()(self.full, **self.options)

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        return state, {}, []

    def load(self) -> LoadReport:
        if self._model is not None:
            return self.report
        with torch.random.fork_rng(devices=[]):  # the library draws weights before it has read them
            model, self.report = self.draw() if self.weights is None else self.read()
        self.use(self.fitted(model.eval().requires_grad_(False)).to(self.device))
        return self.report

    def draw(self) -> tuple[nn.Module, LoadReport]:
        """The model with seeded weights."""
        model = self.build()
        state = seeded_state({name: tensor.shape for name, tensor in model.state_dict().items()}, self.seed)
        model.load_state_dict(state, strict=True, assign=True)
        return model, LoadReport(notes=(f"random weights, seed {self.seed}",))

    def read(self) -> tuple[nn.Module, LoadReport]:
        """The model with the weights of the folder.

        Raises:
            ModelError: Something is missing, has another shape, or is left over without a reason.
        """
        folder = self.weights.path
        self.check_tensors()
        try:
            with quiet():  # what its report says is said below, as a sentence
                model, info = self.network().from_pretrained(
                    folder,
                    config=self.full,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are in the report, with the rest
                    local_files_only=True,
                    **self.options,
                )
        except Exception as error:  # files may be damaged in many ways, and the library says each in its own
            message = f"{folder} cannot be loaded: {type(error).__name__}: {error}."
            raise ModelError(message, "Fetch the model folder again.") from error
        lacking = {name: _reason(name, self.spare.items()) for name in info["missing_keys"]}
        over = {name: _reason(name, (*self.ignore, HEADS)) for name in info["unexpected_keys"]}
        other = [f"{name} ({tuple(a)} instead of {tuple(b)})" for name, a, b in info["mismatched_keys"]]
        missing = [name for name, why in lacking.items() if not why]
        parts = [
            ("lacks", missing),
            ("has other shapes:", other),
            ("holds unexpected", [name for name, why in over.items() if not why]),
        ]
        if wrong := "; ".join(f"{verb} {some_of(sorted(names), 4)}" for verb, names in parts if names):
            raise ModelError(f"{self.weights.source} does not fit {self.name}: it {wrong}.", "Is it another model?")
        filled = tuple(name for name in model.state_dict() if name not in lacking)
        notes = tuple(f"{name} is not in the file: {why}" for name, why in lacking.items())
        return model, LoadReport(filled, over, notes)

    def check_tensors(self) -> None:
        """Refuse files that hold something else than tensors, before the library reads them."""
        self.weights.tensors()

    def fitted(self, model: nn.Module) -> nn.Module:
        """The model as the recipe needs it, once its weights are there."""
        return model

    def use(self, model: nn.Module) -> None:
        if self._casts_whole:
            self._model = model.to(DTYPES[self.dtype])
        else:
            super().use(model)

    @contextlib.contextmanager
    def computing(self) -> Iterator[nn.Module]:
        if not self._casts_whole:
            with super().computing() as model:
                yield model
            return
        self.load()
        with torch.inference_mode():
            yield self._model

    @property
    def _casts_whole(self) -> bool:
        return self.dtype != "float32" and self.full.model_type in WHOLE

    def summed(self, output: Any) -> Tensor:
        """Hidden states that the recipe takes, summed: (B, T, D) float32.

        The last one is `last_hidden_state`: of models that normalise at the end, transformers 5.x gives
        `hidden_states[-1]` before that.
        """
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        total = states[self.take[0]].float()
        for each in self.take[1:]:
            total = total + states[each]
        return total


def _reason(name: str, reasons: Iterable[tuple[str, str]]) -> str:
    return next((why for pattern, why in reasons if re.fullmatch(pattern, name)), "")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let transformers say nothing and draw nothing while it lasts."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


_members: dict[tuple[type[Pretrained], str, str], type[Pretrained]] = {}


def member(family: type[Pretrained], entry: Entry, recipe: str) -> type[Pretrained]:
    """The class of one model of the catalog under one recipe."""
    key = (family, entry.stem, recipe)
    if key not in _members:
        family = family.under(recipe)
        stem, own = entry.stem_of(recipe), entry.keys.get(recipe, {})
        members: dict[str, Any] = {"suffixes": getattr(family, "suffixes", {}), **family.recipes[recipe], **own}
        members = {name: tuple(value) if isinstance(value, list) else value for name, value in members.items()}
        if family.needs == "text":
            members["languages"] = entry.languages
        about = f"{entry.stem}, {entry.licence}"
        members |= {
            "name": f"{stem}-UTT",
            "names": {level: f"{stem}-{suffix}" for level, suffix in members["suffixes"].items()},
            "source": Source(about, hub=entry.hub, file="" if entry.hub else entry.stem, ask=entry.ask),
            "entry": entry,
            "recipe_name": recipe,
            "__doc__": f"`{stem}-UTT`: {entry.hub or entry.stem} by recipe `{recipe}`.",
            "__module__": family.__module__,
        }
        _members[key] = type(f"{family.__name__}_{stem}", (family,), members)
    return _members[key]


def _revive(family: type[Pretrained], entry: Entry, recipe: str) -> Encoder:
    return object.__new__(member(family, entry, recipe))
