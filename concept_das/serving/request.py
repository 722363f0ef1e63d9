"""A request's steering, as it travels to vLLM.

In Python it is one object among a request's extra arguments::

    SamplingParams(extra_args={"steering": {"vector": "pirate", "multiplier": 1.2}})

The OpenAI-compatible server takes only texts, numbers and lists there, so over HTTP the same words
stand one by one, in `vllm_xargs`::

    {"steering_vector": "pirate", "steering_multiplier": 1.2}

Both forms are understood in both places. A vector is named, never sent: the engine knows the
vectors that it was started with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import torch

from concept_das.errors import InputError
from concept_das.steering.entries import Entry, Steering, parts_of
from concept_das.steering.positions import parse_positions
from concept_das.steering.vector import SteeringVector
from concept_das.words import DIRECTIONS, Direction, Rule

KEY = "steering"


@dataclass(frozen=True)
class SteeringRequest:
    """The steering of one request.

    Attributes:
        vector: name of a vector that the engine was started with.
        direction, multiplier, rule: see `SteeringVector.target`.
        positions: see `steer`.
        factor: coordinates to use instead of the measured factor, of a vector with one site.
    """

    vector: str
    direction: Direction = "elicit"
    multiplier: float = 1.0
    rule: Rule = "paper"
    positions: str = "all"
    factor: tuple[float, ...] | None = None

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> "SteeringRequest | None":
        """Read it from a request's extra arguments, in either form; None if there is none.

        Raises:
            InputError: on unknown words, or values that mean nothing.
        """
        extra_args = extra_args or {}
        flat = {
            name.removeprefix(f"{KEY}_"): value
            for name, value in extra_args.items()
            if name.startswith(f"{KEY}_")
        }
        nested = extra_args.get(KEY)
        if nested is not None and not isinstance(nested, Mapping):
            raise InputError(
                f'steering is {nested!r}; give an object such as {{"vector": "pirate"}}, or '
                "steering_vector, steering_multiplier and so on one by one"
            )
        if nested is not None and flat:
            raise InputError("steering is given both as an object and word by word; give one")
        given = dict(flat if nested is None else nested)
        if not given and nested is None:
            return None
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise InputError(f"steering: unknown word {name!r}; choose {', '.join(known)}")
        if "vector" not in given:
            raise InputError("steering names no vector; give the name of one")
        return cls(**{name: _checked(name, value) for name, value in given.items()})

    @classmethod
    def for_steering(cls, entry: Entry, vector: str, positions: str = "all") -> "SteeringRequest":
        """The request that steers as `steer` would.

        Args:
            vector: the name that the engine knows the entry's vector by.

        Raises:
            InputError: if no request can say this.
        """
        steering = only_part(parts_of(entry))
        factor = None if steering.factor is None else tuple(steering.factor.reshape(-1).tolist())
        multiplier = float(steering.multiplier)
        return cls(vector, steering.direction, multiplier, steering.rule, positions, factor)

    def extra_args(self) -> dict[str, Any]:
        """For `SamplingParams(extra_args=...)` in Python."""
        return {KEY: self._given()}

    def xargs(self) -> dict[str, Any]:
        """For `vllm_xargs` in the body of a request to the server."""
        return {f"{KEY}_{name}": value for name, value in self._given().items()}

    def _given(self) -> dict[str, Any]:
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return values | ({} if self.factor is None else {"factor": list(self.factor)})

    def steering(self, vector: SteeringVector) -> Steering:
        """The steering that it asks for, by the vector that it names.

        Raises:
            InputError: if the vector cannot do that.
        """
        factor = None if self.factor is None else torch.tensor(self.factor)
        steering = Steering(vector, self.direction, self.multiplier, self.rule, factor)
        steering.check()
        return steering


def only_part(parts: Sequence[Steering]) -> Steering:
    """The one steering of a row, if a request can say it.

    Raises:
        InputError: if it cannot.
    """
    if len(parts) > 1:
        raise InputError(
            "vLLM steers a prompt with one vector; for several at once answer with generator hf"
        )
    (steering,) = parts
    if steering.when is not None:
        raise InputError("vLLM steers without conditions (when); answer with generator hf")
    return steering


def _checked(name: str, value: Any) -> Any:
    """A word's value, if it means something.

    Raises:
        InputError: if it does not.
    """
    if name == "multiplier":
        return _finite(name, value)
    if name == "factor":
        if not isinstance(value, (list, tuple)) or not value:
            raise InputError(f"steering: factor is {value!r}; give a list of numbers")
        return tuple(_finite(name, number) for number in value)
    if not isinstance(value, str):
        raise InputError(f"steering: {name} is {value!r}; give a text")
    known: dict[str, tuple[str, ...]] = {"direction": DIRECTIONS, "rule": get_args(Rule)}
    if value not in known.get(name, (value,)):
        raise InputError(f"steering: unknown {name} {value!r}; choose {' or '.join(known[name])}")
    if name == "positions":
        parse_positions(value)
    return value


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"steering: {name} is {value!r}; give a finite number")
    return float(value)
