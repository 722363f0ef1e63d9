"""Packing sequences of different lengths into padded batches of bounded size."""

from collections.abc import Sequence

from concept_das.errors import InputError


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
