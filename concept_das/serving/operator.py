"""The edit as an operator of its own, which compiled models and recorded graphs keep.

To the compiler it is one opaque step from a block's output to another; what it reads stands in
tables that stay where they are, so a recorded graph reads the values of the present batch.
"""

import torch
from torch import Tensor

from concept_das.serving.tables import BlockTable


def steer_block(hidden: Tensor, residual: Tensor | None, block: str) -> Tensor:
    """`BlockTable.edited` of the block, by its name in vLLM's context of the pass."""
    from vllm.forward_context import get_forward_context

    table = get_forward_context().no_compile_layers[block]
    assert isinstance(table, BlockTable)
    # Into a graph goes the edit itself, whatever the batch that it is recorded with.
    recorded = hidden.is_cuda and torch.cuda.is_current_stream_capturing()
    if not table.active and not recorded:
        return hidden.clone()
    return table.edited(hidden, residual)


def _shape_of_it(hidden: Tensor, residual: Tensor | None, block: str) -> Tensor:
    return torch.empty_like(hidden)


_LIBRARY = torch.library.Library("concept_das", "FRAGMENT")


def register_operator() -> None:
    """Make `torch.ops.concept_das.steer_block`; once, however often it is called."""
    from vllm.utils.torch_utils import direct_register_custom_op

    if not hasattr(torch.ops.concept_das, "steer_block"):
        direct_register_custom_op(
            "steer_block", steer_block, fake_impl=_shape_of_it, target_lib=_LIBRARY
        )
