"""Vectors of tiny models, and what `steer` makes of them."""

from dataclasses import replace

import torch

from concept_das.steering.context import steer
from concept_das.steering.vector import ModelIdentity, SteeringVector
from interventions import (
    orthonormal_rows,
)
from tests.tiny import WIDTH

PREFIX = 3


def make_vector(model, rank=1, operation="clamp", layer=1, prefix_length=PREFIX):
    weight = orthonormal_rows(torch.randn(rank, WIDTH))
    return SteeringVector(
        weight=weight if operation == "clamp" else 3 * weight,
        negative_factor=-torch.arange(1.0, rank + 1),
        positive_factor=4 * torch.arange(1.0, rank + 1),
        layer=layer,
        model=ModelIdentity.of(model),
        operation=operation,
        prefix_length=prefix_length,
    )


def left_padded():
    """Two rows of 9 and 6 tokens."""
    tokens = torch.randint(3, 60, (2, 9))
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def positions_of(inputs):
    return (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)


@torch.no_grad()
def plain_logits(model, inputs):
    logits = model(**inputs, position_ids=positions_of(inputs)).logits
    return logits[inputs["attention_mask"].bool()]


def steered_logits(model, vector, inputs, **options):
    with steer(model, vector, **options):
        return plain_logits(model, inputs)


def at_two_blocks(model, **fields):
    """A vector with other directions and factors at each of two blocks."""
    low, high = make_vector(model, layer=1), make_vector(model, layer=2)
    high = replace(high.sites[0], positive_factor=high.positive_factor + 0.5)
    return replace(low, sites=(low.sites[0], high), **fields)
