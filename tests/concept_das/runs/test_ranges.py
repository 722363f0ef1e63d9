import pytest

from concept_das.errors import InputError
from concept_das.runs.ranges import parse_range


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", [3]),
        ("0:100", list(range(100))),
        ("0:3,20", [0, 1, 2, 20]),
        ("7, 2 : 4", [7, 2, 3]),
        ("05", [5]),
    ],
)
def test_a_selection(text: str, numbers: list[int]) -> None:
    assert parse_range(text) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' in '' is neither"),
        ("1,", "'' in '1,' is neither"),
        ("-1", "'-1' in '-1' is neither"),
        ("1.5", "neither"),
        ("0:", "neither"),
        ("0:10:2", "neither"),
        ("a", "neither"),
        ("5:5", "'5:5' in '5:5' is empty; .* 5:6 for 5 alone"),
        ("9:3", "is empty"),
        ("0:10,5", "names 5 twice"),
        ("3,3", "names 3 twice"),
    ],
)
def test_an_unusable_selection(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_range(text)
