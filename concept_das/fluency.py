"""What the unsteered model thinks of a text, and how often the text repeats itself."""

import itertools
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from concept_das.chats import ChatFormat, Turn, pad_id_of
from concept_das.errors import InputError
from concept_das.scoring import batches, collate_for, mean_log_likelihood, response_logits


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel,
    chat: ChatFormat,
    pairs: Sequence[tuple[str, str]],
    *,
    max_tokens: int,
    batch_size: int = 16,
) -> list[float]:
    """Mean log-probability per token, in nats, of each response to its instruction.

    Args:
        pairs: instruction and response.
        max_tokens: how much of a response is read.

    Raises:
        InputError: if an instruction or a response has no text.
    """
    rows = [_turn(chat, instruction, response, max_tokens) for instruction, response in pairs]
    # Rows of similar length share a batch.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    values = [0.0] * len(rows)
    pad = pad_id_of(chat.tokenizer)
    for indices in batches(order, batch_size):
        batch = collate_for(model, [rows[i] for i in indices], pad)
        for i, logits in zip(indices, response_logits(model, batch), strict=True):
            values[i] = mean_log_likelihood(logits, rows[i].response)
    return values


def _turn(chat: ChatFormat, instruction: str, response: str, max_tokens: int) -> Turn:
    ids = chat.text_ids(response.strip())[:max_tokens]
    if not ids:
        raise InputError(f"the response to {instruction!r} is empty and has no likelihood")
    return chat.prompt(instruction).with_response(ids)


def distinct_pairs(ids: Sequence[int]) -> float:
    """Share of different ones among the pairs of neighbouring tokens; 1 if there are none."""
    pairs = list(itertools.pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
