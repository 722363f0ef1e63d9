"""Everything that an answer in the playground follows from, and the link that holds it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlencode

from concept_das.errors import InputError
from concept_das.steering.positions import parse_positions
from concept_das.words import DIRECTIONS, Direction

LARGEST = {"multiplier": 3.0, "max_new_tokens": 512, "temperature": 2.0}
"""The upper ends of the sliders; the lower ends are 0, of the tokens 1."""

_OF_VECTOR = "vector."


@dataclass(frozen=True)
class Strength:
    """A vector's direction and multiplier; at the multiplier 0 the vector is left out."""

    direction: Direction = "elicit"
    multiplier: float = 1.0


@dataclass(frozen=True)
class Setting:
    """A prompt, how it is steered, and how answers are sampled.

    Attributes:
        strengths: of each vector, by its name.
        positions: the tokens that are steered, see `concept_das.steering.positions`.
        max_new_tokens: length of an answer, in tokens.
        temperature: 0 decodes greedily.
    """

    prompt: str
    strengths: Mapping[str, Strength]
    positions: str = "all"
    max_new_tokens: int = 60
    temperature: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be answered.

        Raises:
            InputError: naming the control that has to change.
        """
        if not self.prompt.strip():
            raise InputError("the prompt is empty; write one")
        parse_positions(self.positions)
        for name, strength in self.strengths.items():
            _check_number(f"the multiplier of {name}", strength.multiplier, "multiplier")
        length = float(self.max_new_tokens)
        _check_number("the longest answer", length, "max_new_tokens", least=1.0)
        _check_number("the temperature", self.temperature, "temperature")

    @property
    def query(self) -> str:
        """The setting as a link's query; `of_query` reads it."""
        values = asdict(self)
        strengths = values.pop("strengths")
        ways = {
            _OF_VECTOR + name: f"{way['direction']} {way['multiplier']:g}"
            for name, way in strengths.items()
        }
        return "?" + urlencode({"prompt": values.pop("prompt"), **ways, **values})

    def of_query(self, query: Mapping[str, str]) -> "Setting":
        """This setting, changed by a link's parameters; other parameters are left alone.

        Args:
            query: the decoded parameters. A vector that is not among them is switched off if
                another one is.

        Raises:
            InputError: if a value cannot be used, or names a vector that is not here.
        """
        named = {key.removeprefix(_OF_VECTOR): text for key, text in query.items() if _names(key)}
        unknown = sorted(named.keys() - self.strengths.keys())
        if unknown:
            raise InputError(
                f"the link is of the vector {unknown[0]}, which is not here; start the playground "
                f"with --vector {unknown[0]}"
            )
        strengths = {
            name: _strength(name, named[name]) if name in named else replace(way, multiplier=0.0)
            for name, way in self.strengths.items()
        }
        setting = replace(
            self,
            prompt=query.get("prompt", self.prompt),
            strengths=strengths if named else self.strengths,
            positions=query.get("positions", self.positions),
            max_new_tokens=int(_number(query, "max_new_tokens", float(self.max_new_tokens))),
            temperature=_number(query, "temperature", self.temperature),
            seed=int(_number(query, "seed", float(self.seed))),
        )
        setting.check()
        return setting


def _names(key: str) -> bool:
    return key.startswith(_OF_VECTOR)


def _strength(name: str, text: str) -> Strength:
    for direction in DIRECTIONS:
        word, _, number = text.partition(" ")
        if word == direction:
            return Strength(direction, _number({name: number}, name, math.nan))
    raise InputError(
        f"the link has {text!r} for {name}; it must be elicit or suppress and a multiplier"
    )


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"the link has {text!r} for {name}; it must be a number")
    return value


def _check_number(what: str, value: float, name: str, least: float = 0.0) -> None:
    if not least <= value <= LARGEST[name]:
        raise InputError(f"{what} is {value:g}; give {least:g} to {LARGEST[name]:g}")
