import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_das.data.batches import by_token_budget
from concept_das.errors import InputError


@given(st.lists(st.integers(0, 50)), st.integers(1, 120))
def test_every_sequence_once_and_the_budget_kept(lengths: list[int], budget: int) -> None:
    groups = by_token_budget(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * longest <= budget
    assert groups == by_token_budget(lengths, budget)


@given(st.lists(st.integers(1, 50)), st.integers(1, 120))
def test_longest_first_and_ties_in_their_order(lengths: list[int], budget: int) -> None:
    flat = [i for group in by_token_budget(lengths, budget) for i in group]
    assert flat == sorted(flat, key=lambda i: (-lengths[i], i))


def test_groups_are_as_large_as_the_budget_allows() -> None:
    assert by_token_budget([3, 10, 5, 5, 4, 99, 1], 20) == [[5], [1, 2], [3, 4, 0, 6]]
    assert by_token_budget([7] * 5, 14) == [[0, 1], [2, 3], [4]]
    assert by_token_budget([7, 8], 7) == [[1], [0]]
    assert by_token_budget([], 7) == []


@pytest.mark.parametrize("budget", [0, -3])
def test_an_unusable_budget(budget: int) -> None:
    with pytest.raises(InputError, match=f"is {budget} tokens; it must be at least 1"):
        by_token_budget([1], budget)
