from hypothesis import given
from hypothesis import strategies as st

from concept_das.packing import by_token_budget


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_every_row_once_and_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = by_token_budget(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        size = len(group) * max(lengths[i] for i in group)
        assert size <= budget or len(group) == 1


def test_rows_of_similar_length_share_a_batch_longest_first() -> None:
    assert by_token_budget([3, 9, 3, 8, 2], 18) == [[1, 3], [0, 2, 4]]


def test_a_row_beyond_the_budget_is_alone() -> None:
    assert by_token_budget([5, 30, 5], 10) == [[1], [0, 2]]
