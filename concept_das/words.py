"""Words that rooms share: the directions of steering, its rules, and the names of recoveries."""

from typing import Literal, get_args

# D+ and D- of the paper.
Direction = Literal["elicit", "suppress"]

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

Rule = Literal["paper", "interpolate"]

# Columns and metrics (`concept_das.evaluation.recovery`).
RECOVERY: dict[Direction, str] = {
    "elicit": "elicitation_recovery",
    "suppress": "suppression_recovery",
}
