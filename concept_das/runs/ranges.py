"""Read a user's selection of numbers."""

import re

from concept_das.errors import InputError


def parse_range(text: str) -> list[int]:
    """Read a selection of numbers, e.g. of concepts.

    Args:
        text: numbers and half-open ranges with commas: "3", "0:100" (0 to 99), "0:10,20".

    Returns:
        The numbers, in the given order.

    Raises:
        InputError: if a part is neither a number nor a range, is empty, or repeats a number.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?::\s*([0-9]+)\s*)?", part)
        if match is None:
            raise InputError(
                f"{part!r} in {text!r} is neither a number nor a range; write 3, 0:100 or 0:10,20"
            )
        first = int(match[1])
        end = first + 1 if match[2] is None else int(match[2])
        if end <= first:
            raise InputError(
                f"the range {part.strip()!r} in {text!r} is empty; its end is not part of it, so "
                f"write {first}:{first + 1} for {first} alone"
            )
        again = sorted(set(range(first, end)).intersection(numbers))
        if again:
            raise InputError(f"{text!r} names {again[0]} twice; name every number once")
        numbers.extend(range(first, end))
    return numbers
