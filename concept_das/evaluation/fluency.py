"""Measure fluency: the likelihood of a text under the unsteered model, and its repetition."""

import itertools
import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from concept_das.data.batches import batches
from concept_das.data.chat_format import ChatFormat, Prompt, Turn
from concept_das.errors import InputError
from concept_das.models.logits import (
    collate_for,
    logits_only_at,
    mean_log_likelihood,
    response_logits,
)
from concept_das.models.shared_prefix import cache_of, keys_values

log = logging.getLogger(__name__)


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

    The model reads an instruction with several responses once, if its cache allows that.

    Args:
        pairs: instruction and response.
        max_tokens: longer responses are cut.

    Raises:
        InputError: if an instruction or a response has no text.
    """
    rows = [_turn(chat, instruction, response, max_tokens) for instruction, response in pairs]
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        by_prompt.setdefault(row.prompt.ids, []).append(i)
    values: dict[int, float] = {}
    several = [group for group in by_prompt.values() if len(group) > 1]
    if several and _can_share(model, rows[several[0][0]]):
        for group in several:
            found = _shared(model, [rows[i] for i in group], batch_size)
            values.update(zip(group, found, strict=True))
    # Rows of similar length share a batch.
    alone = sorted(set(range(len(rows))) - values.keys(), key=lambda i: len(rows[i].ids))
    for indices in batches(alone, batch_size):
        found = _plain(model, [rows[i] for i in indices])
        values.update(zip(indices, found, strict=True))
    return [values[i] for i in range(len(rows))]


def _plain(model: PreTrainedModel, rows: Sequence[Turn]) -> list[float]:
    logits = response_logits(model, collate_for(model, rows))
    return [mean_log_likelihood(one, row.response) for one, row in zip(logits, rows, strict=True)]


def _shared(model: PreTrainedModel, rows: Sequence[Turn], batch_size: int) -> list[float]:
    """Mean log-likelihoods of rows with the same prompt, which the model reads once."""
    *start, last = rows[0].prompt.ids
    known = keys_values(model, start)
    values = []
    for chunk in batches([Turn(Prompt((last,), 0, 0), row.response) for row in rows], batch_size):
        batch = collate_for(model, chunk)
        seen = torch.ones(len(chunk), len(start), dtype=torch.long, device=batch.input_ids.device)
        with logits_only_at(model, batch.response_mask):
            flat = model(
                input_ids=batch.input_ids,
                attention_mask=torch.cat([seen, batch.attention_mask], dim=1),
                position_ids=batch.position_ids + len(start),
                past_key_values=cache_of(known, len(chunk)),
                use_cache=False,
            ).logits[0]
        logits = flat.split([len(row.response) for row in chunk])
        values += [
            mean_log_likelihood(one, row.response) for one, row in zip(logits, chunk, strict=True)
        ]
    return values


def _can_share(model: PreTrainedModel, row: Turn) -> bool:
    """True if the model gives the same value with the prompt in its cache."""
    try:
        (found,) = _shared(model, [row], 1)
    except Exception as reason:  # architectures without a plain cache raise different errors
        log.debug("prompts are read again for every response (%s)", reason)
        return False
    (expected,) = _plain(model, [row])
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.05
    return abs(found - expected) <= tolerance * max(1.0, abs(expected))


def _turn(chat: ChatFormat, instruction: str, response: str, max_tokens: int) -> Turn:
    ids = chat.text_ids(response.strip())[:max_tokens]
    if not ids:
        raise InputError(f"the response to {instruction!r} is empty and has no likelihood")
    return chat.prompt(instruction).with_response(ids)


def distinct_pairs(ids: Sequence[int]) -> float:
    """Share of distinct pairs among all pairs of neighbouring tokens; 1 if there are none."""
    pairs = list(itertools.pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
