"""Packing sequences of different lengths into padded batches of bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from concept_das.data.chat_format import Turn
from concept_das.errors import InputError

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Batch:
    """Padded rows. Masks come from lengths: a pad id may well be a token of the text.

    Attributes:
        input_ids: `[batch, positions]`.
        attention_mask: one where a row has a token.
        position_ids: 0, 1, ... over a row's own tokens, whatever the padding side.
        response_mask: `[batch, positions]`, true at the positions whose logits predict a response
            token (the first is the prompt's last token).
        offsets: number of padding slots before each row.
        gives_positions: false for a model that takes no positions and counts tokens by itself.
    """

    input_ids: Int[Tensor, "batch positions"]
    attention_mask: Int[Tensor, "batch positions"]
    position_ids: Int[Tensor, "batch positions"]
    response_mask: Bool[Tensor, "batch positions"]
    offsets: tuple[int, ...]
    rows: tuple[Turn, ...]
    gives_positions: bool = True

    def model_inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return {**inputs, "position_ids": self.position_ids} if self.gives_positions else inputs

    def source_positions(self) -> list[int]:
        """Index of each row's source token in the padded row."""
        pairs = zip(self.offsets, self.rows, strict=True)
        return [offset + row.prompt.source_position for offset, row in pairs]


def collate(
    rows: Sequence[Turn],
    device: torch.device | str = "cpu",
    padding_side: PaddingSide = "right",
    pad_id: int = 0,
) -> Batch:
    """Pad rows to a batch.

    Args:
        rows: prompts with or without responses.
        pad_id: any valid token id; what it means does not matter.
    """
    width = max(len(row.ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    position_ids = torch.zeros_like(input_ids)
    response_mask = torch.zeros_like(input_ids, dtype=torch.bool)
    offsets = []
    for i, row in enumerate(rows):
        length = len(row.ids)
        start = width - length if padding_side == "left" else 0
        offsets.append(start)
        input_ids[i, start : start + length] = torch.tensor(row.ids)
        attention_mask[i, start : start + length] = 1
        position_ids[i, start : start + length] = torch.arange(length)
        first = start + len(row.prompt.ids) - 1
        response_mask[i, first : first + len(row.response)] = True
    return Batch(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        position_ids=position_ids.to(device),
        response_mask=response_mask.to(device),
        offsets=tuple(offsets),
        rows=tuple(rows),
    )


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to fill padding with; never compared with anything, and left out of decoded texts.

    The end of the text before the padding token: a padding token is often added to the tokenizer
    and not to the model, which then has no embedding of it.
    """
    for token_id in (tokenizer.eos_token_id, tokenizer.pad_token_id, 0):
        if isinstance(token_id, int):
            return token_id
    raise AssertionError("unreachable")


def by_token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences of similar length, so that no padded batch exceeds a number of tokens.

    Longest first: what does not fit into memory fails at once and not after an hour, and a progress
    bar only ever promises too late an end.

    Args:
        lengths: tokens of each sequence.
        budget: tokens of a batch, padding counted: sequences times the longest one's length. A
            sequence beyond it forms a batch alone.

    Returns:
        Indices into `lengths`, each once; equal lengths stay in their order.

    Raises:
        InputError: if the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"the budget of a batch is {budget} tokens; it must be at least 1")
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive slices of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
