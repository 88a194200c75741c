"""Find a language model and load it: Hugging Face folder or id, .gguf file, or random weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.install import install_command
from emo.featstore.reading import read_json
from emo.featstore.sources.hub import cached, weight_files
from emo.featstore.workspace import HUB_ID
from emo.train.llm.tokenizer import Tokenizer, quiet

Model = TypeVar("Model")

SIZES: dict[str, dict[str, Any]] = {
    # Drawn ten times as wide as usual: with the usual spread its frozen output layer says nothing, whatever is learned.
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
    },
    # Llama-2-7b-chat-hf, which Emotion-LLaMA is tuned on; with random weights, for measuring speed
    "random": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-5,
    },
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WANTED = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt", "chat_template.jinja")
NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm)
LOCAL = "Give a folder that holds it (config.json, weights, tokenizer), under [weights] in emo.toml."


def build(
    make: Callable[[PreTrainedModel, Tokenizer, str], Model],
    source: str | Path | None,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    profile: str = "paper",
    seed: int = 0,
    quantise: str | None = None,
    model_types: Mapping[str, str] | None = None,
) -> Model:
    """Load a language model and make a tuned model of it, whose fresh weights are drawn from the seed too.

    Args:
        make: Gets the language model, its tokenizer and the name of its source.
        source: Hugging Face folder or id of the language model, or a .gguf file. For the profiles `tiny` and `random`
            only the tokenizer is taken from it; `None` gives them a tokenizer of bytes.
        dtype: Of the frozen language model: `float32`, `bfloat16` or `float16`.
        device: Where the model goes.
        profile: `paper` (weights from `source`), `tiny` (small, seeded), `random` (LLaMA-2-7B's sizes, for speed).
        seed: Of everything that is drawn.
        quantise: `nf4` keeps the language model's linear layers in 4 bits (package bitsandbytes; a CUDA device, or a
            CPU, which is slow).
        model_types: What a config.json may call a model that holds a language model of another type: that type.

    Raises:
        WeightsMissing: The language model is not there, or gated.
        ModelError: It cannot be loaded, or does not fit tokenizer or adapters.
        UsageError: Unknown profile, dtype or quantisation.
    """
    if dtype not in DTYPES:
        raise UsageError(f"There is no number format {dtype!r}.", f"Use {', '.join(DTYPES)}.")
    if profile not in ("paper", *SIZES):
        raise UsageError(f"There is no profile {profile!r}.", f"Profiles: paper, {', '.join(SIZES)}.")
    source = None if source == profile else source  # `tiny` may be asked for as a source
    if profile == "paper" and source is None:
        raise WeightsMissing("No language model is named.", LOCAL)
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if profile == "paper":
            path = find_llm(str(source))
            tokenizer, name = _tokenizer(path), str(source)
            llm = _load(path, DTYPES[dtype], device, quantise, model_types or {})
        else:
            tokenizer, name = _tokenizer(find_llm(str(source))) if source else Tokenizer.bytes(), profile
            if quantise and profile == "tiny":
                raise UsageError("Profile tiny has nothing to quantise.", "Leave quantise out.")
            llm = _random(SIZES[profile], tokenizer, DTYPES[dtype], device)
            if quantise:
                _quantise(llm, _bitsandbytes(quantise, DTYPES[dtype], device))
        _fuse_norms(llm)
        return make(llm, tokenizer, name)


def find_llm(source: str) -> Path:
    """Folder or .gguf file of a language model: a local path, the local Hugging Face cache if whole, else the hub.

    Raises:
        WeightsMissing: It is not there, the hub does not know it, or it is gated.
        ModelError: The hub cannot be reached, or gave no whole model.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if path.suffix or not HUB_ID.fullmatch(source):
        raise WeightsMissing(f"There is no language model at {source}.", LOCAL)
    if folder := cached(source):
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(source, allow_patterns=list(WANTED)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(source, allow_patterns=["*.bin"]))
    except GatedRepoError as error:
        hint = f"Accept its licence at https://huggingface.co/{source}, then run: hf auth login. Or: {LOCAL}"
        raise WeightsMissing(f"The language model {source} is gated.", hint) from error
    except RepositoryNotFoundError as error:
        raise WeightsMissing(f"The hub has no language model {source}, or not for you.", LOCAL) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(f"{source} is not whole in the local cache, and the hub cannot be reached.", LOCAL) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"The hub cannot be reached for {source}: {error}.", LOCAL) from error
    if weight_files(folder):  # without the hub, what is there of it comes back
        return folder
    raise WeightsMissing(f"{source} holds no weights (*.safetensors, *.bin).", LOCAL)


def _tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model: in its folder; for a .gguf beside it, else inside it."""
    if path.suffix == ".gguf":
        try:
            return Tokenizer.from_folder(path.parent)
        except WeightsMissing:
            return Tokenizer.from_file(path)
    return Tokenizer.from_folder(path) if path.is_dir() else Tokenizer.from_file(path)


def _random(sizes: dict[str, Any], tokenizer: Tokenizer, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    config = LlamaConfig(
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
        tie_word_embeddings=False,
        **{"vocab_size": tokenizer.vocab_size, **sizes},
    )
    # The small one is drawn on the CPU, to be one model on all devices; for 7B parameters that would take minutes.
    with device if sizes is SIZES["random"] else torch.device("cpu"):
        llm = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return llm.to(device).eval()


def _load(
    path: Path, dtype: torch.dtype, device: torch.device, quantise: str | None, model_types: Mapping[str, str]
) -> PreTrainedModel:
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "local_files_only": True}
    folder = path
    if device.type != "cpu" and path.suffix != ".gguf":
        options["device_map"] = {"": device}  # from the file to its place, several at once, with no copy in between
    if quantise is not None:
        if path.suffix == ".gguf":
            raise UsageError(
                f"nf4 is made of full weights, and {path} is a .gguf file.", "Give the model's own folder."
            )
        options |= {"quantization_config": _bitsandbytes(quantise, dtype, device), "device_map": {"": device}}
    if path.suffix == ".gguf":
        folder, options["gguf_file"] = path.parent, path.name
    elif config := _inner_config(path, model_types):
        options["config"] = config
    inside = quiet() if "config" in options else contextlib.nullcontext()  # what is left over would be listed
    try:
        with inside, contextlib.redirect_stderr(io.StringIO()):  # progress bars, one of which asks none of its settings
            llm, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except ImportError as error:
        raise ModelError(
            f"Reading {path} needs a package: {error}.", f"Install it: {install_command('pocket')}."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"{path} cannot be loaded as a language model: {first}.", LOCAL) from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{path} lacks {len(missing)} tensors, {missing[0]} for one.", "Is the download complete?")
    if not hasattr(llm, "model") or not hasattr(llm, "lm_head"):
        raise ModelError(
            f"{path} is a {type(llm).__name__}, which has no `model` and `lm_head` as LLaMA, Qwen2 and Mistral have.",
            LOCAL,
        )
    return (llm if quantise else llm.to(device)).eval()


def _inner_config(folder: Path, model_types: Mapping[str, str]) -> PreTrainedConfig | None:
    """Configuration of the language model in a folder of a larger model; `None` where the library knows the type."""
    file = folder / "config.json"
    try:
        table = read_json(file) if file.is_file() else {}
    except UsageError as error:
        raise ModelError(error.message, "Fetch the model folder again.") from error
    inner = model_types.get(str(table.get("model_type"))) if isinstance(table, dict) else None
    if inner is None:
        return None
    sizes = {key: value for key, value in table.items() if key not in ("model_type", "architectures", "auto_map")}
    return AutoConfig.for_model(inner, **sizes)


def _bitsandbytes(quantise: str, dtype: torch.dtype, device: torch.device) -> BitsAndBytesConfig:
    if quantise != "nf4":
        raise UsageError(f"There is no quantisation {quantise!r}.", "Use nf4, or none.")
    if device.type not in ("cuda", "cpu"):
        raise UsageError(f"nf4 needs a CUDA device or a CPU, not {device}.", "Leave quantise out.")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError("nf4 needs the package bitsandbytes.", f"Install it: {install_command('nf4')}.") from error
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _quantise(llm: PreTrainedModel, config: BitsAndBytesConfig) -> None:
    """Put the decoder's linear layers into 4 bits where they are, as `from_pretrained` does with those of a folder."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    kind, compute = config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype
    for parent in list(llm.model.layers.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is nn.Linear:
                packed = Linear4bit(
                    linear.in_features, linear.out_features, linear.bias is not None, compute, True, kind, device="meta"
                )
                packed.weight = Params4bit(linear.weight.data, False, compress_statistics=True, quant_type=kind)
                packed.bias = linear.bias
                setattr(parent, name, packed.to(linear.weight.device))
    llm.is_loaded_in_4bit = llm.is_quantized = True


class FusedNorm(nn.RMSNorm):
    """RMSNorm as one kernel, where LLaMA's own is six and keeps float32 copies for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) in any float type, to the same; summed in float32."""
        with torch.autocast(x.device.type, enabled=False):  # which would make the result float32
            return super().forward(x)


def _fuse_norms(llm: PreTrainedModel) -> None:
    for parent in list(llm.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, NORMS):
                fused = FusedNorm(norm.weight.shape, norm.variance_epsilon, device="meta")
                fused.weight = norm.weight
                setattr(parent, name, fused)
