"""FSDP2: several processes share the frozen language model; what is trained stays whole on each of them."""

from __future__ import annotations

from itertools import chain

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from emo.train.llm.emotion_llama.model import EmotionLlama


def shard(model: EmotionLlama, device: str) -> None:
    """Give every process its part of the frozen decoder layers, and bring the model to this process's device.

    The model goes to the device layer by layer, and only this process's part of each stays there: at no time does the
    device hold the whole. Adapters, projections, embeddings, last norm and output layer stay whole in every process,
    so that the optimizer, checkpoints and the sum of gradients need not know of any of this.

    From now on every pass through the model is a collective, and all processes must make the same number of them: the
    same number of batches, the same clips to answer. `agree` sees to it that answers grow alike in all of them.

    Args:
        model: Fresh from `build`, on the CPU, the same in every process.
        device: This process's own.
    """
    kind = torch.device(device).type
    mesh = init_device_mesh(kind, (distributed.get_world_size(),))
    decoder = model.llm.model
    # The root is the part that all passes enter by; `embeddings` and `lm_head` are called outside of it.
    whole = {each for each in model.parameters() if each.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    whole |= {each for each in model.parameters() if not isinstance(each, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    for each in chain(whole, model.buffers()):
        each.data = each.data.to(device)
    model.agree = _first_process


def _first_process(ids: torch.Tensor) -> torch.Tensor:
    """Ids that the first process has chosen: a bit of difference in a logit must not send the others another way."""
    distributed.broadcast(ids, 0)
    return ids
