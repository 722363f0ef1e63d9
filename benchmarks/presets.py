"""Presets of the benchmarks: finding one by name, and factors as multipliers."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from concept_das.errors import InputError
from concept_das.methods.additive import Lang, RePS

P = TypeVar("P")

# Multiplier 1 of these methods is this factor.
UNIT_FACTORS = {method.name: method.unit_factor for method in (Lang, RePS)}


def to_multipliers(method: str, factors: Sequence[float]) -> tuple[float, ...]:
    """Published factors as multipliers: for Lang. and RePS f / 11, for the others the same."""
    return tuple(factor / UNIT_FACTORS.get(method, 1.0) for factor in factors)


def preset_named(presets: Mapping[str, P], name: str) -> P:
    """The preset of that name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in presets:
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(presets)}")
    return presets[name]
