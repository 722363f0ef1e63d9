"""Words that signatures share: the directions of steering, its rules and its positions."""

from typing import Literal, get_args

# D+ and D- of the paper.
Direction = Literal["elicit", "suppress"]

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

Rule = Literal["paper", "interpolate"]

Positions = Literal["all", "prompt", "generated"]
