"""Presets of the benchmarks: finding one by name, and the strengths of a method in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from concept_das.cli.options import ChatOptions
from concept_das.errors import InputError
from concept_das.methods.additive import Lang, RePS
from concept_das.methods.recipes import Recipe

P = TypeVar("P")

OWN_TEMPLATE = "tokenizer"
"""As `--chat-template`, the tokenizer's own in place of the preset's."""

# What a method's source may have otherwise than the preset: fields of `Answering`.
DECODING = ("temperature", "top_k", "top_p")

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
        decoding: the temperature and so on that the source samples the method's answers at, where
            they are not the preset's.
    """

    method: str
    factors: tuple[float, ...]
    source: str
    reported: float = 1.0
    decoding: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, method: str, said: Mapping[str, Any]) -> "Strengths":
        """From a preset's entry: `factors`, `source`, and the others where they differ."""
        return cls(
            method=method,
            factors=tuple(said["factors"]),
            source=said["source"],
            reported=said.get("reported", 1.0),
            decoding={name: said[name] for name in DECODING if name in said},
        )

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The factors as this project's multipliers."""
        return to_multipliers(self.method, self.factors)

    @property
    def reported_multiplier(self) -> float:
        """The reported factor as a multiplier."""
        return to_multipliers(self.method, (self.reported,))[0]


def chat_of(chat: ChatOptions, recipe: Recipe) -> ChatOptions:
    """A user's chat options, with the recipe's chat template if the user names none."""
    if chat.chat_template == OWN_TEMPLATE:
        return replace(chat, chat_template=None)
    return replace(chat, chat_template=chat.chat_template or recipe.chat_template)


def preset_named(presets: Mapping[str, P], name: str) -> P:
    """The preset of that name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in presets:
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(presets)}")
    return presets[name]
