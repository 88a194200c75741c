"""What the official codes do and name otherwise than emo: weights of heads, names of parameters, a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from emo.train.heads.attention import AttentionFusion
from emo.train.heads.gradient import load_strict
from emo.train.llm.model import IGNORED, Batch, TunedModel
from emo.train.llm.videollama2.checkpoint import ADAPTERS, OURS

OFFICIAL_STREAMS = ("audio", "text", "video")


def load_official(net: AttentionFusion, state: Mapping[str, Tensor], streams: Sequence[str] = OFFICIAL_STREAMS) -> None:
    """Load a state dict in the official naming: `audio_encoder.*`, `encoder0.*` (MERBench), `audio_mlp.*` (MER2023).

    Args:
        net: Head with as many encoders as `streams`.
        state: Official state dict.
        streams: Official name of each encoder, in the order of the head's inputs.

    Raises:
        ModelError: A tensor is missing, left over or of another shape; all are named.
    """
    kinds = ("_encoder.", "_mlp.", ".")
    places = {f"{name}{kind}": f"encoders.{i}." for i, name in enumerate(streams) for kind in kinds}
    renamed = {}
    for key, tensor in state.items():
        if not tensor.numel():
            continue  # `output_dim2=0`: the official head without valence has an empty fc_out_2
        prefix = next((prefix for prefix in places if key.startswith(prefix)), "")
        renamed[places.get(prefix, "") + key.removeprefix(prefix)] = tensor
    load_strict(net, renamed)


def released_names(named: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Give VideoLLaMA2's parameters the names of the released checkpoints; adapters as peft has them."""
    return {
        name.removeprefix(OURS).removeprefix(ADAPTERS) if name.startswith(OURS) else f"model.{name}": each
        for name, each in named.items()
    }


def loss_reference(model: TunedModel, batch: Batch, reduction: str = "mean") -> Tensor:
    """Return the loss as the official code computes it (modeling_llama.py): mask, logits everywhere.

    Args:
        model: On the device of the batch.
        batch: For `none` as wide as the longest prompt and the longest answer together, because of what follows.
        reduction: `mean` over supervised ids; or `none`: per sample the mean over *all* rows, where those that are
            not supervised count as 0.
    """
    with model.autocast():
        rows, mask = model.embed(batch), batch.mask.long()
        logits = model.llm(inputs_embeds=rows, attention_mask=mask, use_cache=False).logits
    logits, labels = logits.float()[:, :-1].flatten(0, 1), batch.labels[:, 1:]
    loss = F.cross_entropy(logits, labels.flatten(), reduction=reduction, ignore_index=IGNORED)
    return loss if reduction == "mean" else loss.view(labels.shape).mean(1)
