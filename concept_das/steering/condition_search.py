"""Finding a condition: the direction, block and threshold that tell two kinds of prompts apart."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_das.data.chat_format import ChatFormat, Prompt, Turn, chat_of
from concept_das.errors import InputError
from concept_das.models.blocks import Site, find_site
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel, model_of
from concept_das.models.logits import hidden_states_of
from concept_das.steering.conditions import Condition, Over, own_tokens, summarised
from concept_das.steering.vector import DirectionAtSite, SteeringVector
from interventions import coordinates

# Fewer prompts of a kind give a threshold by chance.
_LEAST = 4


@torch.no_grad()
def find_condition(
    model: PreTrainedModel | LoadedModel,
    chat: ChatFormat | PreTrainedTokenizerBase,
    matching: Sequence[Prompt | str],
    others: Sequence[Prompt | str],
    *,
    vector: SteeringVector | None = None,
    layers: Sequence[int] | None = None,
    over: Over = "mean",
    heldout: float = 0.3,
    seed: int = 0,
    batch_size: int = 16,
) -> Condition:
    """The condition that tells matching prompts from others best, measured on prompts apart.

    A share of the prompts is held out. On the rest, every candidate (a direction at a block) is
    ranked by d', the distance of the two kinds' mean coordinates in units of their pooled standard
    deviation; directions that are made from the prompts are ranked on those of another half than
    they are made from. The threshold has the best balanced accuracy (the mean of the shares of
    matching and of other prompts that are told right), in the middle of the widest such gap.

    Args:
        chat: the chat format, or a tokenizer for that of its template.
        matching: prompts, or instructions as text, that the condition is to hold for.
        others: prompts that it is not to hold for.
        vector: the directions to choose from. If None they are made from the prompts, the
            difference of the two kinds' mean hidden states, at each of `layers`.
        layers: the blocks to choose from, all if None; a condition is read at or below the first
            block that is steered.
        over: see `Condition`.
        heldout: share of the prompts of each kind that are held out.
        seed: of their choice.

    Returns:
        The condition; its `metrics` have `accuracy` (balanced), `true_positives` and
        `false_positives` (shares) on the held-out prompts, `fit_accuracy` on the rest, `d_prime`
        and the numbers of prompts.

    Raises:
        InputError: if there are too few prompts, a share that leaves none, or no candidate block.
        VectorMismatchError: if the vector belongs to another model.
    """
    inner = model_of(model)
    chat = chat_of(chat)
    prompts = [p if isinstance(p, Prompt) else chat.prompt(p) for p in (*others, *matching)]
    matches = torch.tensor([False] * len(others) + [True] * len(matching))
    held = _held_out(matches, heldout, seed)
    read = partial(_over_tokens, inner, prompts=prompts, over=over, batch_size=batch_size)
    if vector is None:
        blocks = range(find_site(inner, 0).n_layers) if layers is None else layers
        candidates = _made([find_site(inner, i) for i in blocks], read, matches, held, seed)
    else:
        vector.check_model(inner)
        vector.check_chat(chat)
        chosen = [site for site in vector.sites if layers is None or site.layer in layers]
        candidates = _given(inner, chosen, read)
    if not candidates:
        raise InputError("there is no block to choose from; name some in layers")
    best = max(candidates, key=lambda one: abs(_d_prime(one.ranked[~held], matches[~held])))
    d_prime = _d_prime(best.ranked[~held], matches[~held])
    side = 1 if d_prime >= 0 else -1
    negative, positive = (best.values[~held & kind].mean() for kind in (~matches, matches))
    condition = Condition(
        SteeringVector(
            best.direction.unsqueeze(0),
            negative.reshape(1),
            positive.reshape(1),
            best.site.layer,
            model=ModelIdentity.of(inner),
            method="condition" if vector is None else vector.method,
            concept="" if vector is None else vector.concept,
            prefix_length=len(chat.prefix),
            system=chat.system,
            source_token=chat.source_token,
            chat=chat.description,
        ),
        threshold=side * _threshold(side * best.values[~held], matches[~held]),
        above=side > 0,
        over=over,
    )
    told = condition.met(best.values)
    metrics = {
        **_metrics(told[held], matches[held]),
        "fit_accuracy": _metrics(told[~held], matches[~held])["accuracy"],
        "d_prime": abs(d_prime),
        "heldout_prompts": int(held.sum()),
        "fit_prompts": int((~held).sum()),
    }
    return replace(condition, metrics=metrics)


Read = Callable[..., list[Float[Tensor, "prompts _"]]]


@dataclass(frozen=True)
class _Candidate:
    """A direction at a block.

    Attributes:
        values: the coordinate of each prompt.
        ranked: coordinates of the prompts to rank it by.
    """

    site: Site
    direction: Float[Tensor, "dim"]
    values: Float[Tensor, "prompts"]
    ranked: Float[Tensor, "prompts"]


def _given(
    model: PreTrainedModel, chosen: Sequence[DirectionAtSite], read: Read
) -> list[_Candidate]:
    """The directions of a vector."""
    if not chosen:
        return []
    sites = [find_site(model, at.layer) for at in chosen]
    values = read(sites, weights=[at.weight for at in chosen])
    return [
        _Candidate(site, at.weight[row], found[:, row], found[:, row])
        for site, at, found in zip(sites, chosen, values, strict=True)
        for row in range(at.rank)
    ]


def _made(
    sites: Sequence[Site],
    read: Read,
    matches: Bool[Tensor, "prompts"],
    held: Bool[Tensor, "prompts"],
    seed: int,
) -> list[_Candidate]:
    """The difference of the two kinds' means at each block.

    A direction fits the prompts that it was made from too well, so each half of them is ranked on
    the direction that the other half makes.
    """
    if not sites:
        return []
    half = _held_out(matches, 0.5, seed + 1)
    weights = [
        torch.stack([_between(at, matches, ~held & rows) for rows in (half, ~half, half | ~half)])
        for at in read(sites)
    ]
    values = read(sites, weights=weights)
    return [
        _Candidate(site, weight[2], found[:, 2], torch.where(half, found[:, 1], found[:, 0]))
        for site, weight, found in zip(sites, weights, values, strict=True)
    ]


def _metrics(told: Bool[Tensor, "prompts"], matches: Bool[Tensor, "prompts"]) -> dict[str, float]:
    hits, alarms = float(told[matches].double().mean()), float(told[~matches].double().mean())
    return {"accuracy": (hits + 1 - alarms) / 2, "true_positives": hits, "false_positives": alarms}


def _held_out(matches: Bool[Tensor, "prompts"], share: float, seed: int) -> Bool[Tensor, "prompts"]:
    """True for a share of the prompts of each kind.

    Raises:
        InputError: if a kind has too few for both parts.
    """
    chosen = torch.zeros_like(matches)
    for kind, name in ((True, "matching"), (False, "other")):
        at = (matches == kind).nonzero().flatten().tolist()
        count = round(share * len(at))
        if count < 1 or len(at) - count < _LEAST:
            raise InputError(
                f"of {len(at)} {name} prompts {count} would be held out; give at least 1 of those "
                f"and {_LEAST} others"
            )
        chosen[random.Random(seed).sample(at, count)] = True
    return chosen


def _over_tokens(
    model: PreTrainedModel,
    sites: Sequence[Site],
    prompts: Sequence[Prompt],
    over: Over,
    batch_size: int,
    weights: Sequence[Tensor] | None = None,
) -> list[Float[Tensor, "prompts _"]]:
    """At each site, the prompts' coordinates, or without weights their hidden states.

    Hidden states have no largest: for `max` they are means.
    """
    found: list[list[Tensor]] = [[] for _ in sites]
    rows = [Turn(prompt) for prompt in prompts]
    for batch, seen in hidden_states_of(model, sites, rows, batch_size):
        for i, hidden in enumerate(seen):
            tokens = own_tokens(batch).to(hidden.device)
            if weights is None:
                states = summarised(hidden.float(), tokens, "mean" if over == "max" else over)
            else:
                states = summarised(coordinates(hidden, weights[i].to(hidden.device)), tokens, over)
            found[i].append(states.cpu())
    return [torch.cat(of_site) for of_site in found]


def _between(
    states: Float[Tensor, "prompts dim"],
    matches: Bool[Tensor, "prompts"],
    rows: Bool[Tensor, "prompts"],
) -> Float[Tensor, "dim"]:
    """The unit direction from the mean of the rows' other prompts to that of the matching ones."""
    difference = states[rows & matches].mean(dim=0) - states[rows & ~matches].mean(dim=0)
    return difference / difference.norm().clamp(min=1e-12)


def _d_prime(values: Float[Tensor, "prompts"], matches: Bool[Tensor, "prompts"]) -> float:
    """The distance of the two kinds' means in units of their pooled standard deviation."""
    kinds = values[matches].double(), values[~matches].double()
    spread = (sum(kind.var() for kind in kinds) / 2) ** 0.5
    return float((kinds[0].mean() - kinds[1].mean()) / max(float(spread), 1e-12))


def _threshold(values: Float[Tensor, "prompts"], matches: Bool[Tensor, "prompts"]) -> float:
    """The threshold with the best balanced accuracy; of several, in the widest gap."""
    ordered = values.double().sort().values
    middles = (ordered[1:] + ordered[:-1]) / 2
    gaps = ordered[1:] - ordered[:-1]
    ranks = [
        (_metrics(values > middle, matches)["accuracy"], float(gap))
        for middle, gap in zip(middles.tolist(), gaps, strict=True)
    ]
    return float(middles[max(range(len(ranks)), key=ranks.__getitem__)])
