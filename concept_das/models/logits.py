"""Passes over rows: hidden states at sites, and teacher-forced logits at response positions."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.batches import Batch, batches, collate
from concept_das.data.chat_format import Turn
from concept_das.models.blocks import Site, capture, decoder_of, evaluating, hidden_states_at


@contextmanager
def logits_only_at(model: PreTrainedModel, mask: Bool[Tensor, "batch positions"]) -> Iterator[None]:
    """Make the model project only the marked positions onto the vocabulary.

    Inside the block its logits are `[1, marked positions, vocab]`, rows in order. What the model
    does to logits afterwards (scaling, soft-capping) is untouched.
    """
    head = model.get_output_embeddings()

    def select(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        return (hidden[mask.to(hidden.device)].unsqueeze(0), *args[1:])

    with head.register_forward_pre_hook(select):
        yield


def response_logits(model: PreTrainedModel, batch: Batch) -> list[Float[Tensor, "_ vocab"]]:
    """Logits that predict each row's response tokens, one tensor per row.

    The first row of a tensor is read at the prompt's last token.
    """
    with logits_only_at(model, batch.response_mask):
        flat = model(**batch.model_inputs(), use_cache=False, return_dict=True).logits[0]
    return list(flat.split([len(row.response) for row in batch.rows]))


def mean_log_likelihood(logits: Float[Tensor, "response vocab"], response: Sequence[int]) -> float:
    """Mean log-probability per response token, in nats."""
    labels = torch.tensor(response, device=logits.device)
    return -float(nn.functional.cross_entropy(logits.float(), labels))


def collate_for(model: PreTrainedModel, rows: Sequence[Turn]) -> Batch:
    """Right-padded batch on the device the model takes its inputs on."""
    batch = collate(rows, model.get_input_embeddings().weight.device)
    # Some models of transformers 4 (OPT, BART's decoder) take no positions.
    taken = inspect.signature(decoder_of(model).forward).parameters
    named = "position_ids" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return batch if named else replace(batch, gives_positions=False)


def hidden_states_of(
    model: PreTrainedModel, sites: Sequence[Site], rows: Sequence[Turn], batch_size: int
) -> Iterator[tuple[Batch, list[Float[Tensor, "batch positions dim"]]]]:
    """Right-padded batches of the rows, each with the hidden states at each site.

    Blocks above the highest site are not run.
    """
    highest = max(sites, key=lambda site: site.layer)
    for chunk in batches(rows, batch_size):
        batch = collate_for(model, chunk)
        with evaluating(model), ExitStack() as stack:
            seen = [stack.enter_context(capture(model, site)) for site in sites]
            hidden_states_at(model, highest, **batch.model_inputs())
        yield batch, [states for (states,) in seen]
