"""Factors of the papers as this project's multipliers."""

from collections.abc import Sequence

from concept_das.methods.additive import Lang, RePS

# Multiplier 1 of these methods is this factor.
UNIT_FACTORS = {method.name: method.unit_factor for method in (Lang, RePS)}


def to_multipliers(method: str, factors: Sequence[float]) -> tuple[float, ...]:
    """Published factors as multipliers: for Lang. and RePS f / 11, for the others the same."""
    return tuple(factor / UNIT_FACTORS.get(method, 1.0) for factor in factors)
