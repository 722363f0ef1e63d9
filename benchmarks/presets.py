"""Presets of the benchmarks: finding one by name, and the strengths of a method in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from concept_das.errors import InputError
from concept_das.methods.additive import Lang, RePS

P = TypeVar("P")

# Multiplier 1 of these methods is this factor.
UNIT_FACTORS = {method.name: method.unit_factor for method in (Lang, RePS)}


def to_multipliers(method: str, factors: Sequence[float]) -> tuple[float, ...]:
    """Published factors as multipliers: for Lang. and RePS f / 11, for the others the same."""
    return tuple(factor / UNIT_FACTORS.get(method, 1.0) for factor in factors)


@dataclass(frozen=True)
class Strengths:
    """The strengths of a method.

    Attributes:
        method: its name.
        factors: as the source has them.
        source: where they are from.
        reported: the factor of published results, and of the capability scores.
    """

    method: str
    factors: tuple[float, ...]
    source: str
    reported: float = 1.0

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The factors as this project's multipliers."""
        return to_multipliers(self.method, self.factors)

    @property
    def reported_multiplier(self) -> float:
        """The reported factor as a multiplier."""
        return to_multipliers(self.method, (self.reported,))[0]


def preset_named(presets: Mapping[str, P], name: str) -> P:
    """The preset of that name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in presets:
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(presets)}")
    return presets[name]
