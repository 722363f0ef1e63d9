"""Answers for the same work: steered and not, here and by the libraries that people would pick.

A batch of prompts is answered greedily, with as many new tokens for each. One vector is added for
all of them, or eight vectors and none are mixed: here in one call, and elsewhere, where a call
steers all its prompts alike, in a call for each.
"""

import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.speed.timing import work_of
from concept_das.data.batches import collate, pad_id_of
from concept_das.data.chat_format import Prompt, Turn
from concept_das.models.loading import LoadedModel
from concept_das.reports.figures import figure_png
from concept_das.runs.files import write_atomically
from concept_das.steering.context import steer
from concept_das.steering.generation import Decoding, decoding
from concept_das.steering.vector import ModelIdentity, SteeringVector

PEERS = ("steering-vectors", "repeng")
"""By the names on PyPI."""

VECTORS = 8

Way = Callable[[Sequence[SteeringVector | None]], list[list[int]]]
"""Token ids of the answers, each prompt's under its own vector or none."""

log = logging.getLogger(__name__)


def added_vectors(
    loaded: LoadedModel, layer: int, prefix_length: int, count: int = VECTORS
) -> list[SteeringVector]:
    """Random directions to be added at a block: what the answers say does not matter."""
    width = loaded.model.config.get_text_config().hidden_size
    weights = torch.randn(count, 1, width, generator=torch.Generator().manual_seed(0))
    return [
        SteeringVector(
            torch.nn.functional.normalize(weight, dim=1),
            -torch.ones(1),
            torch.ones(1),
            layer,
            "add",
            model=ModelIdentity.of(loaded.model),
            prefix_length=prefix_length,
        )
        for weight in weights
    ]


def ways_of(loaded: LoadedModel, prompts: Sequence[Prompt], new_tokens: int) -> dict[str, Way]:
    """Each way to answer the prompts; a peer that is not installed is left out, with a warning."""
    pad = pad_id_of(loaded.tokenizer)
    how = Decoding(max_new_tokens=new_tokens)
    options = {**decoding(loaded.model, pad, how, ()), "min_new_tokens": new_tokens}

    def generate(indices: Sequence[int]) -> list[list[int]]:
        batch = collate([Turn(prompts[i]) for i in indices], loaded.device, "left", pad)
        output: Tensor = loaded.model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **options
        )
        return output[:, batch.input_ids.shape[1] :].tolist()

    def unsteered(_vectors: Sequence[SteeringVector | None]) -> list[list[int]]:
        return generate(range(len(prompts)))

    def steered(vectors: Sequence[SteeringVector | None]) -> list[list[int]]:
        with steer(loaded.model, vectors):
            return generate(range(len(prompts)))

    def group_by_group(
        applied: Callable[[SteeringVector], AbstractContextManager[Any]],
        vectors: Sequence[SteeringVector | None],
    ) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for i, vector in enumerate(vectors):
            groups.setdefault(id(vector), []).append(i)
        found: dict[int, list[int]] = {}
        for indices in groups.values():
            vector = vectors[indices[0]]
            with nullcontext() if vector is None else applied(vector):
                found.update(zip(indices, generate(indices), strict=True))
        return [found[i] for i in range(len(prompts))]

    peers: dict[str, Callable[[SteeringVector], AbstractContextManager[Any]]] = {
        "steering-vectors": partial(_by_steering_vectors, loaded),
        "repeng": partial(_by_repeng, loaded),
    }
    ways: dict[str, Way] = {"unsteered": unsteered, "steered": steered}
    for name, applied in peers.items():
        if find_spec(name.replace("-", "_")) is None:
            log.warning("%s is not installed and left out; pip install --no-deps %s", name, name)
        else:
            ways[name] = partial(group_by_group, applied)
    return ways


def _by_steering_vectors(
    loaded: LoadedModel, vector: SteeringVector
) -> AbstractContextManager[Any]:
    from steering_vectors import SteeringVector as Theirs

    theirs = Theirs({vector.layer: vector.target("elicit") @ vector.weight})
    return theirs.apply(loaded.model)


@contextmanager
def _by_repeng(loaded: LoadedModel, vector: SteeringVector) -> Iterator[None]:
    if not hasattr(np, "float_"):  # repeng 0.4 asks for it and NumPy 2 has it no more
        np.float_ = np.float64  # type: ignore[attr-defined]
    from repeng import ControlModel, ControlVector

    direction: Tensor = vector.target("elicit") @ vector.weight
    model = ControlModel(loaded.model, [vector.layer])
    try:
        kind = loaded.model.config.model_type
        model.set_control(ControlVector(kind, {vector.layer: direction.numpy()}))
        yield
    finally:
        model.unwrap()


@torch.no_grad()
def compare_answers(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    vectors: Sequence[SteeringVector],
    *,
    new_tokens: int = 64,
    rounds: int = 5,
) -> pd.DataFrame:
    """One row for each way and choice of vectors; the ways take turns, all of them in each round.

    Returns:
        `way`, `vectors` (one, or eight and none), `per_second` (answers in a second of work)
        and the work of the unsteered way over this one's in the same round: `median`, `low` and
        `high`. Medians over the rounds.
    """
    ways = ways_of(loaded, prompts, new_tokens)
    mixed = [*vectors, None]
    rows: dict[str, list[SteeringVector | None]] = {
        "one": [vectors[0]] * len(prompts),
        "eight and none": [mixed[i % len(mixed)] for i in range(len(prompts))],
    }
    cases = [("unsteered", "none"), *((way, v) for v in rows for way in list(ways)[1:])]
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for round_ in range(rounds):
        # Neither the first nor the last of a round has it better in the next one.
        for case in cases if round_ % 2 == 0 else cases[::-1]:
            way, which = case
            call = partial(ways[way], rows.get(which, rows["one"]))
            seconds[case].append(work_of(call, loaded.device))
            log.info("round %d: %s, %s: %.1f s", round_ + 1, way, which, seconds[case][-1])
    plain = seconds["unsteered", "none"]
    found = []
    for (way, which), taken in seconds.items():
        ratios = [base / own for base, own in zip(plain, taken, strict=True)]
        found.append(
            {
                "way": way,
                "vectors": which,
                "per_second": len(prompts) / statistics.median(taken),
                "median": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "rounds": rounds,
            }
        )
    return pd.DataFrame(found)


def plot_answers(frame: pd.DataFrame, path: Path) -> None:
    """The speed of each way as a share of the unsteered one's, with the range over the rounds."""
    steered = frame[frame["way"] != "unsteered"]
    figure = Figure(figsize=(6.4, 3.2), layout="tight", dpi=130)
    axis = figure.subplots()
    names = list(dict.fromkeys(steered["way"]))
    for offset, (which, rows) in enumerate(steered.groupby("vectors", sort=False)):
        places = [names.index(way) + 0.35 * (offset - 0.5) for way in rows["way"]]
        errors = [rows["median"] - rows["low"], rows["high"] - rows["median"]]
        axis.bar(places, rows["median"], 0.33, yerr=errors, label=f"vectors: {which}", capsize=3)
    axis.axhline(1, color="grey", linewidth=0.8)
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel("speed, unsteered = 1")
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    write_atomically(path, figure_png(figure))
