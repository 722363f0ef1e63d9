"""Steered generation against unsteered, and the release's way without a KV cache; sampling."""

import copy
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.speed.timing import seconds_of
from concept_das.data.batches import Batch, collate, pad_id_of
from concept_das.data.chat_format import Prompt, Turn
from concept_das.exports import to_pyvene
from concept_das.models.loading import LoadedModel
from concept_das.steering.context import steer
from concept_das.steering.generation import Decoding, decoding
from concept_das.steering.vector import SteeringVector


@torch.no_grad()
def generation_cost(
    loaded: LoadedModel,
    vector: SteeringVector,
    prompts: Sequence[Prompt],
    *,
    new_tokens: int = 64,
    repeats: int = 5,
) -> dict[str, float]:
    """Seconds of steered generation over unsteered, and without a cache over steered.

    Without a cache it is plain pyvene, as the release generates. The ways are timed on one batch,
    alternating so that a busy machine slows all alike; `same_tokens` is true if both steered ways
    give the same.
    """
    pad = pad_id_of(loaded.tokenizer)
    batch = collate([Turn(p) for p in prompts], loaded.device, "left", pad)
    how = Decoding(max_new_tokens=new_tokens)
    options = {**decoding(loaded.model, pad, how, ()), "min_new_tokens": new_tokens}
    intervenable = to_pyvene(vector, loaded.model, "elicit")
    mask = _steered_positions(batch, vector.prefix_length)

    def unsteered() -> Tensor:
        return loaded.model.generate(**_inputs(batch), **options)

    def steered() -> Tensor:
        with steer(loaded.model, vector):
            return loaded.model.generate(**_inputs(batch), **options)

    def uncached() -> Tensor:
        _, ids = intervenable.generate(
            _inputs(batch),
            unit_locations=None,
            intervene_on_prompt=True,
            intervention_additional_kwargs={"position_mask": mask},
            use_cache=False,
            **options,
        )
        return ids

    same = torch.equal(steered(), uncached())
    seconds = [
        [seconds_of(way, loaded.device) for way in (unsteered, steered)] for _ in range(repeats)
    ]
    fast, slower = map(statistics.median, zip(*seconds, strict=True))
    slowest = seconds_of(uncached, loaded.device)
    return {"vs_unsteered": slower / fast, "vs_uncached": slowest / slower, "same_tokens": same}


@torch.no_grad()
def sampling_cost(
    loaded: LoadedModel, *, vocabulary: int, rows: int = 8, new_tokens: int = 16, repeats: int = 5
) -> dict[str, float]:
    """Seconds of sampled generation over those of greedy generation, from the whole and from 50.

    Args:
        vocabulary: of the model that is timed, which has the loaded one's shape otherwise, and
            random weights: what it says does not matter.
    """
    config = copy.deepcopy(loaded.model.config)
    config.vocab_size = vocabulary
    model = type(loaded.model)(config).to(loaded.device, loaded.model.dtype).eval()
    ids = torch.randint(3, vocabulary, (rows, 16), device=loaded.device)

    def seconds(temperature: float, top_k: int | None) -> float:
        how = Decoding(max_new_tokens=new_tokens, temperature=temperature, top_k=top_k)
        options = decoding(model, 0, how, range(rows))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return seconds_of(
            lambda: model.generate(**inputs, **options, min_new_tokens=new_tokens), loaded.device
        )

    ways = {"greedy": (0.0, None), "sample": (1.0, None), "sample_top_k": (1.0, 50)}
    taken = {name: [seconds(*way)] for name, way in ways.items()}  # the first is not counted
    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(seconds(*way))
    greedy, *sampled = (statistics.median(found[1:]) for found in taken.values())
    return {
        f"{name}_vs_greedy": found / greedy
        for name, found in zip(list(ways)[1:], sampled, strict=True)
    }


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def _steered_positions(batch: Batch, prefix_length: int) -> Tensor:
    return (batch.position_ids >= prefix_length) & batch.attention_mask.bool()
