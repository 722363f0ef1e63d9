"""Measures of a pair of answers: coordinates token by token, and what steering changed."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from concept_das.models.blocks import capture, evaluating, find_site
from concept_das.models.logits import collate_for, response_logits
from concept_das.playground.answers import Pair, Playground, together
from concept_das.playground.settings import Setting
from concept_das.steering.context import steer
from concept_das.steering.vector import SteeringVector
from interventions import coordinates
from objectives import jensen_shannon

Place = tuple[str, int | None]
"""A vector's name and a block, 0-based; None for all blocks of the vector."""

_AT_ONCE = 32  # tokens, each with numbers for the whole vocabulary


@dataclass(frozen=True)
class Read:
    """A text in pieces, with coordinates.

    Attributes:
        pieces: mostly tokens; several where a character is made of several.
        coordinates: one per piece, at each place; see `coordinates_of`.
    """

    pieces: tuple[str, ...]
    coordinates: Mapping[Place, tuple[float, ...]]


@dataclass(frozen=True)
class Change:
    """The difference between the two models' predictions of one token.

    Attributes:
        divergence: Jensen-Shannon, in nats: 0 to ln 2.
        unsteered, steered: the likeliest token of each, with its probability.
    """

    piece: str
    divergence: float
    unsteered: tuple[str, float]
    steered: tuple[str, float]


@dataclass(frozen=True)
class Reading:
    """All that is measured of a pair of answers."""

    prompt: Read
    unsteered: Read
    steered: Read
    changes: tuple[Change, ...]


def places_of(playground: Playground) -> list[Place]:
    """The places at which there are coordinates: each vector, then each of its blocks."""
    places: list[Place] = []
    for name, vector in playground.vectors.items():
        if isinstance(vector, SteeringVector):
            places.append((name, None))
            places += [(name, layer) for layer in vector.layers if len(vector.layers) > 1]
    return places


def is_anchored(vector: SteeringVector) -> bool:
    """True if a vector's coordinates have a scale of their own, see `coordinates_of`."""
    factors = [at.positive_factor - at.negative_factor for at in vector.sites]
    return vector.operation == "clamp" and any(bool(between.any()) for between in factors)


def coordinates_of(
    vector: SteeringVector, hidden: Mapping[int, Float[Tensor, "positions dim"]]
) -> dict[int | None, Float[Tensor, "positions"]]:
    """Each token's coordinate at each block of a vector, and over all of them (None).

    A vector that clamps is given on the line between its factors: 0 at the negative and 1 at the
    positive factor. Over all blocks it is the mean weighted by the squared distance of the two, the
    least-squares place on the line. A vector that adds has no such scale: it is W h itself, along
    the difference of the factors, and over all blocks their plain mean.

    Args:
        hidden: states at the output of each block of the vector.
    """
    anchored = is_anchored(vector)
    along: dict[int, Tensor] = {}
    lengths: dict[int, float] = {}
    for at in vector.sites:
        between = at.positive_factor - at.negative_factor
        found = coordinates(hidden[at.layer], at.weight.to(hidden[at.layer].device)).cpu()
        if anchored:
            found = found - at.negative_factor
        along[at.layer] = found @ between
        lengths[at.layer] = float(between.square().sum())
    each: dict[int | None, Tensor] = {
        layer: value / max(lengths[layer] if anchored else lengths[layer] ** 0.5, 1e-12)
        for layer, value in along.items()
    }
    if anchored:
        return {**each, None: torch.stack([*along.values()]).sum(0) / sum(lengths.values())}
    return {**each, None: torch.stack([*each.values()]).mean(0)}


def pieces_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, int]]:
    """The text that each token adds, and how many tokens it took.

    Tokens that are parts of a character stay together.
    """
    pieces: list[tuple[str, int]] = []
    before, taken = "", 0
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        if text.endswith("\ufffd") and end < len(ids):
            continue
        pieces.append((text[len(before) :], end - taken))
        before, taken = text, end
    return pieces


@torch.no_grad()
def read(playground: Playground, setting: Setting, pair: Pair) -> Reading:
    """Measure a pair of answers.

    Coordinates are those of the unsteered model, which reads both texts: in the steered model they
    are what the vector sets them to.
    """
    model = playground.loaded.model
    turns = [pair.prompt.with_response(pair.unsteered), pair.prompt.with_response(pair.steered)]
    vectors = {n: v for n, v in playground.vectors.items() if isinstance(v, SteeringVector)}
    layers = sorted({layer for vector in vectors.values() for layer in vector.layers})
    with evaluating(model), ExitStack() as stack:
        seen = {n: stack.enter_context(capture(model, find_site(model, n))) for n in layers}
        logits = response_logits(model, collate_for(model, turns))[1]
    found: list[dict[Place, list[float]]] = [{}, {}]
    for row, turn in enumerate(turns):
        hidden = {layer: states[0][row, : len(turn.ids)] for layer, states in seen.items()}
        for name, vector in vectors.items():
            for layer, values in coordinates_of(vector, hidden).items():
                found[row][name, layer] = values.tolist()
    start = len(pair.prompt.ids)
    after = len(playground.chat.turn_end) + len(playground.chat.generation_prompt)
    text = slice(pair.prompt.prefix_length, start - after)
    return Reading(
        _read(playground, turns[0].ids, text, found[0]),
        _read(playground, turns[0].ids, slice(start, None), found[0]),
        _read(playground, turns[1].ids, slice(start, None), found[1]),
        tuple(_changes(playground, setting, pair, logits)),
    )


def _read(
    playground: Playground, ids: Sequence[int], part: slice, found: Mapping[Place, list[float]]
) -> Read:
    pieces = pieces_of(playground.loaded.tokenizer, ids[part])
    ends = torch.tensor([0, *(count for _, count in pieces)]).cumsum(0).tolist()
    return Read(
        tuple(text for text, _ in pieces),
        {  # of a character's last token, where the model has read all of it
            place: tuple(values[part][end - 1] for end in ends[1:])
            for place, values in found.items()
        },
    )


def _changes(
    playground: Playground, setting: Setting, pair: Pair, unsteered: Float[Tensor, "answer vocab"]
) -> list[Change]:
    """The change at each token of the steered answer; of a character, at its first."""
    if not pair.steered:
        return []
    model, decode = playground.loaded.model, playground.loaded.tokenizer.decode
    turn = pair.steered_prompt.with_response(pair.steered)
    entry = together(playground.steering(setting))
    lengths = [len(pair.steered_prompt.ids)]
    within = steer(model, [entry], positions=setting.positions, prompt_lengths=lengths)
    with evaluating(model), within:
        steered = response_logits(model, collate_for(model, [turn]))[0]
    found: list[tuple[float, tuple[str, float], tuple[str, float]]] = []
    for both in zip(unsteered.split(_AT_ONCE), steered.split(_AT_ONCE), strict=True):
        divergences = jensen_shannon(both[1], both[0]).tolist()
        likeliest = [
            [(str(decode([token])), p) for p, token in zip(*map(Tensor.tolist, best), strict=True)]
            for best in (part.float().softmax(-1).max(-1) for part in both)
        ]
        found += zip(divergences, *likeliest, strict=True)
    changes, at = [], 0
    for text, count in pieces_of(playground.loaded.tokenizer, pair.steered):
        changes.append(Change(text, *found[at]))
        at += count
    return changes
