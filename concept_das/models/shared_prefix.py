"""Keys and values of leading tokens, computed once and shared by the rows of a batch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from concept_das.models.blocks import decoder_of

# Per block, each `[1, heads, positions, _]`.
KeysValues = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def keys_values(model: PreTrainedModel, ids: Sequence[int]) -> KeysValues:
    """Keys and values of some leading tokens, per block.

    A model that takes no plain cache (some of transformers 4) raises an error of its own.
    """
    device = model.get_input_embeddings().weight.device
    cache = DynamicCache()
    decoder_of(model)(
        input_ids=torch.tensor([ids], device=device), past_key_values=cache, use_cache=True
    )
    return list(_layers_of(cache))


def _layers_of(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values per block; transformers renamed where they are kept."""
    if hasattr(cache, "layers"):
        yield from ((layer.keys, layer.values) for layer in cache.layers)
    else:
        yield from zip(cache.key_cache, cache.value_cache, strict=True)


def cache_of(layers: KeysValues, batch: int) -> DynamicCache | None:
    """A fresh cache that holds them for every row of a batch; None if there are none."""
    if not layers:
        return None
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), index)
    return cache
