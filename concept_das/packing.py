"""Packing rows of similar length into batches of a bounded number of tokens."""

from collections.abc import Sequence


def by_token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Groups of indices whose padded size, rows x longest, stays within the budget.

    Rows are sorted by length, longest first, so that a batch that does not fit in memory fails at
    once and not at the end. Rows of equal length keep their order.

    Args:
        lengths: tokens of each row.
        budget: tokens of one batch, padding included. A longer row is a batch of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
