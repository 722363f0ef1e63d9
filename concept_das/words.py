"""Words that signatures share: the directions of steering and its rules."""

from typing import Literal, get_args

# D+ and D- of the paper.
Direction = Literal["elicit", "suppress"]

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

Rule = Literal["paper", "interpolate"]
